//! Softmax cross-entropy and its gradient, as in [`loss`](crate::loss).

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::{
    Gradient, Logits, Memory, SavedAddresses, WorkspaceAddresses,
    argument::{Counting, divisors, no_sums, row_sums, targets},
    check_logits, check_targets, optional_f32, optional_i64,
};
use crate::{
    abi,
    config::LossConfig,
    error::Error,
    module::Kernels,
    plan::{Normalizer, Plan, RowsPlan},
    problem::{ClassWeighting, Dtype, Pass, Problem, Shape, TargetType, Types},
};

/// Inputs of a loss, as [`LossInputs`](crate::LossInputs).
#[derive(Clone, Copy, Debug)]
pub struct LossInputs {
    /// Of logits and gradient.
    pub dtype: Dtype,
    /// Of the targets.
    pub target_type: TargetType,
    /// Sizes and strides of the matrices.
    pub shape: Shape,
    /// `[rows, classes]`.
    pub logits: Logits,
    /// `[rows]` class indices, or `[rows, classes]` probabilities.
    pub targets: CUdeviceptr,
    /// `[classes]` f32, finite and not negative; 0 for none.
    pub class_weights: CUdeviceptr,
}

impl LossInputs {
    /// Without class weights.
    pub fn new(
        dtype: Dtype,
        target_type: TargetType,
        shape: Shape,
        logits: Logits,
        targets: CUdeviceptr,
    ) -> Self {
        Self { dtype, target_type, shape, logits, targets, class_weights: 0 }
    }

    /// Sizes and options that go together, as [`Kernels::plan`] takes them.
    ///
    /// # Errors
    /// Those of [`Problem::new`].
    pub fn problem(&self, config: LossConfig, pass: Pass) -> Result<Problem, Error> {
        let class_weights = match self.class_weights {
            0 => ClassWeighting::Absent,
            _ => ClassWeighting::Given,
        };
        let types = Types { dtype: self.dtype, targets: self.target_type, class_weights };
        Problem::new(types, self.shape, config, pass, self.logits.place())
    }

    fn check(&self, problem: &Problem) -> Result<(), Error> {
        let lengths = problem.lengths();
        check_logits(self.logits, self.dtype, lengths.logits)?;
        check_targets(self.targets, self.target_type, lengths.targets)?;
        optional_f32("class_weights", self.class_weights)
    }

    fn check_gradient(&self, problem: &Problem, gradient: &Gradient) -> Result<(), Error> {
        let elements = problem.lengths().gradient;
        gradient.check(self.logits, self.dtype, elements, problem.shape().rows)
    }
}

/// Outputs of a loss beside its gradient, as [`LossOutputs`](crate::LossOutputs); 0 for what
/// nobody wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct LossOutputs {
    /// One f32.
    pub loss: CUdeviceptr,
    /// `[rows]` f32.
    pub row_losses: CUdeviceptr,
    /// `[rows]` f32.
    pub row_lse: CUdeviceptr,
    /// `[rows]` i64.
    pub row_argmax: CUdeviceptr,
    /// One i64. Class indices only.
    pub correct: CUdeviceptr,
    /// What [`backward`] needs: [`saved_bytes`](crate::raw::saved_bytes).
    pub saved: Option<Memory>,
}

impl LossOutputs {
    fn check(&self, problem: &Problem) -> Result<(), Error> {
        if self.loss != 0 {
            problem.check_scalar_loss()?;
        }
        if self.correct != 0 {
            problem.check_correct()?;
        }
        optional_f32("loss", self.loss)?;
        optional_f32("row_losses", self.row_losses)?;
        optional_f32("row_lse", self.row_lse)?;
        optional_i64("row_argmax", self.row_argmax)?;
        optional_i64("correct", self.correct)?;
        self.saved
            .map_or(Ok(()), |saved| SavedAddresses::of(saved, problem.shape().rows).map(|_| ()))
    }
}

/// Enqueues the loss, as [`loss::forward`](crate::loss::forward).
///
/// # Errors
/// Before anything is enqueued: those of [`Problem::new`]; [`Error::Null`]; [`Error::Alignment`];
/// [`Error::Memory`], [`Error::BufferSize`] and [`Error::WorkspaceSize`] of the workspace and of what is saved;
/// [`Error::LossWithoutReduction`]; [`Error::CorrectOfProbabilities`]; [`Error::Strategy`].
/// [`Error::Driver`] if the launch is refused.
///
/// # Safety
/// That of [`raw`](crate::raw).
pub unsafe fn forward(
    kernels: &Kernels,
    stream: CUstream,
    config: LossConfig,
    inputs: LossInputs,
    outputs: LossOutputs,
    workspace: Memory,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Forward)?;
    // SAFETY: the caller's promise.
    unsafe { check_and_enqueue(kernels, stream, &problem, inputs, outputs, None, workspace) }
}

