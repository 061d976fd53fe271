//! Lane-wise arithmetic: one instruction on the registers of 32 lanes.
//!
//! Every operation is computed for all lanes and written to the active ones, so that the compiler
//! can turn the loops over lanes into vector code. Nothing here can fail.

use half::slice::HalfFloatSliceExt;

use super::approx;
use super::double::double;
use super::float::{
    add_directed, add_odd, bf16_from_f32, canonical, convert, div_approx, div_odd, exp2, flush,
    fma_directed, gross, grow, half_to_f64, holds, max_f32, min_f32, min_max_f64, min_max_half,
    round_f32, round_half, saturate, shrink, sqrt_odd, xor_sign,
};
use crate::ptx::ir::{
    Alu32, Alu64, Bits64, BoolOp, Carry, CarryOp, Compare, CompareResult, FloatMode, Half,
    HalfKind, HalfOp, Narrow, Number, Op, Overrange, Packed16, Prmt, Product24, Round, Sign, Slot,
    Small, Test, Widen,
};

/// Lanes of a warp.
pub const LANES: usize = 32;
/// All lanes.
pub const FULL: u32 = u32::MAX;

/// The register files of one warp, a row of 32 lanes for each register.
#[derive(Debug, Default)]
pub struct Registers {
    /// 16-bit and 32-bit registers.
    pub b32: Vec<[u32; LANES]>,
    /// 64-bit registers.
    pub b64: Vec<[u64; LANES]>,
    /// Predicates, a bit for each lane.
    pub pred: Vec<u32>,
}

/// Executes an arithmetic instruction for the lanes of a mask.
pub type Step = fn(&mut Registers, &Op, u32);

/// The fastest [`Step`] for this processor.
pub fn step() -> Step {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the features that `step_avx2` is compiled for were just found.
        return |registers, op, mask| unsafe { step_avx2(registers, op, mask) };
    }
    step_portable
}

fn step_portable(registers: &mut Registers, op: &Op, mask: u32) {
    execute(registers, op, mask);
}

/// The same code compiled for processors with fused multiply-add, without which Rust's `mul_add` is
/// a slow call.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
fn step_avx2(registers: &mut Registers, op: &Op, mask: u32) {
    execute(registers, op, mask);
}

impl Registers {
    #[inline(always)]
    fn r(&self, slot: Slot) -> &[u32; LANES] {
        &self.b32[slot as usize]
    }

    #[inline(always)]
    fn r64(&self, slot: Slot) -> &[u64; LANES] {
        &self.b64[slot as usize]
    }

    /// Writes the active lanes.
    #[inline(always)]
    pub fn write32(&mut self, d: Slot, mask: u32, values: &[u32; LANES]) {
        let row = &mut self.b32[d as usize];
        if mask == FULL {
            *row = *values;
        } else {
            for lane in 0..LANES {
                let keep = (mask >> lane & 1).wrapping_sub(1);
                row[lane] = row[lane] & keep | values[lane] & !keep;
            }
        }
    }

    /// Writes the active lanes.
    #[inline(always)]
    pub fn write64(&mut self, d: Slot, mask: u32, values: &[u64; LANES]) {
        let row = &mut self.b64[d as usize];
        if mask == FULL {
            *row = *values;
        } else {
            for lane in 0..LANES {
                let keep = u64::from(mask >> lane & 1).wrapping_sub(1);
                row[lane] = row[lane] & keep | values[lane] & !keep;
            }
        }
    }

    /// Writes the active lanes.
    #[inline(always)]
    pub fn write_pred(&mut self, d: Slot, mask: u32, bits: u32) {
        let row = &mut self.pred[d as usize];
        *row = *row & !mask | bits & mask;
    }
}

/// Loops over lanes. They are macros because the compiler does not inline a closure that several
/// functions share, and only what is inlined becomes vector code.
macro_rules! lanes {
    ($r:expr, $write:ident, $d:expr, $mask:expr, [$($a:ident = $row:expr),+], $body:expr) => {{
        let rows = ($($row,)+);
        let mut out = [0; LANES];
        for lane in 0..LANES {
            let ($($a,)+) = lanes!(@pick rows, lane, $($a)+);
            out[lane] = $body;
        }
        $r.$write($d, $mask, &out);
    }};
    (@pick $rows:ident, $lane:ident, $a:ident) => { ($rows.0[$lane],) };
    (@pick $rows:ident, $lane:ident, $a:ident $b:ident) => { ($rows.0[$lane], $rows.1[$lane]) };
    (@pick $rows:ident, $lane:ident, $a:ident $b:ident $c:ident) => {
        ($rows.0[$lane], $rows.1[$lane], $rows.2[$lane])
    };
}

/// 32-bit integers of one to three sources.
macro_rules! map {
    ($r:expr, $d:expr, $s:expr, $mask:expr, |$a:ident| $body:expr) => {
        lanes!($r, write32, $d, $mask, [$a = $r.r($s[0])], $body)
    };
    ($r:expr, $d:expr, $s:expr, $mask:expr, |$a:ident, $b:ident| $body:expr) => {
        lanes!($r, write32, $d, $mask, [$a = $r.r($s[0]), $b = $r.r($s[1])], $body)
    };
    ($r:expr, $d:expr, $s:expr, $mask:expr, |$a:ident, $b:ident, $c:ident| $body:expr) => {
        lanes!(
            $r,
            write32,
            $d,
            $mask,
            [$a = $r.r($s[0]), $b = $r.r($s[1]), $c = $r.r($s[2])],
            $body
        )
    };
}

/// f32 of one to three sources.
macro_rules! float {
    ($r:expr, $d:expr, $s:expr, $mask:expr, |$($a:ident),+| $body:expr) => {
        map!($r, $d, $s, $mask, |$($a),+| {
            $(let $a = f32::from_bits($a);)+
            f32::to_bits($body)
        })
    };
}

/// 64-bit integers of one to three sources.
macro_rules! wide {
    ($r:expr, $d:expr, $s:expr, $mask:expr, |$a:ident| $body:expr) => {
        lanes!($r, write64, $d, $mask, [$a = $r.r64($s[0])], $body)
    };
    ($r:expr, $d:expr, $s:expr, $mask:expr, |$a:ident, $b:ident| $body:expr) => {
        lanes!($r, write64, $d, $mask, [$a = $r.r64($s[0]), $b = $r.r64($s[1])], $body)
    };
    ($r:expr, $d:expr, $s:expr, $mask:expr, |$a:ident, $b:ident, $c:ident| $body:expr) => {
        lanes!(
            $r,
            write64,
            $d,
            $mask,
            [$a = $r.r64($s[0]), $b = $r.r64($s[1]), $c = $r.r64($s[2])],
            $body
        )
    };
}

