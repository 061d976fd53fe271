//! What the operations have in common: the gradient that they are asked for, checks of buffers, and how
//! both become the addresses in a kernel's argument.

use cudarc::driver::{CudaStream, SyncOnDrop, sys::CUdeviceptr};

use crate::{
    abi,
    buffer::{
        ClassWeights, DeviceRead, DeviceWrite, Guarded, Requirement, Target, WorkspaceAddresses,
    },
    config::EmptyMean,
    error::Error,
    module::Kernels,
    plan::Launch,
    problem::{Dtype, InverseDivisor, Shape, TargetType, Terms},
};

/// What flows back into the loss from behind it: the gradient of everything later with respect to
/// it. Stays on the device.
#[derive(Clone, Copy, Default)]
pub enum Upstream<'a> {
    /// 1: the loss is what is minimised.
    #[default]
    One,
    /// One number for all rows, such as a loss scale.
    Scalar(&'a dyn DeviceRead<f32>),
    /// One for each row.
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

/// Targets at an address.
pub(crate) fn targets(
    address: CUdeviceptr,
    ignore_index: Option<i64>,
    target_type: TargetType,
    shape: Shape,
) -> abi::XentTargets {
    abi::XentTargets {
        values: address as *const _,
        ignore_index: ignore_index.unwrap_or_default(),
        row_stride: shape.targets_row_stride as u64,
        kind: match target_type {
            TargetType::I32 => abi::XENT_TARGET_I32,
            TargetType::U32 => abi::XENT_TARGET_U32,
            TargetType::I64 => abi::XENT_TARGET_I64,
            TargetType::Probabilities(Dtype::F32) => abi::XENT_TARGET_F32,
            TargetType::Probabilities(Dtype::F16) => abi::XENT_TARGET_F16,
            TargetType::Probabilities(Dtype::Bf16) => abi::XENT_TARGET_BF16,
        },
        has_ignore_index: ignore_index.is_some().into(),
    }
}

/// Device addresses of a gradient, 0 for what is not there.
pub(crate) struct GradientAddresses<'a> {
    pub matrix: CUdeviceptr,
    pub upstream: CUdeviceptr,
    pub upstream_stride: u64,
    _matrix_guard: Guard<'a>,
}

impl GradientAddresses<'_> {
    pub const NONE: Self = Self { matrix: 0, upstream: 0, upstream_stride: 0, _matrix_guard: None };
}

pub(crate) fn write_gradient<'a, T>(
    gradient: Option<&'a mut Gradient<'_, T>>,
    stream: &'a CudaStream,
) -> (GradientAddresses<'a>, Guard<'a>) {
    let Some(gradient) = gradient else {
        return (GradientAddresses::NONE, None);
    };
    let ((upstream, upstream_guard), upstream_stride) = match gradient.upstream {
        Upstream::One => ((0, None), 0),
        Upstream::Scalar(one) => (guarded(one.read(stream)), 0),
        Upstream::PerRow(all) => (guarded(all.read(stream)), 1),
    };
    let (matrix, _matrix_guard) = guarded(gradient.matrix.write(stream));
    (GradientAddresses { matrix, upstream, upstream_stride, _matrix_guard }, upstream_guard)
}

/// 0 where the device has to find it.
pub(crate) fn host_known(divisor: InverseDivisor) -> f32 {
    match divisor {
        InverseDivisor::Host(number) => number,
        InverseDivisor::CountedRows | InverseDivisor::TargetWeights => 0.0,
    }
}

/// Where scalar loss and correct predictions go.
pub(crate) fn row_sums(
    rows: usize,
    loss: CUdeviceptr,
    correct: CUdeviceptr,
    workspace: &WorkspaceAddresses,
) -> abi::XentRowSums {
    abi::XentRowSums {
        loss: loss as *mut f32,
        correct: correct as *mut i64,
        row_shares: workspace.row_shares,
        chunk_sums: workspace.chunk_sums,
        chunk_tickets: workspace.chunk_tickets,
        workspace: workspace.head,
        rows: rows as u64,
    }
}

/// Of a call that asks for neither.
pub(crate) fn no_sums(rows: usize) -> abi::XentRowSums {
    abi::XentRowSums {
        loss: std::ptr::null_mut(),
        correct: std::ptr::null_mut(),
        row_shares: std::ptr::null_mut(),
        chunk_sums: std::ptr::null_mut(),
        chunk_tickets: std::ptr::null_mut(),
        workspace: std::ptr::null_mut(),
        rows: rows as u64,
    }
}

/// What the terms are divided by, for kernels that find it.
pub(crate) fn divisors(
    inverse: Terms<InverseDivisor>,
    term_weights: Terms<f32>,
    empty_mean: EmptyMean,
) -> abi::XentDivisors {
    abi::XentDivisors {
        nll_source: source(inverse.nll),
        smoothing_source: source(inverse.smoothing),
        z_loss_source: source(inverse.z_loss),
        empty_is_zero: (empty_mean == EmptyMean::Zero).into(),
        given: terms(inverse, host_known),
        term_weights: terms(term_weights, |weight| weight),
    }
}

/// What the normalizer kernel has to know beside the workspace.
pub(crate) struct Counting {
    pub targets: abi::XentTargets,
    /// 0 for none.
    pub class_weights: CUdeviceptr,
    pub divisors: abi::XentDivisors,
    /// Where the result goes.
    pub divided: *mut abi::XentDivided,
    pub rows: usize,
    pub classes: u32,
}

impl Counting {
    /// # Safety
    /// There are `rows` targets, a weight for each class if any, a workspace for as many rows, and room
    /// for the result, all of which `stream` may use.
    pub(crate) unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &CudaStream,
        launch: Launch,
        workspace: &WorkspaceAddresses,
    ) -> Result<(), Error> {
        // It would take probabilities for indices, and read beyond them.
        assert!(self.targets.kind <= abi::XENT_TARGET_I64, "the normalizer counts class indices");
        let argument = abi::XentNormalizer {
            targets: self.targets,
            class_weights: self.class_weights as *const f32,
            chunk_sums: workspace.chunk_sums,
            workspace: workspace.head,
            divided: self.divided,
            rows: self.rows as u64,
            divisors: self.divisors,
            classes: self.classes,
            reserved: 0,
        };
        // SAFETY: the caller's promise.
        unsafe { kernels.launch(stream, launch, &argument) }
    }
}

pub(crate) fn terms<T>(
    Terms { nll, smoothing, z_loss }: Terms<T>,
    of: impl Fn(T) -> f32,
) -> abi::XentTerms {
    abi::XentTerms { nll: of(nll), smoothing: of(smoothing), z_loss: of(z_loss) }
}

fn source(divisor: InverseDivisor) -> u32 {
    match divisor {
        InverseDivisor::Host(_) => abi::XENT_DIVISOR_GIVEN,
        InverseDivisor::CountedRows => abi::XENT_DIVISOR_COUNTED_ROWS,
        InverseDivisor::TargetWeights => abi::XENT_DIVISOR_TARGET_WEIGHTS,
    }
}
