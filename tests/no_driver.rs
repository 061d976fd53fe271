//! Without libcuda everything is a typed error, nothing panics. `cargo xtask test` runs this where no
//! driver can be found.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use smoothxent::Error;

fn main() -> ExitCode {
    let trials = vec![
        unless_there_is_a_driver("device_count", || smoothxent::device_count().map(drop)),
        unless_there_is_a_driver("open", || smoothxent::open(0).map(drop)),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn unless_there_is_a_driver(name: &str, call: fn() -> Result<(), Error>) -> Trial {
    Trial::ignorable_test(format!("no_driver::{name}"), move || match call() {
        Err(Error::NoDriver { reason }) if !reason.is_empty() => {
            let message = Error::NoDriver { reason }.to_string();
            assert!(message.contains("Install the NVIDIA driver"), "{message}");
            Ok(Completion::Completed)
        }
        Ok(()) | Err(Error::NoDevice) => Ok(Completion::ignored_with("there is a driver here")),
        Err(other) => Err(format!("{other:?} instead of NoDriver").into()),
    })
}
