//! `ringworld checks`.

use crate::exit;
use ringworld_x86::svm::{checks::CHECKS, rules as svm_rules};
use ringworld_x86::vmx::entry_checks::rules::{self, Rule, Status};
use ringworld_x86::vmx::entry_checks::{self, Failure};

/// Lists every check of VM entry and of VMRUN, the names that `why-failed` tells; then the manuals' rules, and which of them
/// are checked.
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
    print_rules("VM entry (SDM 3C)", rules::RULES);
    print_rules("VMRUN (APM 2)", svm_rules::RULES);
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

/// The manual's rules under a heading for each section, with what becomes of them, and how many are checked.
fn print_rules(title: &str, rules: &[Rule]) {
    let checked = |rule: &&Rule| matches!(rule.status, Status::Checks(_) | Status::Code(_));
    for section in rules.chunk_by(|a, b| a.section == b.section) {
        let count = section.iter().filter(checked).count();
        println!("{title}, {}: {count} of {} rules", section[0].section, section.len());
        for rule in section {
            let status = match rule.status {
                Status::Checks(names) => names.join(", "),
                Status::Code(what) => what.into(),
                Status::NotShown(what) => format!("not checked: {what} not shown"),
                Status::Optional(why) => format!("not checked: {why}"),
            };
            println!("  {:<70} {status}", rule.text);
        }
    }
    let total = rules.iter().filter(checked).count();
    println!("{title}: {total} of the manual's {} rules are checked\n", rules.len());
}
