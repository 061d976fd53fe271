//! Every bug that the field's losses are known to have had, by the place where it was reported. The numbers
//! are formed from the formula by hand, so that
//! neither the oracle nor the kernels can be wrong together unseen.

use std::f64::consts::LN_2;

use libtest_mimic::Trial;
use smoothxent::{
    ClassWeights, EmptyMean, Error, Gradient, LossConfig, LossInputs, LossOutputs, Reduction,
    Shape, Smoothing, Workspace, loss,
    problem::{Dtype, TargetType},
};

use crate::{
    common::{
        compare, inputs,
        run::{Case, Form, Outcome, Placement, Rig, UpstreamCase, check, download},
    },
    edges::DTYPES,
    trial,
};

type Test = (&'static str, fn() -> Result<(), String>);

pub fn trials() -> Vec<Trial> {
    let tests: [Test; 33] = [
        ("pytorch_73205_smoothing_counted_ignored_rows", pytorch_73205),
        ("pytorch_69339_weight_read_at_ignore_index", pytorch_69339),
        ("pytorch_72056_weight_read_at_minus_one", pytorch_72056),
        ("pytorch_91383_only_the_mean_read_it", pytorch_91383),
        ("pytorch_69511_divisor_counted_ignored_rows", pytorch_69511),
        ("pytorch_85786_32_bit_offsets", pytorch_85786),
        ("pytorch_72120_strided_targets", pytorch_72120),
        ("pytorch_70348_empty_mean", pytorch_70348),
        ("pytorch_116349_all_targets_ignored", pytorch_116349),
        ("pytorch_63004_ignore_index_is_a_class", pytorch_63004),
        ("megatron_737_local_mean", megatron_737),
        ("megatron_7464_local_classes", megatron_7464),
        ("megatron_7452_logits_counted_twice", megatron_7452),
        ("megatron_pr_1594_input_eaten", megatron_1594),
        ("megatron_5522_log_of_softmax", megatron_5522),
        ("liger_272_logits_used_twice", liger_272),
        ("liger_343_input_modified", liger_343),
        ("liger_678_reduction_none", liger_678),
        ("liger_1268_gradient_rounded_before_subtraction", liger_1268),
        ("transformer_engine_2139_upstream_not_advanced", te_2139),
        ("transformer_engine_2402_upstream_stride", te_2402),
        ("transformer_engine_2746_row_stride", te_2746),
        ("transformer_engine_2476_divided_by_all_rows", te_2476),
        ("transformer_engine_3193_rounded_twice", te_3193),
        ("flash_attention_c79de85f_32_bit_offsets", flash_c79de85f),
        ("flash_attention_bedf8774_unaligned_labels", flash_bedf8774),
        ("apex_1720_bf16_test_that_was_not", apex_1720),
        ("llm_c_tail_processed_twice", llm_c_tail),
        ("optax_896_zero_times_infinity", optax_896),
        ("optax_1020_loss_in_low_precision", optax_1020),
        ("quack_66d8016_weight_before_ignore_test", quack_66d8016),
        ("quack_hidden_nan_denominators", quack_nan),
        ("a_test_that_compares_a_thing_with_itself", comparator),
    ];
    tests.into_iter().map(|(name, test)| trial(format!("field_bugs::{name}"), test)).collect()
}

/// A case with given logits, of its dtype.
fn case(dtype: Dtype, rows: &[&[f32]], targets: &[i64], config: LossConfig) -> Case {
    Case {
        logits: rows.concat().into_iter().map(|x| inputs::round(dtype, x)).collect(),
        targets: targets.to_vec(),
        config,
        ..Case::new(dtype, rows.len(), rows[0].len(), 1)
    }
}

fn ignoring(ignore_index: i64, label_smoothing: f64, reduction: Reduction) -> LossConfig {
    LossConfig {
        ignore_index: Some(ignore_index),
        label_smoothing,
        reduction,
        ..LossConfig::default()
    }
}

fn plain(label_smoothing: f64, reduction: Reduction) -> LossConfig {
    LossConfig { label_smoothing, reduction, ..LossConfig::default() }
}

/// The scalar loss, and everything within budget.
fn loss_is(case: &Case, expected: f64) -> Result<Outcome, String> {
    let found = check(case)?;
    let loss = found.loss.ok_or("a reduced loss was asked for")?;
    compare::literal(&format!("{case}: the loss"), loss.into(), expected)?;
    Ok(found)
}

fn literals(what: &str, found: &[f64], expected: &[f64]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} values", found.len()));
    }
    let mut pairs = found.iter().zip(expected).enumerate();
    pairs.try_for_each(|(i, (&f, &e))| compare::literal(&format!("{what} [{i}]"), f, e))
}

