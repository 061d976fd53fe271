//! What is left when the driver refuses a launch: the emulated one does so when it is told to.

use std::{env, process::ExitCode};

use libtest_mimic::{Arguments, Completion, Trial};
use smoothxent::{
    Error, Gradient, Kernels, LossConfig, LossInputs, LossOutputs, SavedSoftmax, Shape, Workspace,
    loss,
};

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet; the driver reads its settings when it is first called.
    unsafe { env::set_var("CUDA_EMULATOR_FAIL", "launch:2") };
    let trial = Trial::ignorable_test("faults::a_failed_forward_pass_saves_nothing", || {
        failed_forward().map_err(Into::into)
    });
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

fn failed_forward() -> Result<Completion, String> {
    let failed = |error: Error| error.to_string();
    let of_driver = |error: smoothxent::cudarc::driver::DriverError| format!("{:?}", error.0);
    let context = smoothxent::open(0).map_err(failed)?;
    if !context.name().map_err(of_driver)?.starts_with("Emulated") {
        return Ok(Completion::ignored_with("a real driver refuses nothing on request"));
    }
    let stream = context.default_stream();
    let kernels = Kernels::load(&context).map_err(failed)?;
    let shape = Shape::contiguous(2, 3);
    let logits = stream.clone_htod(&[0.5f32, 2.0, -1.0, 0.0, 0.1, 0.2]).map_err(of_driver)?;
    let targets = stream.clone_htod(&[1i32, 0]).map_err(of_driver)?;
    let mut gradient = stream.alloc_zeros::<f32>(6).map_err(of_driver)?;
    let mut workspace = Workspace::new(&stream, 2).map_err(failed)?;
    let mut saved = SavedSoftmax::new(&stream, 2).map_err(failed)?;
    let inputs = LossInputs::new(shape, &logits, &targets);
    let config = LossConfig::default();
    let mut forward = |saved: &mut SavedSoftmax| {
        let outputs = LossOutputs { saved: Some(saved), ..LossOutputs::default() };
        loss::forward(&kernels, &stream, config, inputs, outputs, &mut workspace)
    };
    forward(&mut saved).map_err(failed)?;
    match forward(&mut saved) {
        Err(Error::Driver { .. }) => {}
        other => return Err(format!("the second launch: {other:?}")),
    }
    let to = Gradient::new(&mut gradient);
    match loss::backward(&kernels, &stream, config, inputs, &saved, to) {
        Err(Error::SavedSoftmax { found, .. }) if found == "nothing yet" => {}
        other => return Err(format!("backward: {other:?}")),
    }
    // Nothing is stuck: the same calls work after it.
    forward(&mut saved).map_err(failed)?;
    let to = Gradient::new(&mut gradient);
    loss::backward(&kernels, &stream, config, inputs, &saved, to).map_err(failed)?;
    workspace.take_status(&stream).map_err(failed)?;
    Ok(Completion::Completed)
}
