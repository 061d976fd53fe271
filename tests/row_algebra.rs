//! The kernels' row algebra (kernels/softmax_state.cuh, kernels/row_loss.cuh), compiled for the CPU by
//! the host's C++ compiler and held against the oracle at native speed: far more rows than an
//! interpreter or a test on a GPU would see. Needs neither CUDA nor a driver.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use libloading::{Library, Symbol};
use smoothxent::{
    Divisor, Divisors, LossConfig, Reduction, Smoothing, WeightedTerms,
    problem::{ClassWeighting, Dtype, Pass, Place, Problem, TargetType, Types},
};

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::{
    compare, inputs,
    run::{Case, Outcome, UpstreamCase},
};

/// A term each: nll, smoothing, z-loss. As `XentTerms` of kernels/abi.h.
#[repr(C)]
struct Terms([f32; 3]);

/// As `XentTransform` of kernels/abi.h.
#[repr(C)]
struct Transform {
    scale: f32,
    exponent_scale: f32,
    softcap: f32,
    inner: f32,
    slope: f32,
}

/// As in tests/row_algebra.cpp.
#[repr(C)]
struct RowInput {
    logits: *const f32,
    nll_weights: *const f32,
    smoothing_weights: *const f32,
    upstream: f32,
    classes: u32,
    target: u32,
    threads: u32,
    term_weights: Terms,
    inverse_divisors: Terms,
    transform: Transform,
}

/// As in tests/row_algebra.cpp.
#[repr(C)]
struct RowOutput {
    loss: f32,
    share: f32,
    lse: f32,
    gradient: *mut f32,
}

type Row = unsafe extern "C" fn(input: *const RowInput, output: *mut RowOutput);

/// Compiled once a run; `cc` knows this host's compiler.
fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(2).target(&host).host(&host).out_dir(&out);
        build.include("kernels").flag("-ffp-contract=off").warnings(true).cargo_metadata(false);
        let library = out.join("librow_algebra.so");
        let mut command: Command = build.get_compiler().to_command();
        command.args(["-shared", "-fPIC", "tests/row_algebra.cpp", "-o"]).arg(&library);
        let output = command.output().expect("the host has a C++ compiler");
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?} failed:\n{messages}");
        // SAFETY: it holds pure functions and no initialisers.
        unsafe { Library::new(&library) }.expect("what was just linked can be loaded")
    })
}

/// All rows of a case, each as if by a block of so many threads.
fn run(case: &Case, threads: u32) -> Outcome {
    // SAFETY: the type is that of `xent_row` in tests/row_algebra.cpp.
    let row: Symbol<'_, Row> = unsafe { library().get(b"xent_row") }.expect("it is exported");
    let given = case.class_weights.as_ref();
    let class_weights = given.map_or(ClassWeighting::Absent, |_| ClassWeighting::Given);
    let types = Types { dtype: case.dtype, targets: case.target_type, class_weights };
    let problem = Problem::new(types, case.shape(), case.config, Pass::Fused, Place::Apart)
        .expect("tests make sound problems");
    let weights = problem.term_weights();
    let inverse = case.inverse_divisors();
    let address = |given: Option<&Vec<f32>>| given.map_or(std::ptr::null(), Vec::as_ptr);
    let mut outcome = Outcome {
        row_losses: vec![],
        row_lse: vec![],
        // Predictions are not part of the algebra.
        row_argmax: case.expected().row_argmax,
        loss: Some(0.0),
        correct: None,
        gradient: vec![],
    };
    for (i, x) in case.logits.chunks_exact(case.classes).enumerate() {
        let mut gradient = vec![0.0f32; case.classes];
        assert!((0..case.classes as i64).contains(&case.targets[i]));
        let input = RowInput {
            logits: x.as_ptr(),
            nll_weights: address(given.filter(|_| problem.weighs_nll())),
            smoothing_weights: address(given.filter(|_| problem.weighs_smoothing())),
            upstream: case.upstream_of(i) as f32,
            classes: case.classes as u32,
            target: case.targets[i] as u32,
            threads,
            term_weights: Terms([weights.nll, weights.smoothing, weights.z_loss]),
            inverse_divisors: Terms(inverse.map(|inverse| inverse as f32)),
            transform: transform(&case.config),
        };
        let mut output =
            RowOutput { loss: 0.0, share: 0.0, lse: 0.0, gradient: gradient.as_mut_ptr() };
        // SAFETY: logits, weights and gradient have `classes` elements, the target was found to be
        // one of them, and both structs are laid out as in C++.
        unsafe { row(&input, &mut output) };
        outcome.row_losses.push(output.loss);
        outcome.row_lse.push(output.lse);
        outcome.loss = outcome.loss.map(|sum| sum + output.share);
        outcome.gradient.extend(gradient.into_iter().map(f64::from));
    }
    outcome
}

