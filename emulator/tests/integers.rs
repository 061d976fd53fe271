//! Integer instructions beyond the usual ones, against values written down from the PTX manual.

mod common;

use common::check;

#[test]
fn carries() {
    let wide = |low: &str, high: &str| format!("{low}; {high}");
    let sum = wide("add.cc.u32 %r1, %r4, %r5", "addc.u32 %r7, %r6, 0");
    let difference = wide("sub.cc.u32 %r1, %r4, %r5", "subc.u32 %r7, %r6, 0");
    let sum64 = wide("add.cc.s64 %rd1, %rd4, %rd5", "addc.s64 %rd7, %rd6, 0");
    let difference64 = wide("sub.cc.u64 %rd1, %rd4, %rd5", "subc.s64 %rd7, %rd6, 1");
    check(&[
        ("add.cc.u32 %r7, %r4, %r5", [0xFFFF_FFFF, 2, 0], 1),
        (&sum, [0xFFFF_FFFF, 1, 10], 11),
        (&sum, [0xFFFF_FFFE, 1, 10], 10),
        (&sum, [0x7FFF_FFFF, 1, 10], 10),
        (&difference, [0, 1, 10], 9),
        (&difference, [1, 1, 10], 10),
        (&sum64, [u64::MAX, 1, 10], 11),
        (&sum64, [u64::MAX, 0, 10], 10),
        (&difference64, [0, 1, 10], 8),
        (&difference64, [1, 1, 10], 9),
        // A carry goes through a word of ones.
        ("add.cc.u32 %r1, %r4, 1; addc.cc.u32 %r1, %r5, 0; addc.u32 %r7, 0, 0", [!0, !0, 0], 1),
        ("sub.cc.u32 %r1, %r4, 1; subc.cc.u32 %r1, %r5, 0; subc.u32 %r7, 5, 0", [0, 0, 0], 4),
        // Both addends and the carry: 2^32 - 1 + 2^32 - 1 + 1.
        ("add.cc.u32 %r1, %r4, 1; addc.cc.u32 %r7, %r4, %r4", [0xFFFF_FFFF, 0, 0], 0xFFFF_FFFF),
        // (2^32 - 1)^2 = 0xFFFFFFFE_00000001.
        ("mad.lo.cc.u32 %r1, %r4, %r4, %r5; addc.u32 %r7, 0, 0", [!0, 0xFFFF_FFFF, 0], 1),
        ("mad.lo.cc.u32 %r1, %r4, %r4, %r5; addc.u32 %r7, 0, 0", [!0, 0xFFFF_FFFE, 0], 0),
        (
            "mad.lo.cc.u32 %r1, %r4, %r4, %r5; madc.hi.u32 %r7, %r4, %r4, 0",
            [!0, !0, 0],
            0xFFFF_FFFF,
        ),
        ("mad.hi.cc.u32 %r1, %r4, %r4, %r5; addc.u32 %r7, 0, 0", [!0, 2, 0], 1),
        ("mad.hi.cc.u32 %r1, %r4, %r4, %r5; addc.u32 %r7, 0, 0", [!0, 1, 0], 0),
        // -1 * 5 = -5: the upper word is all ones.
        ("mad.hi.cc.s32 %r1, %r4, %r5, 1; addc.u32 %r7, 0, 0", [!0, 5, 0], 1),
        ("add.cc.u32 %r1, 0, 0; madc.lo.u32 %r7, %r4, %r5, %r6", [3, 4, 5], 17),
        ("mad.lo.cc.u64 %rd1, %rd4, %rd4, %rd5; madc.hi.u64 %rd7, %rd4, %rd4, 0", [!0, !0, 0], !0),
        ("mad.hi.cc.s64 %rd1, %rd4, %rd5, 1; addc.u64 %rd7, 0, 0", [!0, 5, 0], 1),
    ]);
}

#[test]
fn every_lane_has_its_own_carry() {
    let body = "setp.lt.u64 %p1, %rd5, 4; add.cc.u32 %r1, %r4, 0; @%p1 add.cc.u32 %r1, %r4, %r4; \
                addc.u32 %r7, 0, 0";
    // Lane i adds 0x20000000 * i to itself if i < 4; the others keep the carry of the first sum.
    let rows: Vec<[u64; 3]> = (0..8).map(|i| [i * 0x2000_0000 * 2, i, 0]).collect();
    assert_eq!(common::evaluate(body, &rows), [0, 0, 1, 1, 0, 0, 0, 0]);
}

