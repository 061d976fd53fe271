//! From raw shapes and options to a [`Problem`] that is known to be sound. Pure: no device.

use crate::{abi, error::Error};

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

/// Integer type of class indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetType {
    /// `i32`.
    I32,
    /// `u32`.
    U32,
    /// `i64`.
    I64,
}

/// How the losses of the rows become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Not at all: row i's gradient is that of its own loss.
    None,
    /// Their sum.
    Sum,
    /// Their sum, each term divided as [`Divisors`] says.
    #[default]
    Mean,
}

/// Over which classes smoothing spreads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Smoothing {
    /// e/C on each class, the target among them; the target's own weight is 1 - e beside that.
    #[default]
    AllClasses,
    /// e/(C-1) on each class but the target, which has 1 - e.
    OtherClasses,
}

/// What class weights multiply, where they are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightedTerms {
    /// Each -log p_k by the weight of class k, in both terms, as in PyTorch.
    #[default]
    NllAndSmoothing,
    /// The nll term by the weight of the target, and smoothing not at all, as in fastai.
    Nll,
}

/// What [`Reduction::Mean`] divides one term of the loss by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Divisor {
    /// The sum over counted rows of the class weight of the target; without class weights the same
    /// as `CountedRows`. PyTorch's mean.
    #[default]
    TargetWeights,
    /// The rows that are not ignored.
    CountedRows,
    /// All rows, ignored ones among them.
    AllRows,
    /// The caller's number, such as the tokens of a batch that is spread over devices.
    Given(f64),
}

/// Published conventions divide different terms by different numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divisors {
    /// Of the nll term; of everything but the z-loss for target probabilities, whose
    /// `TargetWeights` are the rows.
    pub nll: Divisor,
    /// Of the smoothing term.
    pub smoothing: Divisor,
    /// Of the z-loss.
    pub z_loss: Divisor,
}

impl Divisors {
    /// One for all terms.
    pub const fn all(divisor: Divisor) -> Self {
        Self { nll: divisor, smoothing: divisor, z_loss: divisor }
    }
}

/// A mean that would divide by 0: of no rows, or of rows whose targets all have the weight 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EmptyMean {
    /// NaN, as in PyTorch.
    #[default]
    Nan,
    /// 0.
    Zero,
}

/// What is computed, apart from sizes.
///
/// With transformed logits `z = s tanh(t x / s)` (or `t x` without a cap), `p = softmax(z)`, target y,
/// class weights w, smoothing e and C classes, the loss of row i is
///
/// ```text
/// a w_y -log p_y / D1 + b sum_k w_k -log p_k / D2 + L lse^2 / D3
/// ```
///
/// where `a = 1 - e, b = e/C` (Szegedy et al. 2016, <https://arxiv.org/abs/1512.00567>) or
/// `a = 1 - e - e/(C-1), b = e/(C-1)`, and the D are 1 but in a mean. For target probabilities q the
/// first two terms are `sum_k w_k (q_k (1 - e) + e/C) -log p_k / D1`. The default is PyTorch's
/// `CrossEntropyLoss()`, but that nothing is ignored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossConfig {
    /// e, within 0..=1.
    pub label_smoothing: f64,
    /// Over which classes it spreads.
    pub smoothing: Smoothing,
    /// What class weights multiply, if [`LossInputs`](crate::LossInputs) has any.
    pub weighted_terms: WeightedTerms,
    /// Rows with this target have loss 0, gradient 0 and no part in the mean. Any value, also one
    /// that is a class.
    pub ignore_index: Option<i64>,
    /// How row losses are reduced.
    pub reduction: Reduction,
    /// What a mean divides by.
    pub divisors: Divisors,
    /// What a mean is that would divide by 0.
    pub empty_mean: EmptyMean,
    /// L, the weight of lse^2; 0 for none.
    pub z_loss: f64,
    /// t, more than 0.
    pub logit_scale: f64,
    /// s, more than 0.
    pub logit_softcap: Option<f64>,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            label_smoothing: 0.0,
            smoothing: Smoothing::default(),
            weighted_terms: WeightedTerms::default(),
            ignore_index: None,
            reduction: Reduction::default(),
            divisors: Divisors::default(),
            empty_mean: EmptyMean::default(),
            z_loss: 0.0,
            logit_scale: 1.0,
            logit_softcap: None,
        }
    }
}

