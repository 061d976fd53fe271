//! Double precision in every rounding, small formats and their conversions, against values written
//! down from the PTX manual and IEEE 754.

mod common;

use common::{check, evaluate_with};
use cuda_emulator::settings::{Approximation, Choice, Settings};

const NAN: u64 = 0x7FC0_0001;

#[test]
fn f64_in_directed_rounding() {
    let d = |x: f64| x.to_bits();
    let one = d(1.0);
    // 1 + 2^-53 lies halfway between two doubles, 1 - 2^-54 too.
    let (half_ulp, quarter) = (d(2_f64.powi(-53)), d(-(2_f64.powi(-54))));
    let (after_one, before_one) = (one + 1, one - 1);
    let (max, inf) = (d(f64::MAX), d(f64::INFINITY));
    let (minus_zero, minus_max) = (d(-0.0), d(f64::MIN));
    check(&[
        ("add.rn.f64 %rd7, %rd4, %rd5", [one, half_ulp, 0], one),
        ("add.rz.f64 %rd7, %rd4, %rd5", [one, half_ulp, 0], one),
        ("add.rm.f64 %rd7, %rd4, %rd5", [one, half_ulp, 0], one),
        ("add.rp.f64 %rd7, %rd4, %rd5", [one, half_ulp, 0], after_one),
        ("add.rz.f64 %rd7, %rd4, %rd5", [one, quarter, 0], before_one),
        ("add.rp.f64 %rd7, %rd4, %rd5", [one, quarter, 0], one),
        ("add.rp.f64 %rd7, %rd4, %rd5", [one, 1, 0], after_one),
        ("add.rm.f64 %rd7, %rd4, %rd5", [one, 1 | 1 << 63, 0], before_one),
        ("sub.rm.f64 %rd7, %rd4, %rd5", [one, one, 0], minus_zero),
        ("sub.rp.f64 %rd7, %rd4, %rd5", [one, one, 0], 0),
        ("add.rm.f64 %rd7, %rd4, %rd5", [0, minus_zero, 0], minus_zero),
        ("add.rz.f64 %rd7, %rd4, %rd5", [max, max, 0], max),
        ("add.rp.f64 %rd7, %rd4, %rd5", [max, max, 0], inf),
        ("add.rm.f64 %rd7, %rd4, %rd5", [max, max, 0], max),
        ("add.rp.f64 %rd7, %rd4, %rd5", [minus_max, minus_max, 0], minus_max),
        ("mul.rz.f64 %rd7, %rd4, %rd5", [max, d(2.0), 0], max),
        ("mul.rp.f64 %rd7, %rd4, %rd5", [1, 1, 0], 1),
        ("mul.rm.f64 %rd7, %rd4, %rd5", [1, 1, 0], 0),
        ("mul.rm.f64 %rd7, %rd4, %rd5", [1, 1 | 1 << 63, 0], 1 | 1 << 63),
        // (1 + 2^-52)^2 = 1 + 2^-51 + 2^-104
        ("mul.rp.f64 %rd7, %rd4, %rd5", [after_one, after_one, 0], one + 3),
        ("mul.rz.f64 %rd7, %rd4, %rd5", [after_one, after_one, 0], one + 2),
        (
            "fma.rn.f64 %rd7, %rd4, %rd5, %rd6",
            [after_one, after_one, d(-1.0) + 2],
            d(2_f64.powi(-104)),
        ),
        (
            "fma.rz.f64 %rd7, %rd4, %rd5, %rd6",
            [after_one, after_one, d(-1.0) + 2],
            d(2_f64.powi(-104)),
        ),
        ("fma.rp.f64 %rd7, %rd4, %rd5, %rd6", [1, 1, one], after_one),
        ("fma.rm.f64 %rd7, %rd4, %rd5, %rd6", [1, 1 | 1 << 63, one], before_one),
        ("fma.rm.f64 %rd7, %rd4, %rd5, %rd6", [one, one, d(-1.0)], minus_zero),
        ("div.rz.f64 %rd7, %rd4, %rd5", [one, d(3.0), 0], 0x3FD5_5555_5555_5555),
        ("div.rp.f64 %rd7, %rd4, %rd5", [one, d(3.0), 0], 0x3FD5_5555_5555_5556),
        ("div.rm.f64 %rd7, %rd4, %rd5", [one, d(-3.0), 0], 0xBFD5_5555_5555_5556),
        ("div.rp.f64 %rd7, %rd4, %rd5", [d(6.0), d(3.0), 0], d(2.0)),
        ("div.rz.f64 %rd7, %rd4, %rd5", [one, 0, 0], inf),
        ("rcp.rz.f64 %rd7, %rd4", [d(3.0), 0, 0], 0x3FD5_5555_5555_5555),
        ("rcp.rp.f64 %rd7, %rd4", [d(3.0), 0, 0], 0x3FD5_5555_5555_5556),
        ("sqrt.rn.f64 %rd7, %rd4", [d(2.0), 0, 0], 0x3FF6_A09E_667F_3BCD),
        ("sqrt.rz.f64 %rd7, %rd4", [d(2.0), 0, 0], 0x3FF6_A09E_667F_3BCC),
        ("sqrt.rm.f64 %rd7, %rd4", [d(9.0), 0, 0], d(3.0)),
        ("sqrt.rp.f64 %rd7, %rd4", [d(9.0), 0, 0], d(3.0)),
        ("sqrt.rp.f64 %rd7, %rd4", [minus_zero, 0, 0], minus_zero),
    ]);
}

