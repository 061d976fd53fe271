//! The operations on raw pointers: the bits of the safe ones, and everything wrong that can be known.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use libtest_mimic::Trial;
use smoothxent::{
    BinaryConfig, ClassWeights, Error, Kernels, LogSoftmaxShape, LossConfig, Obstacle, Reduction,
    Selection, Shape, Smoothing, Strategy,
    cudarc::driver::{
        CudaSlice, CudaStream, DriverError,
        sys::{CUdeviceptr, CUgraphInstantiate_flags, CUstreamCaptureMode},
    },
    half::f16,
    plan::{Normalizer, Plan},
    problem::{ClassWeighting, Dtype, Pass, Place, Problem, TargetType, Types},
    raw::{
        self, Gradient, Logits, LossInputs, LossOutputs, Memory, Softmax, SoftmaxOutput, Upstream,
    },
};

use crate::{
    capturing_trial,
    common::{
        inputs::{self, class_weights},
        operations::{BinaryCase, BinaryForm, Interface},
        run::{Case, Form, Placement, RawMemory, Rig, UpstreamCase, address, upload},
    },
    edges::DTYPES,
    operations::{self, PLACEMENTS},
    repeats, trial,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![];
    for dtype in DTYPES {
        trials.push(trial(format!("raw::loss::{dtype:?}"), move || loss(dtype)));
        trials.push(trial(format!("raw::log_softmax::{dtype:?}"), move || log_softmax(dtype)));
        trials.push(trial(format!("raw::binary::{dtype:?}"), move || binary(dtype)));
    }
    trials.extend([
        trial("raw::no_rows", no_rows),
        trial("raw::null", null),
        trial("raw::alignment", alignment),
        trial("raw::weights_anywhere", weights_anywhere),
        trial("raw::memory", memory),
        trial("raw::same_address", same_address),
        trial("raw::requests", requests),
        trial("raw::problems", problems),
        trial("raw::pinned", pinned),
        trial("raw::status", status),
        trial("raw::workspace_of_a_larger_problem", workspace_of_a_larger_problem),
        trial("raw::beyond_memory", beyond_memory),
        trial("raw::workspaces_are_left_as_they_were", workspaces_are_left_as_they_were),
        capturing_trial("raw::captured", captured),
        capturing_trial("raw::captured_beside_drops", captured_beside_drops),
    ]);
    trials
}

/// One for each strategy, and one that ends within a pack.
const CLASSES: [usize; 5] = [9, 300, 3001, 33_000, 50_257];

fn loss(dtype: Dtype) -> Result<(), String> {
    for (turn, classes) in CLASSES.into_iter().enumerate() {
        let case = Case { placement: PLACEMENTS[turn % 4], ..Case::new(dtype, 3, classes, 90) };
        let smoothed = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
        let ignored = Case { targets: vec![0, -100, 2], config: smoothed, ..case.clone() };
        let weighted = Case {
            target_type: TargetType::U32,
            class_weights: Some(class_weights(classes, 91)),
            upstream: UpstreamCase::PerRow(vec![1.0, 0.5, -2.0]),
            ..case.clone()
        };
        let sum = LossConfig { reduction: Reduction::Sum, z_loss: 0.1, ..smoothed };
        let spread = Case {
            upstream: UpstreamCase::Scalar(3.0),
            config: sum,
            ..case.clone().spread(dtype, 92)
        };
        for case in [ignored, weighted, spread] {
            same_bits(&case)?;
        }
    }
    // Divisors that a launch of their own finds, and more than one chunk of rows.
    let many = Case { config: LossConfig::pytorch(), ..Case::new(dtype, 1100, 5, 93) };
    same_bits(&many)
}

fn same_bits(case: &Case) -> Result<(), String> {
    let safe = case.run().map_err(|error| format!("{case}: {error}"))?;
    for form in Form::ON_RAW_POINTERS {
        let found = case.run_form(form).map_err(|error| format!("{case}, {form:?}: {error}"))?;
        if found.bits() != safe.bits() {
            return Err(format!("{case}: {form:?} differs from the safe call"));
        }
    }
    Ok(())
}

fn log_softmax(dtype: Dtype) -> Result<(), String> {
    for (turn, classes) in CLASSES.into_iter().enumerate() {
        let case = operations::log_softmax(dtype, 3, classes, PLACEMENTS[turn % 4], 94);
        let run = |interface| case.run(interface).map_err(|error| format!("{case}: {error}"));
        if run(Interface::Raw)? != run(Interface::Safe)? {
            return Err(format!("{case}: differs on raw pointers"));
        }
    }
    Ok(())
}

fn binary(dtype: Dtype) -> Result<(), String> {
    for (turn, target_type) in operations::TARGET_TYPES.into_iter().enumerate() {
        for (rows, classes) in [(3, CLASSES[turn % 3]), (150, 10)] {
            let case = BinaryCase {
                placement: PLACEMENTS[turn % 4],
                class_weights: Some(class_weights(classes, 95)),
                positive_weights: Some(class_weights(classes, 96)),
                upstream: UpstreamCase::Scalar(0.5),
                config: BinaryConfig {
                    ignore_index: Some(0),
                    divisor: smoothxent::Divisor::CountedRows,
                    ..BinaryConfig::keras(0.2)
                },
                ..operations::binary(dtype, target_type, rows, classes, 97)
            };
            let run = |form| case.run(form).map_err(|error| format!("{case}: {error}"));
            let safe = run(BinaryForm::Fused)?.bits();
            for form in [BinaryForm::Raw, BinaryForm::RawApart] {
                if run(form)?.bits() != safe {
                    return Err(format!("{case}: {form:?} differs from the safe call"));
                }
            }
        }
    }
    Ok(())
}

