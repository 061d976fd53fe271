//! Floating-point semantics of single values, as the PTX manual states them.
//!
//! Results that the manual calls exact are exact: f32 and narrower arithmetic is done in f64 with
//! rounding to odd, after which one more rounding to any format of at most 51 bits is the right
//! one. `.approx` functions are computed in f64 and rounded to f32: closer to the true value than
//! any GPU, so they prove nothing about a GPU's own error.

use crate::ptx::ir::{Compare, Convert, HalfKind, Number, Round, Shrink, Small, SmallRound};

/// PTX's NaN for f32.
pub const NAN_F32: u32 = 0x7FFF_FFFF;
/// PTX's NaN for f16 and bf16.
pub const NAN_HALF: u16 = 0x7FFF;

/// Subnormals become zero of their sign, if asked.
#[inline(always)]
pub fn flush(x: f32, ftz: bool) -> f32 {
    let bits = x.to_bits();
    let keep = if ftz && bits & 0x7F80_0000 == 0 { 0x8000_0000 } else { u32::MAX };
    f32::from_bits(bits & keep)
}

/// f32 arithmetic keeps no NaN payload.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    f32::from_bits(if x.is_nan() { NAN_F32 } else { x.to_bits() })
}

/// `.sat`: clamped to [+0, 1], NaN to +0.
#[inline(always)]
pub fn saturate(x: f32, sat: bool) -> f32 {
    let clamped = if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 };
    if sat { clamped } else { x }
}

/// `rounded + error` rounded to odd, where `rounded` is its nearest f64.
fn to_odd(rounded: f64, error: f64) -> f64 {
    let bits = rounded.to_bits();
    if error == 0.0 || !rounded.is_finite() || !error.is_finite() || bits & 1 == 1 {
        rounded
    } else if (error > 0.0) == (rounded > 0.0) {
        f64::from_bits(bits + 1)
    } else {
        f64::from_bits(bits - 1)
    }
}

/// `a + b` rounded to odd.
pub fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_part = sum - a;
    to_odd(sum, (a - (sum - b_part)) + (b - b_part))
}

/// `a / b` of values that were f32, rounded to odd.
pub fn div_odd(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    if !quotient.is_finite() || quotient == 0.0 || !b.is_finite() {
        return quotient;
    }
    let remainder = (-quotient).mul_add(b, a);
    to_odd(quotient, if b < 0.0 { -remainder } else { remainder })
}

/// Square root of a value that was f32, rounded to odd.
pub fn sqrt_odd(a: f64) -> f64 {
    let root = a.sqrt();
    if !root.is_finite() || root == 0.0 { root } else { to_odd(root, (-root).mul_add(root, a)) }
}

/// The f32 that `x` (exact, or rounded to odd) rounds to.
pub fn round_f32(x: f64, round: Round) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    match round {
        Round::Nearest => nearest,
        Round::Zero if back.abs() > x.abs() => f32::from_bits(nearest.to_bits() - 1),
        Round::Down if back > x => nearest.next_down(),
        Round::Up if back < x => nearest.next_up(),
        Round::Zero | Round::Down | Round::Up => nearest,
    }
}

/// `a + b` in a directed rounding.
pub fn add_directed(a: f32, b: f32, round: Round) -> f32 {
    fma_directed(a, 1.0, b, round)
}

/// `a * b + c` in a directed rounding.
pub fn fma_directed(a: f32, b: f32, c: f32, round: Round) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let sum = add_odd(product, f64::from(c));
    // An exact zero from opposite signs is negative in round-down.
    let opposite = product.is_sign_negative() != c.is_sign_negative();
    if sum == 0.0 && opposite && round == Round::Down { -0.0 } else { round_f32(sum, round) }
}

/// The bits of a 16-bit float as f64.
pub fn half_to_f64(bits: u16, kind: HalfKind) -> f64 {
    match kind {
        HalfKind::F16 => half::f16::from_bits(bits).to_f64(),
        HalfKind::Bf16 => f64::from(f32::from_bits(u32::from(bits) << 16)),
    }
}

