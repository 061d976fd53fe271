//! f64 arithmetic in every rounding, in integers: a result is an exact number, or one truncated
//! with the knowledge that something was lost, and is rounded once.

pub use crate::ptx::ir::{DoubleOp, Round};

/// `mantissa * 2^exponent`, and whether a fraction of the mantissa's last place is missing.
struct Exact {
    negative: bool,
    mantissa: u128,
    exponent: i32,
    inexact: bool,
}

/// `mantissa * 2^exponent` with 53 bits of mantissa, of a finite number that is not zero.
#[derive(Clone, Copy)]
struct Unpacked {
    negative: bool,
    mantissa: u128,
    exponent: i32,
}

const MANTISSA_BITS: u32 = 52;
/// Exponent of the last place of the smallest numbers.
const LEAST_EXPONENT: i32 = -1074;

fn unpack(x: f64) -> Unpacked {
    let bits = x.to_bits();
    let field = (bits >> MANTISSA_BITS & 0x7FF) as i32;
    let fraction = bits & ((1 << MANTISSA_BITS) - 1);
    let (mantissa, exponent) = if field == 0 {
        let shift = fraction.leading_zeros() - (63 - MANTISSA_BITS);
        (fraction << shift, LEAST_EXPONENT - shift as i32)
    } else {
        (fraction | 1 << MANTISSA_BITS, field - 1075)
    };
    Unpacked { negative: x.is_sign_negative(), mantissa: mantissa.into(), exponent }
}

/// A right shift that remembers whether it lost anything.
fn shift_right(mantissa: u128, count: u32) -> (u128, bool) {
    if count >= 128 {
        return (0, mantissa != 0);
    }
    let kept = mantissa >> count;
    (kept, kept << count != mantissa)
}

/// The f64 that a number which is not zero rounds to.
fn round(x: &Exact, round: Round) -> f64 {
    let length = 128 - x.mantissa.leading_zeros() as i32;
    // Places below the last one that f64 keeps.
    let drop = (length - 53).max(LEAST_EXPONENT - x.exponent);
    let (kept, mut above_half, mut half) = if drop <= 0 {
        // Only an exact mantissa is this short.
        (x.mantissa << -drop.max(-127), false, false)
    } else {
        let (kept, _) = shift_right(x.mantissa, drop as u32);
        let (with_next, rest) = shift_right(x.mantissa, drop as u32 - 1);
        (kept, rest && with_next & 1 == 1, with_next & 1 == 1)
    };
    let lost = x.inexact || drop > 0 && shift_right(x.mantissa, drop as u32).1;
    above_half |= half && x.inexact;
    half &= !above_half;
    let up = match round {
        Round::Nearest => above_half || half && kept & 1 == 1,
        Round::Zero => false,
        Round::Down => lost && x.negative,
        Round::Up => lost && !x.negative,
    };
    let mantissa = kept as u64 + u64::from(up);
    let exponent = x.exponent + drop;
    // A mantissa of 53 bits carries its leading bit into the field of the exponent.
    let field = if mantissa >> MANTISSA_BITS == 0 { 0 } else { exponent - LEAST_EXPONENT };
    let sign = u64::from(x.negative) << 63;
    let overflow = field >= 2046 || field == 2045 && mantissa >> 53 != 0;
    if overflow {
        let away = match round {
            Round::Nearest => true,
            Round::Zero => false,
            Round::Down => x.negative,
            Round::Up => !x.negative,
        };
        let magnitude = if away { f64::INFINITY } else { f64::MAX };
        return f64::from_bits(magnitude.to_bits() | sign);
    }
    f64::from_bits(((field as u64) << MANTISSA_BITS).wrapping_add(mantissa) | sign)
}

