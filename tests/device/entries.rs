//! Every buffer of every public entry: too short, too long where it has to match, of another context.

use std::sync::Arc;

use libtest_mimic::Trial;
use smoothxent::{
    BinaryConfig, ClassWeights, Error, Gradient, Kernels, LogSoftmaxShape, LossConfig, LossInputs,
    LossOutputs, Reduction, SavedSoftmax, Shape, Upstream, Workspace,
    binary::{self, BinaryInputs, BinaryOutputs},
    cudarc::driver::{CudaContext, CudaSlice, DeviceRepr, ValidAsZeroBits},
    half::f16,
    log_softmax::{self, LogSoftmaxOutputs, Softmax},
    loss,
};

use crate::{common::run::Rig, trial};

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = ENTRIES
        .iter()
        .map(|entry| trial(format!("entries::{}", entry.name), || every_buffer(entry)))
        .collect();
    trials.push(trial("entries::saved_by_another_problem", saved_by_another_problem));
    trials
}

/// Rows and classes differ from each other and from 1, and the strides of all matrices, too.
const ROWS: usize = 3;
const CLASSES: usize = 5;
const STRIDES: [usize; 3] = [6, 7, 8];

const fn span(matrix: usize) -> usize {
    (ROWS - 1) * STRIDES[matrix] + CLASSES
}

const LOGITS: usize = span(0);
const GRADIENT: usize = span(1);
const TARGETS: usize = span(2);

/// A buffer's name in errors, the elements that it needs, and whether it may have more.
type Buffer = (&'static str, usize, bool);

struct Entry {
    name: &'static str,
    buffers: &'static [Buffer],
    call: fn(&Maker<'_>) -> Result<(), Error>,
}

const ENTRIES: [Entry; 10] = [
    Entry {
        name: "loss::forward",
        buffers: &[
            ("logits", LOGITS, true),
            ("targets", ROWS, false),
            ("class_weights", CLASSES, false),
            ("loss", 1, false),
            ("row_losses", ROWS, false),
            ("row_lse", ROWS, false),
            ("row_argmax", ROWS, false),
            ("correct", 1, false),
        ],
        call: |make| loss_of(make, Kind::Forward),
    },
    Entry {
        name: "loss::forward_backward",
        buffers: &[
            ("logits", LOGITS, true),
            ("targets", ROWS, false),
            ("class_weights", CLASSES, false),
            ("upstream", ROWS, false),
            ("gradient", GRADIENT, true),
            ("loss", 1, false),
            ("row_losses", ROWS, false),
            ("row_lse", ROWS, false),
            ("row_argmax", ROWS, false),
            ("correct", 1, false),
        ],
        call: |make| loss_of(make, Kind::Fused),
    },
    Entry {
        name: "loss::forward_backward in place",
        buffers: &[("targets", ROWS, false), ("gradient", LOGITS, true)],
        call: in_place,
    },
    Entry {
        name: "loss::backward",
        buffers: &[
            ("logits", LOGITS, true),
            ("targets", ROWS, false),
            ("class_weights", CLASSES, false),
            ("upstream", ROWS, false),
            ("gradient", GRADIENT, true),
        ],
        call: backward,
    },
    Entry {
        name: "loss::forward of probabilities",
        buffers: &[("logits", LOGITS, true), ("targets", TARGETS, true)],
        call: of_probabilities,
    },
    Entry {
        name: "log_softmax::forward",
        buffers: &[("logits", LOGITS, true), ("output", GRADIENT, true), ("row_lse", ROWS, false)],
        call: log_softmax_forward,
    },
    Entry {
        name: "log_softmax::backward of log-probabilities",
        buffers: &[
            ("log_probs", GRADIENT, true),
            ("upstream", TARGETS, true),
            ("gradient", LOGITS, true),
        ],
        call: |make| log_softmax_backward(make, true),
    },
    Entry {
        name: "log_softmax::backward of logits",
        buffers: &[
            ("logits", LOGITS, true),
            ("upstream", TARGETS, true),
            ("gradient", LOGITS, true),
        ],
        call: |make| log_softmax_backward(make, false),
    },
    Entry {
        name: "binary::forward_backward",
        buffers: &[
            ("logits", LOGITS, true),
            ("targets", TARGETS, true),
            ("class_weights", CLASSES, false),
            ("positive_weights", CLASSES, false),
            ("upstream", ROWS, false),
            ("gradient", GRADIENT, true),
            ("loss", 1, false),
            ("row_losses", ROWS, false),
        ],
        call: |make| binary_of(make, Kind::Fused),
    },
    Entry {
        name: "binary::backward",
        buffers: &[
            ("logits", LOGITS, true),
            ("targets", TARGETS, true),
            ("class_weights", CLASSES, false),
            ("positive_weights", CLASSES, false),
            ("upstream", ROWS, false),
            ("gradient", GRADIENT, true),
        ],
        call: |make| binary_of(make, Kind::Backward),
    },
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Forward,
    Backward,
    Fused,
}

/// Makes buffers as they should be, but one.
struct Maker<'a> {
    odd: &'a str,
    /// Elements that the odd one has instead.
    len: usize,
    /// Where the odd one is.
    context: Arc<CudaContext>,
}

impl Maker<'_> {
    fn make<T: DeviceRepr + ValidAsZeroBits>(&self, name: &str, len: usize) -> CudaSlice<T> {
        let (context, len) = self.place(name, len);
        context.default_stream().alloc_zeros(len).expect("a few bytes are left")
    }

    fn weights(&self, name: &str) -> ClassWeights {
        let (context, len) = self.place(name, CLASSES);
        let stream = context.default_stream();
        ClassWeights::new(&stream, &vec![1.0; len]).expect("a few bytes are left")
    }

    fn place(&self, name: &str, len: usize) -> (Arc<CudaContext>, usize) {
        if name == self.odd {
            (self.context.clone(), self.len)
        } else {
            (Rig::here().context.clone(), len)
        }
    }
}

