//! Everything that needs a device: a real one, or the emulated driver that `cargo xtask test` brings.

use std::{
    process::ExitCode,
    sync::{PoisonError, RwLock},
};

use libtest_mimic::{Arguments, Completion, Trial};

#[path = "../common/mod.rs"]
mod common;

mod concurrency;
mod edges;
mod entries;
mod errors;
mod field_bugs;
mod fuzz;
mod golden;
mod laws;
mod operations;
mod raw;
mod sizes;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = common::run::Rig::get()
    {
        eprintln!(
            "{error}. Without a GPU: `cargo xtask test` runs everything on an emulated driver."
        );
        return ExitCode::FAILURE;
    }
    let trials = [
        // Miri would take minutes to read the cases, whichever test it is to run.
        if cfg!(miri) { vec![] } else { golden::trials() },
        edges::trials(),
        laws::trials(),
        errors::trials(),
        entries::trials(),
        field_bugs::trials(),
        operations::trials(),
        raw::trials(),
        concurrency::trials(),
        sizes::trials(),
        fuzz::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit_code()
}

/// Tests read it; one that captures a stream writes it. cudarc waits for the whole context when a context's first
/// stream is made, which crashes beside a capture by driver 580.159 (RELIABILITY.md).
static CAPTURE: RwLock<()> = RwLock::new(());

/// A test that is a function with a name.
fn trial(
    name: impl Into<String>,
    test: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Trial {
    ignorable_trial(name, || test().map(|()| Completion::Completed))
}

/// The same, of one that says whether it could run.
fn ignorable_trial(
    name: impl Into<String>,
    test: impl FnOnce() -> Result<Completion, String> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        let _shared = CAPTURE.read().unwrap_or_else(PoisonError::into_inner);
        test().map_err(Into::into)
    })
}

/// The same, of one that captures a stream: alone.
fn capturing_trial(
    name: impl Into<String>,
    test: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Trial {
    Trial::test(name, move || {
        let _alone = CAPTURE.write().unwrap_or_else(PoisonError::into_inner);
        test().map_err(Into::into)
    })
}

/// How often to do what may go wrong now and then: `SMOOTHXENT_REPEATS`.
fn repeats(if_not_told: usize) -> Result<usize, String> {
    const VARIABLE: &str = "SMOOTHXENT_REPEATS";
    match std::env::var(VARIABLE) {
        Ok(number) => number.parse().map_err(|_| format!("{VARIABLE} is a number")),
        Err(_) => Ok(if_not_told),
    }
}