/// Sum of numbers that are not zero; `None` for an exact zero. The first may have up to 106 bits.
fn sum(a: Unpacked, b: Unpacked) -> Option<Exact> {
    // The one whose leading bit is higher moves left as far as there is room.
    let top = |x: &Unpacked| x.exponent - x.mantissa.leading_zeros() as i32;
    let (high, low) = if top(&a) >= top(&b) { (a, b) } else { (b, a) };
    let room = high.mantissa.leading_zeros() as i32 - 2;
    let left = (high.exponent - low.exponent).clamp(0, room);
    let high_mantissa = high.mantissa << left;
    let exponent = high.exponent - left;
    let gap = low.exponent - exponent;
    let (low_mantissa, inexact) = if gap >= 0 {
        (low.mantissa << gap, false)
    } else {
        shift_right(low.mantissa, gap.unsigned_abs())
    };
    let (mantissa, negative) = if high.negative == low.negative {
        (high_mantissa + low_mantissa, high.negative)
    } else if high_mantissa >= low_mantissa {
        // What was lost makes the difference smaller: by one place, plus what is missing.
        (high_mantissa - low_mantissa - u128::from(inexact), high.negative)
    } else {
        (low_mantissa - high_mantissa, low.negative)
    };
    if mantissa == 0 && !inexact {
        return None;
    }
    Some(Exact { negative, mantissa, exponent, inexact })
}

fn product(a: f64, b: f64) -> Unpacked {
    let (a, b) = (unpack(a), unpack(b));
    Unpacked {
        negative: a.negative != b.negative,
        mantissa: a.mantissa * b.mantissa,
        exponent: a.exponent + b.exponent,
    }
}

fn exactly(x: Unpacked) -> Exact {
    Exact { negative: x.negative, mantissa: x.mantissa, exponent: x.exponent, inexact: false }
}

/// Zero as the exact sum of numbers of opposite signs.
fn cancelled(rounding: Round) -> f64 {
    if rounding == Round::Down { -0.0 } else { 0.0 }
}

fn add(a: f64, b: f64, rounding: Round) -> f64 {
    if a == 0.0 && b == 0.0 && a.is_sign_negative() != b.is_sign_negative() {
        return cancelled(rounding);
    }
    if a == 0.0 || b == 0.0 || !a.is_finite() || !b.is_finite() {
        return a + b;
    }
    sum(unpack(a), unpack(b)).map_or(cancelled(rounding), |x| round(&x, rounding))
}

fn fma(a: f64, b: f64, c: f64, rounding: Round) -> f64 {
    if !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return a.mul_add(b, c);
    }
    if a == 0.0 || b == 0.0 {
        return add(a * b, c, rounding);
    }
    let product = product(a, b);
    if c == 0.0 {
        return round(&exactly(product), rounding);
    }
    sum(product, unpack(c)).map_or(cancelled(rounding), |x| round(&x, rounding))
}

fn div(a: f64, b: f64, rounding: Round) -> f64 {
    if a == 0.0 || b == 0.0 || !a.is_finite() || !b.is_finite() {
        return a / b;
    }
    /// Leaves 74 bits of quotient at least.
    const SHIFT: i32 = 74;
    let (a, b) = (unpack(a), unpack(b));
    let dividend = a.mantissa << SHIFT;
    let quotient = Exact {
        negative: a.negative != b.negative,
        mantissa: dividend / b.mantissa,
        exponent: a.exponent - b.exponent - SHIFT,
        inexact: !dividend.is_multiple_of(b.mantissa),
    };
    round(&quotient, rounding)
}

fn sqrt(a: f64, rounding: Round) -> f64 {
    if a == 0.0 || a.is_sign_negative() || !a.is_finite() {
        return a.sqrt();
    }
    let a = unpack(a);
    // An even exponent halves.
    let shift = if a.exponent & 1 == 0 { 74 } else { 73 };
    let radicand = a.mantissa << shift;
    let root = radicand.isqrt();
    let exact = Exact {
        negative: false,
        mantissa: root,
        exponent: (a.exponent - shift) / 2,
        inexact: root * root != radicand,
    };
    round(&exact, rounding)
}

/// One operation; those of fewer operands ignore the others.
pub fn double(op: DoubleOp, [a, b, c]: [f64; 3], rounding: Round) -> f64 {
    match op {
        DoubleOp::Add => add(a, b, rounding),
        DoubleOp::Sub => add(a, -b, rounding),
        DoubleOp::Mul => {
            if a == 0.0 || b == 0.0 || !a.is_finite() || !b.is_finite() {
                a * b
            } else {
                round(&exactly(product(a, b)), rounding)
            }
        }
        DoubleOp::Fma => fma(a, b, c, rounding),
        DoubleOp::Div => div(a, b, rounding),
        DoubleOp::Rcp => div(1.0, a, rounding),
        DoubleOp::Sqrt => sqrt(a, rounding),
    }
}
