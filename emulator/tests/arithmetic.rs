//! Arithmetic, conversions and comparisons against values written down from the PTX manual.

mod common;

use common::check;

const ONE: u64 = 0x3F80_0000;
const TWO: u64 = 0x4000_0000;
const THREE: u64 = 0x4040_0000;
const INF: u64 = 0x7F80_0000;
const NAN: u64 = 0x7FC0_0001;
/// The NaN that f32 instructions give, whatever NaN they got.
const CANONICAL: u64 = 0x7FFF_FFFF;
const MINUS_ZERO: u64 = 0x8000_0000;
const MINUS_ONE: u64 = 0xBF80_0000;
const MAX: u64 = 0x7F7F_FFFF;

#[test]
fn f32_rounding() {
    // 1 + 2^-24 lies halfway between two floats; 1 - 2^-25 too.
    let (half_ulp, minus_quarter) = (0x3380_0000, 0xB300_0000);
    check(&[
        ("add.rn.f32 %r7, %r4, %r5", [ONE, half_ulp, 0], ONE),
        ("add.rz.f32 %r7, %r4, %r5", [ONE, half_ulp, 0], ONE),
        ("add.rp.f32 %r7, %r4, %r5", [ONE, half_ulp, 0], 0x3F80_0001),
        ("add.rm.f32 %r7, %r4, %r5", [ONE, minus_quarter, 0], 0x3F7F_FFFF),
        ("add.rz.f32 %r7, %r4, %r5", [ONE, minus_quarter, 0], 0x3F7F_FFFF),
        ("add.f32 %r7, %r4, %r5", [ONE, minus_quarter, 0], ONE),
        ("sub.rp.f32 %r7, %r4, %r5", [ONE, 0x3300_0000, 0], ONE),
        ("sub.rm.f32 %r7, %r4, %r5", [ONE, ONE, 0], MINUS_ZERO),
        ("sub.rn.f32 %r7, %r4, %r5", [ONE, ONE, 0], 0),
        ("mul.rn.f32 %r7, %r4, %r5", [MAX, TWO, 0], INF),
        ("mul.rz.f32 %r7, %r4, %r5", [MAX, TWO, 0], MAX),
        ("mul.rn.f32 %r7, %r4, %r5", [1, 0x3F00_0000, 0], 0),
        ("mul.rp.f32 %r7, %r4, %r5", [1, 0x3F00_0000, 0], 1),
        // One rounding: unfused this would be 0.
        ("fma.rn.f32 %r7, %r4, %r5, %r6", [0x3F80_0001, 0x3F80_0001, 0xBF80_0002], 0x2880_0000),
        ("fma.rm.f32 %r7, %r4, %r5, %r6", [ONE, ONE, MINUS_ONE], MINUS_ZERO),
        ("fma.rz.f32 %r7, %r4, %r5, %r6", [ONE, ONE, minus_quarter], 0x3F7F_FFFF),
        ("div.rn.f32 %r7, %r4, %r5", [ONE, THREE, 0], 0x3EAA_AAAB),
        ("div.rz.f32 %r7, %r4, %r5", [ONE, THREE, 0], 0x3EAA_AAAA),
        ("div.rp.f32 %r7, %r4, %r5", [ONE, 0xC040_0000, 0], 0xBEAA_AAAA),
        ("rcp.rn.f32 %r7, %r4", [THREE, 0, 0], 0x3EAA_AAAB),
        ("rcp.rz.f32 %r7, %r4", [THREE, 0, 0], 0x3EAA_AAAA),
        ("sqrt.rn.f32 %r7, %r4", [TWO, 0, 0], 0x3FB5_04F3),
        ("sqrt.rp.f32 %r7, %r4", [TWO, 0, 0], 0x3FB5_04F4),
        ("sqrt.rn.f32 %r7, %r4", [MINUS_ZERO, 0, 0], MINUS_ZERO),
        ("sqrt.rn.f32 %r7, %r4", [MINUS_ONE, 0, 0], CANONICAL),
    ]);
}