/// f64 of one to three sources.
macro_rules! double {
    ($r:expr, $d:expr, $s:expr, $mask:expr, |$($a:ident),+| $body:expr) => {
        wide!($r, $d, $s, $mask, |$($a),+| {
            $(let $a = f64::from_bits($a);)+
            f64::to_bits($body)
        })
    };
}

#[inline(always)]
fn execute(regs: &mut Registers, op: &Op, mask: u32) {
    match op {
        Op::Alu32 { op, d, s } => execute32(regs, *op, *d, s, mask),
        Op::Alu64 { op, d, s } => execute64(regs, *op, *d, s, mask),
        Op::Bits64 { op, d, values, positions } => bits64(regs, *op, *d, values, positions, mask),
        Op::Widen { op, d, s, addend } => widen(regs, *op, *d, *s, *addend, mask),
        Op::Narrow { op, d, s } => narrow(regs, *op, *d, *s, mask),
        Op::Compare32 { test, s, result } => {
            let bits = compare32(regs, *test, s);
            store_comparison(regs, *result, bits, mask);
        }
        Op::Compare64 { test, s, result } => {
            let bits = compare64(regs, *test, s);
            store_comparison(regs, *result, bits, mask);
        }
        Op::Select32 { d, s, pred } => {
            let chosen = regs.pred[*pred as usize];
            let (a, b) = (regs.r(s[0]), regs.r(s[1]));
            let mut out = [0; LANES];
            for lane in 0..LANES {
                let other = (chosen >> lane & 1).wrapping_sub(1);
                out[lane] = a[lane] & !other | b[lane] & other;
            }
            regs.write32(*d, mask, &out);
        }
        Op::Select64 { d, s, pred } => {
            let chosen = regs.pred[*pred as usize];
            let (a, b) = (regs.r64(s[0]), regs.r64(s[1]));
            let mut out = [0; LANES];
            for lane in 0..LANES {
                let other = u64::from(chosen >> lane & 1).wrapping_sub(1);
                out[lane] = a[lane] & !other | b[lane] & other;
            }
            regs.write64(*d, mask, &out);
        }
        Op::Pred { op, d, s } => {
            let (a, b) = (regs.pred[s[0] as usize], regs.pred[s[1] as usize]);
            regs.write_pred(*d, mask, combine(*op, a, b));
        }
        Op::Carry32 { op, d, s } => carry32(regs, *op, *d, s, mask),
        Op::Carry64 { op, d, s } => carry64(regs, *op, *d, s, mask),
        Op::Perturbed(instruction) => approx::execute(regs, instruction, mask),
        _ => unreachable!("only arithmetic is sent here"),
    }
}

#[inline(always)]
fn combine(op: BoolOp, a: u32, b: u32) -> u32 {
    match op {
        BoolOp::And => a & b,
        BoolOp::Or => a | b,
        BoolOp::Xor => a ^ b,
        BoolOp::Not => !a,
        BoolOp::Mov => a,
    }
}

fn store_comparison(regs: &mut Registers, result: CompareResult, bits: u32, mask: u32) {
    let combined = |bits, regs: &Registers| match result.with {
        Some((op, slot, flip)) => combine(op, bits, regs.pred[slot as usize] ^ flip),
        None => bits,
    };
    let (p, q) = (combined(bits, regs), combined(!bits, regs));
    regs.write_pred(result.d, mask, p);
    if let Some(slot) = result.q {
        regs.write_pred(slot, mask, q);
    }
}

/// The lanes whose values, of two rows, relate so. Which relation it is, is asked outside the loop over lanes, so that
/// each loop can become vector code.
#[inline(always)]
fn related<B: Copy, T: PartialOrd + Copy + Default>(
    relation: Compare,
    [a, b]: [&[B; LANES]; 2],
    value: impl Fn(B) -> T,
) -> u32 {
    let (mut left, mut right) = ([T::default(); LANES], [T::default(); LANES]);
    for lane in 0..LANES {
        (left[lane], right[lane]) = (value(a[lane]), value(b[lane]));
    }
    macro_rules! for_each_relation {
        ($($relation:ident),+) => {
            match relation {
                $(Compare::$relation => {
                    let mut bits = 0;
                    for lane in 0..LANES {
                        let holds = holds(Compare::$relation, left[lane], right[lane]);
                        bits |= u32::from(holds) << lane;
                    }
                    bits
                })+
            }
        };
    }
    for_each_relation!(Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan)
}

#[inline(always)]
fn compare32(regs: &Registers, test: Test, s: &[Slot; 2]) -> u32 {
    let rows = [regs.r(s[0]), regs.r(s[1])];
    let Test { relation, number, ftz } = test;
    match number {
        Number::Unsigned(_) => related(relation, rows, |bits| bits),
        Number::Signed(16) => related(relation, rows, |bits| bits as u16 as i16),
        Number::Signed(_) => related(relation, rows, |bits| bits as i32),
        Number::Half(kind) => {
            related(relation, rows, |bits| half_to_f64(flush_half(bits as u16, kind, ftz), kind))
        }
        Number::F32 | Number::F64 => {
            related(relation, rows, |bits| flush(f32::from_bits(bits), ftz))
        }
    }
}

#[inline(always)]
fn compare64(regs: &Registers, test: Test, s: &[Slot; 2]) -> u32 {
    let rows = [regs.r64(s[0]), regs.r64(s[1])];
    match test.number {
        Number::Signed(_) => related(test.relation, rows, |bits| bits as i64),
        Number::F64 => related(test.relation, rows, f64::from_bits),
        Number::Unsigned(_) | Number::Half(_) | Number::F32 => {
            related(test.relation, rows, |bits| bits)
        }
    }
}

#[inline(always)]
fn finish(x: f32, mode: FloatMode) -> f32 {
    saturate(flush(canonical(x), mode.ftz), mode.sat)
}

