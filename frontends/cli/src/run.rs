//! `ringworld run`, and the part of every run: machine, console, monitor, what is told at the end.

use crate::args::{ConsoleKind, DeviceKind, Engine, MachineArgs, Rtc, RunArgs, Time};
use crate::console::{Console, KEYS, Want};
use crate::control::Control;
use crate::gdb::{self, GdbServer};
use crate::monitor::{self, Monitor, Outcome};
use crate::stats::{self, Watch};
use crate::trace::{self, InstructionTracer, TraceSpec};
use crate::{exit, terminal};
use anyhow::Context;
use ringworld_gdb::SessionEnd;
use ringworld_machine::{
    Backends, DiskOptions, HistoryConfig, Machine, MachineConfig, Module, Recording, RunUntil, Snapshot,
    Source, StopReason, TimeMode, host_time,
};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// The command line asks for something that there is not: exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// What a guest expects of the console when nobody is at it.
#[derive(Clone, Copy, Default)]
pub struct Script {
    /// Input waits until the guest has printed this.
    pub ready: Option<&'static str>,
    /// The guest gets this after the input's end.
    pub farewell: &'static str,
    /// The end's table of exits, and of what the guest's levels took.
    pub worlds: bool,
}

/// Runs `ringworld run`.
pub fn run(args: &RunArgs) -> anyhow::Result<i32> {
    if let Some(path) = &args.restore {
        let snapshot = Snapshot::open(path).with_context(|| path.display().to_string())?;
        return start(Start::Snapshot(Box::new(snapshot)), &args.machine, Script::default());
    }
    start(Start::Config(Box::new(machine(args)?)), &args.machine, Script::default())
}

/// The machine that `ringworld run` asks for.
pub fn machine(args: &RunArgs) -> anyhow::Result<MachineConfig> {
    Ok(MachineConfig {
        kernel: Source::Path(args.kernel.clone().unwrap_or_default()),
        firmware: args.firmware.clone().map(Source::Path),
        firmware_variables: args.firmware_vars.clone().map(DiskOptions::new),
        modules: args.initrd.iter().map(|text| module(text)).collect(),
        command_line: args.append.clone(),
        loader: args.loader,
        ..config(&args.machine)?
    })
}

/// What `--initrd` names: a file, and after the first space its arguments, unless that is all a file's name.
fn module(text: &Path) -> Module {
    match text.to_str().and_then(|text| text.split_once(' ')) {
        Some((path, arguments)) if !text.exists() => {
            Module { file: Source::Path(path.into()), arguments: arguments.into() }
        }
        _ => Module::new(Source::Path(text.to_path_buf())),
    }
}

/// Where a machine comes from.
pub enum Start {
    /// It is built and loaded.
    Config(Box<MachineConfig>),
    /// It goes on.
    Snapshot(Box<Snapshot>),
}

/// The configuration that the common options ask for, without a kernel.
pub fn config(args: &MachineArgs) -> anyhow::Result<MachineConfig> {
    let outside = !args.net.is_empty() || !args.share.is_empty() || args.vsock.is_some();
    let default = if terminal::is_interactive() || outside { Time::Real } else { Time::Deterministic };
    let real = args.time.unwrap_or(default) == Time::Real && args.replay.is_none();
    let mut config = MachineConfig {
        cpu: args.cpu.clone(),
        engine: engine(args.engine),
        cpus: args.cpus,
        slice: args.slice,
        memory: args.memory,
        time: if real { TimeMode::Real } else { TimeMode::Deterministic },
        seed: args.seed,
        cpu_test: args.cpu_test,
        perf_map: args.perf_map,
        graphics: args.vga,
        virtio_console: args.console == ConsoleKind::Virtio,
        entropy: args.device.contains(&DeviceKind::VirtioRng),
        balloon: args.device.contains(&DeviceKind::VirtioBalloon),
        drives: args
            .drive
            .iter()
            .cloned()
            .chain(args.cdrom.iter().map(|file| crate::drive::disc(file)))
            .collect(),
        networks: args.net.clone(),
        shares: args.share.clone(),
        vsock: args.vsock.clone(),
        reboot: !args.no_reboot,
        triple_fault_resets: args.on_triple_fault == crate::args::OnTripleFault::Reset,
        ..MachineConfig::default()
    };
    match args.rtc {
        Some(Rtc::At(seconds)) => config.rtc_start = seconds,
        Some(Rtc::Now) => config.rtc_start = host_time(),
        None if real => config.rtc_start = host_time(),
        None => {}
    }
    Ok(config)
}

