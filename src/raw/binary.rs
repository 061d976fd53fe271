//! Binary cross-entropy from logits and its gradient, as in [`binary`](crate::binary).

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::{
    Gradient, Logits, Memory, WorkspaceAddresses,
    argument::{Counting, divisors, host_known, no_sums, row_sums, targets},
    check_logits, check_targets, optional_f32,
};
use crate::{
    abi,
    config::BinaryConfig,
    error::Error,
    module::Kernels,
    plan::{Normalizer, Plan},
    problem::{BinaryProblem, ClassWeighting, Dtype, Pass, Shape, TargetType, Terms, Types},
};

/// Inputs of a binary cross-entropy, as [`BinaryInputs`](crate::binary::BinaryInputs).
#[derive(Clone, Copy, Debug)]
pub struct BinaryInputs {
    /// Of logits and gradient.
    pub dtype: Dtype,
    /// Of the targets.
    pub target_type: TargetType,
    /// Sizes and strides of the matrices.
    pub shape: Shape,
    /// `[rows, classes]`.
    pub logits: Logits,
    /// `[rows, classes]` targets within 0..=1, or `[rows]` class indices.
    pub targets: CUdeviceptr,
    /// `[classes]` f32, finite and not negative; 0 for none.
    pub class_weights: CUdeviceptr,
    /// The same of positive targets.
    pub positive_weights: CUdeviceptr,
}

impl BinaryInputs {
    /// Without weights.
    pub fn new(
        dtype: Dtype,
        target_type: TargetType,
        shape: Shape,
        logits: Logits,
        targets: CUdeviceptr,
    ) -> Self {
        let (class_weights, positive_weights) = (0, 0);
        Self { dtype, target_type, shape, logits, targets, class_weights, positive_weights }
    }

    /// Sizes and options that go together, as [`Kernels::plan_binary`] takes them.
    ///
    /// # Errors
    /// Those of [`BinaryProblem::new`].
    pub fn problem(&self, config: BinaryConfig, pass: Pass) -> Result<BinaryProblem, Error> {
        let class_weights = match self.class_weights {
            0 => ClassWeighting::Absent,
            _ => ClassWeighting::Given,
        };
        let types = Types { dtype: self.dtype, targets: self.target_type, class_weights };
        BinaryProblem::new(types, self.shape, config, pass, self.logits.place())
    }
}

/// Outputs of a binary cross-entropy beside its gradient; 0 for what nobody wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct BinaryOutputs {
    /// One f32.
    pub loss: CUdeviceptr,
    /// `[rows]` f32.
    pub row_losses: CUdeviceptr,
}

/// Enqueues the loss, as [`binary::forward`](crate::binary::forward).
///
/// # Errors
/// Before anything is enqueued: those of [`BinaryProblem::new`]; [`Error::Null`]; [`Error::Alignment`];
/// [`Error::Memory`], [`Error::BufferSize`] and [`Error::WorkspaceSize`] of the workspace; [`Error::LossWithoutReduction`];
/// [`Error::Strategy`]. [`Error::Driver`] if the launch is refused.
///
/// # Safety
/// That of [`raw`](crate::raw).
pub unsafe fn forward(
    kernels: &Kernels,
    stream: CUstream,
    config: BinaryConfig,
    inputs: BinaryInputs,
    outputs: BinaryOutputs,
    workspace: Memory,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Forward)?;
    // SAFETY: the caller's promise.
    unsafe { check_and_enqueue(kernels, stream, &problem, inputs, outputs, None, workspace) }
}

/// Enqueues loss and gradient, as [`binary::forward_backward`](crate::binary::forward_backward).
///
/// # Errors
/// Those of [`forward`], and [`Error::SameAddress`] if the gradient is where the logits are without being
/// said to be.
///
/// # Safety
/// That of [`raw`](crate::raw).
pub unsafe fn forward_backward(
    kernels: &Kernels,
    stream: CUstream,
    config: BinaryConfig,
    inputs: BinaryInputs,
    outputs: BinaryOutputs,
    gradient: Gradient,
    workspace: Memory,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Fused)?;
    let gradient = Some(gradient);
    // SAFETY: the caller's promise.
    unsafe { check_and_enqueue(kernels, stream, &problem, inputs, outputs, gradient, workspace) }
}

/// Enqueues the gradient, as [`binary::backward`](crate::binary::backward).
///
/// # Errors
/// Those of [`forward_backward`], except [`Error::LossWithoutReduction`] and [`Error::Strategy`].
///
/// # Safety
/// That of [`raw`](crate::raw).
pub unsafe fn backward(
    kernels: &Kernels,
    stream: CUstream,
    config: BinaryConfig,
    inputs: BinaryInputs,
    gradient: Gradient,
    workspace: Memory,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Backward)?;
    let (outputs, gradient) = (BinaryOutputs::default(), Some(gradient));
    // SAFETY: the caller's promise.
    unsafe { check_and_enqueue(kernels, stream, &problem, inputs, outputs, gradient, workspace) }
}

