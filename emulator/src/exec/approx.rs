//! `.approx` results moved within the error that the PTX manual documents.
//!
//! The interpreter's own results are closer to the truth than a GPU's. In a process that perturbs
//! them, each is replaced by another that the manual allows too: a function of seed, instruction
//! and operand, so that equal operands give equal results on every lane and in every launch.
//!
//! The bounds, from the PTX ISA manual (9.0), sections 9.7.3.8 `div`, .13 `rcp`, .15 `sqrt`,
//! .16 `rsqrt`, .18 `sin`, .19 `cos`, .20 `lg2`, .21 `ex2`, .22 `tanh`, 9.7.4.9 `tanh` and 9.7.4.10
//! `ex2` of halves:
//!
//! | Instruction | Greatest error |
//! | --- | --- |
//! | `div.approx.f32` | 2 ulp for a divisor in [2^-126, 2^126] |
//! | `div.full.f32` | 2 ulp |
//! | `rcp.approx.f32` | 1 ulp |
//! | `sqrt.approx.f32` | relative 2^-23 |
//! | `rsqrt.approx.f32` | relative 2^-22.9 |
//! | `sin.approx.f32`, `cos.approx.f32` | absolute 2^-20.5 in [-2 pi, 2 pi], 2^-14.7 in [-100 pi, 100 pi] |
//! | `lg2.approx.f32` | absolute 2^-22 in (0.5, 2), relative 2^-22 elsewhere |
//! | `ex2.approx.f32` | 2 ulp from the correctly rounded result |
//! | `tanh.approx.f32` | relative 2^-11 |
//! | `ex2.approx.f16` | relative 2^-9.9 |
//! | `ex2.approx.ftz.bf16` | relative 2^-7 |
//! | `tanh.approx.f16` | absolute 2^-10.987 |
//! | `tanh.approx.bf16` | absolute 2^-8 |
//!
//! No bound is documented for `sin` and `cos` of greater angles, and none for
//! `rcp.approx.ftz.f64`, `rsqrt.approx.ftz.f64` and `rsqrt.approx.f64`: these are not moved.
//! Results of zeros, infinities and NaNs, which the manual tabulates, are not moved either, nor
//! those that underflow to zero or overflow.

use std::f64::consts::PI;

use super::alu::{LANES, Registers};
use super::float::{NAN_F32, NAN_HALF, canonical, div_approx, flush, half_to_f64, round_half};
pub use crate::ptx::ir::HalfKind;
use crate::ptx::ir::{Alu32, HalfOp, Op, Perturbed, Round};
use crate::settings::{Choice, split_mix};

/// A function that has an `.approx` instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Function {
    Div,
    DivFull,
    Rcp,
    Sqrt,
    Rsqrt,
    Sin,
    Cos,
    Lg2,
    Ex2,
    Tanh,
}

/// Format of operands and result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Format {
    F32,
    Half(HalfKind),
}

/// Greatest error that the manual allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Units in the last place of the true value.
    Ulps(f64),
    /// Steps of the format from the correctly rounded value.
    Steps(i64),
    /// Times the true value.
    Relative(f64),
    /// As it is.
    Absolute(f64),
    /// The manual gives none.
    Undocumented,
}

