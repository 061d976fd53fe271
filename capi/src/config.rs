//! Options, and presets named after the losses that they equal.

use std::ffi::{CStr, c_char};

use smoothxent::{
    BinaryConfig, BinarySmoothing, Divisor, Divisors, EmptyMean, LossConfig, OverClasses,
    Reduction, Smoothing, WeightedTerms,
};

use crate::status::{Failure, Text, report, sx_status, write};
use crate::types::{sx_flag, unknown};

/// `SX_NONE`, `SX_SUM` or `SX_MEAN`: how the losses of the rows become one number.
pub type sx_reduction = u32;

/// `sx_reduction`: not at all. Row i's gradient is that of its own loss, and there is no scalar loss.
pub const SX_NONE: sx_reduction = 1;
/// `sx_reduction`: their sum.
pub const SX_SUM: sx_reduction = 2;
/// `sx_reduction`: their sum, each term divided by its divisor.
pub const SX_MEAN: sx_reduction = 3;

/// `SX_ALL_CLASSES` or `SX_OTHER_CLASSES`: over which classes smoothing spreads.
pub type sx_smoothing = u32;

/// `sx_smoothing`: e/C on each class, the target among them, which has 1 - e beside that.
pub const SX_ALL_CLASSES: sx_smoothing = 1;
/// `sx_smoothing`: e/(C - 1 - excluded_classes) on each class but the target, which has 1 - e. Classes can be excluded
/// only by class weights of the smoothing term: 0 for those, 1 for the others; without them a call is refused.
pub const SX_OTHER_CLASSES: sx_smoothing = 2;

/// `SX_NLL_AND_SMOOTHING`, `SX_NLL_ALONE` or `SX_SMOOTHING_ALONE`: what class weights multiply, where they are
/// given.
pub type sx_weighted_terms = u32;

/// `sx_weighted_terms`: the nll term and smoothing, as in PyTorch.
pub const SX_NLL_AND_SMOOTHING: sx_weighted_terms = 1;
/// `sx_weighted_terms`: the nll term alone, as in fastai.
pub const SX_NLL_ALONE: sx_weighted_terms = 2;
/// `sx_weighted_terms`: smoothing alone.
pub const SX_SMOOTHING_ALONE: sx_weighted_terms = 3;

/// `SX_TARGET_WEIGHTS`, `SX_COUNTED_ROWS`, `SX_ALL_ROWS` or `SX_GIVEN`: what a mean divides by.
pub type sx_divisor_kind = u32;

/// `sx_divisor_kind`: the sum of the class weights of the targets, over the rows that are not ignored. The same
/// as `SX_COUNTED_ROWS` where the nll term has no class weights, and for target probabilities.
pub const SX_TARGET_WEIGHTS: sx_divisor_kind = 1;
/// `sx_divisor_kind`: the number of rows that are not ignored.
pub const SX_COUNTED_ROWS: sx_divisor_kind = 2;
/// `sx_divisor_kind`: the number of all rows.
pub const SX_ALL_ROWS: sx_divisor_kind = 3;
/// `sx_divisor_kind`: `sx_divisor.number`.
pub const SX_GIVEN: sx_divisor_kind = 4;

/// `SX_EMPTY_IS_NAN` or `SX_EMPTY_IS_ZERO`: what a mean is that would divide by 0.
pub type sx_empty_mean = u32;

/// `sx_empty_mean`: NaN, as in PyTorch.
pub const SX_EMPTY_IS_NAN: sx_empty_mean = 1;
/// `sx_empty_mean`: 0.
pub const SX_EMPTY_IS_ZERO: sx_empty_mean = 2;

/// `SX_SMOOTH_BY_HALF` or `SX_SMOOTH_BY_CLASSES`: how a binary target q is smoothed.
pub type sx_binary_smoothing = u32;

/// `sx_binary_smoothing`: to q (1 - e) + e/2, as Keras does.
pub const SX_SMOOTH_BY_HALF: sx_binary_smoothing = 1;
/// `sx_binary_smoothing`: to q (1 - e) + e/C, as timm does.
pub const SX_SMOOTH_BY_CLASSES: sx_binary_smoothing = 2;

