//! One handle for each device: a context, its kernels, and buffers that belong to them. Each device takes its
//! share of a batch, and a divisor that is that of the whole batch makes the shares add up.
//!
//! `cargo run --release --example two_devices`

use std::sync::Arc;

use smoothxent::cudarc::driver::{CudaSlice, CudaStream};
use smoothxent::{
    Divisor, Divisors, Error, Gradient, Kernels, LossConfig, LossInputs, LossOutputs, Shape,
    Workspace, loss,
};

const ROWS: usize = 48;
const CLASSES: usize = 300;

struct Device {
    stream: Arc<CudaStream>,
    kernels: Kernels,
    workspace: Workspace,
}

impl Device {
    fn open(ordinal: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let context = smoothxent::open(ordinal)?;
        let (stream, kernels) = (context.default_stream(), Kernels::load(&context)?);
        println!("device {ordinal}: {}", context.name()?);
        Ok(Self { workspace: Workspace::new(&stream, ROWS)?, stream, kernels })
    }

    /// Enqueues some rows of the batch, and returns where their loss will be.
    fn enqueue(
        &mut self,
        logits: &[f32],
        targets: &[i32],
    ) -> Result<CudaSlice<f32>, Box<dyn std::error::Error>> {
        let Self { stream, kernels, workspace } = self;
        let logits_there = stream.clone_htod(logits)?;
        let targets_there = stream.clone_htod(targets)?;
        let mut gradient = stream.alloc_zeros::<f32>(logits.len())?;
        let mut loss = stream.alloc_zeros::<f32>(1)?;
        let config = LossConfig {
            divisors: Divisors::all(Divisor::Given(ROWS as f64)),
            ..LossConfig::timm(0.1)
        };
        let shape = Shape::contiguous(targets.len(), CLASSES);
        let inputs = LossInputs::new(shape, &logits_there, &targets_there);
        let outputs = LossOutputs { loss: Some(&mut loss), ..LossOutputs::default() };
        let to = Gradient::new(&mut gradient);
        loss::forward_backward(kernels, stream, config, inputs, outputs, to, workspace)?;
        Ok(loss)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count = smoothxent::device_count()?;
    if count == 1 {
        println!("there is one device, so it takes the whole batch");
    }
    let mut devices = (0..count.min(2)).map(Device::open).collect::<Result<Vec<_>, _>>()?;

    let logits: Vec<f32> =
        (0..ROWS * CLASSES).map(|i| (i * 7919 % 997) as f32 / 100.0 - 5.0).collect();
    let targets: Vec<i32> = (0..ROWS).map(|row| (row * 5 % CLASSES) as i32).collect();

    let whole = devices[0].enqueue(&logits, &targets)?;
    let whole = devices[0].stream.clone_dtoh(&whole)?[0];

    // All devices have their work before any is waited for.
    let rows_each = ROWS.div_ceil(devices.len());
    let mut shares = Vec::new();
    for (device, (logits, targets)) in
        devices.iter_mut().zip(logits.chunks(rows_each * CLASSES).zip(targets.chunks(rows_each)))
    {
        shares.push(device.enqueue(logits, targets)?);
    }
    let mut sum = 0.0;
    for (ordinal, (device, share)) in devices.iter().zip(&shares).enumerate() {
        let share = device.stream.clone_dtoh(share)?[0];
        println!("device {ordinal}: {share:.4} of the loss");
        sum += share;
    }
    println!("together {sum:.4}, the whole batch on one device {whole:.4}");
    assert_eq!(format!("{sum:.4}"), format!("{whole:.4}"));

    if let [first, second] = &mut devices[..] {
        // What belongs to one device is refused by the kernels of another, before anything is launched.
        let mixed = first.workspace.take_status(&second.stream);
        println!("mixed up: {}", mixed.as_ref().expect_err("two devices"));
        let refused = Error::OtherContext { buffer: "stream", expected: 0, found: 1 };
        assert_eq!(mixed, Err(refused));
    }
    Ok(())
}
