//! Random bytes through the decoder, in each mode of each CPU model.

use crate::guest;
use crate::random::Random;
use iced_x86::{Decoder, Instruction};
use ringworld_x86::decode::{Decoded, decode};

pub fn run(random: &mut Random) -> &'static str {
    let (mode, model, bits) = guest::mode(random);
    let length = random.below(48);
    let mut bytes = random.bytes(length);
    // Prefixes and escapes, so that the far corners of the map are seen as often as the near ones.
    for byte in &mut bytes {
        if random.one_in(3) {
            *byte = random.pick(&[
                0x0f, 0x66, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x67, 0x48, 0x38, 0x3a, 0xc4, 0xc5, 0x62, 0x8f,
                0xff,
            ]);
        }
    }
    let mut decoder = Decoder::with_ip(bits, &bytes, random.next(), model.decoder_options());
    let mut scratch = Instruction::default();
    let mut decoded = 0;
    while decoder.can_decode() {
        let before = decoder.position();
        match decode(&mut decoder, &mut scratch, mode, &model) {
            Decoded::Instruction(insn, _) => {
                assert!((1..=15).contains(&insn.len), "an instruction of {} bytes", insn.len);
                decoded += 1;
            }
            Decoded::NeedMore => {
                assert!(bytes.len() - before < 15, "15 bytes are enough for any instruction");
                break;
            }
        }
        assert!(decoder.position() > before, "the decoder stands still at {before}");
    }
    match decoded {
        0 => "incomplete",
        1 => "one instruction",
        _ => "several instructions",
    }
}
