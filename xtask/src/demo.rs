//! `cargo xtask demo`: the demo program on the driver that is there.

use std::process::Command;

use anyhow::Result;

use crate::driver::Driver;
use crate::{cargo, process, toolchain, workspace};

/// Trains digit classifiers with the loss and gradient on the device
///
/// Uses the machine's GPU if it has one, else the emulated driver; fetches nvcc if there is none.
/// Pictures go to target/demo/. `cargo xtask demo -- --help` shows the program's own options.
#[derive(clap::Args)]
pub struct Arguments {
    /// Use the emulated driver even if there is a GPU
    #[arg(long)]
    emulated: bool,
    /// Arguments for the demo program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    passed_on: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    toolchain::ensure_nvcc()?;
    let driver = Driver::choose(arguments.emulated)?;
    let mut build = cargo::in_workspace("build");
    build.args(["--bin", "demo"]);
    driver.narrow(&mut build);
    let program = cargo::build(build)?.program("demo")?;

    let mut demo = Command::new(program);
    demo.current_dir(workspace::root()).args(&arguments.passed_on);
    driver.apply(&mut demo)?;
    process::run(&mut demo)
}
