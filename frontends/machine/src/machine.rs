//! A machine: how it is built from its parts, reset, and looked at as a whole.

use crate::history::{History, Mutable};
use crate::host::MachineHandle;
use crate::log::{Recorder, Recording, RecordingEnd, RecordingHeader};
use crate::pace::Pace;
use crate::peripherals::Outside;
use crate::stats::{CpuStats, Stats, TranslatorStats};
use crate::{MAX_CPUS, MachineConfig, MachineError, StopReason, TimeMode, entry, peripherals};
use ringworld_core::{CpuId, IoContext, Platform, StateHasher, VirtualTime};
use ringworld_devices::{ACPI_ENABLE, Board, BoardConfig, CharBackend, CmosConfig, FwCfgConfig, SMI_COMMAND};
use ringworld_firmware::{BootRequest, Entry, Image, MemoryMap, Rom, load, waking_vector};
use ringworld_jit_x86::{PerfMap, Translator};
use ringworld_mmu::GuestMemory;
use ringworld_x86::Cpu;
use ringworld_x86::interp::{Interpreter, Observer, RunEnd};
use ringworld_x86::model::Model;
use ringworld_x86::state::{Activity, Counters, boundary};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Where the guest's output goes.
#[derive(Default)]
pub struct Backends {
    /// COM1 and further serial ports, at most four.
    pub serial: Vec<Box<dyn CharBackend>>,
    /// The debug consoles (ports 0xe9 and 0x402).
    pub debug_console: Option<Box<dyn CharBackend>>,
}

impl Backends {
    /// COM1 only.
    pub fn console(backend: impl CharBackend + 'static) -> Self {
        Self { serial: vec![Box::new(backend)], debug_console: None }
    }
}

/// A CPU with the engine that runs it.
pub(crate) struct Core {
    pub(crate) cpu: Cpu,
    pub(crate) interpreter: Interpreter,
    pub(crate) translator: Option<Box<Translator>>,
}

impl Core {
    /// Runs the CPU up to an instruction count, by the translator where it has one. Who observes each instruction gets the
    /// interpreter; who stops before some has told the translator ([`Translator::set_breakpoints`]).
    pub(crate) fn run<O: Observer>(&mut self, limit: u64, observer: &mut O) -> RunEnd {
        match &mut self.translator {
            Some(translator) if !O::INSTRUCTIONS => {
                self.interpreter.run_with(&mut self.cpu, limit, &mut **translator, observer)
            }
            _ => self.interpreter.run(&mut self.cpu, limit, observer),
        }
    }
}

/// A PC: CPUs, memory, board, and the loaded guest.
pub struct Machine {
    pub(crate) config: MachineConfig,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) board: Arc<Board>,
    pub(crate) cores: Vec<Core>,
    pub(crate) image: Image,
    pub(crate) handle: MachineHandle,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) replay: Option<Recording>,
    /// The past, if it is kept.
    pub(crate) history: Option<History>,
    /// Whether the guest's output was shown before.
    pub(crate) muted: Arc<AtomicBool>,
    /// `None` in deterministic time.
    pub(crate) pace: Option<Pace>,
    /// The start of the present round.
    pub(crate) now: VirtualTime,
    /// Its end.
    pub(crate) round_end: VirtualTime,
    /// The CPU whose turn it is; after the last one, the round is over.
    pub(crate) turn: usize,
    /// Where the run stopped for a breakpoint: CPU and its instruction count.
    pub(crate) at_breakpoint: Option<(usize, u64)>,
    pub(crate) resets: u64,
    /// Suspended to memory (S3).
    pub(crate) suspended: bool,
    /// How many events in a row have woken no CPU.
    pub(crate) unheard_events: u32,
    /// What the CPUs know of where shadow RAM is ([`GuestMemory::shadow_epoch`]).
    pub(crate) shadow_epoch: u64,
    /// The devices that have another side on the host.
    pub(crate) outside: Outside,
    /// How many events from outside the guest has got: the place in a recording.
    pub(crate) inputs: u64,
    /// The virtio console's place among the board's PCI devices, if it takes COM1's.
    pub(crate) console: Option<usize>,
}

/// The CPU model, if the configuration is possible.
fn checked_model(config: &MachineConfig) -> Result<Arc<Model>, MachineError> {
    if !(1..=MAX_CPUS).contains(&config.cpus) {
        return Err(MachineError::CpuCount(config.cpus));
    }
    if !(1..=1_000_000_000).contains(&config.slice) {
        return Err(MachineError::Slice(config.slice));
    }
    Ok(Arc::new(Model::parse(&config.cpu)?.with_cpus(config.cpus)))
}

