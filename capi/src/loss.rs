//! Softmax cross-entropy and its gradient.

use std::ffi::c_char;

use smoothxent::raw;

use crate::config::sx_loss_config;
use crate::kernels::{sx_kernels, write_plan};
use crate::status::{Current, Failure, Text, read, report, sx_status};
use crate::types::{
    self, sx_device_ptr, sx_dtype, sx_flag, sx_gradient, sx_memory, sx_pass, sx_shape, sx_stream,
    sx_target_type,
};

/// Inputs of a cross-entropy. Zero-initialise it, then set what you need.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_loss_inputs {
    /// Of logits and gradient.
    pub dtype: sx_dtype,
    /// Of the targets.
    pub target_type: sx_target_type,
    /// Sizes and strides.
    pub shape: sx_shape,
    /// Whether the gradient takes the place of the logits: they are at `sx_gradient.matrix` then, and the two
    /// strides are the same.
    pub in_place: sx_flag,
    /// `[rows, classes]`; not looked at in place.
    pub logits: sx_device_ptr,
    /// `[rows]` class indices, or `[rows, classes]` probabilities.
    pub targets: sx_device_ptr,
    /// `[classes]` f32, finite and not negative; 0 for none.
    pub class_weights: sx_device_ptr,
}

impl sx_loss_inputs {
    fn raw(&self) -> Result<raw::LossInputs, Failure> {
        Ok(raw::LossInputs {
            dtype: types::dtype(self.dtype)?,
            target_type: types::target_type(self.target_type)?,
            shape: self.shape.into(),
            logits: types::logits(self.logits, self.in_place),
            targets: self.targets,
            class_weights: self.class_weights,
        })
    }
}

/// What a cross-entropy is asked for beside its gradient; 0 for what is not wanted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_loss_outputs {
    /// One f32: the reduced loss, not multiplied by the upstream gradient; NaN if any target names no class. Not
    /// with `SX_NONE`.
    pub loss: sx_device_ptr,
    /// `[rows]` f32: each row's loss, not divided; 0 for ignored rows, NaN for targets that name no class.
    pub row_losses: sx_device_ptr,
    /// `[rows]` f32: each row's log-sum-exp; 0 for ignored rows, NaN for targets that name no class.
    pub row_lse: sx_device_ptr,
    /// `[rows]` int64_t: the class of each row's largest logit, the lowest of several; -1 for ignored rows
    /// and targets that name no class.
    pub row_argmax: sx_device_ptr,
    /// One int64_t: rows whose largest logit is the target's. Class indices only.
    pub correct: sx_device_ptr,
    /// What `sx_loss_backward` needs: `sx_saved_bytes`.
    pub saved: sx_memory,
}

impl sx_loss_outputs {
    fn raw(&self) -> raw::LossOutputs {
        raw::LossOutputs {
            loss: self.loss,
            row_losses: self.row_losses,
            row_lse: self.row_lse,
            row_argmax: self.row_argmax,
            correct: self.correct,
            saved: self.saved.optional(),
        }
    }
}

/// Enqueues the loss on `stream`; allocates nothing, waits for nothing, may be captured into a graph.
///
/// A target that is neither a class nor `ignore_index` gives its row a NaN loss and a zero gradient. The reduced
/// loss is NaN then, and the row still counts in a mean's divisor, with a weight of 1. The losses of other rows,
/// and their gradients before they are divided, stay as they are. `sx_take_status` reports such targets.
///
/// Refused with `SX_INVALID_ARGUMENT` before anything is enqueued: options outside their range, sizes and
/// strides that do not fit, addresses that are null or misaligned, an output at the address of what it is
/// made of without `in_place`, a workspace or `saved` that is too small, a scalar loss with `SX_NONE`,
/// `correct` of probabilities, a pinned strategy that cannot take the problem.
///
/// # Safety
/// `kernels` is null or a handle; structs are null or whole; every address that is not 0 is memory of the
/// device, as long as the shape says, until what was enqueued has run, or has run last in a graph; what is
/// written overlaps nothing else, but for logits in place; `stream` belongs to the device's primary context;
/// `message` is null or has `message_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_loss_forward(
    kernels: *const sx_kernels,
    stream: sx_stream,
    config: *const sx_loss_config,
    inputs: *const sx_loss_inputs,
    outputs: *const sx_loss_outputs,
    workspace: sx_memory,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let message = unsafe { Text::new(message, message_bytes) };
    report(message, || {
        // SAFETY: the caller's promise.
        let (kernels, config, inputs, outputs) = unsafe {
            (
                &read(kernels, "kernels")?.kernels,
                read(config, "config")?.rust()?,
                read(inputs, "inputs")?.raw()?,
                read(outputs, "outputs")?.raw(),
            )
        };
        let (_current, workspace) = (Current::keep(), workspace.raw());
        // SAFETY: the caller's promise.
        unsafe {
            raw::loss::forward(kernels, stream.cast(), config, inputs, outputs, workspace)?;
        }
        Ok(())
    })
}

