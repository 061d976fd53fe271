//! Log-softmax of rows, or softmax, and its gradient, as operations of their own.
//!
//! ```text
//! log_probs[k] = x_k - log sum_j exp(x_j)
//! gradient[k]  = upstream[k] - exp(log_probs[k]) sum_j upstream[j]
//! ```
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use smoothxent::log_softmax::{self, LogSoftmaxOutputs, Softmax};
//! use smoothxent::{Kernels, LogSoftmaxShape, half::f16};
//!
//! let context = smoothxent::open(0)?;
//! let stream = context.default_stream();
//! let kernels = Kernels::load(&context)?;
//! let shape = LogSoftmaxShape::contiguous(64, 1000);
//! let logits = stream.alloc_zeros::<f16>(64_000)?;
//! let mut log_probs = stream.alloc_zeros::<f16>(64_000)?;
//! let outputs = LogSoftmaxOutputs::new(&mut log_probs);
//! log_softmax::forward(&kernels, &stream, shape, &logits, outputs)?;
//!
//! let upstream = stream.alloc_zeros::<f16>(64_000)?;
//! let mut gradient = stream.alloc_zeros::<f16>(64_000)?;
//! let from = Softmax::OfLogProbabilities(&log_probs);
//! log_softmax::backward(&kernels, &stream, shape, from, &upstream, &mut gradient)?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use cudarc::driver::{CudaStream, sys::CUdeviceptr};

pub use crate::problem::LogSoftmaxShape;
use crate::{
    buffer::{DeviceRead, DeviceWrite, Logit, Requirement, SavedSoftmax},
    call::{guarded, optional},
    error::Error,
    module::Kernels,
    problem::{LogSoftmaxProblem, Pass},
    raw::{
        self, SavedAddresses,
        log_softmax::{Addresses, BackwardAddresses},
    },
};

/// Where [`forward`] writes its result: `[rows, classes]` with a row stride.
pub enum SoftmaxOutput<'a, T> {
    /// log softmax(x).
    LogProbabilities(&'a mut dyn DeviceWrite<T>),
    /// softmax(x). [`backward`] knows no gradient of it: its upstream gradient is that of log-probabilities.
    Probabilities(&'a mut dyn DeviceWrite<T>),
}

/// Outputs of [`forward`].
pub struct LogSoftmaxOutputs<'a, T> {
    /// `[rows, classes]`.
    pub output: SoftmaxOutput<'a, T>,
    /// `[rows]`: each row's log-sum-exp.
    pub row_lse: Option<&'a mut dyn DeviceWrite<f32>>,
    /// What [`Softmax::OfLogits`] needs.
    pub saved: Option<&'a mut SavedSoftmax>,
}

impl<'a, T> LogSoftmaxOutputs<'a, T> {
    /// Log-probabilities alone.
    pub fn new(log_probs: &'a mut dyn DeviceWrite<T>) -> Self {
        let output = SoftmaxOutput::LogProbabilities(log_probs);
        Self { output, row_lse: None, saved: None }
    }
}

/// Where [`backward`] takes the probabilities from.
#[derive(Clone, Copy)]
pub enum Softmax<'a, T> {
    /// exp of the log-probabilities that [`forward`] wrote, as PyTorch does: with the rounding of the
    /// stored log-probability, and without digits of 1 - p as p -> 1.
    OfLogProbabilities(&'a dyn DeviceRead<T>),
    /// The logits, and what [`forward`] saved of them: accurate in every dtype, also as p -> 1.
    OfLogits(&'a dyn DeviceRead<T>, &'a SavedSoftmax),
}