/// As src/loss.rs forms it for the kernels.
fn transform(config: &LossConfig) -> Transform {
    let slope = config.logit_scale;
    let (scale, softcap, inner) = match config.logit_softcap {
        None => (slope, 0.0, 0.0),
        Some(cap) => (1.0, cap, slope / cap),
    };
    Transform {
        scale: scale as f32,
        exponent_scale: (scale * std::f64::consts::LOG2_E) as f32,
        softcap: softcap as f32,
        inner: inner as f32,
        slope: slope as f32,
    }
}

fn check(case: &Case, threads: u32) -> f64 {
    match compare::within_budget(case, &run(case, threads), &case.expected()) {
        Ok(worst) => worst.of_budget,
        Err(message) => panic!("{message}"),
    }
}

/// The bound is that of every f32 in the range; the error is largest in the upper part, which is tried in full.
#[test]
fn log1p_of_unit() {
    type Error = unsafe extern "C" fn(from: f32, stride: u32) -> f64;
    // SAFETY: the type is that of `xent_log1p_error` in tests/row_algebra.cpp.
    let error: Symbol<'_, Error> =
        unsafe { library().get(b"xent_log1p_error") }.expect("it is exported");
    // SAFETY: it takes any positive float up to 1.
    let (all, upper) = unsafe { (error(f32::MIN_POSITIVE, 997), error(0.25, 1)) };
    let worst = all.max(upper);
    assert!(worst <= compare::LOG1P_OF_UNIT, "{worst} units of 2^-24");
    assert!(worst > 0.9 * compare::LOG1P_OF_UNIT, "only {worst} units of 2^-24");
}

const SMOOTHING: [f64; 4] = [0.0, 0.1, 0.9, 1.0];

fn rows_of(classes: usize, rows: usize, seed: u64) -> Case {
    // f32 holds what the other dtypes do; the final rounding to them is not part of the algebra.
    Case {
        config: LossConfig { reduction: Reduction::None, ..LossConfig::default() },
        target_type: TargetType::I64,
        upstream: UpstreamCase::Scalar(0.5),
        ..Case::new(Dtype::F32, rows, classes, seed)
    }
}

#[test]
fn ordinary_rows() {
    let mut worst = 0.0f64;
    for seed in 0..200 {
        for classes in [1, 2, 3, 7, 8, 9, 10, 31, 100, 257, 1000] {
            for label_smoothing in SMOOTHING {
                let mut case = rows_of(classes, 6, seed);
                case.config.label_smoothing = label_smoothing;
                worst = worst.max(check(&case, 1 + seed as u32 % 33));
            }
        }
    }
    // A budget that nothing comes near would test nothing.
    assert!(worst > 0.02, "the worst error is only {worst} of its budget");
}

#[test]
fn long_rows() {
    for classes in [32_001, 50_257, 128_256] {
        let mut case = rows_of(classes, 2, 3);
        case.config.label_smoothing = 0.1;
        check(&case, 1024);
    }
}

#[test]
fn rows_at_every_scale() {
    for exponent in -40..=38 {
        let scale = 10f32.powi(exponent);
        for offset in [0.0, 1.0, -1.0] {
            for label_smoothing in SMOOTHING {
                let mut case = rows_of(23, 8, exponent as u64 ^ 77);
                case.config.label_smoothing = label_smoothing;
                for x in &mut case.logits {
                    // Within a third of the scale around 0 or +-2/3 of it: below f32's limit.
                    *x = scale * (*x / 40.0 / 3.0 + offset * 0.66);
                }
                check(&case, 3);
            }
        }
    }
}

/// Where the fused shift hands over to the exact one.
#[test]
fn around_the_largest_fused_maximum() {
    let limit = 268_435_456.0f32;
    for max in [limit.next_down(), limit, limit.next_up(), -limit, (-limit).next_down()] {
        for below in [0.0, 16.0, 32.0, 1e3, 1e9, 3e38] {
            for label_smoothing in SMOOTHING {
                let mut case = rows_of(9, 4, 5);
                case.config.label_smoothing = label_smoothing;
                for (k, x) in case.logits.iter_mut().enumerate() {
                    *x = if k % 4 == 0 { max } else { max - below };
                }
                check(&case, 2);
            }
        }
    }
}

