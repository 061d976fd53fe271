//! Every kernel on a few small shapes, in whatever order the driver runs blocks and warps.
//!
//! `cargo xtask seeds` runs this program on the emulated driver many times, each time in another order and
//! with races checked. A race that this finds shows in no result, perhaps on no GPU at hand.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use smoothxent::{
    BinaryConfig, Divisor, LossConfig,
    problem::{Dtype, TargetType},
};

#[allow(dead_code, reason = "the device suite uses the rest")]
mod common;

use common::{
    inputs,
    operations::{BinaryCase, LogSoftmaxCase},
    run::{self, Case, Placement, Rig, UpstreamCase},
};

/// Rows, classes and placement: whole packs; a ragged row of each alignment; several warps, and more than
/// the first of two passes takes at a time.
const SHAPES: [(usize, usize, Placement); 3] = [
    (3, 64, Placement::PACKED),
    (
        4,
        37,
        Placement { logits_offset: 1, gradient_offset: 3, vector_offset: 1, ..Placement::PACKED },
    ),
    (2, 1027, Placement { logits_padding: 3, gradient_padding: 1, ..Placement::PACKED }),
];

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// More than two chunks of rows, whose sums are added by the last block.
const MANY_ROWS: usize = 2100;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = Rig::get()
    {
        eprintln!("{error}. Without a GPU: `cargo xtask seeds` brings an emulated driver.");
        return ExitCode::FAILURE;
    }
    let mut trials = vec![trial("many_rows", || run::check(&plain(Dtype::F32, MANY_ROWS, 5)))];
    for dtype in DTYPES {
        for (rows, classes, placement) in SHAPES {
            let name = |what: &str| format!("{what}::{dtype:?}::{classes}");
            let case = Case { placement, ..plain(dtype, rows, classes) };
            let weighted = Case {
                class_weights: Some(inputs::class_weights(classes, 2)),
                upstream: UpstreamCase::PerRow(vec![0.5; rows]),
                ..case.clone()
            };
            let spread = case.clone().spread(dtype, 3);
            trials.push(trial(name("loss"), move || run::check(&case)));
            trials.push(trial(name("weighted_loss"), move || run::check(&weighted)));
            trials.push(trial(name("loss_of_probabilities"), move || run::check(&spread)));
            trials.push(trial(name("log_softmax"), move || {
                log_softmax(dtype, rows, classes, placement).check()
            }));
            trials.push(trial(name("binary"), move || {
                binary(dtype, rows, classes, placement).check()
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial<T>(
    name: impl Into<String>,
    check: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Trial {
    Trial::test(name, move || Ok(check().map(drop)?))
}

/// With an ignored row, so that a kernel counts the others first.
fn plain(dtype: Dtype, rows: usize, classes: usize) -> Case {
    let case = Case::new(dtype, rows, classes, 1);
    let ignored = case.targets[rows - 1];
    let config = LossConfig {
        label_smoothing: 0.1,
        ignore_index: Some(ignored),
        z_loss: 0.25,
        ..LossConfig::default()
    };
    Case { config, ..case }
}

fn log_softmax(dtype: Dtype, rows: usize, classes: usize, placement: Placement) -> LogSoftmaxCase {
    LogSoftmaxCase {
        dtype,
        classes,
        logits: inputs::logits(dtype, rows, classes, 4),
        upstream: inputs::logits(dtype, rows, classes, 5),
        placement,
    }
}

fn binary(dtype: Dtype, rows: usize, classes: usize, placement: Placement) -> BinaryCase {
    BinaryCase {
        dtype,
        target_type: TargetType::I64,
        classes,
        logits: inputs::logits(dtype, rows, classes, 6),
        targets: inputs::targets(rows, classes, 6),
        probabilities: None,
        class_weights: None,
        positive_weights: Some(inputs::class_weights(classes, 7)),
        upstream: UpstreamCase::One,
        config: BinaryConfig {
            ignore_index: Some(0),
            divisor: Divisor::CountedRows,
            ..BinaryConfig::default()
        },
        placement,
    }
}