fn row_losses(found: &Outcome) -> Vec<f64> {
    found.row_losses.iter().map(|&loss| loss.into()).collect()
}

fn exactly(what: &str, found: &[f64], expected: &[f64]) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}

fn same_bits(what: &str, a: &Outcome, b: &Outcome) -> Result<(), String> {
    if a.bits() == b.bits() { Ok(()) } else { Err(format!("{what}: other bits")) }
}

fn pytorch_73205() -> Result<(), String> {
    for ignored in [[4.0, 0.0, 0.0], [f32::NAN; 3]] {
        for reduction in [Reduction::Sum, Reduction::Mean] {
            let config = ignoring(-100, 0.2, reduction);
            let case = case(Dtype::F32, &[&[1.0, 2.0, 3.0], &ignored], &[0, -100], config);
            let found = loss_is(&case, 2.2076060)?;
            literals("gradient", &found.gradient[..3], &[-0.7766361, 0.1780618, 0.5985743])?;
            exactly("ignored row", &found.gradient[3..], &[0.0; 3])?;
        }
    }
    Ok(())
}

fn pytorch_69339() -> Result<(), String> {
    let config = ignoring(-100, 0.1, Reduction::Mean);
    let mut case = case(Dtype::F32, &[&[1.0, 2.0], &[3.0, 0.4]], &[-100, 1], config);
    case.class_weights = Some(vec![0.2, 0.3]);
    loss_is(&case, 2.5404506).map(drop)
}

fn pytorch_72056() -> Result<(), String> {
    let rows: [[f32; 2]; 10] = [
        [0.1735, 0.2191],
        [-0.1377, 0.3467],
        [-0.2162, 0.2021],
        [-0.1177, 0.2157],
        [-0.1232, 0.2620],
        [-0.1578, 0.4038],
        [-0.0209, 0.3298],
        [-0.0639, 0.2317],
        [-0.3914, 0.2106],
        [-0.4211, 0.3420],
    ];
    let rows: Vec<&[f32]> = rows.iter().map(|row| &row[..]).collect();
    let targets = [0, -1, 0, 0, 0, 0, 0, 0, -1, 0];
    let mut case = case(Dtype::F32, &rows, &targets, ignoring(-1, 0.1, Reduction::Mean));
    case.class_weights = Some(vec![1.0, 16.0]);
    loss_is(&case, 1.2842268).map(drop)
}

fn pytorch_91383() -> Result<(), String> {
    let rows: [&[f32]; 3] = [&[1.0, 0.0, 0.0]; 3];
    for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
        let mut case = case(Dtype::F32, &rows, &[0, 1, -100], ignoring(-100, 0.1, reduction));
        let without = check(&case)?;
        case.class_weights = Some(vec![1.0; 3]);
        let with = check(&case)?;
        literals("row losses", &row_losses(&with), &row_losses(&without))?;
        if reduction == Reduction::Mean {
            loss_is(&case, 1.0681114)?;
        }
    }
    Ok(())
}

fn pytorch_69511() -> Result<(), String> {
    for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
        let config = ignoring(-100, 0.1, reduction);
        // Whole packs, so that the row is aligned alike wherever it comes, and summed in the same order.
        let mut one = Case { config, ..Case::new(Dtype::F32, 1, 8, 50) };
        one.class_weights = Some(vec![0.5, 1.0, 0.0, 2.0, 0.3, 1.5, 0.7, 1.0]);
        let alone = check(&one)?;
        for ignored_first in [false, true] {
            let mut two = one.clone();
            let at = if ignored_first { 0 } else { 8 };
            two.logits.splice(at..at, [7.0; 8]);
            two.targets.insert(at / 8, -100);
            let found = check(&two)?;
            let row = usize::from(ignored_first);
            exactly("gradient", &found.gradient[8 * row..8 * row + 8], &alone.gradient)?;
            if found.loss.map(f32::to_bits) != alone.loss.map(f32::to_bits) {
                return Err(format!("{two}: {:?}, alone {:?}", found.loss, alone.loss));
            }
        }
    }
    Ok(())
}

