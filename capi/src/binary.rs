//! Binary cross-entropy from logits and its gradient.

use std::ffi::c_char;

use smoothxent::raw;

use crate::config::sx_binary_config;
use crate::kernels::{sx_kernels, write_plan};
use crate::status::{Current, Failure, Text, read, report, sx_status};
use crate::types::{
    self, sx_device_ptr, sx_dtype, sx_flag, sx_gradient, sx_memory, sx_pass, sx_shape, sx_stream,
    sx_target_type,
};

/// Inputs of a binary cross-entropy. Zero-initialise it, then set what you need.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_binary_inputs {
    /// Of logits and gradient.
    pub dtype: sx_dtype,
    /// Of the targets.
    pub target_type: sx_target_type,
    /// Sizes and strides.
    pub shape: sx_shape,
    /// Whether the gradient takes the place of the logits, as in `sx_loss_inputs`.
    pub in_place: sx_flag,
    /// `[rows, classes]`; not looked at in place.
    pub logits: sx_device_ptr,
    /// `[rows, classes]` targets within 0 to 1, or `[rows]` class indices of the one class that is 1.
    pub targets: sx_device_ptr,
    /// `[classes]` f32, finite and not negative; 0 for none.
    pub class_weights: sx_device_ptr,
    /// The same, for positive targets: r.
    pub positive_weights: sx_device_ptr,
}

impl sx_binary_inputs {
    fn raw(&self) -> Result<raw::BinaryInputs, Failure> {
        Ok(raw::BinaryInputs {
            dtype: types::dtype(self.dtype)?,
            target_type: types::target_type(self.target_type)?,
            shape: self.shape.into(),
            logits: types::logits(self.logits, self.in_place),
            targets: self.targets,
            class_weights: self.class_weights,
            positive_weights: self.positive_weights,
        })
    }
}

/// What a binary cross-entropy is asked for beside its gradient; 0 for what is not wanted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_binary_outputs {
    /// One f32: the reduced loss, not multiplied by the upstream gradient; NaN if any target names no class. Not
    /// with `SX_NONE`.
    pub loss: sx_device_ptr,
    /// `[rows]` f32: each row's loss over its classes; 0 for ignored rows, NaN for targets that name no
    /// class.
    pub row_losses: sx_device_ptr,
}

impl sx_binary_outputs {
    fn raw(&self) -> raw::BinaryOutputs {
        raw::BinaryOutputs { loss: self.loss, row_losses: self.row_losses }
    }
}

/// Enqueues the loss on `stream`, with the errors of `sx_loss_forward`.
///
/// # Safety
/// What `sx_loss_forward` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_binary_forward(
    kernels: *const sx_kernels,
    stream: sx_stream,
    config: *const sx_binary_config,
    inputs: *const sx_binary_inputs,
    outputs: *const sx_binary_outputs,
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
            raw::binary::forward(kernels, stream.cast(), config, inputs, outputs, workspace)?;
        }
        Ok(())
    })
}

/// Enqueues loss and gradient on `stream`, with the errors of `sx_loss_forward`.
///
/// # Safety
/// What `sx_loss_forward` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_binary_forward_backward(
    kernels: *const sx_kernels,
    stream: sx_stream,
    config: *const sx_binary_config,
    inputs: *const sx_binary_inputs,
    outputs: *const sx_binary_outputs,
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
            raw::binary::forward_backward(
                kernels, stream, config, inputs, outputs, gradient, workspace,
            )?;
        }
        Ok(())
    })
}

/// Enqueues the gradient on `stream`, with the errors of `sx_loss_forward`; needs nothing of the forward
/// pass.
///
/// # Safety
/// What `sx_loss_forward` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_binary_backward(
    kernels: *const sx_kernels,
    stream: sx_stream,
    config: *const sx_binary_config,
    inputs: *const sx_binary_inputs,
    gradient: *const sx_gradient,
    workspace: sx_memory,
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
        let (_current, workspace) = (Current::keep(), workspace.raw());
        // SAFETY: the caller's promise.
        unsafe {
            raw::binary::backward(kernels, stream.cast(), config, inputs, gradient, workspace)?;
        }
        Ok(())
    })
}

/// How such a call is launched, as `sx_loss_plan`.
///
/// # Safety
/// What `sx_loss_plan` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_binary_plan(
    kernels: *const sx_kernels,
    config: *const sx_binary_config,
    inputs: *const sx_binary_inputs,
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
        let plan = kernels.plan_binary(&inputs.problem(config, types::pass(pass)?)?)?;
        // SAFETY: the caller's promise.
        unsafe { write_plan(&plan.to_string(), text, needed) };
        Ok(())
    })
}