fn every_buffer(entry: &Entry) -> Result<(), String> {
    let here = &Rig::here().context;
    let elsewhere = smoothxent::open(0).map_err(|error| error.to_string())?;
    let call = |odd, len, context: &Arc<CudaContext>| {
        (entry.call)(&Maker { odd, len, context: context.clone() })
    };
    call("none", 0, here).map_err(|error| format!("as it should be: {error}"))?;
    for &(buffer, needed, may_be_longer) in entry.buffers {
        // The driver has no empty buffers.
        if needed > 1 {
            let refused = Err(Error::Length { buffer, len: needed - 1, needed });
            let found = call(buffer, needed - 1, here);
            if found != refused {
                return Err(format!("{buffer}, one short: {found:?}"));
            }
        }
        let longer = call(buffer, needed + 1, here);
        let expected = match may_be_longer {
            true => Ok(()),
            false => Err(Error::Length { buffer, len: needed + 1, needed }),
        };
        if longer != expected {
            return Err(format!("{buffer}, one more: {longer:?}"));
        }
        let refused = Err(Error::OtherContext { buffer, expected: 0, found: 0 });
        let found = call(buffer, needed, &elsewhere);
        if found != refused {
            return Err(format!("{buffer} elsewhere: {found:?}"));
        }
    }
    Ok(())
}

fn shape() -> Shape {
    let [logits_row_stride, gradient_row_stride, targets_row_stride] = STRIDES;
    Shape {
        rows: ROWS,
        classes: CLASSES,
        logits_row_stride,
        gradient_row_stride,
        targets_row_stride,
    }
}

fn loss_of(make: &Maker<'_>, kind: Kind) -> Result<(), Error> {
    let Rig { kernels, stream, .. } = Rig::here();
    let logits = make.make::<f16>("logits", LOGITS);
    let targets = make.make::<i32>("targets", ROWS);
    let weights = make.weights("class_weights");
    let upstream = make.make::<f32>("upstream", ROWS);
    let mut gradient = make.make::<f16>("gradient", GRADIENT);
    let (mut loss, mut row_losses) =
        (make.make::<f32>("loss", 1), make.make::<f32>("row_losses", ROWS));
    let mut row_lse = make.make::<f32>("row_lse", ROWS);
    let mut row_argmax = make.make::<i64>("row_argmax", ROWS);
    let mut correct = make.make::<i64>("correct", 1);
    let mut workspace = Workspace::new(stream, ROWS)?;
    let inputs =
        LossInputs { class_weights: Some(&weights), ..LossInputs::new(shape(), &logits, &targets) };
    let outputs = LossOutputs {
        loss: Some(&mut loss),
        row_losses: Some(&mut row_losses),
        row_lse: Some(&mut row_lse),
        row_argmax: Some(&mut row_argmax),
        correct: Some(&mut correct),
        saved: None,
    };
    let config = LossConfig::default();
    if kind == Kind::Forward {
        return loss::forward(kernels, stream, config, inputs, outputs, &mut workspace);
    }
    let to = Gradient { matrix: &mut gradient, upstream: Upstream::PerRow(&upstream) };
    loss::forward_backward(kernels, stream, config, inputs, outputs, to, &mut workspace)
}

fn in_place(make: &Maker<'_>) -> Result<(), Error> {
    let Rig { kernels, stream, .. } = Rig::here();
    let targets = make.make::<i32>("targets", ROWS);
    let mut logits = make.make::<f16>("gradient", LOGITS);
    let mut workspace = Workspace::new(stream, ROWS)?;
    let shape = Shape { gradient_row_stride: STRIDES[0], ..shape() };
    let inputs = LossInputs::in_place(shape, &targets);
    let (outputs, to) = (LossOutputs::default(), Gradient::new(&mut logits));
    let config = LossConfig::default();
    loss::forward_backward(kernels, stream, config, inputs, outputs, to, &mut workspace)
}

