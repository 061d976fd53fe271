//! Arbitrary lengths, strides and options at every public entry: an error or an answer, never a panic,
//! and never a fault of the device. And arbitrary values, options and places of problems that are as they
//! should be: the right answer, in every form.

use std::cell::Cell;

use libtest_mimic::Trial;
use proptest::{
    prelude::{Just, Strategy, any, prop_oneof},
    sample::select,
};
use smoothxent::{
    BinaryConfig, BinarySmoothing, ClassWeights, Divisor, Divisors, EmptyMean, Error, Gradient,
    LogSoftmaxShape, Logits, LossConfig, LossInputs, LossOutputs, OverClasses, Reduction,
    SavedSoftmax, Shape, Smoothing, Target, Upstream, WeightedTerms, Workspace,
    binary::{self, BinaryInputs, BinaryOutputs},
    cudarc::driver::{CudaSlice, DeviceRepr},
    half::{bf16, f16},
    log_softmax::{self, LogSoftmaxOutputs, Softmax},
    loss,
    problem::Dtype,
};

use crate::{
    common::{
        inputs::{hash, round},
        run::{Case, Rig, check},
    },
    laws::{cases, cases_to_draw, check_cases, spread},
    trial,
};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("fuzz::loss_of_indices", || fuzz(run::<i32>)),
        trial("fuzz::loss_of_probabilities", || fuzz(run::<f16>)),
        trial("fuzz::log_softmax", || fuzz(run_log_softmax)),
        trial("fuzz::binary", || fuzz(run_binary)),
        trial("fuzz::answers", || check_cases(ANSWERS, problems(), |case| check(&case).map(drop))),
        trial("fuzz::answers_to_probabilities", || {
            check_cases(ANSWERS, problems(), |case| check(&spread(case)).map(drop))
        }),
    ]
}

const CASES: u32 = 600;

/// Each takes several calls.
const ANSWERS: u32 = 100;

/// Problems with logits of every kind.
fn problems() -> impl Strategy<Value = Case> {
    (cases(), 0u8..4, any::<u64>()).prop_map(|(mut case, kind, seed)| {
        let dtype = case.dtype;
        // The square of a log-sum-exp has to be a number for its gradient to be one.
        let squared = case.config.z_loss != 0.0;
        let largest = if squared { 1e15 } else { f32::INFINITY }.min(largest(dtype));
        // So has a scaled logit: an infinite one gives an infinite loss, whatever the class weights are.
        let largest = largest.min((f64::from(f32::MAX) / case.config.logit_scale.max(1.0)) as f32);
        for (i, x) in (0..).zip(&mut case.logits) {
            let drawn = hash(seed, i);
            *x = match kind {
                0 => *x,
                // Many of one value.
                1 => x.round(),
                // Extremes among others, finite ones alone or any.
                2 | 3 if drawn.is_multiple_of(8) => {
                    let values = &VALUES[..if kind == 2 { FINITE_VALUES } else { VALUES.len() }];
                    let value = values[(drawn / 8) as usize % values.len()];
                    let value = if value.is_finite() { value.min(largest) } else { value };
                    round(dtype, if drawn >> 63 == 0 { value } else { -value })
                }
                _ => *x,
            };
        }
        case
    })
}

/// Where functions end, and where numbers do; the dtype's largest stands for finite ones above it.
const VALUES: [f32; 14] = [
    0.0,
    1e-45,
    6e-8,
    f32::MIN_POSITIVE,
    6.1e-5,
    1.0,
    16.0,
    87.5,
    104.5,
    1e4,
    1e30,
    f32::MAX,
    f32::INFINITY,
    f32::NAN,
];
const FINITE_VALUES: usize = 12;

fn largest(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => f32::MAX,
        Dtype::F16 => f16::MAX.to_f32(),
        Dtype::Bf16 => bf16::MAX.to_f32(),
    }
}

/// Of the calls at least a twentieth have to be answered: one that is always refused tests nothing.
fn fuzz(run: fn(&Call) -> Result<bool, String>) -> Result<(), String> {
    let answered = Cell::new(0);
    check_cases(CASES, calls(), |call| {
        answered.set(answered.get() + u32::from(run(&call)?));
        Ok(())
    })?;
    let drawn = cases_to_draw(CASES);
    if answered.get() < drawn / 20 {
        return Err(format!("only {} of {drawn} calls were answered", answered.get()));
    }
    Ok(())
}

