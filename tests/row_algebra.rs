//! The kernels' row algebra (kernels/softmax_state.cuh, kernels/row_loss.cuh), compiled for the CPU by
//! the host's C++ compiler and held against the oracle at native speed: far more rows than an
//! interpreter or a test on a GPU would see. Needs neither CUDA nor a driver.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use libloading::{Library, Symbol};
use smoothxent::{
    LossConfig, Reduction,
    problem::{Dtype, Problem, TargetType},
};

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use common::{
    compare, inputs,
    run::{Case, Outcome, UpstreamCase},
};

type Row = unsafe extern "C" fn(
    x: *const f32,
    classes: u32,
    target: u32,
    threads: u32,
    weights: *const [f32; 4],
    scale: f32,
    loss: *mut f32,
    lse: *mut f32,
    gradient: *mut f32,
);

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
        // SAFETY: it holds one pure function and no initialisers.
        unsafe { Library::new(&library) }.expect("what was just linked can be loaded")
    })
}

/// All rows of a case, each as if by a block of so many threads.
fn run(case: &Case, threads: u32) -> Outcome {
    // SAFETY: the type is that of `xent_row` in tests/row_algebra.cpp.
    let row: Symbol<'_, Row> = unsafe { library().get(b"xent_row") }.expect("it is exported");
    let problem = Problem::new(case.dtype, case.target_type, case.shape(), case.config);
    let weights = problem.expect("tests make sound problems").weights();
    let weights = [weights.nll, weights.smoothing, weights.total, weights.others];
    let scales = case.gradient_scales();
    let mut outcome = Outcome {
        row_losses: vec![0.0; case.rows()],
        row_lse: vec![0.0; case.rows()],
        loss: None,
        gradient: vec![],
    };
    for (i, x) in case.logits.chunks_exact(case.classes).enumerate() {
        let mut gradient = vec![0.0f32; case.classes];
        assert!((0..case.classes as i64).contains(&case.targets[i]));
        // SAFETY: `x` and `gradient` have `classes` elements, the target was found to be one of
        // them, and the other pointers are to single values.
        unsafe {
            row(
                x.as_ptr(),
                case.classes as u32,
                case.targets[i] as u32,
                threads,
                &weights,
                scales[i] as f32,
                &mut outcome.row_losses[i],
                &mut outcome.row_lse[i],
                gradient.as_mut_ptr(),
            );
        }
        outcome.gradient.extend(gradient.into_iter().map(f64::from));
    }
    outcome
}

fn check(case: &Case, threads: u32) -> f64 {
    match compare::within_budget(case, &run(case, threads), &case.expected()) {
        Ok(worst) => worst.of_budget,
        Err(message) => panic!("{message}"),
    }
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
