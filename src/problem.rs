//! From raw shapes and options to a [`Problem`] that is known to be sound. Pure: no device.

use std::fmt;

use crate::{
    abi,
    config::{
        BinaryConfig, BinarySmoothing, Divisor, Divisors, LossConfig, OverClasses, Reduction,
        Smoothing, WeightedTerms,
    },
    error::Error,
};

/// Element type of logits and gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Size of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Type of the targets: class indices, or probabilities of all classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetType {
    /// `i32` indices.
    I32,
    /// `u32` indices.
    U32,
    /// `i64` indices.
    I64,
    /// Probabilities.
    Probabilities(Dtype),
}

impl TargetType {
    /// Whether there is one target a class, not one a row.
    pub const fn is_probabilities(self) -> bool {
        matches!(self, Self::Probabilities(_))
    }

    /// Size of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::I32 | Self::U32 => 4,
            Self::I64 => 8,
            Self::Probabilities(dtype) => dtype.bytes(),
        }
    }

    /// Elements of the targets of a shape.
    fn len(self, shape: &Shape) -> Result<usize, Error> {
        match self {
            Self::Probabilities(dtype) => span("targets", dtype, shape, shape.targets_row_stride),
            Self::I32 | Self::U32 | Self::I64 => Ok(shape.rows),
        }
    }
}

/// Sizes of the matrices, in elements.
///
/// Between the `classes` of a row and the next row, as in a vocabulary that is padded for a GEMM, nothing is
/// read and nothing written: a gradient of its own keeps there what it had, and in place the padding's logits
/// stay. Whatever uses the full width after needs zeros there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows: samples, or tokens. With none nothing is launched, and a mean is NaN or 0 as
    /// [`LossConfig`] says.
    pub rows: usize,
    /// Classes, or the size of the vocabulary: 1 to 2^30, else [`Error::Classes`].
    pub classes: usize,
    /// From the start of one row of logits to the next, at least `classes`.
    pub logits_row_stride: usize,
    /// From the start of one row of the gradient to the next, at least `classes`.
    pub gradient_row_stride: usize,
    /// From the start of one row of target probabilities to the next, at least `classes`. Means
    /// nothing for class indices.
    pub targets_row_stride: usize,
}

impl Shape {
    /// All matrices without gaps between their rows.
    pub const fn contiguous(rows: usize, classes: usize) -> Self {
        Self {
            rows,
            classes,
            logits_row_stride: classes,
            gradient_row_stride: classes,
            targets_row_stride: classes,
        }
    }

    /// Of logits and gradient whatever the pass and the place, so that all are cut alike.
    pub(crate) fn has_gaps(&self) -> bool {
        [self.logits_row_stride, self.gradient_row_stride] != [self.classes; 2]
    }
}

/// Which of the two passes a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The loss.
    Forward,
    /// The gradient.
    Backward,
    /// Both at once.
    Fused,
}

/// Where the logits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a buffer of their own.
    Apart,
    /// In the gradient's buffer.
    InPlace,
}

/// One number for each term of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms<T> {
    /// Of the nll term.
    pub nll: T,
    /// Of the smoothing term.
    pub smoothing: T,
    /// Of the z-loss.
    pub z_loss: T,
}

/// Where the reciprocal of a divisor comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InverseDivisor {
    /// The host knows it.
    Host(f32),
    /// The device counts the rows that are not ignored.
    CountedRows,
    /// The device adds the class weights of their targets.
    TargetWeights,
}

impl Terms<InverseDivisor> {
    /// Whether the device has nothing to find.
    pub fn all_known(&self) -> bool {
        let Self { nll, smoothing, z_loss } = self;
        [nll, smoothing, z_loss].iter().all(|divisor| matches!(divisor, InverseDivisor::Host(_)))
    }
}

/// Whether class weights are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClassWeighting {
    /// All are 1.
    Absent,
    /// One a class.
    Given,
}

/// What the elements of a problem are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Types {
    /// Of logits and gradient.
    pub dtype: Dtype,
    /// Of the targets.
    pub targets: TargetType,
    /// Whether there are class weights.
    pub class_weights: ClassWeighting,
}

/// Sizes and options that go together; there is no other way to make one than [`Problem::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    types: Types,
    shape: Shape,
    config: LossConfig,
    pass: Pass,
    place: Place,
    lengths: Lengths,
}

/// Elements that the buffers of a problem have to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// The logits.
    pub logits: usize,
    /// The targets: rows, or the span of a matrix.
    pub targets: usize,
    /// The gradient.
    pub gradient: usize,
}