/// After a forward pass of buffers that are as they should be.
fn backward(make: &Maker<'_>) -> Result<(), Error> {
    let Rig { kernels, stream, context } = Rig::here();
    let right = Maker { odd: "none", len: 0, context: context.clone() };
    let mut saved = SavedSoftmax::new(stream, ROWS)?;
    let config = LossConfig::default();
    {
        let logits = right.make::<f16>("logits", LOGITS);
        let targets = right.make::<i32>("targets", ROWS);
        let weights = right.weights("class_weights");
        let inputs = LossInputs {
            class_weights: Some(&weights),
            ..LossInputs::new(shape(), &logits, &targets)
        };
        let outputs = LossOutputs { saved: Some(&mut saved), ..LossOutputs::default() };
        let mut workspace = Workspace::new(stream, ROWS)?;
        loss::forward(kernels, stream, config, inputs, outputs, &mut workspace)?;
    }
    let logits = make.make::<f16>("logits", LOGITS);
    let targets = make.make::<i32>("targets", ROWS);
    let weights = make.weights("class_weights");
    let upstream = make.make::<f32>("upstream", ROWS);
    let mut gradient = make.make::<f16>("gradient", GRADIENT);
    let inputs =
        LossInputs { class_weights: Some(&weights), ..LossInputs::new(shape(), &logits, &targets) };
    let to = Gradient { matrix: &mut gradient, upstream: Upstream::PerRow(&upstream) };
    loss::backward(kernels, stream, config, inputs, &saved, to)
}

fn of_probabilities(make: &Maker<'_>) -> Result<(), Error> {
    let Rig { kernels, stream, .. } = Rig::here();
    let logits = make.make::<f16>("logits", LOGITS);
    let targets = make.make::<f32>("targets", TARGETS);
    let mut workspace = Workspace::new(stream, ROWS)?;
    let inputs = LossInputs::new(shape(), &logits, &targets);
    let (config, outputs) = (LossConfig::default(), LossOutputs::default());
    loss::forward(kernels, stream, config, inputs, outputs, &mut workspace)
}

fn log_softmax_shape() -> LogSoftmaxShape {
    LogSoftmaxShape {
        rows: ROWS,
        classes: CLASSES,
        logits_row_stride: STRIDES[0],
        output_row_stride: STRIDES[1],
        upstream_row_stride: STRIDES[2],
        gradient_row_stride: STRIDES[0],
    }
}

fn log_softmax_forward(make: &Maker<'_>) -> Result<(), Error> {
    let Rig { kernels, stream, .. } = Rig::here();
    let logits = make.make::<f16>("logits", LOGITS);
    let mut output = make.make::<f16>("output", GRADIENT);
    let mut row_lse = make.make::<f32>("row_lse", ROWS);
    let mut saved = SavedSoftmax::new(stream, ROWS - 1)?;
    // Strides that no call names are nobody's business.
    let shape = LogSoftmaxShape { upstream_row_stride: 0, ..log_softmax_shape() };
    let outputs =
        LogSoftmaxOutputs { saved: Some(&mut saved), ..LogSoftmaxOutputs::new(&mut output) };
    let refused = Error::SavedCapacity { capacity: ROWS - 1, rows: ROWS };
    match log_softmax::forward(kernels, stream, shape, &logits, outputs) {
        // What is odd is found first.
        Err(error) if error == refused => {}
        other => return other,
    }
    let outputs =
        LogSoftmaxOutputs { row_lse: Some(&mut row_lse), ..LogSoftmaxOutputs::new(&mut output) };
    log_softmax::forward(kernels, stream, shape, &logits, outputs)
}

fn log_softmax_backward(make: &Maker<'_>, of_log_probs: bool) -> Result<(), Error> {
    let Rig { kernels, stream, context } = Rig::here();
    let right = Maker { odd: "none", len: 0, context: context.clone() };
    let mut saved = SavedSoftmax::new(stream, ROWS)?;
    let shape = log_softmax_shape();
    {
        let logits = right.make::<f16>("logits", LOGITS);
        let mut output = right.make::<f16>("output", GRADIENT);
        let outputs =
            LogSoftmaxOutputs { saved: Some(&mut saved), ..LogSoftmaxOutputs::new(&mut output) };
        log_softmax::forward(kernels, stream, shape, &logits, outputs)?;
    }
    let logits = make.make::<f16>("logits", LOGITS);
    let log_probs = make.make::<f16>("log_probs", GRADIENT);
    let upstream = make.make::<f16>("upstream", TARGETS);
    let mut gradient = make.make::<f16>("gradient", LOGITS);
    let from = match of_log_probs {
        true => Softmax::OfLogProbabilities(&log_probs),
        false => Softmax::OfLogits(&logits, &saved),
    };
    log_softmax::backward(kernels, stream, shape, from, &upstream, &mut gradient)
}

