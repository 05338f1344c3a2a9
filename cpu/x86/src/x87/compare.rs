//! FCOM, FUCOM, FICOM, FTST, FCOMI, FUCOMI and FXAM.

use super::arithmetic::MemoryOperand;
use super::{exception::Operation, fsw};
use crate::flags::bits;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;
use ringworld_fp::x87::{self, Examined};
use ringworld_fp::{F80, Relation};

/// Where a comparison's result goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// C3, C2 and C0.
    Conditions,
    /// ZF, PF and CF; OF, SF and AF are cleared.
    Flags,
}

impl Cpu {
    /// Reports a comparison; an unmasked exception keeps the stack from being popped, but not the result from being reported, as
    /// silicon has it.
    fn x87_relation(&mut self, i: &Insn, operation: Operation, relation: Relation, to: To, pops: u32) {
        match to {
            To::Conditions => self.x87.set_conditions(match relation {
                Relation::Less => fsw::C0,
                Relation::Equal => fsw::C3,
                Relation::Greater => 0,
                Relation::Unordered => fsw::C3 | fsw::C2 | fsw::C0,
            }),
            To::Flags => self.flags.set_status(match relation {
                Relation::Less => bits::CF,
                Relation::Equal => bits::ZF,
                Relation::Greater => 0,
                Relation::Unordered => bits::ZF | bits::PF | bits::CF,
            }),
        }
        if operation.env.stores() {
            for _ in 0..pops {
                self.x87.pop();
            }
        }
        self.x87_end(i, operation);
    }

    fn x87_compare(&mut self, i: &Insn, n: u8, signaling: bool, to: To, pops: u32) -> Result<(), Stop> {
        let mut operation = self.x87_begin()?;
        // FCOMI leaves C1 alone, but for a stack fault.
        operation.env.c1 = to == To::Flags && self.x87.status & fsw::C1 != 0;
        let relation = match (self.x87.get(0), self.x87.get(n)) {
            (Some(a), Some(b)) => x87::compare(&mut operation.env, a, b, signaling),
            _ => {
                operation.underflow();
                Relation::Unordered
            }
        };
        self.x87_relation(i, operation, relation, to, pops);
        Ok(())
    }
}

fn com<const POPS: u32>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_compare(i, i.r[1], true, To::Conditions, POPS)
}

fn ucom<const POPS: u32>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_compare(i, i.r[1], false, To::Conditions, POPS)
}

fn compp<const SIGNALING: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_compare(i, 1, SIGNALING, To::Conditions, 2)
}

fn comi<const SIGNALING: bool, const POPS: u32>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_compare(i, i.r[1], SIGNALING, To::Flags, POPS)
}

fn com_memory<T: MemoryOperand, const POPS: u32>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut operation = cpu.x87_begin()?;
    let source: T = cpu.load(i)?;
    let relation = match cpu.x87.get(0) {
        Some(st0) => source.with(&mut operation.env, st0, |env, a, b| x87::compare(env, a, b, true)),
        None => {
            operation.underflow();
            Relation::Unordered
        }
    };
    cpu.x87_relation(i, operation, relation, To::Conditions, POPS);
    Ok(())
}

fn ftst(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut operation = cpu.x87_begin()?;
    let relation = match cpu.x87.get(0) {
        Some(st0) => x87::compare(&mut operation.env, st0, F80::ZERO, true),
        None => {
            operation.underflow();
            Relation::Unordered
        }
    };
    cpu.x87_relation(i, operation, relation, To::Conditions, 0);
    Ok(())
}

fn fxam(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut operation = cpu.x87_begin()?;
    let conditions = match cpu.x87.get(0).map(x87::examine) {
        None => fsw::C3 | fsw::C0,
        Some(Examined::Unsupported) => 0,
        Some(Examined::Nan) => fsw::C0,
        Some(Examined::Normal) => fsw::C2,
        Some(Examined::Infinity) => fsw::C2 | fsw::C0,
        Some(Examined::Zero) => fsw::C3,
        Some(Examined::Denormal) => fsw::C3 | fsw::C2,
    };
    operation.env.c1 = cpu.x87.raw(0).sign();
    cpu.x87.set_conditions(conditions);
    cpu.x87_end(i, operation);
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    for code in [Code::Fcom_st0_sti, Code::Fcom_st0_sti_DCD0] {
        rows.add(code, com::<0>);
    }
    for code in [Code::Fcomp_st0_sti, Code::Fcomp_st0_sti_DCD8, Code::Fcomp_st0_sti_DED0] {
        rows.add(code, com::<1>);
    }
    rows.add(Code::Fcompp, compp::<true>);
    rows.add(Code::Fucom_st0_sti, ucom::<0>);
    rows.add(Code::Fucomp_st0_sti, ucom::<1>);
    rows.add(Code::Fucompp, compp::<false>);
    rows.add(Code::Fcomi_st0_sti, comi::<true, 0>);
    rows.add(Code::Fcomip_st0_sti, comi::<true, 1>);
    rows.add(Code::Fucomi_st0_sti, comi::<false, 0>);
    rows.add(Code::Fucomip_st0_sti, comi::<false, 1>);
    rows.add(Code::Fcom_m32fp, com_memory::<u32, 0>);
    rows.add(Code::Fcom_m64fp, com_memory::<u64, 0>);
    rows.add(Code::Fcomp_m32fp, com_memory::<u32, 1>);
    rows.add(Code::Fcomp_m64fp, com_memory::<u64, 1>);
    rows.add(Code::Ficom_m16int, com_memory::<i16, 0>);
    rows.add(Code::Ficom_m32int, com_memory::<i32, 0>);
    rows.add(Code::Ficomp_m16int, com_memory::<i16, 1>);
    rows.add(Code::Ficomp_m32int, com_memory::<i32, 1>);
    rows.add(Code::Ftst, ftst);
    rows.add(Code::Fxam, fxam);
}
