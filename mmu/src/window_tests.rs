use super::*;
use crate::memory::{MemoryRegion, RegionKind};
use crate::tlb::{TlbEntry, TlbKind};
use ringworld_core::GuestVirt;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

const LINEAR: u64 = 0x5555_5555_4000;
const CHUNK: u64 = LINEAR >> CHUNK_SHIFT;
const PHYSICAL: u64 = 0x3000;

fn memory() -> GuestMemory {
    let region = MemoryRegion { base: GuestPhys(0), size: 1 << 20, kind: RegionKind::Ram };
    GuestMemory::new(&[region]).expect("memory")
}

fn entry(memory: &GuestMemory, physical: u64, write: bool) -> TlbEntry {
    let host = memory.page(GuestPhys(physical)).expect("in memory").ptr as usize;
    TlbEntry { read: true, write, host, physical_page: physical, page_shift: 12, ..TlbEntry::default() }
}

/// Asks the kernel, which raises no signal.
struct Access(PipeReader, PipeWriter);

impl Access {
    fn new() -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        Self(reader, writer)
    }

    fn read(&mut self, at: usize) -> Option<u8> {
        // SAFETY: the kernel reads a byte, or says that it cannot.
        let done = unsafe { libc::write(self.1.as_raw_fd(), ptr::with_exposed_provenance(at), 1) };
        let mut byte = [0];
        (done == 1).then(|| self.0.read_exact(&mut byte).expect("what was written")).map(|()| byte[0])
    }

    fn write(&mut self, at: usize, byte: u8) -> bool {
        self.1.write_all(&[byte]).expect("there is room");
        // SAFETY: the kernel writes a byte to a window, or says that it cannot.
        let done = unsafe { libc::read(self.0.as_raw_fd(), ptr::with_exposed_provenance_mut(at), 1) };
        if done != 1 {
            self.0.read_exact(&mut [0]).expect("what was written");
        }
        done == 1
    }
}

fn opened(tlb: &mut Tlb<u32>) -> usize {
    let one = tlb.context(&1);
    tlb.select(one, false);
    assert!(tlb.open_window(CHUNK));
    tlb.current().windows[CHUNK as usize].wrapping_add(LINEAR) as usize
}

#[test]
fn a_page_is_shown_as_long_as_the_arrays_have_it() {
    let (memory, mut access) = (memory(), Access::new());
    let mut tlb = Tlb::<u32>::default();
    let host = opened(&mut tlb);
    let one = tlb.context(&1);
    memory.write_u8(GuestPhys(PHYSICAL + 5), 0x77).expect("in memory");
    assert!(!tlb.show_page(host + 5, &memory), "the arrays do not have it");
    type Change = fn(&mut Tlb<u32>, &GuestMemory);
    let changes: [(Change, bool, bool); 8] = [
        (|_, _| {}, true, true),
        (|tlb, _| _ = tlb.flush_page(GuestVirt(LINEAR), |_| true), false, false),
        (|tlb, _| tlb.drop_writes(PHYSICAL), false, false),
        (|tlb, _| tlb.drop_all_writes(), false, false),
        (|tlb, _| tlb.flush(), false, false),
        (|tlb, _| tlb.retire(|_| true), false, false),
        (|tlb, _| tlb.drop_local(|_| Some(1)), false, false),
        // Of the same slot.
        (
            |tlb, memory| {
                let one = tlb.context(&1);
                tlb.insert(one, LINEAR + ((TLB_ENTRIES as u64) << 12), entry(memory, 0x8000, false));
            },
            false,
            false,
        ),
    ];
    for (n, (change, reads, writes)) in changes.into_iter().enumerate() {
        let host = opened(&mut tlb);
        let one = tlb.context(&1);
        tlb.insert(one, LINEAR, entry(&memory, PHYSICAL, true));
        assert!(tlb.show_page(host + 5, &memory), "{n}");
        change(&mut tlb, &memory);
        assert_eq!(access.read(host + 5), reads.then_some(0x77), "{n}");
        assert_eq!(access.write(host + 6, n as u8 + 1), writes, "{n}");
        assert_eq!(memory.read_u8(GuestPhys(PHYSICAL + 6)), Ok(1), "{n}");
        tlb.flush();
    }
    assert_eq!(tlb.find(one, LINEAR, TlbKind::Read), None);
}

