//! Snapshots: the whole machine in a file, between any two instructions.
//!
//! A file has a fixed start (magic, version, lengths, checksum), a description as JSON, and a body compressed by zstd: the
//! state of CPUs and board, the image that a reset loads again, and the memory pages that are not zero. The checksum
//! covers description and body, so damage is found before anything is looked at.

use crate::{Backends, Machine, MachineConfig, MachineError, Source};
use ringworld_core::{GuestPhys, PAGE_SIZE, VirtualTime};
use ringworld_devices::StateError;
use ringworld_firmware::{BootFile, Image};
use ringworld_x86::snapshot::CpuState;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: [u8; 8] = *b"RINGSNAP";
/// Changes whenever the state of any part changes its form.
const VERSION: u32 = 7;
/// Magic, version, length of the description, length of the body, checksum.
const START: usize = 8 + 4 + 4 + 8 + 16;
/// Longest description.
const MAX_DESCRIPTION: usize = 1 << 20;
/// The most bytes of one part of the body besides memory. The largest is the image: kernel and initrd.
const MAX_PART: u64 = 2 << 30;
/// Pages compress well enough at the fastest levels.
const LEVEL: i32 = 1;

/// What a snapshot's description says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The machine, without the files that it was started from.
    pub config: MachineConfig,
    /// Retired instructions of all CPUs.
    pub instructions: u64,
    /// Virtual time.
    pub at: VirtualTime,
}

/// The state of everything but memory.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct State {
    cpus: Vec<CpuState>,
    board: Vec<u8>,
    now: VirtualTime,
    round_end: VirtualTime,
    turn: usize,
    resets: u64,
    suspended: bool,
    unheard_events: u32,
    inputs: u64,
}

/// A snapshot that was read and found undamaged.
#[derive(Clone)]
pub struct Snapshot {
    header: SnapshotHeader,
    body: Vec<u8>,
}

fn bad(what: impl std::fmt::Display) -> MachineError {
    MachineError::Snapshot(what.to_string())
}

impl From<StateError> for MachineError {
    fn from(error: StateError) -> Self {
        bad(error)
    }
}