impl Lengths {
    fn of(types: &Types, shape: &Shape, pass: Pass, place: Place) -> Result<Self, Error> {
        let max = abi::XENT_MAX_CLASSES as usize;
        if !(1..=max).contains(&shape.classes) {
            return Err(Error::Classes { classes: shape.classes, max });
        }
        if place == Place::InPlace {
            if pass == Pass::Forward {
                return Err(Error::ForwardInPlace);
            }
            let (logits, gradient) = (shape.logits_row_stride, shape.gradient_row_stride);
            if logits != gradient {
                return Err(Error::InPlaceStrides { logits, gradient });
            }
        }
        Ok(Self {
            logits: span("logits", types.dtype, shape, shape.logits_row_stride)?,
            targets: types.targets.len(shape)?,
            gradient: match pass {
                Pass::Forward => 0,
                Pass::Backward | Pass::Fused => {
                    span("gradient", types.dtype, shape, shape.gradient_row_stride)?
                }
            },
        })
    }
}

impl Problem {
    /// Checks everything that needs no device.
    ///
    /// # Errors
    /// [`Error::LabelSmoothing`], [`Error::TooFewClasses`], [`Error::ExcludedClasses`], [`Error::Option`],
    /// [`Error::Classes`], [`Error::RowStride`], [`Error::Size`], [`Error::ForwardInPlace`],
    /// [`Error::InPlaceStrides`].
    pub fn new(
        types: Types,
        shape: Shape,
        config: LossConfig,
        pass: Pass,
        place: Place,
    ) -> Result<Self, Error> {
        let lengths = Lengths::of(&types, &shape, pass, place)?;
        check_options(&config, shape.classes)?;
        let problem = Self { types, shape, config, pass, place, lengths };
        match config.smoothing {
            Smoothing::OtherClassesBut(excluded @ 1..)
                if config.label_smoothing != 0.0 && !problem.weighs_smoothing() =>
            {
                Err(Error::ExcludedClasses { excluded })
            }
            _ => Ok(problem),
        }
    }

    /// What its elements are.
    pub fn types(&self) -> Types {
        self.types
    }

    /// Sizes and strides.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The options.
    pub fn config(&self) -> LossConfig {
        self.config
    }

    /// Which pass it is.
    pub fn pass(&self) -> Pass {
        self.pass
    }

    /// Where the logits are.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Elements that its buffers have to hold.
    pub fn lengths(&self) -> Lengths {
        self.lengths
    }

    /// Classes as the kernels count them.
    pub fn classes(&self) -> u32 {
        // `new` holds them below XENT_MAX_CLASSES, a u32.
        self.shape.classes as u32
    }

    /// Whether class weights multiply the nll term.
    pub fn weighs_nll(&self) -> bool {
        self.types.class_weights == ClassWeighting::Given
            && self.config.weighted_terms != WeightedTerms::Smoothing
    }

    /// Whether class weights multiply the smoothing term, and there is one.
    pub fn weighs_smoothing(&self) -> bool {
        self.types.class_weights == ClassWeighting::Given
            && self.config.weighted_terms != WeightedTerms::Nll
            && self.config.label_smoothing != 0.0
    }

    /// The index whose rows are ignored. Probabilities have none.
    pub fn ignore_index(&self) -> Option<i64> {
        self.config.ignore_index.filter(|_| !self.types.targets.is_probabilities())
    }

    /// What multiplies each term before it is divided: a, b and L of [`LossConfig`]. Formed in f64
    /// and rounded once.
    pub fn term_weights(&self) -> Terms<f32> {
        let smoothing = self.config.label_smoothing;
        let classes = self.shape.classes as f64;
        let (nll, smoothing) = match self.config.smoothing {
            Smoothing::AllClasses => (1.0 - smoothing, smoothing / classes),
            Smoothing::OtherClasses => over_others(smoothing, classes - 1.0),
            Smoothing::OtherClassesBut(excluded) => {
                over_others(smoothing, classes - 1.0 - excluded as f64)
            }
        };
        Terms { nll: nll as f32, smoothing: smoothing as f32, z_loss: self.config.z_loss as f32 }
    }

    /// Where 1 / D comes from for each term.
    pub fn inverse_divisors(&self) -> Terms<InverseDivisor> {
        let Divisors { nll, smoothing, z_loss } = self.config.divisors;
        let weights = self.term_weights();
        // A term that is not there goes with the nll term: one divisor for all is cheaper. So does
        // smoothing for probabilities, which it is added to.
        let apart = weights.smoothing != 0.0 && !self.types.targets.is_probabilities();
        Terms {
            nll: self.inverse_divisor(nll),
            smoothing: self.inverse_divisor(if apart { smoothing } else { nll }),
            z_loss: self.inverse_divisor(if weights.z_loss == 0.0 { nll } else { z_loss }),
        }
    }

