//! Runs one case through the public API, with poison wherever nothing may be read or written.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use half::{bf16, f16};
use smoothxent::{
    ClassWeights, Divisor, Divisors, EmptyMean, Error, Gradient, Kernels, Logit, Logits,
    LossConfig, LossInputs, LossOutputs, Reduction, SavedSoftmax, Selection, Shape, Smoothing,
    Strategy, Target, Upstream, WeightedTerms, Workspace,
    cudarc::driver::{
        CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DeviceRepr,
        sys::CUdeviceptr,
    },
    loss,
    problem::{Dtype, TargetType},
    raw, reference,
};

use super::inputs;

/// The device that all tests use.
pub struct Rig {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
}

/// Who chooses the strategies: the tests run on each of them.
const STRATEGY_VARIABLE: &str = "SMOOTHXENT_TEST_STRATEGY";

/// The strategy that a run of the tests is to use wherever it can take a problem, or the fastest.
pub fn selection() -> Selection {
    let Ok(name) = std::env::var(STRATEGY_VARIABLE) else { return Selection::Fastest };
    let named = Strategy::ALL.into_iter().find(|strategy| strategy.to_string() == name);
    Selection::Preferred(named.unwrap_or_else(|| panic!("{STRATEGY_VARIABLE}: no strategy {name}")))
}

impl Rig {
    /// Opened once; the error is the same for everybody.
    pub fn get() -> Result<&'static Self, Error> {
        static RIG: OnceLock<Result<Rig, Error>> = OnceLock::new();
        let rig = RIG.get_or_init(|| {
            let context = smoothxent::open(0)?;
            let kernels = Kernels::load(&context)?.with_selection(selection());
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
    /// Of targets, upstream gradient and outputs a row, too.
    pub vector_offset: usize,
    /// Elements between rows beyond the classes.
    pub logits_padding: usize,
    pub gradient_padding: usize,
    pub targets_padding: usize,
}

impl Placement {
    pub const PACKED: Self = Self {
        logits_offset: 0,
        gradient_offset: 0,
        vector_offset: 0,
        logits_padding: 0,
        gradient_padding: 0,
        targets_padding: 0,
    };
}

/// The ways to ask for loss and gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Both at once.
    Fused,
    /// Both at once, the gradient in the place of the logits.
    InPlace,
    /// The loss, and then the gradient from what it saved.
    Apart,
    /// The same, the gradient in the place of the logits.
    ApartInPlace,
    /// The loss and its gradient alone, as most people ask for them: other results are empty.
    Bare,
    /// As `Fused`, on raw pointers.
    Raw,
    /// As `InPlace`, on raw pointers.
    RawInPlace,
    /// As `Apart`, on raw pointers.
    RawApart,
}

impl Form {
    pub const OTHERS: [Self; 4] = [Self::InPlace, Self::Apart, Self::ApartInPlace, Self::Bare];
    pub const ON_RAW_POINTERS: [Self; 3] = [Self::Raw, Self::RawInPlace, Self::RawApart];

    fn in_place(self) -> bool {
        matches!(self, Self::InPlace | Self::ApartInPlace | Self::RawInPlace)
    }
}

/// A problem with its data; logits are already rounded to the dtype.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub dtype: Dtype,
    pub target_type: TargetType,
    pub classes: usize,
    pub logits: Vec<f32>,
    /// Class indices. With probabilities, as many zeros.
    pub targets: Vec<i64>,
    /// `[rows, classes]` already rounded to the type of the targets; none for indices.
    pub probabilities: Option<Vec<f32>>,
    pub class_weights: Option<Vec<f32>>,
    pub upstream: UpstreamCase,
    pub config: LossConfig,
    pub placement: Placement,
    /// Which kernels, where they can.
    pub selection: Selection,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, target_type, classes, config, placement, selection, .. } = self;
        let rows = self.targets.len();
        let weights = if self.class_weights.is_some() { ", class weights" } else { "" };
        write!(
            f,
            "{rows} x {classes} {dtype:?}, {target_type:?} targets{weights}, {config:?}, {placement:?}, \
             {selection:?}"
        )
    }
}

impl Case {
    /// Made up, with i64 targets and the mean of unsmoothed losses, on the strategy that the run of the tests
    /// is for; change what is to differ.
    pub fn new(dtype: Dtype, rows: usize, classes: usize, seed: u64) -> Self {
        Self {
            dtype,
            target_type: TargetType::I64,
            classes,
            logits: inputs::logits(dtype, rows, classes, seed),
            targets: inputs::targets(rows, classes, seed),
            probabilities: None,
            class_weights: None,
            upstream: UpstreamCase::One,
            config: LossConfig::default(),
            placement: Placement::PACKED,
            selection: selection(),
        }
    }

