//! The loss on the device: all of this program's use of `smoothxent`.
//!
//! Once: [`Device::open`] finds a device and loads the kernels; [`DeviceLoss::new`] allocates
//! buffers and a workspace. Then for every batch: logits and labels go up, one call enqueues loss
//! and gradient, the results come down. A classifier whose other layers also ran on the device would
//! leave logits and gradient there, and copy nothing.

use std::sync::Arc;

use anyhow::{Context, Result};
use half::f16;
use ndarray::Array2;
use smoothxent::{
    Gradient, Kernels, Logit, LossConfig, LossInputs, LossOutputs, Shape, Upstream, Workspace,
    cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits},
    loss,
};

/// A device with the kernels loaded.
pub struct Device {
    name: String,
    stream: Arc<CudaStream>,
    kernels: Kernels,
}

impl Device {
    /// The first device that the driver sees.
    pub fn open() -> Result<Self> {
        const ADVICE: &str = "run this program as `cargo xtask demo`, which brings nvcc, and an \
                              emulated driver where there is no GPU";
        let context = smoothxent::open(0).context(ADVICE)?;
        let kernels = Kernels::load(&context).context(ADVICE)?;
        let name = context.name().context("cannot ask the device for its name")?;
        Ok(Self { name, stream: context.default_stream(), kernels })
    }

    /// What everything runs on, in one line.
    pub fn description(&self) -> &str {
        if self.name.starts_with("Emulated") {
            "emulated driver, no GPU: results are right, times mean nothing"
        } else {
            &self.name
        }
    }
}

/// A type that logits and gradients have on the device.
pub trait Element: Logit + DeviceRepr + ValidAsZeroBits + Copy {
    /// What gradients are multiplied by on the device, and divided by on the host, if anything.
    const LOSS_SCALE: Option<f32>;

    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    const LOSS_SCALE: Option<f32> = None;