/// What one call is made of; most of it fits together.
#[derive(Clone, Debug)]
struct Call {
    rows: usize,
    classes: usize,
    /// Of logits, gradient and targets.
    strides: [usize; 3],
    /// Of logits, gradient, targets, vectors, class weights, workspace and saved softmax.
    lengths: [usize; 7],
    config: LossConfig,
    in_place: bool,
    weighted: bool,
    upstream: u8,
    outputs: u8,
    seed: u32,
}

fn calls() -> impl Strategy<Value = Call> {
    let size = || prop_oneof![10 => 0usize..40, 1 => select(&EXTREMES[..])];
    let shape = (prop_oneof![10 => 0usize..6, 1 => select(&EXTREMES[..])], size());
    // As it should be, nearly so, or anything.
    let off = || prop_oneof![12 => Just(0isize), 2 => -2isize..3];
    let offs = (
        [off(), off(), off()],
        [off(), off(), off(), off(), off(), off(), off()],
        prop_oneof![8 => Just(None), 1 => select(&EXTREMES[..]).prop_map(Some)],
    );
    let number = || {
        prop_oneof![
            12 => Just(0.1),
            8 => 0.0..1.0f64,
            1 => select(&[0.0, -1.0, 1.0, 2.0, 1e300, f64::NAN, f64::INFINITY, -0.0][..]),
        ]
    };
    let divisor = || {
        let counted = select(&[Divisor::TargetWeights, Divisor::CountedRows, Divisor::AllRows][..]);
        prop_oneof![3 => counted, 1 => number().prop_map(Divisor::Given)]
    };
    let smoothing = prop_oneof![
        6 => Just(Smoothing::AllClasses),
        3 => Just(Smoothing::OtherClasses),
        2 => Just(Smoothing::OtherClassesBut(1)),
        1 => Just(Smoothing::OtherClassesBut(usize::MAX)),
    ];
    let config = (
        (number(), smoothing, select(&[None, Some(0), Some(-100)][..])),
        select(&[WeightedTerms::NllAndSmoothing, WeightedTerms::Nll, WeightedTerms::Smoothing][..]),
        select(&[Reduction::None, Reduction::Sum, Reduction::Mean][..]),
        (divisor(), divisor(), divisor()),
        (number(), prop_oneof![3 => Just(1.0), 1 => number()]),
        prop_oneof![3 => Just(None), 1 => number().prop_map(Some)],
    );
    let config = config.prop_map(|(first, weighted_terms, reduction, divisors, numbers, cap)| {
        let (label_smoothing, smoothing, ignore_index) = first;
        let (nll, smoothing_divisor, z_loss_divisor) = divisors;
        LossConfig {
            label_smoothing,
            smoothing,
            weighted_terms,
            ignore_index,
            reduction,
            divisors: Divisors { nll, smoothing: smoothing_divisor, z_loss: z_loss_divisor },
            empty_mean: EmptyMean::Zero,
            z_loss: numbers.0,
            logit_scale: numbers.1,
            logit_softcap: cap,
        }
    });
    let choices = (any::<bool>(), any::<bool>(), 0u8..4, any::<u8>(), any::<u32>());
    (shape, offs, config, choices).prop_map(|((rows, classes), offs, config, choices)| {
        let (stride_offs, length_offs, extreme) = offs;
        let (in_place, weighted, upstream, outputs, seed) = choices;
        let near = |value: usize, off: isize| value.saturating_add_signed(off);
        let mut strides = stride_offs.map(|off| near(classes, off));
        if let Some(extreme) = extreme {
            strides[seed as usize % 3] = extreme;
        }
        let span = |stride: usize| {
            rows.checked_sub(1)
                .map_or(0, |before| before.saturating_mul(stride).saturating_add(classes).min(MOST))
        };
        let rows_or_less = rows.min(MOST);
        let lengths = [
            near(span(strides[0]), length_offs[0]),
            near(span(strides[1]), length_offs[1]),
            near(span(strides[2]), length_offs[2]),
            near(rows_or_less, length_offs[3]),
            near(classes.min(MOST), length_offs[4]),
            near(rows_or_less, length_offs[5]),
            near(rows_or_less, length_offs[6]),
        ];
        Call {
            rows,
            classes,
            strides,
            lengths,
            config,
            in_place,
            weighted,
            upstream,
            outputs,
            seed,
        }
    })
}

const EXTREMES: [usize; 7] = [0, 1, 1 << 20, (1 << 30) + 1, 1 << 32, usize::MAX / 4, usize::MAX];

/// No buffer of the test is longer.
const MOST: usize = 1 << 12;