/// Enqueues loss and gradient, as [`loss::forward_backward`](crate::loss::forward_backward).
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
    config: LossConfig,
    inputs: LossInputs,
    outputs: LossOutputs,
    gradient: Gradient,
    workspace: Memory,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Fused)?;
    let gradient = Some(gradient);
    // SAFETY: the caller's promise.
    unsafe { check_and_enqueue(kernels, stream, &problem, inputs, outputs, gradient, workspace) }
}

/// # Safety
/// That of [`raw`](crate::raw).
unsafe fn check_and_enqueue(
    kernels: &Kernels,
    stream: CUstream,
    problem: &Problem,
    inputs: LossInputs,
    outputs: LossOutputs,
    gradient: Option<Gradient>,
    workspace: Memory,
) -> Result<(), Error> {
    outputs.check(problem)?;
    inputs.check(problem)?;
    if let Some(gradient) = &gradient {
        inputs.check_gradient(problem, gradient)?;
    }
    let workspace = WorkspaceAddresses::of(workspace, problem.shape().rows)?;
    let plan = kernels.plan(problem)?;
    kernels.bind()?;
    let at = Addresses::new(&inputs, gradient.unwrap_or_default(), outputs);
    // SAFETY: the caller's promise; the plan was made of this problem.
    unsafe { enqueue(kernels, stream, problem, plan, &at, &workspace) }
}

/// Enqueues the gradient from what [`forward`] saved, as [`loss::backward`](crate::loss::backward). Whose
/// forward pass saved it is for the caller to know.
///
/// # Errors
/// Those of [`forward_backward`], as far as they concern inputs, gradient and what was saved.
///
/// # Safety
/// That of [`raw`](crate::raw).
pub unsafe fn backward(
    kernels: &Kernels,
    stream: CUstream,
    config: LossConfig,
    inputs: LossInputs,
    saved: Memory,
    gradient: Gradient,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Backward)?;
    inputs.check(&problem)?;
    inputs.check_gradient(&problem, &gradient)?;
    let saved = SavedAddresses::of(saved, problem.shape().rows)?;
    let plan = kernels.plan(&problem)?;
    kernels.bind()?;
    let at = Addresses::new(&inputs, gradient, LossOutputs::default());
    // SAFETY: the caller's promise; the plan was made of this problem.
    unsafe { enqueue_backward(kernels, stream, &problem, plan, &at, saved) }
}

/// Addresses that were checked against a problem; 0 for what is not there.
#[derive(Default)]
pub(crate) struct Addresses {
    /// In place, the gradient's.
    pub logits: CUdeviceptr,
    pub targets: CUdeviceptr,
    pub class_weights: CUdeviceptr,
    pub gradient: Gradient,
    pub outputs: LossOutputs,
}

impl Addresses {
    fn new(inputs: &LossInputs, gradient: Gradient, outputs: LossOutputs) -> Self {
        let &LossInputs { logits, targets, class_weights, .. } = inputs;
        let logits = logits.address(gradient.matrix);
        Self { logits, targets, class_weights, gradient, outputs }
    }
}

/// Enqueues a forward pass, or both passes at once. The context is current.
///
/// # Safety
/// `plan` was made of `problem`; `stream` is of the context of `kernels`, or a default one; every address
/// that is not 0 is valid for what the problem does with it, on `stream`, until the launches have run: inputs
/// to be read, outputs, workspace and what is saved to be written, apart from each other but for logits that
/// are the gradient's of a problem in place.
pub(crate) unsafe fn enqueue(
    kernels: &Kernels,
    stream: CUstream,
    problem: &Problem,
    plan: Plan,
    at: &Addresses,
    workspace: &WorkspaceAddresses,
) -> Result<(), Error> {
    let rows = problem.shape().rows;
    let outputs = &at.outputs;
    let sums = row_sums(rows, outputs.loss, outputs.correct, workspace);
    let (normalizer, rows_plan) = match plan {
        Plan::Empty { loss } => {
            // SAFETY: the caller's promise.
            return unsafe { kernels.write_nothing(stream, loss, &sums) };
        }
        Plan::Launches { normalizer, rows } => (normalizer, rows),
    };
    let saved = outputs.saved.map(|saved| SavedAddresses::at(saved.address));
    // A backward pass finds it where the rest is saved.
    let divided = saved.map_or_else(|| workspace.divided(), |saved| saved.divided);
    let base = argument(problem, at, normalizer, &rows_plan);
    if let Normalizer::Launch(launch) = normalizer {
        let counting = Counting {
            targets: base.targets,
            class_weights: if problem.weighs_nll() { at.class_weights } else { 0 },
            divisors: base.divisors,
            divided,
            rows,
            classes: problem.classes(),
        };
        // SAFETY: the caller's promise; workspace and saved softmax have room for the result.
        unsafe { counting.launch(kernels, stream, launch, workspace)? };
    }
    let argument = abi::XentFused {
        row_losses: outputs.row_losses as *mut f32,
        row_lse: outputs.row_lse as *mut f32,
        row_argmax: outputs.row_argmax as *mut i64,
        sums,
        save: saved.map_or(std::ptr::null_mut(), |saved| saved.rows),
        partials: workspace.partials,
        device_divided: match normalizer {
            Normalizer::Launch(_) => divided,
            Normalizer::Host | Normalizer::Rows | Normalizer::Saved => std::ptr::null(),
        },
        save_divided: match normalizer {
            Normalizer::Rows => saved.map_or(std::ptr::null_mut(), |saved| saved.divided),
            Normalizer::Host | Normalizer::Launch(_) | Normalizer::Saved => std::ptr::null_mut(),
        },
        ..base
    };
    // SAFETY: the caller's promise.
    unsafe { launch(kernels, stream, &rows_plan, argument) }
}