    fn from_f32(value: f32) -> Self {
        value
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for f16 {
    /// Without it, gradients below 2^-14 would lose bits, and those below 2^-25 would be zero; such
    /// are most of those of a classifier that is nearly sure. With a power of two nothing is
    /// rounded, and with this one nothing overflows: an element of the gradient is at most 1 before
    /// it is scaled, and f16 goes up to 65504.
    const LOSS_SCALE: Option<f32> = Some(32768.0);

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// Loss and gradient of batches of up to a number of rows, with every buffer they need.
pub struct DeviceLoss<'a, T> {
    device: &'a Device,
    /// `[rows, classes]` each.
    logits: CudaSlice<T>,
    gradient: CudaSlice<T>,
    /// `[rows]` each.
    targets: CudaSlice<i64>,
    row_losses: CudaSlice<f32>,
    row_lse: CudaSlice<f32>,
    /// One element each.
    loss: CudaSlice<f32>,
    loss_scale: Option<CudaSlice<f32>>,
    workspace: Workspace,
}

/// What a training step needs.
pub struct Step {
    /// Mean over the batch, in nats.
    pub loss: f32,
    /// Of the mean loss with respect to the logits: `[rows, classes]`.
    pub gradient: Array2<f32>,
}

/// What an evaluation needs.
pub struct Evaluation {
    /// The logits as the device saw them, rounded to its type.
    pub logits: Array2<f32>,
    /// Each row's log-sum-exp.
    pub row_lse: Vec<f32>,
    /// Each row's negative log-likelihood, in nats.
    pub row_nll: Vec<f32>,
}

impl<'a, T: Element> DeviceLoss<'a, T> {
    pub fn new(device: &'a Device, rows: usize, classes: usize) -> Result<Self> {
        let stream = &device.stream;
        Ok(Self {
            device,
            logits: stream.alloc_zeros(rows * classes)?,
            gradient: stream.alloc_zeros(rows * classes)?,
            targets: stream.alloc_zeros(rows)?,
            row_losses: stream.alloc_zeros(rows)?,
            row_lse: stream.alloc_zeros(rows)?,
            loss: stream.alloc_zeros(1)?,
            loss_scale: T::LOSS_SCALE.map(|scale| stream.clone_htod(&[scale])).transpose()?,
            workspace: Workspace::new(stream, rows)?,
        })
    }

    /// Mean loss of a batch and its gradient.
    pub fn step(
        &mut self,
        logits: &Array2<f32>,
        labels: &[i64],
        label_smoothing: f64,
    ) -> Result<Step> {
        let config = LossConfig { label_smoothing, ..LossConfig::default() };
        self.upload(&rounded(logits), labels)?;
        let Device { stream, kernels, .. } = self.device;
        let (rows, classes) = logits.dim();
        // Vectors have to be as long as the batch has rows; matrices may be longer.
        let targets = self.targets.slice(..rows);
        let inputs = LossInputs::new(Shape::contiguous(rows, classes), &self.logits, &targets);
        let outputs = LossOutputs { loss: Some(&mut self.loss), ..LossOutputs::default() };
        let upstream = match &self.loss_scale {
            None => Upstream::One,
            Some(scale) => Upstream::Scalar(scale),
        };
        let gradient = Gradient { matrix: &mut self.gradient, upstream };
        let workspace = &mut self.workspace;
        loss::forward_backward(kernels, stream, config, inputs, outputs, gradient, workspace)?;

        // Copies to the host wait for what is enqueued before them.
        let loss = stream.clone_dtoh(&self.loss)?[0];
        let gradient = stream.clone_dtoh(&self.gradient.slice(..logits.len()))?;
        let unscale = 1.0 / T::LOSS_SCALE.unwrap_or(1.0);
        let gradient = gradient.into_iter().map(|value| value.to_f32() * unscale).collect();
        Ok(Step { loss, gradient: Array2::from_shape_vec(logits.dim(), gradient)? })
    }

    /// Rows one by one, without smoothing: what there is to know about predictions.
    pub fn evaluate(&mut self, logits: &Array2<f32>, labels: &[i64]) -> Result<Evaluation> {
        let rounded = rounded(logits);
        self.upload(&rounded, labels)?;
        let Device { stream, kernels, .. } = self.device;
        let (rows, classes) = logits.dim();
        let targets = self.targets.slice(..rows);
        let mut row_losses = self.row_losses.slice_mut(..rows);
        let mut row_lse = self.row_lse.slice_mut(..rows);
        let inputs = LossInputs::new(Shape::contiguous(rows, classes), &self.logits, &targets);
        let outputs = LossOutputs {
            row_losses: Some(&mut row_losses),
            row_lse: Some(&mut row_lse),
            ..LossOutputs::default()
        };
        let config = LossConfig::default();
        loss::forward(kernels, stream, config, inputs, outputs, &mut self.workspace)?;

        let seen = rounded.into_iter().map(T::to_f32).collect();
        Ok(Evaluation {
            logits: Array2::from_shape_vec(logits.dim(), seen)?,
            row_lse: stream.clone_dtoh(&self.row_lse.slice(..labels.len()))?,
            row_nll: stream.clone_dtoh(&self.row_losses.slice(..labels.len()))?,
        })
    }

    /// An error if any label since the last time was none of the classes. Kernels cannot return
    /// errors, so they note it in the workspace.
    pub fn check_labels(&mut self) -> Result<()> {
        Ok(self.workspace.take_status(&self.device.stream)?)
    }

    fn upload(&mut self, logits: &[T], labels: &[i64]) -> Result<()> {
        let stream = &self.device.stream;
        stream.memcpy_htod(logits, &mut self.logits)?;
        stream.memcpy_htod(labels, &mut self.targets.slice_mut(..labels.len()))?;
        Ok(())
    }
}

fn rounded<T: Element>(values: &Array2<f32>) -> Vec<T> {
    values.iter().copied().map(T::from_f32).collect()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
    use smoothxent::reference;

    use super::*;

    const ROWS: usize = 37;
    const CLASSES: usize = 10;
    const SMOOTHING: f64 = 0.1;

    /// A step of fewer rows than there is room for, against the crate's f64 reference on the same
    /// rounded logits. `rounding` is the type's: half the distance of neighbours, relative.
    fn a_step_agrees_with_the_reference<T: Element>(rounding: f64) {
        let device =
            Device::open().expect("this test needs a driver: run it by `cargo xtask test`");
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let logits =
            Array2::from_shape_simple_fn((ROWS, CLASSES), || rng.random_range(-9.0f32..9.0));
        let labels: Vec<i64> = (0..ROWS).map(|_| rng.random_range(0..CLASSES as i64)).collect();
        let mut loss = DeviceLoss::<T>::new(&device, 2 * ROWS, CLASSES).unwrap();
        let step = loss.step(&logits, &labels, SMOOTHING).unwrap();
        let evaluation = loss.evaluate(&logits, &labels).unwrap();
        loss.check_labels().unwrap();

        let seen: Vec<f64> = evaluation.logits.iter().copied().map(f64::from).collect();
        let expected = |label_smoothing| {
            let options = reference::Options {
                nll: 1.0 - label_smoothing,
                smoothing: label_smoothing / CLASSES as f64,
                nll_weights: &[],
                smoothing_weights: &[],
                z_loss: 0.0,
                logit_scale: 1.0,
                logit_softcap: None,
                divisors: [reference::Divisor::AllRows; 3],
                empty_is_zero: false,
                upstream: &[],
            };
            let targets = reference::Targets::Indices(&labels, None);
            reference::forward_backward(&seen, labels.len(), CLASSES, targets, &options)
        };
        // f32 arithmetic on numbers up to about 20 (a loss), of which a handful are added up.
        let arithmetic = 16.0 * 20.0 * f64::from(f32::EPSILON);
        let near = |found: f32, expected: f64, allowed: f64| {
            let distance = (f64::from(found) - expected).abs();
            assert!(distance <= allowed, "{found} is not {expected} within {allowed}");
        };
        let smoothed = expected(SMOOTHING);
        near(step.loss, smoothed.loss, arithmetic);
        for (&found, &expected) in step.gradient.iter().zip(&smoothed.gradient) {
            // Probabilities are at most 1 and divided by the number of rows.
            near(found, expected, rounding * expected.abs() + arithmetic / ROWS as f64);
        }
        let plain = expected(0.0);
        for row in 0..ROWS {
            near(evaluation.row_nll[row], plain.row_losses[row], arithmetic);
            near(evaluation.row_lse[row], plain.row_lse[row], arithmetic);
        }
    }

    #[test]
    fn a_step_in_f32_agrees_with_the_reference() {
        a_step_agrees_with_the_reference::<f32>(0.0);
    }

    #[test]
    fn a_step_in_f16_agrees_with_the_reference() {
        a_step_agrees_with_the_reference::<f16>(f64::from(f16::EPSILON) / 2.0);
    }

    #[test]
    fn a_label_that_is_no_digit_is_an_error() {
        let device =
            Device::open().expect("this test needs a driver: run it by `cargo xtask test`");
        let mut loss = DeviceLoss::<f32>::new(&device, 2, CLASSES).unwrap();
        loss.step(&Array2::zeros((2, CLASSES)), &[3, 10], 0.0).unwrap();
        let error = loss.check_labels().unwrap_err().to_string();
        assert!(error.contains("10 in row 1"), "{error}");
    }
}
