//! Loss and gradient of every option, shape, dtype and kind of target.

use candle_core::{DType, Device, Result, Tensor, Var};
use smoothxent_candle::{
    CrossEntropy, Divisor, Divisors, EmptyMean, LossConfig, Reduction, Smoothing, WeightedTerms,
    cross_entropy, smoothxent::Error,
};

use crate::{
    compare::{close, equal, zero},
    composed::{Composed, Targets},
    device, logits, wide,
};

const CLASSES: usize = 11;
const ROWS: usize = 6;
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
/// The same rows in tensors of every rank.
const SHAPES: [&[usize]; 3] = [&[ROWS, CLASSES], &[2, 3, CLASSES], &[3, 1, 2, CLASSES]];

/// Every option, alone and where options meet.
fn configs() -> Vec<LossConfig> {
    let plain = LossConfig::default();
    let smooth = LossConfig { label_smoothing: 0.1, ..plain };
    let with = |divisor| LossConfig { divisors: Divisors::all(divisor), ..smooth };
    vec![
        plain,
        smooth,
        LossConfig { label_smoothing: 1.0, ..plain },
        LossConfig { smoothing: Smoothing::OtherClasses, ..smooth },
        LossConfig { smoothing: Smoothing::OtherClassesBut(1), ..smooth },
        LossConfig { weighted_terms: WeightedTerms::Nll, ..smooth },
        LossConfig { weighted_terms: WeightedTerms::Smoothing, ..smooth },
        LossConfig { ignore_index: Some(3), ..smooth },
        LossConfig { reduction: Reduction::Sum, ..smooth },
        LossConfig { reduction: Reduction::None, ignore_index: Some(3), ..smooth },
        LossConfig { z_loss: 0.01, ignore_index: Some(3), ..smooth },
        LossConfig { logit_scale: 0.7, ..smooth },
        LossConfig { logit_softcap: Some(5.0), logit_scale: 0.7, ..smooth },
        with(Divisor::AllRows),
        with(Divisor::CountedRows),
        with(Divisor::Given(17.0)),
        LossConfig { ignore_index: Some(3), ..LossConfig::fastai(0.2) },
    ]
}

fn indices() -> Targets {
    Targets::Indices((0..ROWS as i64).map(|row| (row * 7 + 3) % CLASSES as i64).collect())
}

fn probabilities() -> Targets {
    let raw = |i: usize| (i * i * 13 % 29) as f64;
    let rows = (0..ROWS).map(|row| (0..CLASSES).map(move |k| raw(row * CLASSES + k)));
    let normalized = rows.flat_map(|row| {
        let sum: f64 = row.clone().sum();
        row.map(move |value| value / sum)
    });
    Targets::Probabilities(normalized.collect())
}

fn weights() -> Vec<f64> {
    (0..CLASSES).map(|k| [0.5, 2.0, 0.0, 1.25][k % 4]).collect()
}

fn handle(case: &Composed, device: &Device) -> Result<CrossEntropy> {
    match &case.class_weights {
        None => CrossEntropy::new(case.config, device),
        Some(weights) => {
            let weights = Tensor::from_slice(weights, weights.len(), device)?;
            CrossEntropy::with_class_weights(case.config, &weights, device)
        }
    }
}

/// What is minimised: the loss, or losses, times upstream gradients that are not 1.
fn objective(loss: &Tensor) -> Result<Tensor> {
    let len = loss.elem_count();
    let factors: Vec<f32> = (0..len).map(|i| 0.5 - 0.75 * i as f32).collect();
    let factors = Tensor::from_vec(factors, loss.dims(), loss.device())?;
    // Flat, because candle 0.11 cannot sum a scalar on a GPU: it allocates 0 bytes.
    (loss * factors.to_dtype(loss.dtype())?)?.flatten_all()?.sum_all()
}

/// The largest size of an upstream gradient times its coefficients, before they cancel: a weight of 2 and
/// the z-loss's 2 L lse (lse <= 11) at most.
const GRADIENT_SIZE: f64 = (0.5 + 0.75 * ROWS as f64) * 2.0 * 2.5;

