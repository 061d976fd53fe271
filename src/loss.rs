//! Softmax cross-entropy and its gradient: together in one pass over the logits, or apart.
//!
//! [`forward_backward`] gives both; [`forward`] and [`backward`] are for an autograd that wants them
//! apart. In place ([`LossInputs::in_place`]) the gradient takes the place of the logits.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use smoothxent::{ClassWeights, Gradient, Kernels, LossConfig, LossInputs, LossOutputs};
//! use smoothxent::{SavedSoftmax, Shape, Upstream, Workspace, half::bf16, loss};
//!
//! let context = smoothxent::open(0)?;
//! let stream = context.default_stream();
//! let kernels = Kernels::load(&context)?;
//! let (rows, classes) = (64, 1000);
//! let mut workspace = Workspace::new(&stream, rows)?;
//! let mut saved = SavedSoftmax::new(&stream, rows)?;
//! let weights = ClassWeights::new(&stream, &vec![1.0; classes])?;
//!
//! let logits = stream.alloc_zeros::<bf16>(rows * classes)?;
//! let targets = stream.alloc_zeros::<i64>(rows)?;
//! let mut loss = stream.alloc_zeros::<f32>(1)?;
//! let mut correct = stream.alloc_zeros::<i64>(1)?;
//! let config = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
//! let inputs = LossInputs {
//!     class_weights: Some(&weights),
//!     ..LossInputs::new(Shape::contiguous(rows, classes), &logits, &targets)
//! };
//! let outputs = LossOutputs {
//!     loss: Some(&mut loss),
//!     correct: Some(&mut correct),
//!     saved: Some(&mut saved),
//!     ..LossOutputs::default()
//! };
//! loss::forward(&kernels, &stream, config, inputs, outputs, &mut workspace)?;
//!
//! // Later, when the gradient of everything behind the loss has arrived on the device:
//! let upstream = stream.clone_htod(&[1.0f32])?;
//! let mut gradient = stream.alloc_zeros::<bf16>(rows * classes)?;
//! let to = Gradient { matrix: &mut gradient, upstream: Upstream::Scalar(&upstream) };
//! loss::backward(&kernels, &stream, config, inputs, &saved, to)?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use cudarc::driver::CudaStream;

pub use crate::call::{Gradient, Upstream};
pub use crate::config::{
    Divisor, Divisors, EmptyMean, LossConfig, Reduction, Smoothing, WeightedTerms,
};
pub use crate::problem::Shape;
use crate::{
    buffer::{
        ClassWeights, DeviceRead, DeviceWrite, Logit, Requirement, SavedSoftmax, Target, Workspace,
    },
    call::{Guard, check_gradient, check_targets, guarded, optional, read_weights, write_gradient},
    error::Error,
    module::Kernels,
    plan::{Plan, Planner, Selection},
    problem::{Lengths, Pass, Place, Problem, Types},
    raw::{self, loss::Addresses},
};

/// Where the logits are: `[rows, classes]` with a row stride.
#[derive(Clone, Copy)]
pub enum Logits<'a, T> {
    /// In a buffer of their own, which is only read.
    Matrix(&'a dyn DeviceRead<T>),
    /// In the gradient's buffer, which overwrites them.
    InGradient,
}

impl<T> Logits<'_, T> {
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Matrix(_) => Place::Apart,
            Self::InGradient => Place::InPlace,
        }
    }
}

/// Inputs of a loss: shape, logits, targets, class weights.
#[derive(Clone, Copy)]
pub struct LossInputs<'a, T, Y> {
    /// Sizes and strides of the matrices.
    pub shape: Shape,
    /// `[rows, classes]`.
    pub logits: Logits<'a, T>,
    /// `[rows]` class indices (`i32`, `u32`, `i64`), or `[rows, classes]` probabilities (`f32`, `f16`,
    /// `bf16`) with a row stride; as in PyTorch, the type decides. Rows of probabilities need not sum
    /// to 1. Nobody checks that they are within 0..=1: what comes of others is not specified, but nothing else is
    /// harmed than their row, and the scalar loss.
    pub targets: &'a dyn DeviceRead<Y>,
    /// One a class, for what [`LossConfig::weighted_terms`] says; none for 1.
    pub class_weights: Option<&'a ClassWeights>,
}

impl<'a, T, Y> LossInputs<'a, T, Y> {
    /// Without class weights.
    pub fn new(
        shape: Shape,
        logits: &'a dyn DeviceRead<T>,
        targets: &'a dyn DeviceRead<Y>,
    ) -> Self {
        Self { shape, logits: Logits::Matrix(logits), targets, class_weights: None }
    }

