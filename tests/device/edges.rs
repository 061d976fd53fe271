//! Shapes, places and values at which kernels of this kind break.

use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Completion, Trial};
use smoothxent::{
    EmptyMean, Gradient, LossConfig, LossInputs, LossOutputs, Reduction, Selection, Shape,
    Smoothing, Strategy, WeightedTerms, Workspace,
    cudarc::driver::{
        CudaSlice, DriverError,
        sys::{CUdevice_attribute, CUresult},
    },
    loss,
    plan::Plan,
    problem::{ClassWeighting, Dtype, Pass, Place, Problem, TargetType, Types},
};

use crate::{
    common::{
        compare::within_budget,
        inputs,
        run::{Case, Form, Placement, Rig, Stored, UpstreamCase, check, selection},
    },
    ignorable_trial, trial,
};

pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// What one thread moves at once.
const PACK_BYTES: usize = 16;

/// Around packs (4 and 8 elements), what a warp holds, and multiples of 512 packs, at which blocks grow; 261
/// and 521 have 64 or 65 packs, as the row lies, so that a block of 32 threads has a chunk that is empty in
/// some of its rows; 10, 66 and 100 are pairs or fours, of which two lanes have unlike parts.
const CLASSES: [usize; 50] = [
    1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 100, 127, 128, 129, 255,
    256, 257, 261, 521, 1000, 1001, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097, 8191,
    8192, 8193, 16_383, 16_384, 16_385, 28_671, 28_672, 28_673, 57_343, 57_345,
];

/// Vocabularies, odd ones among them.
const VOCABULARIES: [usize; 5] = [21_841, 32_001, 50_257, 50_304, 128_256];

/// Rows of so many classes and more take their time: not everything is tried with everything.
const LONG: usize = 4000;

/// Of so many and more there are fewer rows, and target probabilities are tried with the lengths of a vocabulary
/// alone.
const VERY_LONG: usize = 9000;

const ROWS: [usize; 3] = [0, 1, 5];
/// More than the two blocks of a limited grid.
const VERY_LONG_ROWS: [usize; 3] = [0, 1, 3];

/// Packed; odd strides; base off by one element; all of it, and the gradient elsewhere.
const PLACEMENTS: [Placement; 4] = [
    Placement::PACKED,
    Placement { logits_padding: 3, gradient_padding: 1, ..Placement::PACKED },
    Placement { logits_offset: 1, gradient_offset: 1, targets_padding: 1, ..Placement::PACKED },
    Placement {
        logits_offset: 1,
        gradient_offset: 3,
        vector_offset: 1,
        logits_padding: 7,
        gradient_padding: 0,
        targets_padding: 2,
    },
];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![];
    for dtype in DTYPES {
        let with = |targets: TargetType| move |&classes: &usize| is_taken(dtype, targets, classes);
        let (index, probability) = (with(TargetType::I64), with(TargetType::Probabilities(dtype)));
        for classes in CLASSES.into_iter().chain(VOCABULARIES).filter(index) {
            trials.push(trial(format!("edges::classes::{dtype:?}::{classes}"), move || {
                shapes(dtype, classes)
            }));
        }
        let with_conventions = CLASSES.into_iter().chain([32_001, 50_257]).filter(index);
        for classes in with_conventions.filter(|&classes| has_its_turn(dtype, classes)) {
            trials.push(trial(format!("edges::conventions::{dtype:?}::{classes}"), move || {
                conventions(dtype, classes)
            }));
        }
        let short = CLASSES.into_iter().filter(|&classes| classes < VERY_LONG);
        for classes in short.chain([50_257]).filter(probability) {
            trials.push(trial(format!("edges::probabilities::{dtype:?}::{classes}"), move || {
                probabilities(dtype, classes)
            }));
        }
        trials.push(trial(format!("edges::confident_probabilities::{dtype:?}"), move || {
            confident_probabilities(dtype)
        }));
        trials.push(trial(format!("edges::predictions::{dtype:?}"), move || predictions(dtype)));
        trials.push(trial(format!("edges::predictions_beside_the_target::{dtype:?}"), move || {
            predictions_beside_the_target(dtype)
        }));
        trials.push(trial(format!("edges::masked_by_weight::{dtype:?}"), move || {
            masked_by_weight(dtype)
        }));
        trials.push(trial(format!("edges::shared_memory_limit::{dtype:?}"), move || {
            shared_memory_limit(dtype)
        }));
        trials.push(trial(format!("edges::every_alignment::{dtype:?}"), move || {
            every_alignment(dtype)
        }));
        trials.push(trial(format!("edges::values::{dtype:?}"), move || values(dtype)));
        trials.push(trial(format!("edges::confident::{dtype:?}"), move || confident(dtype)));
        trials.push(trial(format!("edges::not_finite::{dtype:?}"), move || not_finite(dtype)));
        trials.push(trial(format!("edges::many_rows::{dtype:?}"), move || many_rows(dtype)));
        trials.push(trial(format!("edges::many_rows_of_a_warp::{dtype:?}"), move || {
            many_rows_of_a_warp(dtype)
        }));
        trials
            .push(trial(format!("edges::half_a_sector::{dtype:?}"), move || half_a_sector(dtype)));
        trials.push(trial(format!("edges::counted_rows::{dtype:?}"), move || counted_rows(dtype)));
        trials.push(trial(format!("edges::exact_in_place::{dtype:?}"), move || {
            exact_in_place(dtype)
        }));
        for far in [Far::Logits, Far::Gradient, Far::Probabilities] {
            // No stride is beyond 31 bits, and their multiples are; and beyond 32.
            for stride in [(1 << 30) + 64, (1 << 32) + 64] {
                trials.push(far_apart(far, dtype, stride));
            }
        }
        trials.push(trial(format!("edges::every_target::{dtype:?}"), move || every_target(dtype)));
    }
    trials.push(trial("edges::many_ignored_rows_of_a_warp", many_ignored_rows_of_a_warp));
    trials.push(trial("edges::ignored_rows_are_not_read", ignored_rows_are_not_read));
    trials.push(trial("edges::rows_brought_ahead", rows_brought_ahead));
    trials.push(trial("edges::nothing_counts", nothing_counts));
    trials.push(trial("edges::negative_weights_of_the_lowest", negative_weights_of_the_lowest));
    trials
        .push(trial("edges::weights_that_cancel_on_the_lowest", weights_that_cancel_on_the_lowest));
    trials.push(trial("edges::weights_that_overflow", weights_that_overflow));
    trials.push(trial("edges::all_targets_weigh_nothing", all_targets_weigh_nothing));
    trials
}