fn agrees(
    case: Composed,
    logits: &Var,
    of: impl Fn(&Tensor) -> Result<Tensor>,
    y: DType,
) -> Result<()> {
    let what = format!("{case:?}, {:?} {:?}, {y:?} targets", logits.dims(), logits.dtype());
    let case = case.stored(y)?;
    let device = logits.device();
    let seen = of(logits)?;
    let targets = case.targets(seen.dims(), y, device)?;

    let reference = Var::from_tensor(&wide(logits)?)?;
    let expected = case.loss(&of(&reference)?.contiguous()?)?;
    let expected_gradients = objective(&expected)?.backward()?;
    let expected_gradient = expected_gradients.get(&reference).unwrap();

    let ours = handle(&case, device)?;
    let loss = ours.forward(&seen, &targets)?;
    assert_eq!(loss.dtype(), DType::F32, "{what}");
    close(&format!("loss of {what}"), &loss, &expected, 0.0);
    let gradients = objective(&loss)?.backward()?;
    let gradient = gradients.get(logits).expect("a gradient reaches the variable");
    assert_eq!(gradient.dtype(), logits.dtype(), "{what}");
    close(&format!("gradient of {what}"), gradient, expected_gradient, GRADIENT_SIZE);
    ours.check().map_err(candle_core::Error::wrap)?;

    let (at_once, grads) = ours.backward(&seen, &targets)?;
    equal(&format!("loss at once of {what}"), &at_once, &loss.detach());
    let apart = loss.backward()?;
    let (found, expected) = (grads.get(logits).unwrap(), apart.get(logits).unwrap());
    equal(&format!("gradient at once of {what}"), found, expected);
    Ok(())
}

fn of_every_option(targets: &Targets, y: &[DType]) -> Result<()> {
    let device = device()?;
    for config in configs() {
        for class_weights in [None, Some(weights())] {
            // Which class is left out, weights have to say.
            let excludes = matches!(config.smoothing, Smoothing::OtherClassesBut(1..));
            if excludes && class_weights.is_none() {
                continue;
            }
            for (i, dtype) in FLOATS.into_iter().enumerate() {
                let y = y[i % y.len()];
                let logits = Var::from_tensor(&logits(SHAPES[i], dtype, &device)?)?;
                let (targets, class_weights) = (targets.clone(), class_weights.clone());
                let case = Composed { config, classes: CLASSES, targets, class_weights };
                agrees(case, &logits, |x| Ok(x.clone()), y)?;
            }
        }
    }
    Ok(())
}

#[test]
fn every_option_with_class_indices() -> Result<()> {
    of_every_option(&indices(), &[DType::I64, DType::U32, DType::I32])
}

#[test]
fn every_option_with_probabilities() -> Result<()> {
    of_every_option(&probabilities(), &FLOATS)
}

fn smooth(config: LossConfig) -> Composed {
    let config = LossConfig { label_smoothing: 0.1, ..config };
    Composed { config, classes: CLASSES, targets: indices(), class_weights: None }
}

#[test]
fn logits_of_every_layout() -> Result<()> {
    type Layout = fn(&Tensor) -> Result<Tensor>;
    let layouts: [(&[usize], Layout); 6] = [
        (&[CLASSES, ROWS], |x| x.t()),
        (&[ROWS, CLASSES + 5], |x| x.narrow(1, 2, CLASSES)),
        (&[ROWS + 2, CLASSES], |x| x.narrow(0, 1, ROWS)),
        (&[2, 5, CLASSES], |x| x.narrow(1, 1, 3)),
        (&[3, 2, CLASSES], |x| x.permute((1, 0, 2))),
        (&[1, CLASSES], |x| x.broadcast_as((ROWS, CLASSES))),
    ];
    let device = device()?;
    for reduction in [Reduction::Mean, Reduction::None] {
        for (dims, layout) in layouts {
            let case = smooth(LossConfig { reduction, ..LossConfig::default() });
            let logits = Var::from_tensor(&logits(dims, DType::F32, &device)?)?;
            agrees(case, &logits, layout, DType::I64)?;
        }
    }
    Ok(())
}

