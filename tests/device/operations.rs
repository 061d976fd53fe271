//! Log-softmax and binary cross-entropy: shapes, places and values at which they could break.

use libtest_mimic::Trial;
use smoothxent::{
    BinaryConfig, BinarySmoothing, Divisor, EmptyMean, Error, LogSoftmaxShape, OverClasses,
    Reduction, Selection, Strategy, Workspace,
    log_softmax::{self, LogSoftmaxOutputs},
    problem::{Dtype, TargetType},
};

use crate::{
    common::{
        inputs::{self, class_weights, hash, unit},
        operations::{BinaryCase, BinaryForm, LogSoftmaxCase},
        run::{Placement, Rig, UpstreamCase},
    },
    edges::{DTYPES, goes_in_pairs},
    trial,
};

/// Around packs, warps and blocks.
const CLASSES: [usize; 22] = [
    1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 127, 129, 1000, 1023, 1024, 1025, 4095, 4096, 4097, 8193,
    32_001,
];

const ROWS: [usize; 3] = [0, 1, 4];

/// Packed; odd strides; all off by one; all off differently.
pub const PLACEMENTS: [Placement; 4] = [
    Placement::PACKED,
    Placement { logits_padding: 3, gradient_padding: 1, targets_padding: 2, ..Placement::PACKED },
    Placement { logits_offset: 1, gradient_offset: 1, vector_offset: 1, ..Placement::PACKED },
    Placement {
        logits_offset: 1,
        gradient_offset: 3,
        vector_offset: 2,
        logits_padding: 7,
        gradient_padding: 5,
        targets_padding: 1,
    },
];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![];
    for dtype in DTYPES {
        for classes in CLASSES {
            trials.push(trial(format!("log_softmax::classes::{dtype:?}::{classes}"), move || {
                log_softmax_shapes(dtype, classes)
            }));
            trials.push(trial(format!("binary::classes::{dtype:?}::{classes}"), move || {
                binary_shapes(dtype, classes)
            }));
        }
        trials.push(trial(format!("log_softmax::shared_memory_limit::{dtype:?}"), move || {
            // Rows of which a part is read twice on every model.
            log_softmax(dtype, 1, 120_001, Placement::PACKED, 9).check().map(drop)
        }));
        trials.push(trial(format!("log_softmax::values::{dtype:?}"), move || {
            log_softmax_values(dtype)
        }));
        trials.push(trial(format!("log_softmax::confident::{dtype:?}"), move || confident(dtype)));
        trials.push(trial(format!("binary::values::{dtype:?}"), move || binary_values(dtype)));
        trials
            .push(trial(format!("binary::placement::{dtype:?}"), move || binary_placement(dtype)));
        trials.push(trial(format!("binary::indices::{dtype:?}"), move || binary_indices(dtype)));
        trials.push(trial(format!("binary::options::{dtype:?}"), move || binary_options(dtype)));
    }
    trials.push(trial("log_softmax::a_row_among_others", a_row_among_others));
    trials.push(trial("binary::nothing_counts", binary_of_nothing));
    trials.push(trial("binary::bad_targets", binary_bad_targets));
    trials
}

pub fn log_softmax(
    dtype: Dtype,
    rows: usize,
    classes: usize,
    placement: Placement,
    seed: u64,
) -> LogSoftmaxCase {
    let upstream = (0..rows * classes).map(|i| (unit(seed ^ 0x77, i as u64) - 0.5) as f32);
    LogSoftmaxCase {
        dtype,
        classes,
        logits: inputs::logits(dtype, rows, classes, seed),
        upstream: upstream.map(|g| inputs::round(dtype, g)).collect(),
        placement,
    }
}

fn log_softmax_shapes(dtype: Dtype, classes: usize) -> Result<(), String> {
    for rows in ROWS {
        for placement in PLACEMENTS {
            log_softmax(dtype, rows, classes, placement, 70).check()?;
        }
    }
    Ok(())
}