/// What losses elsewhere are called here. Each equals its model in value and gradient, for class
/// indices, up to what its documentation says; every field can still be changed.
impl LossConfig {
    /// PyTorch's `CrossEntropyLoss()`: target -100 is ignored, the mean is over the class weights of
    /// the targets, smoothing is over all classes and weighted. `label_smoothing`, `ignore_index` and
    /// `reduction` are the fields of those names; `weight` is
    /// [`LossInputs::class_weights`](crate::LossInputs::class_weights).
    ///
    /// Different: a target that names no class is reported and does not end the process.
    pub fn pytorch() -> Self {
        Self { ignore_index: Some(-100), ..Self::default() }
    }

    /// Keras' `CategoricalCrossentropy(from_logits=True, label_smoothing=...)` for one-hot targets,
    /// which are given as indices here: mean over all rows (`sum_over_batch_size`), nothing ignored.
    ///
    /// Different: Keras takes targets that are not one-hot, and sample weights.
    pub fn keras_categorical(label_smoothing: f64) -> Self {
        Self::mean_over_all_rows(label_smoothing)
    }

    /// timm's `LabelSmoothingCrossEntropy(smoothing=...)`: mean over all rows, nothing ignored.
    pub fn timm(label_smoothing: f64) -> Self {
        Self::mean_over_all_rows(label_smoothing)
    }

    /// `LabelSmoothing` of NVIDIA's DeepLearningExamples: mean over all rows, nothing ignored.
    pub fn nvidia(label_smoothing: f64) -> Self {
        Self::mean_over_all_rows(label_smoothing)
    }

    fn mean_over_all_rows(label_smoothing: f64) -> Self {
        Self { label_smoothing, divisors: Divisors::all(Divisor::AllRows), ..Self::default() }
    }

    /// fastai's `LabelSmoothingCrossEntropy(eps=..., weight=...)`: weights on the nll term alone, which
    /// is divided by the weights of the targets, while smoothing is divided by all rows.
    ///
    /// Different: fastai's nll term leaves out targets of -100 and its smoothing term does not;
    /// nothing is ignored here, unless `ignore_index` is set, which leaves a row out of both.
    pub fn fastai(label_smoothing: f64) -> Self {
        Self {
            label_smoothing,
            weighted_terms: WeightedTerms::Nll,
            divisors: Divisors { smoothing: Divisor::AllRows, ..Divisors::default() },
            ..Self::default()
        }
    }

    /// fairseq's `label_smoothed_cross_entropy` since smoothing spreads over the other classes, as its
    /// trainer minimises it: the sum divided by the tokens of the whole batch (`sample_size`).
    ///
    /// Different: `padding_idx` is [`ignore_index`](Self::ignore_index), to be set; fairseq logs its
    /// loss in base 2.
    ///
    /// `tokens` has to be more than 0.
    pub fn fairseq(label_smoothing: f64, tokens: f64) -> Self {
        Self::over_other_classes(label_smoothing, tokens)
    }

    /// tensor2tensor's `padded_cross_entropy(label_smoothing=1 - confidence)`: 1 - e for the target, e /
    /// (C-1) for each other class, divided by the tokens that are not padding, which the caller counts.
    ///
    /// Different: tensor2tensor subtracts the entropy of the smoothed target, a constant, from each
    /// row's loss; padding (class 0) is [`ignore_index`](Self::ignore_index), to be set. `tokens` has
    /// to be more than 0.
    pub fn tensor2tensor(label_smoothing: f64, tokens: f64) -> Self {
        Self::over_other_classes(label_smoothing, tokens)
    }

    fn over_other_classes(label_smoothing: f64, tokens: f64) -> Self {
        Self {
            label_smoothing,
            smoothing: Smoothing::OtherClasses,
            divisors: Divisors::all(Divisor::Given(tokens)),
            ..Self::default()
        }
    }

