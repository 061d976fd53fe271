//! Arithmetic by itself, on many numbers: functions that are approximate on a GPU within the error that the PTX
//! manual documents, and f64 in every rounding beside the processor's.

use cuda_emulator::{
    approx::{Format, Function, HalfKind, error_share, perturbed, truth},
    double::{DoubleOp, Round, double},
    settings::{Choice, split_mix},
};
use half::{bf16, f16};

/// What a GPU gives for every NaN.
const NAN_F32: u32 = 0x7FFF_FFFF;
const NAN_HALF: u32 = 0x7FFF;

/// Every exponent and some mantissas of f32, every half.
fn operands(format: Format) -> Vec<u32> {
    match format {
        Format::F32 => (0..0x200_u32)
            .flat_map(|top| {
                [0, 1, 0x12_3456, 0x35_04F3, 0x40_0000, 0x7F_FFFF].map(|m| top << 23 | m)
            })
            .collect(),
        Format::Half(_) => (0..0x1_0000).collect(),
    }
}

const F16: Format = Format::Half(HalfKind::F16);
const BF16: Format = Format::Half(HalfKind::Bf16);

const ALL: [(Function, Format, bool); 14] = [
    (Function::Div, Format::F32, false),
    (Function::DivFull, Format::F32, true),
    (Function::Rcp, Format::F32, false),
    (Function::Sqrt, Format::F32, true),
    (Function::Rsqrt, Format::F32, false),
    (Function::Sin, Format::F32, false),
    (Function::Cos, Format::F32, true),
    (Function::Lg2, Format::F32, false),
    (Function::Ex2, Format::F32, true),
    (Function::Ex2, Format::F32, false),
    (Function::Tanh, Format::F32, false),
    (Function::Ex2, F16, false),
    (Function::Ex2, BF16, true),
    (Function::Tanh, BF16, false),
];

/// The rounded true value, by the host's conversions.
fn nearest(function: Function, format: Format, ftz: bool, operands: [u32; 2]) -> u32 {
    let [a, b] = operands.map(|bits| format.value(format.flush(bits, ftz)));
    let exact = if function == Function::Div && b.is_finite() && b.abs() > 2_f64.powi(126) {
        // Of so large a divisor the manual says 0, and NaN for an infinity.
        if a.is_finite() { 0.0_f64.copysign(a) * b.signum() } else { f64::NAN }
    } else {
        truth(function, a, b)
    };
    let bits = match format {
        _ if exact.is_nan() => return nan(format),
        Format::F32 => (exact as f32).to_bits(),
        Format::Half(HalfKind::F16) => f16::from_f64(exact).to_bits().into(),
        Format::Half(HalfKind::Bf16) => bf16::from_f64(exact).to_bits().into(),
    };
    format.flush(bits, ftz)
}

fn nan(format: Format) -> u32 {
    match format {
        Format::F32 => NAN_F32,
        Format::Half(_) => NAN_HALF,
    }
}

fn second(function: Function, bits: u32) -> u32 {
    let divides = matches!(function, Function::Div | Function::DivFull);
    if divides { bits.wrapping_mul(0x9E37_79B9) } else { 0 }
}

#[test]
fn moved_results_stay_within_the_documented_error() {
    for choice in [Choice::Seed(7), Choice::Least, Choice::Greatest] {
        stay_within_the_documented_error(choice);
    }
}

fn stay_within_the_documented_error(choice: Choice) {
    for (function, format, ftz) in ALL {
        let mut moved = 0;
        for bits in operands(format) {
            let pair = [bits, second(function, bits)];
            let found = perturbed(function, format, ftz, pair, choice);
            let exact = nearest(function, format, ftz, pair);
            moved += u32::from(found != exact);
            match error_share(function, format, ftz, pair, found) {
                Some(share) => {
                    assert!(share <= 1.0, "{function:?} {format:?} of {pair:x?}: {share}");
                }
                None => assert_eq!(found, exact, "{function:?} {format:?} of {pair:x?}"),
            }
        }
        assert!(moved > 100, "{function:?} {format:?}: only {moved} results moved");
    }
}

