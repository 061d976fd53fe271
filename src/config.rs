//! What is computed, apart from sizes: options, and presets named after the losses that they equal.

use std::fmt;

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
    /// e/(C-1) on each class but the target, which has 1 - e, as in tensor2tensor and fairseq.
    OtherClasses,
    /// e/(C-1-n) on each class but the target, which has 1 - e, and n excluded classes. Which n these are is
    /// said by class weights with [`WeightedTerms::Smoothing`]: 0 for those, 1 for the others; without any it is
    /// [`Error::ExcludedClasses`](crate::Error::ExcludedClasses). The count is not checked against the weights.
    /// OpenNMT-py before 3.0.3 excludes its padding, so n = 1 ([`LossConfig::opennmt_before_3_0_3`]); since then it is
    /// `AllClasses`.
    OtherClassesBut(usize),
}

/// What class weights multiply, where they are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightedTerms {
    /// Each -log p_k by the weight of class k, in both terms, as in PyTorch.
    #[default]
    NllAndSmoothing,
    /// The nll term by the weight of the target, and smoothing not at all, as in fastai.
    Nll,
    /// Smoothing by the weight of each class, and the nll term not at all.
    Smoothing,
}

/// What [`Reduction::Mean`] divides one term of the loss by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Divisor {
    /// The sum over counted rows of the target's class weight (PyTorch's mean). The same as `CountedRows` where no class
    /// weights weigh the nll term, and for target probabilities.
    #[default]
    TargetWeights,
    /// The rows that are not ignored.
    CountedRows,
    /// All rows, ignored ones among them.
    AllRows,
    /// The caller's number, such as the tokens of a batch that is spread over devices.
    Given(f64),
}

/// What a mean divides each term of the loss by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divisors {
    /// Divides the nll term. With target probabilities it also divides smoothing, and `TargetWeights` means
    /// the number of rows.
    pub nll: Divisor,
    /// Divides the smoothing term.
    pub smoothing: Divisor,
    /// Divides the z-loss.
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
/// a w_y (-log p_y) / D1 + b sum_k w_k (-log p_k) / D2 + L lse^2 / D3
/// ```
///
/// where `a = 1 - e, b = e/C` (Szegedy et al. 2016, <https://arxiv.org/abs/1512.00567>), or `a = 1 - e - b` with
/// `b = e/(C-1)` or `b = e/(C-1-n)` ([`Smoothing`]), `lse = log sum_k exp z_k`, w is 1 in a term that
/// `weighted_terms` leaves out, and the D are 1 but in a mean. For target probabilities q the first two terms
/// are `sum_k (a u_k q_k + b v_k) (-log p_k) / D1`, where u and v are w, or 1 in the term that `weighted_terms` leaves out.
/// The default is PyTorch's `CrossEntropyLoss()`, except that nothing is ignored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossConfig {
    /// e, within 0..=1.
    pub label_smoothing: f64,
    /// Over which classes it spreads.
    pub smoothing: Smoothing,
    /// What class weights multiply, if [`LossInputs`](crate::LossInputs) has any.
    pub weighted_terms: WeightedTerms,
    /// Rows with this target have loss 0, gradient 0 and no part in a mean over `CountedRows` or
    /// `TargetWeights`; `AllRows` and `Given` divide by what they divide by. Any value, also one that is a class,
    /// compared as i64: of `u32` targets none is negative. Means nothing for target probabilities (PyTorch refuses one
    /// of 0 or more there).
    pub ignore_index: Option<i64>,
    /// How row losses are reduced.
    pub reduction: Reduction,
    /// What a mean divides by.
    pub divisors: Divisors,
    /// What a mean is that would divide by 0.
    pub empty_mean: EmptyMean,
    /// L, the weight of lse^2 (as in PaLM, Chowdhery et al. 2022, <https://arxiv.org/abs/2204.02311>); 0 for none. Its
    /// divisor is by default the target weights, as the other terms' is.
    /// The square is formed in f32: where |lse| is beyond 1e19 the loss is infinite, and the gradient can be NaN.
    pub z_loss: f64,
    /// t > 0, multiplies every logit (1/temperature). Where `|t x|` overflows f32 and there is no cap, the loss is
    /// infinite, even if small class weights would make the true loss finite.
    pub logit_scale: f64,
    /// s > 0: logits become `s tanh(t x / s)`, as in Gemma 2 (2024, <https://arxiv.org/abs/2408.00118>). `None`: no cap.
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

