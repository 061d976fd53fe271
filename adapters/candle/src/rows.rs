//! A tensor whose last dimension is the classes, as the kernels see it: rows with one stride.

use candle_core::{DType, Error, Layout, Result, Tensor};
use smoothxent::problem::{Dtype, TargetType};

/// `rows` rows of `classes` elements, `row_stride` apart, from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub rows: usize,
    pub classes: usize,
    pub row_stride: usize,
    pub start: usize,
}

impl Rows {
    /// None for a layout that no single row stride describes.
    fn find(layout: &Layout) -> Option<Self> {
        let (&classes, leading) = layout.dims().split_last()?;
        let (&step, strides) = layout.stride().split_last()?;
        let rows = leading.iter().product();
        let mut row_stride = None;
        let mut of_outer = None;
        // Dimensions of 1 have strides that mean nothing.
        let leading = leading.iter().zip(strides).rev().filter(|&(&dim, _)| dim != 1);
        for (dim, &stride) in leading {
            if of_outer.is_some_and(|of_outer| of_outer != stride) {
                return None;
            }
            row_stride.get_or_insert(stride);
            of_outer = Some(stride * dim);
        }
        let row_stride = row_stride.filter(|_| rows > 1).unwrap_or(classes);
        let fits = row_stride >= classes && (step == 1 || classes <= 1);
        fits.then_some(Self { rows, classes, row_stride, start: layout.start_offset() })
    }

    /// Of a tensor that [`with_rows`] gave.
    pub fn of(layout: &Layout, op: &'static str) -> Result<Self> {
        Self::find(layout).ok_or_else(|| Error::RequiresContiguous { op }.bt())
    }

    /// Each row of a buffer.
    pub fn of_slice<'a, T>(&self, buffer: &'a [T]) -> impl Iterator<Item = &'a [T]> + use<'a, T> {
        let Self { rows, classes, row_stride, start } = *self;
        (0..rows).map(move |row| &buffer[start + row * row_stride..][..classes])
    }
}

/// The tensor itself where one row stride describes it, else a copy without gaps, which gradients flow
/// through.
pub(crate) fn with_rows(tensor: &Tensor) -> Result<Tensor> {
    match Rows::find(tensor.layout()) {
        Some(_) => Ok(tensor.clone()),
        None => tensor.contiguous(),
    }
}

/// Of logits.
pub(crate) fn dtype(dtype: DType, op: &'static str) -> Result<Dtype> {
    match dtype {
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::Bf16),
        _ => Err(Error::UnsupportedDTypeForOp(dtype, op).bt()),
    }
}

/// Of targets: integers are classes, floats are probabilities.
pub(crate) fn target_type(targets: DType, op: &'static str) -> Result<TargetType> {
    match targets {
        DType::I32 => Ok(TargetType::I32),
        DType::U32 => Ok(TargetType::U32),
        DType::I64 => Ok(TargetType::I64),
        _ => dtype(targets, op).map(TargetType::Probabilities),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Layout, Shape};

    use super::Rows;

    fn find(dims: &[usize], strides: &[usize]) -> Option<(usize, usize, usize)> {
        let layout = Layout::new(Shape::from(dims), strides.to_vec(), 5);
        Rows::find(&layout).map(|rows| (rows.rows, rows.classes, rows.row_stride))
    }

    #[test]
    fn layouts_with_one_row_stride() {
        assert_eq!(find(&[7], &[1]), Some((1, 7, 7)));
        assert_eq!(find(&[4, 7], &[7, 1]), Some((4, 7, 7)));
        assert_eq!(find(&[4, 7], &[9, 1]), Some((4, 7, 9)));
        assert_eq!(find(&[2, 4, 7], &[36, 9, 1]), Some((8, 7, 9)));
        assert_eq!(find(&[2, 1, 4, 7], &[36, 1, 9, 1]), Some((8, 7, 9)));
        assert_eq!(find(&[1, 7], &[0, 1]), Some((1, 7, 7)));
        assert_eq!(find(&[4, 1], &[1, 3]), Some((4, 1, 1)));
        assert_eq!(find(&[0, 7], &[7, 1]), Some((0, 7, 7)));
    }

    #[test]
    fn layouts_that_have_to_be_copied() {
        assert_eq!(find(&[], &[]), None);
        assert_eq!(find(&[4, 7], &[1, 4]), None, "transposed");
        assert_eq!(find(&[4, 7], &[0, 1]), None, "broadcast");
        assert_eq!(find(&[2, 4, 7], &[40, 9, 1]), None, "narrowed in the middle");
        assert_eq!(find(&[2, 4, 7], &[7, 14, 1]), None, "permuted");
    }
}
