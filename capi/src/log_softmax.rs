//! Log-softmax of rows, or softmax, and its gradient.

use std::ffi::c_char;

use smoothxent::cudarc::driver::sys::CUdeviceptr;
use smoothxent::problem::LogSoftmaxProblem;
use smoothxent::raw;

use crate::kernels::{sx_kernels, write_plan};
use crate::status::{Current, Failure, Text, read, report, sx_status};
use crate::types::{
    self, sx_device_ptr, sx_dtype, sx_log_softmax_shape, sx_memory, sx_pass, sx_stream,
};

/// `SX_LOG_PROBABILITIES`, `SX_PROBABILITIES` or `SX_LOGITS`: what a matrix of a log-softmax call holds.
pub type sx_softmax = u32;

/// `sx_softmax`: log softmax(x), what `sx_log_softmax_forward` may write, and `sx_log_softmax_backward` may start
/// from.
pub const SX_LOG_PROBABILITIES: sx_softmax = 1;
/// `sx_softmax`: softmax(x), what `sx_log_softmax_forward` may write.
pub const SX_PROBABILITIES: sx_softmax = 2;
/// `sx_softmax`: x itself, what `sx_log_softmax_backward` may start from, with what was saved; accurate also as
/// p -> 1.
pub const SX_LOGITS: sx_softmax = 3;

/// What `sx_log_softmax_forward` reads and writes. Zero-initialise it, then set what you need.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_log_softmax {
    /// Of all matrices.
    pub dtype: sx_dtype,
    /// Sizes and strides.
    pub shape: sx_log_softmax_shape,
    /// `[rows, classes]`.
    pub logits: sx_device_ptr,
    /// What to write: `SX_LOG_PROBABILITIES` or `SX_PROBABILITIES`.
    pub what: sx_softmax,
    /// `[rows, classes]`: where.
    pub output: sx_device_ptr,
    /// `[rows]` f32: each row's log-sum-exp; 0 if not wanted.
    pub row_lse: sx_device_ptr,
    /// What a gradient from the logits needs: `sx_saved_bytes`; all 0 if not wanted.
    pub saved: sx_memory,
}

impl sx_log_softmax {
    fn raw(&self) -> Result<(raw::LogSoftmaxInputs, raw::LogSoftmaxOutputs), Failure> {
        let kind: fn(CUdeviceptr) -> raw::SoftmaxOutput = match self.what {
            SX_LOG_PROBABILITIES => raw::SoftmaxOutput::LogProbabilities,
            SX_PROBABILITIES => raw::SoftmaxOutput::Probabilities,
            what => {
                return Err(types::unknown("what", what, "SX_LOG_PROBABILITIES, SX_PROBABILITIES"));
            }
        };
        let inputs = raw::LogSoftmaxInputs {
            dtype: types::dtype(self.dtype)?,
            shape: self.shape.into(),
            logits: self.logits,
        };
        let (output, saved) = (kind(self.output), self.saved.optional());
        Ok((inputs, raw::LogSoftmaxOutputs { output, row_lse: self.row_lse, saved }))
    }
}

/// What `sx_log_softmax_backward` reads and writes. Zero-initialise it, then set what you need.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_log_softmax_gradient {
    /// Of all matrices.
    pub dtype: sx_dtype,
    /// Sizes and strides; that of the logits or of the output is the one of `values`.
    pub shape: sx_log_softmax_shape,
    /// What `values` are: `SX_LOG_PROBABILITIES` or `SX_LOGITS`.
    pub what: sx_softmax,
    /// `[rows, classes]`.
    pub values: sx_device_ptr,
    /// For `SX_LOGITS`: what `sx_log_softmax_forward` saved of them.
    pub saved: sx_memory,
    /// `[rows, classes]`: the gradient with respect to the log-probabilities.
    pub upstream: sx_device_ptr,
    /// `[rows, classes]`: where the gradient with respect to the logits goes.
    pub gradient: sx_device_ptr,
}

impl sx_log_softmax_gradient {
    fn softmax(&self) -> Result<raw::Softmax, Failure> {
        match self.what {
            SX_LOG_PROBABILITIES => Ok(raw::Softmax::OfLogProbabilities(self.values)),
            SX_LOGITS => Ok(raw::Softmax::OfLogits(self.values, self.saved.raw())),
            what => Err(types::unknown("what", what, "SX_LOG_PROBABILITIES, SX_LOGITS")),
        }
    }
}

/// Enqueues the log-softmax, or softmax, of each row on `stream`, with the errors of `sx_loss_forward`. A row
/// that holds NaN or +inf, or nothing but -inf, gives NaN.
///
/// # Safety
/// What `sx_loss_forward` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_log_softmax_forward(
    kernels: *const sx_kernels,
    stream: sx_stream,
    call: *const sx_log_softmax,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let message = unsafe { Text::new(message, message_bytes) };
    report(message, || {
        // SAFETY: the caller's promise.
        let (kernels, (inputs, outputs)) =
            unsafe { (&read(kernels, "kernels")?.kernels, read(call, "call")?.raw()?) };
        let _current = Current::keep();
        // SAFETY: the caller's promise.
        unsafe { raw::log_softmax::forward(kernels, stream.cast(), inputs, outputs)? };
        Ok(())
    })
}

/// Enqueues the gradient with respect to the logits on `stream`, with the errors of `sx_loss_forward`.
///
/// # Safety
/// What `sx_loss_forward` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_log_softmax_backward(
    kernels: *const sx_kernels,
    stream: sx_stream,
    call: *const sx_log_softmax_gradient,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let message = unsafe { Text::new(message, message_bytes) };
    report(message, || {
        // SAFETY: the caller's promise.
        let (kernels, call) = unsafe { (&read(kernels, "kernels")?.kernels, *read(call, "call")?) };
        let of = (types::dtype(call.dtype)?, call.shape.into());
        let (stream, from) = (stream.cast(), call.softmax()?);
        let _current = Current::keep();
        // SAFETY: the caller's promise.
        unsafe {
            raw::log_softmax::backward(kernels, stream, of, from, call.upstream, call.gradient)?;
        }
        Ok(())
    })
}

/// How a log-softmax (`SX_FORWARD`) or its gradient (`SX_BACKWARD`) is launched, as `sx_loss_plan`.
///
/// # Safety
/// What `sx_loss_plan` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_log_softmax_plan(
    kernels: *const sx_kernels,
    dtype: sx_dtype,
    shape: *const sx_log_softmax_shape,
    pass: sx_pass,
    text: *mut c_char,
    text_bytes: usize,
    needed: *mut usize,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let (message, text) =
        unsafe { (Text::new(message, message_bytes), Text::new(text, text_bytes)) };
    report(message, || {
        // SAFETY: the caller's promise.
        let (kernels, shape) =
            unsafe { (&read(kernels, "kernels")?.kernels, *read(shape, "shape")?) };
        let problem = LogSoftmaxProblem::new(types::dtype(dtype)?, shape.into())?;
        let plan = match kernels.plan_log_softmax(&problem, types::pass(pass)?)? {
            Some(rows) => rows.to_string(),
            None => "there are no rows: nothing is launched".to_owned(),
        };
        // SAFETY: the caller's promise.
        unsafe { write_plan(&plan, text, needed) };
        Ok(())
    })
}
