//! The instructions, by family. Each family's `rows` adds its rows to the table.

mod alu;
mod bits;
mod branch;
mod cache;
mod control;
mod cpuid;
mod far;
mod io;
mod misc;
mod monitor;
mod mov;
mod msr;
mod muldiv;
pub mod operand;
mod pkey;
mod random;
mod shift;
pub mod simd;
mod stack;
mod string;
mod tsc;
mod xsave;

use crate::row::{Group, Rows};

/// Adds every family's rows.
pub fn rows(rows: &mut Rows) {
    let families: [fn(&mut Rows); 25] = [
        alu::rows,
        bits::rows,
        branch::rows,
        cache::rows,
        control::rows,
        cpuid::rows,
        far::rows,
        io::rows,
        misc::rows,
        monitor::rows,
        mov::rows,
        msr::rows,
        muldiv::rows,
        pkey::rows,
        random::rows,
        shift::rows,
        simd::rows,
        crate::smm::rows,
        stack::rows,
        crate::svm::instructions::rows,
        string::rows,
        tsc::rows,
        crate::vmx::instructions::rows,
        crate::x87::rows,
        xsave::rows,
    ];
    for family in families {
        // A family that sets its group does so for itself only.
        rows.group(Group::Base);
        family(rows);
    }
}

#[cfg(test)]
mod system_tests;