    fn inverse_divisor(&self, divisor: Divisor) -> InverseDivisor {
        let rows = self.shape.rows;
        if self.config.reduction == Reduction::Mean
            && divisor == Divisor::TargetWeights
            && self.weighs_nll()
            && !self.types.targets.is_probabilities()
        {
            return InverseDivisor::TargetWeights;
        }
        inverse_divisor(self.config.reduction, divisor, self.ignore_index(), rows)
    }

    /// Whether there is a scalar loss to ask for.
    pub(crate) fn check_scalar_loss(&self) -> Result<(), Error> {
        check_scalar_loss(self.config.reduction)
    }

    /// Whether there are correct predictions to ask for.
    pub(crate) fn check_correct(&self) -> Result<(), Error> {
        let probabilities = self.types.targets.is_probabilities();
        if probabilities { Err(Error::CorrectOfProbabilities) } else { Ok(()) }
    }

    /// What a forward and a backward pass have to agree on.
    pub(crate) fn softmax(&self) -> SoftmaxOf {
        let Self { types, shape: Shape { rows, classes, .. }, config, .. } = *self;
        SoftmaxOf { dtype: types.dtype, rows, classes, loss: Some((types, config)) }
    }
}

/// Without class weights.
fn inverse_divisor(
    reduction: Reduction,
    divisor: Divisor,
    ignore_index: Option<i64>,
    rows: usize,
) -> InverseDivisor {
    match (reduction, divisor, ignore_index) {
        (Reduction::None | Reduction::Sum, _, _) => InverseDivisor::Host(1.0),
        (Reduction::Mean, Divisor::Given(number), _) => InverseDivisor::Host((1.0 / number) as f32),
        (Reduction::Mean, Divisor::TargetWeights | Divisor::CountedRows, Some(_)) => {
            InverseDivisor::CountedRows
        }
        (Reduction::Mean, Divisor::AllRows, _)
        | (Reduction::Mean, Divisor::TargetWeights | Divisor::CountedRows, None) => {
            InverseDivisor::Host((1.0 / rows as f64) as f32)
        }
    }
}

/// The weights of the target, beside its own part of the rest, and of each class.
fn over_others(smoothing: f64, others: f64) -> (f64, f64) {
    let each = smoothing / others;
    (1.0 - smoothing - each, each)
}

/// Whose softmax a forward pass saved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SoftmaxOf {
    dtype: Dtype,
    rows: usize,
    classes: usize,
    /// None for log_softmax.
    loss: Option<(Types, LossConfig)>,
}

impl fmt::Display for SoftmaxOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, rows, classes, loss } = self;
        write!(f, "{rows} rows of {classes} {dtype:?} classes, ")?;
        match loss {
            None => write!(f, "log_softmax"),
            Some((types, config)) => {
                let weights = match types.class_weights {
                    ClassWeighting::Absent => "without",
                    ClassWeighting::Given => "with",
                };
                write!(f, "loss of {:?} targets {weights} class weights, {config:?}", types.targets)
            }
        }
    }
}

/// Sizes of the matrices of a log-softmax, in elements; a call uses those that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogSoftmaxShape {
    /// Rows; with none nothing is launched.
    pub rows: usize,
    /// Classes: 1 to 2^30, else [`Error::Classes`].
    pub classes: usize,
    /// From the start of one row of logits to the next, at least `classes`.
    pub logits_row_stride: usize,
    /// The same of log-probabilities, or probabilities.
    pub output_row_stride: usize,
    /// The same of the upstream gradient.
    pub upstream_row_stride: usize,
    /// The same of the gradient.
    pub gradient_row_stride: usize,
}

impl LogSoftmaxShape {
    /// All matrices without gaps between their rows.
    pub const fn contiguous(rows: usize, classes: usize) -> Self {
        Self {
            rows,
            classes,
            logits_row_stride: classes,
            output_row_stride: classes,
            upstream_row_stride: classes,
            gradient_row_stride: classes,
        }
    }
}

/// A log-softmax whose sizes go together; there is no other way to make one than
/// [`LogSoftmaxProblem::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSoftmaxProblem {
    dtype: Dtype,
    shape: LogSoftmaxShape,
}

impl LogSoftmaxProblem {
    /// Checks what all calls use; strides are checked as they are used.
    ///
    /// # Errors
    /// [`Error::Classes`].
    pub fn new(dtype: Dtype, shape: LogSoftmaxShape) -> Result<Self, Error> {
        let max = abi::XENT_MAX_CLASSES as usize;
        if !(1..=max).contains(&shape.classes) {
            return Err(Error::Classes { classes: shape.classes, max });
        }
        Ok(Self { dtype, shape })
    }