#[test]
fn products_and_sums_of_parts() {
    let minus = |x: i64| x as u64;
    check(&[
        // Bits 24 and above do not count.
        ("mul24.lo.u32 %r7, %r4, %r5", [0xFF00_0003, 0xFF00_0005, 0], 15),
        ("mul24.lo.s32 %r7, %r4, %r5", [0x00FF_FFFF, 5, 0], 0xFFFF_FFFB),
        // (2^24 - 1)^2 = 0xFFFF_FE00_0001
        ("mul24.hi.u32 %r7, %r4, %r4", [0xFF_FFFF, 0, 0], 0xFFFF_FE00),
        ("mul24.lo.u32 %r7, %r4, %r4", [0xFF_FFFF, 0, 0], 0xFE00_0001),
        // -2^23 * 2^22 = -2^45, shifted right by 16.
        ("mul24.hi.s32 %r7, %r4, %r5", [0x80_0000, 0x40_0000, 0], minus(-(1 << 29)) & 0xFFFF_FFFF),
        ("mad24.lo.s32 %r7, %r4, %r5, %r6", [3, 4, 5], 17),
        ("mad24.hi.u32 %r7, %r4, %r5, %r6", [0x10_0000, 0x10_0000, 1], 0x0100_0001),
        ("mad24.hi.sat.s32 %r7, %r4, %r4, %r6", [0x7F_FFFF, 0, 0x7000_0000], 0x7FFF_FFFF),
        ("mad.hi.sat.s32 %r7, %r4, %r5, %r6", [0x4000_0000, 8, 0x7FFF_FFFF], 0x7FFF_FFFF),
        ("mad.hi.sat.s32 %r7, %r4, %r5, %r6", [0x4000_0000, 8, 3], 5),
        ("mad.hi.s16 %h7, %h4, %h5, %h6", [0x4000, 8, 0xFFFF], 1),
        ("mad.hi.u16 %h7, %h4, %h5, %h6", [0xFFFF, 0xFFFF, 3], 1),
        ("mad.hi.s64 %rd7, %rd4, %rd5, %rd6", [minus(-1), 5, 3], 2),
        ("mad.hi.u64 %rd7, %rd4, %rd5, %rd6", [1 << 63, 4, 3], 5),
        ("sad.u16 %h7, %h4, %h5, %h6", [1, 0xFFFF, 3], 1),
        ("sad.s16 %h7, %h4, %h5, %h6", [1, 0xFFFF, 3], 5),
        ("sad.u32 %r7, %r4, %r5, %r6", [0xFFFF_FFFF, 1, 1], 0xFFFF_FFFF),
        ("sad.s64 %rd7, %rd4, %rd5, %rd6", [minus(-3), 4, 10], 17),
        ("sad.u64 %rd7, %rd4, %rd5, %rd6", [3, 10, 1], 8),
        ("dp4a.u32.u32 %r7, %r4, %r5, %r6", [0xFF02_0304, 0x0101_0101, 1], 265),
        (
            "dp4a.s32.u32 %r7, %r4, %r5, %r6",
            [0xFF00_0000, 0xFF00_0000, 0],
            minus(-255) & 0xFFFF_FFFF,
        ),
        (
            "dp4a.u32.s32 %r7, %r4, %r5, %r6",
            [0xFF00_0000, 0xFF00_0000, 0],
            minus(-255) & 0xFFFF_FFFF,
        ),
        ("dp4a.s32.s32 %r7, %r4, %r5, %r6", [0xFF00_0000, 0xFF00_0000, 0], 1),
        // Words 2 and 3 of a times bytes 5, 6 (low) or 7, 8 (high) of b.
        ("dp2a.lo.u32.u32 %r7, %r4, %r5, %r6", [0x0003_0002, 0x0807_0605, 100], 100 + 10 + 18),
        ("dp2a.hi.u32.u32 %r7, %r4, %r5, %r6", [0x0003_0002, 0x0807_0605, 100], 100 + 14 + 24),
        (
            "dp2a.lo.s32.u32 %r7, %r4, %r5, %r6",
            [0xFFFF_0001, 0x0000_FF02, 0],
            minus(2 - 255) & 0xFFFF_FFFF,
        ),
        (
            "dp2a.lo.u32.s32 %r7, %r4, %r5, %r6",
            [0xFFFF_0000, 0x0000_FF00, 0],
            minus(-65535) & 0xFFFF_FFFF,
        ),
        ("dp2a.hi.s32.s32 %r7, %r4, %r5, %r6", [0xFFFF_0000, 0xFF00_0000, 0], 1),
    ]);
}