/// The offsets themselves: edges::far_apart. Here what that fix cut to 32 bits, too: ignore_index.
fn pytorch_85786() -> Result<(), String> {
    let config = ignoring((1 << 32) | 3, 0.0, Reduction::Sum);
    let rows: [&[f32]; 1] = [&[0.0, 1.0, 2.0, 3.0]];
    loss_is(&case(Dtype::F32, &rows, &[3], config), 0.4401897).map(drop)
}

/// Targets have no stride here: a view that lies in a larger buffer, and a buffer that is too long.
fn pytorch_72120() -> Result<(), String> {
    let Rig { stream, kernels, .. } = Rig::here();
    let expected = Case { targets: vec![0, 5], ..Case::new(Dtype::F32, 2, 10, 51) };
    let logits = stream.clone_htod(&expected.logits).map_err(|error| format!("{:?}", error.0))?;
    let buffer = stream.clone_htod(&[9i64, 9, 9, 0, 5, 9]);
    let buffer = buffer.map_err(|error| format!("{:?}", error.0))?;
    let mut gradient = stream.alloc_zeros::<f32>(20).map_err(|error| format!("{:?}", error.0))?;
    let mut workspace = Workspace::new(stream, 2).map_err(|error| error.to_string())?;
    let shape = Shape::contiguous(2, 10);
    let config = expected.config;
    let targets = buffer.slice(3..5);
    let mut call = |inputs| {
        let (outputs, to) = (LossOutputs::default(), Gradient::new(&mut gradient));
        loss::forward_backward(kernels, stream, config, inputs, outputs, to, &mut workspace)
    };
    let refused = call(LossInputs::new(shape, &logits, &buffer));
    if refused != Err(Error::Length { buffer: "targets", len: 6, needed: 2 }) {
        return Err(format!("a buffer of six targets for two rows: {refused:?}"));
    }
    call(LossInputs::new(shape, &logits, &targets)).map_err(|error| error.to_string())?;
    let found: Vec<f64> =
        download(stream, &gradient.slice(..)).into_iter().map(f64::from).collect();
    exactly("gradient", &found, &check(&expected)?.gradient)
}

fn pytorch_70348() -> Result<(), String> {
    for rows in [0, 3] {
        for (reduction, empty_mean, expected) in [
            (Reduction::Mean, EmptyMean::Nan, f32::NAN),
            (Reduction::Mean, EmptyMean::Zero, 0.0),
            (Reduction::Sum, EmptyMean::Nan, 0.0),
        ] {
            let config = LossConfig { empty_mean, ..ignoring(-100, 0.1, reduction) };
            let mut case = Case { config, ..Case::new(Dtype::F32, rows, 5, 52) };
            case.targets.fill(-100);
            let found = check(&case)?;
            let loss = found.loss.ok_or("a reduced loss was asked for")?;
            if !(loss == expected || (loss.is_nan() && expected.is_nan())) {
                return Err(format!("{case}: {loss} instead of {expected}"));
            }
            exactly("gradient", &found.gradient, &vec![0.0; 5 * rows])?;
            exactly("row losses", &row_losses(&found), &vec![0.0; rows])?;
        }
    }
    Ok(())
}

fn pytorch_116349() -> Result<(), String> {
    for label_smoothing in [0.0, 0.1] {
        for weighted in [false, true] {
            for reduction in [Reduction::None, Reduction::Mean] {
                let config = ignoring(-100, label_smoothing, reduction);
                let mut case = Case { config, ..Case::new(Dtype::F32, 5, 10, 53) };
                case.targets.fill(-100);
                case.upstream = UpstreamCase::Scalar(128.0);
                case.class_weights = weighted.then(|| vec![0.5; 10]);
                let found = check(&case)?;
                exactly("row losses", &row_losses(&found), &[0.0; 5])?;
                if found.loss.is_some_and(|loss| !loss.is_nan()) {
                    return Err(format!("{case}: {:?}", found.loss));
                }
                if found.gradient.iter().any(|g| g.to_bits() != 0) {
                    return Err(format!("{case}: a gradient is not 0"));
                }
            }
        }
    }
    Ok(())
}

