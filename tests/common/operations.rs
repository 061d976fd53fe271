//! Runs a log-softmax or a binary cross-entropy through the public API, as `run` does a loss.

use std::{fmt, sync::Arc};

use half::{bf16, f16};
use smoothxent::{
    BinaryConfig, BinarySmoothing, ClassWeights, Divisor, EmptyMean, Error, Gradient,
    LogSoftmaxShape, Logits, OverClasses, Reduction, SavedSoftmax, Shape, Target, Upstream,
    Workspace,
    binary::{self, BinaryInputs, BinaryOutputs},
    cudarc::driver::{CudaSlice, CudaStream, DeviceRepr},
    log_softmax::{self, LogSoftmaxOutputs, Softmax, SoftmaxOutput},
    problem::{Dtype, TargetType},
    raw, reference,
};

use super::{
    compare,
    run::{
        Placement, RawMemory, Rig, Stored, UpstreamCase, Vector, address, download, raw_upstream,
        upload,
    },
};

/// A value that no result here is, exact in every dtype.
const UNTOUCHED: f32 = 512.0;

/// A matrix in the middle of a buffer, with the value around it in all gaps.
struct Matrix<T> {
    buffer: CudaSlice<T>,
    around: f32,
    offset: usize,
    stride: usize,
    rows: usize,
    classes: usize,
}

impl<T: Stored> Matrix<T> {
    fn new(
        stream: &Arc<CudaStream>,
        values: &[f32],
        classes: usize,
        (offset, padding): (usize, usize),
        around: f32,
    ) -> Self {
        let (rows, stride) = (values.len() / classes, classes + padding);
        // Every other one ends where its buffer does.
        let margin = if (rows + classes).is_multiple_of(2) { 0 } else { 5 };
        let span = rows.checked_sub(1).map_or(0, |before_last| before_last * stride + classes);
        let mut all = vec![T::narrow(around); offset + span + margin];
        for (row, x) in values.chunks_exact(classes).enumerate() {
            for (slot, &value) in all[offset + row * stride..].iter_mut().zip(x) {
                *slot = T::narrow(value);
            }
        }
        Self { buffer: upload(stream, &all), around, offset, stride, rows, classes }
    }

    /// Its values now.
    ///
    /// # Panics
    /// If what is around them was changed.
    fn read(&self, stream: &Arc<CudaStream>) -> Vec<f64> {
        if self.rows == 0 {
            return vec![];
        }
        let all = download(stream, &self.buffer.slice(..));
        let inside = |i: usize| {
            let at = i.wrapping_sub(self.offset);
            at / self.stride < self.rows && at % self.stride < self.classes
        };
        let is_around = |x: f32| x == self.around || (x.is_nan() && self.around.is_nan());
        let changed = (0..all.len()).find(|&i| !inside(i) && !is_around(all[i].widen()));
        assert!(changed.is_none(), "element {changed:?} around a matrix was changed");
        (0..all.len()).filter(|&i| inside(i)).map(|i| f64::from(all[i].widen())).collect()
    }
}

/// How a case is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    Safe,
    /// On raw pointers.
    Raw,
}

/// A log-softmax and the gradient that flows into it.
#[derive(Clone, Debug)]
pub struct LogSoftmaxCase {
    pub dtype: Dtype,
    pub classes: usize,
    pub logits: Vec<f32>,
    /// `[rows, classes]`, rounded to the dtype.
    pub upstream: Vec<f32>,
    /// `gradient` stands for the outputs, `vector` and `targets` for the upstream gradient.
    pub placement: Placement,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSoftmaxOutcome {
    pub log_probs: Vec<f64>,
    pub probabilities: Vec<f64>,
    pub row_lse: Vec<f32>,
    /// From the log-probabilities as they were stored.
    pub gradient_of_log_probs: Vec<f64>,
    /// From the logits, and what was saved.
    pub gradient_of_logits: Vec<f64>,
}

impl fmt::Display for LogSoftmaxCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, classes, placement, .. } = self;
        write!(f, "log_softmax of {} x {classes} {dtype:?}, {placement:?}", self.rows())
    }
}