#[test]
fn masks_and_fields() {
    check(&[
        // The manual's own examples.
        ("fns.b32 %r7, 0xaaaaaaaa, 3, 1", [0, 0, 0], 3),
        ("fns.b32 %r7, 0xaaaaaaaa, 3, -1", [0, 0, 0], 3),
        ("fns.b32 %r7, 0xaaaaaaaa, 2, 1", [0, 0, 0], 3),
        ("fns.b32 %r7, 0xaaaaaaaa, 2, -1", [0, 0, 0], 1),
        ("fns.b32 %r7, %r4, %r5, %r6", [0xAAAA_AAAA, 0, 3], 5),
        ("fns.b32 %r7, %r4, %r5, %r6", [0xAAAA_AAAA, 31, -3_i64 as u64], 27),
        ("fns.b32 %r7, %r4, %r5, %r6", [0xAAAA_AAAA, 31, 2], 0xFFFF_FFFF),
        ("fns.b32 %r7, %r4, %r5, %r6", [8, 3, 0], 3),
        ("fns.b32 %r7, %r4, %r5, %r6", [8, 2, 0], 0xFFFF_FFFF),
        ("bmsk.wrap.b32 %r7, 1, 2", [0, 0, 0], 6),
        ("bmsk.clamp.b32 %r7, %r4, %r5", [4, 8, 0], 0xFF0),
        ("bmsk.clamp.b32 %r7, %r4, %r5", [28, 8, 0], 0xF000_0000),
        ("bmsk.clamp.b32 %r7, %r4, %r5", [4, 40, 0], 0xFFFF_FFF0),
        ("bmsk.clamp.b32 %r7, %r4, %r5", [32, 8, 0], 0),
        ("bmsk.clamp.b32 %r7, %r4, %r5", [0, 32, 0], 0xFFFF_FFFF),
        ("bmsk.wrap.b32 %r7, %r4, %r5", [33, 34, 0], 6),
        ("bmsk.wrap.b32 %r7, %r4, %r5", [4, 32, 0], 0),
        ("szext.wrap.u32 %r7, 0xffffffff, 0", [0, 0, 0], 0),
        ("szext.clamp.s32 %r7, %r4, %r5", [0x80, 8, 0], 0xFFFF_FF80),
        ("szext.clamp.s32 %r7, %r4, %r5", [0x7F, 8, 0], 0x7F),
        ("szext.clamp.u32 %r7, %r4, %r5", [0xFFFF_FF80, 8, 0], 0x80),
        ("szext.clamp.s32 %r7, %r4, %r5", [0x8000_0001, 32, 0], 0x8000_0001),
        ("szext.clamp.u32 %r7, %r4, %r5", [0x8000_0001, 99, 0], 0x8000_0001),
        ("szext.wrap.s32 %r7, %r4, %r5", [0x8, 36, 0], 0xFFFF_FFF8),
        ("szext.wrap.s32 %r7, %r4, %r5", [0x8, 32, 0], 0),
        ("szext.clamp.s32 %r7, %r4, %r5", [0xFF, 0, 0], 0),
    ]);
}