/// What executes instructions; a host that cannot have the translator is told so.
pub fn engine(asked: Engine) -> ringworld_machine::Engine {
    match asked {
        Engine::Auto if ringworld_machine::host_can_translate() => ringworld_machine::Engine::Jit,
        Engine::Auto => {
            say_line!(
                "ringworld: this host's processor lacks BMI2: the interpreter runs in place of the translator"
            );
            ringworld_machine::Engine::Interp
        }
        Engine::Interp => ringworld_machine::Engine::Interp,
        Engine::Jit => ringworld_machine::Engine::Jit,
    }
}

/// Builds the machine and runs it to its end; returns the exit code.
pub fn start(mut from: Start, args: &MachineArgs, script: Script) -> anyhow::Result<i32> {
    let recording = match &args.replay {
        None => None,
        Some(path) => {
            let file =
                File::open(path).with_context(|| format!("cannot read the recording {}", path.display()))?;
            Some(Recording::read(BufReader::new(file)).with_context(|| path.display().to_string())?)
        }
    };
    if let (Some(recording), Start::Config(config)) = (&recording, &mut from) {
        // What the recorded run took from the host.
        (config.rtc_start, config.seed) = (recording.header.rtc_start, recording.header.seed);
    }
    let replaying = recording.is_some();
    let monitor = Monitor::new(args.monitor_script.as_deref())?;
    let (console, output) = Console::new(script.ready, script.farewell);
    let mut backends = Backends::console(output);
    if args.debug_console {
        // Nobody hears that standard error is closed.
        backends.debug_console = Some(Box::new(|bytes: &[u8]| drop(std::io::stderr().write_all(bytes))));
    }
    let mut machine = match from {
        Start::Config(config) => Machine::new(*config, backends)?,
        Start::Snapshot(snapshot) => {
            let time = config(args)?.time;
            Machine::from_snapshot(&snapshot, backends, |config| config.time = time)?
        }
    };
    if let Some(recording) = recording {
        machine.replay(recording)?;
    }
    if let Some(path) = &args.record {
        let file = File::create(path).with_context(|| format!("cannot record to {}", path.display()))?;
        machine.record(file)?;
    }
    if args.reverse {
        machine.keep_history(HistoryConfig::default())?;
    }
    if let Some(spec) = &args.trace {
        let out: Box<dyn Write + Send> = match &args.trace_file {
            None => Box::new(std::io::stderr()),
            Some(path) => {
                let file =
                    File::create(path).with_context(|| format!("cannot trace to {}", path.display()))?;
                Box::new(BufWriter::new(file))
            }
        };
        spec.install(out)?;
    }
    if let Some(seconds) = args.timeout {
        let handle = machine.handle();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs_f64(seconds));
            handle.stop(StopReason::Timeout);
        });
    }
    let control = args
        .control
        .as_ref()
        .map(|address| Control::listen(address, args.paused, machine.handle()))
        .transpose()?;
    let gdb =
        args.gdb.map(|address| GdbServer::listen(address, args.gdb_wait, machine.handle())).transpose()?;
    if script.worlds {
        machine.time_worlds();
    }
    let worlds = script.worlds;
    let mut session =
        Session { args, worlds, machine, monitor, console, gdb, control, watch: Watch::start() };
    session.run(!replaying)
}

/// What goes on beside gdb's session.
struct Surroundings<'a> {
    monitor: &'a mut Monitor,
    console: &'a Console,
    control: Option<&'a mut Control>,
}

impl ringworld_gdb::Host for Surroundings<'_> {
    fn command(&mut self, machine: &mut Machine, line: &str) -> String {
        self.monitor.remote(machine, line)
    }

    fn attend(&mut self, machine: &mut Machine) -> bool {
        let wanted = || self.console.has_want();
        let ends = self.control.as_mut().is_some_and(|control| control.serve(machine, self.monitor, wanted));
        !ends && !wanted()
    }
}

struct Session<'a> {
    args: &'a MachineArgs,
    worlds: bool,
    machine: Machine,
    monitor: Monitor,
    console: Console,
    gdb: Option<GdbServer>,
    control: Option<Control>,
    watch: Watch,
}

