//! SSE4a: EXTRQ, INSERTQ, and non-temporal stores of scalars (APM 4).

use crate::row::{Group, Rows};
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

/// The mask of a field: a length of 0 means 64 bits. Fields that leave the quadword, which APM 4 leaves open, are cut.
fn field(length: u64, index: u64) -> (u64, u32) {
    let length = length & 63;
    (if length == 0 { u64::MAX } else { (1 << length) - 1 }, (index & 63) as u32)
}

/// EXTRQ: the field, zero-extended. The upper quadword is undefined (APM 4): silicon clears it.
fn extract(cpu: &mut Cpu, i: &Insn, length: u64, index: u64) {
    let (mask, shift) = field(length, index);
    let d = &mut cpu.zmm[usize::from(i.r[0] & 31)];
    d[0] = d[0] >> shift & mask;
    d[1] = 0;
}

/// INSERTQ: the low bits of the source take the field's place. The upper quadword as with EXTRQ.
fn insert(cpu: &mut Cpu, i: &Insn, length: u64, index: u64) {
    let (mask, shift) = field(length, index);
    let source = cpu.zmm[usize::from(i.r[1] & 31)][0];
    let d = &mut cpu.zmm[usize::from(i.r[0] & 31)];
    d[0] = d[0] & !(mask << shift) | (source & mask) << shift;
    d[1] = 0;
}

fn extrq_immediate(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    extract(cpu, i, i.imm & 0xff, i.imm >> 32 & 0xff);
    Ok(())
}

fn extrq_register(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let control = cpu.zmm[usize::from(i.r[1] & 31)][0];
    extract(cpu, i, control, control >> 8);
    Ok(())
}

fn insertq_immediate(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    insert(cpu, i, i.imm & 0xff, i.imm >> 32 & 0xff);
    Ok(())
}

fn insertq_register(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let control = cpu.zmm[usize::from(i.r[1] & 31)][1];
    insert(cpu, i, control, control >> 8);
    Ok(())
}

fn movntss(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.store(i, cpu.zmm[usize::from(i.r[1] & 31)][0] as u32)
}

fn movntsd(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.store(i, cpu.zmm[usize::from(i.r[1] & 31)][0])
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.group(Group::Sse);
    rows.add(Code::Extrq_xmm_imm8_imm8, extrq_immediate);
    rows.add(Code::Extrq_xmm_xmm, extrq_register);
    rows.add(Code::Insertq_xmm_xmm_imm8_imm8, insertq_immediate);
    rows.add(Code::Insertq_xmm_xmm, insertq_register);
    rows.add(Code::Movntss_m32_xmm, movntss);
    rows.add(Code::Movntsd_m64_xmm, movntsd);
}

#[cfg(test)]
mod tests {
    use crate::testing;

    #[test]
    fn fields_move() {
        // APM 4, EXTRQ and INSERTQ: bytes, xmm1 before, xmm2, xmm1 after.
        let source = [0xfedc_ba98_7654_3210, 0];
        for (bytes, before, other, after) in [
            // EXTRQ xmm1, 8, 4; xmm1, 0, 0.
            (&[0x66, 0x0f, 0x78, 0xc1, 8, 4][..], source[0], [0; 2], 0x21),
            (&[0x66, 0x0f, 0x78, 0xc1, 0, 0], source[0], [0; 2], source[0]),
            // EXTRQ xmm1, xmm2: length 12, index 16.
            (&[0x66, 0x0f, 0x79, 0xca], source[0], [0x100c, 0], 0x654),
            // INSERTQ xmm1, xmm2, 16, 8.
            (&[0xf2, 0x0f, 0x78, 0xca, 16, 8], source[0], [0xabcd, 0], 0xfedc_ba98_76ab_cd10),
            // INSERTQ xmm1, xmm2: length 0 (64), index 0.
            (&[0xf2, 0x0f, 0x79, 0xca], source[0], [77, 0], 77),
            // The field leaves the quadword.
            (&[0x66, 0x0f, 0x78, 0xc1, 32, 60], source[0], [0; 2], 0xf),
        ] {
            let mut cpu = testing::cpu("EPYC");
            testing::long_mode(&mut cpu);
            cpu.zmm[1] = [before, 5, 6, 0, 0, 0, 0, 0];
            cpu.zmm[2][..2].copy_from_slice(&other);
            testing::run(&mut cpu, bytes).unwrap();
            assert_eq!(cpu.zmm[1], [after, 0, 6, 0, 0, 0, 0, 0], "{bytes:x?}");
        }
    }

    #[test]
    fn scalars_are_stored() {
        // MOVNTSS [RAX], xmm1; MOVNTSD [RAX], xmm1. Only AMD has them.
        let mut cpu = testing::cpu("EPYC");
        testing::long_mode(&mut cpu);
        cpu.regs[0] = 0x5000;
        cpu.zmm[1][0] = 0x1122_3344_5566_7788;
        testing::run(&mut cpu, &[0xf3, 0x0f, 0x2b, 0x08]).unwrap();
        let stored = |cpu: &crate::Cpu| cpu.memory.read_u64(ringworld_core::GuestPhys(0x5000)).unwrap();
        assert_eq!(stored(&cpu), 0x5566_7788);
        testing::run(&mut cpu, &[0xf2, 0x0f, 0x2b, 0x08]).unwrap();
        assert_eq!(stored(&cpu), 0x1122_3344_5566_7788);
        let mut intel = testing::cpu("max");
        testing::long_mode(&mut intel);
        assert_eq!(testing::run(&mut intel, &[0xf2, 0x0f, 0x2b, 0x08]), Err(6));
    }
}