    /// Megatron's `vocab_parallel_cross_entropy(label_smoothing=...)` on one device, which is not
    /// reduced: `1 - e C/(C-1)` of the nll and `e C/(C-1)` of the mean of all -log p, which is 1 - e for
    /// the target and e/(C-1) for each other class.
    ///
    /// Different: Megatron takes the logarithm of p, and is infinite where p underflows.
    pub fn megatron(label_smoothing: f64) -> Self {
        Self {
            label_smoothing,
            smoothing: Smoothing::OtherClasses,
            reduction: Reduction::None,
            ..Self::default()
        }
    }

    /// flash-attn's `CrossEntropyLoss(label_smoothing=...)`: target -100 is ignored, every term is
    /// divided by the rows that count. Its `lse_square_scale` is [`z_loss`](Self::z_loss), its
    /// `logit_scale` the field of that name.
    pub fn flash_attn(label_smoothing: f64) -> Self {
        Self {
            label_smoothing,
            ignore_index: Some(-100),
            divisors: Divisors::all(Divisor::CountedRows),
            ..Self::default()
        }
    }

    /// Liger's `LigerCrossEntropyLoss()`: PyTorch's, with a z-loss that is divided by the rows that
    /// count. Its `lse_square_scale` is [`z_loss`](Self::z_loss), its `softcap` is
    /// [`logit_softcap`](Self::logit_softcap).
    ///
    /// Different: Liger overwrites the logits with the gradient.
    pub fn liger() -> Self {
        let divisors = Divisors { z_loss: Divisor::CountedRows, ..Divisors::default() };
        Self { divisors, ..Self::pytorch() }
    }
}

/// Sizes of the logits and gradient matrices, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows: samples, or tokens.
    pub rows: usize,
    /// Classes, or the size of the vocabulary.
    pub classes: usize,
    /// From the start of one row of logits to the next, at least `classes`.
    pub logits_row_stride: usize,
    /// From the start of one row of the gradient to the next, at least `classes`.
    pub gradient_row_stride: usize,
}

impl Shape {
    /// Both matrices without gaps between their rows.
    pub const fn contiguous(rows: usize, classes: usize) -> Self {
        Self { rows, classes, logits_row_stride: classes, gradient_row_stride: classes }
    }
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

/// Whether class weights are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClassWeights {
    /// All are 1.
    Absent,
    /// One a class.
    Given,
}

/// Sizes and options that go together; there is no other way to make one than [`Problem::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    dtype: Dtype,
    target_type: TargetType,
    class_weights: ClassWeights,
    shape: Shape,
    config: LossConfig,
    logits_len: usize,
    gradient_len: usize,
}

impl Problem {
    /// Checks everything that needs no device.
    ///
    /// # Errors
    /// [`Error::LabelSmoothing`], [`Error::OneClass`], [`Error::Option`], [`Error::Classes`],
    /// [`Error::RowStride`], [`Error::Size`].
    pub fn new(
        dtype: Dtype,
        target_type: TargetType,
        class_weights: ClassWeights,
        shape: Shape,
        config: LossConfig,
    ) -> Result<Self, Error> {
        let max = abi::XENT_MAX_CLASSES as usize;
        if !(1..=max).contains(&shape.classes) {
            return Err(Error::Classes { classes: shape.classes, max });
        }
        check_options(&config, shape.classes)?;
        Ok(Self {
            dtype,
            target_type,
            class_weights,
            shape,
            config,
            logits_len: span("logits", dtype, shape, shape.logits_row_stride)?,
            gradient_len: span("gradient", dtype, shape, shape.gradient_row_stride)?,
        })
    }

    /// Element type of logits and gradient.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Integer type of the targets.
    pub fn target_type(&self) -> TargetType {
        self.target_type
    }

    /// Sizes and strides.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The options.
    pub fn config(&self) -> LossConfig {
        self.config
    }

    /// Elements that the logits buffer has to hold.
    pub fn logits_len(&self) -> usize {
        self.logits_len
    }

    /// Elements that the gradient buffer has to hold.
    pub fn gradient_len(&self) -> usize {
        self.gradient_len
    }

    /// Classes as the kernels count them.
    pub fn classes(&self) -> u32 {
        // `new` holds them below XENT_MAX_CLASSES, a u32.
        self.shape.classes as u32
    }

    /// Whether class weights multiply the nll term.
    pub fn weighs_nll(&self) -> bool {
        self.class_weights == ClassWeights::Given
    }

