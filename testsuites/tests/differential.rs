//! The quick run of the differential test: every implemented form, a few cases each.

use std::process::Command;

#[test]
fn every_form_agrees_with_silicon() {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        println!("skipped: there is no x86-64 Linux silicon to ask");
        return;
    }
    let run = Command::new(env!("CARGO_BIN_EXE_ringworld-diff"))
        .args(["run", "--cases", "100", "--seed", "1"])
        .output()
        .expect("ringworld-diff starts");
    println!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "forms differ from silicon; see the lines above");
}

#[test]
fn sequences_agree_with_silicon() {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        println!("skipped: there is no x86-64 Linux silicon to ask");
        return;
    }
    let run = Command::new(env!("CARGO_BIN_EXE_ringworld-diff"))
        .args(["sequences", "--count", "3000", "--seed", "1"])
        .output()
        .expect("ringworld-diff starts");
    println!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "sequences differ from silicon; see the lines above");
}

/// What the translator emits, against the interpreter (the whole state) and silicon.
#[test]
fn translated_forms_and_sequences_agree() {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        println!("skipped: there is no x86-64 Linux silicon to ask");
        return;
    }
    if !ringworld_jit_x86::host_can_translate() {
        println!("skipped: this host cannot run translated code");
        return;
    }
    for arguments in [
        ["run", "--engine", "jit", "--cases", "30", "--seed", "1"],
        ["sequences", "--engine", "jit", "--count", "2000", "--seed", "1"],
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_ringworld-diff"))
            .args(arguments)
            .output()
            .expect("ringworld-diff starts");
        println!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "translated code differs; see the lines above");
    }
}