#[test]
fn gross_f64_approximations() {
    let d = |x: f64| x.to_bits();
    check(&[
        ("rcp.approx.ftz.f64 %rd7, %rd4", [d(2.0), 0, 0], d(0.5)),
        // Only the upper word counts, and only it is written: 1/3 = 0x3FD55555_55555555.
        ("rcp.approx.ftz.f64 %rd7, %rd4", [d(3.0) | 0xFFFF_FFFF, 0, 0], 0x3FD5_5555_0000_0000),
        ("rcp.approx.ftz.f64 %rd7, %rd4", [1, 0, 0], d(f64::INFINITY)),
        ("rcp.approx.ftz.f64 %rd7, %rd4", [d(-0.0), 0, 0], d(f64::NEG_INFINITY)),
        ("rcp.approx.ftz.f64 %rd7, %rd4", [d(f64::NEG_INFINITY), 0, 0], d(-0.0)),
        ("rcp.approx.ftz.f64 %rd7, %rd4", [d(f64::MAX), 0, 0], 0),
        ("rcp.approx.ftz.f64 %rd7, %rd4", [d(f64::NAN), 0, 0], 0x7FFF_FFFF_0000_0000),
        ("rsqrt.approx.ftz.f64 %rd7, %rd4", [d(4.0), 0, 0], d(0.5)),
        ("rsqrt.approx.ftz.f64 %rd7, %rd4", [1 | 1 << 63, 0, 0], d(f64::NEG_INFINITY)),
        ("rsqrt.approx.ftz.f64 %rd7, %rd4", [d(-1.0), 0, 0], 0x7FFF_FFFF_0000_0000),
        ("rsqrt.approx.f64 %rd7, %rd4", [d(4.0), 0, 0], d(0.5)),
        ("rsqrt.approx.f64 %rd7, %rd4", [d(-0.0), 0, 0], d(f64::NEG_INFINITY)),
        ("rsqrt.approx.f64 %rd7, %rd4", [d(f64::INFINITY), 0, 0], 0),
    ]);
}

#[test]
fn signs_from_both_operands() {
    let f = |x: f32| u64::from(x.to_bits());
    check(&[
        ("max.xorsign.abs.f32 %r7, %r4, %r5", [f(-3.0), f(2.0), 0], f(-3.0)),
        ("max.xorsign.abs.f32 %r7, %r4, %r5", [f(-3.0), f(-2.0), 0], f(3.0)),
        ("min.xorsign.abs.f32 %r7, %r4, %r5", [f(3.0), f(-2.0), 0], f(-2.0)),
        ("min.NaN.xorsign.abs.f32 %r7, %r4, %r5", [f(3.0), NAN, 0], 0x7FFF_FFFF),
        ("min.ftz.xorsign.abs.f32 %r7, %r4, %r5", [f(-3.0), 1, 0], 0x8000_0000),
        ("max.xorsign.abs.f16 %h7, %h4, %h5", [0xC200, 0x4000, 0], 0xC200),
        ("min.xorsign.abs.bf16x2 %r7, %r4, %r5", [0xC040_4040, 0x4000_4000, 0], 0xC000_4000),
    ]);
}

