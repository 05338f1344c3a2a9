//! Runs of small guests in machine code: console, exit codes, limits, counters, traces, recordings, the monitor.

mod common;

use common::{echo, exit_with, print, ringworld, run, stderr};
use std::io::{Read, Write};
use std::process::{Output, Stdio};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn the_console_is_standard_output_and_the_guest_chooses_the_exit_code() {
    let output = run(&[print("hello\n"), exit_with(5)].concat(), &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
    assert_eq!((code(&output), &*stderr(&output)), (11, ""));
}

#[test]
fn every_end_has_its_exit_code() {
    // mov dx, 0x604 (PM1a control); mov ax, SLP_EN | S5; out dx, ax
    let port = ringworld_devices::PM1A_CONTROL.to_le_bytes();
    let value = (1u16 << 13 | u16::from(ringworld_devices::SLP_TYP_S5) << 10).to_le_bytes();
    let power_off = [0xba, port[0], port[1], 0xb8, value[0], value[1], 0xef];
    assert_eq!(code(&run(&power_off, &[])), 0);
    // An IDT of no size; int3.
    let triple_fault = [0x0f, 0x01, 0x1e, 0x00, 0x05, 0xcc];
    let output = run(&triple_fault, &[]);
    assert_eq!(code(&output), 70);
    assert!(stderr(&output).contains("triple fault on CPU 0"), "{}", stderr(&output));
    // As a PC: the guest runs again and again.
    let again = run(
        &[&print("x")[..], &triple_fault].concat(),
        &["--on-triple-fault", "reset", "--max-instructions", "100k"],
    );
    assert_eq!(code(&again), 72);
    assert!(again.stdout.len() > 100, "{} resets", again.stdout.len());
    // mov dx, 0x505; mov al, 1; out dx, al
    assert_eq!(code(&run(&[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee], &[])), 71);
    let forever = [0xeb, 0xfe];
    assert_eq!(code(&run(&forever, &["--max-instructions", "100k"])), 72);
    assert_eq!(code(&run(&forever, &["--timeout", "0.2"])), 73);
    // cli; hlt
    assert_eq!(code(&run(&[0xfa, 0xf4], &[])), 74);
    // mov al, 0x34; out 0x43, al; mov al, 2; out 0x40, al; mov al, 0; out 0x40, al: the timer goes on, and nobody hears it
    let timer = [0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x02, 0xe6, 0x40, 0xb0, 0x00, 0xe6, 0x40, 0xfa, 0xf4];
    assert_eq!(code(&run(&timer, &[])), 74);
    // mov dx, 0x604; mov ax, SLP_EN | S3; out dx, ax: nobody is there to wake it
    let sleep = [0xba, port[0], port[1], 0xb8, 0x00, 0x24, 0xef];
    let output = run(&sleep, &[]);
    assert_eq!(code(&output), 76);
    assert!(stderr(&output).contains("nothing can wake it"), "{}", stderr(&output));
    // mov al, 1; out 0x92, al: fast reset
    assert_eq!(code(&run(&[0xb0, 0x01, 0xe6, 0x92, 0xeb, 0xfe], &["--no-reboot", "--timeout", "20"])), 75);
}

#[test]
fn boot_modules_have_arguments() {
    // A multiboot kernel that prints its second module's string, the name and what came with it.
    let at = 0x10_0000u32;
    let header = [0x1bad_b002, 0x1_0000, 0u32.wrapping_sub(0x1bae_b002), at, at, 0, 0, at + 32];
    let program = [
        0x8b, 0x73, 0x18, // mov esi, [ebx + mods_addr]
        0x8b, 0x76, 0x18, // mov esi, [esi + 16 + string]
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xac, // again: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz done
        0xee, // out dx, al
        0xeb, 0xf8, // jmp again
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, data: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, data).unwrap();
        path.to_str().unwrap().to_string()
    };
    let header: Vec<u8> = header.iter().flat_map(|field| field.to_le_bytes()).collect();
    let kernel = file("kernel", &[&header, &program[..], &exit_with(0)].concat());
    let (first, second) = (file("first file", b"1"), file("second", b"2"));
    let output =
        ringworld(&["run", "--kernel", &kernel, "--initrd", &first, "--initrd", &format!("{second} a=1 b")])
            .output();
    let output = output.unwrap();
    assert_eq!(
        (code(&output), &*String::from_utf8_lossy(&output.stdout)),
        (1, "second a=1 b"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_reset_starts_the_guest_again() {
    // Counts in CMOS memory, which outlives a reset: resets through port 0xcf9 until the third start.
    let count = [
        0xb0, 0x50, 0xe6, 0x70, 0xe4, 0x71, // read CMOS byte 0x50
        0x40, 0x88, 0xc3, // inc ax; mov bl, al
        0xb0, 0x50, 0xe6, 0x70, 0x88, 0xd8, 0xe6, 0x71, // write it back
        0x80, 0xfb, 0x03, // cmp bl, 3
        0x74, 0x08, // je done
        0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, // mov dx, 0xcf9; mov al, 6; out dx, al
        0xeb, 0xfe, // (not reached)
    ];
    let output =
        run(&[&count[..], &exit_with(3)].concat(), &["--max-instructions", "10000", "--stats", "text"]);
    assert_eq!(code(&output), 7, "{}", stderr(&output));
    let resets = stderr(&output).lines().find(|line| line.starts_with("resets")).map(String::from);
    assert!(resets.as_ref().is_some_and(|line| line.ends_with(" 2")), "{resets:?}");
}

#[test]
fn the_monitor_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    // The last write to 0x500 is `mov [0x500], 2` at 7c06.
    let commands = "goto 4\nwatch 500 2\nwatch\nreverse-continue\nreverse-continue\nreverse-continue\ngoto 3\n\
                    reverse-step 2\ninfo history\nx/1hx 500\ngoto 99k\nquit\n";
    std::fs::write(&script, commands).unwrap();
    let guest = [
        &[0xc7, 0x06, 0x00, 0x05, 0x01, 0x00][..], // mov word [0x500], 1
        &[0xc7, 0x06, 0x00, 0x05, 0x02, 0x00],     // mov word [0x500], 2
        &print("x"),
        &exit_with(0),
    ]
    .concat();
    let script = script.to_str().unwrap();
    let output = run(&guest, &["--monitor-script", script, "--reverse"]);
    let text = stderr(&output);
    for expected in [
        "0x500 2 w\n",
        "write to the watchpoint at 0x500 on CPU 0, at instruction 1\n0000000000007c06:",
        "write to the watchpoint at 0x500 on CPU 0, at instruction 0\n0000000000007c00:",
        "the history begins here, at instruction 0\n",
        "at instruction 2\n0000000000007c0c:",
        "instructions 0 to 4, now 1; 1 snapshots",
        "0000000000000500: 0x0001",
    ] {
        assert!(text.contains(expected), "no {expected:?} in:\n{text}");
    }
    let without = stderr(&run(&guest, &["--monitor-script", script]));
    assert!(without.contains("start with --reverse"), "{without}");
}

/// A run's counters as JSON.
fn stats(code: &[u8], options: &[&str]) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stats.json");
    let target = format!("json:{}", file.display());
    run(code, &[&["--stats", &target], options].concat());
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn counters_count_and_runs_repeat() {
    // int3 through the real-mode vector table: IVT entry 3 points at `done` (0000:7c10).
    let guest = [
        &[0xc7, 0x06, 0x0c, 0x00, 0x10, 0x7c, 0xc7, 0x06, 0x0e, 0x00, 0x00, 0x00, 0xcc, 0x90, 0x90, 0x90][..],
        &print("x"),
        &exit_with(0),
    ]
    .concat();
    let first = stats(&guest, &[]);
    // Two moves, int3, mov dx, mov al, out, mov al, out.
    assert_eq!(first["instructions"], 8);
    assert_eq!(first["stop"]["GuestExit"], 1);
    let com1 = first["ports"].as_array().unwrap().iter().find(|port| port["name"] == "com1").unwrap();
    assert_eq!((&com1["writes"], &com1["base"]), (&1.into(), &0x3f8.into()));
    assert_eq!(first["state_hash"], stats(&guest, &[])["state_hash"]);
    assert_ne!(first["state_hash"], stats(&guest, &["--rtc", "5"])["state_hash"]);
    let two = stats(&guest, &["--smp", "2"]);
    assert_eq!(two["cpus"].as_array().unwrap().len(), 2);
    assert_eq!((&two["instructions"], &two["cpus"][1]["instructions"]), (&8.into(), &0.into()));
}

#[test]
fn traces_show_what_was_asked_for() {
    let guest = [print("ab"), exit_with(0)].concat();
    let trace = |spec: &str| stderr(&run(&guest, &["--trace", spec]));
    let all = trace("all");
    assert_eq!(all.lines().filter(|line| line.starts_with("insn ")).count(), 7, "{all}");
    assert!(all.contains("mov dx, 0x3f8") && all.contains("ee ") && all.contains("rip=0x7c00"), "{all}");
    assert_eq!(all.lines().filter(|line| line.starts_with("io ")).count(), 3, "{all}");
    let some = trace("insn,addr=7c03..7c05");
    assert_eq!(some.lines().count(), 1, "{some}");
    let window = trace("insn,count=1..3");
    assert_eq!(window.lines().count(), 2, "{window}");
    assert!(!window.contains("mov dx"), "{window}");
    let ports = trace("io,addr=f4..f5");
    assert_eq!(ports.lines().count(), 1, "{ports}");
}

/// Whichever way the run ends, the file's last line is whole and the last instruction's.
#[test]
fn a_trace_file_has_its_last_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    let traced = |code: &[u8], options: &[&str], exit: i32| {
        let start = ["--trace", "insn", "--trace-file", file.to_str().unwrap()];
        let output = run(code, &[&start, options].concat());
        assert_eq!(self::code(&output), exit, "{}", stderr(&output));
        std::fs::read_to_string(&file).unwrap()
    };
    let end = |trace: &str, wanted: &str| {
        assert!(
            trace.ends_with('\n') && trace.lines().last().unwrap_or_default().contains(wanted),
            "{trace}"
        );
    };
    end(&traced(&exit_with(2), &[], 5), "out 0xf4, al");
    let forever = [0xeb, 0xfe];
    end(&traced(&forever, &["--max-instructions", "1000"], 72), "jmp 0x7c00");
    end(&traced(&forever, &["--timeout", "0.2"], 73), "jmp 0x7c00");
    // A failure after the run.
    end(&traced(&exit_with(2), &["--screendump", "/nonexistent/file"], 1), "out 0xf4, al");
    // A signal.
    let kernel = common::guest(folder.path(), &[&print("x")[..], &forever].concat());
    let start = ["run", "--kernel", kernel.to_str().unwrap(), "--loader", "raw@0:0x7c00", "-m", "16M"];
    let trace = ["--trace", "insn,count=..8", "--trace-file", file.to_str().unwrap()];
    let mut child = ringworld(&[&start[..], &trace].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let killed = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    end(&std::fs::read_to_string(&file).unwrap(), "jmp 0x7c06");
}

#[test]
fn a_pipe_is_the_guests_input_and_a_recording_replays() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = common::guest(folder.path(), &echo());
    let log = folder.path().join("log");
    let start = ["run", "--kernel", kernel.to_str().unwrap(), "--loader", "raw@0:0x7c00", "-m", "16M"];
    let log = log.to_str().unwrap();
    let mut child = ringworld(&[&start[..], &["--record", log]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"abcq").unwrap();
    let recorded = child.wait_with_output().unwrap();
    assert_eq!((code(&recorded), &recorded.stdout[..]), (3, &b"abcq"[..]), "{}", stderr(&recorded));
    let replayed = ringworld(&[&start[..], &["--replay", log]].concat()).output().unwrap();
    assert_eq!((code(&replayed), &replayed.stdout[..]), (3, &b"abcq"[..]), "{}", stderr(&replayed));
    assert!(stderr(&replayed).contains("replay's end is the recorded one"), "{}", stderr(&replayed));
    let other = ringworld(&[&start[..], &["--replay", log, "--smp", "2"]].concat()).output().unwrap();
    assert_eq!(code(&other), 1);
    assert!(stderr(&other).contains("number of CPUs was 1"), "{}", stderr(&other));
}

/// Intel 82Q35 data sheet (317607), 5.1.16: PAM0, read enable in bit 4, write enable in bit 5.
#[test]
fn shadow_ram_follows_its_registers() {
    let write = |value| [0xc6, 0x06, 0x10, 0x00, value]; // mov byte [0x10], value
    let show = [0xa0, 0x10, 0x00, 0xba, 0xf8, 0x03, 0xee]; // mov al, [0x10]; mov dx, 0x3f8; out dx, al
    let pam = |value| [0xba, 0xfc, 0x0c, 0xb0, value, 0xee]; // mov dx, 0xcfc; mov al, value; out dx, al
    let start = [
        0xb8, 0x00, 0xf0, 0x8e, 0xd8, // mov ax, 0xf000; mov ds, ax
        0x66, 0xb8, 0x90, 0x00, 0x00, 0x80, 0xba, 0xf8, 0x0c, 0x66, 0xef, // out 0xcf8, 0x80000090
    ];
    let code = [
        &start[..],
        &[&pam(0x30)[..], &write(0x11), &show].concat(),
        &[&pam(0x10)[..], &write(0x22), &show].concat(),
        &[&pam(0x20)[..], &write(0x33), &show].concat(),
        &[&pam(0x00)[..], &write(0x44), &show].concat(),
        &[&pam(0x30)[..], &show].concat(),
        &exit_with(0),
    ];
    // Of a machine without firmware nothing answers where RAM does not.
    for engine in ["interp", "jit"] {
        let output = run(&code.concat(), &["--engine", engine]);
        assert_eq!(
            (self::code(&output), &output.stdout[..]),
            (1, &[0x11, 0x11, 0xff, 0xff, 0x33][..]),
            "{engine}"
        );
    }
}

#[test]
fn the_monitor_looks_inside() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    let commands = "break 7c05\ncontinue\ninfo registers\nx/4bx 7c00\nx/2i $rip\nxp/1hx 7c00\nwalk 7c00\nstep\n\
                    info cpus\ninfo pic\ninfo ioapic\ninfo lapic\ninfo mem\ninfo tlb\ninfo stats\nhash\nnonsense\nquit\n";
    std::fs::write(&script, commands).unwrap();
    let output = run(&[print("x"), exit_with(0)].concat(), &["--monitor-script", script.to_str().unwrap()]);
    let text = stderr(&output);
    assert_eq!((code(&output), output.stdout.len()), (0, 1), "{text}");
    for expected in [
        "breakpoint at 0x7c05 on CPU 0",
        "rip 0000000000007c05",
        "0000000000007c00: 0xba 0xf8 0x03 0xb0",
        "out dx, al",
        "0000000000007c00: 0xf8ba",
        "paging is off: 0x7c00 is physical",
        "0000000000007c06:",
        "CPU 0 Active: 16-bit code",
        "master IRR",
        "pin  0: vector",
        "XApic at 0xfee00000, ID 0x0",
        "Ram 640 KiB",
        "instructions                                3",
        "nonsense: no such command",
    ] {
        assert!(text.contains(expected), "no {expected:?} in:\n{text}");
    }
}

#[test]
fn a_closed_standard_error_ends_no_guest() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = common::guest(folder.path(), &exit_with(3));
    let arguments =
        ["run", "--kernel", kernel.to_str().unwrap(), "--loader", "raw@0:0x7c00", "--stats", "text"];
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = common::ringworld(&arguments).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(7), "the guest's own exit code");
}