/// # Safety
/// That of [`raw`](crate::raw).
unsafe fn check_and_enqueue(
    kernels: &Kernels,
    stream: CUstream,
    problem: &BinaryProblem,
    inputs: BinaryInputs,
    outputs: BinaryOutputs,
    gradient: Option<Gradient>,
    workspace: Memory,
) -> Result<(), Error> {
    let BinaryInputs { dtype, target_type, shape, .. } = inputs;
    let lengths = problem.lengths();
    check_logits(inputs.logits, dtype, lengths.logits)?;
    check_targets(inputs.targets, target_type, lengths.targets)?;
    optional_f32("class_weights", inputs.class_weights)?;
    optional_f32("positive_weights", inputs.positive_weights)?;
    if outputs.loss != 0 {
        problem.check_scalar_loss()?;
    }
    optional_f32("loss", outputs.loss)?;
    optional_f32("row_losses", outputs.row_losses)?;
    if let Some(gradient) = &gradient {
        gradient.check(inputs.logits, dtype, lengths.gradient, shape.rows)?;
    }
    let workspace = WorkspaceAddresses::of(workspace, shape.rows)?;
    let plan = kernels.plan_binary(problem)?;
    kernels.bind()?;
    let gradient = gradient.unwrap_or_default();
    let at = Addresses {
        logits: inputs.logits.address(gradient.matrix),
        targets: inputs.targets,
        class_weights: inputs.class_weights,
        positive_weights: inputs.positive_weights,
        gradient,
        outputs,
    };
    // SAFETY: the caller's promise; the plan was made of this problem.
    unsafe { enqueue(kernels, stream, problem, plan, &at, &workspace) }
}

/// Addresses that were checked against a problem; 0 for what is not there.
pub(crate) struct Addresses {
    /// In place, the gradient's.
    pub logits: CUdeviceptr,
    pub targets: CUdeviceptr,
    pub class_weights: CUdeviceptr,
    pub positive_weights: CUdeviceptr,
    pub gradient: Gradient,
    pub outputs: BinaryOutputs,
}

/// Enqueues any pass. The context is current.
///
/// # Safety
/// `plan` was made of `problem`; `stream` is of the context of `kernels`, or a default one; every address
/// that is not 0 is valid for what the problem does with it, on `stream`, until the launches have run: inputs
/// to be read, outputs and workspace to be written, apart from each other but for logits that are the
/// gradient's of a problem in place.
pub(crate) unsafe fn enqueue(
    kernels: &Kernels,
    stream: CUstream,
    problem: &BinaryProblem,
    plan: Plan,
    at: &Addresses,
    workspace: &WorkspaceAddresses,
) -> Result<(), Error> {
    let shape = problem.shape();
    let sums = match problem.pass() {
        Pass::Forward | Pass::Fused => row_sums(shape.rows, at.outputs.loss, 0, workspace),
        Pass::Backward => no_sums(shape.rows),
    };
    let (normalizer, rows) = match plan {
        Plan::Empty { loss } => {
            // SAFETY: the caller's promise.
            return unsafe { kernels.write_nothing(stream, loss, &sums) };
        }
        Plan::Launches { normalizer, rows } => (normalizer, rows),
    };
    let targets = targets(at.targets, problem.ignore_index(), problem.types().targets, shape);
    let inverse = problem.inverse_divisor();
    let divided = workspace.divided();
    if let Normalizer::Launch(launch) = normalizer {
        let inverse = Terms { nll: inverse, smoothing: inverse, z_loss: inverse };
        let term_weights = Terms { nll: 1.0, smoothing: 0.0, z_loss: 0.0 };
        let counting = Counting {
            targets,
            class_weights: 0,
            divisors: divisors(inverse, term_weights, problem.config().empty_mean),
            divided,
            rows: shape.rows,
            classes: problem.classes(),
        };
        // SAFETY: the caller's promise; the workspace has room for the result.
        unsafe { counting.launch(kernels, stream, launch, workspace)? };
    }
    let smoothed = problem.targets();
    let (upstream, upstream_stride) = at.gradient.upstream.strided();
    let argument = abi::XentBinary {
        logits: at.logits as *const _,
        gradient: at.gradient.matrix as *mut _,
        targets,
        class_weights: at.class_weights as *const f32,
        positive_weights: at.positive_weights as *const f32,
        upstream: upstream as *const f32,
        row_losses: at.outputs.row_losses as *mut f32,
        sums,
        device_divided: match normalizer {
            Normalizer::Launch(_) => divided,
            Normalizer::Host | Normalizer::Rows | Normalizer::Saved => std::ptr::null(),
        },
        logits_row_stride: shape.logits_row_stride as u64,
        gradient_row_stride: shape.gradient_row_stride as u64,
        upstream_stride,
        classes: problem.classes(),
        on: smoothed.on,
        off: smoothed.off,
        rest: smoothed.rest,
        over_classes: problem.over_classes(),
        inverse_divisor: host_known(inverse),
        geometry: rows.geometry.into(),
    };
    // SAFETY: the caller's promise.
    unsafe { kernels.launch(stream, rows.first.launch, &argument) }
}