impl Call {
    fn shape(&self) -> Shape {
        let [logits_row_stride, gradient_row_stride, targets_row_stride] = self.strides;
        Shape {
            rows: self.rows,
            classes: self.classes,
            logits_row_stride,
            gradient_row_stride,
            targets_row_stride,
        }
    }

    fn on(&self, bit: u8) -> bool {
        self.outputs >> bit & 1 == 1
    }
}

/// A buffer of at least one element, and the length that is lent.
fn buffer<T: DeviceRepr + Copy + Default>(len: usize, seed: u32) -> CudaSlice<T> {
    let bytes = |i: usize| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) % 7;
    // Small integers, among them bad targets; as floats they are subnormal.
    let values: Vec<T> = (0..len.max(1))
        .map(|i| {
            let word = [u64::from(bytes(i)), 0];
            // SAFETY: every T here is a number of at most 8 bytes, for which any bits are a value.
            unsafe { std::mem::transmute_copy(&word) }
        })
        .collect();
    Rig::here().stream.clone_htod(&values).expect("a few bytes are left")
}

/// The device is as it was, nothing faulted; and whether there was an answer.
fn healthy(call: &Call, outcome: Result<(), Error>) -> Result<bool, String> {
    if let Err(error @ Error::Driver { .. }) = outcome {
        return Err(format!("{call:?}: {error}"));
    }
    Rig::here().stream.synchronize().map_err(|error| format!("{call:?}: {:?}", error.0))?;
    Ok(outcome.is_ok())
}

fn run<Y: Target + DeviceRepr + Copy + Default>(call: &Call) -> Result<bool, String> {
    let Rig { stream, kernels, .. } = Rig::here();
    let [logits_len, gradient_len, targets_len, rows_len, weights_len, capacity, saved] =
        call.lengths;
    let logits = buffer::<f16>(logits_len, call.seed);
    let mut gradient = buffer::<f16>(gradient_len, call.seed);
    let targets_len = if Y::TYPE.is_probabilities() { targets_len } else { rows_len };
    let targets = buffer::<Y>(targets_len, call.seed);
    let weights = vec![0.5; weights_len.max(1)];
    let weights = ClassWeights::new(stream, &weights).map_err(|error| error.to_string())?;
    let upstream = buffer::<f32>(rows_len, call.seed);
    let mut row_losses = buffer::<f32>(rows_len, 0);
    let mut row_lse = buffer::<f32>(rows_len, 0);
    let mut row_argmax = buffer::<i64>(rows_len, 0);
    let mut loss = buffer::<f32>(1, 0);
    let mut correct = buffer::<i64>(1, 0);
    let mut workspace = Workspace::new(stream, capacity).map_err(|error| error.to_string())?;
    let mut saved = SavedSoftmax::new(stream, saved).map_err(|error| error.to_string())?;

    let (logits, targets) = (logits.slice(..logits_len), targets.slice(..targets_len));
    let upstream = upstream.slice(..rows_len);
    let (mut row_losses, mut row_lse) =
        (row_losses.slice_mut(..rows_len), row_lse.slice_mut(..rows_len));
    let mut row_argmax = row_argmax.slice_mut(..rows_len);
    let mut gradient = gradient.slice_mut(..gradient_len);
    let inputs = LossInputs::<f16, Y> {
        shape: call.shape(),
        logits: if call.in_place { Logits::InGradient } else { Logits::Matrix(&logits) },
        targets: &targets,
        class_weights: call.weighted.then_some(&weights),
    };
    let to = |matrix| Gradient {
        matrix,
        upstream: match call.upstream {
            0 => Upstream::PerRow(&upstream),
            1 => Upstream::Scalar(&upstream),
            _ => Upstream::One,
        },
    };
    let outputs = LossOutputs {
        loss: if call.on(0) { Some(&mut loss) } else { None },
        row_losses: if call.on(1) { Some(&mut row_losses) } else { None },
        row_lse: if call.on(2) { Some(&mut row_lse) } else { None },
        row_argmax: if call.on(3) { Some(&mut row_argmax) } else { None },
        correct: if call.on(4) && call.on(3) { Some(&mut correct) } else { None },
        saved: if call.on(5) { Some(&mut saved) } else { None },
    };
    let config = call.config;
    if call.on(6) {
        let forward = loss::forward(kernels, stream, config, inputs, outputs, &mut workspace);
        healthy(call, forward)?;
        let backward = loss::backward(kernels, stream, config, inputs, &saved, to(&mut gradient));
        healthy(call, backward)
    } else {
        let gradient = to(&mut gradient);
        let outcome = loss::forward_backward(
            kernels,
            stream,
            config,
            inputs,
            outputs,
            gradient,
            &mut workspace,
        );
        healthy(call, outcome)
    }
}