/// `SX_MEAN_OF_CLASSES` or `SX_SUM_OF_CLASSES`: how the losses of a row's classes become the loss of the row.
pub type sx_over_classes = u32;

/// `sx_over_classes`: their mean.
pub const SX_MEAN_OF_CLASSES: sx_over_classes = 1;
/// `sx_over_classes`: their sum.
pub const SX_SUM_OF_CLASSES: sx_over_classes = 2;

/// What a mean divides one term of the loss by.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sx_divisor {
    /// Which kind.
    pub kind: sx_divisor_kind,
    /// For `SX_GIVEN`: more than 0.
    pub number: f64,
}

/// What a cross-entropy is, apart from sizes; filled by `sx_loss_config_init`. With transformed logits
/// z = s tanh(t x / s), or t x without a cap, p = softmax(z), lse = log sum_k exp(z_k), target y, class weights w,
/// smoothing e and C classes, the loss of a row is
///
/// ```text
/// a w_y (-log p_y) / D1 + b sum_k w_k (-log p_k) / D2 + L lse^2 / D3
/// ```
///
/// and for target probabilities q
///
/// ```text
/// sum_k (a w_k q_k + b w_k) (-log p_k) / D1 + L lse^2 / D3
/// ```
///
/// where a and b are
///
/// ```text
/// SX_ALL_CLASSES:    a = 1 - e,      b = e/C
/// SX_OTHER_CLASSES:  a = 1 - e - b,  b = e/(C - 1 - excluded_classes)
/// ```
///
/// The term with a is the nll term, the term with b is smoothing. w is 1 in a term that `weighted_terms` leaves
/// out. Each D is 1 unless `reduction` is `SX_MEAN`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sx_loss_config {
    /// e, within 0 to 1.
    pub label_smoothing: f64,
    /// Over which classes it spreads.
    pub smoothing: sx_smoothing,
    /// For `SX_OTHER_CLASSES`: how many classes beside the target get no smoothing. Class weights say which: 0 for
    /// those, 1 for all others, with `SX_SMOOTHING_ALONE`. Nobody compares the weights with this number.
    pub excluded_classes: usize,
    /// What class weights multiply.
    pub weighted_terms: sx_weighted_terms,
    /// Whether there is an `ignore_index`.
    pub has_ignore_index: sx_flag,
    /// Rows with this target have loss 0, gradient 0 and no part in a mean over counted rows or target weights;
    /// any value, compared as an int64_t: of uint32_t targets none is negative.
    pub ignore_index: i64,
    /// How row losses are reduced.
    pub reduction: sx_reduction,
    /// D1. For target probabilities it divides nll and smoothing, and `SX_TARGET_WEIGHTS` is the number of rows.
    pub nll_divisor: sx_divisor,
    /// D2; not used for target probabilities.
    pub smoothing_divisor: sx_divisor,
    /// D3.
    pub z_loss_divisor: sx_divisor,
    /// What a mean is that would divide by 0.
    pub empty_mean: sx_empty_mean,
    /// L; 0 for none.
    pub z_loss: f64,
    /// t, more than 0.
    pub logit_scale: f64,
    /// s, more than 0; 0 for no cap.
    pub logit_softcap: f64,
}

/// What a binary cross-entropy is, apart from sizes; filled by `sx_binary_config_init`. With targets t that were
/// smoothed as `sx_binary_smoothing` says, class weights w, positive weights r and C classes, the loss of a row is
///
/// ```text
/// -1/C sum_k w_k (r_k t_k log sigmoid(x_k) + (1 - t_k) log sigmoid(-x_k)) / D
/// ```
///
/// where 1/C is 1 for `SX_SUM_OF_CLASSES`, and D is 1 unless `reduction` is `SX_MEAN`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sx_binary_config {
    /// e, within 0 to 1.
    pub label_smoothing: f64,
    /// How it moves a target.
    pub smoothing: sx_binary_smoothing,
    /// Whether there is an `ignore_index`.
    pub has_ignore_index: sx_flag,
    /// Rows with this class index have loss 0 and gradient 0.
    pub ignore_index: i64,
    /// How the classes of a row are reduced: 1/C, or 1.
    pub over_classes: sx_over_classes,
    /// How row losses are reduced.
    pub reduction: sx_reduction,
    /// D; `SX_TARGET_WEIGHTS` is the same as `SX_COUNTED_ROWS` here.
    pub divisor: sx_divisor,
    /// What a mean is that would divide by 0.
    pub empty_mean: sx_empty_mean,
}

