//! Two engines over the same machine, compared as they go.

use crate::machine::{Backends, Machine};
use crate::{Engine, MachineConfig, MachineError, RunUntil, StopReason, TimeMode};
use serde::Serialize;

/// Every so many comparisons memory and devices are compared, too.
const WHOLE: u64 = 8192;

/// How a comparison ended.
#[derive(Debug)]
pub enum Verdict {
    /// Both machines stopped alike.
    Same {
        /// Why.
        stop: StopReason,
        /// Instructions of all CPUs.
        instructions: u64,
        /// The state hash of both.
        state_hash: u128,
    },
    /// They were the same after `agreed` instructions and differ after `differ`.
    Different {
        /// The last comparison that held.
        agreed: u64,
        /// The first one that did not.
        differ: u64,
        /// RIP of each CPU when they agreed.
        at: Vec<u64>,
        /// The fields that differ: path, interpreter's, translator's.
        differences: Vec<(String, String, String)>,
    },
}

/// Runs the machine of `config` on the interpreter and on the translator, without input from outside, and compares the
/// CPUs' states every `step` instructions (memory and devices less often, and at the end) up to `limit` instructions. A
/// difference is narrowed down to one instruction. `progress` is told how many instructions have been
/// compared, and says whether to go on.
///
/// # Errors
/// The machine cannot be built or run.
pub fn lockstep(
    config: &MachineConfig,
    step: u64,
    limit: Option<u64>,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<Verdict, MachineError> {
    let mut pair = Pair::new(config)?;
    let (mut step, mut agreed, mut differ) = (step.max(1), 0, None);
    let mut unsteady = Vec::new();
    loop {
        // Memory may have differed for longer than the CPUs show: only whole comparisons count as agreement.
        let (mut at, mut count) = (agreed, 0_u64);
        let found = loop {
            let next = [limit, differ].into_iter().flatten().fold(at + step, u64::min);
            let rips = pair.interpreter.cpus().map(|cpu| cpu.rip()).collect();
            let stops = pair.run(next)?;
            count += 1;
            // Once there is a difference, it is found.
            let enough = !progress(next) && differ.is_none();
            let ended = stops.0 != StopReason::InstructionLimit || limit == Some(next) || enough;
            let whole = ended || differ.is_some() || count.is_multiple_of(WHOLE);
            if stops.0 != stops.1 || !pair.same(whole) {
                break (next, rips, pair.differences(&stops));
            }
            if differ == Some(next) {
                // It shows only when the run is cut where it was: tell that one.
                return Ok(Verdict::Different { agreed, differ: next, at: rips, differences: unsteady });
            }
            if ended {
                return Ok(Verdict::Same {
                    stop: if enough { StopReason::Timeout } else { stops.0 },
                    instructions: pair.interpreter.instructions(),
                    state_hash: pair.interpreter.state_hash(),
                });
            }
            at = next;
            if whole {
                agreed = at;
            }
        };
        let (next, at, differences) = found;
        if next - agreed <= 1 {
            return Ok(Verdict::Different { agreed, differ: next, at, differences });
        }
        unsteady = differences;
        step = ((next - agreed) / 32).max(1);
        differ = Some(next);
        pair = Pair::new(config)?;
        pair.run(agreed)?;
    }
}

struct Pair {
    interpreter: Machine,
    translator: Machine,
}

impl Pair {
    fn new(config: &MachineConfig) -> Result<Self, MachineError> {
        let machine = |engine| {
            let config = MachineConfig { engine, time: TimeMode::Deterministic, ..config.clone() };
            let machine = Machine::new(config, Backends::console(|_: &[u8]| {}))?;
            machine.handle().close();
            Ok::<_, MachineError>(machine)
        };
        Ok(Self { interpreter: machine(Engine::Interp)?, translator: machine(Engine::Jit)? })
    }

    fn run(&mut self, instructions: u64) -> Result<(StopReason, StopReason), MachineError> {
        let until = RunUntil::instructions(instructions);
        Ok((self.interpreter.run(&until)?, self.translator.run(&until)?))
    }

    fn same(&self, whole: bool) -> bool {
        let (a, b) = (&self.interpreter, &self.translator);
        let cpus = a.cpus().zip(b.cpus()).all(|(a, b)| a.state() == b.state());
        cpus && (!whole || a.state_hash() == b.state_hash())
    }

    fn differences(&self, stops: &(StopReason, StopReason)) -> Vec<(String, String, String)> {
        #[derive(Serialize)]
        struct View {
            stop: String,
            cpus: Vec<ringworld_x86::snapshot::CpuState>,
            memory_and_devices: String,
        }
        let view = |machine: &Machine, stop: &StopReason| {
            serde_json::to_value(View {
                stop: format!("{stop:?}"),
                cpus: machine.cpus().map(|cpu| cpu.state()).collect(),
                memory_and_devices: format!("{:032x}", machine.surroundings_hash()),
            })
            .unwrap_or_default()
        };
        let mut found = Vec::new();
        compare("", &view(&self.interpreter, &stops.0), &view(&self.translator, &stops.1), &mut found);
        found
    }
}

/// Collects the leaves in which two values differ.
fn compare(
    path: &str,
    a: &serde_json::Value,
    b: &serde_json::Value,
    found: &mut Vec<(String, String, String)>,
) {
    use serde_json::Value;
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let show =
        |value: &Value| value.as_u64().map_or_else(|| value.to_string(), |number| format!("{number:#x}"));
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for (name, value) in x {
                compare(&join(name), value, y.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (n, (x, y)) in x.iter().zip(y).enumerate() {
                compare(&join(&n.to_string()), x, y, found);
            }
        }
        _ if a == b => {}
        _ => found.push((path.to_owned(), show(a), show(b))),
    }
}
