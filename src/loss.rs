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
//! let targets = stream.alloc_zeros::<u32>(rows)?;
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

use cudarc::driver::{CudaStream, sys::CUdeviceptr};

pub use crate::call::{Gradient, Upstream};
pub use crate::config::{
    Divisor, Divisors, EmptyMean, LossConfig, Reduction, Smoothing, WeightedTerms,
};
pub use crate::problem::Shape;
use crate::{
    abi,
    buffer::{
        ClassWeights, DeviceRead, DeviceWrite, Logit, Requirement, SavedAddresses, SavedSoftmax,
        Target, Workspace,
    },
    call::{
        Counting, GradientAddresses, Guard, check_gradient, check_targets, divisors, guarded,
        no_sums, optional, read_weights, row_sums, targets, write_gradient,
    },
    error::Error,
    module::Kernels,
    plan::{Normalizer, Plan, Planner, RowsPlan, Selection},
    problem::{Lengths, Pass, Place, Problem, Types},
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

/// What a loss is of.
#[derive(Clone, Copy)]
pub struct LossInputs<'a, T, Y> {
    /// Sizes and strides of the matrices.
    pub shape: Shape,
    /// `[rows, classes]`.
    pub logits: Logits<'a, T>,
    /// `[rows]` class indices (`i32`, `u32`, `i64`), or `[rows, classes]` probabilities (`f32`, `f16`,
    /// `bf16`) with a row stride; as in PyTorch, the type decides. Rows of probabilities need not sum
    /// to 1.
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

/// What a loss is asked for beside its gradient; nothing by default. All losses are f32, whatever the
/// logits are. None costs another pass over the logits, but in rows that hold NaN.
#[derive(Default)]
pub struct LossOutputs<'a> {
    /// One element: the reduced loss, not multiplied by the upstream gradient.
    pub loss: Option<&'a mut dyn DeviceWrite<f32>>,
    /// `[rows]`: each row's loss, not divided by anything; 0 for ignored rows, NaN for targets that
    /// name no class.
    pub row_losses: Option<&'a mut dyn DeviceWrite<f32>>,
    /// `[rows]`: each row's log-sum-exp; 0 for ignored rows, whose logits are never read, and NaN
    /// for targets that name no class.
    pub row_lse: Option<&'a mut dyn DeviceWrite<f32>>,
    /// `[rows]`: the class of each row's largest (transformed) logit, the lowest of several that are
    /// equal, and of NaN where there is one, as in PyTorch; -1 for ignored rows, whose logits are
    /// never read, and for targets that name no class.
    pub row_argmax: Option<&'a mut dyn DeviceWrite<i64>>,
    /// One element: rows whose largest logit is the target's. Class indices only.
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
/// Reads each logit once and writes each gradient once where a row fits the shared memory of a block, or
/// of a cluster of blocks where the device has clusters: up to about 925,000 classes in half precision on
/// an H200, and 40,000 on an A100; half of it in f32, a third with target probabilities, which are read
/// once as well. A part of longer rows is read a second time, and so are a few long rows that would leave
/// most of a device without clusters idle. [`Kernels::plan`] shows what a problem gets.
///
/// All arithmetic is f32. The same call twice gives the same bits, and so do [`forward`] and [`backward`]
/// with the same [`Selection`].
///
/// A target that is neither a class nor `ignore_index` gives its row a NaN loss and a zero gradient,
/// leaves its neighbours alone, and is reported by [`Workspace::take_status`].
///
/// # Streams, threads and graphs
/// Buffers may be used on several streams: cudarc's events order this call behind what was enqueued
/// with them before, as long as event tracking is on and at least one stream beside the default one
/// is alive; where it is off, ordering is the caller's. cudarc remembers one reader of a buffer, the
/// last, so after reading one buffer on two streams, join them before it is written or dropped. What
/// a captured graph uses, `kernels` and buffers, has to live until its last replay.
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
    check_outputs(kernels, problem, &outputs)?;
    check_inputs(kernels, &inputs, problem.lengths())?;
    if let Some(gradient) = &gradient {
        check_gradient(kernels, problem.lengths().gradient, shape.rows, gradient)?;
    }
    let plan = kernels.plan(problem)?;
    kernels.enter(stream)?;
    let (addresses, _workspace) = workspace.guarded(kernels.context(), stream, shape.rows)?;

    // The guards order this stream with others that use the same buffers; they end after the last
    // launch, at the end of this function.
    let inputs = read_inputs(&inputs, stream);
    let (gradient, _upstream_guard) = write_gradient(gradient.as_mut(), stream);
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

    let sums = row_sums(shape.rows, loss, correct, &addresses);
    let (normalizer, rows) = match plan {
        // SAFETY: `check_outputs` found one element each, and their guards order other streams.
        Plan::Empty { loss } => unsafe {
            kernels.write_nothing(stream, loss, &sums)?;
            if let Some(note) = note {
                *note = Some(problem.softmax());
            }
            return Ok(());
        },
        Plan::Launches { normalizer, rows } => (normalizer, rows),
    };
    // A backward pass finds it where the rest is saved.
    let divided = saved.map_or_else(|| addresses.divided(), |saved| saved.divided);
    let base = argument(problem, &inputs, &gradient, normalizer, &rows);
    if let Normalizer::Launch(launch) = normalizer {
        let counting = Counting {
            targets: base.targets,
            class_weights: if problem.weighs_nll() { inputs.class_weights } else { 0 },
            divisors: base.divisors,
            divided,
            rows: shape.rows,
            classes: problem.classes(),
        };
        // SAFETY: `check_inputs` found `rows` targets and a weight for each class; workspace and
        // saved softmax have room for the result; guards order other streams.
        unsafe { counting.launch(kernels, stream, launch, &addresses)? };
    }
    let argument = abi::XentFused {
        row_losses: row_losses as *mut f32,
        row_lse: row_lse as *mut f32,
        row_argmax: row_argmax as *mut i64,
        sums,
        save: saved.map_or(std::ptr::null_mut(), |saved| saved.rows),
        partials: addresses.partials,
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
    // SAFETY: the checks above compared every length with what the shape spans, in this context;
    // `guarded` did so for the workspace; `&mut` keeps outputs apart from inputs and each other, but
    // for logits in the gradient's buffer, which the kernel allows; the plan was made from the same
    // problem.
    unsafe { launch(kernels, stream, &rows, argument)? };
    if let Some(note) = note {
        *note = Some(problem.softmax());
    }
    Ok(())
}

/// Enqueues the gradient on `stream`, from what [`forward`] saved; allocates nothing, waits for
/// nothing.
///
/// Reads each logit once and writes each gradient once, however long a row is. The bits are those of
/// [`forward_backward`]. Everything but strides has to be as it was in the forward pass, and so has
/// what the buffers hold. Bad targets have been recorded by the forward pass.
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
    let inputs = read_inputs(&inputs, stream);
    let (gradient, _upstream_guard) = write_gradient(Some(&mut gradient), stream);
    let (SavedAddresses { divided, rows: saved }, _saved) = saved.read(stream);
    kernels.check_order()?;

    let Plan::Launches { normalizer, rows } = plan else {
        return Ok(());
    };
    let argument = abi::XentFused {
        saved,
        device_divided: match normalizer {
            Normalizer::Saved => divided,
            Normalizer::Host | Normalizer::Rows | Normalizer::Launch(_) => std::ptr::null(),
        },
        ..argument(&problem, &inputs, &gradient, normalizer, &rows)
    };
    // SAFETY: as in `enqueue`; there is no workspace, and the kernel uses none without other outputs;
    // `check` found that a forward pass of the same rows was enqueued, on a stream that guards put
    // before this one.
    unsafe { launch(kernels, stream, &rows, argument) }
}