impl LogSoftmaxCase {
    pub fn rows(&self) -> usize {
        self.logits.len() / self.classes
    }

    /// Log-probabilities and log-sum-exps, as the oracle has them.
    pub fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let logits: Vec<f64> = self.logits.iter().map(|&x| f64::from(x)).collect();
        reference::log_softmax(&logits, self.classes)
    }

    pub fn expected_gradient(&self, log_probs: &[f64]) -> Vec<f64> {
        let upstream: Vec<f64> = self.upstream.iter().map(|&g| f64::from(g)).collect();
        reference::log_softmax_backward(log_probs, &upstream, self.classes)
    }

    /// Everything within its budget.
    pub fn check(&self) -> Result<LogSoftmaxOutcome, String> {
        let found = self.run(Interface::Safe).map_err(|error| format!("{self}: {error}"))?;
        compare::log_softmax(self, &found)?;
        Ok(found)
    }

    pub fn run(&self, interface: Interface) -> Result<LogSoftmaxOutcome, Error> {
        match self.dtype {
            Dtype::F32 => self.run_as::<f32>(interface),
            Dtype::F16 => self.run_as::<f16>(interface),
            Dtype::Bf16 => self.run_as::<bf16>(interface),
        }
    }

    fn run_as<T: Stored>(&self, interface: Interface) -> Result<LogSoftmaxOutcome, Error> {
        let Rig { kernels, stream, .. } = Rig::here();
        let rows = self.rows();
        let p = self.placement;
        let shape = LogSoftmaxShape {
            rows,
            classes: self.classes,
            logits_row_stride: self.classes + p.logits_padding,
            output_row_stride: self.classes + p.gradient_padding,
            upstream_row_stride: self.classes + p.targets_padding,
            gradient_row_stride: self.classes + p.gradient_padding,
        };
        let at = |values: &[f32], place, around| {
            Matrix::<T>::new(stream, values, self.classes, place, around)
        };
        let logits = at(&self.logits, (p.logits_offset, p.logits_padding), f32::NAN);
        let upstream = at(&self.upstream, (p.vector_offset, p.targets_padding), f32::NAN);
        let blank = vec![UNTOUCHED; self.logits.len()];
        let output = || at(&blank, (p.gradient_offset, p.gradient_padding), UNTOUCHED);
        let (mut log_probs, mut probabilities) = (output(), output());
        let (mut of_log_probs, mut of_logits) = (output(), output());
        let mut row_lse = Vector::new(stream, p.vector_offset, &vec![UNTOUCHED; rows]);
        let mut saved = SavedSoftmax::new(stream, rows)?;
        let logits_view = logits.buffer.slice(logits.offset..);
        let upstream_view = upstream.buffer.slice(upstream.offset..);
        match interface {
            Interface::Safe => {
                {
                    let mut to = log_probs.buffer.slice_mut(log_probs.offset..);
                    let mut row_lse = row_lse.view_mut();
                    let outputs = LogSoftmaxOutputs {
                        row_lse: Some(&mut row_lse),
                        saved: Some(&mut saved),
                        ..LogSoftmaxOutputs::new(&mut to)
                    };
                    log_softmax::forward(kernels, stream, shape, &logits_view, outputs)?;
                }
                {
                    let mut to = probabilities.buffer.slice_mut(probabilities.offset..);
                    let output = SoftmaxOutput::Probabilities(&mut to);
                    let outputs = LogSoftmaxOutputs { output, row_lse: None, saved: None };
                    log_softmax::forward(kernels, stream, shape, &logits_view, outputs)?;
                }
                {
                    let stored = log_probs.buffer.slice(log_probs.offset..);
                    let from = Softmax::OfLogProbabilities(&stored);
                    let mut to = of_log_probs.buffer.slice_mut(of_log_probs.offset..);
                    log_softmax::backward(kernels, stream, shape, from, &upstream_view, &mut to)?;
                    let from = Softmax::OfLogits(&logits_view, &saved);
                    let mut to = of_logits.buffer.slice_mut(of_logits.offset..);
                    log_softmax::backward(kernels, stream, shape, from, &upstream_view, &mut to)?;
                }
            }
            Interface::Raw => {
                let at =
                    |matrix: &Matrix<T>| address(stream, &matrix.buffer.slice(matrix.offset..));
                let saved = RawMemory::poisoned(stream, raw::saved_bytes(rows)?);
                let (logits_at, upstream_at) = (at(&logits), at(&upstream));
                let inputs = raw::LogSoftmaxInputs { dtype: self.dtype, shape, logits: logits_at };
                let both = raw::LogSoftmaxOutputs {
                    output: raw::SoftmaxOutput::LogProbabilities(at(&log_probs)),
                    row_lse: address(stream, &row_lse.view_mut()),
                    saved: Some(saved.memory()),
                };
                let alone = raw::LogSoftmaxOutputs {
                    output: raw::SoftmaxOutput::Probabilities(at(&probabilities)),
                    row_lse: 0,
                    saved: None,
                };
                let of = (self.dtype, shape);
                let (a, b) = (
                    (raw::Softmax::OfLogProbabilities(at(&log_probs)), at(&of_log_probs)),
                    (raw::Softmax::OfLogits(logits_at, saved.memory()), at(&of_logits)),
                );
                let cu_stream = stream.cu_stream();
                // SAFETY: the buffers are as long as the shape says, apart from each other, and outlive the
                // launches, because everything is waited for here.
                unsafe {
                    raw::log_softmax::forward(kernels, cu_stream, inputs, both)?;
                    raw::log_softmax::forward(kernels, cu_stream, inputs, alone)?;
                    for (from, to) in [a, b] {
                        raw::log_softmax::backward(kernels, cu_stream, of, from, upstream_at, to)?;
                    }
                }
                stream.synchronize().expect("the launches are fine");
            }
        }
        let same = |now: Vec<f64>, before: &[f32]| {
            let bits = |x: f64| x.to_bits();
            now.iter().zip(before).all(|(&a, &b)| bits(a) == bits(f64::from(b)) || a.is_nan())
        };
        assert!(same(logits.read(stream), &self.logits), "{self}: the logits were changed");
        assert!(same(upstream.read(stream), &self.upstream), "{self}: the upstream was changed");
        Ok(LogSoftmaxOutcome {
            log_probs: log_probs.read(stream),
            probabilities: probabilities.read(stream),
            row_lse: row_lse.read(stream),
            gradient_of_log_probs: of_log_probs.read(stream),
            gradient_of_logits: of_logits.read(stream),
        })
    }
}

