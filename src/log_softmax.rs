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

use cudarc::driver::CudaStream;

pub use crate::problem::LogSoftmaxShape;
use crate::{
    abi,
    buffer::{DeviceRead, DeviceWrite, Logit, Requirement, SavedSoftmax},
    call::{guarded, optional},
    error::Error,
    module::Kernels,
    problem::{LogSoftmaxProblem, Pass},
};

/// What is to be written: `[rows, classes]` with a row stride.
pub enum SoftmaxOutput<'a, T> {
    /// log softmax(x).
    LogProbabilities(&'a mut dyn DeviceWrite<T>),
    /// softmax(x).
    Probabilities(&'a mut dyn DeviceWrite<T>),
}

/// What [`forward`] writes.
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
/// Reads each logit once and writes each output once where a row fits shared memory, as
/// [`loss::forward_backward`](crate::loss::forward_backward) does; all arithmetic is f32. A row that
/// holds NaN or +inf, or nothing but -inf, gives NaN.
///
/// # Errors
/// Before anything is enqueued: those of [`LogSoftmaxProblem::new`]; [`Error::Length`];
/// [`Error::BufferSize`]; [`Error::OtherContext`]; [`Error::SavedCapacity`]; [`Error::Strategy`].
/// [`Error::Driver`] if the launch is refused.
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
    let (output, what) = match &mut outputs.output {
        SoftmaxOutput::LogProbabilities(output) => (output, abi::XENT_LOG_PROBABILITIES),
        SoftmaxOutput::Probabilities(output) => (output, abi::XENT_PROBABILITIES),
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
        None => (std::ptr::null_mut(), None, None),
        Some(saved) => {
            let (saved, guard, note) = saved.write(stream);
            (saved.rows, Some(guard), Some(note))
        }
    };
    kernels.check_order()?;

    if let Some(rows) = plan {
        let argument = abi::XentLogSoftmax {
            logits: logits as *const _,
            output: output as *mut _,
            row_lse: row_lse as *mut f32,
            save,
            rows: shape.rows as u64,
            logits_row_stride: shape.logits_row_stride as u64,
            output_row_stride: shape.output_row_stride as u64,
            classes: problem.classes(),
            what,
            geometry: rows.geometry.into(),
        };
        // SAFETY: the checks above compared every length with what the shape spans, in this context;
        // `&mut` keeps outputs apart from the input and each other; the plan was made from the same
        // problem.
        unsafe { kernels.launch(stream, rows.first.launch, &argument)? };
    }
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
/// Before anything is enqueued: those of [`LogSoftmaxProblem::new`]; [`Error::SavedSoftmax`] if
/// something else was saved last; [`Error::Length`]; [`Error::BufferSize`]; [`Error::OtherContext`].
/// [`Error::Driver`] if the launch is refused.
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
        None => (std::ptr::null(), None),
        Some(saved) => {
            let (saved, guard) = saved.read(stream);
            (saved.rows.cast_const(), Some(guard))
        }
    };
    kernels.check_order()?;

    let Some(rows) = plan else {
        return Ok(());
    };
    let argument = abi::XentLogSoftmaxBackward {
        values: values as *const _,
        upstream: upstream as *const _,
        gradient: gradient as *mut _,
        saved,
        rows: shape.rows as u64,
        values_row_stride: values_row_stride as u64,
        upstream_row_stride: shape.upstream_row_stride as u64,
        gradient_row_stride: shape.gradient_row_stride as u64,
        classes: problem.classes(),
        reserved: 0,
        geometry: rows.geometry.into(),
    };
    // SAFETY: as in `forward`.
    unsafe { kernels.launch(stream, rows.first.launch, &argument) }
}