    /// Whether class weights multiply the smoothing term, and there is one.
    pub fn weighs_smoothing(&self) -> bool {
        self.weighs_nll()
            && self.config.weighted_terms == WeightedTerms::NllAndSmoothing
            && self.config.label_smoothing != 0.0
    }

    /// What multiplies each term before it is divided: a, b and L of [`LossConfig`]. Formed in f64
    /// and rounded once.
    pub fn term_weights(&self) -> Terms<f32> {
        let smoothing = self.config.label_smoothing;
        let classes = self.shape.classes as f64;
        let (nll, smoothing) = match self.config.smoothing {
            Smoothing::AllClasses => (1.0 - smoothing, smoothing / classes),
            Smoothing::OtherClasses => {
                let each = smoothing / (classes - 1.0);
                (1.0 - smoothing - each, each)
            }
        };
        Terms { nll: nll as f32, smoothing: smoothing as f32, z_loss: self.config.z_loss as f32 }
    }

    /// Where 1 / D comes from for each term.
    pub fn inverse_divisors(&self) -> Terms<InverseDivisor> {
        let Divisors { nll, smoothing, z_loss } = self.config.divisors;
        let weights = self.term_weights();
        Terms {
            nll: self.inverse_divisor(nll),
            // A term that is not there goes with the nll term: one divisor for all is cheaper.
            smoothing: self.inverse_divisor(if weights.smoothing == 0.0 { nll } else { smoothing }),
            z_loss: self.inverse_divisor(if weights.z_loss == 0.0 { nll } else { z_loss }),
        }
    }

    fn inverse_divisor(&self, divisor: Divisor) -> InverseDivisor {
        let rows = InverseDivisor::Host((1.0 / self.shape.rows as f64) as f32);
        match (self.config.reduction, divisor, self.config.ignore_index) {
            (Reduction::None | Reduction::Sum, _, _) => InverseDivisor::Host(1.0),
            (Reduction::Mean, Divisor::Given(number), _) => {
                InverseDivisor::Host((1.0 / number) as f32)
            }
            (Reduction::Mean, Divisor::AllRows, _) => rows,
            (Reduction::Mean, Divisor::TargetWeights, _) if self.weighs_nll() => {
                InverseDivisor::TargetWeights
            }
            (Reduction::Mean, Divisor::TargetWeights | Divisor::CountedRows, Some(_)) => {
                InverseDivisor::CountedRows
            }
            (Reduction::Mean, Divisor::TargetWeights | Divisor::CountedRows, None) => rows,
        }
    }
}

fn check_options(config: &LossConfig, classes: usize) -> Result<(), Error> {
    if !(0.0..=1.0).contains(&config.label_smoothing) {
        return Err(Error::LabelSmoothing { value: config.label_smoothing });
    }
    if config.smoothing == Smoothing::OtherClasses && classes == 1 {
        return Err(Error::OneClass);
    }
    let positive = |option, value: f64| {
        // What is stored is f32: it has to stay finite and positive there.
        if value as f32 > 0.0 && (value as f32).is_finite() {
            Ok(())
        } else {
            Err(Error::Option { option, value, range: "finite and more than 0" })
        }
    };
    positive("logit_scale", config.logit_scale)?;
    config.logit_softcap.map_or(Ok(()), |cap| positive("logit_softcap", cap))?;
    let Divisors { nll, smoothing, z_loss } = config.divisors;
    for divisor in [nll, smoothing, z_loss] {
        if let Divisor::Given(number) = divisor {
            positive("divisor", number)?;
        }
    }
    if config.z_loss >= 0.0 && (config.z_loss as f32).is_finite() {
        Ok(())
    } else {
        let range = "finite and not negative";
        Err(Error::Option { option: "z_loss", value: config.z_loss, range })
    }
}

