//! Binary cross-entropy from logits, each class a question of its own, with smoothing, and its gradient.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use smoothxent::binary::{self, BinaryInputs, BinaryOutputs};
//! use smoothxent::{BinaryConfig, Gradient, Kernels, Shape, Workspace};
//!
//! let context = smoothxent::open(0)?;
//! let stream = context.default_stream();
//! let kernels = Kernels::load(&context)?;
//! let mut workspace = Workspace::new(&stream, 64)?;
//! let logits = stream.alloc_zeros::<f32>(64 * 20)?;
//! let targets = stream.alloc_zeros::<f32>(64 * 20)?; // 0, 1, or between
//! let mut gradient = stream.alloc_zeros::<f32>(64 * 20)?;
//! let mut loss = stream.alloc_zeros::<f32>(1)?;
//!
//! let config = BinaryConfig::keras(0.1);
//! let inputs = BinaryInputs::new(Shape::contiguous(64, 20), &logits, &targets);
//! let outputs = BinaryOutputs { loss: Some(&mut loss), ..BinaryOutputs::default() };
//! let to = Gradient::new(&mut gradient);
//! binary::forward_backward(&kernels, &stream, config, inputs, outputs, to, &mut workspace)?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use cudarc::driver::CudaStream;

pub use crate::call::{Gradient, Upstream};
pub use crate::config::{BinaryConfig, BinarySmoothing, OverClasses};
pub use crate::loss::Logits;
pub use crate::problem::Shape;
use crate::{
    buffer::{ClassWeights, DeviceRead, DeviceWrite, Logit, Requirement, Target, Workspace},
    call::{check_gradient, check_targets, guarded, optional, read_weights, write_gradient},
    error::Error,
    module::Kernels,
    problem::{BinaryProblem, Pass, Types},
    raw::{self, binary::Addresses},
};

/// Inputs of a binary cross-entropy: shape, logits, targets, weights.
#[derive(Clone, Copy)]
pub struct BinaryInputs<'a, T, Y> {
    /// Sizes and strides of the matrices.
    pub shape: Shape,
    /// `[rows, classes]`.
    pub logits: Logits<'a, T>,
    /// `[rows, classes]` targets within 0..=1 (`f32`, `f16`, `bf16`) with a row stride, which nobody checks: what
    /// comes of others is not specified, but nothing else is harmed than their row, and the scalar loss; or `[rows]` class indices (`i32`, `u32`, `i64`) of the one class that is 1.
    pub targets: &'a dyn DeviceRead<Y>,
    /// w, one a class; none for 1.
    pub class_weights: Option<&'a ClassWeights>,
    /// r, one a class, what positive targets weigh beside negative ones; none for 1.
    pub positive_weights: Option<&'a ClassWeights>,
}

impl<'a, T, Y> BinaryInputs<'a, T, Y> {
    /// Without weights.
    pub fn new(
        shape: Shape,
        logits: &'a dyn DeviceRead<T>,
        targets: &'a dyn DeviceRead<Y>,
    ) -> Self {
        let logits = Logits::Matrix(logits);
        Self { shape, logits, targets, class_weights: None, positive_weights: None }
    }

    /// Of logits that the gradient will overwrite: pass their buffer to [`Gradient::new`]. Without
    /// weights.
    pub fn in_place(shape: Shape, targets: &'a dyn DeviceRead<Y>) -> Self {
        let logits = Logits::InGradient;
        Self { shape, logits, targets, class_weights: None, positive_weights: None }
    }

    fn problem(&self, config: BinaryConfig, pass: Pass) -> Result<BinaryProblem, Error>
    where
        T: Logit,
        Y: Target,
    {
        let class_weights = self.class_weights.into();
        let types = Types { dtype: T::DTYPE, targets: Y::TYPE, class_weights };
        BinaryProblem::new(types, self.shape, config, pass, self.logits.place())
    }
}

/// Outputs of a binary cross-entropy beside its gradient, each optional; none by default.
#[derive(Default)]
pub struct BinaryOutputs<'a> {
    /// One element: the reduced loss, not multiplied by the upstream gradient. NaN if any target named
    /// no class.
    pub loss: Option<&'a mut dyn DeviceWrite<f32>>,
    /// `[rows]`: each row's loss over its classes ([`BinaryConfig::over_classes`]), not divided
    /// further; 0 for ignored rows, NaN for targets that name no class.
    pub row_losses: Option<&'a mut dyn DeviceWrite<f32>>,
}

/// Enqueues the loss on `stream`; allocates nothing, waits for nothing. Reads each logit and each target
/// once.
///
/// # Errors
/// Those of [`forward_backward`], but without a gradient; and [`Error::ForwardInPlace`].
pub fn forward<T: Logit, Y: Target>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    config: BinaryConfig,
    inputs: BinaryInputs<'_, T, Y>,
    outputs: BinaryOutputs<'_>,
    workspace: &mut Workspace,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Forward)?;
    enqueue(kernels, stream, &problem, inputs, outputs, None, workspace)
}

