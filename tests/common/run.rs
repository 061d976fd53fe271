//! Runs one case through the public API, with poison wherever nothing may be read or written.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use half::{bf16, f16};
use smoothxent::{
    DeviceRead, Divisor, Divisors, EmptyMean, Error, Kernels, Logit, LossConfig, LossInputs,
    LossOutputs, Reduction, Shape, Smoothing, TargetIndex, Upstream, WeightedTerms, Workspace,
    cudarc::driver::{CudaContext, CudaStream, CudaView, DeviceRepr},
    loss,
    problem::{Dtype, TargetType},
    reference,
};

/// The device that all tests use.
pub struct Rig {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
}

impl Rig {
    /// Opened once; the error is the same for everybody.
    pub fn get() -> Result<&'static Self, Error> {
        static RIG: OnceLock<Result<Rig, Error>> = OnceLock::new();
        let rig = RIG.get_or_init(|| {
            let context = smoothxent::open(0)?;
            let kernels = Kernels::load(&context)?;
            Ok(Rig { stream: context.default_stream(), context, kernels })
        });
        rig.as_ref().map_err(Clone::clone)
    }

    /// For the tests themselves: `main` has already found it.
    pub fn here() -> &'static Self {
        Self::get().expect("main checked that there is a device")
    }
}

/// How the upstream gradient is given.
#[derive(Clone, Debug, PartialEq)]
pub enum UpstreamCase {
    One,
    Scalar(f32),
    PerRow(Vec<f32>),
}

/// Where matrices lie within their buffers, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub logits_offset: usize,
    pub gradient_offset: usize,
    /// Elements between rows beyond the classes.
    pub logits_padding: usize,
    pub gradient_padding: usize,
}

impl Placement {
    pub const PACKED: Self =
        Self { logits_offset: 0, gradient_offset: 0, logits_padding: 0, gradient_padding: 0 };
}

/// A problem with its data; logits are already rounded to the dtype.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub dtype: Dtype,
    pub target_type: TargetType,
    pub classes: usize,
    pub logits: Vec<f32>,
    pub targets: Vec<i64>,
    pub class_weights: Option<Vec<f32>>,
    pub upstream: UpstreamCase,
    pub config: LossConfig,
    pub placement: Placement,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, target_type, classes, config, placement, .. } = self;
        let rows = self.targets.len();
        let weights = if self.class_weights.is_some() { ", class weights" } else { "" };
        write!(
            f,
            "{rows} x {classes} {dtype:?}, {target_type:?} targets{weights}, {config:?}, {placement:?}"
        )
    }
}

impl Case {
    /// Made up, with i64 targets and the mean of unsmoothed losses; change what is to differ.
    pub fn new(dtype: Dtype, rows: usize, classes: usize, seed: u64) -> Self {
        use super::inputs;
        Self {
            dtype,
            target_type: TargetType::I64,
            classes,
            logits: inputs::logits(dtype, rows, classes, seed),
            targets: inputs::targets(rows, classes, seed),
            class_weights: None,
            upstream: UpstreamCase::One,
            config: LossConfig::default(),
            placement: Placement::PACKED,
        }
    }

    pub fn rows(&self) -> usize {
        self.targets.len()
    }

    pub fn counted_rows(&self) -> usize {
        self.targets.iter().filter(|&&t| self.config.ignore_index != Some(t)).count()
    }

    pub fn shape(&self) -> Shape {
        Shape {
            rows: self.rows(),
            classes: self.classes,
            logits_row_stride: self.classes + self.placement.logits_padding,
            gradient_row_stride: self.classes + self.placement.gradient_padding,
        }
    }

    /// Elements of a matrix's buffer behind its offset. In every other case the last row ends where
    /// the buffer does, so that whatever lies behind it is out of bounds; in the others poison
    /// follows, so that a write shows on a driver that checks no bounds.
    fn span(&self, row_stride: usize) -> usize {
        let Some(before_last) = self.rows().checked_sub(1) else { return MARGIN };
        let margin = if (self.rows() + self.classes).is_multiple_of(2) { 0 } else { MARGIN };
        before_last * row_stride + self.classes + margin
    }

    fn upstream_f64(&self) -> Vec<f64> {
        match &self.upstream {
            UpstreamCase::One => vec![],
            UpstreamCase::Scalar(one) => vec![f64::from(*one)],
            UpstreamCase::PerRow(all) => all.iter().map(|&g| f64::from(g)).collect(),
        }
    }

    /// What flows back to a row.
    pub fn upstream_of(&self, row: usize) -> f64 {
        match self.upstream_f64().as_slice() {
            [] => 1.0,
            [one] => *one,
            all => all[row],
        }
    }

    fn weights_f64(&self) -> Vec<f64> {
        self.class_weights.iter().flatten().map(|&w| f64::from(w)).collect()
    }

