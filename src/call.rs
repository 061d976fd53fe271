//! What the safe operations have in common: the gradient that they are asked for, checks of buffers, and how
//! both become addresses with guards.

use cudarc::driver::{CudaStream, SyncOnDrop, sys::CUdeviceptr};

use crate::{
    buffer::{ClassWeights, DeviceRead, DeviceWrite, Guarded, Requirement, Target},
    error::Error,
    module::Kernels,
    raw,
};

/// What flows back into the loss from behind it: the gradient of everything later with respect to
/// it. Stays on the device.
#[derive(Clone, Copy, Default)]
pub enum Upstream<'a> {
    /// 1: the loss is what is minimised.
    #[default]
    One,
    /// Exactly one element, which multiplies every row's gradient, such as a loss scale. Losses stay as
    /// they are.
    Scalar(&'a dyn DeviceRead<f32>),
    /// `[rows]`: element i multiplies row i's gradient, after the reduction's divisor. Losses stay as they are.
    PerRow(&'a dyn DeviceRead<f32>),
}

/// Where the gradient with respect to the logits goes, and what flows into it.
pub struct Gradient<'a, T> {
    /// `[rows, classes]` with a row stride; with
    /// [`Logits::InGradient`](crate::Logits::InGradient) it holds the logits before.
    pub matrix: &'a mut dyn DeviceWrite<T>,
    /// What multiplies it.
    pub upstream: Upstream<'a>,
}

impl<'a, T> Gradient<'a, T> {
    /// With an upstream gradient of 1.
    pub fn new(matrix: &'a mut dyn DeviceWrite<T>) -> Self {
        Self { matrix, upstream: Upstream::One }
    }
}

/// A vector of indices has to fit exactly; a matrix may be longer.
pub(crate) fn check_targets<Y: Target>(
    kernels: &Kernels,
    targets: &dyn DeviceRead<Y>,
    needed: usize,
) -> Result<(), Error> {
    let require = Requirement { name: "targets", context: kernels.context(), needed };
    if Y::TYPE.is_probabilities() { require.at_least(targets) } else { require.exactly(targets) }
}

pub(crate) fn check_gradient<T>(
    kernels: &Kernels,
    needed: usize,
    rows: usize,
    gradient: &Gradient<'_, T>,
) -> Result<(), Error> {
    let context = kernels.context();
    let require = |name, needed| Requirement { name, context, needed };
    require("gradient", needed).at_least(&*gradient.matrix)?;
    match gradient.upstream {
        Upstream::One => Ok(()),
        Upstream::Scalar(one) => require("upstream", 1).exactly(one),
        Upstream::PerRow(all) => require("upstream", rows).exactly(all),
    }
}

pub(crate) type Guard<'a> = Option<SyncOnDrop<'a>>;

pub(crate) fn guarded((address, guard): Guarded<'_>) -> (CUdeviceptr, Guard<'_>) {
    (address, Some(guard))
}

/// Address 0 where an output is not asked for.
pub(crate) fn optional<'a, T>(
    output: &'a mut Option<&mut dyn DeviceWrite<T>>,
    stream: &'a CudaStream,
) -> (CUdeviceptr, Guard<'a>) {
    match output {
        None => (0, None),
        Some(buffer) => guarded(buffer.write(stream)),
    }
}

/// Address 0 where there are none.
pub(crate) fn read_weights<'a>(
    weights: Option<&'a ClassWeights>,
    stream: &'a CudaStream,
) -> (CUdeviceptr, Guard<'a>) {
    weights.map_or((0, None), |weights| guarded(weights.buffer().read(stream)))
}

/// Address 0 where there is none.
pub(crate) fn write_gradient<'a, T>(
    gradient: Option<&'a mut Gradient<'_, T>>,
    stream: &'a CudaStream,
) -> (raw::Gradient, [Guard<'a>; 2]) {
    let Some(gradient) = gradient else {
        return (raw::Gradient::default(), [None, None]);
    };
    let (upstream, upstream_guard) = match gradient.upstream {
        Upstream::One => (raw::Upstream::One, None),
        Upstream::Scalar(one) => {
            let (address, guard) = guarded(one.read(stream));
            (raw::Upstream::Scalar(address), guard)
        }
        Upstream::PerRow(all) => {
            let (address, guard) = guarded(all.read(stream));
            (raw::Upstream::PerRow(address), guard)
        }
    };
    let (matrix, matrix_guard) = guarded(gradient.matrix.write(stream));
    (raw::Gradient { matrix, upstream }, [matrix_guard, upstream_guard])
}
