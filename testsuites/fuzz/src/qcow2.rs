//! Damaged qcow2 images: opening, reading and writing them gives data or errors, never a panic or a hang.

use crate::random::Random;
use ringworld_devices::storage::open_disk;
use ringworld_machine::{DiskOptions, ImageFormat};
use std::cell::RefCell;

const CLUSTER: usize = 1 << 16;

/// A sound image of 1 MiB: header, refcount table and block, L1 and L2 table, two data clusters.
fn image() -> Vec<u8> {
    let mut image = vec![0u8; CLUSTER * 7];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &16u32.to_be_bytes());
    put(24, &(1u64 << 20).to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &(3 * CLUSTER as u64).to_be_bytes());
    put(48, &(CLUSTER as u64).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..7 {
        put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes());
    }
    put(3 * CLUSTER, &(4 * CLUSTER as u64 | 1 << 63).to_be_bytes());
    put(4 * CLUSTER, &(5 * CLUSTER as u64 | 1 << 63).to_be_bytes());
    put(4 * CLUSTER + 8, &(6 * CLUSTER as u64 | 1 << 63).to_be_bytes());
    image
}

thread_local! {
    static FILE: RefCell<Option<tempfile::NamedTempFile>> = const { RefCell::new(None) };
}

pub fn run(random: &mut Random) -> &'static str {
    let mut image = image();
    for _ in 0..random.below(6) {
        let at = match random.below(6) {
            0..=2 => random.below(112),
            3 => CLUSTER * (1 + random.below(2)) + random.below(16),
            4 => CLUSTER * (3 + random.below(2)) + random.below(16),
            _ => random.below(image.len()),
        };
        image[at] = random.edgy() as u8;
    }
    if random.one_in(8) {
        image.truncate(random.below(image.len()));
    }
    FILE.with_borrow_mut(|file| {
        let file = file.get_or_insert_with(|| tempfile::NamedTempFile::new().expect("a temporary file"));
        std::fs::write(file.path(), &image).expect("room for the image");
        let options = DiskOptions { format: Some(ImageFormat::Qcow2), ..DiskOptions::new(file.path()) };
        let Ok(mut disk) = open_disk(&options) else { return "refused" };
        let size = disk.size();
        let mut failed = false;
        for _ in 0..8 {
            let mut data = vec![0x77; random.pick(&[512usize, 4096, 1 << 17])];
            let offset = (random.edgy() % size.max(1)) & !511;
            if offset + data.len() as u64 > size {
                continue;
            }
            failed |= match random.below(5) {
                0 | 1 => disk.read(offset, &mut data),
                2 => disk.write(offset, &data),
                3 => disk.write_zeroes(offset, data.len() as u64),
                _ => disk.discard(offset, data.len() as u64),
            }
            .is_err();
        }
        failed |= disk.flush().is_err();
        if failed { "failed requests" } else { "served" }
    })
}