/// What losses elsewhere are called here. Each equals its model in value and gradient, but for what its
/// documentation says and for precision: losses are f32 here, where PyTorch, timm, fastai, NVIDIA's
/// ConvNets and Liger round them to the logits' dtype. Every field can still be changed.
/// [`coming_from`](crate::coming_from) maps every argument.
impl LossConfig {
    /// PyTorch's `CrossEntropyLoss()`: target -100 is ignored, the mean is over the class weights of
    /// the targets, or over the rows for probabilities, and smoothing is over all classes and weighted.
    /// `label_smoothing`, `ignore_index` and `reduction` are the fields of those names; `weight` is
    /// [`LossInputs::class_weights`](crate::LossInputs::class_weights).
    ///
    /// Different: a target that names no class is reported, where PyTorch raises an error on the CPU and
    /// loses the context on a GPU; a zero weight or probability beside a logit of -inf is 0, where
    /// PyTorch gives NaN.
    pub fn pytorch() -> Self {
        Self { ignore_index: Some(-100), ..Self::default() }
    }

    /// Keras' `CategoricalCrossentropy(from_logits=True, label_smoothing=...)`, for probabilities or for
    /// the indices of one-hot targets: mean over all rows (`sum_over_batch_size`), nothing ignored.
    ///
    /// Different: `class_weight` and `sample_weight` multiply the losses of rows there;
    /// [`Upstream::PerRow`](crate::Upstream::PerRow) multiplies their gradients here, and not the loss. A batch of no
    /// rows is 0 in Keras 2 and an empty tensor in Keras 3.
    pub fn keras_categorical(label_smoothing: f64) -> Self {
        Self::mean_over_all_rows(label_smoothing)
    }

    /// timm's `LabelSmoothingCrossEntropy(smoothing=...)`: mean over all rows, nothing ignored. With
    /// probabilities and a smoothing of 0 its `SoftTargetCrossEntropy()`.
    pub fn timm(label_smoothing: f64) -> Self {
        Self::mean_over_all_rows(label_smoothing)
    }

    /// `LabelSmoothing` of the ConvNets in NVIDIA's DeepLearningExamples: mean over all rows, nothing
    /// ignored.
    ///
    /// Different: the class of the same name in their GNMT leaves padding out and sums.
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

    /// fairseq's `label_smoothed_cross_entropy` since version 0.12, as its trainer minimises it: e/(C-1)
    /// for each other class, the sum divided by the `sample_size` of the whole batch, which are its
    /// tokens, or its sentences with `sentence_avg`.
    ///
    /// Different: `padding_idx` is [`ignore_index`](Self::ignore_index), to be set; fairseq logs its
    /// loss in base 2. `sample_size` has to be more than 0; where fairseq's is 0, it divides by 1.
    pub fn fairseq(label_smoothing: f64, sample_size: f64) -> Self {
        Self::over_other_classes(label_smoothing, Divisor::Given(sample_size))
    }

    /// tensor2tensor's `padded_cross_entropy(label_smoothing=1 - confidence)` with its model's division
    /// by the tokens that are not padding: 1 - e for the target, e/(C-1) for each other class, targets
    /// of 0 ignored, and 0 if there is nothing else.
    ///
    /// Different: tensor2tensor subtracts the entropy of the smoothed target, a constant, from each
    /// row's loss, and adds the tokens of all shards.
    pub fn tensor2tensor(label_smoothing: f64) -> Self {
        Self {
            ignore_index: Some(0),
            empty_mean: EmptyMean::Zero,
            ..Self::over_other_classes(label_smoothing, Divisor::CountedRows)
        }
    }

    /// OpenNMT-py's loss since version 3.0.3, divided as its trainer does: e/C for each class, the sum
    /// divided by `normalization`, which are sentences, or tokens.
    ///
    /// Different: padding is [`ignore_index`](Self::ignore_index), to be set.
    pub fn opennmt(label_smoothing: f64, normalization: f64) -> Self {
        let divisors = Divisors::all(Divisor::Given(normalization));
        Self { label_smoothing, divisors, ..Self::default() }
    }

    /// OpenNMT-py's `LabelSmoothingLoss` before version 3.0.3: 1 - e for the target, e/(C-2) for each
    /// other class but padding, the sum divided by `normalization`.
    ///
    /// Different: padding has to have the class weight 0 and all others 1
    /// ([`WeightedTerms::Smoothing`] applies them), and to be [`ignore_index`](Self::ignore_index);
    /// OpenNMT subtracts the entropy of the smoothed target, a constant, from each row's loss.
    pub fn opennmt_before_3_0_3(label_smoothing: f64, normalization: f64) -> Self {
        Self {
            smoothing: Smoothing::OtherClassesBut(1),
            weighted_terms: WeightedTerms::Smoothing,
            ..Self::over_other_classes(label_smoothing, Divisor::Given(normalization))
        }
    }