const ROWS: usize = 4;
const CLASSES_OF_FEW: usize = 6;
const SHAPE: Shape = Shape::contiguous(ROWS, CLASSES_OF_FEW);
const SOFTMAX_SHAPE: LogSoftmaxShape = LogSoftmaxShape::contiguous(ROWS, CLASSES_OF_FEW);

/// Device memory of a small problem, all of it zero, and its addresses, of which a test breaks one.
struct Small {
    _matrices: [CudaSlice<f16>; 3],
    _vectors: [CudaSlice<i64>; 8],
    _memories: [RawMemory; 2],
    call: Call,
}

#[derive(Clone, Copy)]
struct Call {
    config: LossConfig,
    inputs: LossInputs,
    outputs: LossOutputs,
    gradient: Gradient,
    workspace: Memory,
    saved: Memory,
    /// Of a matrix beside logits and gradient.
    other: CUdeviceptr,
    positive_weights: CUdeviceptr,
}

impl Small {
    fn new() -> Result<Self, Error> {
        let stream = &Rig::here().stream;
        let matrices = [(); 3].map(|()| upload(stream, &[f16::ZERO; ROWS * CLASSES_OF_FEW]));
        let vectors = [(); 8].map(|()| upload(stream, &[0i64; CLASSES_OF_FEW]));
        let memories = [
            RawMemory::zeroed(stream, raw::workspace_bytes(ROWS)?),
            RawMemory::poisoned(stream, raw::saved_bytes(ROWS)?),
        ];
        let [logits, gradient, other] = [0, 1, 2].map(|i: usize| address(stream, &matrices[i]));
        let at = |vector: usize| address(stream, &vectors[vector]);
        let [workspace, saved] = [0, 1].map(|i: usize| memories[i].memory());
        let call = Call {
            config: LossConfig::default(),
            inputs: LossInputs {
                class_weights: at(1),
                ..LossInputs::new(Dtype::F16, TargetType::I64, SHAPE, Logits::At(logits), at(0))
            },
            outputs: LossOutputs {
                loss: at(2),
                row_losses: at(3),
                row_lse: at(4),
                row_argmax: at(5),
                correct: at(6),
                saved: Some(saved),
            },
            gradient: Gradient { matrix: gradient, upstream: Upstream::PerRow(at(7)) },
            workspace,
            saved,
            other,
            positive_weights: at(1),
        };
        Ok(Self { _matrices: matrices, _vectors: vectors, _memories: memories, call })
    }
}

/// Every operation that takes what is broken refuses it alike.
const LOSSES: [Operation; 3] = [Call::forward_backward, Call::forward, Call::backward];
const BINARIES: [Operation; 3] =
    [Call::binary_forward_backward, Call::binary_forward, Call::binary_backward];

type Operation = fn(&Call) -> Result<(), Error>;

impl Call {
    /// 0 in place.
    fn logits(&self) -> CUdeviceptr {
        match self.inputs.logits {
            Logits::At(address) => address,
            Logits::InGradient => 0,
        }
    }

    fn wait(result: Result<(), Error>) -> Result<(), Error> {
        Rig::here().stream.synchronize().expect("what was launched is fine");
        result
    }

    fn forward_backward(&self) -> Result<(), Error> {
        let (rig, &Self { config, inputs, outputs, gradient, workspace, .. }) = (Rig::here(), self);
        let stream = rig.stream.cu_stream();
        // SAFETY: what is not refused is that of `Small`, which is waited for.
        Self::wait(unsafe {
            raw::loss::forward_backward(
                &rig.kernels,
                stream,
                config,
                inputs,
                outputs,
                gradient,
                workspace,
            )
        })
    }

    fn forward(&self) -> Result<(), Error> {
        let (rig, &Self { config, inputs, outputs, workspace, .. }) = (Rig::here(), self);
        let stream = rig.stream.cu_stream();
        // SAFETY: as above.
        Self::wait(unsafe {
            raw::loss::forward(&rig.kernels, stream, config, inputs, outputs, workspace)
        })
    }

    fn backward(&self) -> Result<(), Error> {
        let (rig, &Self { config, inputs, saved, gradient, .. }) = (Rig::here(), self);
        let stream = rig.stream.cu_stream();
        // SAFETY: as above; nothing that is saved can be an address elsewhere.
        Self::wait(unsafe {
            raw::loss::backward(&rig.kernels, stream, config, inputs, saved, gradient)
        })
    }

    fn binary(&self) -> (raw::BinaryInputs, raw::BinaryOutputs) {
        let LossInputs { dtype, target_type, shape, logits, targets, class_weights } = self.inputs;
        let inputs = raw::BinaryInputs {
            class_weights,
            positive_weights: self.positive_weights,
            ..raw::BinaryInputs::new(dtype, target_type, shape, logits, targets)
        };
        let LossOutputs { loss, row_losses, .. } = self.outputs;
        (inputs, raw::BinaryOutputs { loss, row_losses })
    }

    fn binary_config(&self) -> BinaryConfig {
        let LossConfig { label_smoothing, reduction, .. } = self.config;
        BinaryConfig { label_smoothing, reduction, ..BinaryConfig::default() }
    }