/// f32 to bf16, to nearest even.
#[inline(always)]
pub fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { NAN_HALF } else { rounded as u16 }
}

/// `min` (or `max`) of two 16-bit floats: a NaN loses against a number unless `nan`, and -0 < +0.
#[inline(always)]
pub fn min_max_half(a: u16, b: u16, kind: HalfKind, max: bool, nan: bool) -> u16 {
    let infinity = match kind {
        HalfKind::F16 => 0x7C00,
        HalfKind::Bf16 => 0x7F80,
    };
    let is_nan = |x: u16| x & 0x7FFF > infinity;
    // In the order of the numbers.
    let key = |x: u16| if x & 0x8000 == 0 { x | 0x8000 } else { !x };
    let chosen = if (key(a) >= key(b)) == max { a } else { b };
    let number = if is_nan(a) {
        b
    } else if is_nan(b) {
        a
    } else {
        chosen
    };
    let is_either = is_nan(a) || is_nan(b);
    if is_nan(number) || nan && is_either { NAN_HALF } else { number }
}

/// The 16-bit float that `x` (exact, or rounded to odd) rounds to.
pub fn round_half(x: f64, kind: HalfKind, round: Round) -> u16 {
    if x.is_nan() {
        return NAN_HALF;
    }
    // f32 rounded to odd still has bits to spare for the second rounding.
    let toward_zero = round_f32(x, Round::Zero);
    let inexact = f64::from(toward_zero) != x && toward_zero.is_finite();
    let odd = f32::from_bits(toward_zero.to_bits() | u32::from(inexact));
    let nearest = match kind {
        HalfKind::F16 => half::f16::from_f32(odd).to_bits(),
        HalfKind::Bf16 => bf16_from_f32(odd),
    };
    let back = half_to_f64(nearest, kind);
    let negative = nearest & 0x8000 != 0;
    let away = |bits: u16| bits + 1;
    let inward = |bits: u16| bits - 1;
    match round {
        Round::Nearest => nearest,
        Round::Zero => {
            if back.abs() > x.abs() {
                inward(nearest)
            } else {
                nearest
            }
        }
        Round::Down if back > x => {
            if negative || back == 0.0 {
                away(nearest | if back == 0.0 { 0x8000 } else { 0 })
            } else {
                inward(nearest)
            }
        }
        Round::Up if back < x => {
            if negative && back != 0.0 {
                inward(nearest)
            } else {
                away(nearest & if back == 0.0 { 0x7FFF } else { 0xFFFF })
            }
        }
        Round::Down | Round::Up => nearest,
    }
}

/// `min` (or `max`) of two values: a NaN loses against a number unless `nan`, and -0 < +0.
#[inline(always)]
pub fn min_f32(a: f32, b: f32, nan: bool) -> f32 {
    let zero = f32::from_bits(a.to_bits() | b.to_bits());
    let ordered = if a < b {
        a
    } else if b < a {
        b
    } else {
        zero
    };
    choose_number(a, b, ordered, nan)
}

/// See [`min_f32`].
#[inline(always)]
pub fn max_f32(a: f32, b: f32, nan: bool) -> f32 {
    let zero = f32::from_bits(a.to_bits() & b.to_bits());
    let ordered = if a > b {
        a
    } else if b > a {
        b
    } else {
        zero
    };
    choose_number(a, b, ordered, nan)
}

#[inline(always)]
fn choose_number(a: f32, b: f32, ordered: f32, nan: bool) -> f32 {
    let number = if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        ordered
    };
    let poisoned = if a.is_nan() | b.is_nan() { f32::NAN } else { ordered };
    canonical(if nan { poisoned } else { number })
}