#[test]
fn halves_with_modifiers() {
    check(&[
        ("fma.rn.sat.f16 %h7, %h4, %h5, %h6", [0x4000, 0x4000, 0x3C00], 0x3C00),
        ("mul.sat.f16x2 %r7, %r4, %r5", [0xBC00_4000, 0x3C00_4000, 0], 0x0000_3C00),
        ("add.sat.f16 %h7, %h4, %h5", [0x7E00, 0x3C00, 0], 0),
        ("fma.rn.relu.bf16x2 %r7, %r4, %r5, %r6", [0xBF80_3F80, 0x3F80_3F80, 0], 0x0000_3F80),
        ("fma.rn.relu.f16 %h7, %h4, %h5, %h6", [0x7E00, 0x3C00, 0], 0x7FFF),
        ("add.ftz.f16 %h7, %h4, %h5", [1, 1, 0], 0),
        ("add.f16 %h7, %h4, %h5", [1, 1, 0], 2),
        ("mul.rn.bf16 %h7, %h4, %h5", [0x3F81, 0x3F81, 0], 0x3F82),
        ("ex2.approx.ftz.bf16 %h7, %h4", [0x3F80, 0, 0], 0x4000),
        ("ex2.approx.ftz.bf16x2 %r7, %r4", [0xFF80_7F80, 0, 0], 0x0000_7F80),
        ("ex2.approx.ftz.bf16 %h7, %h4", [0x8001, 0, 0], 0x3F80),
        ("ex2.approx.f16x2 %r7, %r4", [0x4000_3C00, 0, 0], 0x4400_4000),
        ("tanh.approx.f16 %h7, %h4", [0x7C00, 0, 0], 0x3C00),
        ("tanh.approx.f16 %h7, %h4", [0x8000, 0, 0], 0x8000),
        ("tanh.approx.bf16x2 %r7, %r4", [0xFF80_7F80, 0, 0], 0xBF80_3F80),
    ]);
}

#[test]
fn conversions_between_halves() {
    let f = |x: f32| u64::from(x.to_bits());
    check(&[
        // 1 + 2^-10 has no neighbour nearer than 1 in bf16.
        ("cvt.rn.bf16.f16 %h7, %h4", [0x3C01, 0, 0], 0x3F80),
        ("cvt.rp.bf16.f16 %h7, %h4", [0x3C01, 0, 0], 0x3F81),
        ("cvt.rn.f16.bf16 %h7, %h4", [0x7F00, 0, 0], 0x7C00),
        ("cvt.rz.f16.bf16 %h7, %h4", [0x7F00, 0, 0], 0x7BFF),
        ("cvt.rmi.bf16.bf16 %h7, %h4", [0xBFC0, 0, 0], 0xC000),
        ("cvt.rni.f16.f16 %h7, %h4", [0x4100, 0, 0], 0x4000),
        ("cvt.sat.f16.f16 %h7, %h4", [0x4100, 0, 0], 0x3C00),
        ("cvt.rn.sat.f16.f32 %h7, %r4", [NAN, 0, 0], 0),
        ("cvt.f64.bf16 %rd7, %h4", [0xBFC0, 0, 0], (-1.5_f64).to_bits()),
        ("cvt.rzi.s8.bf16 %r7, %h4", [0xC3C0, 0, 0], 0xFFFF_FF80),
        ("cvt.rn.bf16.u64 %h7, %rd4", [257, 0, 0], 0x4380),
        ("cvt.ftz.f32.bf16 %r7, %h4", [1, 0, 0], 0),
        ("cvt.f32.bf16 %r7, %h4", [1, 0, 0], 0x0001_0000),
        ("cvt.rz.f16x2.f32 %r7, %r4, %r5", [f(1e9), f(-1e9), 0], 0x7BFF_FBFF),
        ("cvt.rn.f16x2.f32 %r7, %r4, %r5", [f(1e9), f(-1e9), 0], 0x7C00_FC00),
        (
            "cvt.rn.satfinite.f16x2.f32 %r7, %r4, %r5",
            [f(1e9), f(f32::NEG_INFINITY), 0],
            0x7BFF_FBFF,
        ),
        ("cvt.rn.satfinite.bf16x2.f32 %r7, %r4, %r5", [0x7F7F_FFFF, NAN, 0], 0x7F7F_7FFF),
        ("cvt.rz.relu.f16x2.f32 %r7, %r4, %r5", [f(-1.0), f(1.000_9), 0], 0x0000_3C00),
        ("cvt.rz.bf16x2.f32 %r7, %r4, %r5", [0x3F81_FFFF, 0xBF81_FFFF, 0], 0x3F81_BF81),
        ("cvt.rn.relu.f16.f32 %h7, %r4", [f(-1.0), 0, 0], 0),
        ("cvt.rn.relu.bf16.f32 %h7, %r4", [NAN, 0, 0], 0x7FFF),
        ("cvt.rz.satfinite.bf16.f32 %h7, %r4", [f(f32::INFINITY), 0, 0], 0x7F7F),
        // Subnormal results round like others.
        ("cvt.rz.f16x2.f32 %r7, %r4, %r5", [0x337F_FFFF, 0x33BF_FFFF, 0], 0x0000_0001),
        ("cvt.rn.satfinite.f16.f32 %h7, %r4", [0x33BF_FFFF, 0, 0], 1),
        ("cvt.rn.satfinite.f16.f32 %h7, %r4", [0x33C0_0000, 0, 0], 2),
    ]);
}