fn run_log_softmax(call: &Call) -> Result<bool, String> {
    let Rig { stream, kernels, .. } = Rig::here();
    let [logits_len, gradient_len, upstream_len, rows_len, .., saved] = call.lengths;
    let [logits_row_stride, gradient_row_stride, upstream_row_stride] = call.strides;
    let shape = LogSoftmaxShape {
        rows: call.rows,
        classes: call.classes,
        logits_row_stride,
        output_row_stride: gradient_row_stride,
        upstream_row_stride,
        gradient_row_stride,
    };
    let logits = buffer::<f16>(logits_len, call.seed);
    let upstream = buffer::<f16>(upstream_len, call.seed);
    let mut gradient = buffer::<f16>(gradient_len, call.seed);
    let mut row_lse = buffer::<f32>(rows_len, 0);
    let mut saved = SavedSoftmax::new(stream, saved).map_err(|error| error.to_string())?;
    let (logits, upstream) = (logits.slice(..logits_len), upstream.slice(..upstream_len));
    let mut gradient = gradient.slice_mut(..gradient_len);
    let mut row_lse = row_lse.slice_mut(..rows_len);
    let outputs = LogSoftmaxOutputs {
        row_lse: if call.on(0) { Some(&mut row_lse) } else { None },
        saved: if call.on(1) { Some(&mut saved) } else { None },
        ..LogSoftmaxOutputs::new(&mut gradient)
    };
    let forward = log_softmax::forward(kernels, stream, shape, &logits, outputs);
    let answered = healthy(call, forward)?;
    let from = if call.on(2) {
        Softmax::OfLogits(&logits, &saved)
    } else {
        Softmax::OfLogProbabilities(&logits)
    };
    let backward = log_softmax::backward(kernels, stream, shape, from, &upstream, &mut gradient);
    Ok(healthy(call, backward)? && answered)
}

fn run_binary(call: &Call) -> Result<bool, String> {
    let Rig { stream, kernels, .. } = Rig::here();
    let [logits_len, gradient_len, targets_len, rows_len, weights_len, capacity, _] = call.lengths;
    let logits = buffer::<f16>(logits_len, call.seed);
    let mut gradient = buffer::<f16>(gradient_len, call.seed);
    let dense = buffer::<f32>(targets_len, call.seed);
    let indices = buffer::<i64>(rows_len, call.seed);
    let weights = vec![0.5; weights_len.max(1)];
    let weights = ClassWeights::new(stream, &weights).map_err(|error| error.to_string())?;
    let mut row_losses = buffer::<f32>(rows_len, 0);
    let mut loss = buffer::<f32>(1, 0);
    let mut workspace = Workspace::new(stream, capacity).map_err(|error| error.to_string())?;
    let logits = logits.slice(..logits_len);
    let (dense, indices) = (dense.slice(..targets_len), indices.slice(..rows_len));
    let mut row_losses = row_losses.slice_mut(..rows_len);
    let mut gradient = gradient.slice_mut(..gradient_len);
    let LossConfig { label_smoothing, ignore_index, reduction, divisors, empty_mean, .. } =
        call.config;
    let config = BinaryConfig {
        label_smoothing,
        smoothing: if call.on(0) { BinarySmoothing::Half } else { BinarySmoothing::Classes },
        ignore_index,
        over_classes: if call.on(1) { OverClasses::Mean } else { OverClasses::Sum },
        reduction,
        divisor: divisors.nll,
        empty_mean,
    };
    let outputs = BinaryOutputs {
        loss: if call.on(2) { Some(&mut loss) } else { None },
        row_losses: if call.on(3) { Some(&mut row_losses) } else { None },
    };
    let from = if call.in_place { Logits::InGradient } else { Logits::Matrix(&logits) };
    let (class_weights, positive_weights) =
        (call.weighted.then_some(&weights), call.on(4).then_some(&weights));
    let to = Gradient::new(&mut gradient);
    let workspace = &mut workspace;
    let shape = call.shape();
    let outcome = if call.on(5) {
        let targets = &indices;
        let inputs = BinaryInputs { shape, logits: from, targets, class_weights, positive_weights };
        binary::forward_backward(kernels, stream, config, inputs, outputs, to, workspace)
    } else {
        let targets = &dense;
        let inputs = BinaryInputs { shape, logits: from, targets, class_weights, positive_weights };
        binary::forward_backward(kernels, stream, config, inputs, outputs, to, workspace)
    };
    healthy(call, outcome)
}
