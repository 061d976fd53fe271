//! Comparisons and selections, against values written down from the PTX manual.

mod common;

use common::check;

const ONE: u64 = 0x3F80_0000;
const NAN: u64 = 0x7FC0_0001;

#[test]
fn packed_halves_compare_into_two_predicates() {
    // (1, 2) with (1, 3), the lower half first.
    let (a, b) = (0x4000_3C00, 0x4200_3C00);
    check(&[
        ("setp.eq.f16x2 %p7|%p1, %r4, %r5", [a, b, 0], 1),
        ("setp.eq.f16x2 %p1|%p7, %r4, %r5", [a, b, 0], 0),
        ("setp.lt.f16x2 %p1|%p7, %r4, %r5", [a, b, 0], 1),
        ("setp.lt.bf16x2 %p1|%p7, %r4, %r5", [0x4000_3F80, 0x4040_3F80, 0], 1),
        ("setp.lt.f16x2 %p1|%p7, %r4, %r5", [0x7E00_3C00, b, 0], 0),
        ("setp.ltu.f16x2 %p1|%p7, %r4, %r5", [0x7E00_3C00, b, 0], 1),
        // Both are combined with the predicate, even if one replaces it.
        ("setp.ne.u32 %p1, %r6, 0; setp.le.and.f16x2 %p1|%p7, %r4, %r5, %p1", [a, b, 0], 0),
        ("setp.ne.u32 %p1, %r6, 0; setp.gt.or.f16x2 %p1|%p7, %r4, %r5, %p1", [a, b, 1], 1),
        ("setp.ne.u32 %p1, %r6, 0; setp.eq.and.f16x2 %p7|%p1, %r4, %r5, !%p1", [a, b, 1], 0),
        // The guard is one of the results: %p1 becomes false, and %p7 is written all the same.
        (
            "setp.ne.u32 %p7, %r6, %r6; setp.eq.u32 %p1, %r6, %r6; @%p1 setp.lt.f16x2 %p1|%p7, %r4, %r5",
            [a, b, 0],
            1,
        ),
        // A subnormal is zero with .ftz.
        ("setp.eq.ftz.f16 %p7, %h4, %h5", [1, 0, 0], 1),
        ("setp.eq.f16 %p7, %h4, %h5", [1, 0, 0], 0),
        ("setp.eq.ftz.f16x2 %p1|%p7, %r4, %r5", [0x0001_0000, 0x8000_0000, 0], 1),
    ]);
}

#[test]
fn set() {
    let f = |x: f64| x.to_bits();
    check(&[
        ("set.lt.u32.f32 %r7, %r4, %r5", [ONE, 0x4000_0000, 0], 0xFFFF_FFFF),
        ("set.lt.f32.f32 %r7, %r4, %r5", [ONE, 0x4000_0000, 0], ONE),
        ("set.gt.f32.f32 %r7, %r4, %r5", [ONE, 0x4000_0000, 0], 0),
        ("set.ne.f32.f32 %r7, %r4, %r5", [NAN, ONE, 0], 0),
        ("set.neu.f32.f32 %r7, %r4, %r5", [NAN, ONE, 0], ONE),
        ("set.eq.ftz.s32.f32 %r7, %r4, %r5", [1, 0, 0], 0xFFFF_FFFF),
        ("set.lt.f32.s32 %r7, %r4, %r5", [0xFFFF_FFFF, 1, 0], ONE),
        ("set.lt.u32.u32 %r7, %r4, %r5", [0xFFFF_FFFF, 1, 0], 0),
        ("set.lt.u32.s64 %r7, %rd4, %rd5", [u64::MAX, 1, 0], 0xFFFF_FFFF),
        ("set.gt.f32.f64 %r7, %rd4, %rd5", [f(2.0), f(1.0), 0], ONE),
        ("setp.ne.u32 %p1, %r6, 0; set.eq.and.u32.u32 %r7, %r4, %r5, %p1", [3, 3, 0], 0),
        ("setp.ne.u32 %p1, %r6, 0; set.eq.and.u32.u32 %r7, %r4, %r5, !%p1", [3, 3, 0], 0xFFFF_FFFF),
        ("set.eq.f16.f16 %h7, %h4, %h5", [0x3C00, 0x3C00, 0], 0x3C00),
        ("set.lt.f16.s32 %h7, %r4, %r5", [0xFFFF_FFFF, 1, 0], 0x3C00),
        ("set.eq.bf16.f32 %h7, %r4, %r5", [ONE, ONE, 0], 0x3F80),
        ("set.eq.u16.f16 %h7, %h4, %h5", [0x3C00, 0x3C00, 0], 0xFFFF),
        ("set.nan.u32.f16 %r7, %h4, %h5", [0x7E00, 0x3C00, 0], 0xFFFF_FFFF),
        ("set.lt.f16x2.f16x2 %r7, %r4, %r5", [0x4000_3C00, 0x4200_3C00, 0], 0x3C00_0000),
        ("set.eq.bf16x2.bf16x2 %r7, %r4, %r5", [0x4000_3F80, 0x4040_3F80, 0], 0x0000_3F80),
        ("set.le.u32.f16x2 %r7, %r4, %r5", [0x4000_3C00, 0x4200_3C00, 0], 0xFFFF_FFFF),
        ("set.lt.u32.bf16x2 %r7, %r4, %r5", [0x4000_3F80, 0x4040_3F80, 0], 0xFFFF_0000),
        // The destination may be a source.
        (
            "mov.u32 %r7, %r4; set.lt.f16x2.f16x2 %r7, %r7, %r5",
            [0x4000_3C00, 0x4200_3C00, 0],
            0x3C00_0000,
        ),
    ]);
}