impl Snapshot {
    /// The description.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, is none of this version's snapshots, or is damaged.
    pub fn open(path: &Path) -> Result<Self, MachineError> {
        Self::parse(&fs::read(path).map_err(bad)?)
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MachineError> {
        let Some((magic, rest)) = bytes.split_first_chunk::<8>().filter(|(magic, _)| **magic == MAGIC) else {
            return Err(bad("this is no snapshot of Ringworld"));
        };
        debug_assert_eq!(*magic, MAGIC);
        let cut = || bad(format!("it is cut off after {} bytes: save it again", bytes.len()));
        let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(bad(format!(
                "it has format {version}, and this version of Ringworld reads format {VERSION}: save it again with this version"
            )));
        }
        let (description, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let description = u32::from_le_bytes(*description) as usize;
        let (body, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let (sum, rest) = rest.split_first_chunk::<16>().ok_or_else(cut)?;
        let length = u64::from_le_bytes(*body).checked_add(description as u64);
        if description > MAX_DESCRIPTION || length.is_none_or(|length| (rest.len() as u64) < length) {
            return Err(cut());
        }
        if length != Some(rest.len() as u64) || xxh3_128(rest) != u128::from_le_bytes(*sum) {
            return Err(bad("it is damaged (the checksum differs): save it again"));
        }
        let (description, body) = rest.split_at(description);
        let header = serde_json::from_slice(description).map_err(bad)?;
        Ok(Self { header, body: body.to_vec() })
    }

    /// The same snapshot with other bytes in place of its state, for fuzzers: a file with a right checksum may hold anything.
    pub fn with_changed_state(&self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let body = zstd::decode_all(&self.body[..]).unwrap_or_default();
        let (length, rest) = body.split_at_checked(8).unwrap_or_default();
        let length = length.try_into().map_or(0, u64::from_le_bytes) as usize;
        let (state, rest) = rest.split_at_checked(length).unwrap_or_default();
        let mut state = state.to_vec();
        change(&mut state);
        let changed = [&(state.len() as u64).to_le_bytes()[..], &state, rest].concat();
        Self { header: self.header.clone(), body: zstd::encode_all(&changed[..], LEVEL).unwrap_or_default() }
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// A description that cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, MachineError> {
        let description = serde_json::to_vec(&self.header).map_err(bad)?;
        let payload = [&description, &self.body[..]].concat();
        let mut bytes = Vec::with_capacity(START + payload.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((description.len() as u32).to_le_bytes());
        bytes.extend((self.body.len() as u64).to_le_bytes());
        bytes.extend(xxh3_128(&payload).to_le_bytes());
        bytes.extend(payload);
        Ok(bytes)
    }

    /// Writes a file; an older one of this name is replaced only by a whole one.
    ///
    /// # Errors
    /// What the host says.
    pub fn write(&self, path: &Path) -> Result<(), MachineError> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let bytes = self.to_bytes()?;
        let written = File::create(&part)
            .and_then(|file| {
                let mut file = BufWriter::new(file);
                file.write_all(&bytes).and_then(|()| file.flush())
            })
            .and_then(|()| fs::rename(&part, path));
        written.map_err(|error| {
            // A half-written file is of no use.
            let _ = fs::remove_file(&part);
            bad(format!("cannot write: {error}"))
        })
    }
}

/// A part of the body: its length, then its bytes.
fn put_part<T: Serialize>(to: &mut impl Write, part: &T) -> Result<(), MachineError> {
    let bytes = postcard::to_stdvec(part).map_err(bad)?;
    to.write_all(&(bytes.len() as u64).to_le_bytes()).and_then(|()| to.write_all(&bytes)).map_err(bad)
}

fn take_word(from: &mut impl Read) -> Result<u64, MachineError> {
    let mut word = [0; 8];
    from.read_exact(&mut word).map_err(bad)?;
    Ok(u64::from_le_bytes(word))
}

fn take_part<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, MachineError> {
    let length = take_word(from)?;
    if length > MAX_PART {
        return Err(bad("it has a part of impossible length"));
    }
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes).map_err(bad)?;
    postcard::from_bytes(&bytes).map_err(bad)
}

/// The configuration without the guest's files, which a snapshot does not need.
fn without_files(config: &MachineConfig) -> MachineConfig {
    MachineConfig { kernel: Source::Path("".into()), firmware: None, modules: Vec::new(), ..config.clone() }
}

impl Machine {
    /// The state of everything but memory. The CPUs forget their cached translations, so that this machine and one that
    /// takes over the state go on alike.
    pub(crate) fn capture(&mut self) -> Result<State, MachineError> {
        self.cores.iter_mut().for_each(|core| core.cpu.flush_everything());
        Ok(State {
            cpus: self.cores.iter().map(|core| core.cpu.state()).collect(),
            board: self.board.save()?,
            now: self.now,
            round_end: self.round_end,
            turn: self.turn,
            resets: self.resets,
            suspended: self.suspended,
            unheard_events: self.unheard_events,
            inputs: self.inputs,
        })
    }

    /// Takes over a state; memory is another matter.
    pub(crate) fn apply_state(&mut self, state: &State) -> Result<(), MachineError> {
        if state.cpus.len() != self.cores.len() {
            return Err(bad(format!("it has {} CPUs, this machine {}", state.cpus.len(), self.cores.len())));
        }
        self.board.restore(&state.board)?;
        for (core, cpu) in self.cores.iter_mut().zip(&state.cpus) {
            core.cpu.set_state(cpu);
        }
        (self.now, self.round_end, self.resets) = (state.now, state.round_end, state.resets);
        self.turn = state.turn.min(self.cores.len());
        (self.inputs, self.suspended) = (state.inputs, state.suspended);
        self.unheard_events = state.unheard_events;
        self.at_breakpoint = None;
        self.look_at_shadow();
        Ok(())
    }

