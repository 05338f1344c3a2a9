//! The command line of the `ringworld` command itself.

use crate::random::Random;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const WORDS: &[&str] = &[
    "run",
    "boot",
    "guests",
    "cpus",
    "conform",
    "kvm-unit-tests",
    "fetch",
    "debian",
    "--kernel",
    "--initrd",
    "--append",
    "--cpu",
    "max,-avx",
    "--smp",
    "-smp",
    "-m",
    "512",
    "64G",
    "--time",
    "real",
    "--rtc",
    "now",
    "--max-instructions",
    "5G",
    "--timeout",
    "0.5",
    "--record",
    "f",
    "--replay",
    "--trace",
    "insn,io,addr=1..2,count=1M..",
    "--stats",
    "json:f",
    "--snapshot-at",
    "5:f",
    "--restore",
    "--reverse",
    "--gdb",
    "0.0.0.0:1",
    "--gdb-wait",
    "--control",
    "unix:/s",
    "--loader",
    "raw@0:0x7c00",
    "--drive",
    "file=a,if=virtio,snapshot=on",
    "--net",
    "user,hostfwd=tcp::80-:80",
    "--filter",
    "a*,b",
    "--jobs",
    "3",
    "--",
    "-",
    "",
    "--help",
    "--version",
];

pub fn run(random: &mut Random) -> &'static str {
    let mut arguments = vec![OsString::from("ringworld")];
    for _ in 0..random.below(9) {
        let mut word = if random.one_in(6) {
            let length = random.below(40);
            random.text(length).into_bytes()
        } else {
            random.pick(WORDS).as_bytes().to_vec()
        };
        if random.one_in(5) {
            random.damage(&mut word, 64);
        }
        arguments.push(OsString::from_vec(word));
    }
    match ringworld::parse_command(arguments.into_iter()) {
        Ok(()) => "understood",
        Err(line) => {
            assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
            "refused"
        }
    }
}