    fn binary_forward_backward(&self) -> Result<(), Error> {
        let (rig, config, (inputs, outputs)) = (Rig::here(), self.binary_config(), self.binary());
        let (stream, gradient, workspace) = (rig.stream.cu_stream(), self.gradient, self.workspace);
        // SAFETY: as above.
        Self::wait(unsafe {
            raw::binary::forward_backward(
                &rig.kernels,
                stream,
                config,
                inputs,
                outputs,
                gradient,
                workspace,
            )
        })
    }

    fn binary_forward(&self) -> Result<(), Error> {
        let (rig, config, (inputs, outputs)) = (Rig::here(), self.binary_config(), self.binary());
        let stream = rig.stream.cu_stream();
        // SAFETY: as above.
        Self::wait(unsafe {
            raw::binary::forward(&rig.kernels, stream, config, inputs, outputs, self.workspace)
        })
    }

    fn binary_backward(&self) -> Result<(), Error> {
        let (rig, config, (inputs, _)) = (Rig::here(), self.binary_config(), self.binary());
        let (stream, gradient) = (rig.stream.cu_stream(), self.gradient);
        // SAFETY: as above.
        Self::wait(unsafe {
            raw::binary::backward(&rig.kernels, stream, config, inputs, gradient, self.workspace)
        })
    }

    fn softmax_forward(&self, output: CUdeviceptr) -> Result<(), Error> {
        let rig = Rig::here();
        let (dtype, logits) = (self.inputs.dtype, self.logits());
        let inputs = raw::LogSoftmaxInputs { dtype, shape: SOFTMAX_SHAPE, logits };
        let outputs = raw::LogSoftmaxOutputs {
            output: SoftmaxOutput::LogProbabilities(output),
            row_lse: self.outputs.row_lse,
            saved: self.outputs.saved,
        };
        // SAFETY: as above.
        Self::wait(unsafe {
            raw::log_softmax::forward(&rig.kernels, rig.stream.cu_stream(), inputs, outputs)
        })
    }

    fn softmax_backward(&self, from: Softmax, upstream: CUdeviceptr) -> Result<(), Error> {
        let (rig, to) = (Rig::here(), self.gradient.matrix);
        let (stream, of) = (rig.stream.cu_stream(), (self.inputs.dtype, SOFTMAX_SHAPE));
        // SAFETY: as above.
        Self::wait(unsafe {
            raw::log_softmax::backward(&rig.kernels, stream, of, from, upstream, to)
        })
    }
}

fn expect(what: &str, found: Result<(), Error>, expected: Result<(), Error>) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}

/// The operations with one address broken, each with its name and who takes it.
type Break = (&'static str, fn(&mut Call) -> &mut CUdeviceptr, &'static [Operation]);

const NEEDED: [Break; 4] = [
    ("targets", |call| &mut call.inputs.targets, &LOSSES),
    ("targets", |call| &mut call.inputs.targets, &BINARIES),
    (
        "gradient",
        |call| &mut call.gradient.matrix,
        &[
            Call::forward_backward,
            Call::backward,
            Call::binary_forward_backward,
            Call::binary_backward,
        ],
    ),
    (
        "workspace",
        |call| &mut call.workspace.address,
        &[
            Call::forward_backward,
            Call::forward,
            Call::binary_forward_backward,
            Call::binary_forward,
            Call::binary_backward,
        ],
    ),
];

/// With the bytes that an address is a multiple of.
const OPTIONAL: [(Break, u64); 7] = [
    (("class_weights", |call| &mut call.inputs.class_weights, &LOSSES), 4),
    (("class_weights", |call| &mut call.inputs.class_weights, &BINARIES), 4),
    (("positive_weights", |call| &mut call.positive_weights, &BINARIES), 4),
    (("loss", |call| &mut call.outputs.loss, &[Call::forward_backward, Call::binary_forward]), 4),
    (
        (
            "row_losses",
            |call| &mut call.outputs.row_losses,
            &[Call::forward, Call::binary_forward_backward],
        ),
        4,
    ),
    (("row_argmax", |call| &mut call.outputs.row_argmax, &[Call::forward]), 8),
    (("correct", |call| &mut call.outputs.correct, &[Call::forward_backward]), 8),
];

fn null() -> Result<(), String> {
    let small = Small::new().map_err(|error| error.to_string())?;
    for (buffer, address, operations) in NEEDED {
        for operation in operations {
            let mut call = small.call;
            *address(&mut call) = 0;
            expect(buffer, operation(&call), Err(Error::Null { buffer }))?;
            expect(buffer, operation(&small.call), Ok(()))?;
        }
    }
    for ((what, address, operations), _) in OPTIONAL {
        for operation in operations {
            let mut call = small.call;
            *address(&mut call) = 0;
            expect(what, operation(&call), Ok(()))?;
        }
    }
    let mut call = small.call;
    call.inputs.logits = Logits::At(0);
    for operation in LOSSES.into_iter().chain(BINARIES) {
        expect("logits", operation(&call), Err(Error::Null { buffer: "logits" }))?;
    }
    for upstream in [Upstream::Scalar(0), Upstream::PerRow(0)] {
        let mut call = small.call;
        call.gradient.upstream = upstream;
        for operation in [Call::forward_backward, Call::backward, Call::binary_backward] {
            expect("upstream", operation(&call), Err(Error::Null { buffer: "upstream" }))?;
        }
    }
    let mut call = small.call;
    call.saved.address = 0;
    expect("saved", call.backward(), Err(Error::Null { buffer: "saved" }))?;
    call.outputs.saved = Some(call.saved);
    expect("saved", call.forward(), Err(Error::Null { buffer: "saved" }))?;

    let call = small.call;
    let from = Softmax::OfLogProbabilities(0);
    expect("output", call.softmax_forward(0), Err(Error::Null { buffer: "output" }))?;
    let refused = Err(Error::Null { buffer: "log_probs" });
    expect("log_probs", call.softmax_backward(from, call.other), refused)?;
    let from = Softmax::OfLogits(call.other, call.saved);
    expect("upstream", call.softmax_backward(from, 0), Err(Error::Null { buffer: "upstream" }))
}

