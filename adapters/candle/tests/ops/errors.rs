//! What does not go together is an error of candle's, with its numbers.

use candle_core::{DType, Device, Error, Result, Tensor};
use smoothxent_candle::{CrossEntropy, LossConfig, log_softmax};

use crate::{device, logits};

/// Without the backtrace that RUST_BACKTRACE asks for.
fn bare(error: Error) -> Error {
    match error {
        Error::WithBacktrace { inner, .. } => bare(*inner),
        other => other,
    }
}

fn refused(loss: &CrossEntropy, logits: &Tensor, targets: &Tensor) -> Error {
    let both = [loss.forward(logits, targets).err(), loss.backward(logits, targets).err()];
    let [Some(error), Some(fused)] = both.map(|error| error.map(bare)) else { panic!("accepted") };
    assert_eq!(error.to_string(), fused.to_string());
    error
}

#[test]
fn shapes() -> Result<()> {
    let device = device()?;
    let loss = CrossEntropy::new(LossConfig::default(), &device)?;
    let x = logits(&[4, 7], DType::F32, &device)?;
    let y = Tensor::zeros(5, DType::U32, &device)?;
    let error = refused(&loss, &x, &y);
    assert!(
        matches!(&error, Error::UnexpectedShape { expected, got, .. }
        if expected.dims() == [4] && got.dims() == [5]),
        "{error}"
    );
    assert!(error.to_string().contains("U32 targets are class indices"), "{error}");

    let q = Tensor::zeros(4, DType::F32, &device)?;
    let error = refused(&loss, &x, &q);
    assert!(
        matches!(&error, Error::UnexpectedShape { expected, got, .. }
        if expected.dims() == [4, 7] && got.dims() == [4]),
        "{error}"
    );
    assert!(error.to_string().contains("F32 targets are probabilities"), "{error}");

    let scalar = Tensor::zeros((), DType::F32, &device)?;
    let error = refused(&loss, &scalar, &scalar);
    assert!(matches!(error, Error::UnexpectedNumberOfDims { got: 0, .. }), "{error}");
    let error = bare(log_softmax(&scalar).unwrap_err());
    assert!(matches!(error, Error::UnexpectedNumberOfDims { got: 0, .. }), "{error}");

    let none = x.narrow(1, 0, 0)?;
    let error = refused(&loss, &none, &Tensor::zeros(4, DType::U32, &device)?);
    assert!(error.to_string().starts_with("0 classes were given"), "{error}");
    Ok(())
}

#[test]
fn dtypes() -> Result<()> {
    let device = device()?;
    let loss = CrossEntropy::new(LossConfig::default(), &device)?;
    let x = logits(&[4, 7], DType::F32, &device)?;
    let y = Tensor::zeros(4, DType::U32, &device)?;
    let error = refused(&loss, &x.to_dtype(DType::F64)?, &y);
    assert!(matches!(error, Error::UnsupportedDTypeForOp(DType::F64, "cross_entropy")), "{error}");
    let error = refused(&loss, &x, &y.to_dtype(DType::U8)?);
    assert!(matches!(error, Error::UnsupportedDTypeForOp(DType::U8, "cross_entropy")), "{error}");
    let error = bare(log_softmax(&y).unwrap_err());
    assert!(matches!(error, Error::UnsupportedDTypeForOp(DType::U32, "log_softmax")), "{error}");
    Ok(())
}

#[test]
fn options_and_weights() -> Result<()> {
    let device = device()?;
    let x = logits(&[4, 7], DType::F32, &device)?;
    let y = Tensor::zeros(4, DType::U32, &device)?;
    let config = LossConfig { label_smoothing: 1.5, ..LossConfig::default() };
    let error = refused(&CrossEntropy::new(config, &device)?, &x, &y);
    assert_eq!(error.to_string(), "label_smoothing is 1.5, which is not within 0..=1");

    let weighted = |weights: &[f32]| {
        let weights = Tensor::from_slice(weights, weights.len(), &Device::Cpu)?;
        CrossEntropy::with_class_weights(LossConfig::default(), &weights, &device)
    };
    let error = refused(&weighted(&[1.0; 6])?, &x, &y);
    let expected = "the class_weights buffer holds 6 elements; the problem needs 7 (exactly, if it is a vector: \
                    pass a view)";
    assert_eq!(error.to_string(), expected);
    let error = bare(weighted(&[1.0, 2.0, -0.5]).unwrap_err());
    assert_eq!(
        error.to_string(),
        "the weight of class 2 is -0.5; it has to be finite, and 0 or more"
    );
    let matrix = Tensor::ones((2, 7), DType::F32, &device)?;
    let refused = CrossEntropy::with_class_weights(LossConfig::default(), &matrix, &device);
    let error = bare(refused.unwrap_err());
    assert!(matches!(error, Error::UnexpectedNumberOfDims { expected: 1, got: 2, .. }), "{error}");
    Ok(())
}