/// Enqueues a backward pass. The context is current.
///
/// # Safety
/// That of [`enqueue`], and `saved` was written by a forward pass of the same problem, which `stream` comes
/// behind.
pub(crate) unsafe fn enqueue_backward(
    kernels: &Kernels,
    stream: CUstream,
    problem: &Problem,
    plan: Plan,
    at: &Addresses,
    saved: SavedAddresses,
) -> Result<(), Error> {
    let Plan::Launches { normalizer, rows } = plan else {
        return Ok(());
    };
    let argument = abi::XentFused {
        saved: saved.rows,
        device_divided: match normalizer {
            Normalizer::Saved => saved.divided,
            Normalizer::Host | Normalizer::Rows | Normalizer::Launch(_) => std::ptr::null(),
        },
        ..argument(problem, at, normalizer, &rows)
    };
    // SAFETY: the caller's promise; there is no workspace, and the kernel uses none without other outputs.
    unsafe { launch(kernels, stream, &rows, argument) }
}

/// Enqueues the launches over the rows.
///
/// # Safety
/// That of [`Kernels::launch`], for each of them.
unsafe fn launch(
    kernels: &Kernels,
    stream: CUstream,
    rows: &RowsPlan,
    mut argument: abi::XentFused,
) -> Result<(), Error> {
    for step in rows.steps() {
        argument.phase = step.phase.abi();
        // SAFETY: the caller's promise.
        unsafe { kernels.launch(stream, step.launch, &argument)? };
    }
    Ok(())
}

/// What every pass has, and no output but the gradient.
pub(crate) fn argument(
    problem: &Problem,
    at: &Addresses,
    normalizer: Normalizer,
    rows: &RowsPlan,
) -> abi::XentFused {
    let shape = problem.shape();
    let (inverse, weights) = (problem.inverse_divisors(), problem.term_weights());
    let divisors = divisors(inverse, weights, problem.config().empty_mean);
    let (upstream, upstream_stride) = at.gradient.upstream.strided();
    let weights = |used| if used { at.class_weights as *const f32 } else { std::ptr::null() };
    abi::XentFused {
        logits: at.logits as *const _,
        gradient: at.gradient.matrix as *mut _,
        targets: targets(at.targets, problem.ignore_index(), problem.types().targets, shape),
        nll_weights: weights(problem.weighs_nll()),
        smoothing_weights: weights(problem.weighs_smoothing()),
        upstream: upstream as *const f32,
        row_losses: std::ptr::null_mut(),
        row_lse: std::ptr::null_mut(),
        row_argmax: std::ptr::null_mut(),
        sums: no_sums(shape.rows),
        save: std::ptr::null_mut(),
        saved: std::ptr::null(),
        partials: std::ptr::null_mut(),
        device_divided: std::ptr::null(),
        save_divided: std::ptr::null_mut(),
        logits_row_stride: shape.logits_row_stride as u64,
        gradient_row_stride: shape.gradient_row_stride as u64,
        upstream_stride,
        classes: problem.classes(),
        phase: abi::XENT_PHASE_WHOLE,
        divided_source: normalizer.abi(),
        divisors,
        term_weights: divisors.term_weights,
        divided: divided(&divisors),
        geometry: rows.geometry.into(),
        transform: transform(&problem.config()),
    }
}

/// As far as the host knows; as the normalizer kernel forms it.
fn divided(divisors: &abi::XentDivisors) -> abi::XentDivided {
    let (inverse, weights) = (divisors.given, divisors.term_weights);
    // A term that is not there is 0, also divided by 0.
    let times = |weight: f32, inverse: f32| if weight == 0.0 { 0.0 } else { weight * inverse };
    abi::XentDivided {
        inverse_divisors: inverse,
        term_weights: abi::XentTerms {
            nll: times(weights.nll, inverse.nll),
            smoothing: times(weights.smoothing, inverse.smoothing),
            z_loss: times(weights.z_loss, inverse.z_loss),
        },
    }
}

/// Formed in f64, each number rounded once.
fn transform(config: &LossConfig) -> abi::XentTransform {
    let slope = config.logit_scale;
    let (scale, softcap, inner) = match config.logit_softcap {
        None => (slope, 0.0, 0.0),
        Some(cap) => (1.0, cap, slope / cap),
    };
    abi::XentTransform {
        scale: scale as f32,
        exponent_scale: (scale * std::f64::consts::LOG2_E) as f32,
        softcap: softcap as f32,
        inner: inner as f32,
        slope: slope as f32,
    }
}