#[test]
fn f32_flush_saturation_and_nan() {
    check(&[
        ("add.f32 %r7, %r4, %r5", [1, 0, 0], 1),
        ("add.ftz.f32 %r7, %r4, %r5", [1, 0, 0], 0),
        ("add.ftz.f32 %r7, %r4, %r5", [0x8000_0001, MINUS_ZERO, 0], MINUS_ZERO),
        ("mul.ftz.f32 %r7, %r4, %r5", [0x0080_0000, 0x3F00_0000, 0], 0),
        ("mul.f32 %r7, %r4, %r5", [0x0080_0000, 0x3F00_0000, 0], 0x0040_0000),
        ("add.sat.f32 %r7, %r4, %r5", [0x3F40_0000, 0x3F40_0000, 0], ONE),
        ("add.sat.f32 %r7, %r4, %r5", [NAN, ONE, 0], 0),
        ("sub.sat.f32 %r7, %r4, %r5", [0, ONE, 0], 0),
        ("add.f32 %r7, %r4, %r5", [NAN, ONE, 0], CANONICAL),
        ("add.f32 %r7, %r4, %r5", [INF, 0xFF80_0000, 0], CANONICAL),
        ("mul.f32 %r7, %r4, %r5", [0, INF, 0], CANONICAL),
        ("max.f32 %r7, %r4, %r5", [NAN, ONE, 0], ONE),
        ("max.f32 %r7, %r4, %r5", [ONE, NAN, 0], ONE),
        ("max.f32 %r7, %r4, %r5", [NAN, NAN, 0], CANONICAL),
        ("max.NaN.f32 %r7, %r4, %r5", [ONE, NAN, 0], CANONICAL),
        ("min.NaN.f32 %r7, %r4, %r5", [ONE, TWO, 0], ONE),
        ("max.f32 %r7, %r4, %r5", [MINUS_ZERO, 0, 0], 0),
        ("max.f32 %r7, %r4, %r5", [0, MINUS_ZERO, 0], 0),
        ("min.f32 %r7, %r4, %r5", [0, MINUS_ZERO, 0], MINUS_ZERO),
        ("min.ftz.f32 %r7, %r4, %r5", [1, ONE, 0], 0),
        ("abs.f32 %r7, %r4", [MINUS_ONE, 0, 0], ONE),
        ("neg.f32 %r7, %r4", [ONE, 0, 0], MINUS_ONE),
        // The sign of the first, the rest of the second.
        ("copysign.f32 %r7, %r4, %r5", [MINUS_ONE, TWO, 0], 0xC000_0000),
    ]);
}

#[test]
fn f32_approximations_at_exact_points() {
    check(&[
        ("ex2.approx.ftz.f32 %r7, %r4", [0, 0, 0], ONE),
        ("ex2.approx.ftz.f32 %r7, %r4", [ONE, 0, 0], TWO),
        ("ex2.approx.ftz.f32 %r7, %r4", [0x3F00_0000, 0, 0], 0x3FB5_04F3),
        ("ex2.approx.ftz.f32 %r7, %r4", [0xFF80_0000, 0, 0], 0),
        ("ex2.approx.ftz.f32 %r7, %r4", [INF, 0, 0], INF),
        ("ex2.approx.ftz.f32 %r7, %r4", [NAN, 0, 0], CANONICAL),
        ("ex2.approx.ftz.f32 %r7, %r4", [0x4300_0000, 0, 0], INF),
        // 2^-127 is subnormal.
        ("ex2.approx.ftz.f32 %r7, %r4", [0xC2FE_0000, 0, 0], 0),
        ("ex2.approx.f32 %r7, %r4", [0xC2FE_0000, 0, 0], 0x0040_0000),
        ("ex2.approx.f32 %r7, %r4", [0xC315_0000, 0, 0], 1),
        ("lg2.approx.f32 %r7, %r4", [0x4100_0000, 0, 0], THREE),
        ("lg2.approx.f32 %r7, %r4", [1, 0, 0], 0xC315_0000),
        ("lg2.approx.ftz.f32 %r7, %r4", [1, 0, 0], 0xFF80_0000),
        ("lg2.approx.f32 %r7, %r4", [0, 0, 0], 0xFF80_0000),
        ("lg2.approx.f32 %r7, %r4", [MINUS_ONE, 0, 0], CANONICAL),
        ("rcp.approx.ftz.f32 %r7, %r4", [MINUS_ZERO, 0, 0], 0xFF80_0000),
        ("rcp.approx.ftz.f32 %r7, %r4", [TWO, 0, 0], 0x3F00_0000),
        ("rsqrt.approx.f32 %r7, %r4", [0x4080_0000, 0, 0], 0x3F00_0000),
        ("rsqrt.approx.f32 %r7, %r4", [MINUS_ONE, 0, 0], CANONICAL),
        ("sqrt.approx.f32 %r7, %r4", [0x4080_0000, 0, 0], TWO),
        ("sin.approx.f32 %r7, %r4", [0, 0, 0], 0),
        ("cos.approx.f32 %r7, %r4", [0, 0, 0], ONE),
        ("tanh.approx.f32 %r7, %r4", [INF, 0, 0], ONE),
        ("div.approx.f32 %r7, %r4, %r5", [0x40C0_0000, THREE, 0], TWO),
        // Beyond 2^126 the approximate division gives 0, the full-range one does not.
        ("div.approx.f32 %r7, %r4, %r5", [ONE, 0x7F00_0000, 0], 0),
        ("div.approx.f32 %r7, %r4, %r5", [INF, 0x7F00_0000, 0], CANONICAL),
        ("div.full.f32 %r7, %r4, %r5", [ONE, 0x7F00_0000, 0], 0x0040_0000),
    ]);
}