/// Huge and tiny logits, masks, NaN and infinities, each in a row of its own.
fn log_softmax_values(dtype: Dtype) -> Result<(), String> {
    let huge = match dtype {
        Dtype::F32 | Dtype::Bf16 => 3e38,
        Dtype::F16 => 65504.0,
    };
    for classes in [2, 9, 40, 333, 4097] {
        for size in [1e-6, 1e4, huge] {
            let mut case = log_softmax(dtype, 10, classes, Placement::PACKED, 71);
            let size = inputs::round(dtype, size);
            for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                let last = classes - 1;
                match row {
                    0 => x[0] = size,
                    1 => x[last] = -size,
                    2 => x.fill(size),
                    3 => x.iter_mut().enumerate().for_each(|(k, v)| {
                        *v = if k % 2 == 0 { size } else { -size };
                    }),
                    4 => x[1] = f32::NEG_INFINITY,
                    5 => x[..last].fill(f32::NEG_INFINITY),
                    6 => x.fill(f32::NEG_INFINITY),
                    7 => x[last] = f32::INFINITY,
                    8 => x[0] = f32::NAN,
                    _ => {}
                }
            }
            let found = case.check()?;
            if found.log_probs[9 * classes..].iter().any(|p| !p.is_finite()) {
                return Err(format!("{case}: a NaN left its row"));
            }
        }
    }
    Ok(())
}

/// log p keeps its digits as p -> 1.
fn confident(dtype: Dtype) -> Result<(), String> {
    for gap in [0.6, 0.7, 0.8, 5.0, 10.0, 20.0, 50.0] {
        for classes in [1, 2, 10, 100, 1000, 4097] {
            let mut case = log_softmax(dtype, 6, classes, PLACEMENTS[classes % 3], 72);
            for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                // In every part of the block.
                let y = row * classes / 6;
                // The gradient of an nll, of which nothing else is left as p -> 1.
                if row % 2 == 0 {
                    let upstream = &mut case.upstream[row * classes..][..classes];
                    upstream.fill(0.0);
                    upstream[y] = -1.0;
                }
                let others = x.iter().enumerate().filter(|&(k, _)| k != y);
                let ahead = others.map(|(_, &v)| v).fold(-8.0, f32::max) + gap;
                x[y] = inputs::round(dtype, ahead);
            }
            case.check()?;
        }
    }
    Ok(())
}

pub fn binary(
    dtype: Dtype,
    targets: TargetType,
    rows: usize,
    classes: usize,
    seed: u64,
) -> BinaryCase {
    let of_probability = |dtype: Dtype| {
        let q = |i: u64| match hash(seed ^ 0x99, i) % 4 {
            0 => 0.0,
            1 => 1.0,
            _ => unit(seed ^ 0x88, i) as f32,
        };
        (0..(rows * classes) as u64).map(|i| inputs::round(dtype, q(i))).collect()
    };
    let probabilities = match targets {
        TargetType::Probabilities(dtype) => Some(of_probability(dtype)),
        TargetType::I32 | TargetType::U32 | TargetType::I64 => None,
    };
    BinaryCase {
        dtype,
        target_type: targets,
        classes,
        logits: inputs::logits(dtype, rows, classes, seed),
        targets: match probabilities {
            None => inputs::targets(rows, classes, seed),
            Some(_) => vec![0; rows],
        },
        probabilities,
        class_weights: None,
        positive_weights: None,
        upstream: UpstreamCase::One,
        config: BinaryConfig::default(),
        placement: Placement::PACKED,
    }
}

pub const TARGET_TYPES: [TargetType; 6] = [
    TargetType::Probabilities(Dtype::F32),
    TargetType::Probabilities(Dtype::F16),
    TargetType::Probabilities(Dtype::Bf16),
    TargetType::I32,
    TargetType::U32,
    TargetType::I64,
];

fn binary_shapes(dtype: Dtype, classes: usize) -> Result<(), String> {
    for rows in ROWS {
        for (turn, target_type) in TARGET_TYPES.into_iter().enumerate() {
            let seed = 80 + turn as u64;
            for (placement, weighted) in
                [(PLACEMENTS[turn % 4], false), (PLACEMENTS[(turn + 3) % 4], true)]
            {
                if weighted && (rows < 4 || (goes_in_pairs() && turn % 3 != classes % 3)) {
                    continue;
                }
                let weights = |seed| weighted.then(|| class_weights(classes, seed));
                BinaryCase {
                    placement,
                    class_weights: weights(seed),
                    positive_weights: weights(seed ^ 0xff),
                    config: BinaryConfig { label_smoothing: 0.1, ..BinaryConfig::default() },
                    ..binary(dtype, target_type, rows, classes, seed)
                }
                .check()?;
            }
        }
    }
    Ok(())
}

