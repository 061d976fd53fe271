//! The loss and its gradient, in one pass over the logits.

use std::sync::Arc;

use cudarc::driver::{CudaStream, SyncOnDrop, sys::CUdeviceptr};

pub use crate::problem::{
    Divisor, Divisors, EmptyMean, LossConfig, Reduction, Shape, Smoothing, WeightedTerms,
};
use crate::{
    abi,
    buffer::{DeviceRead, DeviceWrite, Guarded, Logit, Requirement, TargetIndex, Workspace},
    error::Error,
    module::Kernels,
    plan::{self, Plan},
    problem::{ClassWeights, InverseDivisor, Problem, TargetType, Terms},
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

/// What [`forward_backward`] reads.
#[derive(Clone, Copy)]
pub struct LossInputs<'a, T, I> {
    /// `[rows, classes]` with a row stride.
    pub logits: &'a dyn DeviceRead<T>,
    /// `[rows]` class indices.
    pub targets: &'a dyn DeviceRead<I>,
    /// `[classes]`, what [`LossConfig::weighted_terms`] says is multiplied by the weight of a class;
    /// none for 1. Not negative: nobody checks.
    pub class_weights: Option<&'a dyn DeviceRead<f32>>,
    /// What multiplies the gradient.
    pub upstream: Upstream<'a>,
}

impl<'a, T, I> LossInputs<'a, T, I> {
    /// Without class weights, and with an upstream gradient of 1.
    pub fn new(logits: &'a dyn DeviceRead<T>, targets: &'a dyn DeviceRead<I>) -> Self {
        Self { logits, targets, class_weights: None, upstream: Upstream::One }
    }
}

/// What [`forward_backward`] writes. All losses are f32, whatever the logits are.
pub struct LossOutputs<'a, T> {
    /// `[rows, classes]` with a row stride: the gradient with respect to the logits.
    pub gradient: &'a mut dyn DeviceWrite<T>,
    /// One element: the reduced loss, not multiplied by the upstream gradient.
    pub loss: Option<&'a mut dyn DeviceWrite<f32>>,
    /// `[rows]`: each row's loss, not divided by anything; 0 for ignored rows, NaN for targets that
    /// name no class.
    pub row_losses: Option<&'a mut dyn DeviceWrite<f32>>,
    /// `[rows]`: each row's log-sum-exp; 0 for ignored rows, whose logits are never read, and NaN
    /// for targets that name no class.
    pub row_lse: Option<&'a mut dyn DeviceWrite<f32>>,
}

impl<'a, T> LossOutputs<'a, T> {
    /// The gradient alone; further outputs are added as fields.
    pub fn new(gradient: &'a mut dyn DeviceWrite<T>) -> Self {
        Self { gradient, loss: None, row_losses: None, row_lse: None }
    }
}