fn alignment() -> Result<(), String> {
    let small = Small::new().map_err(|error| error.to_string())?;
    let refused = |buffer, address, alignment: u64| {
        Err(Error::Alignment { buffer, address, alignment: alignment as usize })
    };
    let needed = NEEDED.map(|needed| match needed.0 {
        "targets" => (needed, 8),
        "gradient" => (needed, 2),
        _ => (needed, raw::ALIGNMENT as u64),
    });
    for ((buffer, address, operations), alignment) in needed.into_iter().chain(OPTIONAL) {
        for operation in operations {
            let mut call = small.call;
            *address(&mut call) += alignment / 2;
            let at = *address(&mut call);
            expect(buffer, operation(&call), refused(buffer, at, alignment))?;
        }
    }
    let mut call = small.call;
    let odd = call.logits() + 1;
    call.inputs.logits = Logits::At(odd);
    for operation in LOSSES.into_iter().chain(BINARIES) {
        expect("logits", operation(&call), refused("logits", odd, 2))?;
    }
    let odd = small.call.positive_weights + 2;
    for upstream in [Upstream::Scalar(odd), Upstream::PerRow(odd)] {
        let mut call = small.call;
        call.gradient.upstream = upstream;
        for operation in [Call::forward_backward, Call::backward, Call::binary_backward] {
            expect("upstream", operation(&call), refused("upstream", odd, 4))?;
        }
    }
    let mut call = small.call;
    call.outputs.row_lse += 2;
    let row_lse = call.outputs.row_lse;
    expect("row_lse", call.forward(), refused("row_lse", row_lse, 4))?;
    expect("row_lse", call.softmax_forward(call.other), refused("row_lse", row_lse, 4))?;
    let mut call = small.call;
    call.saved.address += 16;
    expect("saved", call.backward(), refused("saved", call.saved.address, 32))
}

/// A part of somebody's buffer, which need not begin at a pack as an allocation does.
fn weights_anywhere() -> Result<(), String> {
    // More than tiny takes, which reads weights one by one.
    const CLASSES: usize = 300;
    let shape = Shape::contiguous(ROWS, CLASSES);
    let rig = Rig::here();
    let stream = &rig.stream;
    let logits: Vec<f16> =
        inputs::logits(Dtype::F16, ROWS, CLASSES, 98).into_iter().map(f16::from_f32).collect();
    let logits = upload(stream, &logits);
    let targets = upload(stream, &inputs::probabilities(Dtype::F32, ROWS, CLASSES, 99));
    let workspace =
        RawMemory::zeroed(stream, raw::workspace_bytes(ROWS).map_err(|error| error.to_string())?);
    let weights = class_weights(CLASSES, 100);
    let run = |offset: usize, binary: bool| {
        let gradient = upload(stream, &[f16::ZERO; ROWS * CLASSES]);
        let row_losses = upload(stream, &[0f32; ROWS]);
        let weights = upload(stream, &[vec![f32::NAN; offset], weights.clone()].concat());
        let class_weights = address(stream, &weights) + 4 * offset as u64;
        let (logits, targets) = (Logits::At(address(stream, &logits)), address(stream, &targets));
        let to = Gradient::new(address(stream, &gradient));
        let losses = address(stream, &row_losses);
        let (kernels, cu_stream, workspace) =
            (&rig.kernels, stream.cu_stream(), workspace.memory());
        let (dtype, target_type) = (Dtype::F16, TargetType::Probabilities(Dtype::F32));
        // SAFETY: all of these are as long as the shape says, and are waited for.
        unsafe {
            if binary {
                let outputs = raw::BinaryOutputs { row_losses: losses, ..Default::default() };
                let inputs = raw::BinaryInputs {
                    class_weights,
                    positive_weights: class_weights,
                    ..raw::BinaryInputs::new(dtype, target_type, shape, logits, targets)
                };
                let config = BinaryConfig::default();
                raw::binary::forward_backward(
                    kernels, cu_stream, config, inputs, outputs, to, workspace,
                )
            } else {
                let outputs = LossOutputs { row_losses: losses, ..Default::default() };
                let inputs = LossInputs {
                    class_weights,
                    ..LossInputs::new(dtype, target_type, shape, logits, targets)
                };
                let config = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
                raw::loss::forward_backward(
                    kernels, cu_stream, config, inputs, outputs, to, workspace,
                )
            }
        }
        .map_err(|error| error.to_string())?;
        Ok::<_, String>((
            stream.clone_dtoh(&gradient).map_err(|error| format!("{error:?}"))?,
            stream.clone_dtoh(&row_losses).map_err(|error| format!("{error:?}"))?,
        ))
    };
    for binary in [false, true] {
        let aligned = run(0, binary)?;
        for offset in 1..4 {
            if run(offset, binary)? != aligned {
                return Err(format!("weights {offset} elements into a pack differ"));
            }
        }
    }
    Ok(())
}