    /// The whole machine, between two instructions. Everything outside (what a console has shown, what waits in
    /// [`crate::MachineHandle`]) is no part of it.
    ///
    /// # Errors
    /// A device whose state cannot be had.
    pub fn snapshot(&mut self) -> Result<Snapshot, MachineError> {
        let state = self.capture()?;
        let mut body = zstd::Encoder::new(Vec::new(), LEVEL).map_err(bad)?;
        put_part(&mut body, &state)?;
        put_part(&mut body, &self.image)?;
        let mut count = 0u64;
        let counted: Result<(), io::Error> = self.memory.visit_pages(|_, _| {
            count += 1;
            Ok(())
        });
        counted.and_then(|()| body.write_all(&count.to_le_bytes())).map_err(bad)?;
        let pages = self.memory.visit_pages(|address, page| {
            body.write_all(&address.0.to_le_bytes())?;
            body.write_all(page)
        });
        let body = pages.and_then(|()| body.finish()).map_err(bad)?;
        let header = SnapshotHeader {
            config: without_files(&self.config),
            instructions: self.instructions(),
            at: self.now(),
        };
        Ok(Snapshot { header, body })
    }

    /// A new machine that goes on where a snapshot was made. `change` may alter what concerns the host, such as
    /// [`MachineConfig::time`].
    ///
    /// # Errors
    /// As [`Machine::new`], and a snapshot that does not fit itself.
    pub fn from_snapshot(
        snapshot: &Snapshot,
        backends: Backends,
        change: impl FnOnce(&mut MachineConfig),
    ) -> Result<Self, MachineError> {
        let mut config = snapshot.header.config.clone();
        config.kernel = Source::Memory(BootFile::new("", Vec::new()));
        change(&mut config);
        let mut body = zstd::Decoder::new(&snapshot.body[..]).map_err(bad)?;
        let state: State = take_part(&mut body)?;
        let image: Image = take_part(&mut body)?;
        let mut machine = Self::build(config, image, backends)?;
        machine.take_memory(&mut body)?;
        machine.apply_state(&state)?;
        machine.pace_from_now();
        Ok(machine)
    }

    /// Goes back (or on) to a snapshot of this very machine.
    ///
    /// # Errors
    /// A snapshot of another machine. After any other error the machine's state is undefined but harmless.
    pub fn load_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), MachineError> {
        if let Some(difference) = difference(&snapshot.header.config, &self.config) {
            return Err(bad(format!("{difference}: start a machine with --restore")));
        }
        let mut body = zstd::Decoder::new(&snapshot.body[..]).map_err(bad)?;
        let state: State = take_part(&mut body)?;
        self.image = take_part(&mut body)?;
        self.take_memory(&mut body)?;
        self.apply_state(&state)?;
        self.pace_from_now();
        self.forget_history()
    }

    fn take_memory(&mut self, from: &mut impl Read) -> Result<(), MachineError> {
        let count = take_word(from)?;
        let mut pages = HashSet::new();
        let mut page = [0; PAGE_SIZE as usize];
        for _ in 0..count {
            let address = GuestPhys(take_word(from)?);
            from.read_exact(&mut page).map_err(bad)?;
            if !self.memory.put_page(address, &page) || !pages.insert(address) {
                return Err(bad(format!("its memory does not fit: {address}")));
            }
        }
        self.memory.zero_except(&pages);
        Ok(())
    }
}

/// The first setting in which two machines differ, apart from how they follow the host's time.
fn difference(saved: &MachineConfig, now: &MachineConfig) -> Option<String> {
    let value = |config: &MachineConfig| {
        let config = MachineConfig { time: Default::default(), ..without_files(config) };
        serde_json::to_value(config).unwrap_or_default()
    };
    let (saved, now) = (value(saved), value(now));
    let (saved, now) = (saved.as_object()?, now.as_object()?);
    let key = saved.keys().find(|key| saved.get(*key) != now.get(*key) && *key != "command_line")?;
    Some(format!("its {key} was {}, now it is {}", saved[key], now.get(key).cloned().unwrap_or_default()))
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
