//! Log-softmax of rows, or softmax, and its gradient, as in [`log_softmax`](crate::log_softmax).

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::{Memory, SavedAddresses, check_apart, needed, optional_f32};
use crate::{
    abi,
    error::Error,
    module::Kernels,
    plan::RowsPlan,
    problem::{Dtype, LogSoftmaxProblem, LogSoftmaxShape, Pass},
};

/// Where [`forward`] writes its result: `[rows, classes]` with a row stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftmaxOutput {
    /// log softmax(x).
    LogProbabilities(CUdeviceptr),
    /// softmax(x).
    Probabilities(CUdeviceptr),
}

impl SoftmaxOutput {
    fn address(self) -> CUdeviceptr {
        match self {
            Self::LogProbabilities(address) | Self::Probabilities(address) => address,
        }
    }

    fn abi(self) -> abi::XentSoftmaxOutput {
        match self {
            Self::LogProbabilities(_) => abi::XENT_LOG_PROBABILITIES,
            Self::Probabilities(_) => abi::XENT_PROBABILITIES,
        }
    }
}

/// Inputs of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmaxInputs {
    /// Of all matrices.
    pub dtype: Dtype,
    /// Sizes and strides.
    pub shape: LogSoftmaxShape,
    /// `[rows, classes]`.
    pub logits: CUdeviceptr,
}

/// Outputs of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmaxOutputs {
    /// `[rows, classes]`.
    pub output: SoftmaxOutput,
    /// `[rows]` f32, or 0.
    pub row_lse: CUdeviceptr,
    /// What [`Softmax::OfLogits`] needs: [`saved_bytes`](crate::raw::saved_bytes).
    pub saved: Option<Memory>,
}

/// Where [`backward`] takes the probabilities from, as
/// [`log_softmax::Softmax`](crate::log_softmax::Softmax).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Softmax {
    /// The log-probabilities that [`forward`] wrote.
    OfLogProbabilities(CUdeviceptr),
    /// The logits, and what [`forward`] saved of them.
    OfLogits(CUdeviceptr, Memory),
}

/// Enqueues the log-softmax, or softmax, of each row, as
/// [`log_softmax::forward`](crate::log_softmax::forward).
///
/// # Errors
/// Before anything is enqueued: those of [`LogSoftmaxProblem::new`]; [`Error::RowStride`] and
/// [`Error::Size`]; [`Error::Null`]; [`Error::Alignment`]; [`Error::Memory`], [`Error::BufferSize`] and
/// [`Error::WorkspaceSize`] of what is saved; [`Error::SameAddress`]; [`Error::Strategy`].
/// [`Error::Driver`] if the launch is refused.
///
/// # Safety
/// That of [`raw`](crate::raw).
pub unsafe fn forward(
    kernels: &Kernels,
    stream: CUstream,
    inputs: LogSoftmaxInputs,
    outputs: LogSoftmaxOutputs,
) -> Result<(), Error> {
    let LogSoftmaxInputs { dtype, shape, logits } = inputs;
    let LogSoftmaxOutputs { output, row_lse, saved } = outputs;
    let problem = LogSoftmaxProblem::new(dtype, shape)?;
    let elements = problem.output_len()?;
    needed("logits", logits, dtype.bytes(), problem.logits_len()?)?;
    needed("output", output.address(), dtype.bytes(), elements)?;
    check_apart([("logits", logits), ("output", output.address())], elements)?;
    optional_f32("row_lse", row_lse)?;
    let save = saved.map(|saved| SavedAddresses::of(saved, shape.rows)).transpose()?;
    let plan = kernels.plan_log_softmax(&problem, Pass::Forward)?;
    kernels.bind()?;
    let at = Addresses { logits, output, row_lse, save };
    // SAFETY: the caller's promise; the plan was made of this problem.
    unsafe { enqueue(kernels, stream, &problem, plan, &at) }
}