/// Enqueues the launches over the rows.
///
/// # Safety
/// That of [`Kernels::launch`], for each of them.
unsafe fn launch(
    kernels: &Kernels,
    stream: &CudaStream,
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
fn argument(
    problem: &Problem,
    inputs: &InputAddresses<'_>,
    gradient: &GradientAddresses<'_>,
    normalizer: Normalizer,
    rows: &RowsPlan,
) -> abi::XentFused {
    let shape = problem.shape();
    let (inverse, weights) = (problem.inverse_divisors(), problem.term_weights());
    let divisors = divisors(inverse, weights, problem.config().empty_mean);
    let weights = |used| if used { inputs.class_weights as *const f32 } else { std::ptr::null() };
    abi::XentFused {
        logits: inputs.logits.unwrap_or(gradient.matrix) as *const _,
        gradient: gradient.matrix as *mut _,
        targets: targets(inputs.targets, problem.ignore_index(), problem.types().targets, shape),
        nll_weights: weights(problem.weighs_nll()),
        smoothing_weights: weights(problem.weighs_smoothing()),
        upstream: gradient.upstream as *const f32,
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
        upstream_stride: gradient.upstream_stride,
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
    let inputs = InputAddresses {
        logits: Some(0),
        targets: 0,
        class_weights: 0,
        _guards: [const { None }; 3],
    };
    Ok(match plan {
        Plan::Empty { .. } => None,
        Plan::Launches { normalizer, rows } => {
            Some(argument(&problem, &inputs, &GradientAddresses::NONE, normalizer, &rows))
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
        if problem.config().reduction == Reduction::None {
            return Err(Error::LossWithoutReduction);
        }
        require("loss", 1).exactly(&**loss)?;
    }
    if let Some(correct) = &outputs.correct {
        if problem.types().targets.is_probabilities() {
            return Err(Error::CorrectOfProbabilities);
        }
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

/// Device addresses of inputs, 0 for what is not there, and guards to keep until the launch.
struct InputAddresses<'a> {
    /// None if they are in the gradient's buffer.
    logits: Option<CUdeviceptr>,
    targets: CUdeviceptr,
    class_weights: CUdeviceptr,
    _guards: [Guard<'a>; 3],
}

fn read_inputs<'a, T, Y>(
    inputs: &LossInputs<'a, T, Y>,
    stream: &'a CudaStream,
) -> InputAddresses<'a> {
    let (logits, logits_guard) = match inputs.logits {
        Logits::InGradient => (None, None),
        Logits::Matrix(logits) => {
            let (address, guard) = guarded(logits.read(stream));
            (Some(address), guard)
        }
    };
    let (targets, targets_guard) = guarded(inputs.targets.read(stream));
    let (class_weights, weights_guard) = read_weights(inputs.class_weights, stream);
    let _guards = [logits_guard, targets_guard, weights_guard];
    InputAddresses { logits, targets, class_weights, _guards }
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
