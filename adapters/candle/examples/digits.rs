//! Trains a classifier of handwritten digits three times from the same weights: with candle's own
//! cross_entropy; with this crate's on batches that are filled up with padding, which is to give the
//! same curve; and with label smoothing.
//!
//! `cargo run --release -p smoothxent-candle --example digits`

use std::io::Read;

use candle_core::{D, DType, Device, Result, Tensor, Var, backprop::GradStore};
use candle_nn::{Linear, Module, Optimizer, SGD};
use smoothxent_candle::{CrossEntropy, LossConfig};

/// 1,797 images of 8x8 pixels; the demo says where they come from.
const DIGITS: &[u8] = include_bytes!("../../../demo/data/digits.csv.gz");
const PIXELS: usize = 64;
const CLASSES: usize = 10;
const HIDDEN: usize = 64;
const TEST_IMAGES: usize = 397;
/// Does not divide the 1,400 images to train on.
const BATCH: usize = 64;
const EPOCHS: usize = 12;
const LEARNING_RATE: f64 = 0.2;
const PADDING: i64 = -100;

#[derive(Clone)]
struct Images {
    /// `[images, PIXELS]`, from 0 to 1.
    pixels: Tensor,
    /// `[images]`.
    labels: Tensor,
}

impl Images {
    fn load(device: &Device) -> Result<Self> {
        let mut text = String::new();
        flate2::read::GzDecoder::new(DIGITS).read_to_string(&mut text)?;
        let (mut pixels, mut labels) = (vec![], vec![]);
        for line in text.lines() {
            let fields: std::result::Result<Vec<u8>, _> = line.split(',').map(str::parse).collect();
            let fields = fields?;
            pixels.extend(fields[..PIXELS].iter().map(|&ink| f32::from(ink) / 16.0));
            labels.push(i64::from(fields[PIXELS]));
        }
        let images = labels.len();
        Ok(Self {
            pixels: Tensor::from_vec(pixels, (images, PIXELS), device)?,
            labels: Tensor::from_vec(labels, images, device)?,
        })
    }

    fn len(&self) -> usize {
        self.labels.elem_count()
    }

    fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let [pixels, labels] = [&self.pixels, &self.labels].map(|all| all.narrow(0, start, len));
        Ok(Self { pixels: pixels?, labels: labels? })
    }

    /// In order, the last one short.
    fn batches(&self) -> impl Iterator<Item = Result<Self>> + '_ {
        let starts = (0..self.len()).step_by(BATCH);
        starts.map(|start| self.narrow(start, BATCH.min(self.len() - start)))
    }

    /// Every batch of one size: what is missing is paper, whose label is ignored.
    fn padded(&self) -> Result<Self> {
        let missing = BATCH - self.len();
        // candle cannot allocate an empty tensor on a GPU.
        if missing == 0 {
            return Ok(self.clone());
        }
        let paper = Tensor::zeros((missing, PIXELS), DType::F32, self.pixels.device())?;
        let padding = Tensor::full(PADDING, missing, self.labels.device())?;
        Ok(Self {
            pixels: Tensor::cat(&[&self.pixels, &paper], 0)?,
            labels: Tensor::cat(&[&self.labels, &padding], 0)?,
        })
    }
}

struct Mlp {
    hidden: Linear,
    output: Linear,
    variables: Vec<Var>,
}

impl Mlp {
    /// The same weights each time: uniform, of variance 2 / inputs.
    fn new(device: &Device) -> Result<Self> {
        let mut state = 1u32;
        let mut variables = vec![];
        let mut layer = |inputs: usize, outputs: usize| -> Result<Linear> {
            let limit = (6.0 / inputs as f32).sqrt();
            let weights: Vec<f32> = (0..inputs * outputs)
                .map(|_| {
                    // The generator of Numerical Recipes; its upper bits are random enough here.
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    limit * ((state >> 8) as f32 / (1u32 << 23) as f32 - 1.0)
                })
                .collect();
            let weights = Var::from_vec(weights, (outputs, inputs), device)?;
            let bias = Var::zeros(outputs, DType::F32, device)?;
            variables.extend([weights.clone(), bias.clone()]);
            Ok(Linear::new(weights.as_tensor().clone(), Some(bias.as_tensor().clone())))
        };
        let (hidden, output) = (layer(PIXELS, HIDDEN)?, layer(HIDDEN, CLASSES)?);
        Ok(Self { hidden, output, variables })
    }