    /// Elements that the logits buffer has to hold.
    ///
    /// # Errors
    /// [`Error::RowStride`], [`Error::Size`].
    pub fn logits_len(&self) -> Result<usize, Error> {
        self.span("logits", self.shape.logits_row_stride)
    }

    /// Elements that a buffer of log-probabilities, or probabilities, has to hold. Errors as above.
    pub fn output_len(&self) -> Result<usize, Error> {
        self.span("output", self.shape.output_row_stride)
    }

    /// Elements that the upstream gradient's buffer has to hold. Errors as above.
    pub fn upstream_len(&self) -> Result<usize, Error> {
        self.span("upstream", self.shape.upstream_row_stride)
    }

    /// Elements that the gradient's buffer has to hold. Errors as above.
    pub fn gradient_len(&self) -> Result<usize, Error> {
        self.span("gradient", self.shape.gradient_row_stride)
    }

    fn span(&self, buffer: &'static str, row_stride: usize) -> Result<usize, Error> {
        let LogSoftmaxShape { rows, classes, .. } = self.shape;
        span(buffer, self.dtype, &Shape::contiguous(rows, classes), row_stride)
    }

    /// Element type of all matrices.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Sizes and strides.
    pub fn shape(&self) -> LogSoftmaxShape {
        self.shape
    }

    /// Classes as the kernels count them.
    pub fn classes(&self) -> u32 {
        // `new` holds them below XENT_MAX_CLASSES, a u32.
        self.shape.classes as u32
    }

    /// What a forward and a backward pass have to agree on.
    pub(crate) fn softmax(&self) -> SoftmaxOf {
        let LogSoftmaxShape { rows, classes, .. } = self.shape;
        SoftmaxOf { dtype: self.dtype, rows, classes, loss: None }
    }
}

/// A binary cross-entropy whose sizes and options go together; there is no other way to make one than
/// [`BinaryProblem::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BinaryProblem {
    types: Types,
    shape: Shape,
    config: BinaryConfig,
    pass: Pass,
    lengths: Lengths,
}

/// How a target q becomes t = on q + off, and 1 - t = on (1 - q) + rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BinaryTargets {
    /// What a target keeps.
    pub on: f32,
    /// What every class gets.
    pub off: f32,
    /// 1 - on - off.
    pub rest: f32,
}

impl BinaryProblem {
    /// Checks everything that needs no device.
    ///
    /// # Errors
    /// [`Error::LabelSmoothing`], [`Error::Option`], [`Error::Classes`], [`Error::RowStride`],
    /// [`Error::Size`], [`Error::ForwardInPlace`], [`Error::InPlaceStrides`].
    pub fn new(
        types: Types,
        shape: Shape,
        config: BinaryConfig,
        pass: Pass,
        place: Place,
    ) -> Result<Self, Error> {
        let lengths = Lengths::of(&types, &shape, pass, place)?;
        check_smoothing(config.label_smoothing)?;
        check_divisor(config.divisor)?;
        Ok(Self { types, shape, config, pass, lengths })
    }

    /// What its elements are.
    pub fn types(&self) -> Types {
        self.types
    }

    /// Sizes and strides.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The options.
    pub fn config(&self) -> BinaryConfig {
        self.config
    }

    /// Which pass it is.
    pub fn pass(&self) -> Pass {
        self.pass
    }

    /// Elements that its buffers have to hold.
    pub fn lengths(&self) -> Lengths {
        self.lengths
    }

    /// Classes as the kernels count them.
    pub fn classes(&self) -> u32 {
        // `new` holds them below XENT_MAX_CLASSES, a u32.
        self.shape.classes as u32
    }

    /// The index whose rows are ignored. Probabilities have none.
    pub fn ignore_index(&self) -> Option<i64> {
        self.config.ignore_index.filter(|_| !self.types.targets.is_probabilities())
    }

    /// Formed in f64, each number rounded once.
    pub fn targets(&self) -> BinaryTargets {
        let e = self.config.label_smoothing;
        let off = match self.config.smoothing {
            BinarySmoothing::Half => e / 2.0,
            BinarySmoothing::Classes => e / self.shape.classes as f64,
        };
        BinaryTargets { on: (1.0 - e) as f32, off: off as f32, rest: (e - off) as f32 }
    }

    /// What multiplies a row's sum over classes.
    pub fn over_classes(&self) -> f32 {
        match self.config.over_classes {
            OverClasses::Sum => 1.0,
            OverClasses::Mean => (1.0 / self.shape.classes as f64) as f32,
        }
    }