/// Enqueues loss and gradient on `stream`; allocates nothing, waits for nothing.
///
/// Reads each logit and each target once and writes each gradient once. All arithmetic is f32; loss and
/// gradient keep their accuracy at any logit, since no sigmoid is subtracted from 1. The same call twice
/// gives the same bits, and so do [`forward`] and [`backward`]. Bad class indices are reported as in
/// [`loss::forward_backward`](crate::loss::forward_backward), and so are streams ordered.
///
/// # Errors
/// Before anything is enqueued: those of [`BinaryProblem::new`]; [`Error::Length`];
/// [`Error::BufferSize`]; [`Error::OtherContext`]; [`Error::Workspace`];
/// [`Error::LossWithoutReduction`]; [`Error::Strategy`]. [`Error::Driver`] if the launch is refused.
pub fn forward_backward<T: Logit, Y: Target>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    config: BinaryConfig,
    inputs: BinaryInputs<'_, T, Y>,
    outputs: BinaryOutputs<'_>,
    gradient: Gradient<'_, T>,
    workspace: &mut Workspace,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Fused)?;
    enqueue(kernels, stream, &problem, inputs, outputs, Some(gradient), workspace)
}

/// Enqueues the gradient on `stream`; allocates nothing, waits for nothing.
///
/// Needs nothing of the forward pass: the gradient of an element follows from its logit and target. Bad
/// class indices have been recorded by the forward pass.
///
/// # Errors
/// Those of [`forward_backward`], except [`Error::LossWithoutReduction`] and [`Error::Strategy`].
pub fn backward<T: Logit, Y: Target>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    config: BinaryConfig,
    inputs: BinaryInputs<'_, T, Y>,
    gradient: Gradient<'_, T>,
    workspace: &mut Workspace,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Backward)?;
    let outputs = BinaryOutputs::default();
    enqueue(kernels, stream, &problem, inputs, outputs, Some(gradient), workspace)
}

fn enqueue<T: Logit, Y: Target>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    problem: &BinaryProblem,
    inputs: BinaryInputs<'_, T, Y>,
    mut outputs: BinaryOutputs<'_>,
    mut gradient: Option<Gradient<'_, T>>,
    workspace: &mut Workspace,
) -> Result<(), Error> {
    let shape = inputs.shape;
    check(kernels, problem, &inputs, &outputs)?;
    if let Some(gradient) = &gradient {
        check_gradient(kernels, problem.lengths().gradient, shape.rows, gradient)?;
    }
    let plan = kernels.plan_binary(problem)?;
    kernels.enter(stream)?;
    let (workspace, _workspace) = workspace.guarded(kernels.context(), stream, shape.rows)?;

    // The guards end after the last launch, at the end of this function.
    let (gradient, _gradient) = write_gradient(gradient.as_mut(), stream);
    let (logits, _logits) = match inputs.logits {
        Logits::InGradient => (gradient.matrix, None),
        Logits::Matrix(logits) => guarded(logits.read(stream)),
    };
    let (targets, _targets) = guarded(inputs.targets.read(stream));
    let (class_weights, _class_weights) = read_weights(inputs.class_weights, stream);
    let (positive_weights, _positive_weights) = read_weights(inputs.positive_weights, stream);
    let (loss, _loss) = optional(&mut outputs.loss, stream);
    let (row_losses, _row_losses) = optional(&mut outputs.row_losses, stream);
    kernels.check_order()?;

    let outputs = raw::BinaryOutputs { loss, row_losses };
    let at = Addresses { logits, targets, class_weights, positive_weights, gradient, outputs };
    // SAFETY: the checks above compared every length with what the shape spans, in this context;
    // `guarded` did so for the workspace; `&mut` keeps outputs apart from inputs and each other, but
    // for logits in the gradient's buffer; the plan was made from the same problem; guards order
    // other streams.
    unsafe { raw::binary::enqueue(kernels, stream.cu_stream(), problem, plan, &at, &workspace) }
}

fn check<T, Y: Target>(
    kernels: &Kernels,
    problem: &BinaryProblem,
    inputs: &BinaryInputs<'_, T, Y>,
    outputs: &BinaryOutputs<'_>,
) -> Result<(), Error> {
    let context = kernels.context();
    let require = |name, needed| Requirement { name, context, needed };
    let Shape { rows, classes, .. } = problem.shape();
    if let Logits::Matrix(logits) = inputs.logits {
        require("logits", problem.lengths().logits).at_least(logits)?;
    }
    check_targets(kernels, inputs.targets, problem.lengths().targets)?;
    if let Some(weights) = inputs.class_weights {
        require("class_weights", classes).exactly(weights.buffer())?;
    }
    if let Some(weights) = inputs.positive_weights {
        require("positive_weights", classes).exactly(weights.buffer())?;
    }
    if let Some(loss) = &outputs.loss {
        problem.check_scalar_loss()?;
        require("loss", 1).exactly(&**loss)?;
    }
    outputs
        .row_losses
        .as_ref()
        .map_or(Ok(()), |row_losses| require("row_losses", rows).exactly(&**row_losses))
}