#[test]
fn exp2_is_within_one_unit_of_the_libraries() {
    let rows: Vec<[u64; 3]> =
        (0..1024).map(|i| [u64::from(((i as f32 - 512.0) * 0.293_7).to_bits()), 0, 0]).collect();
    let found = common::evaluate("ex2.approx.f32 %r7, %r4", &rows);
    for (row, bits) in rows.iter().zip(found) {
        let x = f32::from_bits(row[0] as u32);
        let expected = f64::from(x).exp2() as f32;
        let difference = i64::from(expected.to_bits()) - bits as i64;
        assert!(difference.abs() <= 1, "2^{x}: {:e} != {expected:e}", f32::from_bits(bits as u32));
    }
}

#[test]
fn f64_arithmetic() {
    let bits = |x: f64| x.to_bits();
    check(&[
        ("add.f64 %rd7, %rd4, %rd5", [bits(1.5), bits(2.25), 0], bits(3.75)),
        ("sub.rn.f64 %rd7, %rd4, %rd5", [bits(1.0), bits(2.0), 0], bits(-1.0)),
        ("mul.f64 %rd7, %rd4, %rd5", [bits(3.0), bits(0.5), 0], bits(1.5)),
        ("fma.rn.f64 %rd7, %rd4, %rd5, %rd6", [bits(2.0), bits(3.0), bits(1.0)], bits(7.0)),
        ("div.rn.f64 %rd7, %rd4, %rd5", [bits(1.0), bits(3.0), 0], 0x3FD5_5555_5555_5555),
        ("sqrt.rn.f64 %rd7, %rd4", [bits(9.0), 0, 0], bits(3.0)),
        ("rcp.rn.f64 %rd7, %rd4", [bits(4.0), 0, 0], bits(0.25)),
        ("max.f64 %rd7, %rd4, %rd5", [f64::NAN.to_bits(), bits(1.0), 0], bits(1.0)),
        ("min.f64 %rd7, %rd4, %rd5", [bits(-0.0), bits(0.0), 0], bits(-0.0)),
        ("neg.f64 %rd7, %rd4", [bits(1.0), 0, 0], bits(-1.0)),
        ("abs.f64 %rd7, %rd4", [bits(-1.0), 0, 0], bits(1.0)),
    ]);
}

#[test]
fn half_arithmetic() {
    check(&[
        ("add.f16 %h7, %h4, %h5", [0x3C00, 0x3C00, 0], 0x4000),
        ("sub.f16 %h7, %h4, %h5", [0x3C00, 0x4000, 0], 0xBC00),
        ("mul.f16 %h7, %h4, %h5", [0x7BFF, 0x4000, 0], 0x7C00),
        // One rounding: (1 + 2^-10)^2 - (1 + 2^-9) = 2^-20.
        ("fma.rn.f16 %h7, %h4, %h5, %h6", [0x3C01, 0x3C01, 0xBC02], 0x0010),
        ("fma.rn.bf16 %h7, %h4, %h5, %h6", [0x3F81, 0x3F81, 0xBF82], 0x3880),
        ("fma.rn.relu.f16 %h7, %h4, %h5, %h6", [0x3C00, 0x3C00, 0xC000], 0),
        ("add.f16x2 %r7, %r4, %r5", [0x4000_3C00, 0x3C00_3C00, 0], 0x4200_4000),
        ("mul.bf16x2 %r7, %r4, %r5", [0x4000_3F80, 0x4000_4040, 0], 0x4080_4040),
        ("max.f16x2 %r7, %r4, %r5", [0x7E00_3C00, 0x3C00_4000, 0], 0x3C00_4000),
        ("max.NaN.f16x2 %r7, %r4, %r5", [0x7E00_3C00, 0x3C00_4000, 0], 0x7FFF_4000),
        ("min.NaN.f16x2 %r7, %r4, %r5", [0xBC00_3C00, 0x7C01_BC00, 0], 0x7FFF_BC00),
        // -0 < +0, -2 < -1, the infinities around all, and two NaNs.
        ("max.f16x2 %r7, %r4, %r5", [0x8000_BC00, 0x0000_C000, 0], 0x0000_BC00),
        ("min.f16x2 %r7, %r4, %r5", [0x0000_BC00, 0x8000_C000, 0], 0x8000_C000),
        ("max.f16x2 %r7, %r4, %r5", [0x7C00_FC00, 0x7BFF_FBFF, 0], 0x7C00_FBFF),
        ("min.bf16x2 %r7, %r4, %r5", [0x7F80_FF80, 0x7F7F_FF7F, 0], 0x7F7F_FF80),
        ("min.bf16x2 %r7, %r4, %r5", [0xFF81_0001, 0x7F81_8001, 0], 0x7FFF_8001),
        ("max.bf16x2 %r7, %r4, %r5", [0x3F80_FFC0, 0x7FC0_C040, 0], 0x3F80_C040),
        ("min.bf16 %h7, %h4, %h5", [0x3F80, 0x4000, 0], 0x3F80),
        ("neg.f16x2 %r7, %r4", [0x3C00_BC00, 0, 0], 0xBC00_3C00),
        ("abs.f16 %h7, %h4", [0xBC00, 0, 0], 0x3C00),
        ("add.sat.f16 %h7, %h4, %h5", [0x3C00, 0x3C00, 0], 0x3C00),
        ("ex2.approx.f16 %h7, %h4", [0x3C00, 0, 0], 0x4000),
    ]);
}