    fn over_other_classes(label_smoothing: f64, divisor: Divisor) -> Self {
        Self {
            label_smoothing,
            smoothing: Smoothing::OtherClasses,
            divisors: Divisors::all(divisor),
            ..Self::default()
        }
    }

    /// Megatron's `vocab_parallel_cross_entropy(label_smoothing=...)` on one device, which is not
    /// reduced: `1 - e C/(C-1)` of the nll and `e C/(C-1)` of the mean of all -log p, which is 1 - e for
    /// the target and e/(C-1) for each other class.
    ///
    /// Different: Megatron's smoothing term takes the logarithm of p, and is infinite where p
    /// underflows; a target outside the vocabulary is no error there, and masked later, which is
    /// [`ignore_index`](Self::ignore_index) here; it overwrites f32 logits.
    pub fn megatron(label_smoothing: f64) -> Self {
        Self {
            label_smoothing,
            smoothing: Smoothing::OtherClasses,
            reduction: Reduction::None,
            ..Self::default()
        }
    }

    /// Transformer Engine's `parallel_cross_entropy(label_smoothing=..., reduce_loss=True)` on one
    /// device, since version 2.12: e/C for each class, target -100 ignored, the mean over the rows that
    /// count, and 0 if none does. `reduce_loss=False` is [`Reduction::None`].
    ///
    /// Different: a target that names no class has an infinite loss there.
    pub fn transformer_engine(label_smoothing: f64) -> Self {
        Self { empty_mean: EmptyMean::Zero, ..Self::flash_attn(label_smoothing) }
    }

    /// apex' `SoftmaxCrossEntropyLoss.apply(logits, labels, smoothing, padding_idx)`: e/C for each class,
    /// targets of `padding_idx` ignored, not reduced.
    pub fn apex(label_smoothing: f64, padding_idx: i64) -> Self {
        Self {
            label_smoothing,
            ignore_index: Some(padding_idx),
            reduction: Reduction::None,
            ..Self::default()
        }
    }

    /// flash-attn's `CrossEntropyLoss(label_smoothing=...)`: target -100 is ignored, every term is
    /// divided by the rows that count. Its `lse_square_scale` is [`z_loss`](Self::z_loss), its
    /// `logit_scale` the field of that name, its `inplace_backward`
    /// [`LossInputs::in_place`](crate::LossInputs::in_place).
    ///
    /// Different: a target that names no class counts there, with an nll of 0.
    pub fn flash_attn(label_smoothing: f64) -> Self {
        Self {
            label_smoothing,
            ignore_index: Some(-100),
            divisors: Divisors::all(Divisor::CountedRows),
            ..Self::default()
        }
    }

    /// Liger's `LigerCrossEntropyLoss()`: PyTorch's, with a z-loss that is divided by the rows that
    /// count, and 0 if none does. Its `lse_square_scale` is [`z_loss`](Self::z_loss), its `softcap` is
    /// [`logit_softcap`](Self::logit_softcap), its token accuracy
    /// [`LossOutputs::correct`](crate::LossOutputs::correct) over the rows that count.
    ///
    /// Different: Liger overwrites the logits with the gradient, and those of ignored rows with 0 even
    /// where no gradient is asked for; it gives NaN where all targets weigh nothing.
    pub fn liger() -> Self {
        let divisors = Divisors { z_loss: Divisor::CountedRows, ..Divisors::default() };
        Self { divisors, empty_mean: EmptyMean::Zero, ..Self::pytorch() }
    }
}

/// How [`BinaryConfig::label_smoothing`] moves a target q of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BinarySmoothing {
    /// To q (1 - e) + e/2, as Keras does.
    #[default]
    Half,
    /// To q (1 - e) + e/C, as timm does with class indices.
    Classes,
}

/// How the losses of a row's classes become the loss of the row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OverClasses {
    /// Their mean, as in Keras, and in PyTorch's mean over all elements.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// What a binary cross-entropy is, apart from sizes.