#[test]
fn confident_rows() {
    for gap in 1..=80 {
        for classes in [2, 10, 1000] {
            for label_smoothing in SMOOTHING {
                let mut case = rows_of(classes, 5, gap);
                case.config.label_smoothing = label_smoothing;
                for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                    x[case.targets[row] as usize] = 8.0 + gap as f32;
                    for v in x.iter_mut() {
                        *v = v.clamp(-8.0, 8.0 + gap as f32);
                    }
                }
                check(&case, 5);
            }
        }
    }
}

#[test]
fn rows_that_are_not_finite() {
    let specials = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        0.0,
        -0.0,
        f32::from_bits(1),
    ];
    for classes in [1, 2, 3, 9, 40] {
        for seed in 0..400 {
            for label_smoothing in SMOOTHING {
                let mut case = rows_of(classes, 4, seed);
                case.config.label_smoothing = label_smoothing;
                for (i, x) in case.logits.iter_mut().enumerate() {
                    let draw = inputs::hash(seed ^ 0xfeed, i as u64);
                    if draw.is_multiple_of(3) {
                        *x = specials[(draw >> 8) as usize % specials.len()];
                    }
                }
                check(&case, 3);
            }
        }
    }
}

/// Every option at once, in turns; weights of 0 among the others.
fn with_options(mut case: Case, draw: u64) -> Case {
    let pick = |shift: u32, of: u64| (draw >> shift) % of;
    let config = &mut case.config;
    config.label_smoothing = SMOOTHING[pick(0, 4) as usize];
    if case.classes > 1 && pick(2, 2) == 1 {
        config.smoothing = Smoothing::OtherClasses;
    }
    config.weighted_terms = [
        WeightedTerms::NllAndSmoothing,
        WeightedTerms::NllAndSmoothing,
        WeightedTerms::Nll,
        WeightedTerms::Smoothing,
    ][pick(22, 4) as usize];
    config.z_loss = [0.0, 1e-4, 1e-2][pick(4, 3) as usize];
    config.logit_scale = [1.0, 0.25, 0.3, 4.0][pick(8, 4) as usize];
    config.logit_softcap = [None, Some(5.0), Some(50.0)][pick(12, 3) as usize];
    if pick(16, 2) == 1 {
        config.reduction = Reduction::Mean;
        config.divisors.nll = [Divisor::TargetWeights, Divisor::CountedRows][pick(17, 2) as usize];
        config.divisors = Divisors {
            smoothing: [Divisor::AllRows, Divisor::Given(3.7)][pick(18, 2) as usize],
            ..config.divisors
        };
    }
    if pick(20, 3) > 0 {
        case.class_weights = Some(inputs::class_weights(case.classes, draw));
    }
    case
}

#[test]
fn every_option() {
    let mut worst = 0.0f64;
    for seed in 0..6000 {
        let classes = [1, 2, 3, 7, 8, 9, 10, 31, 100, 257][seed as usize % 10];
        let case = with_options(rows_of(classes, 4, seed), inputs::hash(0x0b7, seed));
        worst = worst.max(check(&case, 1 + seed as u32 % 33));
    }
    assert!(worst > 0.02, "the worst error is only {worst} of its budget");
}

#[test]
fn every_option_beside_masks() {
    for seed in 0..3000 {
        let classes = [2, 3, 9, 40][seed as usize % 4];
        let mut case = with_options(rows_of(classes, 4, seed), inputs::hash(0xa5c, seed));
        for (i, x) in case.logits.iter_mut().enumerate() {
            let draw = inputs::hash(seed ^ 0xfeed, i as u64);
            let masked = case.class_weights.as_ref().is_none_or(|w| w[i % classes] == 0.0);
            if draw.is_multiple_of(3) && masked {
                *x = f32::NEG_INFINITY;
            } else if draw.is_multiple_of(67) {
                *x = f32::NAN;
            }
        }
        check(&case, 3);
    }
}

#[test]
fn every_option_on_confident_rows() {
    for gap in 1..=60 {
        for seed in 0..20 {
            let classes = [2, 10, 300][seed as usize % 3];
            let mut case = with_options(rows_of(classes, 3, seed), inputs::hash(0xc0f, seed));
            for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                for v in x.iter_mut() {
                    *v = v.clamp(-8.0, 8.0);
                }
                x[case.targets[row] as usize] = 8.0 + gap as f32;
            }
            check(&case, 5);
        }
    }
}
