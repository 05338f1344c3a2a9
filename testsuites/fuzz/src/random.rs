//! Random numbers of a case, and the mutations that break formats.

/// splitmix64: a case's number is its seed.
pub struct Random(u64);

/// Values on whose edges formats break.
const EDGES: [u64; 16] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x1_0000,
    0x10_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

impl Random {
    /// The numbers of a case.
    pub fn new(case: u64) -> Self {
        Self(case.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of a slice.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A number that is often at an edge.
    pub fn edgy(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next(),
            1 => self.next() >> self.below(64),
            _ => self.pick(&EDGES).wrapping_add(self.below(5) as u64).wrapping_sub(2),
        }
    }

    /// Random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }

    /// Random text with bytes that parsers stumble over.
    pub fn text(&mut self, length: usize) -> String {
        let odd =
            ['\0', ' ', '"', '\'', '=', ',', '/', '.', '-', '\n', '\\', '%', 'ä', '\u{10ffff}', '0', 'x'];
        (0..length)
            .map(|_| if self.one_in(3) { self.pick(&odd) } else { (b'a' + self.below(26) as u8) as char })
            .collect()
    }

    /// Damages `data` in some ways, mostly in its first `hot` bytes, where formats have their headers.
    pub fn damage(&mut self, data: &mut Vec<u8>, hot: usize) {
        for _ in 0..self.below(8) {
            if data.is_empty() {
                return;
            }
            let range = if self.one_in(8) { data.len() } else { data.len().min(hot) };
            let at = self.below(range);
            match self.below(10) {
                0 => data[at] ^= 1 << self.below(8),
                1 => data[at] = self.next() as u8,
                2..=6 => {
                    // A field: fields are aligned to their size more often than not.
                    let size = self.pick(&[1, 2, 4, 4, 8, 8]);
                    let at = if self.one_in(3) { at } else { at & !(size - 1) };
                    let value = self.edgy().to_le_bytes();
                    let end = (at + size).min(data.len());
                    data[at..end].copy_from_slice(&value[..end - at]);
                }
                7 => {
                    let length = self.below(64).min(data.len() - at);
                    let from = self.below(data.len() - length + 1);
                    data.copy_within(from..from + length, at);
                }
                8 => {
                    let length = self.below(16);
                    let bytes = self.bytes(length);
                    data.splice(at..at, bytes);
                }
                _ => {
                    let length = self.below(data.len() + 1);
                    data.truncate(length);
                }
            }
        }
    }
}