#[test]
fn targets_of_every_layout() -> Result<()> {
    let device = device()?;
    let x = logits(&[2, 3, CLASSES], DType::F32, &device)?;
    let loss = CrossEntropy::new(smooth(LossConfig::default()).config, &device)?;
    let y = smooth(LossConfig::default()).targets(x.dims(), DType::I64, &device)?;
    let expected = loss.forward(&x, &y)?;
    let turned = y.t()?.contiguous()?.t()?;
    assert!(!turned.is_contiguous());
    equal("transposed indices", &loss.forward(&x, &turned)?, &expected);
    let padded = Tensor::cat(&[&y, &y], 0)?.narrow(0, 2, 2)?;
    equal("narrowed indices", &loss.forward(&x, &padded)?, &expected);

    let Targets::Probabilities(q) = probabilities() else { unreachable!() };
    let q = Tensor::from_vec(q, x.dims(), &device)?.to_dtype(DType::F32)?;
    let expected = loss.forward(&x, &q)?;
    let padded = Tensor::cat(&[&q, &q], 2)?.narrow(2, CLASSES, CLASSES)?;
    equal("narrowed probabilities", &loss.forward(&x, &padded)?, &expected);
    let turned = q.transpose(0, 2)?.contiguous()?.transpose(0, 2)?;
    equal("transposed probabilities", &loss.forward(&x, &turned)?, &expected);
    Ok(())
}

#[test]
fn without_smoothing_it_is_candles_own() -> Result<()> {
    let device = device()?;
    let x = Var::from_tensor(&logits(&[ROWS, CLASSES], DType::F32, &device)?)?;
    let y = smooth(LossConfig::default()).targets(x.dims(), DType::U32, &device)?;
    let theirs = Var::from_tensor(&wide(&x)?)?;
    let expected = candle_nn::loss::cross_entropy(&theirs, &y.to_device(&Device::Cpu)?)?;
    let loss = cross_entropy(&x, &y, &LossConfig::default())?;
    close("loss", &loss, &expected, 0.0);
    let (found, expected) = (loss.backward()?, expected.backward()?);
    close("gradient", found.get(&x).unwrap(), expected.get(&theirs).unwrap(), 1.0);
    Ok(())
}

#[test]
fn padding_is_neither_read_nor_counted() -> Result<()> {
    let device = device()?;
    let config = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
    let loss = CrossEntropy::new(config, &device)?;
    let x = logits(&[4, CLASSES], DType::F32, &device)?;
    let y = Tensor::new(&[3i64, 0, 7, 1], &device)?;
    let nan = Tensor::full(f32::NAN, (2, CLASSES), &device)?;
    let padded = Var::from_tensor(&Tensor::cat(&[&x, &nan], 0)?)?;
    let padding = Tensor::new(&[-100i64, -100], &device)?;
    let padded_y = Tensor::cat(&[&y, &padding], 0)?;
    let found = loss.forward(&padded, &padded_y)?;
    equal("loss", &found, &loss.forward(&x, &y)?);
    let gradients = found.backward()?;
    let gradient = gradients.get(&padded).unwrap();
    zero("gradient of padding", &gradient.narrow(0, 4, 2)?);
    let alone = Var::from_tensor(&x)?;
    let expected = loss.forward(&alone, &y)?.backward()?;
    equal("gradient", &gradient.narrow(0, 0, 4)?, expected.get(&alone).unwrap());
    Ok(())
}

#[test]
fn a_mean_of_nothing() -> Result<()> {
    let device = device()?;
    let x = Var::from_tensor(&logits(&[2, CLASSES], DType::F32, &device)?)?;
    let y = Tensor::new(&[-100i64, -100], &device)?;
    for (empty_mean, is_nan) in [(EmptyMean::Nan, true), (EmptyMean::Zero, false)] {
        let loss = cross_entropy(&x, &y, &LossConfig { empty_mean, ..LossConfig::pytorch() })?;
        assert_eq!(loss.to_scalar::<f32>()?.is_nan(), is_nan);
        let gradients = loss.backward()?;
        zero("gradient", gradients.get(&x).unwrap());
    }
    Ok(())
}