/// Enqueues loss and gradient on `stream`; allocates nothing, waits for nothing.
///
/// Reads each logit once and writes each gradient once where a row fits shared memory (up to about
/// 116,000 classes in half precision on an H200, 58,000 in f32); a part of longer rows is read a
/// second time. All arithmetic is f32. The same call twice gives the same bits.
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
/// [`Error::OtherContext`]; [`Error::Workspace`];
/// [`Error::LossWithoutReduction`]. [`Error::Driver`] if the launch is refused.
pub fn forward_backward<T: Logit, I: TargetIndex>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    config: LossConfig,
    shape: Shape,
    inputs: LossInputs<'_, T, I>,
    mut outputs: LossOutputs<'_, T>,
    workspace: &mut Workspace,
) -> Result<(), Error> {
    let class_weights = match inputs.class_weights {
        None => ClassWeights::Absent,
        Some(_) => ClassWeights::Given,
    };
    let problem = Problem::new(T::DTYPE, I::TYPE, class_weights, shape, config)?;
    if config.reduction == Reduction::None && outputs.loss.is_some() {
        return Err(Error::LossWithoutReduction);
    }
    check_buffers(kernels, &problem, &inputs, &outputs)?;
    kernels.enter(stream)?;
    let (addresses, _workspace) = workspace.guarded(kernels.context(), stream, shape.rows)?;

    // The guards order this stream with others that use the same buffers; they end after the last
    // launch, at the end of this function.
    let (logits, _logits) = inputs.logits.read(stream);
    let (targets, _targets) = inputs.targets.read(stream);
    let (gradient, _gradient) = outputs.gradient.write(stream);
    let (class_weights, _, _class_weights) =
        inputs.class_weights.map_or((0, 0, None), |weights| split(weights.read(stream), 1));
    let (upstream, upstream_stride, _upstream) = match inputs.upstream {
        Upstream::One => (0, 0, None),
        Upstream::Scalar(one) => split(one.read(stream), 0),
        Upstream::PerRow(all) => split(all.read(stream), 1),
    };
    let (loss, _loss) = optional(&mut outputs.loss, stream);
    let (row_losses, _row_losses) = optional(&mut outputs.row_losses, stream);
    let (row_lse, _row_lse) = optional(&mut outputs.row_lse, stream);
    kernels.check_order()?;

    let (normalizer, fused, cached_packs) = match plan::choose(&problem, kernels.properties()) {
        // SAFETY: `check_buffers` found one element, and its guard orders other streams.
        Plan::Empty { loss: value } if loss != 0 => unsafe {
            return kernels.fill_one(stream, loss, value);
        },
        Plan::Empty { .. } => return Ok(()),
        Plan::Fused { normalizer, fused, cached_packs } => (normalizer, fused, cached_packs),
    };
    let targets = abi::XentTargets {
        indices: targets as *const _,
        ignore_index: config.ignore_index.unwrap_or_default(),
        index_type: match problem.target_type() {
            TargetType::I32 => abi::XENT_TARGET_I32,
            TargetType::U32 => abi::XENT_TARGET_U32,
            TargetType::I64 => abi::XENT_TARGET_I64,
        },
        has_ignore_index: config.ignore_index.is_some().into(),
    };
    let rows = shape.rows as u64;
    let inverse = problem.inverse_divisors();
    let given = terms(inverse, |divisor| match divisor {
        InverseDivisor::Host(number) => number,
        InverseDivisor::CountedRows | InverseDivisor::TargetWeights => 0.0,
    });
    if let Some(launch) = normalizer {
        let argument = abi::XentNormalizer {
            targets,
            class_weights: class_weights as *const f32,
            chunk_sums: addresses.chunk_sums,
            workspace: addresses.head,
            rows,
            classes: problem.classes(),
            empty_is_zero: (config.empty_mean == EmptyMean::Zero).into(),
            given,
            nll_source: source(inverse.nll),
            smoothing_source: source(inverse.smoothing),
            z_loss_source: source(inverse.z_loss),
        };
        // SAFETY: `check_buffers` found `rows` targets and a weight for each class; the workspace has
        // its head and chunks; guards order other streams.
        unsafe { kernels.launch(stream, launch, &argument)? };
    }
    let argument = abi::XentFused {
        logits: logits as *const _,
        gradient: gradient as *mut _,
        targets,
        nll_weights: class_weights as *const f32,
        smoothing_weights: if problem.weighs_smoothing() {
            class_weights as *const f32
        } else {
            std::ptr::null()
        },
        upstream: upstream as *const f32,
        row_losses: row_losses as *mut f32,
        row_lse: row_lse as *mut f32,
        loss: loss as *mut f32,
        row_shares: addresses.row_shares,
        chunk_sums: addresses.chunk_sums,
        chunk_tickets: addresses.chunk_tickets,
        workspace: addresses.head,
        rows,
        logits_row_stride: shape.logits_row_stride as u64,
        gradient_row_stride: shape.gradient_row_stride as u64,
        upstream_stride,
        classes: problem.classes(),
        cached_packs,
        term_weights: terms(problem.term_weights(), |weight| weight),
        inverse_divisors: given,
        transform: transform(&config),
        device_divisors: normalizer.is_some().into(),
    };
    // SAFETY: `check_buffers` compared every length with what the shape spans, in this context;
    // `guarded` did so for the workspace; `&mut` keeps outputs apart from inputs and each other; the
    // plan was made from the same problem.
    unsafe { kernels.launch(stream, fused, &argument) }
}

fn check_buffers<T, I>(
    kernels: &Kernels,
    problem: &Problem,
    inputs: &LossInputs<'_, T, I>,
    outputs: &LossOutputs<'_, T>,
) -> Result<(), Error> {
    let context = kernels.context();
    let require = |name, needed| Requirement { name, context, needed };
    let rows = problem.shape().rows;
    require("logits", problem.logits_len()).at_least(inputs.logits)?;
    require("targets", rows).exactly(inputs.targets)?;
    if let Some(weights) = inputs.class_weights {
        require("class_weights", problem.shape().classes).exactly(weights)?;
    }
    match inputs.upstream {
        Upstream::One => {}
        Upstream::Scalar(one) => require("upstream", 1).exactly(one)?,
        Upstream::PerRow(all) => require("upstream", rows).exactly(all)?,
    }
    require("gradient", problem.gradient_len()).at_least(&*outputs.gradient)?;
    if let Some(loss) = &outputs.loss {
        require("loss", 1).exactly(&**loss)?;
    }
    if let Some(row_losses) = &outputs.row_losses {
        require("row_losses", rows).exactly(&**row_losses)?;
    }
    if let Some(row_lse) = &outputs.row_lse {
        require("row_lse", rows).exactly(&**row_lse)?;
    }
    Ok(())
}

fn terms<T>(Terms { nll, smoothing, z_loss }: Terms<T>, of: impl Fn(T) -> f32) -> abi::XentTerms {
    abi::XentTerms { nll: of(nll), smoothing: of(smoothing), z_loss: of(z_loss) }
}

fn source(divisor: InverseDivisor) -> u32 {
    match divisor {
        InverseDivisor::Host(_) => abi::XENT_DIVISOR_GIVEN,
        InverseDivisor::CountedRows => abi::XENT_DIVISOR_COUNTED_ROWS,
        InverseDivisor::TargetWeights => abi::XENT_DIVISOR_TARGET_WEIGHTS,
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

type Guard<'a> = Option<SyncOnDrop<'a>>;

fn split((address, guard): Guarded<'_>, stride: u64) -> (CUdeviceptr, u64, Guard<'_>) {
    (address, stride, Some(guard))
}

/// Address 0 where an output is not asked for.
fn optional<'a>(
    output: &'a mut Option<&mut dyn DeviceWrite<f32>>,
    stream: &'a CudaStream,
) -> (CUdeviceptr, Guard<'a>) {
    match output {
        None => (0, None),
        Some(buffer) => {
            let (address, guard) = buffer.write(stream);
            (address, Some(guard))
        }
    }
}