#[test]
fn small_formats() {
    let f = |x: f32| u64::from(x.to_bits());
    check(&[
        // tf32 keeps 10 bits: 1 + 2^-11 lies halfway.
        ("cvt.rna.tf32.f32 %r7, %r4", [0x3F80_1000, 0, 0], 0x3F80_2000),
        ("cvt.rn.tf32.f32 %r7, %r4", [0x3F80_1000, 0, 0], 0x3F80_0000),
        ("cvt.rz.tf32.f32 %r7, %r4", [0x3F80_1FFF, 0, 0], 0x3F80_0000),
        ("cvt.rna.tf32.f32 %r7, %r4", [0x3F80_0FFF, 0, 0], 0x3F80_0000),
        ("cvt.rna.tf32.f32 %r7, %r4", [0x7F7F_FFFF, 0, 0], 0x7F80_0000),
        ("cvt.rna.satfinite.tf32.f32 %r7, %r4", [0x7F7F_FFFF, 0, 0], 0x7F7F_E000),
        ("cvt.rn.relu.tf32.f32 %r7, %r4", [f(-2.0), 0, 0], 0),
        ("cvt.rna.tf32.f32 %r7, %r4", [0x8000_1000, 0, 0], 0x8000_2000),
        // e4m3: 448 is the greatest, 2^-9 the smallest.
        ("cvt.rn.satfinite.e4m3x2.f32 %h7, %r4, %r5", [f(1.0), f(-2.0), 0], 0x38C0),
        ("cvt.rn.satfinite.e4m3x2.f32 %h7, %r4, %r5", [f(448.0), f(1e9), 0], 0x7E7E),
        ("cvt.rn.satfinite.e4m3x2.f32 %h7, %r4, %r5", [f(f32::NEG_INFINITY), NAN, 0], 0xFE7F),
        ("cvt.rn.satfinite.e4m3x2.f32 %h7, %r4, %r5", [f(1.0 / 512.0), f(1.0 / 1024.0), 0], 0x0100),
        ("cvt.rn.satfinite.e4m3x2.f32 %h7, %r4, %r5", [f(1.5 / 512.0), f(7.5 / 512.0), 0], 0x0208),
        // 17 lies between 16 and 18, halfway: to the even one.
        ("cvt.rn.satfinite.e4m3x2.f32 %h7, %r4, %r5", [f(17.0), f(19.0), 0], 0x585A),
        ("cvt.rn.satfinite.relu.e4m3x2.f32 %h7, %r4, %r5", [f(-1.0), f(1.0), 0], 0x0038),
        // e5m2: 57344 is the greatest.
        ("cvt.rn.satfinite.e5m2x2.f32 %h7, %r4, %r5", [f(1.0), f(-2.0), 0], 0x3CC0),
        ("cvt.rn.satfinite.e5m2x2.f32 %h7, %r4, %r5", [f(57344.0), f(-1e9), 0], 0x7BFB),
        ("cvt.rn.satfinite.e5m2x2.f32 %h7, %r4, %r5", [NAN, f(1.125), 0], 0x7F3C),
        ("cvt.rn.satfinite.e4m3x2.f16x2 %h7, %r4", [0x3C00_C000, 0, 0], 0x38C0),
        ("cvt.rn.satfinite.e5m2x2.f16x2 %h7, %r4", [0x7C00_7E00, 0, 0], 0x7B7F),
        ("cvt.rn.f16x2.e4m3x2 %r7, %h4", [0x38C0, 0, 0], 0x3C00_C000),
        ("cvt.rn.f16x2.e4m3x2 %r7, %h4", [0x7EFF, 0, 0], 0x5F00_7FFF),
        ("cvt.rn.f16x2.e4m3x2 %r7, %h4", [0x0181, 0, 0], 0x1800_9800),
        ("cvt.rn.relu.f16x2.e4m3x2 %r7, %h4", [0x38C0, 0, 0], 0x3C00_0000),
        ("cvt.rn.f16x2.e5m2x2 %r7, %h4", [0x3CFC, 0, 0], 0x3C00_FC00),
        ("cvt.rn.f16x2.e5m2x2 %r7, %h4", [0x0182, 0, 0], 0x0100_8200),
    ]);
}