#[test]
fn integer_arithmetic() {
    let minus = |x: i64| x as u64;
    check(&[
        ("add.s32 %r7, %r4, %r5", [0xFFFF_FFFF, 2, 0], 1),
        ("add.sat.s32 %r7, %r4, %r5", [0x7FFF_FFFF, 1, 0], 0x7FFF_FFFF),
        ("sub.sat.s32 %r7, %r4, %r5", [0x8000_0000, 1, 0], 0x8000_0000),
        ("add.s16 %h7, %h4, %h5", [0xFFFF, 2, 0], 1),
        ("sub.s64 %rd7, %rd4, %rd5", [1, 2, 0], u64::MAX),
        ("mul.lo.s32 %r7, %r4, %r5", [0x1_0001, 0x1_0001, 0], 0x2_0001),
        ("mul.hi.u32 %r7, %r4, %r5", [0xFFFF_FFFF, 0xFFFF_FFFF, 0], 0xFFFF_FFFE),
        ("mul.hi.s32 %r7, %r4, %r5", [0xFFFF_FFFF, 0xFFFF_FFFF, 0], 0),
        ("mul.hi.s32 %r7, %r4, %r5", [0x8000_0000, 2, 0], 0xFFFF_FFFF),
        ("mul.hi.u64 %rd7, %rd4, %rd5", [u64::MAX, u64::MAX, 0], u64::MAX - 1),
        ("mul.hi.s64 %rd7, %rd4, %rd5", [minus(-1), 5, 0], u64::MAX),
        ("mul.hi.s16 %h7, %h4, %h5", [0xFFFF, 2, 0], 0xFFFF),
        ("mad.lo.s32 %r7, %r4, %r5, %r6", [3, 4, 5], 17),
        ("mad.hi.u32 %r7, %r4, %r5, %r6", [0x8000_0000, 4, 5], 7),
        ("mul.wide.s32 %rd7, %r4, %r5", [0xFFFF_FFFF, 2, 0], minus(-2)),
        ("mul.wide.u32 %rd7, %r4, %r5", [0xFFFF_FFFF, 2, 0], 0x1_FFFF_FFFE),
        ("mul.wide.s16 %r7, %h4, %h5", [0xFFFF, 2, 0], 0xFFFF_FFFE),
        ("mad.wide.s32 %rd7, %r4, %r5, %rd6", [0xFFFF_FFFF, 2, 10], 8),
        ("mad.lo.s64 %rd7, %rd4, %rd5, %rd6", [3, 4, 5], 17),
        ("div.s32 %r7, %r4, %r5", [minus(-7), 2, 0], 0xFFFF_FFFD),
        ("rem.s32 %r7, %r4, %r5", [minus(-7), 2, 0], 0xFFFF_FFFF),
        ("div.s32 %r7, %r4, %r5", [0x8000_0000, minus(-1), 0], 0x8000_0000),
        ("div.u32 %r7, %r4, %r5", [minus(-7), 2, 0], 0x7FFF_FFFC),
        ("div.s64 %rd7, %rd4, %rd5", [minus(-7), 2, 0], minus(-3)),
        ("rem.u64 %rd7, %rd4, %rd5", [17, 5, 0], 2),
        ("div.s16 %h7, %h4, %h5", [0xFFF9, 2, 0], 0xFFFD),
        ("min.s32 %r7, %r4, %r5", [0xFFFF_FFFF, 1, 0], 0xFFFF_FFFF),
        ("min.u32 %r7, %r4, %r5", [0xFFFF_FFFF, 1, 0], 1),
        ("max.s16 %h7, %h4, %h5", [0xFFFF, 1, 0], 1),
        ("max.s64 %rd7, %rd4, %rd5", [u64::MAX, 1, 0], 1),
        ("abs.s32 %r7, %r4", [minus(-5), 0, 0], 5),
        ("abs.s32 %r7, %r4", [0x8000_0000, 0, 0], 0x8000_0000),
        ("neg.s64 %rd7, %rd4", [1, 0, 0], u64::MAX),
        ("sad.s32 %r7, %r4, %r5, %r6", [minus(-3), 4, 10], 17),
        ("dp4a.s32.s32 %r7, %r4, %r5, %r6", [0xFF02_0304, 0x0101_0101, 1], 9),
    ]);
}