/// The error that is documented for a function at an operand (a divisor, for a division).
pub fn bound(function: Function, format: Format, operand: f64) -> Bound {
    use Function::{Cos, Div, DivFull, Ex2, Lg2, Rcp, Rsqrt, Sin, Sqrt, Tanh};
    let magnitude = operand.abs();
    match (function, format) {
        (Div, Format::F32) if (2_f64.powi(-126)..=2_f64.powi(126)).contains(&magnitude) => {
            Bound::Ulps(2.0)
        }
        (DivFull, Format::F32) => Bound::Ulps(2.0),
        (Rcp, Format::F32) => Bound::Ulps(1.0),
        (Sqrt, Format::F32) => Bound::Relative(2_f64.powi(-23)),
        (Rsqrt, Format::F32) => Bound::Relative(2_f64.powf(-22.9)),
        (Sin | Cos, Format::F32) if magnitude <= 2.0 * PI => Bound::Absolute(2_f64.powf(-20.5)),
        (Sin | Cos, Format::F32) if magnitude <= 100.0 * PI => Bound::Absolute(2_f64.powf(-14.7)),
        (Lg2, Format::F32) if 0.5 < operand && operand < 2.0 => Bound::Absolute(2_f64.powi(-22)),
        (Lg2, Format::F32) => Bound::Relative(2_f64.powi(-22)),
        (Ex2, Format::F32) => Bound::Steps(2),
        // A subnormal operand is passed through.
        (Tanh, Format::F32) if magnitude < 2_f64.powi(-126) => Bound::Undocumented,
        (Tanh, Format::F32) => Bound::Relative(2_f64.powi(-11)),
        (Ex2, Format::Half(HalfKind::F16)) => Bound::Relative(2_f64.powf(-9.9)),
        (Ex2, Format::Half(HalfKind::Bf16)) => Bound::Relative(2_f64.powi(-7)),
        (Tanh, Format::Half(HalfKind::F16)) => Bound::Absolute(2_f64.powf(-10.987)),
        (Tanh, Format::Half(HalfKind::Bf16)) => Bound::Absolute(2_f64.powi(-8)),
        _ => Bound::Undocumented,
    }
}

/// What the function gives without any rounding but f64's.
pub fn truth(function: Function, a: f64, b: f64) -> f64 {
    match function {
        Function::Div | Function::DivFull => a / b,
        Function::Rcp => 1.0 / a,
        Function::Sqrt => a.sqrt(),
        Function::Rsqrt => 1.0 / a.sqrt(),
        Function::Sin => a.sin(),
        Function::Cos => a.cos(),
        Function::Lg2 => a.log2(),
        Function::Ex2 => a.exp2(),
        Function::Tanh => a.tanh(),
    }
}

/// How much of the documented error a result has: above 1 is too much. `None` if no bound is
/// documented, and for results that the manual tabulates: not finite, or of special operands.
pub fn error_share(
    function: Function,
    format: Format,
    ftz: bool,
    operands: [u32; 2],
    found: u32,
) -> Option<f64> {
    let [a, b] = operands.map(|bits| format.value(format.flush(bits, ftz)));
    let divides = matches!(function, Function::Div | Function::DivFull);
    let is_special = |x: f64| x == 0.0 || !x.is_finite();
    let (truth, value) = (truth(function, a, b), format.value(found));
    let nearest = format.round(truth, Round::Nearest);
    let all_finite = truth.is_finite() && value.is_finite() && format.value(nearest).is_finite();
    if !all_finite || is_special(a) || divides && is_special(b) {
        return None;
    }
    let error = (value - truth).abs();
    let share = match bound(function, format, if divides { b } else { a }) {
        Bound::Ulps(count) => error / (count * format.ulp(truth)),
        Bound::Relative(factor) => error / (factor * truth.abs()),
        Bound::Absolute(allowed) => error / allowed,
        Bound::Steps(count) => {
            let order = |bits: u32| {
                let magnitude = i64::from(bits & !format.sign());
                if bits & format.sign() == 0 { magnitude } else { -magnitude }
            };
            (order(found) - order(nearest)).abs() as f64 / count as f64
        }
        Bound::Undocumented => return None,
    };
    // A subnormal result is flushed, and no bound asks for more than the nearest number.
    let flushed = ftz && value == 0.0 && truth.abs() < format.least_normal();
    Some(if found == nearest || flushed { share.min(1.0) } else { share })
}

impl Format {
    /// The number that bits are.
    pub fn value(self, bits: u32) -> f64 {
        match self {
            Self::F32 => f64::from(f32::from_bits(bits)),
            Self::Half(kind) => half_to_f64(bits as u16, kind),
        }
    }