///
/// With targets q in 0..=1 (for a class index y: 1 for y, 0 for the others), t their smoothed value,
/// class weights w, positive weights r and C classes, the loss of row i is
///
/// ```text
/// -1/C sum_k w_k (r_k t_k log sigmoid(x_k) + (1 - t_k) log sigmoid(-x_k)) / D
/// ```
///
/// where 1/C is 1 for [`OverClasses::Sum`], and D is 1 but in a mean. The default is PyTorch's
/// `BCEWithLogitsLoss()`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BinaryConfig {
    /// e, within 0..=1.
    pub label_smoothing: f64,
    /// How it moves a target.
    pub smoothing: BinarySmoothing,
    /// Rows with this target have loss 0, gradient 0 and no part in a mean over `CountedRows`. Means
    /// nothing for target probabilities.
    pub ignore_index: Option<i64>,
    /// How the classes of a row are reduced.
    pub over_classes: OverClasses,
    /// How row losses are reduced.
    pub reduction: Reduction,
    /// What a mean divides by; `TargetWeights` is the same as `CountedRows` here.
    pub divisor: Divisor,
    /// What a mean is that would divide by 0.
    pub empty_mean: EmptyMean,
}

impl Default for BinaryConfig {
    fn default() -> Self {
        Self {
            label_smoothing: 0.0,
            smoothing: BinarySmoothing::default(),
            ignore_index: None,
            over_classes: OverClasses::default(),
            reduction: Reduction::default(),
            divisor: Divisor::AllRows,
            empty_mean: EmptyMean::default(),
        }
    }
}

/// What losses elsewhere are called here, as for [`LossConfig`].
impl BinaryConfig {
    /// PyTorch's `BCEWithLogitsLoss()`: the mean over all elements. `weight` of shape `[C]` is
    /// `class_weights`, `pos_weight` is `positive_weights`.
    ///
    /// Different: `reduction="sum"` needs [`OverClasses::Sum`], too; `reduction="none"` gives one loss a row here, not
    /// one an element.
    pub fn pytorch() -> Self {
        Self::default()
    }

    /// Keras' `BinaryCrossentropy(from_logits=True, label_smoothing=...)`: the mean over the last axis,
    /// then over all rows (`sum_over_batch_size`). Its `"sum"` adds the rows' means, too.
    pub fn keras(label_smoothing: f64) -> Self {
        Self { label_smoothing, ..Self::default() }
    }

    /// timm's `BinaryCrossEntropy(smoothing=...)` for class indices: 1 - e + e/C for the target, e/C for
    /// the others, the mean over all elements. `sum_classes=True` is [`OverClasses::Sum`], `weight` and
    /// `pos_weight` are `class_weights` and `positive_weights`.
    ///
    /// Different: dense targets are not smoothed there, or by e/2 with `smooth_dense=True`
    /// ([`BinarySmoothing::Half`]); there is no `target_threshold` here.
    pub fn timm(smoothing: f64) -> Self {
        let label_smoothing = smoothing;
        Self { label_smoothing, smoothing: BinarySmoothing::Classes, ..Self::default() }
    }
}

/// How the rows of a problem are given to threads. Which is fastest depends on their number and
/// length, and on the device; losses, log-sum-exps and gradients differ in their last bits at most
/// ([`guide::reproducibility`](crate::guide::reproducibility)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// A row to a warp or less of one, many rows in shared memory: the shortest rows.
    Tiny,
    /// A row to 8, 16 or 32 lanes of a warp, in their registers.
    Warp,
    /// A row to a block, in its shared memory.
    Block,
    /// A row to a block whose shared memory holds a part of it; the rest is read a second time.
    TwoPass,
    /// A row to a cluster of blocks, in the shared memory of all. Compute capability 9.0 and up.
    Cluster,
    /// A row to blocks that know nothing of each other, in two launches: few long rows.
    SplitRow,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Tiny, Self::Warp, Self::Block, Self::TwoPass, Self::Cluster, Self::SplitRow];
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tiny => "tiny",
            Self::Warp => "warp",
            Self::Block => "block",
            Self::TwoPass => "two_pass",
            Self::Cluster => "cluster",
            Self::SplitRow => "split_row",
        })
    }
}

/// Who chooses the [`Strategy`].
///
/// Loss and gradient at once, and the loss alone, take the same, unless [`Selection::Fastest`] spreads many long rows
/// over clusters for the gradient, which the loss alone is faster without
/// ([`guide::reproducibility`](crate::guide::reproducibility)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Selection {
    /// The tuning table.
    #[default]
    Fastest,
    /// The caller. A forward or fused call that the strategy cannot take is
    /// [`Error::Strategy`](crate::Error::Strategy); a backward call then takes the fastest instead.
    Pinned(Strategy),
    /// The caller where the strategy can take the problem, the tuning table elsewhere.
    Preferred(Strategy),
}