/// Elements from the first to the last of a strided matrix.
fn span(
    buffer: &'static str,
    dtype: Dtype,
    shape: Shape,
    row_stride: usize,
) -> Result<usize, Error> {
    let Shape { rows, classes, .. } = shape;
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

    fn problem(shape: Shape, label_smoothing: f64) -> Result<Problem, Error> {
        with(shape, LossConfig { label_smoothing, ..LossConfig::default() })
    }

    fn with(shape: Shape, config: LossConfig) -> Result<Problem, Error> {
        Problem::new(Dtype::F32, TargetType::I64, ClassWeights::Absent, shape, config)
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
            assert_eq!(problem(Shape::contiguous(2, 3), value).unwrap().logits_len(), 6);
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
        assert_eq!((problem.logits_len(), problem.gradient_len()), (2 * 7 + 5, 15));
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
        assert_eq!((problem.logits_len(), problem.gradient_len()), (0, 0));
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
        for value in [-1.0, f64::INFINITY, 1e60] {
            let refused = with(shape, LossConfig { z_loss: value, ..fine }).unwrap_err();
            assert!(matches!(refused, Error::Option { option: "z_loss", .. }), "{refused}");
        }
        let others = LossConfig { smoothing: Smoothing::OtherClasses, ..fine };
        assert_eq!(with(Shape::contiguous(2, 1), others).unwrap_err(), Error::OneClass);
    }

    /// alpha, beta and the divisors as the published formulas have them.
    #[test]
    fn presets_mean_what_their_models_do() {
        let (classes, rows, e, tokens) = (10, 4, 0.1, 8.0);
        let all = [0.9, 0.01];
        let others = [0.9 - 0.1 / 9.0, 0.1 / 9.0];
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
            (LossConfig::tensor2tensor(e, tokens), others, [given; 3], true),
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
            let problem =
                Problem::new(Dtype::F32, TargetType::I64, ClassWeights::Given, shape, config)
                    .unwrap();
            let found = problem.term_weights();
            assert!((f64::from(found.nll) - nll).abs() < 1e-7, "{config:?}");
            assert!((f64::from(found.smoothing) - smoothing).abs() < 1e-8, "{config:?}");
            let divisors = Terms { nll: d1, smoothing: d2, z_loss: d3 };
            assert_eq!(problem.inverse_divisors(), divisors, "{config:?}");
            assert_eq!(problem.weighs_smoothing(), weighs_smoothing, "{config:?}");
        }
        let ignoring = [LossConfig::pytorch(), LossConfig::flash_attn(e), LossConfig::liger()];
        assert!(ignoring.iter().all(|config| config.ignore_index == Some(-100)));
        assert_eq!(LossConfig::megatron(e).reduction, Reduction::None);
    }

    #[test]
    fn only_divisors_that_targets_decide_need_the_device() {
        let rows = InverseDivisor::Host(0.25);
        let one = InverseDivisor::Host(1.0);
        let found = |class_weights, config| {
            let shape = Shape::contiguous(4, 3);
            Problem::new(Dtype::F32, TargetType::I64, class_weights, shape, config)
                .unwrap()
                .inverse_divisors()
        };
        let smoothed = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
        let ignoring = LossConfig { ignore_index: Some(0), ..smoothed };
        let all = |divisor| Terms { nll: divisor, smoothing: divisor, z_loss: divisor };
        assert_eq!(found(ClassWeights::Absent, smoothed), all(rows));
        let counted = InverseDivisor::CountedRows;
        assert_eq!(found(ClassWeights::Absent, ignoring), all(counted));
        let weights = InverseDivisor::TargetWeights;
        assert_eq!(found(ClassWeights::Given, smoothed), all(weights));
        let sum = LossConfig { reduction: Reduction::Sum, ..ignoring };
        assert_eq!(found(ClassWeights::Given, sum), all(one));
        let fixed = LossConfig { divisors: Divisors::all(Divisor::Given(8.0)), ..ignoring };
        assert_eq!(found(ClassWeights::Given, fixed), all(InverseDivisor::Host(0.125)));
        // A term that is not there goes with the nll term.
        let smoothing = Divisors { smoothing: Divisor::AllRows, ..Divisors::default() };
        let apart = LossConfig { divisors: smoothing, ..ignoring };
        let two = Terms { nll: counted, smoothing: rows, z_loss: counted };
        assert_eq!(found(ClassWeights::Absent, apart), two);
        let plain = LossConfig { label_smoothing: 0.0, ..apart };
        assert_eq!(found(ClassWeights::Absent, plain), all(counted));
    }
}
