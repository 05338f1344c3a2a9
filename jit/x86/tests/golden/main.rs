//! Golden emission: what is emitted for a few hundred guest instructions and idioms is kept as text, one file a family, so
//! that a change of the emitter shows as a diff. `RINGWORLD_BLESS=1 cargo test -p ringworld-jit-x86 --test golden`
//! writes the files anew.
//!
//! Left out is what every block has: the check of its budget, the jump to the next block, the ways out for stale blocks and
//! exhausted budgets. Ways out are told by name.

mod families;
mod listing;

use families::FAMILIES;
use listing::Lister;
use std::fmt::Write;
use std::path::PathBuf;

#[test]
fn emitted_code_is_as_it_was() {
    if !ringworld_jit_x86::host_can_translate() {
        println!("skipped: this host cannot run translated code");
        return;
    }
    let bless = std::env::var_os("RINGWORLD_BLESS").is_some();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/expected");
    let lister = Lister::new();
    let mut wrong = Vec::new();
    let (mut blocks, mut host, mut guest) = (0, 0, 0);
    for family in FAMILIES {
        if !(family.host_has)() {
            println!("{} skipped: the host lacks it", family.name);
            continue;
        }
        let mut text = String::new();
        for sample in families::samples(family) {
            let listing = lister.list(&sample, family.bits);
            blocks += 1;
            host += listing.instructions;
            guest += listing.guest;
            let _ = writeln!(text, "{} | {} -> {}", listing.title, listing.guest, listing.instructions);
            for line in listing.lines {
                let _ = writeln!(text, "    {line}");
            }
        }
        let path = folder.join(family.name).with_extension("txt");
        if bless {
            std::fs::create_dir_all(&folder).expect("a folder for the files");
            std::fs::write(&path, &text).expect("a file to write");
            continue;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if let Some((n, (was, is))) =
            expected.lines().zip(text.lines()).enumerate().find(|(_, (was, is))| was != is)
        {
            wrong.push(format!("{}, line {}: was `{was}`, is `{is}`", family.name, n + 1));
        } else if expected.lines().count() != text.lines().count() {
            wrong.push(format!(
                "{}: {} lines, now {}",
                family.name,
                expected.lines().count(),
                text.lines().count()
            ));
        }
    }
    println!("{blocks} samples: {guest} guest instructions, {host} host instructions on the straight path");
    assert!(blocks > 300, "{blocks} samples");
    assert!(wrong.is_empty(), "emitted code changed (RINGWORLD_BLESS=1 accepts it):\n{}", wrong.join("\n"));
}