#[inline(always)]
fn execute32(regs: &mut Registers, op: Alu32, d: Slot, s: &[Slot; 4], mask: u32) {
    let r = regs;
    match op {
        Alu32::Mov => map!(r, d, s, mask, |a| a),
        Alu32::Add => map!(r, d, s, mask, |a, b| a.wrapping_add(b)),
        Alu32::Sub => map!(r, d, s, mask, |a, b| a.wrapping_sub(b)),
        Alu32::Mul => map!(r, d, s, mask, |a, b| a.wrapping_mul(b)),
        Alu32::MulHiU => map!(r, d, s, mask, |a, b| high_unsigned(a, b)),
        Alu32::MulHiS => map!(r, d, s, mask, |a, b| high_signed(a, b)),
        Alu32::Mad => map!(r, d, s, mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Alu32::MadHiU => map!(r, d, s, mask, |a, b, c| high_unsigned(a, b).wrapping_add(c)),
        Alu32::MadHiS => map!(r, d, s, mask, |a, b, c| high_signed(a, b).wrapping_add(c)),
        // The manual leaves division by zero open; these are the results of GPUs.
        Alu32::DivU => map!(r, d, s, mask, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        Alu32::RemU => map!(r, d, s, mask, |a, b| a.checked_rem(b).unwrap_or(a)),
        Alu32::DivS => map!(r, d, s, mask, |a, b| {
            if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }
        }),
        Alu32::RemS => {
            map!(r, d, s, mask, |a, b| {
                if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }
            })
        }
        Alu32::MinU => map!(r, d, s, mask, |a, b| a.min(b)),
        Alu32::MaxU => map!(r, d, s, mask, |a, b| a.max(b)),
        Alu32::MinS => map!(r, d, s, mask, |a, b| (a as i32).min(b as i32) as u32),
        Alu32::MaxS => map!(r, d, s, mask, |a, b| (a as i32).max(b as i32) as u32),
        Alu32::AbsS => map!(r, d, s, mask, |a| (a as i32).wrapping_abs() as u32),
        Alu32::Neg => map!(r, d, s, mask, |a| a.wrapping_neg()),
        Alu32::And => map!(r, d, s, mask, |a, b| a & b),
        Alu32::Or => map!(r, d, s, mask, |a, b| a | b),
        Alu32::Xor => map!(r, d, s, mask, |a, b| a ^ b),
        Alu32::Not => map!(r, d, s, mask, |a| !a),
        Alu32::CNot => map!(r, d, s, mask, |a| u32::from(a == 0)),
        Alu32::Shl => map!(r, d, s, mask, |a, b| if b > 31 { 0 } else { a << (b & 31) }),
        Alu32::ShrU => map!(r, d, s, mask, |a, b| if b > 31 { 0 } else { a >> (b & 31) }),
        Alu32::ShrS => map!(r, d, s, mask, |a, b| ((a as i32) >> b.min(31)) as u32),
        Alu32::ShfL(clamp) => map!(r, d, s, mask, |a, b, c| {
            let count = if clamp { c.min(32) } else { c & 31 };
            ((u64::from(b) << 32 | u64::from(a)) << count >> 32) as u32
        }),
        Alu32::ShfR(clamp) => map!(r, d, s, mask, |a, b, c| {
            let count = if clamp { c.min(32) } else { c & 31 };
            ((u64::from(b) << 32 | u64::from(a)) >> count) as u32
        }),
        Alu32::Prmt(mode) => map!(r, d, s, mask, |a, b, c| permute(mode, a, b, c)),
        Alu32::BfeU => {
            map!(r, d, s, mask, |a, b, c| extract(u64::from(a), 32, b, c, false) as u32);
        }
        Alu32::BfeS => map!(r, d, s, mask, |a, b, c| extract(u64::from(a), 32, b, c, true) as u32),
        Alu32::Bfi => {
            let (a, b, c, e) = (*r.r(s[0]), *r.r(s[1]), *r.r(s[2]), *r.r(s[3]));
            let out = std::array::from_fn(|lane| {
                insert(u64::from(a[lane]), u64::from(b[lane]), 32, c[lane], e[lane]) as u32
            });
            r.write32(d, mask, &out);
        }
        Alu32::BfindU(amount) => map!(r, d, s, mask, |a| find(u64::from(a), 32, amount)),
        Alu32::BfindS(amount) => {
            map!(r, d, s, mask, |a| find(
                u64::from(if (a as i32) < 0 { !a } else { a }),
                32,
                amount
            ))
        }
        Alu32::Clz => map!(r, d, s, mask, |a| a.leading_zeros()),
        Alu32::Popc => map!(r, d, s, mask, |a| a.count_ones()),
        Alu32::Brev => map!(r, d, s, mask, |a| a.reverse_bits()),
        Alu32::Lop3(table) => map!(r, d, s, mask, |a, b, c| {
            let mut out = 0;
            for entry in 0..8 {
                let pick = |x: u32, bit: u32| if entry & bit != 0 { x } else { !x };
                let rows = pick(a, 4) & pick(b, 2) & pick(c, 1);
                out |= if table >> entry & 1 == 1 { rows } else { 0 };
            }
            out
        }),
        Alu32::SadU => map!(r, d, s, mask, |a, b, c| c.wrapping_add(a.abs_diff(b))),
        Alu32::SadS => {
            map!(r, d, s, mask, |a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32)));
        }
        Alu32::AddSatS => map!(r, d, s, mask, |a, b| (a as i32).saturating_add(b as i32) as u32),
        Alu32::SubSatS => map!(r, d, s, mask, |a, b| (a as i32).saturating_sub(b as i32) as u32),
        Alu32::ReluS => map!(r, d, s, mask, |a| (a as i32).max(0) as u32),
        Alu32::Dp4a(signs) => map!(r, d, s, mask, |a, b, c| {
            let (a, b) = (bytes(a, signs[0]), bytes(b, signs[1]));
            (0..4).fold(c, |sum, i| sum.wrapping_add((a[i] * b[i]) as u32))
        }),
        Alu32::Dp2aLow(signs) => map!(r, d, s, mask, |a, b, c| dot_words(a, b, c, signs, 0)),
        Alu32::Dp2aHigh(signs) => map!(r, d, s, mask, |a, b, c| dot_words(a, b, c, signs, 2)),
        Alu32::Mul24(sign, part) => map!(r, d, s, mask, |a, b| {
            let value = |x: u32| match sign {
                Sign::Unsigned => i64::from(x & 0xFF_FFFF),
                Sign::Signed => i64::from((x << 8) as i32 >> 8),
            };
            let product = value(a) * value(b);
            (product >> if part == Product24::High { 16 } else { 0 }) as u32
        }),
        Alu32::Fns => map!(r, d, s, mask, |a, b, c| nth_set_bit(a, b, c as i32)),
        Alu32::Bmsk(mode) => map!(r, d, s, mask, |a, b| bit_mask(a, b, mode)),
        Alu32::Szext(sign, mode) => map!(r, d, s, mask, |a, b| {
            let width = if mode == Overrange::Clamp { b.min(32) } else { b & 31 };
            let unused = 32 - width;
            match (unused, sign) {
                (32, _) => 0,
                (_, Sign::Unsigned) => a << unused >> unused,
                (_, Sign::Signed) => ((a << unused) as i32 >> unused) as u32,
            }
        }),
        Alu32::Packed16(op) => map!(r, d, s, mask, |a, b| {
            let high = packed16(op, (a >> 16) as u16, (b >> 16) as u16);
            u32::from(high) << 16 | u32::from(packed16(op, a as u16, b as u16))
        }),
        Alu32::AbsDiff4(sign) => map!(r, d, s, mask, |a, b| {
            let (a, b) = (bytes(a, sign), bytes(b, sign));
            u32::from_le_bytes(std::array::from_fn(|i| a[i].abs_diff(b[i]) as u8))
        }),
        Alu32::AbsDiff2(sign) => map!(r, d, s, mask, |a, b| {
            let (a, b) = (words(a, sign), words(b, sign));
            a[1].abs_diff(b[1]) << 16 | a[0].abs_diff(b[0]) & 0xFFFF
        }),
        Alu32::AbsDiffSum4(sign) => map!(r, d, s, mask, |a, b, c| {
            let (a, b) = (bytes(a, sign), bytes(b, sign));
            (0..4).fold(c, |sum, i| sum.wrapping_add(a[i].abs_diff(b[i])))
        }),
        Alu32::AbsDiffSum2(sign) => map!(r, d, s, mask, |a, b, c| {
            let (a, b) = (words(a, sign), words(b, sign));
            (0..2).fold(c, |sum, i| sum.wrapping_add(a[i].abs_diff(b[i])))
        }),
        Alu32::PackSat(sign, bits) => map!(r, d, s, mask, |a, b, c| {
            let (least, most) = match sign {
                Sign::Unsigned => (0, (1 << bits) - 1),
                Sign::Signed => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            };
            let clamp = |x: u32| (x as i32).clamp(least, most) as u32 & ((1 << bits) - 1);
            let above = u64::from(c) << (2 * bits);
            above as u32 | clamp(a) << bits | clamp(b)
        }),
        Alu32::Pack8 => {
            let rows = s.map(|slot| *r.r(slot));
            let out =
                std::array::from_fn(|lane| u32::from_le_bytes(rows.map(|row| row[lane] as u8)));
            r.write32(d, mask, &out);
        }
        Alu32::Byte(number) => map!(r, d, s, mask, |a| a >> (8 * number) & 0xFF),
        Alu32::Pack16 => map!(r, d, s, mask, |low, high| low & 0xFFFF | high << 16),
        Alu32::Low16 => map!(r, d, s, mask, |a| a & 0xFFFF),
        Alu32::High16 => map!(r, d, s, mask, |a| a >> 16),
        Alu32::SignExtend16 => map!(r, d, s, mask, |a| a as u16 as i16 as u32),
        Alu32::AddF(mode) => add(r, d, s, mask, mode, false),
        Alu32::SubF(mode) => add(r, d, s, mask, mode, true),
        Alu32::MulF(mode) => {
            let ftz = mode.ftz;
            if mode.round == Round::Nearest {
                float!(r, d, s, mask, |a, b| finish(flush(a, ftz) * flush(b, ftz), mode));
            } else {
                float!(r, d, s, mask, |a, b| {
                    let product = f64::from(flush(a, ftz)) * f64::from(flush(b, ftz));
                    finish(round_f32(product, mode.round), mode)
                });
            }
        }
        Alu32::FmaF(mode) => {
            let ftz = mode.ftz;
            if mode.round == Round::Nearest {
                float!(r, d, s, mask, |a, b, c| {
                    finish(flush(a, ftz).mul_add(flush(b, ftz), flush(c, ftz)), mode)
                });
            } else {
                float!(r, d, s, mask, |a, b, c| {
                    let (a, b, c) = (flush(a, ftz), flush(b, ftz), flush(c, ftz));
                    finish(fma_directed(a, b, c, mode.round), mode)
                });
            }
        }
        Alu32::DivF(mode) => {
            let ftz = mode.ftz;
            if mode.round == Round::Nearest {
                float!(r, d, s, mask, |a, b| finish(flush(a, ftz) / flush(b, ftz), mode));
            } else {
                float!(r, d, s, mask, |a, b| {
                    let quotient = div_odd(f64::from(flush(a, ftz)), f64::from(flush(b, ftz)));
                    finish(round_f32(quotient, mode.round), mode)
                });
            }
        }
        Alu32::RcpF(mode) => {
            let ftz = mode.ftz;
            if mode.round == Round::Nearest {
                float!(r, d, s, mask, |a| finish(1.0 / flush(a, ftz), mode));
            } else {
                float!(r, d, s, mask, |a| {
                    let quotient = div_odd(1.0, f64::from(flush(a, ftz)));
                    finish(round_f32(quotient, mode.round), mode)
                });
            }
        }
        Alu32::SqrtF(mode) => {
            let ftz = mode.ftz;
            if mode.round == Round::Nearest {
                float!(r, d, s, mask, |a| finish(flush(a, ftz).sqrt(), mode));
            } else {
                float!(r, d, s, mask, |a| {
                    let root = sqrt_odd(f64::from(flush(a, ftz)));
                    finish(round_f32(root, mode.round), mode)
                });
            }
        }
        Alu32::MinF { ftz, nan } => {
            float!(r, d, s, mask, |a, b| min_f32(flush(a, ftz), flush(b, ftz), nan));
        }
        Alu32::MaxF { ftz, nan } => {
            float!(r, d, s, mask, |a, b| max_f32(flush(a, ftz), flush(b, ftz), nan));
        }
        Alu32::MinXorSignF { ftz, nan } => float!(r, d, s, mask, |a, b| {
            let (a, b) = (flush(a, ftz), flush(b, ftz));
            xor_sign(min_f32(a.abs(), b.abs(), nan), a, b)
        }),
        Alu32::MaxXorSignF { ftz, nan } => float!(r, d, s, mask, |a, b| {
            let (a, b) = (flush(a, ftz), flush(b, ftz));
            xor_sign(max_f32(a.abs(), b.abs(), nan), a, b)
        }),
        Alu32::AbsF { ftz } => float!(r, d, s, mask, |a| canonical(flush(a, ftz).abs())),
        Alu32::NegF { ftz } => float!(r, d, s, mask, |a| canonical(-flush(a, ftz))),
        Alu32::CopySign => map!(r, d, s, mask, |a, b| a & 0x8000_0000 | b & 0x7FFF_FFFF),
        Alu32::DivApprox(ftz) => approx2(r, d, s, mask, ftz, div_approx),
        Alu32::DivFull(ftz) => {
            approx2(r, d, s, mask, ftz, |a, b| (f64::from(a) / f64::from(b)) as f32);
        }
        Alu32::RcpApprox(ftz) => approx1(r, d, s, mask, ftz, |a| (1.0 / f64::from(a)) as f32),
        Alu32::RsqrtApprox(ftz) => {
            approx1(r, d, s, mask, ftz, |a| (1.0 / f64::from(a).sqrt()) as f32);
        }
        Alu32::SqrtApprox(ftz) => approx1(r, d, s, mask, ftz, f32::sqrt),
        Alu32::Ex2(ftz) => float!(r, d, s, mask, |a| flush(exp2(flush(a, ftz)), ftz)),
        Alu32::Lg2(ftz) => approx1(r, d, s, mask, ftz, |a| f64::from(a).log2() as f32),
        Alu32::Sin(ftz) => approx1(r, d, s, mask, ftz, |a| f64::from(a).sin() as f32),
        Alu32::Cos(ftz) => approx1(r, d, s, mask, ftz, |a| f64::from(a).cos() as f32),
        Alu32::Tanh => approx1(r, d, s, mask, false, |a| f64::from(a).tanh() as f32),
        // What kernels do most of with halves.
        Alu32::Half(Half {
            op: op @ (HalfOp::Min | HalfOp::Max | HalfOp::MinNan | HalfOp::MaxNan),
            kind,
            packed,
            ftz: false,
            sat: false,
            relu: false,
            xorsign: false,
        }) => {
            let max = matches!(op, HalfOp::Max | HalfOp::MaxNan);
            let nan = matches!(op, HalfOp::MinNan | HalfOp::MaxNan);
            map!(r, d, s, mask, |a, b| {
                let low = min_max_half(a as u16, b as u16, kind, max, nan);
                let high = min_max_half((a >> 16) as u16, (b >> 16) as u16, kind, max, nan);
                if packed { u32::from(high) << 16 | u32::from(low) } else { u32::from(low) }
            });
        }
        Alu32::Half(half) => {
            map!(r, d, s, mask, |a, b, c| {
                let low = half_op(half, a as u16, b as u16, c as u16);
                let high = if half.packed {
                    half_op(half, (a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16)
                } else {
                    0
                };
                u32::from(high) << 16 | u32::from(low)
            });
        }
        Alu32::F32FromF16 => {
            let a = r.r(s[0]);
            let narrow: [half::f16; LANES] =
                std::array::from_fn(|lane| half::f16::from_bits(a[lane] as u16));
            let mut wide = [0.0; LANES];
            narrow.convert_to_f32_slice(&mut wide);
            r.write32(d, mask, &wide.map(|x| canonical(x).to_bits()));
        }
        Alu32::F16FromF32 => {
            let bits = f16_row(r.r(s[0]));
            r.write32(d, mask, &bits);
        }
        Alu32::F32FromBf16 => map!(r, d, s, mask, |a| canonical(f32::from_bits(a << 16)).to_bits()),
        Alu32::Bf16FromF32 => map!(r, d, s, mask, |a| u32::from(bf16_from_f32(f32::from_bits(a)))),
        Alu32::PackHalf { kind, relu } => {
            let row = |a: &[u32; LANES]| match kind {
                HalfKind::F16 => f16_row(a),
                HalfKind::Bf16 => a.map(|a| u32::from(bf16_from_f32(f32::from_bits(a)))),
            };
            let clamp = |x: u32| if relu && x & 0x8000 != 0 { 0 } else { x };
            let (high, low) = (row(r.r(s[0])), row(r.r(s[1])));
            let out = std::array::from_fn(|lane| clamp(high[lane]) << 16 | clamp(low[lane]));
            r.write32(d, mask, &out);
        }
        Alu32::Convert(c) => map!(r, d, s, mask, |a| convert(c, u64::from(a)) as u32),
        Alu32::Shrink(how) => map!(r, d, s, mask, |a| shrink(f32::from_bits(a).into(), how)),
        Alu32::ShrinkPair(how) => map!(r, d, s, mask, |a, b| {
            let part = |x: u32| shrink(f32::from_bits(x).into(), how);
            part(a) << element_bits(how.to) | part(b)
        }),
        Alu32::ShrinkHalves(how, kind) => map!(r, d, s, mask, |a| {
            let part = |x: u32| shrink(half_to_f64(x as u16, kind), how);
            part(a >> 16) << element_bits(how.to) | part(a)
        }),
        Alu32::Grow { from, relu } => map!(r, d, s, mask, |a| {
            u32::from(grow(from, (a >> 8) as u8, relu)) << 16 | u32::from(grow(from, a as u8, relu))
        }),
    }
}