/// Set where a run of the tests is one of several, as on one strategy: it tries in pairs what the first one tries
/// each with each.
const IN_PAIRS_VARIABLE: &str = "SMOOTHXENT_TEST_IN_PAIRS";

pub fn goes_in_pairs() -> bool {
    std::env::var_os(IN_PAIRS_VARIABLE).is_some()
}

/// In pairs, conventions are tried on f32 or on halves: each of them has a length and its neighbours, and the other
/// one the next power of two.
fn has_its_turn(dtype: Dtype, classes: usize) -> bool {
    let is_odd = !(classes / 2 + classes.ilog2() as usize).is_multiple_of(2);
    !goes_in_pairs() || is_odd == (dtype == Dtype::F32)
}

/// Whether a run of the tests on one strategy brings such rows there, in any pass. Where it can take them in none,
/// they go where the plan sends them, as in the runs on none, and nothing new would be tested.
fn is_taken(dtype: Dtype, targets: TargetType, classes: usize) -> bool {
    let (Selection::Preferred(strategy), Ok(rig)) = (selection(), Rig::get()) else { return true };
    let types = Types { dtype, targets, class_weights: ClassWeighting::Absent };
    let shape = Shape::contiguous(ROWS[ROWS.len() - 1], classes);
    [Pass::Forward, Pass::Backward, Pass::Fused].into_iter().any(|pass| {
        let problem = Problem::new(types, shape, smoothed(0.1), pass, Place::Apart);
        match problem.and_then(|problem| rig.kernels.plan(&problem)) {
            Ok(Plan::Launches { rows, .. }) => rows.strategy == strategy,
            // A test says why.
            _ => true,
        }
    })
}

fn smoothed(label_smoothing: f64) -> LossConfig {
    LossConfig { label_smoothing, ..LossConfig::default() }
}

fn shapes(dtype: Dtype, classes: usize) -> Result<(), String> {
    for rows in if classes < VERY_LONG { ROWS } else { VERY_LONG_ROWS } {
        for (at, placement) in PLACEMENTS.into_iter().enumerate() {
            if goes_in_pairs() && rows == 1 && at != classes % PLACEMENTS.len() {
                continue;
            }
            let config = smoothed(0.1);
            check(&Case { placement, config, ..Case::new(dtype, rows, classes, 1) })?;
        }
    }
    Ok(())
}

/// The kernels' other paths, weighted classes and capped logits, through the same shapes: each where rows lie
/// in each way; of long rows, or in pairs, where they are packed and in one other way; of very long rows, or of long
/// ones in pairs, in one of these two, by turns.
fn conventions(dtype: Dtype, classes: usize) -> Result<(), String> {
    let plain = smoothed(0.1);
    let others = if classes == 1 { Smoothing::AllClasses } else { Smoothing::OtherClasses };
    let capped = LossConfig { logit_softcap: Some(30.0), logit_scale: 1.5, ..plain };
    let on_nll = LossConfig { weighted_terms: WeightedTerms::Nll, z_loss: 1e-3, ..plain };
    let but_one = Smoothing::OtherClassesBut(1);
    let on_smoothing =
        LossConfig { smoothing: but_one, weighted_terms: WeightedTerms::Smoothing, ..plain };
    let conventions = [
        (plain, true),
        (LossConfig { z_loss: 1e-3, ..capped }, false),
        (LossConfig { smoothing: others, ..capped }, true),
        (LossConfig { logit_scale: 0.3, smoothing: others, ..on_nll }, true),
        (on_smoothing, true),
    ];
    for (turn, (config, weighted)) in conventions.into_iter().enumerate() {
        if config.smoothing == but_one && classes <= 2 {
            continue;
        }
        let class_weights = weighted.then(|| inputs::class_weights(classes, 31));
        let case = Case { config, class_weights, ..Case::new(dtype, 3, classes, 30) };
        let odd = 1 + (turn + classes) % (PLACEMENTS.len() - 1);
        let (two_from, one_from) = if goes_in_pairs() { (1, LONG) } else { (LONG, VERY_LONG) };
        let packed_now = (turn + classes + dtype.bytes() / 2).is_multiple_of(2);
        for (at, placement) in PLACEMENTS.into_iter().enumerate() {
            let is_tried = match at {
                _ if classes < two_from => true,
                0 => classes < one_from || packed_now,
                _ => at == odd && (classes < one_from || !packed_now),
            };
            if is_tried {
                check(&Case { placement, ..case.clone() })?;
            }
        }
    }
    Ok(())
}

