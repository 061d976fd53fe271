//! Training and testing of every configuration.

use std::fmt;

use anyhow::{Context, Result};
use half::f16;
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};

use crate::{
    data::{CLASSES, Digits, PIXELS, Split},
    device::{Device, DeviceLoss, Element},
    metrics::{self, Prediction},
    model::{Network, Sgd},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Softmax of an affine function of the pixels.
    Linear,
    /// One hidden layer.
    Mlp,
}

impl Model {
    pub const ALL: [Self; 2] = [Self::Linear, Self::Mlp];

    fn widths(self) -> &'static [usize] {
        match self {
            Self::Linear => &[PIXELS, CLASSES],
            Self::Mlp => &[PIXELS, 64, CLASSES],
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Mlp => "MLP",
        })
    }
}

/// Type of logits and gradient on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
}

impl Dtype {
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

/// The label smoothing that is compared with none.
pub const SMOOTHING: f64 = 0.1;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Configuration {
    pub model: Model,
    pub dtype: Dtype,
    pub smoothing: f64,
}

impl Configuration {
    pub const ALL: [Self; 8] = {
        const fn both(model: Model, dtype: Dtype) -> [Configuration; 2] {
            [
                Configuration { model, dtype, smoothing: 0.0 },
                Configuration { model, dtype, smoothing: SMOOTHING },
            ]
        }
        let [a, b] = both(Model::Linear, Dtype::F32);
        let [c, d] = both(Model::Linear, Dtype::F16);
        let [e, f] = both(Model::Mlp, Dtype::F32);
        let [g, h] = both(Model::Mlp, Dtype::F16);
        [a, b, c, d, e, f, g, h]
    };
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, smoothing {}", self.model, self.dtype, self.smoothing)
    }
}

/// The same for every configuration, so that they differ in nothing else.
pub struct Recipe {
    pub epochs: usize,
    /// Images of a step.
    pub batch: usize,
    pub learning_rate: f32,
    pub momentum: f32,
    /// Of initial weights and of the order of images.
    pub seed: u64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self { epochs: 100, batch: 64, learning_rate: 0.05, momentum: 0.9, seed: 1 }
    }
}

impl Recipe {
    pub fn description(&self) -> String {
        format!(
            "{} epochs of SGD, learning rate {}, momentum {}, batches of {}, seed {}",
            self.epochs, self.learning_rate, self.momentum, self.batch, self.seed
        )
    }
}

/// After one pass over the training images.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// What was minimised, smoothing included: mean over the pass, in nats.
    pub train_loss: f64,
    /// Mean over the test images, in nats, without smoothing.
    pub test_nll: f64,
    pub test_accuracy: f64,
}

/// A configuration, trained.
pub struct Run {
    pub configuration: Configuration,
    pub epochs: Vec<Epoch>,
    /// Of the test images, at the end.
    pub predictions: Vec<Prediction>,
}

/// Trains every configuration, with one progress bar over all of them.
pub fn all(device: &Device, recipe: &Recipe, split: &Split) -> Result<Vec<Run>> {
    let bar = ProgressBar::new((Configuration::ALL.len() * recipe.epochs) as u64);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {percent:>3} %  {msg}  {eta}")?);
    let mut runs = Vec::new();
    for configuration in Configuration::ALL {
        bar.set_message(configuration.to_string());
        let run = match configuration.dtype {
            Dtype::F32 => train::<f32>(device, recipe, split, configuration, &bar),
            Dtype::F16 => train::<f16>(device, recipe, split, configuration, &bar),
        };
        runs.push(run.with_context(|| format!("cannot train {configuration}"))?);
    }
    bar.finish_and_clear();
    Ok(runs)
}

fn train<T: Element>(
    device: &Device,
    recipe: &Recipe,
    split: &Split,
    configuration: Configuration,
    bar: &ProgressBar,
) -> Result<Run> {
    let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
    let mut network = Network::random(configuration.model.widths(), &mut rng);
    let mut optimiser = Sgd::new(&network, recipe.learning_rate, recipe.momentum);
    let rows = recipe.batch.max(split.test.len());
    let mut loss = DeviceLoss::<T>::new(device, rows, CLASSES)
        .context("cannot allocate buffers; is another program using up the device?")?;

    let mut order: Vec<usize> = (0..split.train.len()).collect();
    let mut epochs = Vec::with_capacity(recipe.epochs);
    let mut predictions = Vec::new();
    for _ in 0..recipe.epochs {
        order.shuffle(&mut rng);
        let mut loss_sum = 0.0;
        // The remainder waits for another epoch: the mean over its few images would make a step as
        // long as that over a batch, in a direction that one odd image decides.
        let batches = order.chunks_exact(recipe.batch);
        let images = order.len() - batches.remainder().len();
        for indices in batches {
            let batch = split.train.select(indices);
            let forward = network.forward(batch.pixels());
            let step = loss.step(&forward.logits, batch.labels(), configuration.smoothing)?;
            let gradients = network.backward(&forward, step.gradient);
            optimiser.step(&mut network, &gradients);
            loss_sum += f64::from(step.loss) * batch.len() as f64;
        }
        predictions = test(&network, &mut loss, &split.test)?;
        loss.check_labels()?;
        epochs.push(Epoch {
            train_loss: loss_sum / images as f64,
            test_nll: metrics::nll(&predictions),
            test_accuracy: metrics::accuracy(&predictions),
        });
        bar.inc(1);
    }
    Ok(Run { configuration, epochs, predictions })
}

fn test<T: Element>(
    network: &Network,
    loss: &mut DeviceLoss<'_, T>,
    images: &Digits,
) -> Result<Vec<Prediction>> {
    let logits = network.forward(images.pixels()).logits;
    let rows = loss.evaluate(&logits, images.labels())?;
    Ok(Prediction::from_rows(&rows.logits, &rows.row_lse, &rows.row_nll, images.labels()))
}