/// Enqueues the gradient with respect to the logits, as
/// [`log_softmax::backward`](crate::log_softmax::backward). `upstream` and `gradient` are
/// `[rows, classes]` with row strides.
///
/// # Errors
/// Those of [`forward`], except [`Error::Strategy`].
///
/// # Safety
/// That of [`raw`](crate::raw).
pub unsafe fn backward(
    kernels: &Kernels,
    stream: CUstream,
    (dtype, shape): (Dtype, LogSoftmaxShape),
    softmax: Softmax,
    upstream: CUdeviceptr,
    gradient: CUdeviceptr,
) -> Result<(), Error> {
    let problem = LogSoftmaxProblem::new(dtype, shape)?;
    let at = match softmax {
        Softmax::OfLogProbabilities(values) => {
            needed("log_probs", values, dtype.bytes(), problem.output_len()?)?;
            let values_row_stride = shape.output_row_stride;
            BackwardAddresses { values, values_row_stride, saved: None, upstream, gradient }
        }
        Softmax::OfLogits(values, saved) => {
            needed("logits", values, dtype.bytes(), problem.logits_len()?)?;
            let saved = Some(SavedAddresses::of(saved, shape.rows)?);
            let values_row_stride = shape.logits_row_stride;
            BackwardAddresses { values, values_row_stride, saved, upstream, gradient }
        }
    };
    let elements = problem.gradient_len()?;
    needed("upstream", upstream, dtype.bytes(), problem.upstream_len()?)?;
    needed("gradient", gradient, dtype.bytes(), elements)?;
    check_apart([("upstream", upstream), ("gradient", gradient)], elements)?;
    let values_name = if at.saved.is_some() { "logits" } else { "log_probs" };
    check_apart([(values_name, at.values), ("gradient", gradient)], elements)?;
    let plan = kernels.plan_log_softmax(&problem, Pass::Backward)?;
    kernels.bind()?;
    // SAFETY: the caller's promise; the plan was made of this problem.
    unsafe { enqueue_backward(kernels, stream, &problem, plan, &at) }
}

/// Addresses that were checked against a problem.
pub(crate) struct Addresses {
    pub logits: CUdeviceptr,
    pub output: SoftmaxOutput,
    /// 0 for none.
    pub row_lse: CUdeviceptr,
    pub save: Option<SavedAddresses>,
}

/// Enqueues a forward pass. The context is current.
///
/// # Safety
/// `plan` was made of `problem`; `stream` is of the context of `kernels`, or a default one; the addresses are
/// valid for what the problem does with them, on `stream`, until the launch has run, and apart from each
/// other.
pub(crate) unsafe fn enqueue(
    kernels: &Kernels,
    stream: CUstream,
    problem: &LogSoftmaxProblem,
    plan: Option<RowsPlan>,
    at: &Addresses,
) -> Result<(), Error> {
    let Some(rows) = plan else {
        return Ok(());
    };
    let shape = problem.shape();
    let argument = abi::XentLogSoftmax {
        logits: at.logits as *const _,
        output: at.output.address() as *mut _,
        row_lse: at.row_lse as *mut f32,
        save: at.save.map_or(std::ptr::null_mut(), |save| save.rows),
        rows: shape.rows as u64,
        logits_row_stride: shape.logits_row_stride as u64,
        output_row_stride: shape.output_row_stride as u64,
        classes: problem.classes(),
        what: at.output.abi(),
        geometry: rows.geometry.into(),
    };
    // SAFETY: the caller's promise.
    unsafe { kernels.launch(stream, rows.first.launch, &argument) }
}

/// Addresses that were checked against a problem.
pub(crate) struct BackwardAddresses {
    /// Logits if something is saved, else log-probabilities.
    pub values: CUdeviceptr,
    pub values_row_stride: usize,
    pub saved: Option<SavedAddresses>,
    pub upstream: CUdeviceptr,
    pub gradient: CUdeviceptr,
}

/// Enqueues a backward pass. The context is current.
///
/// # Safety
/// That of [`enqueue`].
pub(crate) unsafe fn enqueue_backward(
    kernels: &Kernels,
    stream: CUstream,
    problem: &LogSoftmaxProblem,
    plan: Option<RowsPlan>,
    at: &BackwardAddresses,
) -> Result<(), Error> {
    let Some(rows) = plan else {
        return Ok(());
    };
    let shape = problem.shape();
    let argument = abi::XentLogSoftmaxBackward {
        values: at.values as *const _,
        upstream: at.upstream as *const _,
        gradient: at.gradient as *mut _,
        saved: at.saved.map_or(std::ptr::null(), |saved| saved.rows.cast_const()),
        rows: shape.rows as u64,
        values_row_stride: at.values_row_stride as u64,
        upstream_row_stride: shape.upstream_row_stride as u64,
        gradient_row_stride: shape.gradient_row_stride as u64,
        classes: problem.classes(),
        reserved: 0,
        geometry: rows.geometry.into(),
    };
    // SAFETY: the caller's promise.
    unsafe { kernels.launch(stream, rows.first.launch, &argument) }
}