/// It ignores rows, and leaves the class in every other row's softmax.
fn pytorch_63004() -> Result<(), String> {
    let config = ignoring(0, 0.0, Reduction::None);
    let rows: [&[f32]; 4] =
        [&[1.0; 3], &[0.0, 1.0, 1.0], &[f32::NEG_INFINITY, 1.0, 1.0], &[5.0, 1.0, 2.0]];
    let case = case(Dtype::F32, &rows, &[1, 2, 1, 0], config);
    let found = check(&case)?;
    literals("row losses", &row_losses(&found), &[1.0986123, 0.8619948, LN_2, 0.0])?;
    let of_class_0 = [found.gradient[0], found.gradient[3], found.gradient[6]];
    literals("gradient of class 0", &of_class_0, &[0.3333333, 0.1553624, 0.0])?;
    exactly("ignored row", &found.gradient[9..], &[0.0; 3])
}

const RAMP: [&[f32]; 1] = [&[0.0, 1.0, 2.0, 3.0]];

fn megatron_737() -> Result<(), String> {
    let found = check(&case(Dtype::F32, &RAMP, &[3], LossConfig::megatron(0.1)))?;
    literals("loss", &row_losses(&found), &[0.6401897])
}

/// Classes are those of the row, not of its stride, and not those that one thread sees.
fn megatron_7464() -> Result<(), String> {
    let found = check(&case(Dtype::F32, &RAMP, &[3], LossConfig::megatron(0.1)))?;
    let expected = [-0.0012747, 0.0538110, 0.2035495, -0.2560857];
    literals("gradient", &found.gradient, &expected)?;
    for dtype in DTYPES {
        for smoothing in [Smoothing::AllClasses, Smoothing::OtherClasses] {
            for classes in [5, 4097] {
                let config = LossConfig { smoothing, ..plain(0.1, Reduction::None) };
                let packed = Case { config, ..Case::new(dtype, 3, classes, 54) };
                let padding = classes.next_multiple_of(8) - classes;
                let wide = Placement { logits_padding: padding, ..Placement::PACKED };
                let found = check(&Case { placement: wide, ..packed.clone() })?;
                literals("loss", &row_losses(&found), &row_losses(&check(&packed)?))?;
            }
        }
    }
    Ok(())
}

fn megatron_7452() -> Result<(), String> {
    for dtype in DTYPES {
        let case = case(dtype, &RAMP, &[3], plain(0.0, Reduction::None));
        let found = check(&case)?;
        literals("loss", &row_losses(&found), &[0.4401897])?;
        if dtype == Dtype::F32 {
            let expected = [0.0320586, 0.0871443, 0.2368828, -0.3560857];
            literals("gradient", &found.gradient, &expected)?;
        }
    }
    // Each element once: around a pack, a warp and a block, equal logits give log C.
    for classes in [4, 5, 8, 9, 32, 33, 128, 129, 1024, 1025, 4096, 4097] {
        for dtype in DTYPES {
            let config = plain(0.0, Reduction::None);
            let mut case = Case { config, ..Case::new(dtype, 1, classes, 55) };
            case.logits.fill(2.5);
            let found = check(&case)?;
            literals("loss", &row_losses(&found), &[(classes as f64).ln()])?;
        }
    }
    Ok(())
}

/// `run` reads every input back, in every form; here a second call sees the same.
fn megatron_1594() -> Result<(), String> {
    for dtype in DTYPES {
        let placement = Placement { logits_padding: 4, vector_offset: 1, ..Placement::PACKED };
        let mut case = Case { placement, ..Case::new(dtype, 3, 9, 56) };
        case.upstream = UpstreamCase::PerRow(vec![1.0, 2.0, 3.0]);
        same_bits("a second call", &check(&case)?, &check(&case)?)?;
    }
    Ok(())
}

fn megatron_5522() -> Result<(), String> {
    for dtype in DTYPES {
        for (far, others, all) in [(-200.0, 20.0, 10.0), (-1000.0, 100.0, 50.0)] {
            for (smoothing, expected) in
                [(Smoothing::OtherClasses, others), (Smoothing::AllClasses, all)]
            {
                let config = LossConfig { smoothing, ..plain(0.1, Reduction::None) };
                let found = check(&case(dtype, &[&[0.0, far]], &[0], config))?;
                literals("loss", &row_losses(&found), &[expected])?;
                if found.gradient.iter().any(|g| !g.is_finite()) {
                    return Err(format!("{dtype:?}: gradient {:?}", found.gradient));
                }
            }
        }
    }
    Ok(())
}