/// Bits of one element of a packed pair.
fn element_bits(format: Small) -> u32 {
    match format {
        Small::Half(_) => 16,
        Small::E4m3 | Small::E5m2 => 8,
        Small::Tf32 => 32,
    }
}

fn bytes(x: u32, sign: Sign) -> [i32; 4] {
    x.to_le_bytes().map(|byte| match sign {
        Sign::Unsigned => i32::from(byte),
        Sign::Signed => i32::from(byte as i8),
    })
}

fn words(x: u32, sign: Sign) -> [i32; 2] {
    [x as u16, (x >> 16) as u16].map(|word| match sign {
        Sign::Unsigned => i32::from(word),
        Sign::Signed => i32::from(word as i16),
    })
}

/// `dp2a`, with the bytes from `first` on.
fn dot_words(a: u32, b: u32, c: u32, signs: [Sign; 2], first: usize) -> u32 {
    let (a, b) = (words(a, signs[0]), bytes(b, signs[1]));
    (0..2).fold(c, |sum, i| sum.wrapping_add((a[i] * b[first + i]) as u32))
}

/// `fns`
fn nth_set_bit(mask: u32, base: u32, offset: i32) -> u32 {
    let is_set = |position: i64| mask >> position & 1 == 1;
    if base > 31 {
        // The manual leaves it open.
        return u32::MAX;
    }
    if offset == 0 {
        return if is_set(base.into()) { base } else { u32::MAX };
    }
    let mut left = offset.unsigned_abs();
    let mut position = i64::from(base);
    while (0..32).contains(&position) {
        left -= u32::from(is_set(position));
        if left == 0 {
            return position as u32;
        }
        position += i64::from(offset.signum());
    }
    u32::MAX
}