fn memory() -> Result<(), String> {
    let small = Small::new().map_err(|error| error.to_string())?;
    let mut call = small.call;
    call.workspace.bytes -= 1;
    let bytes = call.workspace.bytes;
    let refused = || Err(Error::Memory { buffer: "workspace", bytes, needed: bytes + 1 });
    for operation in [LOSSES[0], LOSSES[1], BINARIES[0], BINARIES[1], BINARIES[2]] {
        expect("workspace", operation(&call), refused())?;
    }
    let mut call = small.call;
    call.workspace.address = CUdeviceptr::MAX - 31;
    let len = call.workspace.bytes;
    let beyond = Err(Error::BufferSize { buffer: "workspace", len });
    for operation in [LOSSES[0], LOSSES[1], BINARIES[0], BINARIES[1], BINARIES[2]] {
        expect("beyond all addresses", operation(&call), beyond.clone())?;
    }
    let mut call = small.call;
    call.saved.bytes -= 1;
    let bytes = call.saved.bytes;
    let refused = || Err(Error::Memory { buffer: "saved", bytes, needed: bytes + 1 });
    call.outputs.saved = Some(call.saved);
    for operation in LOSSES {
        expect("saved", operation(&call), refused())?;
    }
    expect("saved", call.softmax_forward(call.other), refused())?;
    let from = Softmax::OfLogits(call.logits(), call.saved);
    expect("saved", call.softmax_backward(from, call.other), refused())
}

fn same_address() -> Result<(), String> {
    let small = Small::new().map_err(|error| error.to_string())?;
    let refused = |read, written| Err(Error::SameAddress { read, written });
    let mut call = small.call;
    call.inputs.logits = Logits::At(call.gradient.matrix);
    for operation in [LOSSES[0], LOSSES[2], BINARIES[0], BINARIES[2]] {
        expect("apart", operation(&call), refused("logits", "gradient"))?;
    }
    call.inputs.logits = Logits::InGradient;
    for operation in [LOSSES[0], LOSSES[2], BINARIES[0], BINARIES[2]] {
        expect("in place", operation(&call), Ok(()))?;
    }
    for operation in [LOSSES[1], BINARIES[1]] {
        expect("in place", operation(&call), Err(Error::ForwardInPlace))?;
    }
    let call = small.call;
    let (logits, gradient) = (call.logits(), call.gradient.matrix);
    expect("output", call.softmax_forward(logits), refused("logits", "output"))?;
    let from = Softmax::OfLogProbabilities(logits);
    let found = call.softmax_backward(from, gradient);
    expect("upstream", found, refused("upstream", "gradient"))?;
    let from = Softmax::OfLogProbabilities(gradient);
    let found = call.softmax_backward(from, call.other);
    expect("log_probs", found, refused("log_probs", "gradient"))
}

fn requests() -> Result<(), String> {
    let small = Small::new().map_err(|error| error.to_string())?;
    let mut call = small.call;
    call.config.reduction = Reduction::None;
    for operation in [LOSSES[0], LOSSES[1], BINARIES[0], BINARIES[1]] {
        expect("loss", operation(&call), Err(Error::LossWithoutReduction))?;
    }
    let mut call = small.call;
    call.inputs.target_type = TargetType::Probabilities(Dtype::F16);
    expect("correct", call.forward(), Err(Error::CorrectOfProbabilities))
}

/// What `Problem::new` refuses.
fn problems() -> Result<(), String> {
    let small = Small::new().map_err(|error| error.to_string())?;
    let mut call = small.call;
    call.config.label_smoothing = 1.5;
    for operation in LOSSES.into_iter().chain(BINARIES) {
        expect("smoothing", operation(&call), Err(Error::LabelSmoothing { value: 1.5 }))?;
    }
    let mut call = small.call;
    call.inputs.shape.logits_row_stride = 5;
    let refused = Error::RowStride { buffer: "logits", row_stride: 5, classes: CLASSES_OF_FEW };
    for operation in LOSSES.into_iter().chain(BINARIES) {
        expect("stride", operation(&call), Err(refused.clone()))?;
    }
    call.inputs.shape = Shape::contiguous(ROWS, 0);
    let classes = |found: Result<(), Error>| matches!(found, Err(Error::Classes { .. }));
    if !LOSSES.iter().chain(&BINARIES).all(|operation| classes(operation(&call))) {
        return Err("no classes were not refused".to_owned());
    }
    call.inputs.shape = Shape::contiguous(ROWS, 1);
    call.config.smoothing = Smoothing::OtherClasses;
    let refused = matches!(call.forward(), Err(Error::TooFewClasses { .. }));
    if refused { Ok(()) } else { Err("smoothing over no class was not refused".to_owned()) }
}