/// A binary cross-entropy with its data.
#[derive(Clone, Debug)]
pub struct BinaryCase {
    pub dtype: Dtype,
    pub target_type: TargetType,
    pub classes: usize,
    pub logits: Vec<f32>,
    /// Class indices. With probabilities, as many zeros.
    pub targets: Vec<i64>,
    /// `[rows, classes]` already rounded to the type of the targets; none for indices.
    pub probabilities: Option<Vec<f32>>,
    pub class_weights: Option<Vec<f32>>,
    pub positive_weights: Option<Vec<f32>>,
    pub upstream: UpstreamCase,
    pub config: BinaryConfig,
    pub placement: Placement,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub struct BinaryOutcome {
    pub row_losses: Vec<f32>,
    pub loss: Option<f32>,
    pub gradient: Vec<f64>,
}

impl fmt::Display for BinaryCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, target_type, classes, config, placement, .. } = self;
        let rows = self.targets.len();
        write!(
            f,
            "binary, {rows} x {classes} {dtype:?}, {target_type:?} targets, {config:?}, {placement:?}"
        )
    }
}

impl BinaryCase {
    pub fn rows(&self) -> usize {
        self.targets.len()
    }

    fn ignore_index(&self) -> Option<i64> {
        self.config.ignore_index.filter(|_| self.probabilities.is_none())
    }

    /// Each row's targets as the oracle takes them.
    pub fn dense_targets(&self) -> Vec<Vec<f64>> {
        if let Some(q) = &self.probabilities {
            let rows = q.chunks_exact(self.classes);
            return rows.map(|q| q.iter().map(|&q| f64::from(q)).collect()).collect();
        }
        let dense = |&y: &i64| match usize::try_from(y).ok().filter(|&y| y < self.classes) {
            _ if self.ignore_index() == Some(y) => vec![],
            None => vec![f64::NAN; self.classes],
            Some(y) => (0..self.classes).map(|k| f64::from(u8::from(k == y))).collect(),
        };
        self.targets.iter().map(dense).collect()
    }