    /// Of logits that the gradient will overwrite: pass their buffer to [`Gradient::new`]. Without
    /// class weights.
    pub fn in_place(shape: Shape, targets: &'a dyn DeviceRead<Y>) -> Self {
        Self { shape, logits: Logits::InGradient, targets, class_weights: None }
    }

    fn problem(&self, config: LossConfig, pass: Pass) -> Result<Problem, Error>
    where
        T: Logit,
        Y: Target,
    {
        let class_weights = self.class_weights.into();
        let types = Types { dtype: T::DTYPE, targets: Y::TYPE, class_weights };
        Problem::new(types, self.shape, config, pass, self.logits.place())
    }
}

/// Outputs of a loss beside its gradient, each optional; none by default. All losses are f32, whatever the
/// logits are. Asking for more outputs never costs another pass over the logits, except in rows that
/// hold NaN.
#[derive(Default)]
pub struct LossOutputs<'a> {
    /// One element: the reduced loss, not multiplied by the upstream gradient. NaN if any target named
    /// no class.
    pub loss: Option<&'a mut dyn DeviceWrite<f32>>,
    /// `[rows]`: each row's loss, not divided by anything; 0 for ignored rows, NaN for targets that
    /// name no class.
    pub row_losses: Option<&'a mut dyn DeviceWrite<f32>>,
    /// `[rows]`: each row's log-sum-exp, of the transformed logits; 0 for ignored rows, whose logits count for
    /// nothing, and NaN for targets that name no class.
    pub row_lse: Option<&'a mut dyn DeviceWrite<f32>>,
    /// `[rows]`: the class of each row's largest (transformed) logit, the lowest of several that are
    /// equal, and of NaN where there is one, as in PyTorch; -1 for ignored rows, whose logits
    /// count for nothing, and for targets that name no class.
    pub row_argmax: Option<&'a mut dyn DeviceWrite<i64>>,
    /// One element: rows whose `row_argmax` is the target; no ignored ones, and none whose target is out of range. Class
    /// indices only.
    pub correct: Option<&'a mut dyn DeviceWrite<i64>>,
    /// What [`backward`] needs.
    pub saved: Option<&'a mut SavedSoftmax>,
}

/// Enqueues the loss on `stream`; allocates nothing, waits for nothing.
///
/// Reads each logit once; with target probabilities, of rows that exceed shared memory and in which one
/// class has most of the probability, a part twice. What it saves ([`LossOutputs::saved`]) lets
/// [`backward`] read each logit once.
///
/// Bad targets, streams and errors are those of [`forward_backward`], but without a gradient; and
/// [`Error::ForwardInPlace`].
pub fn forward<T: Logit, Y: Target>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    config: LossConfig,
    inputs: LossInputs<'_, T, Y>,
    outputs: LossOutputs<'_>,
    workspace: &mut Workspace,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Forward)?;
    enqueue(kernels, stream, &problem, inputs, outputs, None, workspace)
}

/// Enqueues loss and gradient on `stream`; allocates nothing, waits for nothing.
///
/// Writes each gradient once, and reads each logit once where two rows fit the shared memory of a multiprocessor: up to
/// about 57,000 classes in half precision on an H200, and 40,000 on an A100; half of that in f32. (On an H200 also
/// f32 rows of 38,600 to 57,859, on an H100 from 37,000 on: each has a multiprocessor to itself.) Target probabilities
/// divide the limit by three in half precision, and by two in f32; they are read once as well, but under `warp` (up to
/// 512 classes, in f32 256) a second time, from the nearest cache.
/// A part of longer rows is read a second time, mostly from the L2 cache, unless clusters of blocks keep them: where
/// rows are few, or so long that the cache would not do (on an H200 many rows of 117,000 to 458,000 classes in half
/// precision, of 57,860 to 229,000 in f32, without class weights in the smoothing term or a cap). A few long rows are
/// read twice, too, where they would leave most of a device without clusters idle. [`Kernels::plan`] shows what a problem
/// gets.
///
/// One launch; two where a mean has to count more than 256 rows first, or blocks share rows without a cluster.
///
/// All arithmetic is f32. The same call twice gives the same bits, and so do [`forward`] and [`backward`] with the same
/// [`Selection`], but for many long rows of [`Selection::Fastest`]
/// ([`guide::reproducibility`](crate::guide::reproducibility)).
///
/// A target that is neither a class nor `ignore_index` gives its row a NaN loss and a zero gradient, and is
/// reported by [`Workspace::take_status`]. The scalar loss is then NaN, and the row still counts in a mean's
/// divisor, with a weight of 1. Other rows' losses, and their gradients but for the mean's divisor, are unaffected.
///
/// A row that counts and holds NaN or +inf, or nothing but -inf, has a NaN loss and a NaN gradient; then the scalar loss
/// is NaN, too, and other rows are unaffected. A logit of -inf is a class of probability 0: it adds nothing where its coefficient
/// in the loss is 0, and makes the loss +inf elsewhere. A [`logit_softcap`](LossConfig::logit_softcap) makes infinite
/// logits finite ones.
///
/// # Streams, threads and graphs
/// Buffers may be used on several streams: cudarc's events order this call behind what was enqueued
/// with them before, as long as event tracking is on and a stream of `new_stream` or `fork` is alive;
/// else ordering is the caller's ([`guide::graphs_and_streams`](crate::guide::graphs_and_streams)). cudarc
/// remembers one reader of a buffer, the last, so after reading one buffer on two streams, join them before it
/// is written or dropped. What a captured graph uses, `kernels` and buffers, has to live until its last replay.
///
/// # Errors
/// Before anything is enqueued: those of [`Problem::new`]; [`Error::Length`] (matrices may be
/// longer than needed, vectors may not: pass a view of the rows at hand); [`Error::BufferSize`];
/// [`Error::OtherContext`]; [`Error::Workspace`]; [`Error::SavedCapacity`];
/// [`Error::LossWithoutReduction`]; [`Error::CorrectOfProbabilities`]; [`Error::Strategy`].
/// [`Error::Driver`] if the launch is refused.
pub fn forward_backward<T: Logit, Y: Target>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    config: LossConfig,
    inputs: LossInputs<'_, T, Y>,
    outputs: LossOutputs<'_>,
    gradient: Gradient<'_, T>,
    workspace: &mut Workspace,
) -> Result<(), Error> {
    let problem = inputs.problem(config, Pass::Fused)?;
    enqueue(kernels, stream, &problem, inputs, outputs, Some(gradient), workspace)
}

