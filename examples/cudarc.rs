//! Loss and gradient with cudarc alone: logits go in, a loss and its gradient come out.
//!
//! `cargo run --release --example cudarc`

use smoothxent::{Gradient, Kernels, LossConfig, LossInputs, LossOutputs, Shape, Workspace, loss};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = smoothxent::open(0)?;
    let stream = context.default_stream();
    let kernels = Kernels::load(&context)?;
    let shape = Shape::contiguous(3, 4);
    let mut workspace = Workspace::new(&stream, shape.rows)?;

    let logits = [0.5f32, 2.0, -1.0, 0.0, 0.1, 0.2, 0.3, 0.4, 9.0, 9.0, 9.0, 9.0];
    let logits = stream.clone_htod(&logits)?;
    let targets = stream.clone_htod(&[1i64, 3, -100])?; // the last row is padding
    let mut gradient = stream.alloc_zeros::<f32>(shape.rows * shape.classes)?;
    let mut loss = stream.alloc_zeros::<f32>(1)?;

    let config = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
    let inputs = LossInputs::new(shape, &logits, &targets);
    let outputs = LossOutputs { loss: Some(&mut loss), ..LossOutputs::default() };
    let to = Gradient::new(&mut gradient);
    loss::forward_backward(&kernels, &stream, config, inputs, outputs, to, &mut workspace)?;
    workspace.take_status(&stream)?; // an error, had a target been no class

    let (loss, gradient) = (stream.clone_dtoh(&loss)?[0], stream.clone_dtoh(&gradient)?);
    println!("loss {loss:.4}");
    for row in gradient.chunks(shape.classes) {
        println!("gradient {row:8.4?}");
    }
    // torch.nn.CrossEntropyLoss(label_smoothing=0.1) of the same numbers.
    assert_eq!(format!("{loss:.4}"), "0.8812");
    assert_eq!(gradient[8..], [0.0; 4]);
    Ok(())
}