#[test]
fn seeds_differ_and_repeat() {
    for (function, format, ftz) in ALL {
        let of = |seed: u64| -> Vec<u32> {
            operands(format)
                .into_iter()
                .map(|bits| {
                    perturbed(
                        function,
                        format,
                        ftz,
                        [bits, second(function, bits)],
                        Choice::Seed(seed),
                    )
                })
                .collect()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2), "{function:?} {format:?}");
    }
}

#[test]
fn special_values_stay() {
    let (one, inf, zero, minus) = (0x3F80_0000, 0x7F80_0000, 0, 0x8000_0000);
    let table = [
        (Function::Ex2, inf, inf),
        (Function::Ex2, minus | inf, zero),
        (Function::Ex2, minus, one),
        (Function::Ex2, zero, one),
        (Function::Lg2, zero, minus | inf),
        (Function::Lg2, inf, inf),
        (Function::Lg2, minus | one, NAN_F32),
        (Function::Rcp, minus, minus | inf),
        (Function::Rcp, minus | inf, minus),
        (Function::Rsqrt, zero, inf),
        (Function::Rsqrt, minus, minus | inf),
        (Function::Sqrt, minus, minus),
        (Function::Sqrt, inf, inf),
        (Function::Sin, minus, minus),
        (Function::Cos, zero, one),
        (Function::Cos, inf, NAN_F32),
        (Function::Tanh, minus | inf, minus | one),
        (Function::Tanh, minus, minus),
        (Function::Ex2, 0x7FC0_0000, NAN_F32),
    ];
    for seed in 0..20 {
        for (function, operand, expected) in table {
            let found = perturbed(function, Format::F32, false, [operand, 0], Choice::Seed(seed));
            assert_eq!(found, expected, "{function:?} of {operand:#x}");
        }
    }
}

/// Numbers near each other, far apart, subnormal, and with few or many bits.
fn number(state: &mut u64) -> f64 {
    let bits = split_mix(state);
    let mantissa = match bits >> 60 & 3 {
        0 => bits & 0x8000_0000_0000_0003,
        1 => bits & 0x800F_FFFF_FFFF_FFFF,
        2 => bits & 0x800F_8000_0000_0001,
        _ => bits & 0x8000_0000_0000_0000 | 0x000F_FFFF_FFFF_FFFF,
    };
    let exponent = match split_mix(state) % 8 {
        0 => 0,
        1 => 1,
        2 => split_mix(state) % 0x7FF,
        3 => 0x7FE,
        _ => 0x3E0 + split_mix(state) % 64,
    };
    f64::from_bits(mantissa | exponent << 52)
}

#[test]
fn nearest_agrees_with_the_processor() {
    let mut state = 1;
    for _ in 0..400_000 {
        let [a, b, c] = [(); 3].map(|()| number(&mut state));
        let cases = [
            (DoubleOp::Add, a + b),
            (DoubleOp::Sub, a - b),
            (DoubleOp::Mul, a * b),
            (DoubleOp::Fma, a.mul_add(b, c)),
            (DoubleOp::Div, a / b),
            (DoubleOp::Rcp, 1.0 / a),
            (DoubleOp::Sqrt, a.sqrt()),
        ];
        for (op, expected) in cases {
            let found = double(op, [a, b, c], Round::Nearest);
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{op:?} of {a:e}, {b:e}, {c:e}: {found:e} != {expected:e}"
            );
        }
    }
}

#[test]
fn directed_results_enclose_the_nearest_one() {
    let mut state = 2;
    for _ in 0..200_000 {
        let operands = [(); 3].map(|()| number(&mut state));
        for op in [
            DoubleOp::Add,
            DoubleOp::Mul,
            DoubleOp::Fma,
            DoubleOp::Div,
            DoubleOp::Rcp,
            DoubleOp::Sqrt,
        ] {
            let of = |round| double(op, operands, round);
            let (down, nearest, up) = (of(Round::Down), of(Round::Nearest), of(Round::Up));
            if nearest.is_nan() {
                continue;
            }
            // Equal if the result is exact, else neighbours of which the nearest is one.
            assert!(down == up || down.next_up() == up, "{op:?} of {operands:?}");
            assert!(nearest == down || nearest == up, "{op:?} of {operands:?}");
            let zero = if up <= 0.0 { up } else { down };
            assert_eq!(of(Round::Zero).abs(), zero.abs(), "{op:?} of {operands:?}");
        }
    }
}
