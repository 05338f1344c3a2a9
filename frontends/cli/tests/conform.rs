//! `ringworld conform` on a small tree of its own.

mod common;

use common::{output, stderr};
use std::fs;
use std::path::Path;

/// A multiboot guest that prints a text on COM1 and writes `code` to the debug-exit port.
fn guest(text: &str, code: u8) -> Vec<u8> {
    const LOAD: u32 = 0x10_0000;
    // Multiboot 1, 3.1.1: magic, flags (address fields are valid), checksum, header, load, end, BSS end, entry.
    let (magic, flags) = (0x1bad_b002u32, 1u32 << 16);
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [magic, flags, checksum, LOAD, LOAD, 0, 0, LOAD + 32];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    // mov dx, 0x3f8; for each character: mov al, c; out dx, al
    image.extend([0x66, 0xba, 0xf8, 0x03]);
    image.extend(text.bytes().flat_map(|byte| [0xb0, byte, 0xee]));
    // mov al, code; out 0xf4, al
    image.extend([0xb0, code, 0xe6, 0xf4]);
    image
}

fn tree(folder: &Path) {
    fs::create_dir(folder.join("x86")).unwrap();
    fs::write(folder.join("config.mak"), "ARCH=x86_64\nCONFIG_EFI=\n").unwrap();
    let file = |name: &str, data: &[u8]| fs::write(folder.join("x86").join(name), data).unwrap();
    file("good.flat", &guest("PASS: one\nPASS: two\nSKIP: three\n", 0));
    file("bad.flat", &guest("PASS: one\nFAIL: two\n", 1));
    // cli; hlt
    let mut halted = guest("", 0);
    halted.truncate(36);
    halted.extend([0xfa, 0xf4]);
    file("halted.flat", &halted);
    file(
        "unittests.cfg",
        b"[good]\nfile = good.flat\nqemu_params = -cpu qemu64,+x2apic\n[bad]\nfile = bad.flat\n[halted]\n\
          file = halted.flat\n[other]\nfile = good.flat\narch = i386\n",
    );
}

#[test]
fn a_tree_is_run_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (root, json, junit) = (path(""), path("out.json"), path("out.xml"));
    let command = ["conform", "kvm-unit-tests", &root, "--json", &json, "--junit", &junit, "--jobs", "2"];
    let all = output(&command);
    let table = String::from_utf8_lossy(&all.stdout).into_owned();
    assert_eq!(all.status.code(), Some(1), "{table}{}", stderr(&all));
    assert!(
        table.contains("4 tests: 1 CRASH, 1 FAIL, 1 PASS, 1 SKIP; sub-tests: 3 passed, 1 failed"),
        "{table}"
    );
    assert!(table.contains("FAIL: two") && table.contains("i386 only"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let names: Vec<&str> =
        json["tests"].as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(names, ["good", "bad", "halted", "other"]);
    assert_eq!(json["tests"][0]["passed"], 2);
    assert!(
        fs::read_to_string(junit).unwrap().contains("tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\"")
    );

    // With the failures expected, the run succeeds; a filter leaves the others out.
    let expected = path("expected");
    fs::write(&expected, "bad: two\nhalted # for ever\n").unwrap();
    let known = output(&["conform", "kvm-unit-tests", &root, "--expected-failures", &expected]);
    assert_eq!(known.status.code(), Some(0), "{}", String::from_utf8_lossy(&known.stdout));
    let one = output(&["conform", "kvm-unit-tests", &root, "--filter", "g*d"]);
    assert_eq!(one.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&one.stdout).contains("1 tests: 1 PASS"));
}

#[test]
fn what_is_no_tree_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let line = |wanted: &str| {
        let output = output(&["conform", "kvm-unit-tests", root, "--filter", "nothing"]);
        let text = stderr(&output);
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.contains(wanted), "{text}");
    };
    line("no built tree");
    fs::write(folder.path().join("config.mak"), "ARCH=arm64\n").unwrap();
    line("arm64");
    fs::remove_file(folder.path().join("config.mak")).unwrap();
    tree(folder.path());
    line("no test");
    fs::write(folder.path().join("x86/unittests.cfg"), "[a]\nfile\n").unwrap();
    line("line 2");
}