/// Saturated, huge and infinite logits against every kind of target; NaN stays in its row.
fn binary_values(dtype: Dtype) -> Result<(), String> {
    // The infinity lies in a pack, not among single elements, which go another way; beside an element that has
    // a loss of its own.
    let values = [0.0, 5.0, 20.0, 50.0, 80.0, f32::INFINITY, 0.5, 87.0, 88.0, 100.0, 6e4];
    let classes = values.len();
    for target in [0.0, 0.25, 1.0] {
        for label_smoothing in [0.0, 1e-4, 0.1] {
            let mut case = binary(dtype, TARGET_TYPES[0], 3, classes, 81);
            // Nothing hides a NaN, also no weight of 0; and a large weight is no infinity.
            if label_smoothing == 0.0 {
                let mut weights = vec![1.0; classes];
                weights[4] = 0.0;
                (weights[2], weights[3]) = (1e30, 1e-30);
                case.class_weights = Some(weights);
                let mut weights = vec![1.0; classes];
                weights[2] = 1e20;
                case.positive_weights = Some(weights);
            }
            case.config.label_smoothing = label_smoothing;
            case.config.reduction = Reduction::None;
            case.probabilities = Some(vec![target; 3 * classes]);
            for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                for (x, value) in x.iter_mut().zip(values) {
                    *x = inputs::round(dtype, if row == 1 { -value } else { value });
                }
                if row == 2 {
                    x[4] = f32::NAN;
                }
            }
            let found = case.check()?;
            if !found.row_losses[2].is_nan()
                || found.gradient[..2 * classes].iter().any(|g| g.is_nan())
            {
                return Err(format!("{case}: NaN is hidden, or left its row"));
            }
        }
    }
    Ok(())
}

/// Where in a sector of memory rows lie decides which lane has which packs, and changes no bit.
fn binary_placement(dtype: Dtype) -> Result<(), String> {
    let pack = 16 / dtype.bytes();
    for packs in [1, 8, 9, 31, 33, 256, 512] {
        let case = binary(dtype, TARGET_TYPES[0], 5, packs * pack, 85);
        let there = BinaryCase {
            placement: Placement { logits_offset: pack, gradient_offset: 1, ..case.placement },
            ..case.clone()
        };
        if case.check()?.bits() != there.check()?.bits() {
            return Err(format!("{case}: other bits half a sector further"));
        }
    }
    Ok(())
}

/// timm's way: one class of each row is 1, smoothed by e/C; rows can be ignored.
fn binary_indices(dtype: Dtype) -> Result<(), String> {
    for target_type in [TargetType::I32, TargetType::I64] {
        for (divisor, empty_mean) in
            [(Divisor::AllRows, EmptyMean::Nan), (Divisor::CountedRows, EmptyMean::Zero)]
        {
            for classes in [1, 2, 37] {
                let mut case = binary(dtype, target_type, 5, classes, 82);
                case.config = BinaryConfig {
                    ignore_index: Some(-7),
                    divisor,
                    empty_mean,
                    ..BinaryConfig::timm(0.2)
                };
                case.targets[3] = -7;
                case.upstream = UpstreamCase::PerRow(vec![1.0, -2.0, 0.5, 3.0, 0.0]);
                case.check()?;
            }
        }
    }
    Ok(())
}

fn binary_options(dtype: Dtype) -> Result<(), String> {
    for draw in 0..60 {
        let pick = |shift: u64, of: usize| hash(0xb1 + shift, draw) as usize % of;
        let classes = [1, 3, 8, 33, 257][pick(0, 5)];
        let mut case = binary(dtype, TARGET_TYPES[pick(1, 6)], 4, classes, draw);
        case.config = BinaryConfig {
            label_smoothing: [0.0, 0.1, 1.0][pick(2, 3)],
            smoothing: [BinarySmoothing::Half, BinarySmoothing::Classes][pick(3, 2)],
            // Means nothing for probabilities.
            ignore_index: [None, Some(0)][pick(11, 2)],
            over_classes: [OverClasses::Mean, OverClasses::Sum][pick(4, 2)],
            reduction: [Reduction::None, Reduction::Sum, Reduction::Mean][pick(5, 3)],
            divisor: [Divisor::AllRows, Divisor::CountedRows, Divisor::Given(7.5)][pick(6, 3)],
            empty_mean: EmptyMean::Nan,
        };
        if pick(7, 2) == 0 {
            case.class_weights = Some(class_weights(classes, draw));
        }
        if pick(8, 2) == 0 {
            case.positive_weights = Some(class_weights(classes, draw ^ 0xff));
        }
        if pick(9, 2) == 0 {
            case.upstream = UpstreamCase::Scalar(-1.5);
        }
        case.placement = PLACEMENTS[pick(10, 4)];
        case.check()?;
    }
    Ok(())
}

