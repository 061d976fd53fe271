//! The small types of the header, and what they become.

use smoothxent::cudarc::driver::sys::CUdeviceptr;
use smoothxent::problem::{Dtype, Pass, TargetType};
use smoothxent::raw::{Gradient, Logits, Memory, Upstream};
use smoothxent::{LogSoftmaxShape, Shape};

use crate::status::Failure;

/// An address in device memory, as the driver's `CUdeviceptr`; 0 for what is not there. From a pointer of the
/// runtime: `(sx_device_ptr)(uintptr_t)pointer`.
pub type sx_device_ptr = u64;

/// A `CUstream` or `cudaStream_t`, which are the same; null for the legacy default stream.
pub type sx_stream = *mut std::ffi::c_void;

/// `SX_F32`, `SX_F16` or `SX_BF16`: element type of a matrix.
pub type sx_dtype = u32;

/// `sx_dtype`: IEEE single precision.
pub const SX_F32: sx_dtype = 1;
/// `sx_dtype`: IEEE half precision.
pub const SX_F16: sx_dtype = 2;
/// `sx_dtype`: bfloat16.
pub const SX_BF16: sx_dtype = 3;

/// Type of targets: `SX_TARGET_I32`, `SX_TARGET_U32` or `SX_TARGET_I64` for class indices, `SX_TARGET_F32`,
/// `SX_TARGET_F16` or `SX_TARGET_BF16` for probabilities of all classes.
pub type sx_target_type = u32;

/// `sx_target_type`: class indices, one a row, `int32_t`.
pub const SX_TARGET_I32: sx_target_type = 1;
/// `sx_target_type`: class indices, one a row, `uint32_t`.
pub const SX_TARGET_U32: sx_target_type = 2;
/// `sx_target_type`: class indices, one a row, `int64_t`.
pub const SX_TARGET_I64: sx_target_type = 3;
/// `sx_target_type`: probabilities `[rows, classes]`, single precision.
pub const SX_TARGET_F32: sx_target_type = 4;
/// `sx_target_type`: probabilities `[rows, classes]`, half precision.
pub const SX_TARGET_F16: sx_target_type = 5;
/// `sx_target_type`: probabilities `[rows, classes]`, bfloat16.
pub const SX_TARGET_BF16: sx_target_type = 6;

/// `SX_FORWARD`, `SX_BACKWARD` or `SX_FORWARD_BACKWARD`: what a call computes, for its plan.
pub type sx_pass = u32;

/// `sx_pass`: the loss.
pub const SX_FORWARD: sx_pass = 1;
/// `sx_pass`: the gradient.
pub const SX_BACKWARD: sx_pass = 2;
/// `sx_pass`: both at once.
pub const SX_FORWARD_BACKWARD: sx_pass = 3;

/// 0 for no, anything else for yes.
pub type sx_flag = u32;

/// Sizes of the matrices, in elements. Strides are from the start of one row to the start of the next, at
/// least `classes`; 0 stands for `classes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_shape {
    /// Rows: samples, or tokens.
    pub rows: usize,
    /// Classes, or the size of the vocabulary.
    pub classes: usize,
    /// Of the logits.
    pub logits_row_stride: usize,
    /// Of the gradient.
    pub gradient_row_stride: usize,
    /// Of target probabilities.
    pub targets_row_stride: usize,
}

/// Sizes of the matrices of a log-softmax, in elements. Strides are from the start of one row to the start of the
/// next, at least `classes`; 0 stands for `classes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_log_softmax_shape {
    /// Rows.
    pub rows: usize,
    /// Classes.
    pub classes: usize,
    /// Of the logits.
    pub logits_row_stride: usize,
    /// Of log-probabilities, or probabilities.
    pub output_row_stride: usize,
    /// Of the upstream gradient.
    pub upstream_row_stride: usize,
    /// Of the gradient.
    pub gradient_row_stride: usize,
}

/// Device memory of the caller's own, for the library's use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_memory {
    /// A multiple of 32; 0 for none.
    pub address: sx_device_ptr,
    /// From there on.
    pub bytes: usize,
}