#[test]
fn rights_are_those_of_the_arrays() {
    let (memory, mut access) = (memory(), Access::new());
    let mut tlb = Tlb::<u32>::default();
    let host = opened(&mut tlb);
    let one = tlb.context(&1);
    tlb.insert(one, LINEAR, entry(&memory, PHYSICAL, false));
    assert!(tlb.show_page(host, &memory));
    assert!(!tlb.show_page(host, &memory), "nothing changes");
    assert_eq!((access.read(host), access.write(host, 1)), (Some(0), false));
    tlb.insert(one, LINEAR, entry(&memory, PHYSICAL, true));
    assert!(!access.write(host, 1), "not before it is asked for");
    assert!(tlb.show_page(host, &memory));
    assert!(access.write(host, 9));
    assert_eq!(memory.read_u8(GuestPhys(PHYSICAL)), Ok(9));
    // What is beside it, and beyond the chunk.
    assert_eq!((access.read(host - 1), access.read(host + 4096)), (None, None));
    assert!(!tlb.show_page(host + (1 << CHUNK_SHIFT), &memory));
    // Another host address than that of the page: it is not memory's.
    tlb.insert(one, LINEAR + 4096, TlbEntry { host: 0x7000, ..entry(&memory, PHYSICAL, true) });
    assert!(!tlb.show_page(host + 4096, &memory));
    drop(tlb);
    assert_eq!(access.read(host), None);
}

#[test]
fn other_contexts_see_nothing_of_it() {
    let (memory, mut access) = (memory(), Access::new());
    let mut tlb = Tlb::<u32>::default();
    let host = opened(&mut tlb);
    let (one, two) = (tlb.context(&1), tlb.context(&2));
    tlb.insert(one, LINEAR, entry(&memory, PHYSICAL, true));
    assert!(tlb.show_page(host, &memory));
    tlb.select(two, false);
    assert_eq!(tlb.current().windows, [0; CHUNKS]);
    assert!(!tlb.show_page(host, &memory));
    tlb.insert(two, LINEAR, entry(&memory, 0x9000, true));
    assert!(tlb.open_window(CHUNK));
    let other = tlb.current().windows[CHUNK as usize].wrapping_add(LINEAR) as usize;
    assert!(other != host && tlb.show_page(other, &memory));
    memory.write_u8(GuestPhys(0x9000), 3).expect("in memory");
    assert_eq!((access.read(host), access.read(other)), (Some(0), Some(3)));
    assert!(tlb.open_window(CHUNK) && !tlb.open_window(CHUNK + 1), "one chunk a context");
    tlb.flush();
    assert!(tlb.open_window(CHUNK + 1), "the other one shows nothing");
    assert_eq!(tlb.current().windows[CHUNK as usize], 0);
    tlb.select(two, true);
    assert!(!tlb.open_window(CHUNK), "all its accesses take the slow path");
}

#[test]
fn shared_pages_are_like_others() {
    let memory = memory();
    memory.write(GuestPhys(PHYSICAL), b"before").expect("in memory");
    let page = memory.page(GuestPhys(PHYSICAL)).expect("in memory");
    let place = memory.share(page.index).expect("a host with files in memory");
    assert_eq!(memory.share(page.index), Some(place));
    let mut bytes = [0; 6];
    memory.read(GuestPhys(PHYSICAL), &mut bytes).expect("in memory");
    assert_eq!((&bytes, memory.page(GuestPhys(PHYSICAL))), (b"before", Some(page)));
    let mut file = File::open(format!("/proc/self/fd/{}", place.0)).expect("our own");
    file.read_exact(&mut bytes).expect("a page");
    assert_eq!(&bytes, b"before");
    memory.release_page(GuestPhys(PHYSICAL)).expect("in memory");
    assert_eq!(memory.read_u8(GuestPhys(PHYSICAL)), Ok(0));
    memory.write(GuestPhys(PHYSICAL), b"after").expect("in memory");
    memory.clear().expect("RAM");
    assert_eq!(memory.read_u32(GuestPhys(PHYSICAL)), Ok(0));
}