fn wait_for_sipi(core: &mut Core) {
    core.cpu.activity = Activity::WaitForSipi;
    core.cpu.boundary |= boundary::INACTIVE;
}

impl Machine {
    /// Builds the machine, loads the guest, and leaves the first CPU at its first instruction.
    ///
    /// # Errors
    /// Anything in the configuration that cannot be had, in one line.
    pub fn new(config: MachineConfig, backends: Backends) -> Result<Self, MachineError> {
        // Before files are read.
        checked_model(&config)?;
        let map = MemoryMap::pc(config.memory)?;
        let image = match &config.firmware {
            Some(firmware) => Image::firmware(&Rom::new(&firmware.read("firmware", config.memory)?)?),
            None => load(&BootRequest {
                kernel: config.kernel.read("kernel", config.memory)?,
                kind: config.loader.kind(),
                modules: config
                    .modules
                    .iter()
                    .map(|module| module.read(config.memory))
                    .collect::<Result<_, _>>()?,
                command_line: &config.command_line,
                memory: &map,
                acpi: peripherals::acpi_config(&config, backends.serial.len(), &map),
                framebuffer: config.graphics.then_some(peripherals::FRAMEBUFFER),
            })?,
        };
        let mut machine = Self::build(config, image, backends)?;
        machine.load()?;
        Ok(machine)
    }

    /// Builds the machine around empty memory, with its CPUs as after a reset.
    pub(crate) fn build(
        config: MachineConfig,
        image: Image,
        backends: Backends,
    ) -> Result<Self, MachineError> {
        let model = checked_model(&config)?;
        let map = MemoryMap::pc(config.memory)?;
        let mut regions = map.regions();
        regions.extend(image.rom());
        let memory = Arc::new(GuestMemory::new(&regions)?);
        let low_memory = map.low_ram_end().0;
        let serial_ports = backends.serial.len();
        let muted = Arc::new(AtomicBool::new(false));
        let mutable = |inner| -> Box<dyn CharBackend> { Box::new(Mutable { inner, muted: muted.clone() }) };
        let mut serial: Vec<_> = backends.serial.into_iter().map(mutable).collect();
        let mut console = None;
        if let Some(first) = serial.first_mut().filter(|_| config.virtio_console) {
            console = Some(std::mem::replace(first, Box::new(|_: &[u8]| {})));
        }
        let peripherals = peripherals::build(&config, &muted, console)?;
        let board = Arc::new(Board::new(BoardConfig {
            memory: Some(memory.clone()),
            pci: peripherals.slots,
            cmos: CmosConfig {
                start_time: config.rtc_start,
                low_memory,
                high_memory: config.memory - low_memory,
                cpus: config.cpus,
            },
            serial,
            debug_console: backends.debug_console.map(mutable),
            debug_exit: config.debug_exit,
            acpi_mode: false,
            smi: image.entry.is_some(),
            fw_cfg: FwCfgConfig {
                ram_size: config.memory,
                cpus: config.cpus as u16,
                files: peripherals::firmware_files(&config, serial_ports, &map, &image, &model),
                ..FwCfgConfig::default()
            },
            hpet: true,
            cpu_test: config.cpu_test,
        })?);
        if let (Some(flash), Some(rom)) = (&config.firmware_variables, image.rom()) {
            peripherals::attach_flash(&board, flash, rom.base)?;
        }
        let platform: Arc<dyn Platform> = board.clone();
        let perf_map = match config.perf_map {
            true => Some(Arc::new(PerfMap::create().map_err(MachineError::PerfMap)?)),
            false => None,
        };
        let core = |id| {
            let mut cpu = Cpu::new(CpuId(id), model.clone(), memory.clone(), platform.clone());
            cpu.company = u64::from(config.cpus > 1);
            cpu.seed_random(config.seed);
            let translator = match config.engine {
                crate::Engine::Interp => None,
                crate::Engine::Jit => {
                    let mut translator = Box::new(Translator::new()?);
                    if let Some(map) = &perf_map {
                        translator.set_perf_map(map.clone());
                    }
                    Some(translator)
                }
            };
            Ok::<_, MachineError>(Core { cpu, interpreter: Interpreter::default(), translator })
        };
        Ok(Self {
            cores: (0..config.cpus).map(core).collect::<Result<_, _>>()?,
            handle: MachineHandle::new(board.attention().clone()),
            pace: (config.time == TimeMode::Real).then(|| Pace::new(VirtualTime(0))),
            recorder: None,
            history: None,
            muted,
            replay: None,
            now: VirtualTime(0),
            round_end: VirtualTime(0),
            turn: config.cpus as usize,
            at_breakpoint: None,
            resets: 0,
            suspended: false,
            unheard_events: 0,
            shadow_epoch: memory.shadow_epoch(),
            outside: peripherals.outside,
            inputs: 0,
            console: peripherals.console,
            config,
            memory,
            board,
            image,
        })
    }

