//! Bad input: a typed error with the numbers, or, for targets, a row that harms no other.

use libtest_mimic::{Completion, Trial};
use smoothxent::{
    BinaryConfig, ClassWeights, Divisor, Divisors, Error, Gradient, Kernels, LogSoftmaxShape,
    LossConfig, LossInputs, LossOutputs, Reduction, SavedSoftmax, Shape, Smoothing, Upstream,
    Workspace,
    binary::{self, BinaryInputs, BinaryOutputs},
    cudarc::driver::{
        CudaContext, CudaSlice, DevicePtr, DriverError, result,
        sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
    },
    log_softmax::{self, LogSoftmaxOutputs},
    loss,
    problem::{Dtype, TargetType},
    raw,
};

use crate::{
    capturing_trial,
    common::run::{Case, Form, Rig, UpstreamCase},
    edges::DTYPES,
    ignorable_trial, trial,
};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("errors::label_smoothing", label_smoothing),
        trial("errors::options", options),
        trial("errors::one_class", one_class),
        trial("errors::lengths", lengths),
        trial("errors::strides", strides),
        trial("errors::no_classes", no_classes),
        trial("errors::class_weights", class_weights),
        trial("errors::in_place", in_place),
        trial("errors::saved_softmax", saved_softmax),
        trial("errors::probabilities", probabilities),
        trial("errors::log_softmax", log_softmax_buffers),
        trial("errors::binary", binary_buffers),
        trial("errors::loss_without_reduction", loss_without_reduction),
        trial("errors::workspace_too_small", workspace_too_small),
        capturing_trial("errors::made_in_a_capture", made_in_a_capture),
        capturing_trial("errors::dropped_in_a_capture", dropped_in_a_capture),
        capturing_trial("errors::dropped_in_its_own_capture", dropped_in_its_own_capture),
        capturing_trial("errors::asked_in_a_capture", asked_in_a_capture),
        capturing_trial("errors::beside_a_capture_of_a_blocking_stream", beside_a_blocking_stream),
        trial("errors::sizes_that_wrap_around", sizes_that_wrap_around),
        trial("errors::scalar_upstream_of_two", scalar_upstream_of_two),
        trial("errors::the_lowest_bad_row_wins", the_lowest_bad_row_wins),
        trial("errors::bad_targets_of_every_type", bad_targets_of_every_type),
        trial("errors::another_context_of_the_same_device", || another_context(0)),
        ignorable_trial("errors::another_device", || {
            if smoothxent::device_count().map_err(|error| error.to_string())? < 2 {
                return Ok(Completion::ignored_with("there is one device"));
            }
            another_context(1)?;
            Ok(Completion::Completed)
        }),
        trial("errors::device_ordinal", device_ordinal),
        trial("errors::bad_targets", bad_targets),
        trial("errors::bad_targets_are_remembered_across_calls", remembered),
        trial("errors::ignored_targets_are_not_bad", ignored_targets),
    ]
}

/// Device buffers of a small problem; a test breaks one of them.
struct Buffers {
    logits: CudaSlice<f32>,
    targets: CudaSlice<i64>,
    class_weights: ClassWeights,
    upstream: CudaSlice<f32>,
    gradient: CudaSlice<f32>,
    loss: CudaSlice<f32>,
    row_losses: CudaSlice<f32>,
    row_lse: CudaSlice<f32>,
    row_argmax: CudaSlice<i64>,
    correct: CudaSlice<i64>,
    saved: SavedSoftmax,
    workspace: Workspace,
}

const ROWS: usize = 4;
const CLASSES: usize = 6;
const SHAPE: Shape = Shape::contiguous(ROWS, CLASSES);

impl Buffers {
    fn on(context: &std::sync::Arc<CudaContext>) -> Self {
        let stream = context.default_stream();
        let floats = |len: usize| stream.alloc_zeros::<f32>(len).expect("a few bytes are left");
        Self {
            logits: floats(ROWS * CLASSES),
            targets: stream.alloc_zeros::<i64>(ROWS).expect("a few bytes are left"),
            class_weights: ClassWeights::new(&stream, &[1.0; CLASSES]).expect("they are fine"),
            upstream: floats(ROWS),
            gradient: floats(ROWS * CLASSES),
            loss: floats(1),
            row_losses: floats(ROWS),
            row_lse: floats(ROWS),
            row_argmax: stream.alloc_zeros::<i64>(ROWS).expect("a few bytes are left"),
            correct: stream.alloc_zeros::<i64>(1).expect("a few bytes are left"),
            saved: SavedSoftmax::new(&stream, ROWS).expect("a few bytes are left"),
            workspace: Workspace::new(&stream, ROWS).expect("a few bytes are left"),
        }
    }

    fn new() -> Self {
        Self::on(&Rig::here().context)
    }