#[test]
fn shifts_and_bit_fields() {
    check(&[
        ("shl.b32 %r7, %r4, 31", [3, 0, 0], 0x8000_0000),
        ("shl.b32 %r7, %r4, %r5", [3, 32, 0], 0),
        ("shr.u32 %r7, %r4, %r5", [u64::MAX, 33, 0], 0),
        ("shr.s32 %r7, %r4, %r5", [0x8000_0000, 40, 0], 0xFFFF_FFFF),
        ("shl.b64 %rd7, %rd4, %r5", [3, 64, 0], 0),
        ("shr.s64 %rd7, %rd4, %r5", [1 << 63, 70, 0], u64::MAX),
        ("shr.u64 %rd7, %rd4, %r5", [1 << 63, 63, 0], 1),
        ("shl.b16 %h7, %h4, %r5", [0x8001, 1, 0], 2),
        ("shr.s16 %h7, %h4, %r5", [0x8000, 3, 0], 0xF000),
        ("shr.u16 %h7, %h4, %r5", [0x8000, 16, 0], 0),
        ("shf.l.wrap.b32 %r7, %r4, %r5, 8", [0xAABB_CCDD, 0x1122_3344, 0], 0x2233_44AA),
        ("shf.l.clamp.b32 %r7, %r4, %r5, 40", [0xAABB_CCDD, 0x1122_3344, 0], 0xAABB_CCDD),
        ("shf.r.wrap.b32 %r7, %r4, %r5, 40", [0xAABB_CCDD, 0x1122_3344, 0], 0x44AA_BBCC),
        ("shf.r.clamp.b32 %r7, %r4, %r5, 40", [0xAABB_CCDD, 0x1122_3344, 0], 0x1122_3344),
        ("bfe.u32 %r7, %r4, 8, 8", [0x1234_5678, 0, 0], 0x56),
        ("bfe.u32 %r7, %r4, 28, 8", [0x1234_5678, 0, 0], 1),
        ("bfe.u32 %r7, %r4, 8, 0", [0x1234_5678, 0, 0], 0),
        ("bfe.s32 %r7, %r4, 8, 8", [0x0000_8000, 0, 0], 0xFFFF_FF80),
        ("bfe.s32 %r7, %r4, 40, 8", [0x8000_0000, 0, 0], 0xFFFF_FFFF),
        ("bfe.u64 %rd7, %rd4, 60, 8", [0xF123_4567_89AB_CDEF, 0, 0], 0xF),
        ("bfi.b32 %r7, %r4, %r5, 8, 8", [0xFF, 0x1234_5678, 0], 0x1234_FF78),
        ("bfi.b32 %r7, %r4, %r5, 28, 8", [0xFF, 0x1234_5678, 0], 0xF234_5678),
        ("bfi.b64 %rd7, %rd4, %rd5, 32, 32", [0xAABB_CCDD, 0x1122_3344, 0], 0xAABB_CCDD_1122_3344),
        ("bfind.u32 %r7, %r4", [0x1_0000, 0, 0], 16),
        ("bfind.u32 %r7, %r4", [0, 0, 0], 0xFFFF_FFFF),
        ("bfind.shiftamt.u32 %r7, %r4", [1, 0, 0], 31),
        ("bfind.s32 %r7, %r4", [0xFFFF_0000, 0, 0], 15),
        ("bfind.u64 %r7, %rd4", [1 << 40, 0, 0], 40),
        ("clz.b32 %r7, %r4", [1, 0, 0], 31),
        ("clz.b64 %r7, %rd4", [0, 0, 0], 64),
        ("popc.b64 %r7, %rd4", [u64::MAX, 0, 0], 64),
        ("brev.b32 %r7, %r4", [1, 0, 0], 0x8000_0000),
        ("not.b16 %h7, %h4", [0x00FF, 0, 0], 0xFF00),
        ("cnot.b32 %r7, %r4", [0, 0, 0], 1),
        ("lop3.b32 %r7, %r4, %r5, %r6, 0x96", [0xF0, 0xCC, 0xAA], 0xF0 ^ 0xCC ^ 0xAA),
        ("lop3.b32 %r7, %r4, %r5, %r6, 0xE8", [0xF0, 0xCC, 0xAA], 0xE8),
    ]);
}