    /// Where 1 / D comes from.
    pub fn inverse_divisor(&self) -> InverseDivisor {
        let BinaryConfig { reduction, divisor, .. } = self.config;
        inverse_divisor(reduction, divisor, self.ignore_index(), self.shape.rows)
    }

    /// Whether there is a scalar loss to ask for.
    pub(crate) fn check_scalar_loss(&self) -> Result<(), Error> {
        check_scalar_loss(self.config.reduction)
    }
}

fn check_scalar_loss(reduction: Reduction) -> Result<(), Error> {
    match reduction {
        Reduction::None => Err(Error::LossWithoutReduction),
        Reduction::Sum | Reduction::Mean => Ok(()),
    }
}

fn check_options(config: &LossConfig, classes: usize) -> Result<(), Error> {
    check_smoothing(config.label_smoothing)?;
    let needed = match config.smoothing {
        Smoothing::AllClasses => 1,
        Smoothing::OtherClasses => 2,
        Smoothing::OtherClassesBut(excluded) => excluded.saturating_add(2),
    };
    if classes < needed {
        return Err(Error::TooFewClasses { smoothing: config.smoothing, classes, needed });
    }
    // What the kernels multiply by has to be finite, and not 0, in f32, too.
    let scale = config.logit_scale;
    check_positive("logit_scale", scale, scale * std::f64::consts::LOG2_E)?;
    if let Some(cap) = config.logit_softcap {
        check_positive("logit_softcap", cap, scale / cap)?;
    }
    let Divisors { nll, smoothing, z_loss } = config.divisors;
    for divisor in [nll, smoothing, z_loss] {
        check_divisor(divisor)?;
    }
    if config.z_loss >= 0.0 && (config.z_loss as f32).is_finite() {
        Ok(())
    } else {
        let range = "finite and not negative";
        Err(Error::Option { option: "z_loss", value: config.z_loss, range })
    }
}

fn check_smoothing(value: f64) -> Result<(), Error> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(Error::LabelSmoothing { value }) }
}

fn check_divisor(divisor: Divisor) -> Result<(), Error> {
    match divisor {
        Divisor::Given(number) => check_positive("divisor", number, 1.0 / number),
        Divisor::TargetWeights | Divisor::CountedRows | Divisor::AllRows => Ok(()),
    }
}

/// An option and what is formed of it, as they are stored: in f32.
fn check_positive(option: &'static str, value: f64, formed: f64) -> Result<(), Error> {
    let in_range = |value: f64| value as f32 > 0.0 && (value as f32).is_finite();
    if in_range(value) && in_range(formed) {
        Ok(())
    } else {
        let range = "positive and finite in f32 (and so must be 1/divisor, log2(e) * logit_scale and \
                     logit_scale / logit_softcap)";
        Err(Error::Option { option, value, range })
    }
}