/// -inf where the class weighs nothing: nothing, also in rows that need the exact shift.
fn masked_by_weight(dtype: Dtype) -> Result<(), String> {
    for classes in [2, 10, 333, 4097] {
        for label_smoothing in [0.1, 1.0] {
            for largest in [8.0, 6e4] {
                let mut class_weights = inputs::class_weights(classes, 33);
                class_weights[classes - 1] = 1.5;
                let config = LossConfig { reduction: Reduction::None, ..smoothed(label_smoothing) };
                let mut case = Case { config, ..Case::new(dtype, 5, classes, 32) };
                let huge = if dtype == Dtype::F16 { largest } else { largest * 1e30 };
                let huge = inputs::round(dtype, huge);
                for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                    for (x, &weight) in x.iter_mut().zip(&class_weights) {
                        if weight == 0.0 {
                            *x = f32::NEG_INFINITY;
                        }
                    }
                    x[classes - 1] = if row % 2 == 0 { huge } else { -huge };
                }
                case.class_weights = Some(class_weights);
                let found = check(&case)?;
                if let Some(row) = found.row_losses.iter().position(|loss| loss.is_nan()) {
                    return Err(format!("{case}: a masked class made row {row} NaN"));
                }
            }
        }
    }
    Ok(())
}

/// All smoothing over the other classes weighs a class's own probability negatively. What is lowest is then
/// far above zero, and nothing else may overflow on the way. (Found by `cargo xtask fuzz`.)
fn negative_weights_of_the_lowest() -> Result<(), String> {
    let smoothing = Smoothing::OtherClasses;
    let weighted_terms = WeightedTerms::Smoothing;
    let config =
        LossConfig { smoothing, weighted_terms, reduction: Reduction::None, ..smoothed(1.0) };
    for strategy in Strategy::ALL {
        for classes in [5, 35, 4097] {
            for lowest in [0, classes / 2, classes - 1] {
                let selection = Selection::Preferred(strategy);
                let mut case = Case { config, selection, ..Case::new(Dtype::F32, 2, classes, 54) };
                let mut weights = vec![1.0; classes];
                weights[lowest] = 0.0;
                case.class_weights = Some(weights);
                case.logits[lowest] = f32::MIN;
                let mut case = case.spread(Dtype::F32, 54);
                let probabilities = case.probabilities.as_mut().ok_or("they were just put in")?;
                probabilities[lowest] = 0.05;
                let found = check(&case)?;
                if !found.row_losses[0].is_finite() {
                    return Err(format!("{case}: the loss is {}", found.row_losses[0]));
                }
            }
        }
        // The other classes' terms alone are beyond the largest number, and the target's brings them back.
        let selection = Selection::Preferred(strategy);
        let mut case = Case { config, selection, ..Case::new(Dtype::F32, 1, 22, 54) };
        case.logits.fill(0.0);
        case.logits[15] = 3.389e38;
        case.targets = vec![0];
        let mut weights = vec![1.06; 22];
        weights[0] = 0.14;
        case.class_weights = Some(weights);
        let found = check(&case)?;
        if !found.row_losses[0].is_finite() {
            return Err(format!("{case}: the loss is {}", found.row_losses[0]));
        }
    }
    Ok(())
}