fn pinned() -> Result<(), String> {
    let Rig { kernels, stream, .. } = Rig::here();
    let kernels = kernels.clone().with_selection(Selection::Pinned(Strategy::Tiny));
    let small = Small::new().map_err(|error| error.to_string())?;
    let Call { config, mut inputs, outputs, workspace, .. } = small.call;
    inputs.shape = Shape::contiguous(1, 100_000);
    // SAFETY: it is refused before anything is read.
    let found = unsafe {
        raw::loss::forward(&kernels, stream.cu_stream(), config, inputs, outputs, workspace)
    };
    match found {
        Err(Error::Strategy {
            strategy: Strategy::Tiny,
            obstacle: Obstacle::Classes { classes: 100_000, .. },
        }) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn no_rows() -> Result<(), String> {
    for form in Form::ON_RAW_POINTERS {
        let case = Case::new(Dtype::F32, 0, 5, 98);
        let found = case.run_form(form).map_err(|error| format!("{form:?}: {error}"))?;
        if !found.loss.is_some_and(f32::is_nan) || found.correct != Some(0) {
            return Err(format!("{form:?}: {found:?}"));
        }
    }
    // Empty tensors have null addresses elsewhere.
    let small = Small::new().map_err(|error| error.to_string())?;
    let mut call = small.call;
    call.inputs = LossInputs::new(
        Dtype::F16,
        TargetType::I64,
        Shape::contiguous(0, CLASSES_OF_FEW),
        Logits::At(0),
        0,
    );
    call.gradient = Gradient { matrix: 0, upstream: Upstream::PerRow(0) };
    for operation in LOSSES.into_iter().chain(BINARIES) {
        expect("no rows", operation(&call), Ok(()))?;
    }
    Ok(())
}

/// Zeroed memory is a record of no bad target; what is recorded is taken once.
fn status() -> Result<(), String> {
    let Rig { kernels, stream, .. } = Rig::here();
    let small = Small::new().map_err(|error| error.to_string())?;
    let mut call = small.call;
    let (workspace, cu_stream) = (call.workspace, stream.cu_stream());
    // SAFETY: the workspace is that of `small`.
    let take = || unsafe { raw::take_status(kernels, cu_stream, workspace) };
    expect("nothing yet", take(), Ok(()))?;
    let targets = upload(stream, &[3i64, -7, 5, 6]);
    call.inputs.targets = address(stream, &targets);
    let bad = |count| {
        Err(Error::BadTargets { count, row: 1, target: -7, classes: CLASSES_OF_FEW as u64 })
    };
    for (operation, count) in [(LOSSES[0], 2), (LOSSES[1], 2), (BINARIES[0], 2)] {
        expect("a call", operation(&call), Ok(()))?;
        expect("bad targets", take(), bad(count))?;
        expect("taken", take(), Ok(()))?;
    }
    expect("the first", call.forward(), Ok(()))?;
    expect("the second", call.forward_backward(), Ok(()))?;
    expect("both", take(), bad(4))?;
    let small = Memory { bytes: 64, ..workspace };
    // SAFETY: it is refused.
    let found = unsafe { raw::take_status(kernels, cu_stream, small) };
    let needed = raw::workspace_bytes(0).map_err(|error| error.to_string())?;
    expect("small", found, Err(Error::Memory { buffer: "workspace", bytes: 64, needed }))?;
    let null = Memory { address: 0, ..workspace };
    // SAFETY: it is refused.
    let found = unsafe { raw::take_status(kernels, cu_stream, null) };
    expect("null", found, Err(Error::Null { buffer: "workspace" }))
}

/// Problems of different sizes, in turns, on one workspace with bytes to spare: tickets are found at zero.
fn workspace_of_a_larger_problem() -> Result<(), String> {
    let Rig { kernels, stream, .. } = Rig::here();
    let bytes = raw::workspace_bytes(3000).map_err(|error| error.to_string())? + 333;
    let memory = RawMemory::zeroed(stream, bytes);
    let all = Case { target_type: TargetType::I32, ..Case::new(Dtype::F32, 3000, 7, 99) };
    let (x, y) = (upload(stream, &all.logits), upload(stream, &vec![2i32; 3000]));
    let mut results = vec![];
    for rows in [3000, 5, 1025, 3000, 1, 1025] {
        let loss = upload(stream, &[0f32]);
        let shape = Shape::contiguous(rows, 7);
        let logits = Logits::At(address(stream, &x));
        let inputs =
            LossInputs::new(Dtype::F32, TargetType::I32, shape, logits, address(stream, &y));
        let outputs = LossOutputs { loss: address(stream, &loss), ..LossOutputs::default() };
        let (cu_stream, config) = (stream.cu_stream(), LossConfig::pytorch());
        // SAFETY: the buffers are as long as the shape says, and waited for below.
        let called = unsafe {
            raw::loss::forward(kernels, cu_stream, config, inputs, outputs, memory.memory())
        };
        called.map_err(|error| format!("{rows} rows: {error}"))?;
        let case = Case {
            targets: vec![2; rows],
            config,
            placement: Placement::PACKED,
            logits: all.logits[..7 * rows].to_vec(),
            ..all.clone()
        };
        let safe = case.run().map_err(|error| error.to_string())?.loss;
        let found = stream.clone_dtoh(&loss).map_err(|error| error.to_string())?[0];
        results.push((rows, found.to_bits(), safe.map(f32::to_bits)));
    }
    match results.iter().find(|(_, found, safe)| Some(*found) != *safe) {
        None => Ok(()),
        Some(differs) => Err(format!("{differs:?}")),
    }
}

/// Whether all is 0 where rows are counted and summed.
fn nothing_is_left(workspace: &RawMemory) -> Result<(), String> {
    /// The record of bad targets, of which there are none, tickets and counts: the head of a workspace (abi.h) but for
    /// what a mean was divided by.
    const HEAD: usize = 64;
    // After the head, partial results stay.
    let fixed = raw::workspace_bytes(0).map_err(|error| error.to_string())?;
    let bytes = workspace.read();
    match (0..HEAD).chain(fixed..bytes.len()).find(|&at| bytes[at] != 0) {
        None => Ok(()),
        Some(at) => Err(format!("byte {at} of a workspace of {} is not 0", bytes.len())),
    }
}

/// All is 0 again after a call: the next one is of other rows.
fn workspaces_are_left_as_they_were() -> Result<(), String> {
    let Rig { stream, kernels, .. } = Rig::here();
    // And whether the strategy has kernels for class indices, target probabilities, binary losses.
    for (strategy, rows, classes, has) in [
        // The normalizer's blocks count more than one has room for.
        (Strategy::Tiny, 8200, 3, [true, false, true]),
        (Strategy::Warp, 1100, 300, [true, true, true]),
        (Strategy::Block, 1100, 300, [true, true, true]),
        (Strategy::TwoPass, 1100, 300, [true, true, false]),
        (Strategy::Cluster, 1100, 300, [true, true, false]),
        (Strategy::SplitRow, 1000, 300, [true, false, false]),
    ] {
        let kernels = kernels.clone().with_selection(Selection::Pinned(strategy));
        let bytes = raw::workspace_bytes(rows).map_err(|error| error.to_string())?;
        let workspace = RawMemory::zeroed(stream, bytes);
        let logits = upload(stream, &Case::new(Dtype::F32, rows, classes, 103).logits);
        let targets = upload(stream, &inputs::targets(rows, classes, 104));
        let gradient = upload(stream, &vec![0f32; rows * classes]);
        let (loss, correct) = (upload(stream, &[0f32]), upload(stream, &[0i64]));
        let config = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
        let shape = Shape::contiguous(rows, classes);
        let (logits_at, targets_at) =
            (Logits::At(address(stream, &logits)), address(stream, &targets));
        let inputs = LossInputs::new(Dtype::F32, TargetType::I64, shape, logits_at, targets_at);
        let to = Gradient::new(address(stream, &gradient));
        let (cu_stream, memory) = (stream.cu_stream(), workspace.memory());
        let is_fine = |what: &str, called: Result<(), Error>| {
            let about = |error: String| format!("{strategy}, {what}: {error}");
            match called {
                Err(Error::Strategy { .. }) => return Ok(false),
                other => other.map_err(|error| about(error.to_string()))?,
            }
            nothing_is_left(&workspace).map(|()| true).map_err(about)
        };
        let mut class_indices = true;
        for (count, both) in [(0, true), (address(stream, &correct), true), (0, false)] {
            let outputs = LossOutputs {
                loss: address(stream, &loss),
                correct: count,
                ..LossOutputs::default()
            };
            // SAFETY: the buffers are as long as the shape says, and are read below.
            let called = unsafe {
                if both {
                    raw::loss::forward_backward(
                        &kernels, cu_stream, config, inputs, outputs, to, memory,
                    )
                } else {
                    raw::loss::forward(&kernels, cu_stream, config, inputs, outputs, memory)
                }
            };
            class_indices &= is_fine("class indices", called)?;
        }
        let outputs = LossOutputs { loss: address(stream, &loss), ..LossOutputs::default() };
        let probabilities = upload(stream, &vec![1.0 / classes as f32; rows * classes]);
        let inputs = LossInputs::new(
            Dtype::F32,
            TargetType::Probabilities(Dtype::F32),
            shape,
            logits_at,
            address(stream, &probabilities),
        );
        let mean = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
        // SAFETY: as above.
        let called = unsafe {
            raw::loss::forward_backward(&kernels, cu_stream, mean, inputs, outputs, to, memory)
        };
        let probabilities = is_fine("probabilities", called)?;
        let inputs = raw::BinaryInputs::new(
            Dtype::F32,
            TargetType::I64,
            shape,
            logits_at,
            address(stream, &targets),
        );
        let config = BinaryConfig { ignore_index: Some(1), ..BinaryConfig::default() };
        let outputs = raw::BinaryOutputs { loss: address(stream, &loss), ..Default::default() };
        // SAFETY: as above.
        let called = unsafe {
            raw::binary::forward_backward(&kernels, cu_stream, config, inputs, outputs, to, memory)
        };
        let taken = [class_indices, probabilities, is_fine("binary", called)?];
        // Not every device has clusters.
        let without = strategy == Strategy::Cluster && taken == [false; 3];
        if taken != has && !without {
            return Err(format!("{strategy} took {taken:?}"));
        }
    }
    Ok(())
}

/// A graph of a call, with a normalizer of its own, takes what the buffers hold at each replay: on each strategy,
/// among them launches of clusters, launches that begin early, and two launches for the rows.
fn captured() -> Result<(), String> {
    // Events of a context's own buffers may not be recorded while something is captured.
    let context = smoothxent::open(0).map_err(|error| error.to_string())?;
    // Before there is a stream: with tracking, cudarc waits for the whole context when the first one is made.
    // SAFETY: all that follows is on one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().map_err(|error| format!("{:?}", error.0))?;
    let kernels = Kernels::load(&context).map_err(|error| error.to_string())?;
    for strategy in Strategy::ALL {
        let kernels = kernels.clone().with_selection(Selection::Pinned(strategy));
        replayed(&kernels, &stream).map_err(|error| format!("{strategy}: {error}"))?;
    }
    Ok(())
}

/// While other threads load and drop handles, and make and drop class weights. A wait for the whole context by
/// cuCtxSynchronize ended the process there, by driver 580.159.
fn captured_beside_drops() -> Result<(), String> {
    const OTHERS: usize = 6;
    let context = &Rig::here().context;
    // Before anything is captured, for the same reason.
    let streams = (0..OTHERS).map(|_| context.new_stream());
    let streams =
        streams.collect::<Result<Vec<_>, _>>().map_err(|error| format!("{:?}", error.0))?;
    let is_done = AtomicBool::new(false);
    let come_and_go = |number: usize, stream: &Arc<CudaStream>| -> Result<(), String> {
        // Once at least.
        loop {
            if number == 0 {
                drop(Kernels::load(context).map_err(|error| error.to_string())?);
            }
            drop(ClassWeights::new(stream, &[1.0; 30]).map_err(|error| error.to_string())?);
            if is_done.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    };
    let come_and_go = &come_and_go;
    thread::scope(|scope| {
        let others: Vec<_> = streams
            .iter()
            .enumerate()
            .map(|(number, stream)| scope.spawn(move || come_and_go(number, stream)))
            .collect();
        let rounds = repeats(1).and_then(|rounds| {
            // A panic would leave the others at it for ever.
            let all = || (0..rounds).try_for_each(|_| captured());
            catch_unwind(AssertUnwindSafe(all)).unwrap_or_else(|_| Err("it panicked".to_owned()))
        });
        is_done.store(true, Ordering::Relaxed);
        let others = others.into_iter().map(|other| {
            other.join().unwrap_or_else(|_| Err("another thread panicked".to_owned()))
        });
        rounds.and(others.collect())
    })
}

fn replayed(kernels: &Kernels, stream: &Arc<CudaStream>) -> Result<(), String> {
    // Of fewer rows each block counts by itself.
    const MANY: usize = 300;
    let of_driver = |error: DriverError| format!("{:?}", error.0);
    let config = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
    let types = Types {
        dtype: Dtype::F32,
        targets: TargetType::I64,
        class_weights: ClassWeighting::Absent,
    };
    let plan = |classes| {
        let shape = Shape::contiguous(MANY, classes);
        Problem::new(types, shape, config, Pass::Fused, Place::Apart)
            .and_then(|problem| kernels.plan(&problem))
    };
    let Some((classes, plan)) =
        [9, 300, 9000].into_iter().find_map(|classes| Some((classes, plan(classes).ok()?)))
    else {
        // Such as clusters, which not every device has.
        return match plan(9) {
            Err(Error::Strategy { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        };
    };
    let Plan::Launches { normalizer: Normalizer::Launch(_), .. } = plan else {
        return Err(format!("no launch of the normalizer:\n{plan}"));
    };
    let bytes = raw::workspace_bytes(MANY).map_err(|error| error.to_string())?;
    let workspace = RawMemory::zeroed(stream, bytes);
    let targets = upload(stream, &inputs::targets(MANY, classes, 100));
    let first = Case::new(Dtype::F32, MANY, classes, 101).logits;
    let second = Case::new(Dtype::F32, MANY, classes, 102).logits;
    let mut logits = upload(stream, &first);
    let gradient = upload(stream, &vec![0f32; MANY * classes]);
    let loss = upload(stream, &[0f32]);
    let shape = Shape::contiguous(MANY, classes);
    let (logits_at, targets_at) = (Logits::At(address(stream, &logits)), address(stream, &targets));
    let inputs = LossInputs::new(Dtype::F32, TargetType::I64, shape, logits_at, targets_at);
    let outputs = LossOutputs { loss: address(stream, &loss), ..LossOutputs::default() };
    let to = Gradient::new(address(stream, &gradient));
    let call = || {
        let (cu_stream, memory) = (stream.cu_stream(), workspace.memory());
        // SAFETY: the buffers are as long as the shape says, and outlive the graph below.
        unsafe {
            raw::loss::forward_backward(kernels, cu_stream, config, inputs, outputs, to, memory)
        }
        .map_err(|error| error.to_string())
    };
    let results = || -> Result<Vec<u32>, String> {
        let gradient = stream.clone_dtoh(&gradient).map_err(of_driver)?;
        let loss = stream.clone_dtoh(&loss).map_err(of_driver)?;
        stream.synchronize().map_err(of_driver)?;
        Ok(gradient.iter().chain(&loss).map(|x| x.to_bits()).collect())
    };
    call()?;
    let of_first = results()?;
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .map_err(of_driver)?;
    let captured = call();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).map_err(of_driver)?;
    captured?;
    let graph = graph.ok_or("nothing was captured")?;
    stream.memcpy_htod(&second, &mut logits).map_err(of_driver)?;
    for _ in 0..2 {
        graph.launch().map_err(of_driver)?;
    }
    let replayed = results()?;
    call()?;
    if replayed != results()? || replayed == of_first {
        return Err("a replay differs from a call".to_owned());
    }
    Ok(())
}

fn beyond_memory() -> Result<(), String> {
    let rows = usize::MAX / 2;
    for bytes in [raw::workspace_bytes(rows), raw::saved_bytes(rows)] {
        if bytes != Err(Error::WorkspaceSize { rows }) {
            return Err(format!("{bytes:?}"));
        }
    }
    Ok(())
}