/// Of no variable, because candle 0.11 cannot allocate its empty gradient on a GPU.
#[test]
fn a_batch_without_rows() -> Result<()> {
    let device = device()?;
    let x = logits(&[2, CLASSES], DType::F32, &device)?.narrow(0, 0, 0)?;
    let y = Tensor::zeros(2, DType::I64, &device)?.narrow(0, 0, 0)?;
    for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
        let loss = CrossEntropy::new(LossConfig { reduction, ..LossConfig::default() }, &device)?;
        for found in [loss.forward(&x, &y)?, loss.backward(&x, &y)?.0] {
            match reduction {
                Reduction::None => assert_eq!(found.dims(), [0]),
                Reduction::Sum => assert_eq!(found.to_scalar::<f32>()?, 0.0),
                Reduction::Mean => assert!(found.to_scalar::<f32>()?.is_nan()),
            }
        }
    }
    Ok(())
}

#[test]
fn bad_targets_are_reported_when_asked() -> Result<()> {
    let device = device()?;
    let config = LossConfig { reduction: Reduction::None, ..LossConfig::pytorch() };
    let loss = CrossEntropy::new(config, &device)?;
    let x = Var::from_tensor(&logits(&[4, CLASSES], DType::F32, &device)?)?;
    let y = Tensor::new(&[3i64, -100, CLASSES as i64, -1], &device)?;
    let losses = loss.forward(&x, &y)?;
    let is_nan: Vec<bool> = losses.to_vec1::<f32>()?.iter().map(|loss| loss.is_nan()).collect();
    assert_eq!(is_nan, [false, false, true, true]);
    let gradients = losses.backward()?;
    zero("gradient", &gradients.get(&x).unwrap().narrow(0, 1, 3)?);
    let (row, target, classes) = (2, CLASSES as i64, CLASSES as u64);
    assert_eq!(loss.check(), Err(Error::BadTargets { count: 2, row, target, classes }));
    assert_eq!(loss.check(), Ok(()), "what was reported is forgotten");

    // Several calls. A larger batch is another workspace on a GPU, where the first one's record is reported.
    loss.forward(&x, &y)?;
    let more = logits(&[3000, CLASSES], DType::F32, &device)?;
    loss.backward(&more, &Tensor::full(-1i64, 3000, &device)?)?;
    let (count, row, target) = if device.is_cpu() { (3002, 0, -1) } else { (2, row, target) };
    assert_eq!(loss.check(), Err(Error::BadTargets { count, row, target, classes }));
    assert_eq!(loss.check(), Ok(()));
    Ok(())
}

#[test]
fn targets_are_constants() -> Result<()> {
    let device = device()?;
    let x = Var::from_tensor(&logits(&[ROWS, CLASSES], DType::F32, &device)?)?;
    let teacher = Var::from_tensor(&(x.as_tensor() * 0.5)?)?;
    let q = candle_nn::ops::softmax(&teacher, 1)?;
    let gradients = cross_entropy(&x, &q, &LossConfig::default())?.backward()?;
    assert!(gradients.get(&x).is_some());
    assert!(gradients.get(&teacher).is_none());
    Ok(())
}

#[test]
fn the_graph_goes_on_behind_and_before() -> Result<()> {
    let device = device()?;
    let x = logits(&[ROWS, 5], DType::F32, &device)?;
    let w = Var::from_tensor(&logits(&[5, CLASSES], DType::F32, &device)?)?;
    let case = smooth(LossConfig::default());
    let y = case.targets(&[ROWS, CLASSES], DType::U32, &device)?;
    let ours = handle(&case, &device)?;
    // Logits that are used twice get the sum of two gradients.
    let logits = (x.matmul(&w)? / 8.0)?;
    let regularised = (ours.forward(&logits, &y)?.sqr()? + (logits.sqr()?.mean_all()? * 0.1)?)?;
    let found = regularised.backward()?;

    let wide_w = Var::from_tensor(&wide(&w)?)?;
    let logits = (wide(&x)?.matmul(&wide_w)? / 8.0)?;
    let regularised = (case.loss(&logits)?.sqr()? + (logits.sqr()?.mean_all()? * 0.1)?)?;
    let expected = regularised.backward()?;
    // Beside the loss, candle's own f32 matmul over rows: ROWS terms of up to 8 / 8 times a loss of 2 * 8.
    let size = 16.0 * ROWS as f64;
    close("gradient", found.get(&w).unwrap(), expected.get(&wide_w).unwrap(), size);
    Ok(())
}