/// `bmsk`
fn bit_mask(position: u32, width: u32, mode: Overrange) -> u32 {
    let (position, width) = match mode {
        Overrange::Clamp => (position.min(32), width.min(32)),
        Overrange::Wrap => (position & 31, width & 31),
    };
    let ones = (1_u64 << width) - 1;
    (ones << position) as u32
}

fn packed16(op: Packed16, a: u16, b: u16) -> u16 {
    let (x, y) = (a as i16, b as i16);
    match op {
        Packed16::Add => a.wrapping_add(b),
        Packed16::MinU => a.min(b),
        Packed16::MaxU => a.max(b),
        Packed16::MinS => x.min(y) as u16,
        Packed16::MaxS => x.max(y) as u16,
        Packed16::MinSRelu => x.min(y).max(0) as u16,
        Packed16::MaxSRelu => x.max(y).max(0) as u16,
    }
}

/// Carry flags of all lanes, 0 where an instruction reads none.
fn carries(r: &Registers, slot: Option<Slot>) -> u32 {
    slot.map_or(0, |slot| r.pred[slot as usize])
}

fn carry32(r: &mut Registers, op: Carry, d: Slot, s: &[Slot; 3], mask: u32) {
    let (a, b, c) = (*r.r(s[0]), *r.r(s[1]), *r.r(s[2]));
    let read = carries(r, op.reads);
    let mut written = 0;
    let out = std::array::from_fn(|lane| {
        let (a, b, c) = (a[lane], b[lane], c[lane]);
        let flag = u64::from(read >> lane & 1);
        let add = |x: u32, y: u32| u64::from(x) + u64::from(y) + flag;
        let wide = match op.op {
            CarryOp::Add => add(a, b),
            CarryOp::Sub => u64::from(a).wrapping_sub(u64::from(b) + flag),
            CarryOp::MadLo => add(a.wrapping_mul(b), c),
            CarryOp::MadHiU => add(high_unsigned(a, b), c),
            CarryOp::MadHiS => add(high_signed(a, b), c),
        };
        written |= ((wide >> 32) as u32 & 1) << lane;
        wide as u32
    });
    r.write32(d, mask, &out);
    if let Some(slot) = op.writes {
        r.write_pred(slot, mask, written);
    }
}