    /// Puts the guest into memory and the CPUs to their starts.
    fn load(&mut self) -> Result<(), MachineError> {
        if self.image.entry.is_some() {
            // Tables of the loader's are in the BIOS's place.
            self.board.assign_pci();
        }
        self.image.write_to(&self.memory)?;
        self.start(self.image.entry);
        Ok(())
    }

    /// Puts the CPUs to their starts, with the board as firmware leaves it; without an entry, firmware does that itself.
    fn start(&mut self, entry: Option<Entry>) {
        if entry.is_some() {
            self.board.assign_pci();
            if self.config.graphics {
                peripherals::set_screen(&self.board, self.now);
            }
        }
        for core in &mut self.cores {
            if entry.is_some() {
                entry::firmware_state(&mut core.cpu);
            }
            match &entry {
                _ if !core.cpu.lapic.is_bsp() => wait_for_sipi(core),
                Some(entry) => entry::apply(entry, &mut core.cpu),
                None => {}
            }
        }
    }

    /// Suspends the machine to memory (ACPI S3): everything but memory, clock and wake logic loses its power.
    pub(crate) fn suspend(&mut self) {
        self.suspended = true;
        self.reset_cpus();
        self.cores.iter_mut().for_each(wait_for_sipi);
        self.board.suspend(self.latest());
        self.end_round();
    }

    /// Wakes a suspended machine: firmware starts, or what it would do is done here, up to the operating system's waking vector.
    pub(crate) fn wake(&mut self) -> Result<(), MachineError> {
        if !std::mem::take(&mut self.suspended) {
            return Ok(());
        }
        self.reset_cpus();
        match self.image.entry {
            None => self.start(None),
            // An operating system that has left no vector cannot be resumed: firmware starts it again.
            Some(_) => match waking_vector(&self.memory) {
                None => return self.reset(),
                entry => {
                    self.start(entry);
                    // It was in ACPI mode, and expects to be (ACPI 4.8.3.2.1, SCI_EN).
                    let ctx = IoContext { cpu: CpuId(0), now: self.latest() };
                    self.board.port_write(ctx, SMI_COMMAND, &[ACPI_ENABLE]);
                }
            },
        }
        self.end_round();
        Ok(())
    }

    /// Resets all CPUs at the same moment, from which their TSCs count.
    fn reset_cpus(&mut self) {
        let now = self.latest();
        for Core { cpu, .. } in &mut self.cores {
            cpu.clock.skip_to(now, cpu.icount);
            cpu.reset();
        }
    }

    /// Lets the CPUs forget what they know of memory, if other memory answers since the last time.
    pub(crate) fn look_at_shadow(&mut self) {
        let epoch = self.memory.shadow_epoch();
        if std::mem::replace(&mut self.shadow_epoch, epoch) == epoch {
            return;
        }
        for Core { cpu, interpreter, translator } in &mut self.cores {
            cpu.flush_everything();
            interpreter.forget(cpu);
            if let Some(translator) = translator {
                translator.forget(cpu);
            }
        }
    }

    /// The time of the CPU that is ahead.
    fn latest(&self) -> VirtualTime {
        self.cores.iter().map(|core| core.cpu.now()).max().unwrap_or(self.now)
    }

    /// The round is over: all CPUs start at the same moment.
    fn end_round(&mut self) {
        self.round_end = self.latest();
        self.turn = self.cores.len();
    }

    /// Resets everything, as a power cycle does, and loads the guest again. Virtual time goes on.
    pub(crate) fn reset(&mut self) -> Result<(), MachineError> {
        self.resets += 1;
        self.memory.clear().map_err(MachineError::Clear)?;
        self.suspended = false;
        self.reset_cpus();
        self.board.reset(self.latest());
        self.load()?;
        self.end_round();
        Ok(())
    }

    /// In real-time mode, the host's present is the machine's from now on.
    pub(crate) fn pace_from_now(&mut self) {
        let now = self.now();
        if let Some(pace) = &mut self.pace {
            *pace = Pace::new(now);
        }
    }

    /// A way to reach the machine from other threads.
    pub fn handle(&self) -> MachineHandle {
        self.handle.clone()
    }

    /// What the machine was built from.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// Guest-physical memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The board with its devices.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The CPUs.
    pub fn cpus(&self) -> impl ExactSizeIterator<Item = &Cpu> {
        self.cores.iter().map(|core| &core.cpu)
    }

    /// One CPU.
    pub fn cpu(&self, number: usize) -> Option<&Cpu> {
        self.cores.get(number).map(|core| &core.cpu)
    }