/// A name, and what makes it.
type Preset<C> = (&'static str, fn() -> C);

/// The presets of a loss. Those that are given a number elsewhere have the number 1, to be replaced.
const LOSS_PRESETS: [Preset<LossConfig>; 15] = [
    ("default", LossConfig::default),
    ("pytorch", LossConfig::pytorch),
    ("keras_categorical", || LossConfig::keras_categorical(0.0)),
    ("timm", || LossConfig::timm(0.0)),
    ("nvidia", || LossConfig::nvidia(0.0)),
    ("fastai", || LossConfig::fastai(0.0)),
    ("fairseq", || LossConfig::fairseq(0.0, 1.0)),
    ("tensor2tensor", || LossConfig::tensor2tensor(0.0)),
    ("opennmt", || LossConfig::opennmt(0.0, 1.0)),
    ("opennmt_before_3_0_3", || LossConfig::opennmt_before_3_0_3(0.0, 1.0)),
    ("megatron", || LossConfig::megatron(0.0)),
    ("transformer_engine", || LossConfig::transformer_engine(0.0)),
    ("apex", || LossConfig::apex(0.0, 0)),
    ("flash_attn", || LossConfig::flash_attn(0.0)),
    ("liger", LossConfig::liger),
];

const BINARY_PRESETS: [Preset<BinaryConfig>; 4] = [
    ("default", BinaryConfig::default),
    ("pytorch", BinaryConfig::pytorch),
    ("keras", || BinaryConfig::keras(0.0)),
    ("timm", || BinaryConfig::timm(0.0)),
];

/// Fills `config` with a preset, by name: "default", "pytorch", "keras_categorical", "timm", "nvidia",
/// "fastai", "fairseq", "tensor2tensor", "opennmt", "opennmt_before_3_0_3", "megatron", "transformer_engine",
/// "apex", "flash_attn" or "liger". Null stands for "default": the nll of all rows, nothing ignored, divided by the
/// class weights of the targets, or by the number of rows where there are no weights. Label smoothing is 0, and so
/// is apex's padding (`ignore_index`); what fairseq and OpenNMT divide by (`number` of the three divisors) is 1.
///
/// # Safety
/// `config` is null or can be written; `preset` is null or NUL-terminated; `message` is null or has
/// `message_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_loss_config_init(
    config: *mut sx_loss_config,
    preset: *const c_char,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let message = unsafe { Text::new(message, message_bytes) };
    report(message, || {
        // SAFETY: the caller's promise.
        unsafe { write(config, "config", named(preset, &LOSS_PRESETS)?.into()) }
    })
}

/// Fills `config` with a preset, by name: "default" or null, "pytorch", "keras" or "timm". Label smoothing is
/// 0.
///
/// # Safety
/// What `sx_loss_config_init` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_binary_config_init(
    config: *mut sx_binary_config,
    preset: *const c_char,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let message = unsafe { Text::new(message, message_bytes) };
    report(message, || {
        // SAFETY: the caller's promise.
        unsafe { write(config, "config", named(preset, &BINARY_PRESETS)?.into()) }
    })
}