/// Two losses of the same logits: the second is that of the logits, not of the first one's gradient.
fn liger_272() -> Result<(), String> {
    let Rig { stream, kernels, .. } = Rig::here();
    let failed = |error: smoothxent::cudarc::driver::DriverError| format!("{:?}", error.0);
    let first = Case::new(Dtype::F32, 3, 9, 57);
    let second = Case { targets: vec![4, 5, 6], ..first.clone() };
    let logits = stream.clone_htod(&first.logits).map_err(failed)?;
    let mut workspace = Workspace::new(stream, 3).map_err(|error| error.to_string())?;
    for case in [&first, &second] {
        let targets = stream.clone_htod(&case.targets).map_err(failed)?;
        let mut gradient = stream.alloc_zeros::<f32>(27).map_err(failed)?;
        let inputs = LossInputs::new(Shape::contiguous(3, 9), &logits, &targets);
        let (outputs, to) = (LossOutputs::default(), Gradient::new(&mut gradient));
        let config = case.config;
        loss::forward_backward(kernels, stream, config, inputs, outputs, to, &mut workspace)
            .map_err(|error| error.to_string())?;
        let found = download(stream, &gradient.slice(..)).into_iter().map(f64::from);
        exactly("gradient", &found.collect::<Vec<_>>(), &check(case)?.gradient)?;
    }
    Ok(())
}

/// A view in the middle of a buffer; `run` compares the whole of it.
fn liger_343() -> Result<(), String> {
    for dtype in DTYPES {
        let placement = Placement { logits_offset: 5, logits_padding: 2, ..Placement::PACKED };
        check(&Case { placement, ..Case::new(dtype, 4, 13, 58) })?;
    }
    Ok(())
}

fn liger_678() -> Result<(), String> {
    let config = ignoring(-100, 0.0, Reduction::None);
    let mut case = case(Dtype::F32, &[&[0.0; 2][..]; 3], &[-100, 0, 1], config);
    case.upstream = UpstreamCase::PerRow(vec![0.0, 2.0, 3.0]);
    exactly("gradient", &check(&case)?.gradient, &[0.0, 0.0, -1.0, 1.0, 1.5, -1.5])
}

fn liger_1268() -> Result<(), String> {
    let mut logits = [0.0f32; 8];
    for (gap, expected) in [(9.0, -0.00086212158203125), (8.0, -0.002349853515625)] {
        logits[3] = gap;
        let case = case(Dtype::Bf16, &[&logits], &[3], plain(0.0, Reduction::Sum));
        exactly("gradient at the target", &check(&case)?.gradient[3..4], &[expected])?;
    }
    for dtype in DTYPES {
        for gap in [10.0, 20.0] {
            for label_smoothing in [0.0, 0.1] {
                logits[3] = gap;
                check(&case(dtype, &[&logits], &[3], plain(label_smoothing, Reduction::Sum)))?;
            }
        }
    }
    Ok(())
}

/// Each row by its own; and 1 for all is not another path with other bits.
fn te_2139() -> Result<(), String> {
    let config = plain(0.1, Reduction::None);
    let one = Case { config, ..Case::new(Dtype::F32, 4, 5, 59) };
    let unscaled = check(&one)?;
    let upstream = [0.0, 1.0, -2.0, 0.5];
    let found = check(&Case { upstream: UpstreamCase::PerRow(upstream.to_vec()), ..one.clone() })?;
    for (row, factor) in upstream.into_iter().enumerate() {
        let expected: Vec<f64> =
            unscaled.gradient[5 * row..5 * row + 5].iter().map(|g| g * f64::from(factor)).collect();
        literals("row", &found.gradient[5 * row..5 * row + 5], &expected)?;
    }
    let ones = Case { upstream: UpstreamCase::PerRow(vec![1.0; 4]), ..one };
    same_bits("ones", &check(&ones)?, &unscaled)
}

fn te_2402() -> Result<(), String> {
    let config = plain(0.1, Reduction::None);
    let scalar =
        Case { upstream: UpstreamCase::Scalar(0.7), config, ..Case::new(Dtype::F32, 65, 7, 60) };
    let per_row = Case { upstream: UpstreamCase::PerRow(vec![0.7; 65]), ..scalar.clone() };
    same_bits("stride 0", &check(&scalar)?, &check(&per_row)?)
}

