//! How far a result may be from the composed f64 one: the only tolerances of the adapter's tests.

use candle_core::{DType, Tensor};

/// Half an ulp of f32, relative.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// What the CPU's f64 leaves of rounding: each coefficient and weight is rounded to f32 once, products of
/// three of them and a divisor make four roundings, and the result one more.
const ON_CPU: f64 = 5.0 * U;

/// What f32 kernels leave on rows of a few dozen logits within -8..8: exponentials within 4 + 16 units
/// (ex2's own error, and that of its argument for distances of 16), and some 40 additions, products and
/// quotients of a row.
const ON_GPU: f64 = 64.0 * U;

/// Of the stored type: half an ulp, relative, and of its subnormals.
fn half_ulp(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F32 => (U, 2f64.powi(-150)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        DType::BF16 => (2f64.powi(-8), 2f64.powi(-134)),
        other => panic!("no budget for {other:?}"),
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Values of any dtype against f64 ones. `size` is that of the largest terms that were added up: of
/// losses the loss itself, whose terms are of one sign; of gradients an upstream gradient, times
/// coefficients, before anything cancels.
pub fn close(what: &str, found: &Tensor, expected: &Tensor, size: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}: shapes");
    let on = if found.device().is_cpu() { ON_CPU } else { ON_GPU };
    let (relative, subnormal) = half_ulp(found.dtype());
    let pairs = values(found).into_iter().zip(values(expected));
    for (i, (found, expected)) in pairs.enumerate() {
        let before = on * (expected.abs() + size);
        let budget = before + (relative * (expected.abs() + before)).max(subnormal);
        let same = found == expected || (found.is_nan() && expected.is_nan());
        assert!(
            same || (found - expected).abs() <= budget,
            "{what} [{i}]: {found:e}, expected {expected:e}: {} of the budget",
            (found - expected).abs() / budget
        );
    }
}

/// The same bits.
pub fn equal(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dtype(), expected.dtype(), "{what}: dtypes");
    assert_eq!(found.dims(), expected.dims(), "{what}: shapes");
    let bits = |tensor| values(tensor).into_iter().map(f64::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(found), bits(expected), "{what}");
}

/// Exactly 0 everywhere.
pub fn zero(what: &str, found: &Tensor) {
    assert!(values(found).iter().all(|&value| value == 0.0), "{what}: {found}");
}