#[test]
fn byte_permutations() {
    let (a, b) = (0x3322_1100, 0x7766_5544);
    check(&[
        ("prmt.b32 %r7, %r4, %r5, %r6", [a, b, 0x7531], 0x7755_3311),
        // Bit 3 of a selector replicates the sign of its byte.
        ("prmt.b32 %r7, %r4, %r5, %r6", [0x80, 0, 0x0008], 0x8080_80FF),
        ("prmt.b32.f4e %r7, %r4, %r5, %r6", [a, b, 1], 0x4433_2211),
        ("prmt.b32.b4e %r7, %r4, %r5, %r6", [a, b, 1], 0x6677_0011),
        ("prmt.b32.rc8 %r7, %r4, %r5, %r6", [a, b, 2], 0x2222_2222),
        ("prmt.b32.ecl %r7, %r4, %r5, %r6", [a, b, 2], 0x3322_2222),
        ("prmt.b32.ecr %r7, %r4, %r5, %r6", [a, b, 2], 0x2222_1100),
        ("prmt.b32.rc16 %r7, %r4, %r5, %r6", [a, b, 1], 0x3322_3322),
    ]);
}

#[test]
fn conversions() {
    let f = |x: f32| u64::from(x.to_bits());
    let d = |x: f64| x.to_bits();
    let minus = |x: i64| x as u64;
    check(&[
        ("cvt.rni.s32.f32 %r7, %r4", [f(2.5), 0, 0], 2),
        ("cvt.rni.s32.f32 %r7, %r4", [f(3.5), 0, 0], 4),
        ("cvt.rzi.s32.f32 %r7, %r4", [f(-2.7), 0, 0], 0xFFFF_FFFE),
        ("cvt.rmi.s32.f32 %r7, %r4", [f(-2.1), 0, 0], 0xFFFF_FFFD),
        ("cvt.rpi.s32.f32 %r7, %r4", [f(2.1), 0, 0], 3),
        ("cvt.rzi.s32.f32 %r7, %r4", [f(1e10), 0, 0], 0x7FFF_FFFF),
        ("cvt.rzi.u32.f32 %r7, %r4", [f(-1.0), 0, 0], 0),
        ("cvt.rzi.s32.f32 %r7, %r4", [NAN, 0, 0], 0),
        ("cvt.rzi.s64.f32 %rd7, %r4", [NAN, 0, 0], 1 << 63),
        ("cvt.rzi.s32.f64 %r7, %rd4", [f64::NAN.to_bits(), 0, 0], 0x8000_0000),
        ("cvt.rmi.s64.f32 %rd7, %r4", [f(-1.5), 0, 0], minus(-2)),
        ("cvt.rn.f32.s32 %r7, %r4", [16_777_217, 0, 0], f(16_777_216.0)),
        ("cvt.rp.f32.s32 %r7, %r4", [16_777_217, 0, 0], f(16_777_218.0)),
        ("cvt.rn.f32.u32 %r7, %r4", [0xFFFF_FFFF, 0, 0], 0x4F80_0000),
        ("cvt.rz.f32.u32 %r7, %r4", [0xFFFF_FFFF, 0, 0], 0x4F7F_FFFF),
        ("cvt.rn.f32.s64 %r7, %rd4", [minus(-3), 0, 0], f(-3.0)),
        // Rounding to f64 first would lose the last bit and round down.
        ("cvt.rn.f32.u64 %r7, %rd4", [0x8000_0080_0000_0001, 0, 0], 0x5F00_0001),
        ("cvt.rn.f64.u64 %rd7, %rd4", [u64::MAX, 0, 0], d(18_446_744_073_709_551_616.0)),
        ("cvt.rz.f64.u64 %rd7, %rd4", [u64::MAX, 0, 0], 0x43EF_FFFF_FFFF_FFFF),
        ("cvt.f64.f32 %rd7, %r4", [f(1.5), 0, 0], d(1.5)),
        ("cvt.rn.f32.f64 %r7, %rd4", [d(1.0 + 1e-9), 0, 0], ONE),
        ("cvt.rp.f32.f64 %r7, %rd4", [d(1.0 + 1e-9), 0, 0], 0x3F80_0001),
        ("cvt.rmi.f32.f32 %r7, %r4", [f(-0.5), 0, 0], f(-1.0)),
        ("cvt.rzi.f32.f32 %r7, %r4", [f(-0.5), 0, 0], MINUS_ZERO),
        ("cvt.sat.f32.f32 %r7, %r4", [f(1.5), 0, 0], ONE),
        ("cvt.sat.f32.f32 %r7, %r4", [NAN, 0, 0], 0),
        ("cvt.u32.u16 %r7, %h4", [0xFFFF, 0, 0], 0xFFFF),
        ("cvt.s32.s16 %r7, %h4", [0xFFFF, 0, 0], 0xFFFF_FFFF),
        ("cvt.s64.s32 %rd7, %r4", [0xFFFF_FFFF, 0, 0], u64::MAX),
        ("cvt.u64.u32 %rd7, %r4", [u64::MAX, 0, 0], 0xFFFF_FFFF),
        ("cvt.s32.s8 %r7, %r4", [0x1_0080, 0, 0], 0xFFFF_FF80),
        ("cvt.sat.u8.u32 %r7, %r4", [300, 0, 0], 255),
        ("cvt.sat.s8.s32 %r7, %r4", [minus(-200), 0, 0], 0xFFFF_FF80),
        ("cvt.sat.u32.s32 %r7, %r4", [minus(-1), 0, 0], 0),
        ("cvt.u8.u32 %r7, %r4", [0x1FF, 0, 0], 0xFF),
    ]);
}

