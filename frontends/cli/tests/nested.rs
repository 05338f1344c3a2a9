//! Systems inside of each other, on both vendors' extensions and with KVM's parameters: the innermost one reaches its user
//! space, all switch off, and no kernel complains. The whole matrix takes minutes:
//! `cargo test --release -p ringworld --test nested -- --ignored --nocapture` runs all, and prints what each takes.

mod common;

use common::{ringworld, stderr};
use std::process::Output;
use std::time::Instant;

/// Options of `boot nested`, KVM's parameters, what KVM has to say about them, and how many guests say that they run.
struct Row {
    options: &'static str,
    parameters: &'static str,
    says: &'static [&'static str],
    guests: usize,
}

const fn row(options: &'static str, parameters: &'static str, says: &'static [&'static str]) -> Row {
    Row { options, parameters, says, guests: 1 }
}

const ROWS: &[Row] = &[
    row("--vendor intel", "", &["ept=Y", "vpid=Y", "enable_apicv=Y", "unrestricted_guest=Y"]),
    row("--vendor intel --ept off", "", &["ept=N"]),
    row("--vendor intel", "enable_apicv=0", &["enable_apicv=N"]),
    row("--vendor intel", "unrestricted_guest=0", &["unrestricted_guest=N"]),
    row("--vendor intel", "vpid=0", &["vpid=N"]),
    row("--vendor intel", "nested=1", &["nested=Y"]),
    row("--vendor intel --cpu Nehalem", "", &["ept=Y"]),
    row("--vendor intel --cpu Haswell", "", &["ept=Y"]),
    row("--vendor intel --cpu Skylake-Server", "", &["ept=Y"]),
    row("--vendor intel --depth 3", "", &["nested=Y"]),
    row("--vendor amd", "", &["npt=Y"]),
    row("--vendor amd", "avic=1", &["npt=Y", "avic=Y"]),
    row("--vendor amd --ept off", "avic=0", &["npt=N", "avic=N"]),
    row("--vendor amd --ept off", "avic=1", &["npt=N"]),
    row("--vendor amd --depth 3", "", &["nested=1"]),
    Row {
        options: "--vendor intel --cpus 4 --guests 2 --guest-cpus 2",
        parameters: "",
        says: &["guest 2: RINGWORLD-USERSPACE", "smp: Brought up 1 node, 2 CPUs"],
        guests: 2,
    },
    Row {
        options: "--vendor amd --cpus 4 --guests 2 --guest-cpus 2",
        parameters: "",
        says: &["guest 2: RINGWORLD-USERSPACE", "smp: Brought up 1 node, 2 CPUs"],
        guests: 2,
    },
];

/// What a kernel says when something is wrong.
const COMPLAINTS: [&str; 5] = ["WARNING: CPU:", "BUG:", "Oops", "Kernel panic", "complaint:"];

fn boot(row: &Row) -> Output {
    let mut command = ringworld(&["boot", "nested", "--timeout", "1200"]);
    command.args(row.options.split(' ')).arg(format!("--kvm={}", row.parameters));
    command.output().unwrap()
}

/// What is wrong with a run, if anything is.
fn problem(row: &Row, output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = text.lines().find(|line| COMPLAINTS.iter().any(|word| line.contains(word)));
    let missing = row.says.iter().find(|words| !text.contains(**words));
    let running = text.matches("RINGWORLD-USERSPACE").count();
    if output.status.code() != Some(0) {
        Some(format!("{}: {}", output.status, stderr(output)))
    } else if let Some(line) = complaint {
        Some(line.into())
    } else if let Some(words) = missing {
        Some(format!("nothing says {words:?}"))
    } else if running != row.guests {
        Some(format!("{running} guests reached user space"))
    } else {
        (!text.contains("QEMU ended with code 0")).then(|| "QEMU failed".into())
    }
}

#[test]
#[ignore = "takes minutes"]
fn kvm_with_all_parameters() {
    let mut failed = Vec::new();
    for row in ROWS {
        let begin = Instant::now();
        let problem = problem(row, &boot(row));
        let name = format!("{} {}", row.options, row.parameters);
        println!(
            "{name:<60} {:>7.1} s  {}",
            begin.elapsed().as_secs_f64(),
            problem.as_deref().unwrap_or("ok")
        );
        failed.extend(problem.map(|problem| format!("{name}: {problem}")));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