fn te_2746() -> Result<(), String> {
    let config = plain(0.1, Reduction::Mean);
    let packed = Case { config, ..Case::new(Dtype::F32, 4, 8, 61) };
    let expected = check(&packed)?;
    for (logits_padding, gradient_padding) in [(8, 0), (0, 8), (8, 4)] {
        let placement = Placement { logits_padding, gradient_padding, ..Placement::PACKED };
        same_bits("stride", &check(&Case { placement, ..packed.clone() })?, &expected)?;
    }
    Ok(())
}

fn te_2476() -> Result<(), String> {
    let config = ignoring(-100, 0.0, Reduction::Mean);
    let case = case(Dtype::F32, &[&[0.0; 2][..]; 4], &[0, -100, 1, -100], config);
    let found = loss_is(&case, LN_2)?;
    exactly("gradient", &found.gradient[..2], &[-0.25, 0.25])
}

fn te_3193() -> Result<(), String> {
    let config = ignoring(-100, 0.0, Reduction::None);
    let mut case = case(Dtype::Bf16, &[&[0.0; 3][..]; 4], &[0, 1, 2, -100], config);
    case.upstream = UpstreamCase::PerRow(vec![0.01, 0.03, 0.1, 0.7]);
    let found = check(&case)?;
    let expected = [-0.00665283203125, 0.003326416015625, 0.003326416015625];
    exactly("gradient", &found.gradient[..3], &expected)?;
    exactly("ignored row", &found.gradient[9..], &[0.0; 3])
}

/// The offsets themselves, each matrix on its own: edges::far_apart. Here the forms that it does not use.
fn flash_c79de85f() -> Result<(), String> {
    let placement = Placement { logits_padding: 1 << 16, ..Placement::PACKED };
    check(&Case { placement, ..Case::new(Dtype::F16, 3, 33, 62) }).map(drop)
}

fn flash_bedf8774() -> Result<(), String> {
    for target_type in [TargetType::I64, TargetType::I32, TargetType::U32] {
        let mut aligned = Case { target_type, ..Case::new(Dtype::F32, 5, 9, 63) };
        aligned.upstream = UpstreamCase::PerRow(vec![1.0, 2.0, 3.0, 4.0, 5.0]);
        let expected = check(&aligned)?;
        for vector_offset in 1..4 {
            let placement = Placement { vector_offset, ..Placement::PACKED };
            same_bits("offset", &check(&Case { placement, ..aligned.clone() })?, &expected)?;
        }
    }
    Ok(())
}

/// Results that only the dtype in question can give.
fn apex_1720() -> Result<(), String> {
    let config = plain(0.0, Reduction::None);
    // 70000 is beyond f16, and not a bf16 value.
    let found = check(&case(Dtype::Bf16, &[&[70000.0, 0.0]], &[1], config))?;
    exactly("bf16", &row_losses(&found), &[70144.0])?;
    let found = check(&case(Dtype::F32, &[&[70000.0, 0.0]], &[1], config))?;
    exactly("f32", &row_losses(&found), &[70000.0])?;
    // A gradient with more digits than bf16 has, and one with more than f16 has.
    let rows: [&[f32]; 1] = [&[0.3, 0.7, 0.2]];
    let digits = |dtype: Dtype| -> Result<Vec<f64>, String> {
        Ok(check(&case(dtype, &rows, &[0], config))?.gradient)
    };
    let keeps = |values: &[f64], dtype: Dtype| {
        values.iter().all(|&g| f64::from(inputs::round(dtype, g as f32)) == g)
    };
    let (f32s, f16s, bf16s) = (digits(Dtype::F32)?, digits(Dtype::F16)?, digits(Dtype::Bf16)?);
    let as_they_should = keeps(&f16s, Dtype::F16)
        && keeps(&bf16s, Dtype::Bf16)
        && !keeps(&f16s, Dtype::Bf16)
        && !keeps(&f32s, Dtype::F16)
        && !keeps(&f32s, Dtype::Bf16);
    if as_they_should { Ok(()) } else { Err(format!("{f32s:?} {f16s:?} {bf16s:?}")) }
}