fn binary_of(make: &Maker<'_>, kind: Kind) -> Result<(), Error> {
    let Rig { kernels, stream, .. } = Rig::here();
    let logits = make.make::<f16>("logits", LOGITS);
    let targets = make.make::<f32>("targets", TARGETS);
    let (weights, positive) = (make.weights("class_weights"), make.weights("positive_weights"));
    let upstream = make.make::<f32>("upstream", ROWS);
    let mut gradient = make.make::<f16>("gradient", GRADIENT);
    let (mut loss, mut row_losses) =
        (make.make::<f32>("loss", 1), make.make::<f32>("row_losses", ROWS));
    let mut workspace = Workspace::new(stream, ROWS)?;
    let inputs = BinaryInputs {
        class_weights: Some(&weights),
        positive_weights: Some(&positive),
        ..BinaryInputs::new(shape(), &logits, &targets)
    };
    let to = Gradient { matrix: &mut gradient, upstream: Upstream::PerRow(&upstream) };
    let config = BinaryConfig::default();
    if kind == Kind::Backward {
        return binary::backward(kernels, stream, config, inputs, to, &mut workspace);
    }
    let outputs = BinaryOutputs { loss: Some(&mut loss), row_losses: Some(&mut row_losses) };
    binary::forward_backward(kernels, stream, config, inputs, outputs, to, &mut workspace)
}

/// What was saved is that of the last forward pass alone: of its dtype, its type of targets, its sizes.
fn saved_by_another_problem() -> Result<(), String> {
    let Rig { kernels, stream, .. } = Rig::here();
    let failed = |error: Error| error.to_string();
    let make = Maker { odd: "none", len: 0, context: Rig::here().context.clone() };
    let f16s = make.make::<f16>("logits", LOGITS);
    let f32s = make.make::<f32>("logits", LOGITS);
    let i32s = make.make::<i32>("targets", ROWS);
    let i64s = make.make::<i64>("targets", ROWS);
    let mut f16_gradient = make.make::<f16>("gradient", GRADIENT);
    let mut f32_gradient = make.make::<f32>("gradient", GRADIENT);
    let mut saved = SavedSoftmax::new(stream, ROWS).map_err(failed)?;
    let mut workspace = Workspace::new(stream, ROWS).map_err(failed)?;
    let config = LossConfig { reduction: Reduction::Sum, ..LossConfig::default() };
    let inputs = LossInputs::new(shape(), &f16s, &i32s);
    let mut save = |saved: &mut SavedSoftmax, inputs, kernels: &Kernels| {
        let outputs = LossOutputs { saved: Some(saved), ..LossOutputs::default() };
        loss::forward::<f16, i32>(kernels, stream, config, inputs, outputs, &mut workspace)
    };
    save(&mut saved, inputs, kernels).map_err(failed)?;
    let refused = |what: &str, found: Result<(), Error>| match found {
        Err(Error::SavedSoftmax { .. }) => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    };
    let of_f32 = LossInputs::new(shape(), &f32s, &i32s);
    let to = Gradient::new(&mut f32_gradient);
    refused("f32", loss::backward(kernels, stream, config, of_f32, &saved, to))?;
    let of_i64 = LossInputs::new(shape(), &f16s, &i64s);
    let to = Gradient::new(&mut f16_gradient);
    refused("i64", loss::backward(kernels, stream, config, of_i64, &saved, to))?;
    // A second forward pass takes its place.
    let fewer = LossInputs { shape: Shape { rows: ROWS - 1, ..shape() }, ..inputs };
    let two = i32s.slice(..ROWS - 1);
    save(&mut saved, LossInputs { targets: &two, ..fewer }, kernels).map_err(failed)?;
    let to = Gradient::new(&mut f16_gradient);
    refused("replaced", loss::backward(kernels, stream, config, inputs, &saved, to))?;
    save(&mut saved, inputs, kernels).map_err(failed)?;
    let elsewhere = smoothxent::open(0).map_err(failed)?;
    let others = Kernels::load(&elsewhere).map_err(failed)?;
    let found =
        loss::backward(&others, stream, config, inputs, &saved, Gradient::new(&mut f16_gradient));
    match found {
        Err(Error::OtherContext { buffer: "saved softmax", .. }) => {}
        other => return Err(format!("kernels elsewhere: {other:?}")),
    }
    let to = Gradient::new(&mut f16_gradient);
    loss::backward(kernels, stream, config, inputs, &saved, to).map_err(failed)
}