/// Elements from the first to the last of a strided matrix.
fn span(
    buffer: &'static str,
    dtype: Dtype,
    shape: &Shape,
    row_stride: usize,
) -> Result<usize, Error> {
    let &Shape { rows, classes, .. } = shape;
    if row_stride < classes {
        return Err(Error::RowStride { buffer, row_stride, classes });
    }
    let Some(rows_before_last) = rows.checked_sub(1) else { return Ok(0) };
    rows_before_last
        .checked_mul(row_stride)
        .and_then(|start| start.checked_add(classes))
        .filter(|&len| len <= isize::MAX as usize / dtype.bytes())
        .ok_or(Error::Size { rows, row_stride })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EmptyMean;

    fn problem(shape: Shape, label_smoothing: f64) -> Result<Problem, Error> {
        with(shape, LossConfig { label_smoothing, ..LossConfig::default() })
    }

    fn weighted(
        class_weights: ClassWeighting,
        shape: Shape,
        config: LossConfig,
    ) -> Result<Problem, Error> {
        let types = Types { dtype: Dtype::F32, targets: TargetType::I64, class_weights };
        Problem::new(types, shape, config, Pass::Fused, Place::Apart)
    }

    fn with(shape: Shape, config: LossConfig) -> Result<Problem, Error> {
        weighted(ClassWeighting::Absent, shape, config)
    }

    #[test]
    fn smoothing_outside_its_range_is_refused_with_its_value() {
        for value in [-0.1, 1.5, f64::INFINITY] {
            let refused = problem(Shape::contiguous(2, 3), value).unwrap_err();
            assert_eq!(refused, Error::LabelSmoothing { value });
        }
        let nan = problem(Shape::contiguous(2, 3), f64::NAN).unwrap_err();
        assert!(matches!(nan, Error::LabelSmoothing { value } if value.is_nan()));
        for value in [0.0, 1.0] {
            assert_eq!(problem(Shape::contiguous(2, 3), value).unwrap().lengths().logits, 6);
        }
    }

    #[test]
    fn the_softmaxes_of_problems_that_differ_read_differently() {
        let shape = Shape::contiguous(2, 3);
        let config = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
        let of = |weights, config| weighted(weights, shape, config).unwrap().softmax();
        let softmaxes = [
            of(ClassWeighting::Absent, config),
            of(ClassWeighting::Given, config),
            of(ClassWeighting::Given, LossConfig::default()),
        ];
        for (i, one) in softmaxes.iter().enumerate() {
            for (j, other) in softmaxes.iter().enumerate() {
                assert_eq!(one.to_string() == other.to_string(), i == j, "{one} and {other}");
                assert_eq!(one == other, i == j, "{one} and {other}");
            }
        }
    }

    #[test]
    fn class_counts_outside_the_kernels_range_are_refused() {
        let max = abi::XENT_MAX_CLASSES as usize;
        for classes in [0, max + 1] {
            assert_eq!(
                problem(Shape::contiguous(1, classes), 0.0).unwrap_err(),
                Error::Classes { classes, max }
            );
        }
        assert!(problem(Shape::contiguous(1, max), 0.0).is_ok());
    }

    #[test]
    fn a_stride_below_the_classes_is_refused_and_named() {
        let shape = Shape { gradient_row_stride: 4, ..Shape::contiguous(3, 5) };
        assert_eq!(
            problem(shape, 0.0).unwrap_err(),
            Error::RowStride { buffer: "gradient", row_stride: 4, classes: 5 }
        );
    }

    #[test]
    fn the_last_row_needs_no_padding() {
        let shape = Shape { logits_row_stride: 7, ..Shape::contiguous(3, 5) };
        let problem = problem(shape, 0.0).unwrap();
        assert_eq!((problem.lengths().logits, problem.lengths().gradient), (2 * 7 + 5, 15));
    }

    #[test]
    fn spans_beyond_the_address_space_are_refused() {
        let shape = Shape { logits_row_stride: usize::MAX / 2, ..Shape::contiguous(4, 5) };
        assert_eq!(
            problem(shape, 0.0).unwrap_err(),
            Error::Size { rows: 4, row_stride: usize::MAX / 2 }
        );
        let in_bytes_only = Shape { logits_row_stride: usize::MAX / 4, ..Shape::contiguous(2, 5) };
        assert!(matches!(problem(in_bytes_only, 0.0), Err(Error::Size { .. })));
    }

    #[test]
    fn zero_rows_need_no_memory() {
        let problem = problem(Shape::contiguous(0, 5), 0.0).unwrap();
        assert_eq!((problem.lengths().logits, problem.lengths().gradient), (0, 0));
    }

    #[test]
    fn weights_of_a_row_sum_to_one() {
        for smoothing in [Smoothing::AllClasses, Smoothing::OtherClasses] {
            for (classes, label_smoothing) in
                [(2, 0.0), (10, 0.1), (128_256, 0.3), (7, 1.0), (2, 1.0)]
            {
                let config = LossConfig { label_smoothing, smoothing, ..LossConfig::default() };
                let problem = with(Shape::contiguous(1, classes), config).unwrap();
                let w = problem.term_weights();
                let total = f64::from(w.nll) + classes as f64 * f64::from(w.smoothing);
                assert!((total - 1.0).abs() <= f64::from(f32::EPSILON), "{w:?}");
            }
        }
    }

    #[test]
    fn options_outside_their_range_are_refused_and_named() {
        let fine = LossConfig::default();
        let shape = Shape::contiguous(2, 3);
        for value in [0.0, -1.0, f64::INFINITY, 1e-60] {
            let scale = LossConfig { logit_scale: value, ..fine };
            let cap = LossConfig { logit_softcap: Some(value), ..fine };
            let divisors = Divisors::all(Divisor::Given(value));
            let divisor = LossConfig { divisors, ..fine };
            for (option, config) in
                [("logit_scale", scale), ("logit_softcap", cap), ("divisor", divisor)]
            {
                let refused = with(shape, config).unwrap_err();
                assert!(
                    matches!(refused, Error::Option { option: o, value: v, .. } if o == option && v == value),
                    "{refused}"
                );
            }
        }
        // What is formed of them is beyond f32: log2(e) t, t / s and 1 / D.
        let divisors = Divisors::all(Divisor::Given(1e-39));
        for (option, config) in [
            ("logit_scale", LossConfig { logit_scale: 3e38, ..fine }),
            ("logit_softcap", LossConfig { logit_softcap: Some(1e-40), ..fine }),
            ("divisor", LossConfig { divisors, ..fine }),
        ] {
            let refused = with(shape, config).unwrap_err();
            assert!(matches!(refused, Error::Option { option: o, .. } if o == option), "{refused}");
        }
        for value in [-1.0, f64::INFINITY, 1e60] {
            let refused = with(shape, LossConfig { z_loss: value, ..fine }).unwrap_err();
            assert!(matches!(refused, Error::Option { option: "z_loss", .. }), "{refused}");
        }
        let others = LossConfig { smoothing: Smoothing::OtherClasses, ..fine };
        let one = with(Shape::contiguous(2, 1), others).unwrap_err();
        let (smoothing, classes) = (Smoothing::OtherClasses, 1);
        assert_eq!(one, Error::TooFewClasses { smoothing, classes, needed: 2 });
        let smoothing = Smoothing::OtherClassesBut(1);
        let two = with(Shape::contiguous(2, 2), LossConfig { smoothing, ..fine }).unwrap_err();
        assert_eq!(two, Error::TooFewClasses { smoothing, classes: 2, needed: 3 });
    }

    /// Only class weights on the smoothing term can say which they are.
    #[test]
    fn excluded_classes_have_weights() {
        let padded = LossConfig::opennmt_before_3_0_3(0.1, 8.0);
        let unsmoothed = LossConfig { label_smoothing: 0.0, ..padded };
        let on_nll = LossConfig { weighted_terms: WeightedTerms::Nll, ..padded };
        let none = LossConfig { smoothing: Smoothing::OtherClassesBut(0), ..padded };
        let refused = Err(Error::ExcludedClasses { excluded: 1 });
        let (absent, given) = (ClassWeighting::Absent, ClassWeighting::Given);
        for (weights, config, expected) in [
            (given, padded, Ok(())),
            (absent, padded, refused.clone()),
            (given, on_nll, refused),
            (absent, unsmoothed, Ok(())),
            (absent, none, Ok(())),
        ] {
            let problem = weighted(weights, Shape::contiguous(4, 10), config);
            assert_eq!(problem.map(drop), expected, "{config:?}");
        }
    }

    /// alpha, beta and the divisors as the published formulas have them.
    #[test]
    fn presets_mean_what_their_models_do() {
        let (classes, rows, e, tokens) = (10, 4, 0.1, 8.0);
        let all = [0.9, 0.01];
        let others = [0.9 - 0.1 / 9.0, 0.1 / 9.0];
        let but_one = [0.9 - 0.1 / 8.0, 0.1 / 8.0];
        let one = InverseDivisor::Host(1.0);
        let every_row = InverseDivisor::Host(0.25);
        let given = InverseDivisor::Host(0.125);
        let counted = InverseDivisor::CountedRows;
        let weights = InverseDivisor::TargetWeights;
        let presets = [
            (LossConfig { label_smoothing: e, ..LossConfig::pytorch() }, all, [weights; 3], true),
            (LossConfig::keras_categorical(e), all, [every_row; 3], true),
            (LossConfig::timm(e), all, [every_row; 3], true),
            (LossConfig::nvidia(e), all, [every_row; 3], true),
            (LossConfig::fastai(e), all, [weights, every_row, weights], false),
            (LossConfig::fairseq(e, tokens), others, [given; 3], true),
            (LossConfig::tensor2tensor(e), others, [counted; 3], true),
            (LossConfig::opennmt(e, tokens), all, [given; 3], true),
            (LossConfig::opennmt_before_3_0_3(e, tokens), but_one, [given; 3], true),
            (LossConfig::transformer_engine(e), all, [counted; 3], true),
            (LossConfig::apex(e, 0), all, [one; 3], true),
            (LossConfig::megatron(e), [1.0 - e * 10.0 / 9.0, e / 9.0], [one; 3], true),
            (LossConfig::flash_attn(e), all, [counted; 3], true),
            (
                LossConfig { label_smoothing: e, ..LossConfig::liger() },
                all,
                [weights, weights, counted],
                true,
            ),
        ];
        for (preset, [nll, smoothing], [d1, d2, d3], weighs_smoothing) in presets {
            let config = LossConfig { z_loss: 1e-4, ..preset };
            let shape = Shape::contiguous(rows, classes);
            let problem = weighted(ClassWeighting::Given, shape, config).unwrap();
            let found = problem.term_weights();
            assert!((f64::from(found.nll) - nll).abs() < 1e-7, "{config:?}");
            assert!((f64::from(found.smoothing) - smoothing).abs() < 1e-8, "{config:?}");
            let divisors = Terms { nll: d1, smoothing: d2, z_loss: d3 };
            assert_eq!(problem.inverse_divisors(), divisors, "{config:?}");
            assert_eq!(problem.weighs_smoothing(), weighs_smoothing, "{config:?}");
        }
        let ignoring = [LossConfig::pytorch(), LossConfig::flash_attn(e), LossConfig::liger()];
        assert!(ignoring.iter().all(|config| config.ignore_index == Some(-100)));
        assert_eq!(LossConfig::apex(e, 7).ignore_index, Some(7));
        let padded = LossConfig::opennmt_before_3_0_3(e, tokens);
        assert_eq!(padded.weighted_terms, WeightedTerms::Smoothing);
        assert_eq!(LossConfig::megatron(e).reduction, Reduction::None);
        let zero =
            [LossConfig::tensor2tensor(e), LossConfig::transformer_engine(e), LossConfig::liger()];
        assert!(zero.iter().all(|config| config.empty_mean == EmptyMean::Zero));
    }

    /// What 0 and 1 are smoothed to, and what the sum over classes is multiplied and divided by.
    #[test]
    fn binary_presets_mean_what_their_models_do() {
        let (classes, rows, e) = (10, 4, 0.1);
        let shape = Shape::contiguous(rows, classes);
        let types = Types {
            dtype: Dtype::F32,
            targets: TargetType::I64,
            class_weights: ClassWeighting::Absent,
        };
        let ignoring = |config| BinaryConfig { ignore_index: Some(-1), ..config };
        let summed = |config| BinaryConfig { over_classes: OverClasses::Sum, ..config };
        let every_row = InverseDivisor::Host(0.25);
        let counted = InverseDivisor::CountedRows;
        let by_rows = |config| BinaryConfig { divisor: Divisor::CountedRows, ..config };
        for (config, zero, one, over_classes, divisor) in [
            (BinaryConfig::pytorch(), 0.0, 1.0, 0.1, every_row),
            (BinaryConfig::keras(e), 0.05, 0.95, 0.1, every_row),
            (BinaryConfig::timm(e), 0.01, 0.91, 0.1, every_row),
            (summed(BinaryConfig::timm(e)), 0.01, 0.91, 1.0, every_row),
            (by_rows(ignoring(BinaryConfig::keras(e))), 0.05, 0.95, 0.1, counted),
        ] {
            let problem =
                BinaryProblem::new(types, shape, config, Pass::Fused, Place::Apart).unwrap();
            assert_eq!(problem.config(), config);
            assert_eq!(problem.ignore_index(), config.ignore_index);
            let BinaryTargets { on, off, rest } = problem.targets();
            let close = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-7;
            assert!(close(off, zero) && close(on + off, one), "{config:?}");
            assert!(close(rest, 1.0 - one), "{config:?}");
            assert!(close(problem.over_classes(), over_classes), "{config:?}");
            assert_eq!(problem.inverse_divisor(), divisor, "{config:?}");
        }
    }

    #[test]
    fn only_divisors_that_targets_decide_need_the_device() {
        let rows = InverseDivisor::Host(0.25);
        let one = InverseDivisor::Host(1.0);
        let found = |class_weights, config| {
            let shape = Shape::contiguous(4, 3);
            weighted(class_weights, shape, config).unwrap().inverse_divisors()
        };
        let smoothed = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
        let ignoring = LossConfig { ignore_index: Some(0), ..smoothed };
        let all = |divisor| Terms { nll: divisor, smoothing: divisor, z_loss: divisor };
        assert_eq!(found(ClassWeighting::Absent, smoothed), all(rows));
        let counted = InverseDivisor::CountedRows;
        assert_eq!(found(ClassWeighting::Absent, ignoring), all(counted));
        let weights = InverseDivisor::TargetWeights;
        assert_eq!(found(ClassWeighting::Given, smoothed), all(weights));
        let sum = LossConfig { reduction: Reduction::Sum, ..ignoring };
        assert_eq!(found(ClassWeighting::Given, sum), all(one));
        let fixed = LossConfig { divisors: Divisors::all(Divisor::Given(8.0)), ..ignoring };
        assert_eq!(found(ClassWeighting::Given, fixed), all(InverseDivisor::Host(0.125)));
        // A term that is not there goes with the nll term.
        let smoothing = Divisors { smoothing: Divisor::AllRows, ..Divisors::default() };
        let apart = LossConfig { divisors: smoothing, ..ignoring };
        let two = Terms { nll: counted, smoothing: rows, z_loss: counted };
        assert_eq!(found(ClassWeighting::Absent, apart), two);
        let plain = LossConfig { label_smoothing: 0.0, ..apart };
        assert_eq!(found(ClassWeighting::Absent, plain), all(counted));
    }
}
