//! Blocks that go on in other pages: random programs of functions that call each other there, while their code, the tables that
//! calls go by, and the mapping of their pages change.

use crate::common::*;
use crate::pair::{put, run};
use crate::segmented_programs::Random;
use iced_x86::code_asm::*;
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Register};
use ringworld_core::GuestPhys;

/// Linear address of the functions' pages.
const WINDOW: u64 = 0x4000_0000;
/// Their page table, and the one above it.
const TABLE: u64 = TABLES + 0x8000;
/// Two versions of each page.
const VERSIONS: [u64; 2] = [0x30_0000, 0x31_0000];
const PAGES: u64 = 4;
const FUNCTIONS: u64 = 5;
const ROUNDS: u32 = 20;

/// Functions call others of higher numbers only, so that they end.
fn function(n: u64) -> u64 {
    WINDOW + n * 7 % PAGES * 0x1000 + n * 0x100
}

/// Where [`DATA`] has the address of a function.
fn entry(n: u64) -> u64 {
    DATA + 8 * n
}

/// A jump or call by the table of functions: off RIP, or absolute.
fn by_table(a: &mut CodeAssembler, code: Code, n: u64, base: Register) -> Result<(), IcedError> {
    let operand = MemoryOperand::with_base_displ_size(base, entry(n) as i64, 8);
    a.add_instruction(Instruction::with1(code, operand)?)
}

fn arithmetic(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let registers = [rax, rbx, rdx, rsi, r8, r10, r11, r14];
    let (one, other) = (random.pick(&registers), random.pick(&registers));
    match random.below(6) {
        0 => a.add(one, other),
        1 => a.xor(one, random.below(1 << 30) as i32),
        2 => a.lea(one, ptr(one + other * 2 + 5)),
        3 => a.adc(one, 3),
        4 => a.push(one).and_then(|()| a.imul_2(one, other)).and_then(|()| a.pop(other)),
        _ => a.sub(one, qword_ptr(DATA + 0x100 + 8 * u64::from(random.below(8)))),
    }
}

/// A function of one version; its first instruction is `mov edi, imm32`.
fn body(n: u64, version: u32, random: &mut Random) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).expect("64 bits");
    let a = &mut assembler;
    let mut emit = || -> Result<(), IcedError> {
        a.mov(edi, version * 1000 + n as u32)?;
        a.add(rbx, rdi)?;
        let mut done = a.create_label();
        for _ in 0..random.below(3) {
            for _ in 0..random.below(4) {
                arithmetic(a, random)?;
            }
            if random.below(4) == 0 {
                a.test(bl, 1 << random.below(3))?;
                a.jz(done)?;
            }
            let other = n + 1 + u64::from(random.below((FUNCTIONS - n) as u32));
            if other < FUNCTIONS && random.below(3) != 0 {
                match random.below(3) {
                    0 => by_table(a, Code::Call_rm64, other, random.pick(&[Register::RIP, Register::None]))?,
                    _ => a.call(function(other))?,
                }
            }
        }
        a.set_label(&mut done)?;
        match (random.below(4), n + 1 < FUNCTIONS) {
            (0, true) => by_table(a, Code::Jmp_rm64, n + 1, Register::RIP),
            (1, true) => a.jmp(function(n + 1)),
            _ => a.ret(),
        }
    };
    emit().expect("encodable");
    assembler.assemble(function(n)).expect("encodable")
}

/// What is changed at the end of each of some rounds.
fn change(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let mut not_now = a.create_label();
    a.mov(eax, ecx)?;
    a.and(eax, random.pick(&[1, 3, 7, 15, 31]))?;
    a.cmp(eax, random.pick(&[0, 1]))?;
    a.jnz(not_now)?;
    let n = u64::from(random.below(FUNCTIONS as u32));
    match random.below(3) {
        // The constant in a function's first instruction.
        0 => {
            a.mov(rdx, function(n) + 1)?;
            a.mov(dword_ptr(rdx), ecx)?;
        }
        // A table's entry: a function of the same number or a higher one.
        1 => {
            let other = n + u64::from(random.below((FUNCTIONS - n) as u32));
            a.mov(rdx, entry(n))?;
            a.mov(rax, function(other))?;
            a.xchg(qword_ptr(rdx), rax)?;
            a.mov(qword_ptr(entry(n) + 0x40), rax)?;
            if random.below(2) == 0 {
                // The next call by the table misses the TLB, too.
                a.invlpg(byte_ptr(rdx))?;
            }
        }
        // A page becomes its other version.
        _ => {
            let page = u64::from(random.below(PAGES as u32));
            a.mov(rdx, TABLE + 8 * page)?;
            a.xor(qword_ptr(rdx), (VERSIONS[0] ^ VERSIONS[1]) as i32)?;
            a.mov(rdx, WINDOW + 0x1000 * page)?;
            a.invlpg(byte_ptr(rdx))?;
        }
    }
    a.set_label(&mut not_now)
}