    /// Retired instructions of all CPUs since power-on.
    pub fn instructions(&self) -> u64 {
        self.cores.iter().map(|core| core.cpu.icount).sum()
    }

    /// Virtual time: that of the CPU whose turn it is.
    pub fn now(&self) -> VirtualTime {
        self.cores.get(self.turn).map_or(self.now, |core| core.cpu.now())
    }

    /// Measures from now on how much of the host's time guests, their hosts and the ways between them take
    /// ([`ringworld_x86::worlds`]).
    pub fn time_worlds(&mut self) {
        self.cores.iter_mut().for_each(|core| core.cpu.counters.worlds.start_timing());
    }

    /// A hash of the whole machine's state. Two machines with the same hash go on in the same way, given the same
    /// inputs.
    pub fn state_hash(&self) -> u128 {
        let mut hasher = StateHasher::new();
        hasher.add(&(self.now, self.round_end, self.turn, self.suspended, self.unheard_events));
        for core in &self.cores {
            core.cpu.hash_state(&mut hasher);
        }
        self.board.hash_state(&mut hasher);
        self.memory.hash_ram(&mut hasher);
        hasher.digest()
    }

    /// A hash of memory and devices.
    pub fn surroundings_hash(&self) -> u128 {
        let mut hasher = StateHasher::new();
        self.board.hash_state(&mut hasher);
        self.memory.hash_ram(&mut hasher);
        hasher.digest()
    }

    /// Counters since the machine was built.
    pub fn stats(&self) -> Stats {
        let cpu = |core: &Core| CpuStats {
            instructions: core.cpu.icount,
            idle_ns: core.cpu.clock.skipped - core.cpu.clock.bus,
            counters: Counters {
                worlds: core.cpu.counters.worlds.until(core.cpu.icount),
                ..core.cpu.counters.clone()
            },
        };
        let stats = Stats {
            instructions: self.instructions(),
            virtual_ns: self.now().0,
            resets: self.resets,
            cpus: self.cores.iter().map(cpu).collect(),
            translator: TranslatorStats::sum(
                self.cores.iter().filter_map(|core| Some(&core.translator.as_ref()?.stats)),
            ),
            ports: Vec::new(),
            mmio: Vec::new(),
            unclaimed_ports: 0,
            unclaimed_memory: 0,
        };
        stats.with_board(&self.board.counters())
    }

    fn recording_header(&self) -> RecordingHeader {
        let mut hasher = StateHasher::new();
        for piece in self.image.pieces() {
            hasher.add(&(piece.address, piece.bytes(), piece.zeroes));
        }
        RecordingHeader::new(&self.config, hasher.digest())
    }

    /// Records everything that comes from outside from now on; to be called before the first run.
    pub fn record(&mut self, to: impl Write + Send + 'static) -> Result<(), MachineError> {
        self.recorder = Some(Recorder::new(Box::new(to), self.recording_header())?);
        Ok(())
    }

    /// Ends the recording with the reason of the last run and the state hash.
    pub fn finish_recording(&mut self, stop: &StopReason) -> Result<(), MachineError> {
        let end = self.recording_end(stop);
        self.recorder.take().map_or(Ok(()), |mut recorder| recorder.end(end))
    }

    fn recording_end(&self, stop: &StopReason) -> RecordingEnd {
        RecordingEnd {
            stop: stop.clone(),
            at: self.now(),
            instructions: self.instructions(),
            state: format!("{:032x}", self.state_hash()),
        }
    }

    /// Takes inputs from a recording instead of [`MachineHandle::send`]; to be called before the first run, or on a machine
    /// that goes on where a snapshot of the recorded run was made. Time is deterministic then.
    ///
    /// # Errors
    /// A recording of another machine, or of another run of it.
    pub fn replay(&mut self, mut recording: Recording) -> Result<(), MachineError> {
        recording.check(&self.recording_header())?;
        recording.skip(self.inputs, self.now)?;
        self.pace = None;
        self.replay = Some(recording);
        Ok(())
    }

    /// Compares the end of a replay with the recorded one; true if there was one to compare with.
    ///
    /// # Errors
    /// [`MachineError::Diverged`].
    pub fn check_replay(&self, stop: &StopReason) -> Result<bool, MachineError> {
        let Some(end) = self.replay.as_ref().and_then(|replay| replay.end.as_ref()) else { return Ok(false) };
        let replayed = self.recording_end(stop);
        if *end == replayed {
            return Ok(true);
        }
        let text = |end: &RecordingEnd| {
            format!("{:?} at instruction {}, state {}", end.stop, end.instructions, end.state)
        };
        Err(MachineError::Diverged { recorded: text(end), replayed: text(&replayed) })
    }
}
