//! Operands: the same on every machine.

/// Bits of three operands.
pub type Row = [u64; 3];

/// Which operands an instruction is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    /// f32: every exponent of both signs, special values, pseudo-random mantissas. The second and
    /// third are near the first's exponent, or anywhere.
    Singles,
    /// f64, likewise.
    Doubles,
    /// All halves, in the lower and, in another order, the upper half of the first. The second and
    /// third are near the first, or anywhere.
    Halves,
    /// Integers: small, great, and pseudo-random.
    Integers,
}

/// The next number of the generator SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// Rows of floats with `exponent_bits` and `mantissa_bits`.
fn floats(exponent_bits: u32, mantissa_bits: u32, mantissas: u64, state: &mut u64) -> Vec<Row> {
    let mantissa_mask = (1_u64 << mantissa_bits) - 1;
    let exponents = 1_u64 << exponent_bits;
    let any = |state: &mut u64| next(state) >> (63 - exponent_bits - mantissa_bits);
    let mut rows = Vec::new();
    for top in 0..2 * exponents {
        for number in 0..mantissas {
            let mantissa = match number {
                0 => 0,
                1 => 1,
                2 => mantissa_mask,
                3 => 1 << (mantissa_bits - 1),
                _ => next(state) & mantissa_mask,
            };
            let a = top << mantissa_bits | mantissa;
            // Few steps or few exponents away, so that sums cancel and round.
            let near = |state: &mut u64| match next(state) % 4 {
                0 => a ^ exponents << mantissa_bits,
                1 => a ^ exponents << mantissa_bits ^ next(state) & 7,
                2 => {
                    let exponent = top + next(state) % (mantissa_bits as u64 + 4);
                    (exponent % (2 * exponents)) << mantissa_bits | next(state) & mantissa_mask
                }
                _ => any(state),
            };
            rows.push([a, near(state), near(state)]);
        }
    }
    rows
}

impl Operands {
    pub fn rows(self) -> Vec<Row> {
        let mut state = 1;
        match self {
            Self::Singles => floats(8, 23, 128, &mut state),
            Self::Doubles => floats(11, 52, 16, &mut state),
            Self::Halves => (0..0x1_0000_u64)
                .map(|low| {
                    let high = (low.wrapping_mul(0x6A09) + 0x3C6E) & 0xFFFF;
                    let near = |half: u64, random: u64| match random % 4 {
                        0 => half ^ 0x8000,
                        1 => half ^ 0x8000 ^ random >> 8 & 7,
                        2 => (half + (random >> 8 & 0x3FFF)) & 0xFFFF,
                        _ => random >> 8 & 0xFFFF,
                    };
                    let mut second =
                        || near(low, next(&mut state)) | near(high, next(&mut state)) << 16;
                    [low | high << 16, second(), second()]
                })
                .collect(),
            Self::Integers => {
                let edges = [
                    0,
                    1,
                    2,
                    31,
                    32,
                    33,
                    63,
                    64,
                    0x7F,
                    0x80,
                    0xFF,
                    0x7FFF,
                    0x8000,
                    0xFFFF,
                    0x7FFF_FFFF,
                    0x8000_0000,
                    0xFFFF_FFFF,
                    1 << 63,
                    u64::MAX,
                ];
                let mut rows = Vec::new();
                for a in edges {
                    for b in edges {
                        rows.push([a, b, next(&mut state)]);
                    }
                }
                while rows.len() < 0x1_0000 {
                    let mut number = || next(&mut state) >> (next(&mut state) % 64);
                    rows.push([number(), number(), number()]);
                }
                rows
            }
        }
    }
}