impl Session<'_> {
    fn run(&mut self, input: bool) -> anyhow::Result<i32> {
        let keys = self.console.start(self.machine.handle(), input)?;
        self.monitor.keys(self.console.interactive().then_some(keys));
        if self.console.interactive() {
            say!("\r\n{KEYS}\r\n");
        }
        let mut in_monitor = self.monitor.has_script();
        let (stop, want) = loop {
            if in_monitor {
                self.console.monitor(true);
                if self.console.interactive() {
                    say_line!();
                }
                let outcome = self.monitor.prompt(&mut self.machine)?;
                self.console.monitor(false);
                if outcome == Outcome::Quit {
                    break (StopReason::UserRequest, Some(Want::Leave));
                }
            }
            if let Some(control) = &mut self.control
                && control.serve(&mut self.machine, &mut self.monitor, || self.console.has_want())
            {
                break (StopReason::UserRequest, Some(Want::Leave));
            }
            let stop = match self.gdb.as_mut().and_then(GdbServer::connection) {
                None => self.run_machine()?,
                Some(stream) => match self.debug(stream) {
                    SessionEnd::Detached => continue,
                    SessionEnd::Killed => break (StopReason::UserRequest, Some(Want::Leave)),
                    SessionEnd::Stopped(stop) => stop,
                },
            };
            let want = self.console.take_want();
            let outside = self.gdb.is_some() || self.control.is_some();
            if stop == StopReason::UserRequest && want.is_none() && outside {
                // gdb has connected, or a command has come.
                continue;
            }
            in_monitor = match (&stop, want) {
                (StopReason::Breakpoint { .. } | StopReason::Watchpoint { .. }, _) => true,
                (StopReason::UserRequest, Some(Want::Monitor)) => true,
                _ => break (stop, want),
            };
            if let Some(text) = monitor::describe(&stop) {
                say!("\r\n{text}");
                if !self.console.interactive() {
                    say_line!();
                }
            }
        };
        trace::set_active(false);
        terminal::restore();
        self.finish(&stop, want)
    }

    /// Gives the machine to gdb.
    fn debug(&mut self, stream: TcpStream) -> SessionEnd {
        let Self { machine, monitor, console, control, .. } = self;
        gdb::session(machine, stream, &mut Surroundings { monitor, console, control: control.as_mut() })
    }

    /// Runs the machine until it stops, tracing what is to be traced.
    fn run_machine(&mut self) -> anyhow::Result<StopReason> {
        let none = TraceSpec::default();
        loop {
            let instructions = self.machine.instructions();
            let limit = self.args.max_instructions;
            let (active, change) =
                self.args.trace.as_ref().map_or((false, None), |spec| spec.phase(instructions));
            trace::set_active(active);
            for (_, path) in self.args.snapshot_at.iter().filter(|(at, _)| *at == instructions) {
                self.machine.snapshot()?.write(path).with_context(|| path.display().to_string())?;
            }
            let save = self.args.snapshot_at.iter().map(|(at, _)| *at).filter(|at| *at > instructions).min();
            let bound = [limit, change, save].into_iter().flatten().min();
            let until = RunUntil { instructions: bound, ..self.monitor.until() };
            let spec = self.args.trace.as_ref().unwrap_or(&none);
            let stop = if active && spec.instructions() {
                self.machine.run_observed(&until, &mut InstructionTracer(spec))?
            } else {
                self.machine.run(&until)?
            };
            // A change of the trace's phase is not the end.
            if stop != StopReason::InstructionLimit || limit.is_some_and(|l| self.machine.instructions() >= l)
            {
                return Ok(stop);
            }
        }
    }

    fn finish(&mut self, stop: &StopReason, want: Option<Want>) -> anyhow::Result<i32> {
        self.machine.finish_recording(stop)?;
        if self.args.replay.is_some() && self.machine.check_replay(stop)? {
            say_line!("ringworld: the replay's end is the recorded one");
        }
        let end = self.machine.instructions();
        for (at, path) in self.args.snapshot_at.iter().filter(|(at, _)| *at > end) {
            say_line!("ringworld: no snapshot {}: the run ended before instruction {at}", path.display());
        }
        if let Some(path) = &self.args.screendump {
            crate::screen::dump(&self.machine, path)?;
        }
        if self.worlds {
            say!("{}", crate::worlds::table(&self.machine.stats()));
        }
        stats::report(&self.machine, stop, &self.watch, &self.args.stats)?;
        match want {
            Some(Want::Signal) if *stop == StopReason::UserRequest => return Ok(exit::SIGNAL),
            Some(Want::OutputClosed) => {
                anyhow::bail!("standard output is closed: keep it open for the guest's console")
            }
            _ => {}
        }
        if let Some(message) = exit::message(stop) {
            say_line!("ringworld: {message}");
        }
        Ok(exit::of(stop))
    }
}