#[test]
fn slct_and_testp() {
    let d = |x: f64| x.to_bits();
    check(&[
        ("slct.u32.s32 %r7, %r4, %r5, %r6", [1, 2, 0], 1),
        ("slct.u32.s32 %r7, %r4, %r5, %r6", [1, 2, 0xFFFF_FFFF], 2),
        ("slct.f32.f32 %r7, %r4, %r5, %r6", [1, 2, 0x8000_0000], 1),
        ("slct.f32.f32 %r7, %r4, %r5, %r6", [1, 2, 0x8000_0001], 2),
        ("slct.ftz.f32.f32 %r7, %r4, %r5, %r6", [1, 2, 0x8000_0001], 1),
        ("slct.f32.f32 %r7, %r4, %r5, %r6", [1, 2, NAN], 2),
        ("slct.b64.s32 %rd7, %rd4, %rd5, %r6", [1, 2, 0xFFFF_FFFF], 2),
        ("slct.s16.s32 %h7, %h4, %h5, %r6", [1, 2, 5], 1),
        ("testp.finite.f32 %p7, %r4", [0x7F80_0000, 0, 0], 0),
        ("testp.finite.f32 %p7, %r4", [0xFF7F_FFFF, 0, 0], 1),
        ("testp.infinite.f32 %p7, %r4", [0xFF80_0000, 0, 0], 1),
        ("testp.infinite.f32 %p7, %r4", [NAN, 0, 0], 0),
        ("testp.number.f32 %p7, %r4", [0xFF80_0000, 0, 0], 1),
        ("testp.number.f32 %p7, %r4", [NAN, 0, 0], 0),
        ("testp.notanumber.f32 %p7, %r4", [NAN, 0, 0], 1),
        // Zero counts as normal.
        ("testp.normal.f32 %p7, %r4", [0x8000_0000, 0, 0], 1),
        ("testp.normal.f32 %p7, %r4", [1, 0, 0], 0),
        ("testp.normal.f32 %p7, %r4", [0x0080_0000, 0, 0], 1),
        ("testp.normal.f32 %p7, %r4", [0x7F80_0000, 0, 0], 0),
        ("testp.normal.f32 %p7, %r4", [NAN, 0, 0], 0),
        ("testp.subnormal.f32 %p7, %r4", [0x807F_FFFF, 0, 0], 1),
        ("testp.subnormal.f32 %p7, %r4", [0x0080_0000, 0, 0], 0),
        ("testp.subnormal.f32 %p7, %r4", [0, 0, 0], 0),
        ("testp.subnormal.f64 %p7, %rd4", [1, 0, 0], 1),
        ("testp.normal.f64 %p7, %rd4", [d(1.0), 0, 0], 1),
        ("testp.normal.f64 %p7, %rd4", [1, 0, 0], 0),
        ("testp.infinite.f64 %p7, %rd4", [d(f64::NEG_INFINITY), 0, 0], 1),
        ("testp.notanumber.f64 %p7, %rd4", [d(f64::NAN), 0, 0], 1),
        ("testp.finite.f64 %p7, %rd4", [d(f64::MAX), 0, 0], 1),
        // The guard is the result.
        ("setp.eq.u32 %p7, %r5, %r5; @%p7 testp.finite.f32 %p7, %r4", [NAN, 0, 0], 0),
        ("setp.eq.u32 %p7, %r5, %r5; @%p7 mov.pred %p7, 0", [0, 0, 0], 0),
        ("setp.ne.u32 %p7, %r5, %r5; @!%p7 mov.pred %p7, 1", [0, 0, 0], 1),
    ]);
}