/// # Safety
/// `name` is null or NUL-terminated.
unsafe fn named<C>(name: *const c_char, presets: &[Preset<C>]) -> Result<C, Failure> {
    let name = match name.is_null() {
        true => "default".into(),
        // SAFETY: the caller's promise.
        false => unsafe { CStr::from_ptr(name) }.to_string_lossy(),
    };
    match presets.iter().find(|(known, _)| *known == name) {
        Some((_, preset)) => Ok(preset()),
        None => Err(Failure::Argument {
            name: "preset",
            value: format!("{name:?}"),
            allowed: presets.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// Each value of an option, and what it is called in C.
macro_rules! option {
    ($to_c:ident, $from_c:ident, $name:literal: $rust:ty, $($constant:ident = $value:path),+) => {
        fn $to_c(value: $rust) -> u32 {
            match value {
                $($value => $constant,)+
            }
        }

        fn $from_c(value: u32) -> Result<$rust, Failure> {
            match value {
                $($constant => Ok($value),)+
                _ => {
                    let allowed = [$(stringify!($constant)),+].join(", ");
                    Err(unknown($name, value, &allowed))
                }
            }
        }
    };
}

option!(c_reduction, reduction, "reduction": Reduction,
    SX_NONE = Reduction::None, SX_SUM = Reduction::Sum, SX_MEAN = Reduction::Mean);
option!(c_weighted_terms, weighted_terms, "weighted_terms": WeightedTerms,
    SX_NLL_AND_SMOOTHING = WeightedTerms::NllAndSmoothing, SX_NLL_ALONE = WeightedTerms::Nll,
    SX_SMOOTHING_ALONE = WeightedTerms::Smoothing);
option!(c_empty_mean, empty_mean, "empty_mean": EmptyMean,
    SX_EMPTY_IS_NAN = EmptyMean::Nan, SX_EMPTY_IS_ZERO = EmptyMean::Zero);
option!(c_binary_smoothing, binary_smoothing, "smoothing": BinarySmoothing,
    SX_SMOOTH_BY_HALF = BinarySmoothing::Half, SX_SMOOTH_BY_CLASSES = BinarySmoothing::Classes);
option!(c_over_classes, over_classes, "over_classes": OverClasses,
    SX_MEAN_OF_CLASSES = OverClasses::Mean, SX_SUM_OF_CLASSES = OverClasses::Sum);

fn c_smoothing(smoothing: Smoothing) -> (sx_smoothing, usize) {
    match smoothing {
        Smoothing::AllClasses => (SX_ALL_CLASSES, 0),
        Smoothing::OtherClasses => (SX_OTHER_CLASSES, 0),
        Smoothing::OtherClassesBut(excluded) => (SX_OTHER_CLASSES, excluded),
    }
}

fn smoothing(value: sx_smoothing, excluded: usize) -> Result<Smoothing, Failure> {
    match (value, excluded) {
        (SX_ALL_CLASSES, _) => Ok(Smoothing::AllClasses),
        (SX_OTHER_CLASSES, 0) => Ok(Smoothing::OtherClasses),
        (SX_OTHER_CLASSES, _) => Ok(Smoothing::OtherClassesBut(excluded)),
        _ => Err(unknown("smoothing", value, "SX_ALL_CLASSES, SX_OTHER_CLASSES")),
    }
}

impl From<Divisor> for sx_divisor {
    fn from(divisor: Divisor) -> Self {
        let (kind, number) = match divisor {
            Divisor::TargetWeights => (SX_TARGET_WEIGHTS, 0.0),
            Divisor::CountedRows => (SX_COUNTED_ROWS, 0.0),
            Divisor::AllRows => (SX_ALL_ROWS, 0.0),
            Divisor::Given(number) => (SX_GIVEN, number),
        };
        Self { kind, number }
    }
}

impl sx_divisor {
    fn rust(self) -> Result<Divisor, Failure> {
        match self.kind {
            SX_TARGET_WEIGHTS => Ok(Divisor::TargetWeights),
            SX_COUNTED_ROWS => Ok(Divisor::CountedRows),
            SX_ALL_ROWS => Ok(Divisor::AllRows),
            SX_GIVEN => Ok(Divisor::Given(self.number)),
            kind => {
                let allowed = "SX_TARGET_WEIGHTS, SX_COUNTED_ROWS, SX_ALL_ROWS, SX_GIVEN";
                Err(unknown("divisor", kind, allowed))
            }
        }
    }
}

impl From<LossConfig> for sx_loss_config {
    fn from(config: LossConfig) -> Self {
        let (smoothing, excluded_classes) = c_smoothing(config.smoothing);
        let Divisors { nll, smoothing: of_smoothing, z_loss } = config.divisors;
        Self {
            label_smoothing: config.label_smoothing,
            smoothing,
            excluded_classes,
            weighted_terms: c_weighted_terms(config.weighted_terms),
            has_ignore_index: config.ignore_index.is_some().into(),
            ignore_index: config.ignore_index.unwrap_or_default(),
            reduction: c_reduction(config.reduction),
            nll_divisor: nll.into(),
            smoothing_divisor: of_smoothing.into(),
            z_loss_divisor: z_loss.into(),
            empty_mean: c_empty_mean(config.empty_mean),
            z_loss: config.z_loss,
            logit_scale: config.logit_scale,
            logit_softcap: config.logit_softcap.unwrap_or_default(),
        }
    }
}

impl sx_loss_config {
    pub(crate) fn rust(&self) -> Result<LossConfig, Failure> {
        Ok(LossConfig {
            label_smoothing: self.label_smoothing,
            smoothing: smoothing(self.smoothing, self.excluded_classes)?,
            weighted_terms: weighted_terms(self.weighted_terms)?,
            ignore_index: (self.has_ignore_index != 0).then_some(self.ignore_index),
            reduction: reduction(self.reduction)?,
            divisors: Divisors {
                nll: self.nll_divisor.rust()?,
                smoothing: self.smoothing_divisor.rust()?,
                z_loss: self.z_loss_divisor.rust()?,
            },
            empty_mean: empty_mean(self.empty_mean)?,
            z_loss: self.z_loss,
            logit_scale: self.logit_scale,
            logit_softcap: (self.logit_softcap != 0.0).then_some(self.logit_softcap),
        })
    }
}

impl From<BinaryConfig> for sx_binary_config {
    fn from(config: BinaryConfig) -> Self {
        Self {
            label_smoothing: config.label_smoothing,
            smoothing: c_binary_smoothing(config.smoothing),
            has_ignore_index: config.ignore_index.is_some().into(),
            ignore_index: config.ignore_index.unwrap_or_default(),
            over_classes: c_over_classes(config.over_classes),
            reduction: c_reduction(config.reduction),
            divisor: config.divisor.into(),
            empty_mean: c_empty_mean(config.empty_mean),
        }
    }
}

impl sx_binary_config {
    pub(crate) fn rust(&self) -> Result<BinaryConfig, Failure> {
        Ok(BinaryConfig {
            label_smoothing: self.label_smoothing,
            smoothing: binary_smoothing(self.smoothing)?,
            ignore_index: (self.has_ignore_index != 0).then_some(self.ignore_index),
            over_classes: over_classes(self.over_classes)?,
            reduction: reduction(self.reduction)?,
            divisor: self.divisor.rust()?,
            empty_mean: empty_mean(self.empty_mean)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_survive_the_way_through_c() {
        for (name, preset) in LOSS_PRESETS {
            let config = LossConfig { z_loss: 0.5, logit_softcap: Some(30.0), ..preset() };
            assert_eq!(sx_loss_config::from(config).rust().ok(), Some(config), "{name}");
            assert_eq!(sx_loss_config::from(preset()).rust().ok(), Some(preset()), "{name}");
        }
        for (name, preset) in BINARY_PRESETS {
            assert_eq!(sx_binary_config::from(preset()).rust().ok(), Some(preset()), "{name}");
        }
    }

    #[test]
    fn presets_are_found_by_name() {
        let named = |name: &CStr| {
            // SAFETY: it ends in NUL.
            unsafe { super::named(name.as_ptr(), &LOSS_PRESETS) }
        };
        assert_eq!(named(c"liger").ok(), Some(LossConfig::liger()));
        let Err(Failure::Argument { value, allowed, .. }) = named(c"tensorflow") else {
            panic!("there is no such preset");
        };
        assert_eq!(value, "\"tensorflow\"");
        assert!(allowed.starts_with("default, pytorch, ") && allowed.ends_with(", liger"));
        // SAFETY: null is the default.
        let default = unsafe { super::named(std::ptr::null(), &LOSS_PRESETS) };
        assert_eq!(default.ok(), Some(LossConfig::default()));
    }

    #[test]
    fn values_that_nothing_has_are_refused() {
        let fine = sx_loss_config::from(LossConfig::default());
        for broken in [
            sx_loss_config { reduction: 0, ..fine },
            sx_loss_config { smoothing: 9, ..fine },
            sx_loss_config { weighted_terms: 4, ..fine },
            sx_loss_config { empty_mean: 0, ..fine },
            sx_loss_config { z_loss_divisor: sx_divisor { kind: 5, number: 1.0 }, ..fine },
        ] {
            assert!(matches!(broken.rust(), Err(Failure::Argument { .. })), "{broken:?}");
        }
    }
}