/// Under what is pinned for it, a row's bits do not depend on how many there are: here the last one is alone in
/// what its warp takes at once, or is not. Rows with gaps, which begin within a pack.
fn a_row_among_others() -> Result<(), String> {
    const ROWS: usize = 34;
    const CLASSES: usize = 4;
    const STRIDE: usize = 5;
    const OFFSET: usize = 1;
    let Rig { kernels, stream, .. } = Rig::here();
    let values: Vec<f32> =
        (0..OFFSET + ROWS * STRIDE).map(|i| (i * 7919 % 1000) as f32 / 97.0 - 5.0).collect();
    let logits = stream.clone_htod(&values).map_err(|error| error.to_string())?;
    for strategy in [Strategy::Tiny, Strategy::Block] {
        let kernels = kernels.clone().with_selection(Selection::Pinned(strategy));
        let bits_of = |rows: usize| -> Result<Vec<u32>, String> {
            let shape = LogSoftmaxShape {
                logits_row_stride: STRIDE,
                ..LogSoftmaxShape::contiguous(rows, CLASSES)
            };
            let mut output =
                stream.alloc_zeros::<f32>(rows * CLASSES).map_err(|error| error.to_string())?;
            let outputs = LogSoftmaxOutputs::new(&mut output);
            log_softmax::forward(&kernels, stream, shape, &logits.slice(OFFSET..), outputs)
                .map_err(|error| error.to_string())?;
            let output = stream.clone_dtoh(&output).map_err(|error| error.to_string())?;
            Ok(output.into_iter().map(f32::to_bits).collect())
        };
        let (fewer, more) = (bits_of(ROWS - 1)?, bits_of(ROWS)?);
        if fewer != more[..fewer.len()] {
            return Err(format!("{strategy}: other bits among {ROWS} rows than among one fewer"));
        }
    }
    Ok(())
}

/// A mean of nothing is NaN, or 0 by name.
fn binary_of_nothing() -> Result<(), String> {
    for rows in [0, 3] {
        for (empty_mean, nan) in [(EmptyMean::Nan, true), (EmptyMean::Zero, false)] {
            let mut case = binary(Dtype::F32, TargetType::I64, rows, 5, 83);
            let divisor = Divisor::CountedRows;
            case.config =
                BinaryConfig { ignore_index: Some(2), divisor, empty_mean, ..case.config };
            case.targets.fill(2);
            let loss = case.check()?.loss.ok_or("a reduced loss was asked for")?;
            if loss.is_nan() != nan || (!nan && loss != 0.0) {
                return Err(format!("{case}: the loss of nothing is {loss}"));
            }
        }
    }
    Ok(())
}

/// As for the softmax loss: NaN there, zero gradient there, and a status that names the row.
fn binary_bad_targets() -> Result<(), String> {
    for bad in [-1, 9, i64::MAX] {
        let mut case = binary(Dtype::F16, TargetType::I64, 4, 9, 84);
        case.config.reduction = Reduction::None;
        case.targets[2] = bad;
        case.check()?;
        let rig = crate::common::run::Rig::here();
        let mut workspace = Workspace::new(&rig.stream, 4).map_err(|error| error.to_string())?;
        // Once, by a forward pass and a backward pass.
        case.run_on(BinaryForm::Apart, &mut workspace).map_err(|error| error.to_string())?;
        let expected = Error::BadTargets { count: 1, row: 2, target: bad, classes: 9 };
        if workspace.take_status(&rig.stream) != Err(expected) {
            return Err(format!("{case}: the bad target {bad} was not reported"));
        }
    }
    Ok(())
}
