//! The largest of each: classes of a row, rows, elements. What an emulated device is too slow for is left out
//! there, and so it is on a GPU that has too little memory.

use half::bf16;
use libtest_mimic::{Completion, Trial};
use smoothxent::{
    Gradient, LossConfig, LossInputs, LossOutputs, Shape, Workspace,
    cudarc::driver::{DriverError, sys::CUresult},
    loss,
    problem::Dtype,
};

use super::{
    common::{
        compare::{mean_of_pairs, within_budget},
        run::{Case, Rig},
    },
    ignorable_trial, trial,
};

/// A row of as many classes as f32 can count.
const MOST_CLASSES: usize = 1 << 24;

/// More than 31 bits can count, and more elements than 32.
const MOST_ROWS: usize = (1 << 31) + 5;
const FEWER_ROWS: usize = (1 << 19) + 5;

pub fn trials() -> Vec<Trial> {
    let row = |dtype| {
        trial(format!("sizes::two_to_the_24_classes::{dtype:?}"), move || {
            let config = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
            let case = Case { config, ..Case::new(dtype, 1, MOST_CLASSES, 70) };
            let found = case.run().map_err(|error| error.to_string())?;
            within_budget(&case, &found, &case.expected()).map(drop)
        })
    };
    vec![
        row(Dtype::F32),
        row(Dtype::Bf16),
        ignorable_trial("sizes::two_to_the_19_rows", || many_rows(FEWER_ROWS)),
        ignorable_trial("sizes::two_to_the_31_rows", || {
            let name = Rig::here().context.name().map_err(|error| format!("{:?}", error.0))?;
            if name.starts_with("Emulated") {
                return Ok(Completion::ignored_with("an emulated device is too slow"));
            }
            many_rows(MOST_ROWS)
        }),
    ]
}

/// Rows of two classes, all of which say nothing but for the first and the last.
fn many_rows(rows: usize) -> Result<Completion, String> {
    let Rig { stream, kernels, .. } = Rig::here();
    let failed = |error: DriverError| format!("{:?}", error.0);
    let shape = Shape::contiguous(rows, 2);

    let (logits, targets, gradient) = (
        stream.alloc_zeros::<bf16>(2 * rows),
        stream.alloc_zeros::<i32>(rows),
        stream.alloc_zeros::<bf16>(2 * rows),
    );
    let (mut logits, mut targets, mut gradient) = match (logits, targets, gradient) {
        (Ok(logits), Ok(targets), Ok(gradient)) => (logits, targets, gradient),
        (logits, targets, gradient) => {
            let errors = [logits.err(), targets.err(), gradient.err()];
            let memory = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
            return match errors.into_iter().flatten().find(|&error| error != memory) {
                None => Ok(Completion::ignored_with("the device has too little memory")),
                Some(error) => Err(failed(error)),
            };
        }
    };
    let pair = [bf16::from_f32(3.0), bf16::from_f32(-1.0)];
    for row in [0, rows - 1] {
        stream.memcpy_htod(&pair, &mut logits.slice_mut(2 * row..2 * row + 2)).map_err(failed)?;
        stream.memcpy_htod(&[1], &mut targets.slice_mut(row..row + 1)).map_err(failed)?;
    }
    let mut loss_of_all = stream.alloc_zeros::<f32>(1).map_err(failed)?;
    let mut correct = stream.alloc_zeros::<i64>(1).map_err(failed)?;
    let mut workspace = Workspace::new(stream, rows).map_err(|error| error.to_string())?;
    let outputs = LossOutputs {
        loss: Some(&mut loss_of_all),
        correct: Some(&mut correct),
        ..LossOutputs::default()
    };
    let (inputs, to) = (LossInputs::new(shape, &logits, &targets), Gradient::new(&mut gradient));
    let config = LossConfig { ignore_index: Some(7), ..LossConfig::default() };
    loss::forward_backward(kernels, stream, config, inputs, outputs, to, &mut workspace)
        .map_err(|error| error.to_string())?;

    // log 2 each, but for the two rows whose target is 4 nats behind.
    let behind = 4.0 + (1.0 + (-4.0_f64).exp()).ln();
    let count = rows as f64;
    let expected = (std::f64::consts::LN_2 * (count - 2.0) + 2.0 * behind) / count;
    let found = f64::from(stream.clone_dtoh(&loss_of_all).map_err(failed)?[0]);
    if (found / expected - 1.0).abs() > mean_of_pairs(rows) {
        return Err(format!("{rows} rows: the loss is {found}, not {expected}"));
    }
    // Of equal logits the first is the prediction.
    let found = stream.clone_dtoh(&correct).map_err(failed)?[0];
    if found != rows as i64 - 2 {
        return Err(format!("{rows} rows: {found} correct predictions, not {}", rows - 2));
    }
    let share = 1.0 / (1.0 + (-4.0_f64).exp());
    for (row, expected) in
        [(0, share), (1, -0.5), (rows / 2, -0.5), (rows - 2, -0.5), (rows - 1, share)]
    {
        let of_row = gradient.slice(2 * row..2 * row + 2);
        let found: Vec<f64> = stream
            .clone_dtoh(&of_row)
            .map_err(failed)?
            .into_iter()
            .map(|element| f64::from(element.to_f32()) * count)
            .collect();
        let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1.0 / 256.0;
        if !near(found[0], expected) || !near(found[1], -expected) {
            return Err(format!("{rows} rows: the gradient of row {row} is {found:?} over rows"));
        }
    }
    Ok(Completion::Completed)
}