/// `min` and `max` of f64.
pub fn min_max_f64(a: f64, b: f64, max: bool) -> f64 {
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else if a == b {
        let (x, y) = (a.to_bits(), b.to_bits());
        f64::from_bits(if max { x & y } else { x | y })
    } else if (a > b) == max {
        a
    } else {
        b
    }
}

/// `.xorsign.abs`: a magnitude with the product of two signs. A NaN keeps its own.
pub fn xor_sign(magnitude: f32, a: f32, b: f32) -> f32 {
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    if magnitude.is_nan() { magnitude } else { f32::from_bits(magnitude.to_bits() | sign) }
}

/// `rcp.approx.ftz.f64` and its kin: a function of the upper 32 bits, to nearest in a format of 20
/// bits of mantissa. The manual states this format, not which of its numbers near the result.
pub fn gross(bits: u64, function: impl Fn(f64) -> f64) -> u64 {
    /// As the manual gives it for these instructions.
    const NAN: u64 = 0x7FFF_FFFF_0000_0000;
    let flush = |x: f64| if x.is_normal() || !x.is_finite() { x } else { 0.0_f64.copysign(x) };
    let result = flush(function(flush(f64::from_bits(bits & !0xFFFF_FFFF))));
    if result.is_nan() {
        return NAN;
    }
    let bits = result.to_bits();
    (bits + 0x7FFF_FFFF + (bits >> 32 & 1)) & !0xFFFF_FFFF
}

/// Bits of mantissa, least exponent of a normal number, greatest number.
fn small_format(format: Small) -> (i32, i32, f64) {
    match format {
        Small::Half(HalfKind::F16) => (10, -14, 65504.0),
        Small::Half(HalfKind::Bf16) => (7, -126, f64::from(f32::from_bits(0x7F7F_0000))),
        Small::Tf32 => (10, -126, f64::from(f32::from_bits(0x7F7F_E000))),
        Small::E4m3 => (3, -6, 448.0),
        Small::E5m2 => (2, -14, 57344.0),
    }
}

/// A conversion to a small format. `x` has been f32 or a half.
pub fn shrink(x: f64, how: Shrink) -> u32 {
    let (mantissa_bits, least_exponent, greatest) = small_format(how.to);
    let (sign, nan, infinity) = match how.to {
        Small::Half(HalfKind::F16) => (0x8000, 0x7FFF, 0x7C00),
        Small::Half(HalfKind::Bf16) => (0x8000, 0x7FFF, 0x7F80),
        Small::Tf32 => (0x8000_0000, NAN_F32, 0x7F80_0000),
        // No infinity: `.satfinite` is mandatory.
        Small::E4m3 => (0x80, 0x7F, 0x7E),
        Small::E5m2 => (0x80, 0x7F, 0x7C),
    };
    if x.is_nan() {
        return nan;
    }
    let negative = x.is_sign_negative();
    if how.relu && negative {
        return 0;
    }
    let sign = if negative { sign } else { 0 };
    let magnitude = x.abs();
    // The exponent of the last place that is kept; the scaling is exact.
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(least_exponent);
    let last_place = 2_f64.powi(exponent - mantissa_bits);
    let places = magnitude / last_place;
    let rounded = last_place
        * match how.round {
            SmallRound::NearestEven => places.round_ties_even(),
            SmallRound::NearestAway => places.round(),
            SmallRound::Zero => places.trunc(),
        };
    let finite = if rounded <= greatest {
        rounded
    } else if how.satfinite || how.round == SmallRound::Zero && magnitude.is_finite() {
        greatest
    } else {
        return sign | infinity;
    };
    if finite == 0.0 {
        return sign;
    }
    // A carry may have reached the next exponent.
    let exponent = ((finite.to_bits() >> 52) as i32 - 1023).max(least_exponent);
    let places = (finite / 2_f64.powi(exponent - mantissa_bits)) as u32;
    // As in every IEEE format, the leading bit of a normal number adds one to the exponent's field.
    let field = ((exponent - least_exponent) as u32) << mantissa_bits;
    let bits = field + places;
    sign | if how.to == Small::Tf32 { bits << 13 } else { bits }
}