fn carry64(r: &mut Registers, op: Carry, d: Slot, s: &[Slot; 3], mask: u32) {
    let (a, b, c) = (*r.r64(s[0]), *r.r64(s[1]), *r.r64(s[2]));
    let read = carries(r, op.reads);
    let mut written = 0;
    let out = std::array::from_fn(|lane| {
        let (a, b, c) = (a[lane], b[lane], c[lane]);
        let flag = u128::from(read >> lane & 1);
        let add = |x: u64, y: u64| u128::from(x) + u128::from(y) + flag;
        let wide = match op.op {
            CarryOp::Add => add(a, b),
            CarryOp::Sub => u128::from(a).wrapping_sub(u128::from(b) + flag),
            CarryOp::MadLo => add(a.wrapping_mul(b), c),
            CarryOp::MadHiU => add(((u128::from(a) * u128::from(b)) >> 64) as u64, c),
            CarryOp::MadHiS => add(((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64, c),
        };
        written |= ((wide >> 64) as u32 & 1) << lane;
        wide as u64
    });
    r.write64(d, mask, &out);
    if let Some(slot) = op.writes {
        r.write_pred(slot, mask, written);
    }
}

/// A row of f32 as f16 bits, to nearest even.
#[inline(always)]
fn f16_row(a: &[u32; LANES]) -> [u32; LANES] {
    let mut narrow = [half::f16::ZERO; LANES];
    narrow.convert_from_f32_slice(&a.map(f32::from_bits));
    std::array::from_fn(|lane| {
        let nan = f32::from_bits(a[lane]).is_nan();
        if nan { 0x7FFF } else { u32::from(narrow[lane].to_bits()) }
    })
}

#[inline(always)]
fn add(r: &mut Registers, d: Slot, s: &[Slot], mask: u32, mode: FloatMode, subtract: bool) {
    let ftz = mode.ftz;
    let sign = if subtract { 0x8000_0000 } else { 0 };
    let flip = |b: f32| f32::from_bits(b.to_bits() ^ sign);
    if mode.round == Round::Nearest {
        float!(r, d, s, mask, |a, b| finish(flush(a, ftz) + flush(flip(b), ftz), mode));
    } else {
        float!(r, d, s, mask, |a, b| {
            finish(add_directed(flush(a, ftz), flush(flip(b), ftz), mode.round), mode)
        });
    }
}

#[inline(always)]
fn approx1(r: &mut Registers, d: Slot, s: &[Slot], mask: u32, ftz: bool, f: impl Fn(f32) -> f32) {
    float!(r, d, s, mask, |a| flush(canonical(f(flush(a, ftz))), ftz));
}

#[inline(always)]
fn approx2(
    r: &mut Registers,
    d: Slot,
    s: &[Slot],
    mask: u32,
    ftz: bool,
    f: impl Fn(f32, f32) -> f32,
) {
    float!(r, d, s, mask, |a, b| flush(canonical(f(flush(a, ftz), flush(b, ftz))), ftz));
}

fn high_unsigned(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

fn high_signed(a: u32, b: u32) -> u32 {
    ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
}

fn permute(mode: Prmt, a: u32, b: u32, c: u32) -> u32 {
    let pool = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let n = (c & 3) as usize;
    let byte = |i: usize| match mode {
        Prmt::Index => {
            let selector = c >> (4 * i) & 0xF;
            let byte = pool[(selector & 7) as usize];
            // Bit 3 replicates the byte's sign instead.
            if selector & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
        }
        Prmt::F4e => pool[n + i],
        Prmt::B4e => pool[(n + 8 - i) & 7],
        Prmt::Rc8 => pool[n],
        Prmt::Ecl => pool[i.max(n)],
        Prmt::Ecr => pool[i.min(n)],
        Prmt::Rc16 => pool[2 * (n & 1) + (i & 1)],
    };
    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
}

/// Bits of a field; the positions' low 8 bits count.
fn field(width: u32, position: u32, length: u32) -> (u32, u32, u64) {
    let (position, length) = (position & 0xFF, length & 0xFF);
    let taken = length.min(width.saturating_sub(position));
    let mask = if taken == 0 { 0 } else { u64::MAX >> (64 - taken) };
    (position.min(63), length, mask)
}

/// `bfe`
fn extract(a: u64, width: u32, position: u32, length: u32, signed: bool) -> u64 {
    let (_, length, mask) = field(width, position, length);
    let position = position & 0xFF;
    let value = if mask == 0 { 0 } else { a >> position & mask };
    let sign_at = (position + length).saturating_sub(1).min(width - 1);
    if signed && length > 0 && a >> sign_at & 1 == 1 { value | !mask } else { value }
}

/// `bfi`
fn insert(a: u64, b: u64, width: u32, position: u32, length: u32) -> u64 {
    let (position, _, mask) = field(width, position, length);
    b & !(mask << position) | (a & mask) << position
}

/// `bfind`
fn find(a: u64, width: u32, amount: bool) -> u32 {
    if a == 0 {
        return u32::MAX;
    }
    let position = 63 - a.leading_zeros();
    if amount { width - 1 - position } else { position }
}

/// A subnormal half as zero of its sign, if asked.
#[inline(always)]
fn flush_half(bits: u16, kind: HalfKind, ftz: bool) -> u16 {
    let exponent = if kind == HalfKind::F16 { 0x7C00 } else { 0x7F80 };
    if ftz && bits & exponent == 0 { bits & 0x8000 } else { bits }
}

fn half_op(half: Half, a: u16, b: u16, c: u16) -> u16 {
    let kind = half.kind;
    let value = |bits: u16| half_to_f64(flush_half(bits, kind, half.ftz), kind);
    let (mut x, mut y, z) = (value(a), value(b), value(c));
    let negative = x.is_sign_negative() != y.is_sign_negative();
    if half.xorsign {
        (x, y) = (x.abs(), y.abs());
    }
    let nan = x.is_nan() || y.is_nan();
    let exact = match half.op {
        HalfOp::Add => add_odd(x, y),
        HalfOp::Sub => add_odd(x, -y),
        HalfOp::Mul => x * y,
        HalfOp::Fma => add_odd(x * y, z),
        HalfOp::Min => min_max_f64(x, y, false),
        HalfOp::Max => min_max_f64(x, y, true),
        HalfOp::MinNan => {
            if nan {
                f64::NAN
            } else {
                min_max_f64(x, y, false)
            }
        }
        HalfOp::MaxNan => {
            if nan {
                f64::NAN
            } else {
                min_max_f64(x, y, true)
            }
        }
        HalfOp::Neg => -x,
        HalfOp::Abs => x.abs(),
        HalfOp::Ex2 => x.exp2(),
        HalfOp::Tanh => x.tanh(),
    };
    let clamped = if half.sat { if exact > 0.0 { exact.min(1.0) } else { 0.0 } } else { exact };
    // -0 becomes +0, as in a comparison with zero.
    let positive = if half.relu && clamped <= 0.0 { 0.0 } else { clamped };
    let signed = if half.xorsign && negative { -positive } else { positive };
    flush_half(round_half(signed, kind, Round::Nearest), kind, half.ftz)
}

#[inline(always)]
fn execute64(r: &mut Registers, op: Alu64, d: Slot, s: &[Slot; 3], mask: u32) {
    match op {
        Alu64::Mov => wide!(r, d, s, mask, |a| a),
        Alu64::Add => wide!(r, d, s, mask, |a, b| a.wrapping_add(b)),
        Alu64::Sub => wide!(r, d, s, mask, |a, b| a.wrapping_sub(b)),
        Alu64::Mul => wide!(r, d, s, mask, |a, b| a.wrapping_mul(b)),
        Alu64::MulHiU => {
            wide!(r, d, s, mask, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64);
        }
        Alu64::MulHiS => {
            wide!(r, d, s, mask, |a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64)
                as u64)
        }
        Alu64::Mad => wide!(r, d, s, mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Alu64::DivU => wide!(r, d, s, mask, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        Alu64::RemU => wide!(r, d, s, mask, |a, b| a.checked_rem(b).unwrap_or(a)),
        Alu64::DivS => wide!(r, d, s, mask, |a, b| {
            if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }
        }),
        Alu64::RemS => {
            wide!(r, d, s, mask, |a, b| {
                if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }
            })
        }
        Alu64::MinU => wide!(r, d, s, mask, |a, b| a.min(b)),
        Alu64::MaxU => wide!(r, d, s, mask, |a, b| a.max(b)),
        Alu64::MinS => wide!(r, d, s, mask, |a, b| (a as i64).min(b as i64) as u64),
        Alu64::MaxS => wide!(r, d, s, mask, |a, b| (a as i64).max(b as i64) as u64),
        Alu64::AbsS => wide!(r, d, s, mask, |a| (a as i64).wrapping_abs() as u64),
        Alu64::Neg => wide!(r, d, s, mask, |a| a.wrapping_neg()),
        Alu64::And => wide!(r, d, s, mask, |a, b| a & b),
        Alu64::Or => wide!(r, d, s, mask, |a, b| a | b),
        Alu64::Xor => wide!(r, d, s, mask, |a, b| a ^ b),
        Alu64::Not => wide!(r, d, s, mask, |a| !a),
        Alu64::CNot => wide!(r, d, s, mask, |a| u64::from(a == 0)),
        Alu64::Brev => wide!(r, d, s, mask, |a| a.reverse_bits()),
        Alu64::AddF => double!(r, d, s, mask, |a, b| a + b),
        Alu64::SubF => double!(r, d, s, mask, |a, b| a - b),
        Alu64::MulF => double!(r, d, s, mask, |a, b| a * b),
        Alu64::FmaF => wide!(r, d, s, mask, |a, b, c| {
            f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()
        }),
        Alu64::DivF => double!(r, d, s, mask, |a, b| a / b),
        Alu64::RcpF => wide!(r, d, s, mask, |a| (1.0 / f64::from_bits(a)).to_bits()),
        Alu64::SqrtF => wide!(r, d, s, mask, |a| f64::from_bits(a).sqrt().to_bits()),
        Alu64::SadU => wide!(r, d, s, mask, |a, b, c| c.wrapping_add(a.abs_diff(b))),
        Alu64::SadS => {
            wide!(r, d, s, mask, |a, b, c| c.wrapping_add((a as i64).abs_diff(b as i64)));
        }
        Alu64::Directed(op, round) => wide!(r, d, s, mask, |a, b, c| {
            double(op, [a, b, c].map(f64::from_bits), round).to_bits()
        }),
        Alu64::RcpGross => wide!(r, d, s, mask, |a| gross(a, |x| 1.0 / x)),
        Alu64::RsqrtGross => wide!(r, d, s, mask, |a| gross(a, |x| 1.0 / x.sqrt())),
        Alu64::RsqrtF => {
            double!(r, d, s, mask, |a| if a == 0.0 { 1.0 / a } else { 1.0 / a.sqrt() })
        }
        Alu64::MinF => double!(r, d, s, mask, |a, b| min_max_f64(a, b, false)),
        Alu64::MaxF => double!(r, d, s, mask, |a, b| min_max_f64(a, b, true)),
        Alu64::AbsF => wide!(r, d, s, mask, |a| a & !(1 << 63)),
        Alu64::NegF => wide!(r, d, s, mask, |a| a ^ 1 << 63),
        Alu64::CopySignF => wide!(r, d, s, mask, |a, b| a & 1 << 63 | b & !(1 << 63)),
        Alu64::Convert(c) => wide!(r, d, s, mask, |a| convert(c, a)),
    }
}

#[inline(always)]
fn bits64(
    r: &mut Registers,
    op: Bits64,
    d: Slot,
    values: &[Slot; 2],
    positions: &[Slot; 2],
    mask: u32,
) {
    let (a, count) = (values[0], positions[0]);
    match op {
        Bits64::Shl => lanes!(
            r,
            write64,
            d,
            mask,
            [a = r.r64(a), b = r.r(count)],
            if b > 63 { 0 } else { a << (b & 63) }
        ),
        Bits64::ShrU => lanes!(
            r,
            write64,
            d,
            mask,
            [a = r.r64(a), b = r.r(count)],
            if b > 63 { 0 } else { a >> (b & 63) }
        ),
        Bits64::ShrS => {
            lanes!(
                r,
                write64,
                d,
                mask,
                [a = r.r64(a), b = r.r(count)],
                ((a as i64) >> b.min(63)) as u64
            );
        }
        Bits64::BfeU | Bits64::BfeS | Bits64::Bfi => {
            let (a, b) = (*r.r64(values[0]), *r.r64(values[1]));
            let (position, length) = (*r.r(positions[0]), *r.r(positions[1]));
            let out = std::array::from_fn(|lane| {
                let (position, length) = (position[lane], length[lane]);
                match op {
                    Bits64::Bfi => insert(a[lane], b[lane], 64, position, length),
                    _ => extract(a[lane], 64, position, length, op == Bits64::BfeS),
                }
            });
            r.write64(d, mask, &out);
        }
    }
}

#[inline(always)]
fn widen(r: &mut Registers, op: Widen, d: Slot, s: [Slot; 2], addend: Slot, mask: u32) {
    let unsigned = |a, b| u64::from(a) * u64::from(b);
    let signed = |a: u32, b: u32| (i64::from(a as i32) * i64::from(b as i32)) as u64;
    match op {
        Widen::MulU => lanes!(r, write64, d, mask, [a = r.r(s[0]), b = r.r(s[1])], unsigned(a, b)),
        Widen::MulS => lanes!(r, write64, d, mask, [a = r.r(s[0]), b = r.r(s[1])], signed(a, b)),
        Widen::MadU | Widen::MadS => {
            let (a, b, c) = (*r.r(s[0]), *r.r(s[1]), *r.r64(addend));
            let out = std::array::from_fn(|lane| {
                let product = if op == Widen::MadU {
                    unsigned(a[lane], b[lane])
                } else {
                    signed(a[lane], b[lane])
                };
                product.wrapping_add(c[lane])
            });
            r.write64(d, mask, &out);
        }
        Widen::Pack => lanes!(
            r,
            write64,
            d,
            mask,
            [low = r.r(s[0]), high = r.r(s[1])],
            u64::from(high) << 32 | u64::from(low)
        ),
        Widen::ZeroExtend => lanes!(r, write64, d, mask, [a = r.r(s[0])], u64::from(a)),
        Widen::SignExtend => {
            lanes!(r, write64, d, mask, [a = r.r(s[0])], i64::from(a as i32) as u64)
        }
        Widen::Convert(c) => lanes!(r, write64, d, mask, [a = r.r(s[0])], convert(c, u64::from(a))),
    }
}

#[inline(always)]
fn narrow(r: &mut Registers, op: Narrow, d: Slot, s: Slot, mask: u32) {
    match op {
        Narrow::Low => lanes!(r, write32, d, mask, [a = r.r64(s)], a as u32),
        Narrow::High => lanes!(r, write32, d, mask, [a = r.r64(s)], (a >> 32) as u32),
        Narrow::Popc => lanes!(r, write32, d, mask, [a = r.r64(s)], a.count_ones()),
        Narrow::Clz => lanes!(r, write32, d, mask, [a = r.r64(s)], a.leading_zeros()),
        Narrow::BfindU(amount) => lanes!(r, write32, d, mask, [a = r.r64(s)], find(a, 64, amount)),
        Narrow::BfindS(amount) => {
            lanes!(
                r,
                write32,
                d,
                mask,
                [a = r.r64(s)],
                find(if (a as i64) < 0 { !a } else { a }, 64, amount)
            );
        }
        Narrow::Convert(c) => lanes!(r, write32, d, mask, [a = r.r64(s)], convert(c, a) as u32),
    }
}

/// One 16-bit sum, for atomics on halves.
pub fn add_half(kind: HalfKind, a: u16, b: u16) -> u16 {
    let half = Half {
        op: HalfOp::Add,
        kind,
        packed: false,
        ftz: false,
        sat: false,
        relu: false,
        xorsign: false,
    };
    half_op(half, a, b, 0)
}
