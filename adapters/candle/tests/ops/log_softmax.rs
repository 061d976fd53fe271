//! Log-softmax against candle-nn's, in f64.

use candle_core::{DType, Result, Tensor, Var};
use smoothxent_candle::log_softmax;

use crate::{compare::close, device, logits, wide};

#[test]
fn values_and_gradients() -> Result<()> {
    type Layout = fn(&Tensor) -> Result<Tensor>;
    let layouts: [(&[usize], Layout); 5] = [
        (&[17], |x| Ok(x.clone())),
        (&[4, 17], |x| Ok(x.clone())),
        (&[2, 3, 17], |x| Ok(x.clone())),
        (&[17, 4], |x| x.t()),
        (&[4, 20], |x| x.narrow(1, 1, 17)),
    ];
    let device = device()?;
    for (dims, layout) in layouts {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let what = format!("{dims:?} {dtype:?}");
            let x = Var::from_tensor(&logits(dims, dtype, &device)?)?;
            let found = log_softmax(&layout(&x)?)?;
            assert_eq!(found.dtype(), dtype);
            let reference = Var::from_tensor(&wide(&x)?)?;
            let last = found.rank() - 1;
            let expected = candle_nn::ops::log_softmax(&layout(&reference)?.contiguous()?, last)?;
            close(&format!("log p of {what}"), &found, &expected, 0.0);

            // Exact in every dtype: quarters up to 2.
            let len = found.elem_count();
            let upstream: Vec<f64> = (0..len).map(|i| (i % 17) as f64 / 4.0 - 2.0).collect();
            let upstream = Tensor::from_vec(upstream, found.dims(), expected.device())?;
            let objective = (&found * upstream.to_dtype(dtype)?.to_device(&device)?)?.sum_all()?;
            let (found, expected) =
                (objective.backward()?, (expected * upstream)?.sum_all()?.backward()?);
            let (found, expected) = (found.get(&x).unwrap(), expected.get(&reference).unwrap());
            // An upstream gradient of 2, and the sum of a row of them.
            close(&format!("gradient of {what}"), found, expected, 2.0 * 17.0);
        }
    }
    Ok(())
}