/// An 8-bit float as f16, which holds all of them.
pub fn grow(from: Small, bits: u8, relu: bool) -> u16 {
    let (mantissa_bits, least_exponent, _) = small_format(from);
    let magnitude = u32::from(bits & 0x7F);
    let is_nan = if from == Small::E4m3 { magnitude == 0x7F } else { magnitude > 0x7C };
    if is_nan {
        return NAN_HALF;
    }
    if relu && bits & 0x80 != 0 {
        return 0;
    }
    let field = (magnitude >> mantissa_bits) as i32;
    let fraction = magnitude & ((1 << mantissa_bits) - 1);
    let value = if from == Small::E5m2 && magnitude == 0x7C {
        f64::INFINITY
    } else if field == 0 {
        f64::from(fraction) * 2_f64.powi(least_exponent - mantissa_bits)
    } else {
        let places = f64::from(fraction | 1 << mantissa_bits);
        places * 2_f64.powi(field - 1 + least_exponent - mantissa_bits)
    };
    round_half(value, HalfKind::F16, Round::Nearest) | u16::from(bits & 0x80) << 8
}

/// 2^x: f64 polynomial of degree 11 on [-0.5, 0.5], relative error below 1e-14, then one rounding.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    /// Adding it to a number of at most 51 bits leaves the nearest integer in the low bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    /// ln(2)^k / k!
    const TERMS: [f64; 12] = {
        let mut terms = [1.0; 12];
        let mut k = 1;
        while k < 12 {
            terms[k] = terms[k - 1] * std::f64::consts::LN_2 / k as f64;
            k += 1;
        }
        terms
    };
    // Beyond these bounds the f32 result is infinite or zero anyway.
    let bounded = f64::from(x).clamp(-200.0, 200.0);
    let shifted = bounded + SHIFT;
    let whole = shifted - SHIFT;
    let part = bounded - whole;
    let mut sum = TERMS[11];
    let mut k = 11;
    while k > 0 {
        k -= 1;
        sum = sum * part + TERMS[k];
    }
    let exponent = (shifted.to_bits() as u32 as i32).wrapping_add(1023) as u64;
    let scale = f64::from_bits(exponent << 52);
    let result = (sum * scale) as f32;
    if x.is_nan() { f32::from_bits(NAN_F32) } else { result }
}

/// `div.approx`: divisors beyond 2^126 give 0, or NaN for an infinite dividend.
pub fn div_approx(a: f32, b: f32) -> f32 {
    let huge = b.abs() > f32::from_bits(0x7E80_0000) && b.is_finite();
    if huge {
        if a.is_infinite() || a.is_nan() {
            f32::NAN
        } else {
            f32::from_bits((a.to_bits() ^ b.to_bits()) & 0x8000_0000)
        }
    } else {
        (f64::from(a) / f64::from(b)) as f32
    }
}

/// Whether a relation holds. Ordered relations are false for a NaN, `..u` relations true.
#[inline(always)]
pub fn holds<T: PartialOrd>(relation: Compare, a: T, b: T) -> bool {
    let ordered = a.partial_cmp(&b).is_some();
    match relation {
        Compare::Eq => a == b,
        Compare::Ne => ordered && a != b,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
        Compare::Equ => !ordered || a == b,
        Compare::Neu => !ordered || a != b,
        Compare::Ltu => !ordered || a < b,
        Compare::Leu => !ordered || a <= b,
        Compare::Gtu => !ordered || a > b,
        Compare::Geu => !ordered || a >= b,
        Compare::Num => ordered,
        Compare::Nan => !ordered,
    }
}

/// A number made integral.
fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

enum Value {
    Integer(i128),
    Float(f64),
}

