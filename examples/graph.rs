//! A loss step captured into a CUDA graph and replayed: one launch by the host in place of several, and the
//! same bits each time.
//!
//! `cargo run --release --example graph`

use std::sync::Arc;

use smoothxent::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use smoothxent::cudarc::driver::{CudaSlice, CudaStream, DriverError};
use smoothxent::{
    Error, Gradient, Kernels, LossConfig, LossInputs, LossOutputs, Shape, Workspace, loss,
};

const ROWS: usize = 300;
const CLASSES: usize = 1000;
const REPLAYS: usize = 100;

/// Everything that a graph of the step uses: it is there before the capture, and lives until the last replay.
struct Step {
    stream: Arc<CudaStream>,
    kernels: Kernels,
    workspace: Workspace,
    logits: CudaSlice<f32>,
    targets: CudaSlice<i64>,
    gradient: CudaSlice<f32>,
    loss: CudaSlice<f32>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = smoothxent::open(0)?;
    // The default stream cannot be captured.
    let stream = context.new_stream()?;
    // The events by which cudarc orders streams belong to no graph: a capture that met one would fail.
    // SAFETY: everything below is on one stream.
    unsafe { context.disable_event_tracking() };
    let mut step = Step::new(stream.clone(), Kernels::load(&context)?)?;

    // The first call warms up: drivers may load a kernel when it is first launched.
    step.enqueue()?;
    let (warm_up_loss, _) = step.results()?;

    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let captured = step.enqueue();
    // After an error, too: a capture has to end.
    let graph = stream.end_capture(CUgraphInstantiate_flags(0))?;
    captured?;
    let graph = graph.ok_or("nothing was captured")?;

    // A replay takes what the buffers hold by then.
    stream.memcpy_htod(&logits(2), &mut step.logits)?;
    step.enqueue()?;
    let called = step.results()?;
    for replay in 0..REPLAYS {
        stream.memset_zeros(&mut step.gradient)?;
        stream.memset_zeros(&mut step.loss)?;
        graph.launch()?;
        assert!(step.results()? == called, "replay {replay} gave other bits than a call");
    }
    // It waits, so it is no part of a graph.
    step.workspace.take_status(&stream)?;

    assert_ne!(warm_up_loss, called.0);
    println!("captured with logits whose loss is {warm_up_loss:.4}");
    println!("{REPLAYS} replays with others: {:.4}, bit for bit that of a call", called.0);
    Ok(())
}

impl Step {
    fn new(stream: Arc<CudaStream>, kernels: Kernels) -> Result<Self, Box<dyn std::error::Error>> {
        let targets: Vec<i64> = (0..ROWS).map(|row| (row * 7 % CLASSES) as i64).collect();
        Ok(Self {
            workspace: Workspace::new(&stream, ROWS)?,
            logits: stream.clone_htod(&logits(1))?,
            targets: stream.clone_htod(&targets)?,
            gradient: stream.alloc_zeros(ROWS * CLASSES)?,
            loss: stream.alloc_zeros(1)?,
            kernels,
            stream,
        })
    }

    /// A mean with an `ignore_index` counts the rows first; above 256 rows that is a launch of its own, so the graph
    /// holds two kernels.
    fn enqueue(&mut self) -> Result<(), Error> {
        let Self { stream, kernels, workspace, logits, targets, gradient, loss } = self;
        let config = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
        let inputs = LossInputs::new(Shape::contiguous(ROWS, CLASSES), &*logits, &*targets);
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

fn logits(seed: usize) -> Vec<f32> {
    (0..ROWS * CLASSES).map(|i| ((i * seed) % 1009) as f32 / 100.0 - 5.0).collect()
}