fn enqueue<T: Logit, Y: Target>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    problem: &Problem,
    inputs: LossInputs<'_, T, Y>,
    mut outputs: LossOutputs<'_>,
    mut gradient: Option<Gradient<'_, T>>,
    workspace: &mut Workspace,
) -> Result<(), Error> {
    let shape = inputs.shape;
    let in_place = matches!(inputs.logits, Logits::InGradient);
    check_outputs(kernels, problem, &outputs)?;
    check_inputs(kernels, &inputs, problem.lengths())?;
    if let Some(gradient) = &gradient {
        check_gradient(kernels, problem.lengths().gradient, shape.rows, gradient)?;
    }
    let plan = kernels.plan(problem)?;
    kernels.enter(stream)?;
    let (workspace, _workspace) = workspace.guarded(kernels.context(), stream, shape.rows)?;

    // The guards order this stream with others that use the same buffers; they end after the last
    // launch, at the end of this function.
    let (gradient, _gradient) = write_gradient(gradient.as_mut(), stream);
    let (inputs, _inputs) = read_inputs(&inputs, gradient, stream);
    let (loss, _loss) = optional(&mut outputs.loss, stream);
    let (correct, _correct) = optional(&mut outputs.correct, stream);
    let (row_losses, _row_losses) = optional(&mut outputs.row_losses, stream);
    let (row_lse, _row_lse) = optional(&mut outputs.row_lse, stream);
    let (row_argmax, _row_argmax) = optional(&mut outputs.row_argmax, stream);
    let (saved, _saved, note) = match &mut outputs.saved {
        None => (None, None, None),
        Some(saved) => {
            let (saved, guard, note) = saved.write(stream);
            (Some(saved), Some(guard), Some(note))
        }
    };
    kernels.check_order()?;

    let outputs = raw::LossOutputs { loss, row_losses, row_lse, row_argmax, correct, saved };
    let at = Addresses { outputs, ..inputs };
    // SAFETY: the checks above compared every length with what the shape spans, in this context;
    // `guarded` did so for the workspace; `&mut` keeps outputs apart from inputs and each other, but
    // for logits in the gradient's buffer; the plan was made from the same problem; guards order
    // other streams.
    unsafe { raw::loss::enqueue(kernels, stream.cu_stream(), problem, plan, &at, &workspace)? };
    // In place the logits are gone: no backward pass can be of them.
    if let (Some(note), false) = (note, in_place) {
        *note = Some(problem.softmax());
    }
    Ok(())
}