    fn round(self, x: f64, round: Round) -> u32 {
        match self {
            Self::F32 => super::float::round_f32(x, round).to_bits(),
            Self::Half(kind) => u32::from(round_half(x, kind, round)),
        }
    }

    fn nan(self) -> u32 {
        match self {
            Self::F32 => NAN_F32,
            Self::Half(_) => u32::from(NAN_HALF),
        }
    }

    fn sign(self) -> u32 {
        match self {
            Self::F32 => 1 << 31,
            Self::Half(_) => 1 << 15,
        }
    }

    /// Bits of the greatest finite number.
    fn greatest(self) -> u32 {
        match self {
            Self::F32 => 0x7F7F_FFFF,
            Self::Half(HalfKind::F16) => 0x7BFF,
            Self::Half(HalfKind::Bf16) => 0x7F7F,
        }
    }

    /// Distance of neighbours around `x`.
    fn ulp(self, x: f64) -> f64 {
        let below = self.round(x.abs(), Round::Zero).min(self.greatest() - 1);
        self.value(below + 1) - self.value(below)
    }

    /// The smallest normal number.
    pub fn least_normal(self) -> f64 {
        match self {
            Self::F32 | Self::Half(HalfKind::Bf16) => 2_f64.powi(-126),
            Self::Half(HalfKind::F16) => 2_f64.powi(-14),
        }
    }

    /// Zero of its sign for a subnormal, if asked.
    pub fn flush(self, bits: u32, ftz: bool) -> u32 {
        let exponent = match self {
            Self::F32 => 0x7F80_0000,
            Self::Half(HalfKind::F16) => 0x7C00,
            Self::Half(HalfKind::Bf16) => 0x7F80,
        };
        if ftz && bits & exponent == 0 { bits & self.sign() } else { bits }
    }
}