/// `cvt` of one value in the low bits of `bits`.
pub fn convert(c: Convert, bits: u64) -> u64 {
    let value = match c.from {
        Number::Unsigned(width) => Value::Integer(i128::from(bits & mask(width))),
        Number::Signed(width) => Value::Integer(i128::from(sign_extend(bits, width))),
        Number::Half(kind) => Value::Float(half_to_f64(bits as u16, kind)),
        Number::F32 => Value::Float(f64::from(flush(f32::from_bits(bits as u32), c.ftz))),
        Number::F64 => Value::Float(f64::from_bits(bits)),
    };
    match (value, c.to) {
        (Value::Integer(x), Number::Unsigned(width) | Number::Signed(width)) => {
            let x = if c.sat { clamp_integer(x, c.to) } else { x };
            extend_result(x as u64, width, c)
        }
        (Value::Float(x), Number::Unsigned(width) | Number::Signed(width)) => {
            let result = if x.is_nan() {
                let wide = c.from == Number::F64 || width == 64;
                if wide { 1_i128 << (width - 1) } else { 0 }
            } else {
                // `as` saturates, so infinities end at the bounds that the clamp sets.
                clamp_integer(integral(x, c.round) as i128, c.to)
            };
            extend_result(result as u64, width, c)
        }
        (Value::Integer(x), Number::F32) => {
            u64::from(saturate(round_f32(integer_to_odd(x), c.round), c.sat).to_bits())
        }
        (Value::Integer(x), Number::F64) => {
            let nearest = x as f64;
            let exact = nearest as i128;
            let result = match c.round {
                Round::Zero if exact.abs() > x.abs() => f64::from_bits(nearest.to_bits() - 1),
                Round::Down if exact > x => nearest.next_down(),
                Round::Up if exact < x => nearest.next_up(),
                _ => nearest,
            };
            result.to_bits()
        }
        (Value::Integer(x), Number::Half(kind)) => {
            u64::from(round_half(integer_to_odd(x), kind, c.round))
        }
        (Value::Float(x), Number::F32) => {
            let x = if c.to_integral { integral(x, c.round) } else { x };
            let round = if c.to_integral { Round::Nearest } else { c.round };
            let result = flush(canonical(round_f32(x, round)), c.ftz);
            u64::from(saturate(result, c.sat).to_bits())
        }
        (Value::Float(x), Number::F64) => {
            let x = if c.to_integral { integral(x, c.round) } else { x };
            let clamped = if x > 0.0 { x.min(1.0) } else { 0.0 };
            if c.sat { clamped } else { x }.to_bits()
        }
        (Value::Float(x), Number::Half(kind)) => {
            let x = if c.to_integral { integral(x, c.round) } else { x };
            let clamped = if x > 0.0 { x.min(1.0) } else { 0.0 };
            let round = if c.to_integral { Round::Nearest } else { c.round };
            u64::from(round_half(if c.sat { clamped } else { x }, kind, round))
        }
    }
}

fn mask(width: u32) -> u64 {
    u64::MAX >> (64 - width)
}

fn sign_extend(bits: u64, width: u32) -> i64 {
    (bits << (64 - width)) as i64 >> (64 - width)
}

/// An integer result fills its register: sign-extended if signed, else with zeros.
fn extend_result(bits: u64, width: u32, c: Convert) -> u64 {
    let extended = match c.to {
        Number::Signed(_) => sign_extend(bits, width) as u64,
        _ => bits & mask(width),
    };
    extended & mask(c.register_bits)
}

fn clamp_integer(x: i128, to: Number) -> i128 {
    match to {
        Number::Signed(width) => x.clamp(-(1 << (width - 1)), (1 << (width - 1)) - 1),
        Number::Unsigned(width) => x.clamp(0, (1 << width) - 1),
        Number::Half(_) | Number::F32 | Number::F64 => x,
    }
}

/// An integer of at most 64 bits as f64, rounded to odd.
fn integer_to_odd(x: i128) -> f64 {
    let nearest = x as f64;
    to_odd(nearest, (x - nearest as i128) as f64)
}