/// Enqueues loss and gradient on `stream`, as `sx_loss_forward`. Reads each logit once and writes each
/// gradient once where a row fits shared memory. The same call twice gives the same bits, and so do
/// a call in place, and `sx_loss_forward` and `sx_loss_backward` (many very long rows aside, unless a strategy is
/// preferred or pinned: `sx_kernels_select`).
///
/// # Safety
/// What `sx_loss_forward` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_loss_forward_backward(
    kernels: *const sx_kernels,
    stream: sx_stream,
    config: *const sx_loss_config,
    inputs: *const sx_loss_inputs,
    outputs: *const sx_loss_outputs,
    gradient: *const sx_gradient,
    workspace: sx_memory,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let message = unsafe { Text::new(message, message_bytes) };
    report(message, || {
        // SAFETY: the caller's promise.
        let (kernels, config, inputs, outputs, gradient) = unsafe {
            (
                &read(kernels, "kernels")?.kernels,
                read(config, "config")?.rust()?,
                read(inputs, "inputs")?.raw()?,
                read(outputs, "outputs")?.raw(),
                read(gradient, "gradient")?.raw(),
            )
        };
        let (_current, stream) = (Current::keep(), stream.cast());
        let workspace = workspace.raw();
        // SAFETY: the caller's promise.
        unsafe {
            raw::loss::forward_backward(
                kernels, stream, config, inputs, outputs, gradient, workspace,
            )?;
        }
        Ok(())
    })
}

/// Enqueues the gradient on `stream`, from what `sx_loss_forward` saved: of the same config, types, sizes,
/// logits, targets and class weights, which nobody checks. Only strides may differ, and the gradient may take
/// the place of the logits.
///
/// # Safety
/// What `sx_loss_forward` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_loss_backward(
    kernels: *const sx_kernels,
    stream: sx_stream,
    config: *const sx_loss_config,
    inputs: *const sx_loss_inputs,
    saved: sx_memory,
    gradient: *const sx_gradient,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let message = unsafe { Text::new(message, message_bytes) };
    report(message, || {
        // SAFETY: the caller's promise.
        let (kernels, config, inputs, gradient) = unsafe {
            (
                &read(kernels, "kernels")?.kernels,
                read(config, "config")?.rust()?,
                read(inputs, "inputs")?.raw()?,
                read(gradient, "gradient")?.raw(),
            )
        };
        let (_current, saved) = (Current::keep(), saved.raw());
        // SAFETY: the caller's promise.
        unsafe {
            raw::loss::backward(kernels, stream.cast(), config, inputs, saved, gradient)?;
        }
        Ok(())
    })
}

/// How such a call is launched, and why, as text for people. `text` is cut to fit; `needed`, if it is not
/// null, gets the bytes of the whole. Addresses are not looked at, but whether there are class weights.
///
/// # Safety
/// `kernels` is null or a handle; structs are null or whole; `text` is null or has `text_bytes` bytes;
/// `needed` is null or can be written; `message` is null or has `message_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_loss_plan(
    kernels: *const sx_kernels,
    config: *const sx_loss_config,
    inputs: *const sx_loss_inputs,
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
        let (kernels, config, inputs) = unsafe {
            (
                &read(kernels, "kernels")?.kernels,
                read(config, "config")?.rust()?,
                read(inputs, "inputs")?.raw()?,
            )
        };
        let plan = kernels.plan(&inputs.problem(config, types::pass(pass)?)?)?;
        // SAFETY: the caller's promise.
        unsafe { write_plan(&plan.to_string(), text, needed) };
        Ok(())
    })
}