    /// The same with target probabilities of this type.
    pub fn spread(self, targets: Dtype, seed: u64) -> Self {
        let probabilities = inputs::probabilities(targets, self.rows(), self.classes, seed);
        Self {
            target_type: TargetType::Probabilities(targets),
            targets: vec![0; self.rows()],
            probabilities: Some(probabilities),
            ..self
        }
    }

    pub fn rows(&self) -> usize {
        self.targets.len()
    }

    /// The index whose rows are ignored. Probabilities have none.
    pub fn ignore_index(&self) -> Option<i64> {
        self.config.ignore_index.filter(|_| self.probabilities.is_none())
    }

    pub fn shape(&self) -> Shape {
        Shape {
            rows: self.rows(),
            classes: self.classes,
            logits_row_stride: self.classes + self.placement.logits_padding,
            gradient_row_stride: self.classes + self.placement.gradient_padding,
            targets_row_stride: self.classes + self.placement.targets_padding,
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
            Smoothing::OtherClassesBut(excluded) => {
                let each = e / (classes - 1.0 - excluded as f64);
                (1.0 - e - each, each)
            }
        };
        let Divisors { nll: d1, smoothing: d2, z_loss: d3 } = config.divisors;
        let weights = self.weights_f64();
        use_them(&reference::Options {
            nll,
            smoothing,
            nll_weights: match config.weighted_terms {
                WeightedTerms::NllAndSmoothing | WeightedTerms::Nll => &weights,
                WeightedTerms::Smoothing => &[],
            },
            smoothing_weights: match config.weighted_terms {
                WeightedTerms::NllAndSmoothing | WeightedTerms::Smoothing => &weights,
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
        self.with_targets(|targets| {
            self.with_options(|options| {
                reference::forward_backward(&logits, self.rows(), self.classes, targets, options)
            })
        })
    }

    /// 1 / D for each term, as the oracle has it.
    pub fn inverse_divisors(&self) -> [f64; 3] {
        self.with_targets(|targets| {
            self.with_options(|o| reference::inverse_divisors(self.rows(), targets, o))
        })
    }

    fn with_targets<T>(&self, use_them: impl FnOnce(reference::Targets<'_>) -> T) -> T {
        match &self.probabilities {
            None => use_them(reference::Targets::Indices(&self.targets, self.ignore_index())),
            Some(q) => {
                let q: Vec<f64> = q.iter().map(|&q| f64::from(q)).collect();
                use_them(reference::Targets::Probabilities(&q))
            }
        }
    }

    /// What the device says.
    ///
    /// # Panics
    /// If anything outside the outputs was changed.
    pub fn run(&self) -> Result<Outcome, Error> {
        self.run_form(Form::Fused)
    }

    pub fn run_form(&self, form: Form) -> Result<Outcome, Error> {
        let rig = Rig::here();
        self.run_on(&rig.stream, form, &mut Workspace::new(&rig.stream, self.rows())?)
    }

    pub fn run_on(
        &self,
        stream: &Arc<CudaStream>,
        form: Form,
        workspace: &mut Workspace,
    ) -> Result<Outcome, Error> {
        match self.dtype {
            Dtype::F32 => self.run_with_logits::<f32>(stream, form, workspace),
            Dtype::F16 => self.run_with_logits::<f16>(stream, form, workspace),
            Dtype::Bf16 => self.run_with_logits::<bf16>(stream, form, workspace),
        }
    }

    fn run_with_logits<T: Stored>(
        &self,
        stream: &Arc<CudaStream>,
        form: Form,
        workspace: &mut Workspace,
    ) -> Result<Outcome, Error> {
        let indices = &self.targets;
        match self.target_type {
            TargetType::I32 => {
                let targets = narrow_all(indices, i32::try_from);
                self.run_as::<T, i32>(stream, form, workspace, targets)
            }
            TargetType::U32 => {
                let targets = narrow_all(indices, u32::try_from);
                self.run_as::<T, u32>(stream, form, workspace, targets)
            }
            TargetType::I64 => self.run_as::<T, i64>(stream, form, workspace, indices.clone()),
            TargetType::Probabilities(Dtype::F32) => {
                self.run_as::<T, f32>(stream, form, workspace, self.stored_probabilities())
            }
            TargetType::Probabilities(Dtype::F16) => {
                self.run_as::<T, f16>(stream, form, workspace, self.stored_probabilities())
            }
            TargetType::Probabilities(Dtype::Bf16) => {
                self.run_as::<T, bf16>(stream, form, workspace, self.stored_probabilities())
            }
        }
    }

    /// With poison between the rows.
    fn stored_probabilities<Q: Stored>(&self) -> Vec<Q> {
        let q = self.probabilities.as_ref().expect("the case's targets are probabilities");
        let stride = self.shape().targets_row_stride;
        let mut stored = vec![Q::narrow(f32::NAN); self.span(stride)];
        for (row, q) in q.chunks_exact(self.classes).enumerate() {
            for (slot, &value) in stored[row * stride..].iter_mut().zip(q) {
                *slot = Q::narrow(value);
            }
        }
        stored
    }

    fn run_as<T: Stored, Y: Target + DeviceRepr + Copy + Default>(
        &self,
        stream: &Arc<CudaStream>,
        form: Form,
        workspace: &mut Workspace,
        targets: Vec<Y>,
    ) -> Result<Outcome, Error> {
        let Placement { logits_offset, gradient_offset, vector_offset, .. } = self.placement;
        let mut shape = self.shape();
        let mut gradient_offset = gradient_offset;
        if form.in_place() {
            shape.gradient_row_stride = shape.logits_row_stride;
            gradient_offset = logits_offset;
        }
        // NaN before, between and behind the rows: reading any of it shows in the results.
        let mut logits =
            vec![T::narrow(f32::NAN); logits_offset + self.span(shape.logits_row_stride)];
        for (row, x) in self.logits.chunks_exact(self.classes).enumerate() {
            let start = logits_offset + row * shape.logits_row_stride;
            for (slot, &value) in logits[start..].iter_mut().zip(x) {
                *slot = T::narrow(value);
            }
        }
        let gradient = if form.in_place() {
            logits.clone()
        } else {
            vec![T::narrow(UNTOUCHED); gradient_offset + self.span(shape.gradient_row_stride)]
        };
        let before = Untouched { logits: bytes_of(&logits), gradient: bytes_of(&gradient) };

        let rows = shape.rows;
        let logits = upload(stream, &logits);
        let mut gradient = upload(stream, &gradient);
        let targets = Vector::new(stream, vector_offset, &targets);
        let class_weights =
            self.class_weights.as_ref().map(|w| ClassWeights::new(stream, w)).transpose()?;
        let upstream = match &self.upstream {
            UpstreamCase::One => None,
            UpstreamCase::Scalar(one) => Some(Vector::new(stream, vector_offset, &[*one])),
            UpstreamCase::PerRow(all) => Some(Vector::new(stream, vector_offset, all)),
        };
        let mut loss = Vector::new(stream, vector_offset, &[UNTOUCHED]);
        let mut correct = Vector::new(stream, vector_offset, &[i64::MIN]);
        let mut row_losses = Vector::new(stream, vector_offset, &vec![UNTOUCHED; rows]);
        let mut row_lse = Vector::new(stream, vector_offset, &vec![UNTOUCHED; rows]);
        let mut row_argmax = Vector::new(stream, vector_offset, &vec![i64::MIN; rows]);
        let mut saved = SavedSoftmax::new(stream, rows)?;

        let reduced = self.config.reduction != Reduction::None;
        let counts = self.probabilities.is_none();
        let kernels = &Rig::here().kernels.clone().with_selection(self.selection);
        {
            let targets = targets.view();
            let upstream_view = upstream.as_ref().map(Vector::view);
            let logits_view = logits.slice(logits_offset..);
            let inputs = |from| LossInputs::<T, Y> {
                shape,
                logits: from,
                targets: &targets,
                class_weights: class_weights.as_ref(),
            };
            let apart = Logits::Matrix(&logits_view);
            let (mut loss, mut correct) = (loss.view_mut(), correct.view_mut());
            let (mut row_losses, mut row_lse) = (row_losses.view_mut(), row_lse.view_mut());
            let mut row_argmax = row_argmax.view_mut();
            let mut matrix = gradient.slice_mut(gradient_offset..);
            if Form::ON_RAW_POINTERS.contains(&form) {
                let weights = self.class_weights.as_ref().map(|w| upload(stream, w));
                let at = |view: &CudaViewMut<'_, f32>| address(stream, view);
                let target = address(stream, &targets);
                let inputs = raw::LossInputs {
                    class_weights: weights.as_ref().map_or(0, |w| address(stream, w)),
                    ..raw::LossInputs::new(
                        self.dtype,
                        self.target_type,
                        shape,
                        match form.in_place() {
                            true => raw::Logits::InGradient,
                            false => raw::Logits::At(address(stream, &logits_view)),
                        },
                        target,
                    )
                };
                let outputs = raw::LossOutputs {
                    loss: if reduced { at(&loss) } else { 0 },
                    row_losses: at(&row_losses),
                    row_lse: at(&row_lse),
                    row_argmax: address(stream, &row_argmax),
                    correct: if counts { address(stream, &correct) } else { 0 },
                    saved: None,
                };
                let gradient = raw::Gradient {
                    matrix: address(stream, &matrix),
                    upstream: raw_upstream(stream, &self.upstream, &upstream_view),
                };
                self.enqueue_raw(stream, kernels, form, inputs, outputs, gradient)?;
            } else {
                let mut outputs = LossOutputs {
                    loss: if reduced { Some(&mut loss) } else { None },
                    row_losses: Some(&mut row_losses),
                    row_lse: Some(&mut row_lse),
                    row_argmax: Some(&mut row_argmax),
                    correct: if counts { Some(&mut correct) } else { None },
                    saved: None,
                };
                let gradient = Gradient {
                    matrix: &mut matrix,
                    upstream: match (&self.upstream, &upstream_view) {
                        (UpstreamCase::Scalar(_), Some(one)) => Upstream::Scalar(one),
                        (UpstreamCase::PerRow(_), Some(all)) => Upstream::PerRow(all),
                        _ => Upstream::One,
                    },
                };
                let config = self.config;
                let from = if form.in_place() { Logits::InGradient } else { apart };
                if form == Form::Bare {
                    outputs = LossOutputs { loss: outputs.loss, ..LossOutputs::default() };
                }
                match form {
                    Form::Fused | Form::InPlace | Form::Bare => {
                        let inputs = inputs(from);
                        loss::forward_backward(
                            kernels, stream, config, inputs, outputs, gradient, workspace,
                        )?;
                    }
                    Form::Apart | Form::ApartInPlace => {
                        outputs.saved = Some(&mut saved);
                        loss::forward(kernels, stream, config, inputs(apart), outputs, workspace)?;
                        loss::backward(kernels, stream, config, inputs(from), &saved, gradient)?;
                    }
                    Form::Raw | Form::RawInPlace | Form::RawApart => unreachable!("done above"),
                }
            }
        }
        let bare = form == Form::Bare;
        let outcome = Outcome {
            row_losses: if bare { vec![] } else { row_losses.read(stream) },
            row_lse: if bare { vec![] } else { row_lse.read(stream) },
            row_argmax: if bare { vec![] } else { row_argmax.read(stream) },
            loss: reduced.then(|| loss.read(stream)[0]),
            correct: (counts && !bare).then(|| correct.read(stream)[0]),
            gradient: before.gradient_of::<T>(
                self,
                gradient_offset,
                shape.gradient_row_stride,
                &download(stream, &gradient.slice(..)),
            ),
        };
        assert!(
            bytes_of(&download(stream, &logits.slice(..))) == before.logits,
            "{self}: the logits were changed"
        );
        targets.assert_unchanged(stream, self);
        if let Some(upstream) = &upstream {
            upstream.assert_unchanged(stream, self);
        }
        Ok(outcome)
    }
}

impl Case {
    /// With memory of its own for workspace and saved softmax, which need not be as the safe ones are made.
    fn enqueue_raw(
        &self,
        stream: &Arc<CudaStream>,
        kernels: &Kernels,
        form: Form,
        inputs: raw::LossInputs,
        outputs: raw::LossOutputs,
        gradient: raw::Gradient,
    ) -> Result<(), Error> {
        let rows = self.rows();
        let workspace = RawMemory::zeroed(stream, raw::workspace_bytes(rows)?);
        let saved = RawMemory::poisoned(stream, raw::saved_bytes(rows)?);
        let (cu_stream, config) = (stream.cu_stream(), self.config);
        // SAFETY: the caller's buffers are as long as the shape says, apart from each other, and outlive the
        // launches, as `workspace` and `saved` do, because everything is waited for here.
        unsafe {
            if form == Form::RawApart {
                let outputs = raw::LossOutputs { saved: Some(saved.memory()), ..outputs };
                let memory = workspace.memory();
                raw::loss::forward(kernels, cu_stream, config, inputs, outputs, memory)?;
                let memory = saved.memory();
                raw::loss::backward(kernels, cu_stream, config, inputs, memory, gradient)?;
            } else {
                let memory = workspace.memory();
                raw::loss::forward_backward(
                    kernels, cu_stream, config, inputs, outputs, gradient, memory,
                )?;
            }
            stream.synchronize().map_err(|error| panic!("{self}: {error}"))
        }
    }
}

/// Device memory as a caller of `raw` has it.
pub struct RawMemory(CudaSlice<u8>);

impl RawMemory {
    pub fn zeroed(stream: &Arc<CudaStream>, bytes: usize) -> Self {
        Self(upload(stream, &vec![0u8; bytes]))
    }

    pub fn poisoned(stream: &Arc<CudaStream>, bytes: usize) -> Self {
        Self(upload(stream, &vec![0xffu8; bytes]))
    }

    pub fn read(&self) -> Vec<u8> {
        self.0.stream().clone_dtoh(&self.0).expect("it is there, and nothing has failed")
    }

    pub fn memory(&self) -> raw::Memory {
        let stream = self.0.stream();
        raw::Memory { address: address(stream, &self.0), bytes: self.0.len() }
    }
}

/// The address of a buffer that this program goes on to own.
pub fn address<T>(stream: &Arc<CudaStream>, buffer: &impl DevicePtr<T>) -> CUdeviceptr {
    buffer.device_ptr(stream).0
}

pub fn raw_upstream(
    stream: &Arc<CudaStream>,
    upstream: &UpstreamCase,
    view: &Option<CudaView<'_, f32>>,
) -> raw::Upstream {
    match (upstream, view) {
        (UpstreamCase::Scalar(_), Some(one)) => raw::Upstream::Scalar(address(stream, one)),
        (UpstreamCase::PerRow(_), Some(all)) => raw::Upstream::PerRow(address(stream, all)),
        _ => raw::Upstream::One,
    }
}

fn narrow_all<I, E: fmt::Debug>(targets: &[i64], narrow: impl Fn(i64) -> Result<I, E>) -> Vec<I> {
    let fits = |&t: &i64| narrow(t).expect("the case's targets fit their type");
    targets.iter().map(fits).collect()
}

/// A vector in the middle of a buffer, whose ends nobody may touch.
pub struct Vector<T> {
    buffer: CudaSlice<T>,
    before: Vec<u8>,
    offset: usize,
    len: usize,
}

impl<T: DeviceRepr + Copy + Default> Vector<T> {
    pub fn new(stream: &Arc<CudaStream>, offset: usize, values: &[T]) -> Self {
        // The value around is 0xFF in every byte: NaN, or a huge index.
        // SAFETY: every T here is a number, for which any bits are a value.
        let poison: T = unsafe { std::mem::transmute_copy(&[0xFFu8; 16]) };
        let mut all = vec![poison; offset];
        all.extend_from_slice(values);
        // As for matrices, every other one ends where its buffer does.
        if values.len().is_multiple_of(2) {
            all.extend([poison; 3]);
        }
        let before = bytes_of(&all);
        Self { buffer: upload(stream, &all), before, offset, len: values.len() }
    }

    pub fn view(&self) -> CudaView<'_, T> {
        self.buffer.slice(self.offset..self.offset + self.len)
    }

    pub fn view_mut(&mut self) -> CudaViewMut<'_, T> {
        self.buffer.slice_mut(self.offset..self.offset + self.len)
    }

    /// Its values now.
    ///
    /// # Panics
    /// If what is around them was changed.
    pub fn read(&self, stream: &Arc<CudaStream>) -> Vec<T> {
        let all = download(stream, &self.buffer.slice(..));
        let (start, end) = (self.offset, self.offset + self.len);
        let now = bytes_of(&all);
        let size = size_of::<T>();
        assert!(
            now[..start * size] == self.before[..start * size]
                && now[end * size..] == self.before[end * size..],
            "a vector of {} at {start} was written beyond its ends",
            self.len
        );
        all[start..end].to_vec()
    }

    pub fn assert_unchanged(&self, stream: &Arc<CudaStream>, case: &dyn fmt::Display) {
        let now = bytes_of(&download(stream, &self.buffer.slice(..)));
        assert!(now == self.before, "{case}: an input of {} elements was changed", self.len);
    }
}

/// What matrices held before a call.
struct Untouched {
    logits: Vec<u8>,
    gradient: Vec<u8>,
}

impl Untouched {
    /// The gradient without its gaps.
    ///
    /// # Panics
    /// If anything outside it was changed.
    fn gradient_of<T: Stored>(
        &self,
        case: &Case,
        offset: usize,
        stride: usize,
        now: &[T],
    ) -> Vec<f64> {
        let mut inside = vec![false; now.len()];
        let mut gradient = Vec::with_capacity(case.logits.len());
        for row in 0..case.rows() {
            let range = offset + row * stride..offset + row * stride + case.classes;
            gradient.extend(now[range.clone()].iter().map(|g| f64::from(g.widen())));
            inside[range].fill(true);
        }
        let size = size_of::<T>();
        let (now, before) = (bytes_of(now), &self.gradient);
        let elements = now.chunks_exact(size).zip(before.chunks_exact(size)).zip(&inside);
        if let Some(element) = elements.into_iter().position(|((a, b), inside)| !inside && a != b) {
            panic!("{case}: element {element} of the gradient buffer is outside and changed");
        }
        gradient
    }
}

fn bytes_of<T: Copy>(values: &[T]) -> Vec<u8> {
    // SAFETY: every T here is a number without padding; the slice covers its bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) }
        .to_vec()
}

/// Elements behind a matrix that nobody may touch.
const MARGIN: usize = 40;

/// A value that no gradient here has, exact in every dtype.
const UNTOUCHED: f32 = 512.0;

/// A device buffer of at least one element: the driver has no empty ones.
pub fn upload<T: DeviceRepr + Copy + Default>(
    stream: &Arc<CudaStream>,
    values: &[T],
) -> CudaSlice<T> {
    let some = if values.is_empty() { &[T::default()] } else { values };
    stream.clone_htod(some).expect("the device has room for a test case")
}

pub fn download<T: DeviceRepr + Clone>(stream: &Arc<CudaStream>, view: &CudaView<'_, T>) -> Vec<T> {
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
    pub row_argmax: Vec<i64>,
    pub loss: Option<f32>,
    pub correct: Option<i64>,
    /// `[rows, classes]`.
    pub gradient: Vec<f64>,
}

impl Outcome {
    /// Loss and gradient alone.
    fn without_rows(&self) -> Self {
        Self {
            row_losses: vec![],
            row_lse: vec![],
            row_argmax: vec![],
            loss: self.loss,
            correct: None,
            gradient: self.gradient.clone(),
        }
    }

    /// All results as bits, to compare two runs.
    pub fn bits(&self) -> Vec<u64> {
        let singles = self.row_losses.iter().chain(&self.row_lse).chain(&self.loss);
        let counts = self.row_argmax.iter().copied().chain(self.correct).map(|count| count as u64);
        singles
            .map(|x| u64::from(x.to_bits()))
            .chain(counts)
            .chain(self.gradient.iter().map(|g| g.to_bits()))
            .collect()
    }
}

/// A type that matrices are stored in.
pub trait Stored: Logit + DeviceRepr + Copy + Default {
    fn narrow(value: f32) -> Self;
    fn widen(self) -> f32;
}

impl Stored for f32 {
    fn narrow(value: f32) -> Self {
        value
    }
    fn widen(self) -> f32 {
        self
    }
}

impl Stored for f16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Stored for bf16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Elements up to which a case is run in every form wherever it lies; larger ones only where packed, since
/// an interpreter takes its time.
const SMALL: usize = 1 << 15;

/// The whole check of one case in every form: no error, nothing outside touched, everything within
/// budget, and the same bits in all forms.
pub fn check(case: &Case) -> Result<Outcome, String> {
    let found = case.run().map_err(|error| format!("{case}: {error}"))?;
    super::compare::within_budget(case, &found, &case.expected())?;
    if case.logits.len() > SMALL && case.placement != Placement::PACKED {
        return Ok(found);
    }
    for form in Form::OTHERS {
        let other = case.run_form(form).map_err(|error| format!("{case}, {form:?}: {error}"))?;
        // A gradient that is cut differently is the same: only in place does it move.
        let same = match form {
            Form::Bare => found.without_rows().bits() == other.bits(),
            _ => found.bits() == other.bits(),
        };
        if !same {
            let differs = |(a, b): (&f64, &f64)| a.to_bits() != b.to_bits();
            let element = other.gradient.iter().zip(&found.gradient).position(differs);
            return Err(format!(
                "{case}: {form:?} differs from the fused call, gradient {element:?}"
            ));
        }
    }
    Ok(found)
}
