//! The processor's own tests of ring 0 on translated code, and tests of what only the translator can get wrong: each
//! program runs on the translator and on the interpreter, and all state must be the same.
#![allow(clippy::type_complexity)] // rows of tables

mod across_pages;
mod borders;
#[path = "../../../../cpu/x86/tests/common/mod.rs"]
mod common;
mod constants;
#[path = "../../../../cpu/x86/tests/system/debug.rs"]
mod debug;
mod faults;
mod flat32;
mod guests;
#[path = "../../../../cpu/x86/tests/system/helpers.rs"]
mod helpers;
mod in_place;
#[path = "../../../../cpu/x86/tests/system/interrupts.rs"]
mod interrupts;
mod loops;
#[path = "../../../../cpu/x86/tests/system/modes.rs"]
mod modes;
#[path = "../../../../cpu/x86/tests/system/paging.rs"]
mod paging;
mod pair;
mod real;
#[path = "../../../../cpu/x86/tests/system/restart.rs"]
mod restart;
mod returns;
#[path = "../../../../cpu/x86/tests/system/segmentation.rs"]
mod segmentation;
mod segmented;
mod segmented_programs;
mod self_modifying;
#[path = "../../../../cpu/x86/tests/system/smc.rs"]
mod smc;
#[path = "../../../../cpu/x86/tests/system/strings.rs"]
mod strings;
#[path = "../../../../cpu/x86/tests/system/tasks.rs"]
mod tasks;
#[path = "../../../../cpu/x86/tests/system/transfers.rs"]
mod transfers;
#[path = "../../../../cpu/x86/tests/system/v8086.rs"]
mod v8086;
mod vectors;
mod windows;
mod x87;

use ringworld_jit_x86::{JitOptions, Translator};
use ringworld_x86::{Cpu, native};

/// The translator, or nothing: then the interpreter runs everything.
struct Native(Option<Translator>);

impl Native {
    fn with(arena: usize, max_block: usize, short_jumps: bool, samples: u8) -> Self {
        let options = JitOptions { arena, threshold: 0, max_block, samples, short_jumps };
        Self(Some(Translator::with(options).expect("a host that can run translated code")))
    }
}

impl Default for Native {
    /// Translates everything before it runs for the first time.
    fn default() -> Self {
        Self::with(1 << 20, 64, true, 4)
    }
}

impl native::Native for Native {
    fn run(&mut self, cpu: &mut Cpu, limit: u64) -> bool {
        self.0.as_mut().is_some_and(|translator| translator.run(cpu, limit))
    }

    fn code_changed(&mut self, cpu: &mut Cpu) {
        if let Some(translator) = &mut self.0 {
            translator.code_changed(cpu);
        }
    }
}
