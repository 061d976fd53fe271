//! A build whose kernels cannot run here is a typed error that says what to do. `cargo xtask test`
//! builds this with SMOOTHXENT_CUDA_ARCHS=none, and runs it where kernels are for other devices than the driver's.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use smoothxent::{Error, Kernels};

fn main() -> ExitCode {
    let trial = Trial::ignorable_test("no_kernels::load", || {
        let context = match smoothxent::open(0) {
            Ok(context) => context,
            Err(error) => return Ok(Completion::ignored_with(error.to_string())),
        };
        match Kernels::load(&context) {
            Ok(_) => Ok(Completion::ignored_with("this build has kernels for this device")),
            Err(error @ Error::NoKernels { reason }) if !reason.is_empty() => {
                assert_eq!(smoothxent::images().to_string(), format!("none ({reason})"));
                says(&error, &[reason, "NVCC", "build again"])
            }
            Err(error @ Error::NoImage { images, .. }) if !images.is_empty() => {
                says(&error, &[images, "SMOOTHXENT_CUDA_ARCHS="])
            }
            Err(other) => Err(format!("{other:?} instead of NoKernels or NoImage").into()),
        }
    });
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

fn says(error: &Error, words: &[&str]) -> Result<Completion, libtest_mimic::Failed> {
    let message = error.to_string();
    match words.iter().find(|word| !message.contains(**word)) {
        Some(word) => Err(format!("{word:?} is missing from {message:?}").into()),
        None => Ok(Completion::Completed),
    }
}
