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
    /// Their sum divided by the number of rows that are not ignored; NaN if there is none.
    #[default]
    Mean,
}

/// What is computed, apart from sizes.
///
/// The loss of row i with target y is `(1 - e) * -log p_y + e / C * sum_k -log p_k`, where
/// `p = softmax(logits)`, e is `label_smoothing` and C the number of classes: the label smoothing
/// of Szegedy et al. 2016 (<https://arxiv.org/abs/1512.00567>) as PyTorch's `CrossEntropyLoss`
/// evaluates it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossConfig {
    /// e, within 0..=1.
    pub label_smoothing: f64,
    /// Rows with this target have loss 0, gradient 0 and no part in the mean. Any value, also one
    /// that is a class.
    pub ignore_index: Option<i64>,
    /// How row losses are reduced.
    pub reduction: Reduction,
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

/// The weights of a row's two terms, and their sums, as the kernels take them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Of -log p_y.
    pub nll: f32,
    /// Of each -log p_k.
    pub smoothing: f32,
    /// `nll + classes * smoothing`.
    pub total: f32,
    /// `(classes - 1) * smoothing`.
    pub others: f32,
}

/// Sizes and options that go together; there is no other way to make one than [`Problem::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    dtype: Dtype,
    target_type: TargetType,
    shape: Shape,
    config: LossConfig,
    logits_len: usize,
    gradient_len: usize,
}

impl Problem {
    /// Checks everything that needs no device.
    ///
    /// # Errors
    /// [`Error::LabelSmoothing`], [`Error::Classes`], [`Error::RowStride`], [`Error::Size`].
    pub fn new(
        dtype: Dtype,
        target_type: TargetType,
        shape: Shape,
        config: LossConfig,
    ) -> Result<Self, Error> {
        let max = abi::XENT_MAX_CLASSES as usize;
        if !(1..=max).contains(&shape.classes) {
            return Err(Error::Classes { classes: shape.classes, max });
        }
        if !(0.0..=1.0).contains(&config.label_smoothing) {
            return Err(Error::LabelSmoothing { value: config.label_smoothing });
        }
        Ok(Self {
            dtype,
            target_type,
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

    /// Formed in f64 and rounded once.
    pub fn weights(&self) -> Weights {
        let smoothing = self.config.label_smoothing;
        let classes = self.shape.classes as f64;
        Weights {
            nll: (1.0 - smoothing) as f32,
            smoothing: (smoothing / classes) as f32,
            total: 1.0,
            others: (smoothing * (classes - 1.0) / classes) as f32,
        }
    }

    /// What row losses and gradients are multiplied by, if that does not depend on the targets.
    pub fn host_normalizer(&self) -> Option<f32> {
        match (self.config.reduction, self.config.ignore_index) {
            (Reduction::None | Reduction::Sum, _) => Some(1.0),
            (Reduction::Mean, None) => Some((1.0 / self.shape.rows as f64) as f32),
            (Reduction::Mean, Some(_)) => None,
        }
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
        let config = LossConfig { label_smoothing, ..LossConfig::default() };
        Problem::new(Dtype::F32, TargetType::I64, shape, config)
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
    fn weights_of_a_row_sum_to_their_total() {
        for (classes, smoothing) in [(1, 0.1), (2, 0.0), (10, 0.1), (128_256, 0.3), (7, 1.0)] {
            let w = problem(Shape::contiguous(1, classes), smoothing).unwrap().weights();
            let total = f64::from(w.nll) + classes as f64 * f64::from(w.smoothing);
            assert!((total - f64::from(w.total)).abs() <= f64::from(f32::EPSILON), "{w:?}");
            let target = f64::from(w.nll) + f64::from(w.smoothing) + f64::from(w.others);
            assert!((target - f64::from(w.total)).abs() <= f64::from(f32::EPSILON), "{w:?}");
        }
    }
}
