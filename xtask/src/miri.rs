//! `cargo xtask miri`: the host's code interpreted, on the emulated driver.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{driver, emulator, process, toolchain, workspace};

/// Interprets the crate, cudarc and their tests with Miri; the compiled kernels run on the emulated driver
///
/// Miri looks at every access of the Rust code: bounds, lifetimes, initialisation, aliasing, data races, leaks. The
/// driver is a native library to it: what is handed to the driver counts as written by it; device memory is the
/// driver's own, and checked by it. Runs unit tests, every function of the C interface, a part of the device suite,
/// each operation with each of its calls of the driver refused, and the emulated driver's own memory and streams, in
/// half an hour of a core. Needs Miri: `rustup +nightly component add miri`; flags in `MIRIFLAGS` come on top.
#[derive(clap::Args)]
pub struct Arguments {
    /// Device tests whose names contain this, instead of everything
    filter: Option<String>,
    /// The toolchain that has Miri
    #[arg(long, default_value = "nightly")]
    toolchain: String,
}

/// Device tests, and those that Miri would take many minutes for, as they go through all options, or cannot judge: its
/// threads are one of the driver's.
const DEVICE_TESTS: [&[&str]; 4] = [
    &["errors::"],
    &["entries::"],
    &[
        "raw::",
        "--skip=raw::loss",
        "--skip=raw::log_softmax",
        "--skip=raw::binary",
        "--skip=raw::workspaces_are_left_as_they_were",
        "--skip=raw::captured_beside_drops",
    ],
    &["concurrency::", "--skip=concurrency::dropped_by_another_thread"],
];

/// What the tests of refused calls start in processes of their own, which Miri cannot: calls that the driver refuses,
/// the first in each operation, then the second, and so on.
const REFUSALS: [&str; 6] = ["alloc", "copy", "memset", "launch", "load", "event"];

/// How such a process ends where no operation has so many of these calls.
const NOTHING_REFUSED: &str = "(exit status: 4)";

/// Buffers that are dropped before the device has used them.
const DROPPED_EARLY: [&str; 4] =
    ["weights", "workspaces", "workspaces_of_a_thread", "after_an_error"];

pub fn run(arguments: &Arguments) -> Result<()> {
    let miri = Miri::find(&arguments.toolchain)?;
    toolchain::ensure_nvcc()?;
    let library = emulator::build()?.join(driver::LIBRARY);
    let device = |filter: &[&str]| {
        process::run(miri.test(Some(&library)).args(["--test=device", "--"]).args(filter))
    };
    if let Some(filter) = &arguments.filter {
        return device(&[filter]);
    }
    // Without the driver, beside which Miri of May 2026 fails itself at a panic. Plans have no unsafe code, and theirs
    // are thousands.
    process::run(miri.test(None).args(["--lib", "--", "--skip=plan::tests"]))?;
    process::run(miri.test(Some(&library)).arg("--test=functions"))?;
    for filter in DEVICE_TESTS {
        device(filter)?;
    }
    // By itself: Miri runs a program with the variables that it was built with.
    process::run(miri.test(Some(&library)).args(["--test=faults", "--no-run"]))?;
    for kind in REFUSALS {
        for number in 1.. {
            let refusal = format!("{kind}:{number}");
            let mut child = miri.child_of_faults(&library, kind);
            let ended = process::run_quietly(&refusal, child.env("CUDA_EMULATOR_FAIL", &refusal));
            if matches!(&ended, Err(error) if error.to_string().contains(NOTHING_REFUSED)) {
                println!("{kind}: refused at {} places", number - 1);
                break;
            }
            ended?;
        }
    }
    for kind in DROPPED_EARLY {
        let mut child = miri.child_of_faults(&library, kind);
        process::run_quietly(kind, child.env("CUDA_EMULATOR_STREAMS", "late"))?;
        println!("{kind}: dropped early");
    }
    process::run(&mut miri.emulator())?;
    println!("Miri found nothing");
    Ok(())
}

/// A toolchain's Miri.
struct Miri<'a> {
    toolchain: &'a str,
}

impl<'a> Miri<'a> {
    fn find(toolchain: &'a str) -> Result<Self> {
        let miri = Self { toolchain };
        let found = miri.cargo().arg("--version").output().context("cannot run cargo")?;
        if !found.status.success() {
            bail!(
                "`cargo +{toolchain} miri` does not run: `rustup +{toolchain} component add miri` installs it, \
                 --toolchain names another.\n{}",
                String::from_utf8_lossy(&found.stderr).trim_end()
            );
        }
        Ok(miri)
    }

    fn cargo(&self) -> Command {
        // rustup's, which knows toolchains; the one that runs this has its own.
        let mut command = Command::new("cargo");
        command.current_dir(workspace::root()).env("RUSTUP_TOOLCHAIN", self.toolchain).arg("miri");
        command
    }

    /// Tests of the crate and of the C interface, on a driver.
    fn test(&self, driver: Option<&Path>) -> Command {
        let mut command = self.cargo();
        // Miri cannot load a library; cudarc can be linked to the driver instead.
        command.args(["test", "--package=smoothxent", "--package=smoothxent-capi"]);
        command.args(["--features=cudarc/dynamic-linking"]);
        // Device addresses are integers, and no pointers of the host.
        let mut flags = "-Zmiri-disable-isolation -Zmiri-permissive-provenance".to_owned();
        if let Some(library) = driver {
            flags += &format!(" -Zmiri-native-lib={}", library.display());
        }
        command.env("MIRIFLAGS", with_more(&flags));
        if env::var_os(driver::ARCHITECTURES).is_none() {
            command.env(driver::ARCHITECTURES, "90-virtual");
        }
        command
    }

    /// The emulated driver's own memory, images and streams.
    fn emulator(&self) -> Command {
        let mut command = self.cargo();
        command.args(["test", "--package=cuda-emulator"]);
        command.args(["--test=memory", "--test=images", "--test=streams"]);
        // A thousand blocks.
        command.args(["--", "--skip=atomics_of_many_blocks_lose_nothing"]);
        // Device memory has atomics of all sizes in one place, which Miri knows without weak memory alone.
        let flags = "-Zmiri-disable-isolation -Zmiri-disable-weak-memory-emulation";
        command.env("MIRIFLAGS", with_more(flags));
        command
    }

    /// What a test of refused calls starts, with a refusal or none.
    fn child_of_faults(&self, library: &Path, task: &str) -> Command {
        let mut command = self.test(Some(library));
        command
            .arg("--test=faults")
            .env("SMOOTHXENT_TEST_CHILD", task)
            .env("CUDA_EMULATOR_LEAKS", "1");
        command
    }
}

/// Flags, and those of the user on top.
fn with_more(flags: &str) -> String {
    match env::var("MIRIFLAGS") {
        Ok(more) => format!("{flags} {more}"),
        Err(_) => flags.to_owned(),
    }
}