/// Enqueues the log-softmax, or softmax, of each row on `stream`; allocates nothing, waits for nothing.
///
/// Reads each logit once and writes each output once where [`loss::forward_backward`](crate::loss::forward_backward)
/// does; all arithmetic is f32. A row that
/// holds NaN or +inf, or nothing but -inf, gives NaN.
///
/// # Errors
/// Before anything is enqueued: those of [`LogSoftmaxProblem::new`]; [`Error::RowStride`] and
/// [`Error::Size`]; [`Error::Length`]; [`Error::BufferSize`]; [`Error::OtherContext`];
/// [`Error::SavedCapacity`]; [`Error::Strategy`]. [`Error::Driver`] if the launch is refused.
pub fn forward<T: Logit>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    shape: LogSoftmaxShape,
    logits: &dyn DeviceRead<T>,
    mut outputs: LogSoftmaxOutputs<'_, T>,
) -> Result<(), Error> {
    let problem = LogSoftmaxProblem::new(T::DTYPE, shape)?;
    let context = kernels.context();
    let require = |name, needed| Requirement { name, context, needed };
    let (output, what): (_, fn(CUdeviceptr) -> raw::SoftmaxOutput) = match &mut outputs.output {
        SoftmaxOutput::LogProbabilities(output) => (output, raw::SoftmaxOutput::LogProbabilities),
        SoftmaxOutput::Probabilities(output) => (output, raw::SoftmaxOutput::Probabilities),
    };
    require("logits", problem.logits_len()?).at_least(logits)?;
    require("output", problem.output_len()?).at_least(&**output)?;
    if let Some(row_lse) = &outputs.row_lse {
        require("row_lse", shape.rows).exactly(&**row_lse)?;
    }
    if let Some(saved) = &outputs.saved {
        saved.check_capacity(context, shape.rows)?;
    }
    let plan = kernels.plan_log_softmax(&problem, Pass::Forward)?;
    kernels.enter(stream)?;

    // The guards end after the launch, at the end of this function.
    let (logits, _logits) = guarded(logits.read(stream));
    let (output, _output) = guarded(output.write(stream));
    let (row_lse, _row_lse) = optional(&mut outputs.row_lse, stream);
    let (save, _saved, note) = match &mut outputs.saved {
        None => (None, None, None),
        Some(saved) => {
            let (saved, guard, note) = saved.write(stream);
            (Some(SavedAddresses::at(saved.address)), Some(guard), Some(note))
        }
    };
    kernels.check_order()?;

    let at = Addresses { logits, output: what(output), row_lse, save };
    // SAFETY: the checks above compared every length with what the shape spans, in this context;
    // `&mut` keeps outputs apart from the input and each other; the plan was made from the same
    // problem; guards order other streams.
    unsafe { raw::log_softmax::enqueue(kernels, stream.cu_stream(), &problem, plan, &at)? };
    if let Some(note) = note {
        *note = Some(problem.softmax());
    }
    Ok(())
}

/// Enqueues the gradient with respect to the logits on `stream`, for an upstream gradient `[rows,
/// classes]` with respect to the log-probabilities; allocates nothing, waits for nothing.
///
/// Reads probabilities and upstream gradient once and writes each gradient once where a row fits shared
/// memory; a part of longer rows of the upstream gradient is read a second time.
///
/// # Errors
/// Before anything is enqueued: those of [`LogSoftmaxProblem::new`]; [`Error::RowStride`] and
/// [`Error::Size`]; [`Error::SavedSoftmax`] if something else was saved last; [`Error::Length`];
/// [`Error::BufferSize`]; [`Error::OtherContext`]. [`Error::Driver`] if the launch is refused.
pub fn backward<T: Logit>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    shape: LogSoftmaxShape,
    softmax: Softmax<'_, T>,
    upstream: &dyn DeviceRead<T>,
    gradient: &mut dyn DeviceWrite<T>,
) -> Result<(), Error> {
    let problem = LogSoftmaxProblem::new(T::DTYPE, shape)?;
    let context = kernels.context();
    let require = |name, needed| Requirement { name, context, needed };
    let (values, values_row_stride, saved) = match softmax {
        Softmax::OfLogProbabilities(log_probs) => {
            require("log_probs", problem.output_len()?).at_least(log_probs)?;
            (log_probs, shape.output_row_stride, None)
        }
        Softmax::OfLogits(logits, saved) => {
            require("logits", problem.logits_len()?).at_least(logits)?;
            saved.check(context, &problem.softmax())?;
            (logits, shape.logits_row_stride, Some(saved))
        }
    };
    require("upstream", problem.upstream_len()?).at_least(upstream)?;
    require("gradient", problem.gradient_len()?).at_least(&*gradient)?;
    let plan = kernels.plan_log_softmax(&problem, Pass::Backward)?;
    kernels.enter(stream)?;

    // The guards end after the launch, at the end of this function.
    let (values, _values) = guarded(values.read(stream));
    let (upstream, _upstream) = guarded(upstream.read(stream));
    let (gradient, _gradient) = guarded(gradient.write(stream));
    let (saved, _saved) = match saved {
        None => (None, None),
        Some(saved) => {
            let (saved, guard) = saved.read(stream);
            (Some(saved), Some(guard))
        }
    };
    kernels.check_order()?;

    let at = BackwardAddresses { values, values_row_stride, saved, upstream, gradient };
    // SAFETY: as in `forward`.
    unsafe { raw::log_softmax::enqueue_backward(kernels, stream.cu_stream(), &problem, plan, &at) }
}