/// Where the gradient with respect to the logits goes, and what flows into it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_gradient {
    /// `[rows, classes]` in the dtype of the logits, with a row stride; in place, it holds the logits before.
    pub matrix: sx_device_ptr,
    /// The gradient of everything later with respect to the loss, f32: one number, or one a row. 0 means an
    /// upstream gradient of 1.
    pub upstream: sx_device_ptr,
    /// Whether `upstream` has one number a row.
    pub upstream_per_row: sx_flag,
}

impl sx_gradient {
    pub(crate) fn raw(&self) -> Gradient {
        let upstream = match (self.upstream, self.upstream_per_row) {
            (0, _) => Upstream::One,
            (one, 0) => Upstream::Scalar(one),
            (all, _) => Upstream::PerRow(all),
        };
        Gradient { matrix: self.matrix, upstream }
    }
}

impl sx_memory {
    pub(crate) fn raw(self) -> Memory {
        Memory { address: self.address, bytes: self.bytes }
    }

    pub(crate) fn optional(self) -> Option<Memory> {
        (self.address != 0).then(|| self.raw())
    }
}

fn stride(given: usize, classes: usize) -> usize {
    if given == 0 { classes } else { given }
}

impl From<sx_shape> for Shape {
    fn from(shape: sx_shape) -> Self {
        let sx_shape { rows, classes, .. } = shape;
        Self {
            rows,
            classes,
            logits_row_stride: stride(shape.logits_row_stride, classes),
            gradient_row_stride: stride(shape.gradient_row_stride, classes),
            targets_row_stride: stride(shape.targets_row_stride, classes),
        }
    }
}

impl From<sx_log_softmax_shape> for LogSoftmaxShape {
    fn from(shape: sx_log_softmax_shape) -> Self {
        let sx_log_softmax_shape { rows, classes, .. } = shape;
        Self {
            rows,
            classes,
            logits_row_stride: stride(shape.logits_row_stride, classes),
            output_row_stride: stride(shape.output_row_stride, classes),
            upstream_row_stride: stride(shape.upstream_row_stride, classes),
            gradient_row_stride: stride(shape.gradient_row_stride, classes),
        }
    }
}

pub(crate) fn logits(address: CUdeviceptr, in_place: sx_flag) -> Logits {
    if in_place == 0 { Logits::At(address) } else { Logits::InGradient }
}

pub(crate) fn dtype(value: sx_dtype) -> Result<Dtype, Failure> {
    match value {
        SX_F32 => Ok(Dtype::F32),
        SX_F16 => Ok(Dtype::F16),
        SX_BF16 => Ok(Dtype::Bf16),
        _ => Err(unknown("dtype", value, "SX_F32, SX_F16, SX_BF16")),
    }
}

pub(crate) fn target_type(value: sx_target_type) -> Result<TargetType, Failure> {
    match value {
        SX_TARGET_I32 => Ok(TargetType::I32),
        SX_TARGET_U32 => Ok(TargetType::U32),
        SX_TARGET_I64 => Ok(TargetType::I64),
        SX_TARGET_F32 => Ok(TargetType::Probabilities(Dtype::F32)),
        SX_TARGET_F16 => Ok(TargetType::Probabilities(Dtype::F16)),
        SX_TARGET_BF16 => Ok(TargetType::Probabilities(Dtype::Bf16)),
        _ => Err(unknown("target_type", value, "SX_TARGET_I32 to SX_TARGET_BF16")),
    }
}

pub(crate) fn pass(value: sx_pass) -> Result<Pass, Failure> {
    match value {
        SX_FORWARD => Ok(Pass::Forward),
        SX_BACKWARD => Ok(Pass::Backward),
        SX_FORWARD_BACKWARD => Ok(Pass::Fused),
        _ => Err(unknown("pass", value, "SX_FORWARD, SX_BACKWARD, SX_FORWARD_BACKWARD")),
    }
}

pub(crate) fn unknown(name: &'static str, value: u32, allowed: &str) -> Failure {
    Failure::Argument { name, value: value.to_string(), allowed: allowed.to_owned() }
}