/// A number in [0, 1): for a seed, a function of it, the instruction and its operands.
fn fraction(choice: Choice, function: Function, format: Format, operands: [u32; 2]) -> f64 {
    let seed = match choice {
        Choice::Seed(seed) => seed,
        Choice::Least => return 0.0,
        Choice::Greatest => return 1.0_f64.next_down(),
    };
    let format = match format {
        Format::F32 => 0,
        Format::Half(HalfKind::F16) => 1,
        Format::Half(HalfKind::Bf16) => 2,
    };
    let mut state = seed ^ (function as u64) << 8 ^ format;
    state = split_mix(&mut state) ^ u64::from(operands[0]) << 32 ^ u64::from(operands[1]);
    (split_mix(&mut state) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A result within the documented error.
pub fn perturbed(
    function: Function,
    format: Format,
    ftz: bool,
    operands: [u32; 2],
    choice: Choice,
) -> u32 {
    let [a, b] = operands.map(|bits| format.value(format.flush(bits, ftz)));
    let divides = matches!(function, Function::Div | Function::DivFull);
    let exact = if function == Function::Div {
        div_approx(a as f32, b as f32).to_bits()
    } else {
        format.round(truth(function, a, b), Round::Nearest)
    };
    let exact = format.flush(exact, ftz);
    let is_special = |x: f64| x == 0.0 || !x.is_finite();
    let value = format.value(exact);
    if value.is_nan() {
        return format.nan();
    }
    let truth = truth(function, a, b);
    // A zero that is the true value of no special operand, such as lg2(1), has an error too.
    let underflow = value == 0.0 && truth != 0.0;
    if is_special(a) || divides && is_special(b) || value.is_infinite() || underflow {
        return exact;
    }
    let error = match bound(function, format, if divides { b } else { a }) {
        Bound::Ulps(count) => count * format.ulp(truth),
        Bound::Relative(factor) => factor * truth.abs(),
        Bound::Absolute(error) => error,
        Bound::Steps(count) => {
            let below = i64::from(exact & !format.sign()) - count;
            let choices = (2 * count + 1) as f64;
            let chosen = below + (fraction(choice, function, format, operands) * choices) as i64;
            let moved = chosen.clamp(0, i64::from(format.greatest())) as u32;
            let moved = moved | exact & format.sign();
            // Flushing would make the error greater.
            return if format.flush(moved, ftz) == moved { moved } else { exact };
        }
        Bound::Undocumented => return exact,
    };
    let target = truth + error * (2.0 * fraction(choice, function, format, operands) - 1.0);
    // Rounding may lead out of the interval; then the neighbour on the other side is inside, or
    // nothing but the nearest is.
    let inside = |bits: &u32| {
        let value = format.value(*bits);
        value.is_finite() && (value - truth).abs() <= error && format.flush(*bits, ftz) == *bits
    };
    [Round::Nearest, Round::Zero, Round::Down, Round::Up]
        .map(|round| format.round(target, round))
        .into_iter()
        .find(inside)
        .unwrap_or(exact)
}

/// What an instruction approximates: function, format, whether it flushes.
fn approximation(op: Alu32) -> Option<(Function, Format, bool)> {
    Some(match op {
        Alu32::DivApprox(ftz) => (Function::Div, Format::F32, ftz),
        Alu32::DivFull(ftz) => (Function::DivFull, Format::F32, ftz),
        Alu32::RcpApprox(ftz) => (Function::Rcp, Format::F32, ftz),
        Alu32::SqrtApprox(ftz) => (Function::Sqrt, Format::F32, ftz),
        Alu32::RsqrtApprox(ftz) => (Function::Rsqrt, Format::F32, ftz),
        Alu32::Sin(ftz) => (Function::Sin, Format::F32, ftz),
        Alu32::Cos(ftz) => (Function::Cos, Format::F32, ftz),
        Alu32::Lg2(ftz) => (Function::Lg2, Format::F32, ftz),
        Alu32::Ex2(ftz) => (Function::Ex2, Format::F32, ftz),
        Alu32::Tanh => (Function::Tanh, Format::F32, false),
        Alu32::Half(half) => match half.op {
            HalfOp::Ex2 => (Function::Ex2, Format::Half(half.kind), half.ftz),
            HalfOp::Tanh => (Function::Tanh, Format::Half(half.kind), half.ftz),
            _ => return None,
        },
        _ => return None,
    })
}

/// Whether an instruction has an error that can be perturbed.
pub(crate) fn is_approximate(op: &Op) -> bool {
    matches!(op, Op::Alu32 { op, .. } if approximation(*op).is_some())
}

/// Executes a perturbed instruction.
pub(crate) fn execute(regs: &mut Registers, instruction: &Perturbed, mask: u32) {
    let Op::Alu32 { op, d, s } = &instruction.exact else {
        unreachable!("the decoder perturbs no other instruction");
    };
    let Some((function, format, ftz)) = approximation(*op) else {
        unreachable!("the decoder perturbs no other instruction");
    };
    let (a, b) = (regs.b32[s[0] as usize], regs.b32[s[1] as usize]);
    let of = |operands| perturbed(function, format, ftz, operands, instruction.choice);
    let divides = matches!(function, Function::Div | Function::DivFull);
    let out: [u32; LANES] = std::array::from_fn(|lane| {
        if mask >> lane & 1 == 0 {
            return 0;
        }
        match op {
            Alu32::Half(half) => {
                let low = of([a[lane] & 0xFFFF, 0]);
                let high = if half.packed { of([a[lane] >> 16, 0]) } else { 0 };
                high << 16 | low
            }
            _ => {
                let bits = of([a[lane], if divides { b[lane] } else { 0 }]);
                flush(canonical(f32::from_bits(bits)), ftz).to_bits()
            }
        }
    });
    regs.write32(*d, mask, &out);
}