#[test]
fn packed_words() {
    check(&[
        ("add.u16x2 %r7, %r4, %r5", [0xFFFF_FFFF, 0x0002_0001, 0], 0x0001_0000),
        ("add.s16x2 %r7, %r4, %r5", [0x7FFF_0001, 0x0001_0001, 0], 0x8000_0002),
        ("min.u16x2 %r7, %r4, %r5", [0xFFFF_0001, 0x0001_FFFF, 0], 0x0001_0001),
        ("min.s16x2 %r7, %r4, %r5", [0xFFFF_0001, 0x0001_FFFF, 0], 0xFFFF_FFFF),
        ("max.u16x2 %r7, %r4, %r5", [0xFFFF_0001, 0x0001_0002, 0], 0xFFFF_0002),
        ("max.s16x2 %r7, %r4, %r5", [0xFFFF_0001, 0x0001_0002, 0], 0x0001_0002),
        ("max.relu.s16x2 %r7, %r4, %r5", [0xFFFF_0001, 0xFFFE_0002, 0], 0x0000_0002),
        ("min.relu.s16x2 %r7, %r4, %r5", [0xFFFF_0001, 0x0001_0002, 0], 0x0000_0001),
        ("max.s32.relu %r7, %r4, %r5", [0xFFFF_FFFF, 0xFFFF_FFFE, 0], 0),
        ("max.relu.s32 %r7, %r4, %r5", [0xFFFF_FFFF, 5, 0], 5),
        ("min.relu.s32 %r7, %r4, %r5", [0xFFFF_FFFF, 5, 0], 0),
        ("min.relu.s32 %r7, %r4, %r5", [7, 5, 0], 5),
        ("vabsdiff4.u32.u32.u32 %r7, %r4, %r5, 0", [0xFF00_0510, 0x01FF_0A10, 0], 0xFEFF_0500),
        ("vabsdiff4.u32.s32.s32 %r7, %r4, %r5, 0", [0xFF00_7F80, 0x01FF_0000, 0], 0x0201_7F80),
        (
            "vabsdiff4.u32.u32.u32.add %r7, %r4, %r5, %r6",
            [0xFF00_0510, 0x01FF_0A10, 1],
            1 + 254 + 255 + 5,
        ),
        ("vabsdiff2.u32.u32.u32 %r7, %r4, %r5, 0", [0xFFFF_0001, 0x0000_0003, 0], 0xFFFF_0002),
        ("vabsdiff2.u32.s32.s32.add %r7, %r4, %r5, %r6", [0xFFFF_0001, 0x0001_0003, 10], 14),
        // Signed numbers clamped, the first above the second, the rest above both.
        ("cvt.pack.sat.s16.s32 %r7, %r4, %r5", [0x1_0000, 0xFFFF_FFFF, 0], 0x7FFF_FFFF),
        ("cvt.pack.sat.u16.s32 %r7, %r4, %r5", [0x1_0000, 0xFFFF_FFFF, 0], 0xFFFF_0000),
        ("cvt.pack.sat.u8.s32.b32 %r7, %r4, %r5, %r6", [300, 5, 0x1234_5678], 0x5678_FF05),
        ("cvt.pack.sat.s8.s32.b32 %r7, %r4, %r5, 0", [0xFFFF_0000, 200, 0], 0x0000_807F),
        ("cvt.pack.sat.u4.s32.b32 %r7, %r4, %r5, %r6", [99, 3, 1], 0x0000_01F3),
        ("cvt.pack.sat.s2.s32.b32 %r7, %r4, %r5, 0", [1, 0xFFFF_FF00, 0], 0x0000_0006),
    ]);
}

#[test]
fn odd_registers() {
    check(&[
        ("mov.u32 %r7, WARP_SZ", [0, 0, 0], 32),
        ("add.u32 %r7, %r4, WARP_SZ", [1, 0, 0], 33),
        (
            "{ .reg .b8 %b<3>; mov.b16 {%b1, %b2}, %h4; mov.b16 %h7, {%b2, %b1}; }",
            [0x1234, 0, 0],
            0x3412,
        ),
        (
            "{ .reg .b8 %b<5>; mov.b32 {%b1, %b2, %b3, %b4}, %r4; mov.b32 %r7, {%b3, %b1, %b4, %b2}; }",
            [0x4433_2211, 0, 0],
            0x2244_1133,
        ),
        (
            "{ .reg .b128 %q<3>; mov.b128 %q1, {%rd4, %rd5}; mov.b128 %q2, %q1; mov.b128 {%rd1, %rd7}, %q2; }",
            [1, 2, 0],
            2,
        ),
        (
            "{ .reg .b128 %q<3>; mov.b128 %q2, {%rd4, %rd5}; mov.b128 {%r1, %r2, %r3, %r7}, %q2; }",
            [1, 0x2222_2222_3333_3333, 0],
            0x2222_2222,
        ),
        (
            "{ .reg .b128 %q<3>; mov.b128 %q2, {%r4, %r5, %r6, %r4}; mov.b128 {%rd1, %rd7}, %q2; }",
            [1, 2, 3],
            0x1_0000_0003,
        ),
    ]);
}
