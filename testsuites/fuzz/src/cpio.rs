//! Archives of random entries, read back by the format's definition.

use crate::random::Random;
use ringworld_firmware::{Archive, CpioError};
use std::collections::BTreeMap;

/// An entry as it must come back: mode, data, device.
type Entry = (u32, Vec<u8>, (u32, u32));
type Entries = BTreeMap<String, Entry>;

pub fn run(random: &mut Random) -> &'static str {
    let mut archive = Archive::new();
    let mut expected = Entries::new();
    let mut refused = false;
    for _ in 0..random.below(40) {
        let path = if random.one_in(10) {
            let length = random.pick(&[0, 5, 4095, 4096, 5000]);
            random.text(length)
        } else {
            (0..1 + random.below(4))
                .map(|_| random.pick(&["a", "b", "bin", "x"]))
                .collect::<Vec<_>>()
                .join("/")
        };
        let length = random.below(300);
        let (mode, data) = (random.next() as u32, random.bytes(length));
        let device = (random.next() as u32, random.next() as u32);
        let (result, entry) = match random.below(4) {
            0 => (archive.directory(&path, mode), (0o040_000 | mode & 0o7777, vec![], (0, 0))),
            1 => (archive.file(&path, mode, data.clone()), (0o100_000 | mode & 0o7777, data, (0, 0))),
            2 => {
                let target = random.text(length);
                (archive.symlink(&path, &target), (0o120_777, target.into_bytes(), (0, 0)))
            }
            _ => {
                let result = archive.character_device(&path, mode, device.0, device.1);
                (result, (0o020_000 | mode & 0o7777, vec![], device))
            }
        };
        match result.map(|_| ()) {
            Ok(()) => {
                let path = path.strip_prefix('/').unwrap_or(&path).to_string();
                for (index, _) in path.match_indices('/') {
                    expected.entry(path[..index].into()).or_insert((0o040_755, vec![], (0, 0)));
                }
                expected.insert(path, entry);
            }
            Err(CpioError::BadPath(_) | CpioError::NotADirectory(_)) => {
                refused = true;
            }
            Err(CpioError::TooLarge(_)) => panic!("nothing is large"),
        }
    }
    let bytes = archive.finish();
    assert_eq!(bytes, archive.finish(), "the same entries give other bytes");
    let read = read(&bytes);
    for (path, entry) in &expected {
        assert_eq!(read.get(path), Some(entry), "{path:?}");
    }
    // Every parent comes before its child, as Linux creates them in order.
    let mut seen = Vec::new();
    for path in names(&bytes) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            assert!(seen.iter().any(|name| name == parent), "{path:?} comes before its folder");
        }
        seen.push(path);
    }
    if refused { "some refused" } else { "all taken" }
}

/// The entries of a newc archive in their order.
fn entries(mut bytes: &[u8]) -> Vec<(String, Entry)> {
    let mut found = Vec::new();
    let whole = bytes.len();
    loop {
        assert_eq!(&bytes[..6], b"070701");
        let field = |index: usize| {
            let text = core::str::from_utf8(&bytes[6 + index * 8..][..8]).expect("hexadecimal digits");
            u32::from_str_radix(text, 16).expect("hexadecimal digits")
        };
        let (mode, size, device, name_size) =
            (field(1), field(6) as usize, (field(9), field(10)), field(11) as usize);
        let name = &bytes[110..110 + name_size];
        assert_eq!(name.last(), Some(&0));
        let name = String::from_utf8(name[..name_size - 1].to_vec()).expect("a name from a string");
        let data_at = (110 + name_size).next_multiple_of(4);
        let data = bytes[data_at..data_at + size].to_vec();
        if name == "TRAILER!!!" {
            assert!(whole.is_multiple_of(512) && bytes[data_at..].iter().all(|byte| *byte == 0));
            return found;
        }
        found.push((name, (mode, data, device)));
        bytes = &bytes[(data_at + size).next_multiple_of(4)..];
    }
}

fn read(bytes: &[u8]) -> Entries {
    entries(bytes).into_iter().collect()
}

fn names(bytes: &[u8]) -> Vec<String> {
    entries(bytes).into_iter().map(|entry| entry.0).collect()
}