    fn call(&mut self, config: LossConfig, shape: Shape) -> Result<(), Error> {
        let rig = Rig::here();
        let inputs = LossInputs {
            class_weights: Some(&self.class_weights),
            ..LossInputs::new(shape, &self.logits, &self.targets)
        };
        let outputs = LossOutputs {
            loss: Some(&mut self.loss),
            row_losses: Some(&mut self.row_losses),
            row_lse: Some(&mut self.row_lse),
            row_argmax: Some(&mut self.row_argmax),
            correct: Some(&mut self.correct),
            saved: Some(&mut self.saved),
        };
        let upstream = Upstream::PerRow(&self.upstream);
        let gradient = Gradient { matrix: &mut self.gradient, upstream };
        let workspace = &mut self.workspace;
        let (kernels, stream) = (&rig.kernels, &rig.stream);
        loss::forward_backward(kernels, stream, config, inputs, outputs, gradient, workspace)
    }
}

fn expect(what: &str, found: Result<(), Error>, expected: Error) -> Result<(), String> {
    match found {
        Err(error) if error == expected => Ok(()),
        other => Err(format!("{what}: {other:?} instead of {expected:?}")),
    }
}

fn label_smoothing() -> Result<(), String> {
    let mut buffers = Buffers::new();
    for value in [1.5, -0.1] {
        let config = LossConfig { label_smoothing: value, ..LossConfig::default() };
        expect("smoothing", buffers.call(config, SHAPE), Error::LabelSmoothing { value })?;
    }
    let config = LossConfig { label_smoothing: f64::NAN, ..LossConfig::default() };
    match buffers.call(config, SHAPE) {
        Err(Error::LabelSmoothing { value }) if value.is_nan() => Ok(()),
        other => Err(format!("NaN smoothing: {other:?}")),
    }
}

/// What options that multiply or divide have to be.
const POSITIVE: &str = "positive and finite in f32 (and so must be 1/divisor, log2(e) * logit_scale and \
                        logit_scale / logit_softcap)";

fn options() -> Result<(), String> {
    let mut buffers = Buffers::new();
    let fine = LossConfig::default();
    for value in [0.0, -2.0, f64::INFINITY] {
        for (option, config) in [
            ("logit_scale", LossConfig { logit_scale: value, ..fine }),
            ("logit_softcap", LossConfig { logit_softcap: Some(value), ..fine }),
            ("divisor", LossConfig { divisors: Divisors::all(Divisor::Given(value)), ..fine }),
        ] {
            let refused = Error::Option { option, value, range: POSITIVE };
            expect(option, buffers.call(config, SHAPE), refused)?;
        }
    }
    for value in [-1e-3, f64::INFINITY] {
        let config = LossConfig { z_loss: value, ..fine };
        let refused = Error::Option { option: "z_loss", value, range: "finite and not negative" };
        expect("z_loss", buffers.call(config, SHAPE), refused)?;
    }
    let config = LossConfig { z_loss: f64::NAN, ..fine };
    match buffers.call(config, SHAPE) {
        Err(Error::Option { option: "z_loss", value, .. }) if value.is_nan() => Ok(()),
        other => Err(format!("NaN z_loss: {other:?}")),
    }
}

fn one_class() -> Result<(), String> {
    let config = LossConfig { smoothing: Smoothing::OtherClasses, ..LossConfig::default() };
    let refused = |smoothing, classes, needed| Error::TooFewClasses { smoothing, classes, needed };
    let found = Buffers::new().call(config, Shape::contiguous(ROWS, 1));
    expect("one class", found, refused(Smoothing::OtherClasses, 1, 2))?;
    let smoothing = Smoothing::OtherClassesBut(CLASSES - 1);
    let found = Buffers::new().call(LossConfig { smoothing, ..config }, SHAPE);
    expect("all but one", found, refused(smoothing, CLASSES, CLASSES + 1))?;
    let smoothing = Smoothing::OtherClassesBut(usize::MAX);
    let found = Buffers::new().call(LossConfig { smoothing, ..config }, SHAPE);
    expect("all and more", found, refused(smoothing, CLASSES, usize::MAX))
}