/// All smoothing over the other classes: the target's own terms cancel, so that it may be as unlikely as it
/// likes, whether it is a class or has all of a row's probability. (Found by `cargo xtask fuzz`.)
fn weights_that_cancel_on_the_lowest() -> Result<(), String> {
    let config = LossConfig {
        smoothing: Smoothing::OtherClasses,
        weighted_terms: WeightedTerms::NllAndSmoothing,
        reduction: Reduction::None,
        ..smoothed(1.0)
    };
    for strategy in Strategy::ALL {
        for classes in [5, 54, 4097] {
            for weight in [None, Some(0.7)] {
                let selection = Selection::Preferred(strategy);
                let mut case = Case { config, selection, ..Case::new(Dtype::F32, 3, classes, 55) };
                case.class_weights = weight.map(|weight| vec![weight; classes]);
                let spread = case.clone().spread(Dtype::F32, 55);
                let mut one_hot = vec![0.0; 3 * classes];
                for (row, &target) in case.targets.iter().enumerate() {
                    let target = row * classes + target as usize;
                    case.logits[target] = f32::NEG_INFINITY;
                    one_hot[target] = 1.0;
                }
                let probabilities = Some(one_hot);
                let spread = Case { logits: case.logits.clone(), probabilities, ..spread };
                for case in [case, spread] {
                    let found = check(&case)?;
                    if found.row_losses.iter().any(|loss| !loss.is_finite()) {
                        return Err(format!("{case}: the losses are {:?}", found.row_losses));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Each of them is an f32, their sum is not: divided by that, every loss and every gradient would be 0, and nobody
/// would notice. Few rows, whose weights the launch itself adds, and more, which have one before it.
fn weights_that_overflow() -> Result<(), String> {
    for rows in [4, 300] {
        let config = LossConfig { ignore_index: Some(1), ..LossConfig::default() };
        let mut case = Case { config, ..Case::new(Dtype::F32, rows, 5, 35) };
        case.targets = (0..rows).map(|row| if row == 1 { 1 } else { 3 }).collect();
        case.class_weights = Some(vec![3e38; 5]);
        let found = case.run().map_err(|error| error.to_string())?;
        if !found.loss.is_some_and(f32::is_nan) {
            return Err(format!("{case}: the loss is {:?}", found.loss));
        }
        for (row, gradient) in found.gradient.chunks(5).enumerate() {
            let as_it_should_be = match row {
                1 => gradient == [0.0; 5],
                _ => gradient.iter().all(|element| element.is_nan()),
            };
            if !as_it_should_be {
                return Err(format!("{case}: row {row} has the gradient {gradient:?}"));
            }
        }
    }
    Ok(())
}

/// PyTorch divides 0 by 0 there; a named choice gives 0, and an ignored row changes neither.
fn all_targets_weigh_nothing() -> Result<(), String> {
    for ignore_index in [None, Some(4)] {
        for (empty_mean, nan) in [(EmptyMean::Nan, true), (EmptyMean::Zero, false)] {
            let config = LossConfig { ignore_index, empty_mean, ..LossConfig::default() };
            let mut case = Case { config, ..Case::new(Dtype::F32, 4, 6, 34) };
            case.targets = vec![2, 4, 2, 2];
            case.class_weights = Some(vec![1.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
            let loss = check(&case)?.loss.ok_or("a reduced loss was asked for")?;
            if loss.is_nan() != nan || (!nan && loss != 0.0) {
                return Err(format!("{case}: the loss is {loss}"));
            }
        }
    }
    Ok(())
}

/// Rows that just fit a block's shared memory, and rows of which a part is read twice.
fn shared_memory_limit(dtype: Dtype) -> Result<(), String> {
    let pack = PACK_BYTES / dtype.bytes();
    let (block, two_pass) =
        (Selection::Pinned(Strategy::Block), Selection::Pinned(Strategy::TwoPass));
    let kernels = Rig::here().kernels.clone().with_selection(block);
    let fits_of = |targets| {
        let fits = |packs: usize| {
            let types = Types { dtype, targets, class_weights: ClassWeighting::Absent };
            let (shape, config) = (Shape::contiguous(1, packs * pack), LossConfig::default());
            Problem::new(types, shape, config, Pass::Fused, Place::Apart)
                .and_then(|problem| kernels.plan(&problem))
                .is_ok()
        };
        let (mut most, mut too_many) = (1, 1 << 24);
        while too_many - most > 1 {
            let middle = (most + too_many) / 2;
            if fits(middle) { most = middle } else { too_many = middle }
        }
        most * pack
    };
    let fits = fits_of(TargetType::I64);
    for (classes, selection) in [
        (fits - 1, block),
        (fits, block),
        (fits + 1, block),
        (fits + pack, two_pass),
        (2 * fits + pack + 1, two_pass),
    ] {
        check(&Case { config: smoothed(0.1), selection, ..Case::new(dtype, 2, classes, 2) })?;
    }
    let class_weights = Some(inputs::class_weights(fits + pack, 35));
    let config = LossConfig { logit_softcap: Some(20.0), ..smoothed(0.1) };
    let selection = two_pass;
    check(&Case { class_weights, config, selection, ..Case::new(dtype, 1, fits + pack, 2) })?;
    // Cut differently: the gradient goes element by element, from shared and from global memory.
    let placement = Placement { gradient_offset: 1, ..Placement::PACKED };
    check(&Case { placement, selection, ..Case::new(dtype, 1, fits + 3 * pack + 1, 3) })?;
    // With target probabilities less of a row fits.
    let fits = fits_of(TargetType::Probabilities(Dtype::F16));
    for (classes, selection) in
        [(fits, block), (fits + pack, two_pass), (fits + pack + 1, two_pass)]
    {
        let case = Case { config: smoothed(0.1), selection, ..Case::new(dtype, 2, classes, 2) };
        check(&case.spread(Dtype::F16, 3))?;
    }
    Ok(())
}

/// Target probabilities of every type through the same shapes, and beside masks.
fn probabilities(dtype: Dtype, classes: usize) -> Result<(), String> {
    for targets in DTYPES {
        // The kinds take turns.
        let one = if classes < VERY_LONG { DTYPES[classes % 3] } else { dtype };
        if (classes >= LONG || goes_in_pairs()) && targets != one {
            continue;
        }
        let weights = [1.0, -0.5, 2.0, 0.0, 3.0];
        let rows = if classes < VERY_LONG { weights.len() } else { 3 };
        for (turn, placement) in PLACEMENTS.into_iter().enumerate() {
            let config = [
                smoothed(0.0),
                LossConfig { z_loss: 1e-3, ..smoothed(0.1) },
                LossConfig { logit_softcap: Some(20.0), logit_scale: 0.7, ..smoothed(0.3) },
                LossConfig { weighted_terms: WeightedTerms::Nll, ..smoothed(1.0) },
            ][turn];
            let class_weights = (turn % 2 == 1).then(|| inputs::class_weights(classes, 40));
            let mut case =
                Case { placement, config, class_weights, ..Case::new(dtype, rows, classes, 41) };
            case.upstream = UpstreamCase::PerRow(weights[..rows].to_vec());
            case = case.spread(targets, 42 + turn as u64);
            check(&case)?;
            if turn == 0 {
                // A zero coefficient on -inf is 0; a positive one makes the loss infinite.
                let q = case.probabilities.as_ref().ok_or("there are probabilities")?;
                let masked = |(&q, k): (&f32, usize)| q == 0.0 && k % classes > 0;
                let at: Vec<bool> = q.iter().zip(0..).map(masked).collect();
                for (x, masked) in case.logits.iter_mut().zip(at) {
                    if masked {
                        *x = f32::NEG_INFINITY;
                    }
                }
                check(&case)?;
                case.config = smoothed(0.1);
                check(&case)?;
                // A row of nothing but -inf is NaN, also where no class has any weight.
                case.config = LossConfig { reduction: Reduction::None, ..smoothed(0.0) };
                case.logits[..classes].fill(f32::NEG_INFINITY);
                let q = case.probabilities.as_mut().ok_or("there are probabilities")?;
                q[..classes].fill(0.0);
                if !check(&case)?.row_losses[0].is_nan() {
                    return Err(format!("{case}: a row of -inf has a loss"));
                }
            }
        }
    }
    Ok(())
}

/// A class far ahead of the others, with and without the probability mass: 1 - p and -log p keep
/// their digits without a class target, too.
fn confident_probabilities(dtype: Dtype) -> Result<(), String> {
    for gap in [0.5, 0.7, 1.0, 5.0, 10.0, 20.0, 50.0] {
        for classes in [1, 2, 10, 1000, 4097] {
            for (label_smoothing, softcap) in [(0.0, None), (0.1, None), (0.0, Some(60.0))] {
                let config = LossConfig { logit_softcap: softcap, ..smoothed(label_smoothing) };
                let mut case = Case { config, ..Case::new(dtype, 8, classes, 43) };
                case = case.spread(DTYPES[classes % 3], 44);
                for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                    // In every part of the block.
                    let y = row * classes / 8;
                    let others = x.iter().enumerate().filter(|&(k, _)| k != y);
                    let ahead = others.map(|(_, &v)| v).fold(-8.0, f32::max) + gap;
                    x[y] = inputs::round(dtype, ahead);
                    // Half of the rows have their mass there.
                    if row % 2 == 0 {
                        let q = case.probabilities.as_mut().ok_or("there are probabilities")?;
                        let q = &mut q[row * classes..][..classes];
                        q.fill(0.0);
                        q[y] = 1.0;
                    }
                }
                check(&case)?;
            }
        }
    }
    Ok(())
}

/// Ties, and what is larger than any number.
fn predictions(dtype: Dtype) -> Result<(), String> {
    for classes in [1, 2, 9, 40, 333, 4097] {
        let config = LossConfig { ignore_index: Some(-1), ..smoothed(0.1) };
        let mut case = Case { config, ..Case::new(dtype, 12, classes, 45) };
        for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
            // In every part of the block.
            let (a, b) = (row * classes / 12, (row * 7 + 3) % 12 * classes / 12);
            match row {
                // The target is the largest, alone, before and behind an equal one.
                0 | 1 => x[case.targets[row] as usize] = 100.0,
                2 | 3 => {
                    x[a] = 100.0;
                    x[b] = 100.0;
                    case.targets[row] = if row == 2 { a.min(b) } else { a.max(b) } as i64;
                }
                4 => x.fill(1.5),
                5 => x.fill(f32::NEG_INFINITY),
                6 => x[a] = f32::INFINITY,
                7 => (x[a], x[b]) = (f32::NAN, f32::NAN),
                8 => (x[a], x[b]) = (f32::INFINITY, f32::NAN),
                9 => case.targets[row] = -1,
                10 => case.targets[row] = classes as i64,
                _ => x[a] = -100.0,
            }
        }
        check(&case)?;
        case.config.logit_softcap = Some(30.0);
        check(&case)?;
        let targets = case.targets.iter_mut();
        targets.for_each(|t| *t = (*t).clamp(0, classes as i64 - 1));
        check(&case.spread(dtype, 46))?;
    }
    Ok(())
}

/// The largest logit in one pack of a thread and the target in the next one, and the other way around: packs are
/// compared in twos, but for the target's.
fn predictions_beside_the_target(dtype: Dtype) -> Result<(), String> {
    let pack = PACK_BYTES / dtype.bytes();
    for selection in [Selection::Fastest, Selection::Preferred(Strategy::Block)] {
        for classes in [83 * pack, 1024 * pack + 1] {
            // As many packs apart as a block can have threads, for rows so short.
            let distances: Vec<_> = (1..).map(|warps| warps * 32 * pack).take(8).collect();
            let rows = 2 * distances.len();
            let config = LossConfig { ignore_index: Some(-1), ..smoothed(0.1) };
            let mut case = Case { config, selection, ..Case::new(dtype, rows, classes, 50) };
            for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                let (one, other) = (1, (1 + distances[row / 2]) % classes);
                let (largest, target) = if row % 2 == 0 { (one, other) } else { (other, one) };
                x[largest] = 100.0;
                case.targets[row] = target as i64;
            }
            check(&case)?;
        }
    }
    Ok(())
}

fn every_alignment(dtype: Dtype) -> Result<(), String> {
    let pack = PACK_BYTES / dtype.bytes();
    for logits_offset in 0..pack {
        for gradient_offset in 0..pack {
            for classes in [5, 33, 1001] {
                let placement = Placement {
                    logits_offset,
                    gradient_offset,
                    vector_offset: gradient_offset,
                    logits_padding: 1,
                    gradient_padding: 2,
                    targets_padding: 3,
                };
                check(&Case {
                    placement,
                    config: smoothed(0.2),
                    ..Case::new(dtype, 3, classes, 4)
                })?;
            }
        }
    }
    Ok(())
}

/// Each place of the target: edges, packs, first and last of each.
fn every_target(dtype: Dtype) -> Result<(), String> {
    for classes in [1, 9, 30] {
        for logits_offset in [0, 1, 3] {
            let placement =
                Placement { logits_offset, gradient_offset: logits_offset, ..Placement::PACKED };
            let mut case =
                Case { placement, config: smoothed(0.1), ..Case::new(dtype, classes, classes, 5) };
            case.targets = (0..classes as i64).collect();
            check(&case)?;
        }
    }
    Ok(())
}

/// Large, tiny and huge logits, alone and beside ordinary ones.
fn values(dtype: Dtype) -> Result<(), String> {
    let huge: &[f32] = match dtype {
        Dtype::F32 => &[1e4, 1e9, 1e30, 3e38],
        Dtype::F16 => &[1e4, 65504.0],
        Dtype::Bf16 => &[1e4, 65504.0, 1e9, 1e30, 3e38],
    };
    let tiny: &[f32] = &match dtype {
        Dtype::F32 => [f32::from_bits(1), f32::MIN_POSITIVE],
        Dtype::F16 => [half::f16::from_bits(1).to_f32(), half::f16::MIN_POSITIVE.to_f32()],
        Dtype::Bf16 => [half::bf16::from_bits(1).to_f32(), f32::MIN_POSITIVE],
    };
    for &size in huge.iter().chain(tiny) {
        for classes in [2, 10, 333, 4097] {
            for label_smoothing in [0.0, 0.1, 1.0] {
                let mut case =
                    Case { config: smoothed(label_smoothing), ..Case::new(dtype, 6, classes, 6) };
                let stored = |x: f32| crate::common::inputs::round(dtype, x);
                for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                    let last = classes - 1;
                    match row {
                        0 => x[0] = stored(size),
                        1 => x[last] = stored(-size),
                        2 => x.fill(stored(size)),
                        3 => x.fill(stored(-size)),
                        4 => x
                            .iter_mut()
                            .enumerate()
                            .for_each(|(k, v)| *v = stored(if k % 2 == 0 { size } else { -size })),
                        _ => {}
                    }
                }
                check(&case)?;
                check(&case.spread(dtype, 6))?;
            }
        }
    }
    Ok(())
}

/// The target ahead by a gap: 1 - p_y keeps its digits.
fn confident(dtype: Dtype) -> Result<(), String> {
    for gap in [5.0, 10.0, 20.0, 50.0] {
        for classes in [2, 10, 1000] {
            for label_smoothing in [0.0, 0.1] {
                let mut case =
                    Case { config: smoothed(label_smoothing), ..Case::new(dtype, 4, classes, 7) };
                for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                    let y = case.targets[row] as usize;
                    let others = x.iter().enumerate().filter(|&(k, _)| k != y);
                    let ahead = others.map(|(_, &v)| v).fold(f32::NEG_INFINITY, f32::max) + gap;
                    x[y] = crate::common::inputs::round(dtype, ahead);
                }
                check(&case)?;
            }
        }
    }
    Ok(())
}

/// -inf is a probability of 0; NaN and +inf make their own row NaN, and no other.
fn not_finite(dtype: Dtype) -> Result<(), String> {
    for classes in [2, 10, 333] {
        for label_smoothing in [0.0, 0.1, 1.0] {
            let reduction = Reduction::None;
            let config =
                LossConfig { ignore_index: Some(-1), reduction, ..smoothed(label_smoothing) };
            let mut case = Case { config, ..Case::new(dtype, 8, classes, 8) };
            case.targets[6] = -1;
            for (row, x) in case.logits.chunks_exact_mut(classes).enumerate() {
                let y = usize::try_from(case.targets[row]).unwrap_or(0);
                let other = (y + 1) % classes;
                match row {
                    0 => x[other] = f32::NEG_INFINITY,
                    1 => x[y] = f32::NEG_INFINITY,
                    2 => x.fill(f32::NEG_INFINITY),
                    3 => x[other] = f32::INFINITY,
                    4 => x[y] = f32::NAN,
                    5 => x[other] = f32::NAN,
                    6 => x.fill(f32::NAN),
                    _ => {}
                }
            }
            let found = check(&case)?;
            let clean = found.gradient[6 * classes..].iter().all(|g| g.is_finite());
            if !clean || !found.row_losses[6].is_finite() || !found.row_losses[7].is_finite() {
                return Err(format!("{case}: a NaN left its row"));
            }
        }
    }
    Ok(())
}

/// Around the rows of a chunk, so that every level of the ordered sum is used.
fn many_rows(dtype: Dtype) -> Result<(), String> {
    let weighted = |rows| {
        let class_weights = Some(vec![0.25, 3.0, 1.5]);
        let config = LossConfig { ignore_index: Some(1), ..smoothed(0.1) };
        check(&Case { config, class_weights, ..Case::new(dtype, rows, 3, 10) })
    };
    // Around a warp, what its lanes read at once of the targets, what a launch counts by itself, and chunks.
    // A run beside the first one leaves out what takes long and is no strategy's own: the sum of many chunks, and the
    // normalizer's blocks.
    let all = [31, 32, 33, 129, 255, 256, 257, 511, 512, 513, 1025, 2049];
    let most = if goes_in_pairs() { 1025 } else { usize::MAX };
    for rows in all.into_iter().filter(|&rows| rows <= most) {
        for reduction in [Reduction::Sum, Reduction::Mean] {
            let config = LossConfig { reduction, ignore_index: Some(1), ..smoothed(0.1) };
            check(&Case { config, ..Case::new(dtype, rows, 3, 9) })?;
        }
        weighted(rows)?;
    }
    if !goes_in_pairs() {
        // More than a block of the normalizer counts.
        weighted(8193)?;
    }
    // A warp with all the rows that it can have, also of as many classes as a lane takes, and not at a pack.
    for (rows, classes) in [(32, 3), (128, 3), (32, 16)] {
        let placement = Placement { logits_offset: 1, gradient_offset: 1, ..Placement::PACKED };
        check(&Case { placement, config: smoothed(0.1), ..Case::new(dtype, rows, classes, 9) })?;
    }
    Ok(())
}

fn multiprocessors() -> Result<usize, String> {
    let count = Rig::here()
        .context
        .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        .map_err(|error| format!("{:?}", error.0))?;
    Ok(count as usize)
}

/// Of which a warp takes two, so many; and five more.
fn rows_of_two_a_warp() -> Result<usize, String> {
    // 32 blocks of 4 warps on each take one.
    Ok(2 * 32 * 4 * multiprocessors()? + 5)
}

/// A warp says what is known of its rows at once; the last ones have none, or one.
fn many_rows_of_a_warp(dtype: Dtype) -> Result<(), String> {
    let selection = Selection::Pinned(Strategy::Warp);
    let config = LossConfig { ignore_index: Some(1), ..smoothed(0.1) };
    let case = Case { config, selection, ..Case::new(dtype, rows_of_two_a_warp()?, 3, 47) };
    let found = case.run().map_err(|error| format!("{case}: {error}"))?;
    within_budget(&case, &found, &case.expected()).map(drop)
}

/// Rows that begin in the middle of a sector of memory, at each number of packs at which a lane has one more,
/// up to as many as the lanes of a warp, or of a quarter, have room for.
fn half_a_sector(dtype: Dtype) -> Result<(), String> {
    let pack = PACK_BYTES / dtype.bytes();
    let placement = Placement { logits_offset: pack, gradient_offset: pack, ..Placement::PACKED };
    let selection = Selection::Pinned(Strategy::Warp);
    let case = |rows, packs: usize| {
        let config = smoothed(0.1);
        Case { placement, config, selection, ..Case::new(dtype, rows, packs * pack, 53) }
    };
    for packs in [31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512] {
        check(&case(3, packs))?;
    }
    let rows = 16 * multiprocessors()?;
    for packs in [8, 64, 127, 128] {
        let case = case(rows, packs);
        let found = case.run().map_err(|error| format!("{case}: {error}"))?;
        within_budget(&case, &found, &case.expected())?;
    }
    Ok(())
}

/// Where nothing is read or summed, nothing else orders what a warp says of its rows.
fn many_ignored_rows_of_a_warp() -> Result<(), String> {
    let selection = Selection::Pinned(Strategy::Warp);
    let reduction = Reduction::None;
    let config = LossConfig { ignore_index: Some(1), reduction, ..smoothed(0.1) };
    let mut case =
        Case { config, selection, ..Case::new(Dtype::F32, rows_of_two_a_warp()?, 2, 50) };
    case.targets.fill(1);
    let found = case.run_form(Form::Bare).map_err(|error| format!("{case}: {error}"))?;
    match found.gradient.iter().position(|&g| g != 0.0) {
        None => Ok(()),
        Some(element) => Err(format!("{case}: element {element} of ignored rows is not 0")),
    }
}

/// Few rows, which the launch that needs them counts by itself: on each strategy, with one warp and with
/// several.
fn counted_rows(dtype: Dtype) -> Result<(), String> {
    for strategy in Strategy::ALL {
        for classes in [3, 700, 5000] {
            let config = LossConfig { ignore_index: Some(-1), ..smoothed(0.1) };
            let selection = Selection::Preferred(strategy);
            let mut case = Case { config, selection, ..Case::new(dtype, 5, classes, 48) };
            case.targets[2] = -1;
            check(&case)?;
        }
    }
    Ok(())
}

/// Rows that need the exact shift are gone over again: on each strategy, also where they are overwritten.
fn exact_in_place(dtype: Dtype) -> Result<(), String> {
    let huge = if dtype == Dtype::F16 { 6e4 } else { 3e38 };
    for strategy in Strategy::ALL {
        for classes in [9, 700] {
            let config = LossConfig { logit_scale: 1e4, ..smoothed(0.1) };
            let selection = Selection::Preferred(strategy);
            let mut case = Case { config, selection, ..Case::new(dtype, 4, classes, 49) };
            case.logits[0] = inputs::round(dtype, huge);
            case.logits[2 * classes + classes - 1] = inputs::round(dtype, -huge);
            check(&case)?;
        }
    }
    Ok(())
}

/// Which matrix has its rows far apart.
#[derive(Clone, Copy, Debug)]
enum Far {
    Logits,
    Gradient,
    Probabilities,
}

/// Rows further apart than 2^31 and 2^32 elements, of one matrix at a time: every offset is 64-bit. What
/// lies between the rows is never touched, so that an emulated device has none of it.
fn far_apart(far: Far, dtype: Dtype, stride: usize) -> Trial {
    let name = format!("edges::far_apart::{far:?}::{dtype:?}::{stride}");
    ignorable_trial(name, move || {
        let ran = match dtype {
            Dtype::F32 => run_far_apart::<f32>(far, stride),
            Dtype::F16 => run_far_apart::<half::f16>(far, stride),
            Dtype::Bf16 => run_far_apart::<half::bf16>(far, stride),
        };
        Ok(match ran? {
            true => Completion::Completed,
            false => Completion::ignored_with("the device has too little memory"),
        })
    })
}

fn run_far_apart<T: Stored + smoothxent::Target>(far: Far, stride: usize) -> Result<bool, String> {
    // One at a time: they are large.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Rig { stream, kernels, .. } = Rig::here();
    // So many that their offsets are beyond 31 bits, or 32.
    let (rows, classes) = (if stride < 1 << 31 { 4 } else { 2 }, 33);
    let case = Case { config: smoothed(0.1), ..Case::new(T::DTYPE, rows, classes, 12) };
    let case = case.spread(T::DTYPE, 13);
    // Rows that are aligned as the ones below are summed in the same order.
    let aligned = Placement { logits_padding: 31, ..Placement::PACKED };
    let expected = Case { placement: aligned, ..case.clone() }.run();
    let expected = expected.map_err(|error| error.to_string())?;

    let mut shape = Shape { logits_row_stride: 64, ..Shape::contiguous(rows, classes) };
    match far {
        Far::Logits => shape.logits_row_stride = stride,
        Far::Gradient => shape.gradient_row_stride = stride,
        Far::Probabilities => shape.targets_row_stride = stride,
    }
    let failed = |error: DriverError| format!("{:?}", error.0);
    let place = |values: &[f32], stride: usize| -> Result<Option<CudaSlice<T>>, String> {
        // SAFETY: f32, f16 and bf16 are values whatever their bits are; the rows are written below,
        // and nothing else is read.
        let allocated = unsafe { stream.alloc::<T>((rows - 1) * stride + classes) };
        let mut matrix = match allocated {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => return Ok(None),
            other => other.map_err(failed)?,
        };
        for (row, values) in values.chunks_exact(classes).enumerate() {
            let values: Vec<T> = values.iter().map(|&x| T::narrow(x)).collect();
            let mut to = matrix.slice_mut(row * stride..row * stride + classes);
            stream.memcpy_htod(&values, &mut to).map_err(failed)?;
        }
        Ok(Some(matrix))
    };
    let blank = vec![0.0; rows * classes];
    let q = case.probabilities.as_ref().ok_or("there are probabilities")?;
    let (Some(logits), Some(q), Some(mut gradient)) = (
        place(&case.logits, shape.logits_row_stride)?,
        place(q, shape.targets_row_stride)?,
        place(&blank, shape.gradient_row_stride)?,
    ) else {
        return Ok(false);
    };
    let mut row_losses = stream.alloc_zeros::<f32>(rows).map_err(failed)?;
    let mut workspace = Workspace::new(stream, rows).map_err(|error| error.to_string())?;
    let outputs = LossOutputs { row_losses: Some(&mut row_losses), ..LossOutputs::default() };
    let inputs = LossInputs::new(shape, &logits, &q);
    let to = Gradient::new(&mut gradient);
    loss::forward_backward(kernels, stream, case.config, inputs, outputs, to, &mut workspace)
        .map_err(|error| error.to_string())?;
    let mut found = vec![];
    for row in 0..rows {
        let start = row * shape.gradient_row_stride;
        let row = stream.clone_dtoh(&gradient.slice(start..start + classes)).map_err(failed)?;
        found.extend(row.into_iter().map(|g| f64::from(g.widen())));
    }
    if found != expected.gradient {
        return Err(format!("{far:?}: the gradient differs from that of packed rows"));
    }
    let row_losses = stream.clone_dtoh(&row_losses).map_err(failed)?;
    if row_losses != expected.row_losses {
        return Err(format!("{far:?}: {row_losses:?} instead of {:?}", expected.row_losses));
    }
    Ok(true)
}

/// So many rows that blocks bring others to L2 ahead of their time, up to the last one: of an odd number of classes,
/// some of them ignored.
fn rows_brought_ahead() -> Result<(), String> {
    let rows = multiprocessors()? + 3;
    let config = LossConfig { ignore_index: Some(1), ..smoothed(0.1) };
    let mut case = Case { config, ..Case::new(Dtype::Bf16, rows, 20_481, 49) };
    case.targets[rows - 2] = 1;
    let found = case.run().map_err(|error| format!("{case}: {error}"))?;
    within_budget(&case, &found, &case.expected()).map(drop)
}

/// Of an ignored row nothing is ever read, which an emulated device knows: nobody wrote it. Not so under tiny,
/// whose warp reads all of its rows if one of them counts.
fn ignored_rows_are_not_read() -> Result<(), String> {
    use Strategy as S;
    let Rig { stream, kernels, .. } = Rig::here();
    let failed = |error: DriverError| format!("{:?}", error.0);
    for (strategy, classes) in [S::Warp, S::Block, S::TwoPass, S::Cluster, S::SplitRow]
        .into_iter()
        .flat_map(|strategy| [(strategy, 700), (strategy, 5000)])
    {
        let targets = [3_i32, -1, -1, 699, -1, 1, -1, 0];
        let shape = Shape::contiguous(targets.len(), classes);
        // SAFETY: an f32 is a value whatever its bits are, and what is read is written below.
        let mut logits = unsafe { stream.alloc::<f32>(targets.len() * classes) }.map_err(failed)?;
        for row in (0..targets.len()).filter(|&row| targets[row] != -1) {
            let values = inputs::logits(Dtype::F32, 1, classes, 60 + row as u64);
            let mut to = logits.slice_mut(row * classes..(row + 1) * classes);
            stream.memcpy_htod(&values, &mut to).map_err(failed)?;
        }
        let targets = stream.clone_htod(&targets).map_err(failed)?;
        let mut gradient = stream.alloc_zeros::<f32>(logits.len()).map_err(failed)?;
        let config = LossConfig { ignore_index: Some(-1), ..smoothed(0.1) };
        let inputs = LossInputs::new(shape, &logits, &targets);
        let to = Gradient::new(&mut gradient);
        let mut workspace =
            Workspace::new(stream, shape.rows).map_err(|error| error.to_string())?;
        let kernels = kernels.clone().with_selection(Selection::Preferred(strategy));
        let outputs = LossOutputs::default();
        loss::forward_backward(&kernels, stream, config, inputs, outputs, to, &mut workspace)
            .map_err(|error| error.to_string())?;
        stream.synchronize().map_err(|error| format!("{strategy}, {classes}: {error:?}"))?;
    }
    Ok(())
}

/// PyTorch's empty mean is NaN, an empty sum 0; gradients are 0.
fn nothing_counts() -> Result<(), String> {
    for rows in [0, 3] {
        for (reduction, nan) in [(Reduction::Mean, true), (Reduction::Sum, false)] {
            let config = LossConfig { ignore_index: Some(7), reduction, ..smoothed(0.1) };
            let mut case =
                Case { config, target_type: TargetType::I32, ..Case::new(Dtype::F16, rows, 9, 10) };
            case.targets.fill(7);
            case.upstream = UpstreamCase::Scalar(128.0);
            let found = case.run().map_err(|error| error.to_string())?;
            let loss = found.loss.ok_or("a reduced loss was asked for")?;
            if loss.is_nan() != nan || (!nan && loss != 0.0) {
                return Err(format!("{case}: the loss of nothing is {loss}"));
            }
            if found.gradient.iter().any(|&g| g != 0.0)
                || found.row_losses.iter().any(|&l| l != 0.0)
            {
                return Err(format!("{case}: ignored rows are not 0"));
            }
        }
    }
    Ok(())
}