/// Tails of every length, the target in each place of them, in place above all.
fn llm_c_tail() -> Result<(), String> {
    for dtype in DTYPES {
        let pack = 16 / dtype.bytes();
        for tail in 2..pack {
            let classes = 8 * pack + tail;
            let mut case =
                Case { config: plain(0.1, Reduction::Sum), ..Case::new(dtype, tail, classes, 64) };
            for (row, target) in case.targets.iter_mut().enumerate() {
                *target = (classes - 1 - row) as i64;
            }
            for x in &mut case.logits {
                *x = inputs::round(dtype, 5.0 + x.abs());
            }
            let found = check(&case)?;
            let in_place = case.run_form(Form::InPlace).map_err(|error| error.to_string())?;
            same_bits("in place", &in_place, &found)?;
        }
    }
    Ok(())
}

fn optax_896() -> Result<(), String> {
    for dtype in DTYPES {
        let rows: [&[f32]; 1] = [&[f32::NEG_INFINITY, 0.0]];
        let found = check(&case(dtype, &rows, &[1], plain(0.0, Reduction::None)))?;
        exactly("loss", &row_losses(&found), &[0.0])?;
        exactly("lse", &[found.row_lse[0].into()], &[0.0])?;
        exactly("gradient", &found.gradient, &[0.0, 0.0])?;
        let mut weighted = case(dtype, &rows, &[1], plain(0.1, Reduction::None));
        weighted.class_weights = Some(vec![0.0, 1.0]);
        exactly("masked loss", &row_losses(&check(&weighted)?), &[0.0])?;
        for z_loss in [0.0, 1e-3] {
            let config = LossConfig { z_loss, ..plain(0.1, Reduction::None) };
            let found = check(&case(dtype, &rows, &[1], config))?;
            exactly("smoothed loss", &row_losses(&found), &[f64::INFINITY])?;
            let expected = [-0.05, 0.05].map(|g| f64::from(inputs::round(dtype, g)));
            exactly("gradient", &found.gradient, &expected)?;
        }
        // As probabilities, where optax had it.
        let hot = Case {
            target_type: TargetType::Probabilities(dtype),
            targets: vec![0],
            probabilities: Some(vec![0.0, 1.0]),
            ..case(dtype, &rows, &[0], plain(0.0, Reduction::None))
        };
        exactly("spread loss", &row_losses(&check(&hot)?), &[0.0])?;
    }
    Ok(())
}

fn optax_1020() -> Result<(), String> {
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let mut low = Case { config: plain(0.1, Reduction::None), ..Case::new(dtype, 8, 100, 65) };
        for x in &mut low.logits {
            *x = inputs::round(dtype, (x.abs() / 40.0).fract());
        }
        let high = Case { dtype: Dtype::F32, ..low.clone() };
        let (low, high) = (check(&low)?, check(&high)?);
        literals("loss", &row_losses(&low), &row_losses(&high))?;
    }
    let mut equal =
        Case { config: plain(0.0, Reduction::None), ..Case::new(Dtype::Bf16, 1, 100, 66) };
    equal.logits.fill(0.5);
    literals("loss of equal logits", &row_losses(&check(&equal)?), &[4.6051702])
}

/// Weights in the middle of NaN: whatever is read at an index that is no class would show.
fn quack_66d8016() -> Result<(), String> {
    let Rig { stream, kernels, .. } = Rig::here();
    let failed = |error: smoothxent::cudarc::driver::DriverError| format!("{:?}", error.0);
    let mut around = vec![f32::NAN; 512];
    around[200..206].copy_from_slice(&[1.0, 0.5, 2.0, 1.0, 0.0, 3.0]);
    let around = stream.clone_htod(&around).map_err(failed)?;
    let weights = ClassWeights::from_device(stream, &around.slice(200..206));
    let weights = weights.map_err(|error| error.to_string())?;
    for ignore_index in [-100, 6, i64::MIN, 2] {
        for reduction in [Reduction::None, Reduction::Mean] {
            for label_smoothing in [0.0, 0.1] {
                let config = ignoring(ignore_index, label_smoothing, reduction);
                let mut case = Case { config, ..Case::new(Dtype::F32, 4, 6, 67) };
                case.targets = vec![1, ignore_index, 5, ignore_index];
                case.class_weights = Some(vec![1.0, 0.5, 2.0, 1.0, 0.0, 3.0]);
                let expected = check(&case)?;
                let logits = stream.clone_htod(&case.logits).map_err(failed)?;
                let targets = stream.clone_htod(&case.targets).map_err(failed)?;
                let mut gradient = stream.alloc_zeros::<f32>(24).map_err(failed)?;
                let mut workspace = Workspace::new(stream, 4).map_err(|error| error.to_string())?;
                let inputs = LossInputs {
                    class_weights: Some(&weights),
                    ..LossInputs::new(Shape::contiguous(4, 6), &logits, &targets)
                };
                let (outputs, to) = (LossOutputs::default(), Gradient::new(&mut gradient));
                loss::forward_backward(
                    kernels,
                    stream,
                    config,
                    inputs,
                    outputs,
                    to,
                    &mut workspace,
                )
                .map_err(|error| error.to_string())?;
                let found = download(stream, &gradient.slice(..)).into_iter().map(f64::from);
                exactly("gradient", &found.collect::<Vec<_>>(), &expected.gradient)?;
                workspace.take_status(stream).map_err(|error| error.to_string())?;
            }
        }
    }
    Ok(())
}

