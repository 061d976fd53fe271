//! What the operations have in common of how a problem becomes the numbers and addresses in a kernel's
//! argument.

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::WorkspaceAddresses;
use crate::{
    abi,
    config::EmptyMean,
    error::Error,
    module::Kernels,
    plan::Launch,
    problem::{Dtype, InverseDivisor, Shape, TargetType, Terms},
};

/// Targets at an address.
pub(super) fn targets(
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

/// 0 where the device has to find it.
pub(super) fn host_known(divisor: InverseDivisor) -> f32 {
    match divisor {
        InverseDivisor::Host(number) => number,
        InverseDivisor::CountedRows | InverseDivisor::TargetWeights => 0.0,
    }
}

/// Where scalar loss and correct predictions go.
pub(super) fn row_sums(
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
pub(super) fn no_sums(rows: usize) -> abi::XentRowSums {
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
pub(super) fn divisors(
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
pub(super) struct Counting {
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
    pub(super) unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: CUstream,
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

pub(super) fn terms<T>(
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