#[test]
fn half_conversions() {
    let f = |x: f32| u64::from(x.to_bits());
    check(&[
        ("cvt.rn.f16.f32 %h7, %r4", [f(65519.0), 0, 0], 0x7BFF),
        ("cvt.rn.f16.f32 %h7, %r4", [f(65520.0), 0, 0], 0x7C00),
        ("cvt.rz.f16.f32 %h7, %r4", [f(1e9), 0, 0], 0x7BFF),
        ("cvt.rn.f16.f32 %h7, %r4", [0x3300_0000, 0, 0], 0),
        ("cvt.rn.f16.f32 %h7, %r4", [0x3300_0001, 0, 0], 1),
        ("cvt.rn.f16.f32 %h7, %r4", [NAN, 0, 0], 0x7FFF),
        (
            "cvt.rn.f16.f64 %h7, %rd4",
            [(1.0 + 2_f64.powi(-11) + 2_f64.powi(-40)).to_bits(), 0, 0],
            0x3C01,
        ),
        ("cvt.f32.f16 %r7, %h4", [1, 0, 0], 0x3380_0000),
        ("cvt.f32.f16 %r7, %h4", [0xFC00, 0, 0], 0xFF80_0000),
        ("cvt.f32.f16 %r7, %h4", [0x7E00, 0, 0], CANONICAL),
        ("cvt.rn.bf16.f32 %h7, %r4", [0x3F80_8000, 0, 0], 0x3F80),
        ("cvt.rn.bf16.f32 %h7, %r4", [0x3F81_8000, 0, 0], 0x3F82),
        ("cvt.rn.bf16.f32 %h7, %r4", [NAN, 0, 0], 0x7FFF),
        ("cvt.rz.bf16.f32 %h7, %r4", [0x3F81_FFFF, 0, 0], 0x3F81),
        ("cvt.f32.bf16 %r7, %h4", [0xBF80, 0, 0], MINUS_ONE),
        // The first source goes to the upper half.
        ("cvt.rn.f16x2.f32 %r7, %r4, %r5", [f(1.0), f(2.0), 0], 0x3C00_4000),
        ("cvt.rn.bf16x2.f32 %r7, %r4, %r5", [f(1.0), f(2.0), 0], 0x3F80_4000),
        ("cvt.rn.relu.f16x2.f32 %r7, %r4, %r5", [f(-1.0), f(2.0), 0], 0x0000_4000),
        ("cvt.rzi.s32.f16 %r7, %h4", [0xC100, 0, 0], 0xFFFF_FFFE),
        ("cvt.rn.f16.s32 %h7, %r4", [2049, 0, 0], 0x6800),
    ]);
}