fn lengths() -> Result<(), String> {
    type Break = fn(&mut Buffers, &CudaSlice<f32>);
    fn short(like: &CudaSlice<f32>) -> CudaSlice<f32> {
        Rig::here().stream.alloc_zeros(like.len() - 1).expect("a few bytes are left")
    }
    fn long(like: &CudaSlice<f32>) -> CudaSlice<f32> {
        Rig::here().stream.alloc_zeros(like.len() + 1).expect("a few bytes are left")
    }
    fn weights(len: usize) -> ClassWeights {
        ClassWeights::new(&Rig::here().stream, &vec![1.0; len]).expect("they are fine")
    }
    let matrix = ROWS * CLASSES;
    let broken: [(&'static str, usize, usize, Break); 8] = [
        ("logits", matrix - 1, matrix, |b, _| b.logits = short(&b.logits)),
        ("gradient", matrix - 1, matrix, |b, _| b.gradient = short(&b.gradient)),
        ("class_weights", CLASSES - 1, CLASSES, |b, _| b.class_weights = weights(CLASSES - 1)),
        ("class_weights", CLASSES + 1, CLASSES, |b, _| b.class_weights = weights(CLASSES + 1)),
        ("upstream", ROWS + 1, ROWS, |b, _| b.upstream = long(&b.upstream)),
        ("loss", 2, 1, |b, _| b.loss = long(&b.loss)),
        ("row_losses", ROWS - 1, ROWS, |b, _| b.row_losses = short(&b.row_losses)),
        ("row_lse", ROWS + 1, ROWS, |b, _| b.row_lse = long(&b.row_lse)),
    ];
    for (buffer, len, needed, break_it) in broken {
        let mut buffers = Buffers::new();
        let any = buffers.loss.clone();
        break_it(&mut buffers, &any);
        let found = buffers.call(LossConfig::default(), SHAPE);
        expect(buffer, found, Error::Length { buffer, len, needed })?;
    }
    let mut buffers = Buffers::new();
    buffers.targets =
        Rig::here().stream.alloc_zeros(ROWS - 1).map_err(|error| format!("{:?}", error.0))?;
    let expected = Error::Length { buffer: "targets", len: ROWS - 1, needed: ROWS };
    expect("targets", buffers.call(LossConfig::default(), SHAPE), expected)
}

fn strides() -> Result<(), String> {
    let row_stride = CLASSES - 1;
    let mut buffers = Buffers::new();
    let logits = Shape { logits_row_stride: row_stride, ..SHAPE };
    let expected = Error::RowStride { buffer: "logits", row_stride, classes: CLASSES };
    expect("logits", buffers.call(LossConfig::default(), logits), expected)?;
    let gradient = Shape { gradient_row_stride: row_stride, ..SHAPE };
    let expected = Error::RowStride { buffer: "gradient", row_stride, classes: CLASSES };
    expect("gradient", buffers.call(LossConfig::default(), gradient), expected)?;
    // A stride that the buffer is too short for.
    let wide = Shape { logits_row_stride: CLASSES + 1, ..SHAPE };
    let needed = (ROWS - 1) * (CLASSES + 1) + CLASSES;
    let expected = Error::Length { buffer: "logits", len: ROWS * CLASSES, needed };
    expect("wide", buffers.call(LossConfig::default(), wide), expected)
}

fn no_classes() -> Result<(), String> {
    let shape = Shape::contiguous(ROWS, 0);
    match Buffers::new().call(LossConfig::default(), shape) {
        Err(Error::Classes { classes: 0, .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Seen before they reach the device.
fn class_weights() -> Result<(), String> {
    let stream = &Rig::here().stream;
    for value in [-1.0, -f32::MIN_POSITIVE, f32::INFINITY, f32::NEG_INFINITY] {
        let weights = [1.0, 0.0, value, -5.0];
        let refused = Error::ClassWeight { class: 2, value };
        expect("new", ClassWeights::new(stream, &weights).map(drop), refused.clone())?;
        let device = stream.clone_htod(&weights).map_err(|error| format!("{:?}", error.0))?;
        let found = ClassWeights::from_device(stream, &device.slice(..)).map(drop);
        expect("from_device", found, refused)?;
    }
    match ClassWeights::new(stream, &[f32::NAN]) {
        Err(Error::ClassWeight { class: 0, value }) if value.is_nan() => {}
        other => return Err(format!("NaN: {other:?}")),
    }
    // -0 is 0.
    ClassWeights::new(stream, &[-0.0, 0.0, 3.0]).map(drop).map_err(|error| error.to_string())
}

fn in_place() -> Result<(), String> {
    let rig = Rig::here();
    let mut buffers = Buffers::new();
    let config = LossConfig::default();
    let mut call = |shape| {
        loss::forward_backward::<f32, i64>(
            &rig.kernels,
            &rig.stream,
            config,
            LossInputs::in_place(shape, &buffers.targets),
            LossOutputs::default(),
            Gradient::new(&mut buffers.logits),
            &mut buffers.workspace,
        )
    };
    // Rows that overlap themselves, and a gradient that would not lie where the logits do.
    let row_stride = CLASSES - 1;
    let overlapping =
        Shape { logits_row_stride: row_stride, gradient_row_stride: row_stride, ..SHAPE };
    let expected = Error::RowStride { buffer: "logits", row_stride, classes: CLASSES };
    expect("overlapping", call(overlapping), expected)?;
    let elsewhere = Shape { gradient_row_stride: CLASSES + 1, ..SHAPE };
    let expected = Error::InPlaceStrides { logits: CLASSES, gradient: CLASSES + 1 };
    expect("strides", call(elsewhere), expected)?;
    // Zero rows overlap nothing, and wide ones are longer than the buffer.
    let stride = CLASSES + 1;
    let wide = Shape { logits_row_stride: stride, gradient_row_stride: stride, ..SHAPE };
    let needed = (ROWS - 1) * stride + CLASSES;
    let expected = Error::Length { buffer: "gradient", len: ROWS * CLASSES, needed };
    expect("wide", call(wide), expected)?;

    let found = loss::forward::<f32, i64>(
        &rig.kernels,
        &rig.stream,
        config,
        LossInputs::in_place(SHAPE, &buffers.targets),
        LossOutputs::default(),
        &mut buffers.workspace,
    );
    expect("forward", found, Error::ForwardInPlace)
}

/// Of nothing, of another problem, and too small.
fn saved_softmax() -> Result<(), String> {
    let rig = Rig::here();
    let (kernels, stream) = (&rig.kernels, &rig.stream);
    let mut buffers = Buffers::new();
    let config = LossConfig::default();
    let backward = |buffers: &mut Buffers, config, shape| {
        let inputs = LossInputs {
            class_weights: Some(&buffers.class_weights),
            ..LossInputs::new(shape, &buffers.logits, &buffers.targets)
        };
        let gradient = Gradient::new(&mut buffers.gradient);
        loss::backward(kernels, stream, config, inputs, &buffers.saved, gradient)
    };
    match backward(&mut buffers, config, SHAPE) {
        Err(Error::SavedSoftmax { found, expected })
            if found == "nothing yet" && expected.starts_with("4 rows of 6 F32 classes") => {}
        other => return Err(format!("nothing saved: {other:?}")),
    }
    buffers.call(config, SHAPE).map_err(|error| error.to_string())?;
    backward(&mut buffers, config, SHAPE).map_err(|error| error.to_string())?;
    let smoothed = LossConfig { label_smoothing: 0.1, ..config };
    for (config, shape) in [
        (smoothed, SHAPE),
        (config, Shape::contiguous(ROWS - 1, CLASSES)),
        (config, Shape::contiguous(ROWS, CLASSES - 1)),
    ] {
        match backward(&mut buffers, config, shape) {
            Err(Error::SavedSoftmax { found, expected }) if found != expected => {}
            other => return Err(format!("{config:?}, {shape:?}: {other:?}")),
        }
    }
    // Other strides are the same problem.
    let closer = Shape { gradient_row_stride: CLASSES, ..SHAPE };
    backward(&mut buffers, config, closer).map_err(|error| error.to_string())?;
    // Without the class weights that it was saved with; the message has to show what differs.
    let inputs = LossInputs::new(SHAPE, &buffers.logits, &buffers.targets);
    let to = Gradient::new(&mut buffers.gradient);
    match loss::backward(kernels, stream, config, inputs, &buffers.saved, to) {
        Err(Error::SavedSoftmax { found, expected }) if found != expected => {}
        other => return Err(format!("without class weights: {other:?}")),
    }
    // In place the gradient has taken the logits' place.
    let inputs = LossInputs {
        class_weights: Some(&buffers.class_weights),
        ..LossInputs::in_place(SHAPE, &buffers.targets)
    };
    let outputs = LossOutputs { saved: Some(&mut buffers.saved), ..LossOutputs::default() };
    let to = Gradient::new(&mut buffers.logits);
    let workspace = &mut buffers.workspace;
    loss::forward_backward(kernels, stream, config, inputs, outputs, to, workspace)
        .map_err(|error| error.to_string())?;
    match backward(&mut buffers, config, SHAPE) {
        Err(Error::SavedSoftmax { found, .. }) if found == "nothing yet" => {}
        other => return Err(format!("saved in place: {other:?}")),
    }

    buffers.saved = SavedSoftmax::new(stream, ROWS - 1).map_err(|error| error.to_string())?;
    let refused = Error::SavedCapacity { capacity: ROWS - 1, rows: ROWS };
    expect("small", buffers.call(config, SHAPE), refused)?;
    for rows in [usize::MAX, usize::MAX / 4, 1 << 60] {
        let found = SavedSoftmax::new(stream, rows).map(drop);
        expect("huge", found, Error::WorkspaceSize { rows })?;
    }
    Ok(())
}

/// Of a wrong shape; nothing to be correct about.
fn probabilities() -> Result<(), String> {
    let rig = Rig::here();
    let mut buffers = Buffers::new();
    let floats = |len| rig.stream.alloc_zeros::<f32>(len).map_err(|error| format!("{:?}", error.0));
    let mut call = |shape, q: &CudaSlice<f32>, count: bool| {
        let correct = if count { Some(&mut buffers.correct as _) } else { None };
        loss::forward(
            &rig.kernels,
            &rig.stream,
            LossConfig::default(),
            LossInputs::new(shape, &buffers.logits, q),
            LossOutputs { correct, ..LossOutputs::default() },
            &mut buffers.workspace,
        )
    };
    let needed = ROWS * CLASSES;
    for len in [ROWS, needed - 1] {
        let refused = Error::Length { buffer: "targets", len, needed };
        expect("short", call(SHAPE, &floats(len)?, false), refused)?;
    }
    let right = floats(needed)?;
    let row_stride = CLASSES - 1;
    let narrow = Shape { targets_row_stride: row_stride, ..SHAPE };
    let refused = Error::RowStride { buffer: "targets", row_stride, classes: CLASSES };
    expect("stride", call(narrow, &right, false), refused)?;
    expect("correct", call(SHAPE, &right, true), Error::CorrectOfProbabilities)?;
    call(SHAPE, &right, false).map_err(|error| error.to_string())
}

fn log_softmax_buffers() -> Result<(), String> {
    let rig = Rig::here();
    let (kernels, stream) = (&rig.kernels, &rig.stream);
    let mut buffers = Buffers::new();
    let floats = |len| stream.alloc_zeros::<f32>(len).map_err(|error| format!("{:?}", error.0));
    let shape = LogSoftmaxShape::contiguous(ROWS, CLASSES);
    let matrix = ROWS * CLASSES;
    let mut short = floats(matrix - 1)?;
    let length = |buffer| Error::Length { buffer, len: matrix - 1, needed: matrix };
    let outputs = LogSoftmaxOutputs::new(&mut buffers.gradient);
    let found = log_softmax::forward(kernels, stream, shape, &short, outputs);
    expect("logits", found, length("logits"))?;
    let outputs = LogSoftmaxOutputs::new(&mut short);
    let found = log_softmax::forward(kernels, stream, shape, &buffers.logits, outputs);
    expect("output", found, length("output"))?;
    let row_stride = CLASSES - 1;
    let narrow = LogSoftmaxShape { upstream_row_stride: row_stride, ..shape };
    let softmax = log_softmax::Softmax::OfLogProbabilities(&buffers.logits);
    let upstream = floats(matrix)?;
    let mut gradient = floats(matrix)?;
    let found = log_softmax::backward(kernels, stream, narrow, softmax, &upstream, &mut gradient);
    expect("stride", found, Error::RowStride { buffer: "upstream", row_stride, classes: CLASSES })?;
    let found = log_softmax::backward(kernels, stream, shape, softmax, &short, &mut gradient);
    expect("upstream", found, length("upstream"))?;
    let found = log_softmax::backward(kernels, stream, shape, softmax, &upstream, &mut short);
    expect("gradient", found, length("gradient"))?;
    // A loss saves what a log-softmax cannot use.
    buffers.call(LossConfig::default(), SHAPE).map_err(|error| error.to_string())?;
    let softmax = log_softmax::Softmax::OfLogits(&buffers.logits, &buffers.saved);
    match log_softmax::backward(kernels, stream, shape, softmax, &upstream, &mut gradient) {
        Err(Error::SavedSoftmax { .. }) => Ok(()),
        other => Err(format!("saved by a loss: {other:?}")),
    }
}

fn binary_buffers() -> Result<(), String> {
    let rig = Rig::here();
    let (kernels, stream) = (&rig.kernels, &rig.stream);
    let mut buffers = Buffers::new();
    let fine = BinaryConfig::default();
    let two = ClassWeights::new(stream, &[1.0; 2]).map_err(|error| error.to_string())?;
    let mut call = |config, positive_weights, in_place: bool| {
        let inputs = BinaryInputs {
            positive_weights,
            ..BinaryInputs::new(SHAPE, &buffers.logits, &buffers.targets)
        };
        let inputs =
            if in_place { BinaryInputs::in_place(SHAPE, &buffers.targets) } else { inputs };
        let outputs = BinaryOutputs { loss: Some(&mut buffers.loss), row_losses: None };
        binary::forward(kernels, stream, config, inputs, outputs, &mut buffers.workspace)
    };
    let config = BinaryConfig { label_smoothing: 1.5, ..fine };
    expect("smoothing", call(config, None, false), Error::LabelSmoothing { value: 1.5 })?;
    let config = BinaryConfig { divisor: Divisor::Given(0.0), ..fine };
    let refused = Error::Option { option: "divisor", value: 0.0, range: POSITIVE };
    expect("divisor", call(config, None, false), refused)?;
    let config = BinaryConfig { reduction: Reduction::None, ..fine };
    expect("reduction", call(config, None, false), Error::LossWithoutReduction)?;
    let refused = Error::Length { buffer: "positive_weights", len: 2, needed: CLASSES };
    expect("weights", call(fine, Some(&two), false), refused)?;
    expect("in place", call(fine, None, true), Error::ForwardInPlace)?;
    call(fine, None, false).map_err(|error| error.to_string())
}

fn loss_without_reduction() -> Result<(), String> {
    let config = LossConfig { reduction: Reduction::None, ..LossConfig::default() };
    expect("none", Buffers::new().call(config, SHAPE), Error::LossWithoutReduction)
}

fn workspace_too_small() -> Result<(), String> {
    let mut buffers = Buffers::new();
    buffers.workspace =
        Workspace::new(&Rig::here().stream, ROWS - 1).map_err(|error| error.to_string())?;
    let expected = Error::Workspace { capacity: ROWS - 1, rows: ROWS };
    expect("workspace", buffers.call(LossConfig::default(), SHAPE), expected)
}

/// By the thread that captures: the capture goes on, and nothing is leaked for it.
fn dropped_in_a_capture() -> Result<(), String> {
    let of_driver = |error: DriverError| format!("{:?}", error.0);
    let context = smoothxent::open(0).map_err(|error| error.to_string())?;
    let [stream, owner] = [context.new_stream(), context.new_stream()];
    let (stream, owner) = (stream.map_err(of_driver)?, owner.map_err(of_driver)?);
    let kernels = Kernels::load(&context).map_err(|error| error.to_string())?;
    let weights = ClassWeights::new(&owner, &[1.0; CLASSES]).map_err(|error| error.to_string())?;
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .map_err(of_driver)?;
    drop((kernels, weights));
    let dropped = context.check_err();
    stream.end_capture(CUgraphInstantiate_flags(0)).map(drop).map_err(of_driver)?;
    dropped.map_err(of_driver)
}

/// What belongs to the captured stream is leaked, and nothing says that anything failed: cudarc would refuse to end the
/// capture.
fn dropped_in_its_own_capture() -> Result<(), String> {
    let of_driver = |error: DriverError| format!("{:?}", error.0);
    let of_ours = |error: Error| error.to_string();
    let context = smoothxent::open(0).map_err(of_ours)?;
    let stream = context.new_stream().map_err(of_driver)?;
    let workspace = Workspace::new(&stream, ROWS).map_err(of_ours)?;
    let saved = SavedSoftmax::new(&stream, ROWS).map_err(of_ours)?;
    let weights = ClassWeights::new(&stream, &[1.0; CLASSES]).map_err(of_ours)?;
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .map_err(of_driver)?;
    drop((workspace, saved, weights));
    stream.end_capture(CUgraphInstantiate_flags(0)).map(drop).map_err(of_driver)?;
    context.check_err().map_err(of_driver)
}

/// It would wait for the stream, and so end the capture.
fn asked_in_a_capture() -> Result<(), String> {
    let of_driver = |error: DriverError| format!("{:?}", error.0);
    let of_ours = |error: Error| error.to_string();
    let context = smoothxent::open(0).map_err(of_ours)?;
    let kernels = Kernels::load(&context).map_err(of_ours)?;
    let stream = context.new_stream().map_err(of_driver)?;
    let mut workspace = Workspace::new(&stream, ROWS).map_err(of_ours)?;
    let bytes = raw::workspace_bytes(ROWS).map_err(of_ours)?;
    let words = stream.alloc_zeros::<u8>(bytes).map_err(of_driver)?;
    let memory = raw::Memory { address: words.device_ptr(&stream).0, bytes };
    stream.synchronize().map_err(of_driver)?;
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .map_err(of_driver)?;
    let asked = workspace.take_status(&stream);
    // SAFETY: the words are zeros, as many as a workspace has, and nobody else uses them.
    let of_raw = unsafe { raw::take_status(&kernels, stream.cu_stream(), memory) };
    stream.end_capture(CUgraphInstantiate_flags(0)).map(drop).map_err(of_driver)?;
    expect("workspace", asked, Error::WaitInCapture)?;
    expect("raw", of_raw, Error::WaitInCapture)?;
    workspace.take_status(&stream).map_err(of_ours)
}

/// Whose capture work on the default stream would end. cudarc makes no such streams, but candle uses them, and others may.
fn beside_a_blocking_stream() -> Result<(), String> {
    let of_driver = |error: DriverError| format!("{:?}", error.0);
    let of_ours = |error: Error| error.to_string();
    let context = smoothxent::open(0).map_err(of_ours)?;
    let stream = context.default_stream();
    let weights = ClassWeights::new(&stream, &[1.0; CLASSES]).map_err(of_ours)?;
    let saved = SavedSoftmax::new(&stream, ROWS).map_err(of_ours)?;
    let mut workspace = Workspace::new(&stream, ROWS).map_err(of_ours)?;
    stream.synchronize().map_err(of_driver)?;
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let blocking =
        result::stream::create(result::stream::StreamKind::Default).map_err(of_driver)?;
    // SAFETY: the stream was made above.
    unsafe { result::stream::begin_capture(blocking, mode) }.map_err(of_driver)?;
    drop((weights, saved));
    let asked = workspace.take_status(&stream);
    let made = Workspace::new(&stream, ROWS).map(drop);
    // SAFETY: the same, and the graph is the capture's.
    let ended = unsafe {
        result::stream::end_capture(blocking).and_then(|graph| result::graph::destroy(graph))
    };
    // SAFETY: nobody uses it any more.
    ended.and_then(|()| unsafe { result::stream::destroy(blocking) }).map_err(of_driver)?;
    context.check_err().map_err(of_driver)?;
    expect("status", asked, Error::WaitInCapture)?;
    expect("workspace", made, Error::Capturing { what: "a workspace" })?;
    workspace.take_status(&stream).map_err(of_ours)
}

fn made_in_a_capture() -> Result<(), String> {
    let of_driver = |error: DriverError| format!("{:?}", error.0);
    let context = smoothxent::open(0).map_err(|error| error.to_string())?;
    let stream = context.new_stream().map_err(of_driver)?;
    let on_device = stream.clone_htod(&[1f32; CLASSES]).map_err(of_driver)?;
    stream.synchronize().map_err(of_driver)?;
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .map_err(of_driver)?;
    let workspace = Workspace::new(&stream, ROWS).map(drop);
    let saved = SavedSoftmax::new(&stream, ROWS).map(drop);
    let weights = ClassWeights::new(&stream, &[1.0; CLASSES]).map(drop);
    let copied = ClassWeights::from_device(&stream, &on_device.as_view()).map(drop);
    let captured = stream.end_capture(CUgraphInstantiate_flags(0)).map(drop).map_err(of_driver);
    expect("workspace", workspace, Error::Capturing { what: "a workspace" })?;
    expect("saved softmax", saved, Error::Capturing { what: "a saved softmax" })?;
    expect("class weights", weights, Error::Capturing { what: "class weights" })?;
    expect("copied weights", copied, Error::Capturing { what: "class weights" })?;
    // None of them has ended the capture, and they can be made after it.
    captured?;
    let made = Workspace::new(&stream, ROWS).map(drop);
    made.and_then(|()| SavedSoftmax::new(&stream, ROWS).map(drop))
        .and_then(|()| ClassWeights::new(&stream, &[1.0; CLASSES]).map(drop))
        .map_err(|error| error.to_string())
}

fn another_context(ordinal: usize) -> Result<(), String> {
    let other = smoothxent::open(ordinal).map_err(|error| error.to_string())?;
    let expected = |buffer| Error::OtherContext { buffer, expected: 0, found: ordinal };

    type Replace = fn(&mut Buffers, Buffers);
    let foreign: [(&str, Replace); 12] = [
        ("logits", |b, other| b.logits = other.logits),
        ("targets", |b, other| b.targets = other.targets),
        ("upstream", |b, other| b.upstream = other.upstream),
        ("gradient", |b, other| b.gradient = other.gradient),
        ("loss", |b, other| b.loss = other.loss),
        ("row_losses", |b, other| b.row_losses = other.row_losses),
        ("row_lse", |b, other| b.row_lse = other.row_lse),
        ("row_argmax", |b, other| b.row_argmax = other.row_argmax),
        ("correct", |b, other| b.correct = other.correct),
        ("class_weights", |b, other| b.class_weights = other.class_weights),
        ("saved softmax", |b, other| b.saved = other.saved),
        ("workspace", |b, other| b.workspace = other.workspace),
    ];
    // cudarc frees a buffer in the null stream of whichever context is current, and that stream does
    // not wait for the buffer's own: nothing may be left to do on either when buffers are mixed.
    let settle = || {
        let home = &Rig::here().context;
        home.synchronize().and_then(|()| other.synchronize()).map_err(|e| format!("{:?}", e.0))
    };
    for (buffer, replace) in foreign {
        let (mut buffers, of_other) = (Buffers::new(), Buffers::on(&other));
        settle()?;
        replace(&mut buffers, of_other);
        expect(buffer, buffers.call(LossConfig::default(), SHAPE), expected(buffer))?;
    }
    let stream = other.default_stream();
    let mut buffers = Buffers::new();
    settle()?;
    let found = buffers.workspace.take_status(&stream);
    // Here the workspace is at home and the stream is not.
    expect("status", found, expected("stream"))?;

    let mut buffers = Buffers::new();
    settle()?;
    let kernels = Kernels::load(&Rig::here().context).map_err(|error| error.to_string())?;
    let found = loss::forward_backward(
        &kernels,
        &stream,
        LossConfig::default(),
        LossInputs::new(SHAPE, &buffers.logits, &buffers.targets),
        LossOutputs::default(),
        Gradient::new(&mut buffers.gradient),
        &mut buffers.workspace,
    );
    expect("stream", found, expected("stream"))
}

fn device_ordinal() -> Result<(), String> {
    let count = smoothxent::device_count().map_err(|error| error.to_string())?;
    expect(
        "open",
        smoothxent::open(count).map(drop),
        Error::DeviceOrdinal { ordinal: count, count },
    )
}

/// Lengths whose bytes wrap around to a few: cudarc allocates the few.
fn sizes_that_wrap_around() -> Result<(), String> {
    let stream = &Rig::here().stream;
    for rows in [usize::MAX, 4_602_696_377_065_931_054] {
        let found = Workspace::new(stream, rows).map(drop);
        expect("workspace", found, Error::WorkspaceSize { rows })?;
    }
    // What cudarc's allocation gives where products are not checked: 64 elements that claim more.
    let address = stream.alloc_zeros::<f32>(64).map_err(|error| format!("{:?}", error.0))?.leak();
    let mut buffers = Buffers::new();
    // SAFETY: the length is a lie, and the call below has to refuse it before anything reads it;
    // the driver frees by address.
    buffers.logits = unsafe { stream.upgrade_device_ptr(address, (1 << 62) + 64) };
    let len = buffers.logits.len();
    let found = buffers.call(LossConfig::default(), SHAPE);
    expect("logits", found, Error::BufferSize { buffer: "logits", len })
}

fn scalar_upstream_of_two() -> Result<(), String> {
    let rig = Rig::here();
    let mut buffers = Buffers::new();
    let two = rig.stream.alloc_zeros::<f32>(2).map_err(|error| format!("{:?}", error.0))?;
    let found = loss::forward_backward(
        &rig.kernels,
        &rig.stream,
        LossConfig::default(),
        LossInputs::new(SHAPE, &buffers.logits, &buffers.targets),
        LossOutputs::default(),
        Gradient { matrix: &mut buffers.gradient, upstream: Upstream::Scalar(&two) },
        &mut buffers.workspace,
    );
    expect("upstream", found, Error::Length { buffer: "upstream", len: 2, needed: 1 })
}

/// Also when it comes later.
fn the_lowest_bad_row_wins() -> Result<(), String> {
    let rig = Rig::here();
    let mut workspace = Workspace::new(&rig.stream, 9).map_err(|error| error.to_string())?;
    for (row, target) in [(7, 4), (2, -3), (5, 9)] {
        let mut case = Case::new(Dtype::F32, 9, 4, 24);
        case.targets[row] = target;
        case.run_on(&rig.stream, Form::Fused, &mut workspace).map_err(|error| error.to_string())?;
    }
    let expected = Error::BadTargets { count: 3, row: 2, target: -3, classes: 4 };
    expect("status", workspace.take_status(&rig.stream), expected)
}

/// Values that are classes only if they are cut to 32 bits or read with another sign.
fn bad_targets_of_every_type() -> Result<(), String> {
    let rig = Rig::here();
    let values = [
        (TargetType::I64, 1 << 32),
        (TargetType::I64, (1 << 32) + 5),
        (TargetType::I64, i64::MIN),
        (TargetType::I64, i64::MAX),
        (TargetType::I32, i64::from(i32::MIN)),
        (TargetType::I32, i64::from(i32::MAX)),
        (TargetType::U32, 1 << 31),
        (TargetType::U32, i64::from(u32::MAX)),
    ];
    for (target_type, target) in values {
        let mut case = Case { target_type, ..Case::new(Dtype::F16, 3, 37, 25) };
        case.targets[1] = target;
        let mut workspace = Workspace::new(&rig.stream, 3).map_err(|error| error.to_string())?;
        let found = case
            .run_on(&rig.stream, Form::Fused, &mut workspace)
            .map_err(|error| error.to_string())?;
        crate::common::compare::within_budget(&case, &found, &case.expected())?;
        let expected = Error::BadTargets { count: 1, row: 1, target, classes: 37 };
        expect("status", workspace.take_status(&rig.stream), expected)?;
        // The same value is fine as the one to ignore.
        case.config.ignore_index = Some(target);
        let found = case
            .run_on(&rig.stream, Form::Fused, &mut workspace)
            .map_err(|error| error.to_string())?;
        crate::common::compare::within_budget(&case, &found, &case.expected())?;
        workspace.take_status(&rig.stream).map_err(|error| format!("{target}: {error}"))?;
    }
    Ok(())
}

/// Targets of C and of -1: NaN there, zero gradient there, everything else as without them.
fn bad_targets() -> Result<(), String> {
    let rig = Rig::here();
    for dtype in DTYPES {
        for bad in [i64::from(i32::MIN), -1, 37, i64::from(i32::MAX)] {
            let reduction = Reduction::None;
            let config = LossConfig { reduction, label_smoothing: 0.1, ..LossConfig::default() };
            let mut case = Case { config, ..Case::new(dtype, 5, 37, 20) };
            let upstream = UpstreamCase::Scalar(2.0);
            case.upstream = upstream;
            let clean = case.run().map_err(|error| error.to_string())?;
            case.targets[3] = bad;
            case.targets[1] = bad;

            let mut workspace =
                Workspace::new(&rig.stream, 5).map_err(|error| error.to_string())?;
            let found = case
                .run_on(&rig.stream, Form::Fused, &mut workspace)
                .map_err(|error| error.to_string())?;
            crate::common::compare::within_budget(&case, &found, &case.expected())?;
            for row in [0, 2, 4] {
                let range = row * 37..(row + 1) * 37;
                if found.row_losses[row].to_bits() != clean.row_losses[row].to_bits()
                    || found.gradient[range.clone()] != clean.gradient[range]
                {
                    return Err(format!("{case}: row {row} was harmed by its neighbours"));
                }
            }
            let expected = Error::BadTargets { count: 2, row: 1, target: bad, classes: 37 };
            expect("status", workspace.take_status(&rig.stream), expected)?;
            // Taking it forgets it.
            workspace.take_status(&rig.stream).map_err(|error| format!("again: {error}"))?;
        }
    }
    Ok(())
}

fn remembered() -> Result<(), String> {
    let rig = Rig::here();
    let mut workspace = Workspace::new(&rig.stream, 9).map_err(|error| error.to_string())?;
    let mut bad = Case::new(Dtype::F32, 9, 4, 21);
    bad.targets[7] = 4;
    let good = Case::new(Dtype::F32, 9, 40, 22);
    for case in [&bad, &good, &bad] {
        case.run_on(&rig.stream, Form::Fused, &mut workspace).map_err(|error| error.to_string())?;
    }
    let expected = Error::BadTargets { count: 2, row: 7, target: 4, classes: 4 };
    expect("status", workspace.take_status(&rig.stream), expected)
}

fn ignored_targets() -> Result<(), String> {
    let rig = Rig::here();
    let mut workspace = Workspace::new(&rig.stream, 3).map_err(|error| error.to_string())?;
    for ignore_index in [i64::MIN, -1, 0, 5, 1 << 40] {
        let config = LossConfig { ignore_index: Some(ignore_index), ..LossConfig::default() };
        let mut case = Case { config, ..Case::new(Dtype::Bf16, 3, 5, 23) };
        case.targets[1] = ignore_index;
        let found = case
            .run_on(&rig.stream, Form::Fused, &mut workspace)
            .map_err(|error| error.to_string())?;
        crate::common::compare::within_budget(&case, &found, &case.expected())?;
        workspace.take_status(&rig.stream).map_err(|error| format!("{ignore_index}: {error}"))?;
    }
    Ok(())
}