/// Enqueues the gradient on `stream`, from what [`forward`] saved; allocates nothing, waits for
/// nothing.
///
/// Reads each logit once and writes each gradient once, however long a row is. The bits are those of
/// [`forward_backward`] by the strategy of the forward pass. Everything but strides has to be as it was in the forward
/// pass, and so has what the buffers hold. Bad targets have been recorded by the forward pass.
///
/// # Errors
/// Before anything is enqueued: those of [`Problem::new`]; [`Error::SavedSoftmax`] if another problem's
/// forward pass saved last; [`Error::Length`], [`Error::BufferSize`] and [`Error::OtherContext`] as
/// in [`forward_backward`]. [`Error::Driver`] if the launch is refused.
pub fn backward<T: Logit, Y: Target>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    config: LossConfig,
    inputs: LossInputs<'_, T, Y>,
    saved: &SavedSoftmax,
    mut gradient: Gradient<'_, T>,
) -> Result<(), Error> {
    let shape = inputs.shape;
    let problem = inputs.problem(config, Pass::Backward)?;
    saved.check(kernels.context(), &problem.softmax())?;
    check_inputs(kernels, &inputs, problem.lengths())?;
    check_gradient(kernels, problem.lengths().gradient, shape.rows, &gradient)?;
    let plan = kernels.plan(&problem)?;
    kernels.enter(stream)?;

    // The guards end after the launch, at the end of this function.
    let (gradient, _gradient) = write_gradient(Some(&mut gradient), stream);
    let (at, _inputs) = read_inputs(&inputs, gradient, stream);
    let (saved, _saved) = saved.read(stream);
    kernels.check_order()?;

    let stream = stream.cu_stream();
    // SAFETY: as in `enqueue`; `check` found that a forward pass of the same problem was enqueued, on a
    // stream that guards put before this one.
    unsafe { raw::loss::enqueue_backward(kernels, stream, &problem, plan, &at, saved) }
}

/// What a call of [`forward_backward`] does apart from buffers and driver: checks, plans, and fills in the
/// kernel's argument. For `benches/host.rs`, which measures it.
#[doc(hidden)]
pub fn prepare(
    planner: &Planner,
    types: Types,
    shape: Shape,
    config: LossConfig,
) -> Result<impl Sized + use<>, Error> {
    let problem = Problem::new(types, shape, config, Pass::Fused, Place::Apart)?;
    let plan = planner.loss(&problem, Selection::Fastest)?;
    Ok(match plan {
        Plan::Empty { .. } => None,
        Plan::Launches { normalizer, rows } => {
            Some(raw::loss::argument(&problem, &Addresses::default(), normalizer, &rows))
        }
    })
}

fn check_inputs<T, Y: Target>(
    kernels: &Kernels,
    inputs: &LossInputs<'_, T, Y>,
    lengths: Lengths,
) -> Result<(), Error> {
    let context = kernels.context();
    let require = |name, needed| Requirement { name, context, needed };
    if let Logits::Matrix(logits) = inputs.logits {
        require("logits", lengths.logits).at_least(logits)?;
    }
    check_targets(kernels, inputs.targets, lengths.targets)?;
    inputs.class_weights.map_or(Ok(()), |weights| {
        require("class_weights", inputs.shape.classes).exactly(weights.buffer())
    })
}

fn check_outputs(
    kernels: &Kernels,
    problem: &Problem,
    outputs: &LossOutputs<'_>,
) -> Result<(), Error> {
    let context = kernels.context();
    let require = |name, needed| Requirement { name, context, needed };
    let rows = problem.shape().rows;
    if let Some(loss) = &outputs.loss {
        problem.check_scalar_loss()?;
        require("loss", 1).exactly(&**loss)?;
    }
    if let Some(correct) = &outputs.correct {
        problem.check_correct()?;
        require("correct", 1).exactly(&**correct)?;
    }
    if let Some(row_losses) = &outputs.row_losses {
        require("row_losses", rows).exactly(&**row_losses)?;
    }
    if let Some(row_lse) = &outputs.row_lse {
        require("row_lse", rows).exactly(&**row_lse)?;
    }
    if let Some(row_argmax) = &outputs.row_argmax {
        require("row_argmax", rows).exactly(&**row_argmax)?;
    }
    outputs.saved.as_ref().map_or(Ok(()), |saved| saved.check_capacity(context, rows))
}

/// Addresses of inputs and gradient, and guards to keep until the launch.
fn read_inputs<'a, T, Y>(
    inputs: &LossInputs<'a, T, Y>,
    gradient: raw::Gradient,
    stream: &'a CudaStream,
) -> (Addresses, [Guard<'a>; 3]) {
    let (logits, logits_guard) = match inputs.logits {
        Logits::InGradient => (gradient.matrix, None),
        Logits::Matrix(logits) => guarded(logits.read(stream)),
    };
    let (targets, targets_guard) = guarded(inputs.targets.read(stream));
    let (class_weights, weights_guard) = read_weights(inputs.class_weights, stream);
    let outputs = raw::LossOutputs::default();
    let addresses = Addresses { logits, targets, class_weights, gradient, outputs };
    (addresses, [logits_guard, targets_guard, weights_guard])
}