/// One NaN makes the whole of its row NaN, wherever it stands, and no other row.
fn quack_nan() -> Result<(), String> {
    for classes in [8, 9, 4097] {
        for (at, value) in
            [(0, f32::NAN), (3, f32::NAN), (classes - 1, f32::NAN), (0, f32::INFINITY)]
        {
            for label_smoothing in [0.0, 0.1] {
                for reduction in [Reduction::None, Reduction::Sum] {
                    let config = ignoring(-100, label_smoothing, reduction);
                    let clean = Case {
                        config,
                        targets: vec![1, 3, 2],
                        ..Case::new(Dtype::F32, 3, classes, 68)
                    };
                    let before = check(&clean)?;
                    let mut case = clean;
                    case.logits[classes + at] = value;
                    let found = check(&case)?;
                    let row = classes..2 * classes;
                    let all_nan = found.row_losses[1].is_nan()
                        && found.row_lse[1].is_nan()
                        && found.gradient[row.clone()].iter().all(|g| g.is_nan());
                    if !all_nan || found.loss.is_some_and(|loss| !loss.is_nan()) {
                        return Err(format!("{case}: NaN at {at} is hidden"));
                    }
                    exactly("first", &found.gradient[..row.start], &before.gradient[..row.start])?;
                    exactly("last", &found.gradient[row.end..], &before.gradient[row.end..])?;
                    case.targets[1] = -100;
                    let found = check(&case)?;
                    if found.gradient.iter().any(|g| !g.is_finite()) {
                        return Err(format!("{case}: an ignored NaN shows"));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The judge of all other tests refuses each output that is wrong in one place.
fn comparator() -> Result<(), String> {
    let config = ignoring(-100, 0.1, Reduction::Mean);
    let mut case = Case { config, ..Case::new(Dtype::F32, 4, 11, 69) };
    case.targets[2] = -100;
    let (truth, expected) = (check(&case)?, case.expected());
    type Spoil = (&'static str, fn(&mut Outcome));
    let spoils: [Spoil; 14] = [
        ("row loss", |o| o.row_losses[1] *= 1.0 + 1e-4),
        ("ignored row loss", |o| o.row_losses[2] = f32::MIN_POSITIVE),
        ("row lse", |o| o.row_lse[0] += 1e-3),
        ("ignored row lse", |o| o.row_lse[2] = 1e-30),
        ("loss", |o| o.loss = o.loss.map(|loss| loss * 1.0001)),
        ("NaN loss", |o| o.loss = Some(f32::NAN)),
        ("first gradient", |o| o.gradient[0] += 1e-5),
        ("last gradient", |o| o.gradient[43] -= 1e-5),
        ("gradient of the ignored row", |o| o.gradient[25] = 1e-30),
        ("gradient at the target", |o| o.gradient[10] *= 1.001),
        ("NaN gradient", |o| o.gradient[5] = f64::NAN),
        ("argmax", |o| o.row_argmax[3] = (o.row_argmax[3] + 1) % 11),
        ("correct", |o| o.correct = o.correct.map(|count| count + 1)),
        ("swapped rows", |o| o.gradient.rotate_left(11)),
    ];
    for (what, spoil) in spoils {
        let mut spoiled = truth.clone();
        spoil(&mut spoiled);
        if compare::within_budget(&case, &spoiled, &expected).is_ok() {
            return Err(format!("a wrong {what} was not noticed"));
        }
    }
    compare::within_budget(&case, &truth, &expected).map(drop)
}