#[test]
fn eight_bits_survive_the_way_to_halves_and_back() {
    let rows: Vec<[u64; 3]> = (0..256).map(|byte| [byte << 8 | byte, 0, 0]).collect();
    for format in ["e4m3x2", "e5m2x2"] {
        let body =
            format!("cvt.rn.f16x2.{format} %r1, %h4; cvt.rn.satfinite.{format}.f16x2 %h7, %r1");
        for (row, found) in rows.iter().zip(common::evaluate(&body, &rows)) {
            let byte = row[0] & 0xFF;
            let magnitude = byte & 0x7F;
            let greatest = if format == "e4m3x2" { 0x7E } else { 0x7B };
            let expected = match magnitude {
                _ if magnitude <= greatest => byte,
                // Infinity saturates.
                0x7C if format == "e5m2x2" => byte - 1,
                _ => 0x7F,
            };
            assert_eq!(found, expected << 8 | expected, "{format} {byte:#x}");
        }
    }
}

#[test]
fn perturbed_approximations_are_functions_of_seed_and_operand() {
    let perturbed = |choice| Settings {
        approximation: Approximation::Perturbed(choice),
        ..Settings::default()
    };
    let f = |x: f32| u64::from(x.to_bits());
    // Lanes 0 and 32 have the same operand, in two warps.
    let rows: Vec<[u64; 3]> = (0..64).map(|i| [f((i % 32) as f32 * 0.37 - 3.0), 0, 0]).collect();
    for body in ["ex2.approx.ftz.f32 %r7, %r4", "sin.approx.f32 %r7, %r4"] {
        let exact = evaluate_with(Settings::default(), body, &rows);
        let one = evaluate_with(perturbed(Choice::Seed(1)), body, &rows);
        assert_eq!(one, evaluate_with(perturbed(Choice::Seed(1)), body, &rows), "{body}");
        assert_eq!(one[..32], one[32..], "{body}");
        assert_ne!(one, evaluate_with(perturbed(Choice::Seed(2)), body, &rows), "{body}");
        assert_ne!(one, exact, "{body}");
    }
    // Two steps below and above 2.
    for (choice, expected) in [(Choice::Least, 0x3FFF_FFFE), (Choice::Greatest, 0x4000_0002)] {
        let body = "ex2.approx.f32 %r7, %r4";
        assert_eq!(evaluate_with(perturbed(choice), body, &[[f(1.0), 0, 0]]), [expected]);
        assert_eq!(evaluate_with(perturbed(choice), body, &[[f(0.0), 0, 0]]), [f(1.0)]);
    }
    // Exact instructions stay.
    let body = "fma.rn.f32 %r7, %r4, %r4, %r4";
    assert_eq!(
        evaluate_with(perturbed(Choice::Greatest), body, &rows),
        evaluate_with(Settings::default(), body, &rows)
    );
}

#[test]
fn approximation_settings() {
    let perturbed = |choice| Some(Approximation::Perturbed(choice));
    for (text, expected) in [
        ("exact", Some(Approximation::Exact)),
        ("perturb:7", perturbed(Choice::Seed(7))),
        ("perturb:least", perturbed(Choice::Least)),
        ("perturb:greatest", perturbed(Choice::Greatest)),
        ("perturb", None),
        ("perturb:", None),
        ("7", None),
    ] {
        assert_eq!(Approximation::parse(text), expected, "{text}");
    }
}