    pub fn with_options<R>(&self, f: impl FnOnce(&reference::BinaryOptions<'_>) -> R) -> R {
        let BinaryConfig { label_smoothing: e, smoothing, over_classes, reduction, .. } =
            self.config;
        let wide = |w: &Option<Vec<f32>>| -> Vec<f64> {
            w.iter().flatten().map(|&w| f64::from(w)).collect()
        };
        let (class_weights, positive_weights) =
            (wide(&self.class_weights), wide(&self.positive_weights));
        let classes = self.classes as f64;
        let ignored = |y: &&i64| self.ignore_index() == Some(**y);
        let counted = self.rows() - self.targets.iter().filter(ignored).count();
        let divisor = match (reduction, self.config.divisor) {
            (Reduction::None | Reduction::Sum, _) => 1.0,
            (Reduction::Mean, Divisor::Given(number)) => number,
            (Reduction::Mean, Divisor::AllRows) => self.rows() as f64,
            (Reduction::Mean, Divisor::CountedRows | Divisor::TargetWeights) => counted as f64,
        };
        let empty_is_zero = divisor == 0.0 && self.config.empty_mean == EmptyMean::Zero;
        let upstream = match &self.upstream {
            UpstreamCase::One => vec![],
            UpstreamCase::Scalar(one) => vec![f64::from(*one)],
            UpstreamCase::PerRow(all) => all.iter().map(|&g| f64::from(g)).collect(),
        };
        f(&reference::BinaryOptions {
            on: 1.0 - e,
            off: match smoothing {
                BinarySmoothing::Half => e / 2.0,
                BinarySmoothing::Classes => e / classes,
            },
            class_weights: &class_weights,
            positive_weights: &positive_weights,
            over_classes: match over_classes {
                OverClasses::Mean => 1.0 / classes,
                OverClasses::Sum => 1.0,
            },
            inverse_divisor: if empty_is_zero { 0.0 } else { 1.0 / divisor },
            upstream: &upstream,
        })
    }

    pub fn expected(&self) -> reference::BinaryOutcome {
        let logits: Vec<f64> = self.logits.iter().map(|&x| f64::from(x)).collect();
        let targets = self.dense_targets();
        self.with_options(|options| reference::binary(&logits, self.classes, &targets, options))
    }

    /// Everything within its budget; forward alone and in place the same bits.
    pub fn check(&self) -> Result<BinaryOutcome, String> {
        let run = |form| self.run(form).map_err(|error| format!("{self}: {error}"));
        let found = run(BinaryForm::Fused)?;
        compare::binary(self, &found)?;
        for form in [BinaryForm::InPlace, BinaryForm::Apart] {
            let other = run(form)?;
            let mut expected = found.clone();
            if other.row_losses.is_empty() {
                expected.row_losses.clear();
            }
            if other.bits() != expected.bits() {
                return Err(format!("{self}: {form:?} differs from the fused call"));
            }
        }
        Ok(found)
    }

    pub fn run(&self, form: BinaryForm) -> Result<BinaryOutcome, Error> {
        self.run_on(form, &mut Workspace::new(&Rig::here().stream, self.rows())?)
    }

    pub fn run_on(
        &self,
        form: BinaryForm,
        workspace: &mut Workspace,
    ) -> Result<BinaryOutcome, Error> {
        match self.dtype {
            Dtype::F32 => self.run_with_logits::<f32>(form, workspace),
            Dtype::F16 => self.run_with_logits::<f16>(form, workspace),
            Dtype::Bf16 => self.run_with_logits::<bf16>(form, workspace),
        }
    }

    fn run_with_logits<T: Stored>(
        &self,
        form: BinaryForm,
        workspace: &mut Workspace,
    ) -> Result<BinaryOutcome, Error> {
        fn dense<Q: Stored>(q: &Option<Vec<f32>>, classes: usize, padding: usize) -> Vec<Q> {
            let q = q.as_ref().expect("the case's targets are probabilities");
            let padded = |q: &[f32]| -> Vec<Q> {
                let gap = std::iter::repeat_n(f32::NAN, padding);
                q.iter().copied().chain(gap).map(Q::narrow).collect()
            };
            q.chunks_exact(classes).flat_map(padded).collect()
        }
        let (q, classes) = (&self.probabilities, self.classes);
        let padding = self.placement.targets_padding;
        let indices = &self.targets;
        let i32s = || indices.iter().map(|&y| y as i32).collect::<Vec<_>>();
        let u32s = || indices.iter().map(|&y| y as u32).collect::<Vec<_>>();
        match self.target_type {
            TargetType::I32 => self.run_as::<T, i32>(form, workspace, i32s()),
            TargetType::U32 => self.run_as::<T, u32>(form, workspace, u32s()),
            TargetType::I64 => self.run_as::<T, i64>(form, workspace, indices.clone()),
            TargetType::Probabilities(Dtype::F32) => {
                self.run_as::<T, f32>(form, workspace, dense(q, classes, padding))
            }
            TargetType::Probabilities(Dtype::F16) => {
                self.run_as::<T, f16>(form, workspace, dense(q, classes, padding))
            }
            TargetType::Probabilities(Dtype::Bf16) => {
                self.run_as::<T, bf16>(form, workspace, dense(q, classes, padding))
            }
        }
    }

    fn run_as<T: Stored, Y: Target + DeviceRepr + Copy + Default>(
        &self,
        form: BinaryForm,
        workspace: &mut Workspace,
        targets: Vec<Y>,
    ) -> Result<BinaryOutcome, Error> {
        let Rig { kernels, stream, .. } = Rig::here();
        let (rows, p) = (self.rows(), self.placement);
        let in_place = form == BinaryForm::InPlace;
        let logits_place = (p.logits_offset, p.logits_padding);
        let gradient_place =
            if in_place { logits_place } else { (p.gradient_offset, p.gradient_padding) };
        let shape = Shape {
            rows,
            classes: self.classes,
            logits_row_stride: self.classes + logits_place.1,
            gradient_row_stride: self.classes + gradient_place.1,
            targets_row_stride: self.classes + p.targets_padding,
        };
        let logits = Matrix::<T>::new(stream, &self.logits, self.classes, logits_place, f32::NAN);
        let blank = vec![UNTOUCHED; self.logits.len()];
        let (before, around) =
            if in_place { (&self.logits, f32::NAN) } else { (&blank, UNTOUCHED) };
        let mut gradient = Matrix::<T>::new(stream, before, self.classes, gradient_place, around);
        let targets = Vector::new(stream, p.vector_offset, &targets);
        let weights =
            |w: &Option<Vec<f32>>| w.as_ref().map(|w| ClassWeights::new(stream, w)).transpose();
        let (class_weights, positive_weights) =
            (weights(&self.class_weights)?, weights(&self.positive_weights)?);
        let upstream = match &self.upstream {
            UpstreamCase::One => None,
            UpstreamCase::Scalar(one) => Some(Vector::new(stream, p.vector_offset, &[*one])),
            UpstreamCase::PerRow(all) => Some(Vector::new(stream, p.vector_offset, all)),
        };
        let mut loss = Vector::new(stream, p.vector_offset, &[UNTOUCHED]);
        let mut row_losses = Vector::new(stream, p.vector_offset, &vec![UNTOUCHED; rows]);
        let reduced = self.config.reduction != Reduction::None;
        let wants_rows = !(in_place && reduced);
        if matches!(form, BinaryForm::Raw | BinaryForm::RawApart) {
            let upload_all = |w: &Option<Vec<f32>>| w.as_ref().map(|w| upload(stream, w));
            let at = |w: &Option<CudaSlice<f32>>| w.as_ref().map_or(0, |w| address(stream, w));
            let (class_weights, positive_weights) =
                (upload_all(&self.class_weights), upload_all(&self.positive_weights));
            let upstream_view = upstream.as_ref().map(Vector::view);
            let inputs = raw::BinaryInputs {
                dtype: self.dtype,
                target_type: self.target_type,
                shape,
                logits: raw::Logits::At(address(stream, &logits.buffer.slice(logits.offset..))),
                targets: address(stream, &targets.view()),
                class_weights: at(&class_weights),
                positive_weights: at(&positive_weights),
            };
            let outputs = raw::BinaryOutputs {
                loss: if reduced { address(stream, &loss.view_mut()) } else { 0 },
                row_losses: address(stream, &row_losses.view_mut()),
            };
            let to = raw::Gradient {
                matrix: address(stream, &gradient.buffer.slice(gradient.offset..)),
                upstream: raw_upstream(stream, &self.upstream, &upstream_view),
            };
            let own = RawMemory::zeroed(stream, raw::workspace_bytes(rows)?);
            let (cu_stream, config, memory) = (stream.cu_stream(), self.config, own.memory());
            // SAFETY: the buffers are as long as the shape says, apart from each other, and outlive the
            // launches, because everything is waited for here.
            unsafe {
                if form == BinaryForm::Raw {
                    raw::binary::forward_backward(
                        kernels, cu_stream, config, inputs, outputs, to, memory,
                    )?;
                } else {
                    raw::binary::forward(kernels, cu_stream, config, inputs, outputs, memory)?;
                    raw::binary::backward(kernels, cu_stream, config, inputs, to, memory)?;
                }
            }
            stream.synchronize().expect("the launches are fine");
        } else {
            let logits_view = logits.buffer.slice(logits.offset..);
            let targets = targets.view();
            let upstream_view = upstream.as_ref().map(Vector::view);
            let apart = Logits::Matrix(&logits_view);
            let inputs = |from| BinaryInputs::<T, Y> {
                shape,
                logits: from,
                targets: &targets,
                class_weights: class_weights.as_ref(),
                positive_weights: positive_weights.as_ref(),
            };
            let (mut loss, mut row_losses) = (loss.view_mut(), row_losses.view_mut());
            let outputs = BinaryOutputs {
                loss: if reduced { Some(&mut loss) } else { None },
                row_losses: if wants_rows { Some(&mut row_losses) } else { None },
            };
            let mut matrix = gradient.buffer.slice_mut(gradient.offset..);
            let to = Gradient {
                matrix: &mut matrix,
                upstream: match (&self.upstream, &upstream_view) {
                    (UpstreamCase::Scalar(_), Some(one)) => Upstream::Scalar(one),
                    (UpstreamCase::PerRow(_), Some(all)) => Upstream::PerRow(all),
                    _ => Upstream::One,
                },
            };
            let config = self.config;
            match form {
                BinaryForm::Fused | BinaryForm::InPlace => {
                    let inputs = inputs(if in_place { Logits::InGradient } else { apart });
                    binary::forward_backward(
                        kernels, stream, config, inputs, outputs, to, workspace,
                    )?;
                }
                BinaryForm::Apart => {
                    binary::forward(kernels, stream, config, inputs(apart), outputs, workspace)?;
                    binary::backward(kernels, stream, config, inputs(apart), to, workspace)?;
                }
                BinaryForm::Raw | BinaryForm::RawApart => unreachable!("done above"),
            }
        }
        targets.assert_unchanged(stream, self);
        logits.read(stream);
        let row_losses = row_losses.read(stream);
        Ok(BinaryOutcome {
            row_losses: if wants_rows { row_losses } else { vec![] },
            loss: reduced.then(|| loss.read(stream)[0]),
            gradient: gradient.read(stream),
        })
    }
}

/// The ways to ask for loss and gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryForm {
    Fused,
    /// Where there is a scalar, without row losses.
    InPlace,
    Apart,
    /// As `Fused`, on raw pointers.
    Raw,
    /// As `Apart`, on raw pointers.
    RawApart,
}

impl BinaryOutcome {
    /// All results as bits, to compare two runs.
    pub fn bits(&self) -> Vec<u64> {
        let singles = self.row_losses.iter().chain(&self.loss);
        let singles = singles.map(|x| u64::from(x.to_bits()));
        singles.chain(self.gradient.iter().map(|g| g.to_bits())).collect()
    }
}
