//! Two batches on two streams, which a device may run at the same time: a stream and a workspace for each,
//! class weights for both.
//!
//! `cargo run --release --example two_streams`

use std::sync::Arc;

use smoothxent::cudarc::driver::{CudaSlice, CudaStream, DriverError};
use smoothxent::{
    ClassWeights, Error, Gradient, Kernels, LossConfig, LossInputs, LossOutputs, Shape, Workspace,
    loss,
};

const ROWS: usize = 64;
const CLASSES: usize = 500;

/// What one call at a time uses. The kernels and the class weights are for all.
struct Lane {
    stream: Arc<CudaStream>,
    workspace: Workspace,
    logits: CudaSlice<f32>,
    targets: CudaSlice<i64>,
    gradient: CudaSlice<f32>,
    loss: CudaSlice<f32>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = smoothxent::open(0)?;
    let kernels = Kernels::load(&context)?;
    let weights: Vec<f32> = (0..CLASSES).map(|class| 0.5 + (class % 3) as f32).collect();

    let mut lanes = [Lane::new(context.new_stream()?, 1)?, Lane::new(context.new_stream()?, 2)?];
    let weights = ClassWeights::new(&lanes[0].stream, &weights)?;
    // Both calls return at once, before either batch is done. The second stream reads the weights behind the
    // event that the first recorded when it wrote them.
    for lane in &mut lanes {
        lane.enqueue(&kernels, &weights)?;
    }
    let side_by_side = [lanes[0].results()?, lanes[1].results()?];

    // The same on one stream.
    let stream = context.default_stream();
    for (seed, expected) in [1, 2].into_iter().zip(&side_by_side) {
        let mut lane = Lane::new(stream.clone(), seed)?;
        lane.enqueue(&kernels, &weights)?;
        assert!(lane.results()? == *expected, "batch {seed}: other bits than on one stream");
        println!("batch {seed}: loss {:.4}, on either stream the same bits", expected.0);
    }
    assert_ne!(side_by_side[0].0, side_by_side[1].0);
    Ok(())
}

impl Lane {
    fn new(stream: Arc<CudaStream>, seed: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let logits: Vec<f32> =
            (0..ROWS * CLASSES).map(|i| ((i + seed) * 7919 % 997) as f32 / 100.0).collect();
        let targets: Vec<i64> = (0..ROWS).map(|row| (row * seed % CLASSES) as i64).collect();
        Ok(Self {
            workspace: Workspace::new(&stream, ROWS)?,
            logits: stream.clone_htod(&logits)?,
            targets: stream.clone_htod(&targets)?,
            gradient: stream.alloc_zeros(ROWS * CLASSES)?,
            loss: stream.alloc_zeros(1)?,
            stream,
        })
    }

    fn enqueue(&mut self, kernels: &Kernels, weights: &ClassWeights) -> Result<(), Error> {
        let Self { stream, workspace, logits, targets, gradient, loss } = self;
        let config = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
        let shape = Shape::contiguous(ROWS, CLASSES);
        let inputs = LossInputs {
            class_weights: Some(weights),
            ..LossInputs::new(shape, &*logits, &*targets)
        };
        let outputs = LossOutputs { loss: Some(loss), ..LossOutputs::default() };
        let to = Gradient::new(gradient);
        loss::forward_backward(kernels, stream, config, inputs, outputs, to, workspace)
    }

    /// The loss, and the gradient's bits.
    fn results(&self) -> Result<(f32, Vec<u32>), DriverError> {
        let gradient = self.stream.clone_dtoh(&self.gradient)?;
        let loss = self.stream.clone_dtoh(&self.loss)?[0];
        Ok((loss, gradient.iter().map(|x| x.to_bits()).collect()))
    }
}