    fn logits(&self, pixels: &Tensor) -> Result<Tensor> {
        self.output.forward(&self.hidden.forward(pixels)?.relu()?)
    }

    /// Share of images that are named rightly.
    fn accuracy(&self, images: &Images) -> Result<f64> {
        let named = self.logits(&images.pixels)?.argmax(D::Minus1)?.to_dtype(DType::I64)?;
        let right = named.eq(&images.labels)?.to_dtype(DType::F64)?;
        right.mean_all()?.to_scalar()
    }
}

/// The mean loss of each epoch, and the accuracy behind the last.
fn train(
    train: &Images,
    test: &Images,
    loss: impl Fn(&Mlp, &Images) -> Result<(Tensor, GradStore)>,
) -> Result<(Vec<f64>, f64)> {
    let model = Mlp::new(train.pixels.device())?;
    let mut sgd = SGD::new(model.variables.clone(), LEARNING_RATE)?;
    let mut curve = vec![];
    for _ in 0..EPOCHS {
        let mut sum = 0.0;
        for batch in train.batches() {
            let batch = batch?;
            let (loss, gradients) = loss(&model, &batch)?;
            sgd.step(&gradients)?;
            sum += f64::from(loss.to_scalar::<f32>()?) * batch.len() as f64;
        }
        curve.push(sum / train.len() as f64);
    }
    Ok((curve, model.accuracy(test)?))
}

fn main() -> Result<()> {
    #[cfg(feature = "cuda")]
    let device = Device::new_cuda(0)?;
    #[cfg(not(feature = "cuda"))]
    let device = Device::Cpu;
    let all = Images::load(&device)?;
    let images = all.narrow(0, all.len() - TEST_IMAGES)?;
    let test = all.narrow(all.len() - TEST_IMAGES, TEST_IMAGES)?;

    let candles = train(&images, &test, |model, batch| {
        let loss = candle_nn::loss::cross_entropy(&model.logits(&batch.pixels)?, &batch.labels)?;
        let gradients = loss.backward()?;
        Ok((loss, gradients))
    })?;
    let ours = |label_smoothing| {
        let config =
            LossConfig { label_smoothing, ignore_index: Some(PADDING), ..LossConfig::default() };
        let cross_entropy = CrossEntropy::new(config, &device)?;
        let result = train(&images, &test, |model, batch| {
            let batch = batch.padded()?;
            cross_entropy.backward(&model.logits(&batch.pixels)?, &batch.labels)
        });
        cross_entropy.check().map_err(candle_core::Error::wrap)?;
        result
    };
    let (plain, smooth) = (ours(0.0)?, ours(0.1)?);

    println!("mean loss of each epoch:");
    println!("epoch  candle's own  smoothing 0, padded  smoothing 0.1, padded");
    for epoch in 0..EPOCHS {
        let [candles, plain, smooth] = [&candles, &plain, &smooth].map(|(curve, _)| curve[epoch]);
        println!("{:5}  {candles:12.6}  {plain:19.6}  {smooth:21.6}", epoch + 1);
    }
    let [a, b, c] = [candles.1, plain.1, smooth.1].map(|share| 100.0 * share);
    println!("right  {a:11.1}%  {b:18.1}%  {c:20.1}%  of {TEST_IMAGES} test images");
    let apart = candles.0.iter().zip(&plain.0).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("candle's own and smoothing 0 are {apart:.1e} apart at most");
    Ok(())
}