#[test]
fn comparisons() {
    let f = |x: f32| u64::from(x.to_bits());
    check(&[
        ("setp.lt.f32 %p7, %r4, %r5", [f(1.0), f(2.0), 0], 1),
        ("setp.lt.f32 %p7, %r4, %r5", [NAN, f(2.0), 0], 0),
        ("setp.ltu.f32 %p7, %r4, %r5", [NAN, f(2.0), 0], 1),
        ("setp.ne.f32 %p7, %r4, %r5", [NAN, f(2.0), 0], 0),
        ("setp.neu.f32 %p7, %r4, %r5", [NAN, f(2.0), 0], 1),
        ("setp.equ.f32 %p7, %r4, %r5", [f(1.0), f(2.0), 0], 0),
        ("setp.num.f32 %p7, %r4, %r5", [f(1.0), NAN, 0], 0),
        ("setp.nan.f32 %p7, %r4, %r5", [f(1.0), NAN, 0], 1),
        ("setp.eq.f32 %p7, %r4, %r5", [1, 0, 0], 0),
        ("setp.eq.ftz.f32 %p7, %r4, %r5", [1, 0, 0], 1),
        ("setp.lt.s32 %p7, %r4, %r5", [0xFFFF_FFFF, 1, 0], 1),
        ("setp.lt.u32 %p7, %r4, %r5", [0xFFFF_FFFF, 1, 0], 0),
        ("setp.hi.u32 %p7, %r4, %r5", [0xFFFF_FFFF, 1, 0], 1),
        ("setp.gt.s16 %p7, %h4, %h5", [0xFFFF, 1, 0], 0),
        ("setp.ge.s64 %p7, %rd4, %rd5", [u64::MAX, 0, 0], 0),
        ("setp.ge.u64 %p7, %rd4, %rd5", [u64::MAX, 0, 0], 1),
        ("setp.gt.f64 %p7, %rd4, %rd5", [2_f64.to_bits(), 1_f64.to_bits(), 0], 1),
        ("setp.gt.f16 %p7, %h4, %h5", [0x4000, 0x3C00, 0], 1),
        ("setp.eq.s32 %p1, %r4, %r5; setp.lt.and.s32 %p7, %r4, %r6, %p1", [3, 3, 5], 1),
        ("setp.eq.s32 %p1, %r4, %r5; setp.lt.and.s32 %p7, %r4, %r6, !%p1", [3, 3, 5], 0),
        ("setp.lt.s32 %p1|%p7, %r4, %r5", [3, 5, 0], 0),
        ("setp.lt.s32 %p1, %r4, %r5; not.pred %p7, %p1", [3, 5, 0], 0),
        ("mov.pred %p7, 0", [0, 0, 0], 0),
        ("mov.pred %p7, 1", [0, 0, 0], 1),
        ("mov.pred %p7, -1", [0, 0, 0], 1),
        ("setp.lt.s32 %p1, %r4, %r5; selp.b32 %r7, %r4, %r5, %p1", [3, 5, 0], 3),
        ("setp.lt.s32 %p1, %r4, %r5; @!%p1 mov.u32 %r4, 9; mov.u32 %r7, %r4", [7, 5, 0], 9),
    ]);
}

#[test]
fn moves_and_vectors() {
    check(&[
        ("mov.b32 %r7, {%h4, %h5}", [0x1111, 0x2222, 0], 0x2222_1111),
        ("mov.b32 {%h1, %h7}, %r4", [0x2222_1111, 0, 0], 0x2222),
        ("mov.b64 %rd7, {%r4, %r5}", [1, 2, 0], 0x2_0000_0001),
        ("mov.b64 {%r1, %r7}, %rd4", [0x2_0000_0001, 0, 0], 2),
        ("mov.b64 %rd7, {%h4, %h5, %h6, %h4}", [1, 2, 3], 0x0001_0003_0002_0001),
        ("mov.b64 {%h1, %h2, %h7, %h3}, %rd4", [0x0004_0003_0002_0001, 0, 0], 3),
        ("mov.b32 %r7, 0f3F800000", [0, 0, 0], ONE),
        ("mov.b64 %rd7, 0d3FF0000000000000", [0, 0, 0], 0x3FF0_0000_0000_0000),
        ("mov.u32 %r7, -1", [0, 0, 0], 0xFFFF_FFFF),
        ("mov.u32 %r7, 0x1F", [0, 0, 0], 31),
    ]);
}