    /// What the config means, in the oracle's words.
    pub fn with_options<T>(&self, use_them: impl FnOnce(&reference::Options<'_>) -> T) -> T {
        let config = &self.config;
        let (e, classes) = (config.label_smoothing, self.classes as f64);
        let (nll, smoothing) = match config.smoothing {
            Smoothing::AllClasses => (1.0 - e, e / classes),
            Smoothing::OtherClasses => (1.0 - e - e / (classes - 1.0), e / (classes - 1.0)),
        };
        let Divisors { nll: d1, smoothing: d2, z_loss: d3 } = config.divisors;
        let weights = self.weights_f64();
        use_them(&reference::Options {
            nll,
            smoothing,
            nll_weights: &weights,
            smoothing_weights: match config.weighted_terms {
                WeightedTerms::NllAndSmoothing => &weights,
                WeightedTerms::Nll => &[],
            },
            z_loss: config.z_loss,
            logit_scale: config.logit_scale,
            logit_softcap: config.logit_softcap,
            divisors: [d1, d2, d3].map(|divisor| match (config.reduction, divisor) {
                (Reduction::None | Reduction::Sum, _) => reference::Divisor::Given(1.0),
                (Reduction::Mean, Divisor::TargetWeights) => reference::Divisor::TargetWeights,
                (Reduction::Mean, Divisor::CountedRows) => reference::Divisor::CountedRows,
                (Reduction::Mean, Divisor::AllRows) => reference::Divisor::AllRows,
                (Reduction::Mean, Divisor::Given(number)) => reference::Divisor::Given(number),
            }),
            empty_is_zero: config.empty_mean == EmptyMean::Zero,
            upstream: &self.upstream_f64(),
        })
    }

    /// What the oracle says.
    pub fn expected(&self) -> reference::Outcome {
        let logits: Vec<f64> = self.logits.iter().map(|&x| f64::from(x)).collect();
        let targets = reference::Targets::Indices(&self.targets, self.config.ignore_index);
        self.with_options(|options| {
            reference::forward_backward(&logits, self.rows(), self.classes, targets, options)
        })
    }

    /// What the device says.
    ///
    /// # Panics
    /// If anything outside the gradient matrix was changed.
    pub fn run(&self) -> Result<Outcome, Error> {
        let rig = Rig::here();
        self.run_on(&rig.stream, &mut Workspace::new(&rig.stream, self.rows())?)
    }

    pub fn run_on(
        &self,
        stream: &Arc<CudaStream>,
        workspace: &mut Workspace,
    ) -> Result<Outcome, Error> {
        match self.dtype {
            Dtype::F32 => self.run_with_logits::<f32>(stream, workspace),
            Dtype::F16 => self.run_with_logits::<f16>(stream, workspace),
            Dtype::Bf16 => self.run_with_logits::<bf16>(stream, workspace),
        }
    }

    fn run_with_logits<T: TestLogit>(
        &self,
        stream: &Arc<CudaStream>,
        workspace: &mut Workspace,
    ) -> Result<Outcome, Error> {
        match self.target_type {
            TargetType::I32 => self.run_as::<T, i32>(stream, workspace),
            TargetType::U32 => self.run_as::<T, u32>(stream, workspace),
            TargetType::I64 => self.run_as::<T, i64>(stream, workspace),
        }
    }

    fn run_as<T: TestLogit, I: TestIndex>(
        &self,
        stream: &Arc<CudaStream>,
        workspace: &mut Workspace,
    ) -> Result<Outcome, Error> {
        let Placement { logits_offset, gradient_offset, .. } = self.placement;
        let shape = self.shape();
        // NaN before, between and behind the rows: reading any of it shows in the results.
        let mut logits =
            vec![T::narrow(f32::NAN); logits_offset + self.span(shape.logits_row_stride)];
        for (row, x) in self.logits.chunks_exact(self.classes).enumerate() {
            let start = logits_offset + row * shape.logits_row_stride;
            for (slot, &value) in logits[start..].iter_mut().zip(x) {
                *slot = T::narrow(value);
            }
        }
        let gradient =
            vec![T::narrow(UNTOUCHED); gradient_offset + self.span(shape.gradient_row_stride)];
        let targets: Vec<I> = self.targets.iter().map(|&t| I::narrow(t)).collect();

        let logits = upload(stream, &logits);
        let mut gradient = upload(stream, &gradient);
        let targets = upload(stream, &targets);
        let class_weights = self.class_weights.as_ref().map(|weights| upload(stream, weights));
        let upstream = match &self.upstream {
            UpstreamCase::One => None,
            UpstreamCase::Scalar(one) => Some(upload(stream, &[*one])),
            UpstreamCase::PerRow(all) => Some(upload(stream, all)),
        };
        let mut loss = upload(stream, &[UNTOUCHED]);
        let mut row_losses = upload(stream, &vec![UNTOUCHED; shape.rows]);
        let mut row_lse = upload(stream, &vec![UNTOUCHED; shape.rows]);

        let reduced = self.config.reduction != Reduction::None;
        loss::forward_backward(
            &Rig::here().kernels,
            stream,
            self.config,
            shape,
            LossInputs::<T, I> {
                logits: &logits.slice(logits_offset..),
                targets: &targets.slice(..shape.rows),
                class_weights: class_weights
                    .as_ref()
                    .map(|weights| weights as &dyn DeviceRead<f32>),
                upstream: match (&self.upstream, &upstream) {
                    (UpstreamCase::Scalar(_), Some(one)) => Upstream::Scalar(one),
                    (UpstreamCase::PerRow(_), Some(all)) => Upstream::PerRow(all),
                    _ => Upstream::One,
                },
            },
            LossOutputs {
                gradient: &mut gradient.slice_mut(gradient_offset..),
                loss: if reduced { Some(&mut loss) } else { None },
                row_losses: Some(&mut row_losses.slice_mut(..shape.rows)),
                row_lse: Some(&mut row_lse.slice_mut(..shape.rows)),
            },
            workspace,
        )?;

        let gradient: Vec<f32> =
            download(stream, &gradient.slice(..)).into_iter().map(T::widen).collect();
        let mut outcome = Outcome {
            row_losses: download(stream, &row_losses.slice(..shape.rows)),
            row_lse: download(stream, &row_lse.slice(..shape.rows)),
            loss: reduced.then(|| download(stream, &loss.slice(..))[0]),
            gradient: Vec::with_capacity(self.logits.len()),
        };
        let mut inside = vec![false; gradient.len()];
        for row in 0..shape.rows {
            let start = gradient_offset + row * shape.gradient_row_stride;
            outcome
                .gradient
                .extend(gradient[start..start + self.classes].iter().map(|&g| f64::from(g)));
            inside[start..start + self.classes].fill(true);
        }
        let overwritten =
            gradient.iter().zip(&inside).position(|(&g, &inside)| !inside && g != UNTOUCHED);
        if let Some(element) = overwritten {
            panic!("{self}: element {element} of the gradient buffer is outside and changed");
        }
        Ok(outcome)
    }
}

/// Elements behind a matrix that nobody may touch.
const MARGIN: usize = 40;

/// A value that no gradient here has, exact in every dtype.
const UNTOUCHED: f32 = 512.0;

/// A device buffer of at least one element: the driver has no empty ones.
fn upload<T: DeviceRepr + Copy + Default>(
    stream: &Arc<CudaStream>,
    values: &[T],
) -> smoothxent::cudarc::driver::CudaSlice<T> {
    let some = if values.is_empty() { &[T::default()] } else { values };
    stream.clone_htod(some).expect("the device has room for a test case")
}

fn download<T: DeviceRepr + Clone>(stream: &Arc<CudaStream>, view: &CudaView<'_, T>) -> Vec<T> {
    if view.is_empty() {
        return vec![];
    }
    stream.clone_dtoh(view).expect("results can be copied back")
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub row_losses: Vec<f32>,
    pub row_lse: Vec<f32>,
    pub loss: Option<f32>,
    /// `[rows, classes]`.
    pub gradient: Vec<f64>,
}

impl Outcome {
    /// All results as bits, to compare two runs.
    pub fn bits(&self) -> Vec<u64> {
        let singles = self.row_losses.iter().chain(&self.row_lse).chain(&self.loss);
        singles
            .map(|x| u64::from(x.to_bits()))
            .chain(self.gradient.iter().map(|g| g.to_bits()))
            .collect()
    }
}

trait TestLogit: Logit + DeviceRepr + Copy + Default {
    fn narrow(value: f32) -> Self;
    fn widen(self) -> f32;
}

impl TestLogit for f32 {
    fn narrow(value: f32) -> Self {
        value
    }
    fn widen(self) -> f32 {
        self
    }
}

impl TestLogit for f16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl TestLogit for bf16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

trait TestIndex: TargetIndex + DeviceRepr + Copy + Default {
    fn narrow(value: i64) -> Self;
}

impl TestIndex for i32 {
    fn narrow(value: i64) -> Self {
        value.try_into().expect("the case's targets fit its index type")
    }
}

impl TestIndex for u32 {
    fn narrow(value: i64) -> Self {
        value.try_into().expect("the case's targets fit its index type")
    }
}

impl TestIndex for i64 {
    fn narrow(value: i64) -> Self {
        value
    }
}

/// The whole check of one case: no error, nothing outside touched, everything within budget.
pub fn check(case: &Case) -> Result<Outcome, String> {
    let found = case.run().map_err(|error| format!("{case}: {error}"))?;
    super::compare::within_budget(case, &found, &case.expected())?;
    Ok(found)
}
