//! Instructions as text.

use iced_x86::{Decoder, DecoderOptions, FastFormatter, Instruction};
use ringworld_x86::Cpu;

/// One disassembled instruction.
pub struct Line {
    /// Its linear address.
    pub address: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its text; `(bad)` if the bytes are none.
    pub text: String,
}

/// Disassembles up to `count` instructions in the CPU's mode. The first byte is at offset `ip` of the code segment and at
/// `linear`.
pub fn disassemble(cpu: &Cpu, bytes: &[u8], ip: u64, linear: u64, count: usize) -> Vec<Line> {
    let mut decoder = Decoder::with_ip(cpu.mode.bitness(), bytes, ip, DecoderOptions::NONE);
    let mut formatter = FastFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(true);
    formatter.options_mut().set_use_hex_prefix(true);
    formatter.options_mut().set_uppercase_hex(false);
    let mut instruction = Instruction::default();
    let mut lines = Vec::new();
    while lines.len() < count && decoder.can_decode() {
        let start = decoder.position();
        decoder.decode_out(&mut instruction);
        let end = decoder.position();
        let mut text = String::new();
        if instruction.is_invalid() {
            text.push_str("(bad)");
        } else {
            formatter.format(&instruction, &mut text);
        }
        let address = linear.wrapping_add(start as u64);
        lines.push(Line { address, bytes: bytes[start..end].to_vec(), text });
    }
    lines
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