fn program(seed: u64) -> Rig {
    let mut random = Random::new(seed);
    let mut rig = Rig::long();
    rig.gates();
    rig.poke(TABLES + 0x1008, (TABLE + 0x1000) | 7);
    rig.poke(TABLE + 0x1000, TABLE | 7);
    for page in 0..PAGES {
        rig.poke(TABLE + 8 * page, VERSIONS[0] + 0x1000 * page + 7);
    }
    for n in 0..FUNCTIONS {
        rig.poke(entry(n), function(n));
        let same = random.below(2) == 0;
        let first = body(n, 1, &mut random);
        let second = if same { first.clone() } else { body(n, 2, &mut random) };
        for (version, code) in VERSIONS.into_iter().zip([first, second]) {
            rig.cpu.memory.write(GuestPhys(version + function(n) - WINDOW), &code).expect("in memory");
        }
    }
    put(&mut rig, CODE, |a| {
        a.xor(ebx, ebx)?;
        // All pages are known to the TLB before the loop is translated.
        for n in (0..FUNCTIONS).rev() {
            a.call(function(n))?;
        }
        let mut begin = a.create_label();
        a.jmp(begin)?;
        for _ in 0..random.below(16) {
            a.nop()?;
        }
        a.set_label(&mut begin)?;
        a.mov(ecx, ROUNDS)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        by_table(a, Code::Call_rm64, 0, Register::RIP)?;
        a.call(function(u64::from(random.below(3))))?;
        for _ in 0..=random.below(2) {
            change(a, &mut random)?;
        }
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    });
    rig
}

#[test]
fn random_functions() {
    for seed in 1..=40 {
        run(|| program(seed));
    }
}

/// Functions at the starts of two pages that add 1 and 100 to RBX, and a loop that has called both.
fn two_functions(then: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Rig {
    let mut rig = program(0);
    for (page, code) in [[0x83, 0xc3, 1, 0xc3], [0x83, 0xc3, 100, 0xc3]].into_iter().enumerate() {
        let at = VERSIONS[0] + 0x1000 * page as u64;
        rig.cpu.memory.write(GuestPhys(at), &code).expect("in memory");
        rig.poke(entry(page as u64), WINDOW + 0x1000 * page as u64);
    }
    put(&mut rig, CODE, |a| {
        a.xor(ebx, ebx)?;
        a.mov(ecx, 40)?;
        a.call(WINDOW)?;
        a.call(WINDOW + 0x1000)?;
        then(a)
    });
    rig
}

/// A function in a page that is taken away while others go on in it: the fault is where it begins, after the call.
#[test]
fn a_page_that_is_taken_away() {
    let rig = run(|| {
        two_functions(|a| {
            let mut again = a.create_label();
            let mut next = a.create_label();
            a.set_label(&mut again)?;
            a.call(WINDOW)?;
            a.cmp(ecx, 5)?;
            a.jnz(next)?;
            a.mov(rdx, TABLE)?;
            a.btr(qword_ptr(rdx), 0)?;
            a.mov(rdx, WINDOW)?;
            a.invlpg(byte_ptr(rdx))?;
            a.set_label(&mut next)?;
            a.dec(ecx)?;
            a.jmp(again)
        })
    });
    // The page fault's handler, its address, and the calls that came there.
    assert_eq!((rig.cpu.rip(), rig.cpu.cr2, rig.cpu.regs[3]), (0x900f, WINDOW, 101 + 36));
}

/// A table of functions that leads elsewhere when the TLB does not know its page.
#[test]
fn a_table_that_changes_out_of_sight() {
    let rig = run(|| {
        two_functions(|a| {
            let mut again = a.create_label();
            let mut next = a.create_label();
            a.set_label(&mut again)?;
            by_table(a, Code::Call_rm64, 0, Register::RIP)?;
            a.cmp(ecx, 5)?;
            a.jnz(next)?;
            a.mov(rdx, entry(0))?;
            a.add(qword_ptr(rdx), 0x1000)?;
            a.invlpg(byte_ptr(rdx))?;
            a.set_label(&mut next)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        })
    });
    assert_eq!(rig.cpu.regs[3], 101 + 36 + 4 * 100);
}
