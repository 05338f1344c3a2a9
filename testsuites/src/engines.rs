//! Interpreter and translator over the same case: whatever a machine could ever notice must be the same, flags that the
//! manuals leave undefined, too.

use crate::case::Case;
use crate::emulated::Emulated;
use anyhow::Result;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Both engines, each with a machine of its own.
pub struct Engines {
    interpreter: Emulated,
    /// The one that is tested.
    pub translator: Emulated,
    entries: u64,
    executed: u64,
}

impl Engines {
    /// Builds both machines.
    pub fn new() -> Result<Self> {
        let (interpreter, translator) = (Emulated::new()?, Emulated::translated()?);
        Ok(Self { interpreter, translator, entries: 0, executed: 0 })
    }

    /// Runs of translated code that called no function.
    pub fn emitted(&self) -> u64 {
        self.entries - self.executed.min(self.entries)
    }

    /// How the engines differ after `case`, stopped once after `cut` instructions; empty if they agree.
    pub fn compare(&mut self, case: &Case, cut: Option<u64>) -> Result<Vec<String>> {
        let before = self.translator.jit_stats();
        let ours = catch_unwind(AssertUnwindSafe(|| {
            (self.interpreter.run_as_machine(case, cut), self.translator.run_as_machine(case, cut))
        }));
        let after = self.translator.jit_stats();
        self.entries += u64::from(after.entries > before.entries);
        self.executed += u64::from(after.executed > before.executed);
        let mut found = Vec::new();
        match ours {
            Err(_) => found.push("an engine panicked".to_string()),
            Ok((interpreted, translated)) => {
                if interpreted.fault != translated.fault {
                    found
                        .push(format!("fault: {:x?}, translated {:x?}", interpreted.fault, translated.fault));
                }
                let (a, b) = (self.interpreter.whole(), self.translator.whole());
                if a.0 != b.0 {
                    let view = |state| serde_json::to_value(state).unwrap_or_default();
                    leaves("", &view(&a.0), &view(&b.0), &mut found);
                }
                if let Some(at) = (0..a.1.len()).find(|&at| a.1[at] != b.1[at]) {
                    let (x, y) = (a.1[at], b.1[at]);
                    found.push(format!("memory at {at:#x}: interpreted {x:#x}, translated {y:#x}"));
                }
            }
        }
        if !found.is_empty() {
            // The next case starts from equal machines.
            (self.interpreter, self.translator) = (Emulated::new()?, Emulated::translated()?);
        }
        Ok(found)
    }
}

/// Collects the leaves in which two values differ.
fn leaves(path: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for (name, value) in x {
                leaves(&format!("{path}.{name}"), value, y.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (n, (x, y)) in x.iter().zip(y).enumerate() {
                leaves(&format!("{path}.{n}"), x, y, found);
            }
        }
        _ if a == b => {}
        _ => {
            let hex = |value: &Value| {
                value.as_u64().map_or_else(|| value.to_string(), |number| format!("{number:#x}"))
            };
            found.push(format!("{path}: interpreted {}, translated {}", hex(a), hex(b)));
        }
    }
}
