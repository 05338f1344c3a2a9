//! `ringworld checks`.

use crate::exit;
use ringworld_x86::svm::checks::CHECKS;
use ringworld_x86::vmx::entry_checks::{self, Failure};

/// Lists every check of VM entry and of VMRUN: the names that `why-failed` tells.
pub fn list() -> anyhow::Result<i32> {
    let vmx = entry_checks::all().map(|check| {
        let failure = match check.failure {
            Failure::Instruction(error) => format!("VM-instruction error {error}"),
            Failure::GuestState(qualification) => format!("exit reason 33, qualification {qualification}"),
        };
        (check.section, failure, check.name, check.text)
    });
    print("VM entry (SDM 3C)", vmx);
    let svm = CHECKS.iter().map(|check| (check.section, "VMEXIT_INVALID".to_owned(), check.name, check.text));
    print("VMRUN (APM 2)", svm);
    Ok(exit::SUCCESS)
}

/// The checks under a heading for each section, and how many there are.
fn print<'a>(title: &str, checks: impl Iterator<Item = (&'a str, String, &'a str, &'a str)>) {
    let (mut last, mut count) = (None, 0);
    for (section, failure, name, text) in checks {
        if last != Some(section) {
            println!("{title}, {section}: {failure}");
            last = Some(section);
        }
        println!("  {name:<44} {text}");
        count += 1;
    }
    println!("{title}: {count} checks\n");
}
