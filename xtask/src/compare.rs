//! `cargo xtask compare`: single instructions of this machine's GPU beside the emulated ones.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, workspace};

/// The program, by the name of its binary.
pub const PROGRAM: &str = "compare";

/// Where committed records lie, one folder for each GPU.
const RECORDS: &str = "emulator/record";

/// Compares single instructions of this machine's GPU with the emulated ones
///
/// Exact instructions have to agree bit for bit, `.approx` ones to stay within the error that the
/// PTX manual documents. Without a GPU it says so and fails.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only instructions whose names contain this
    filter: Option<String>,
    /// Write the results to emulator/record/GPU/arithmetic.csv, to be committed
    #[arg(long, value_name = "GPU", conflicts_with = "filter")]
    record: Option<String>,
    /// What takes the GPU's place, for tests: `exact` or `perturb:SEED` (the emulator itself)
    #[arg(long, hide = true, conflicts_with = "record")]
    against: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut command = Command::new(build()?);
    command.args(&arguments.filter);
    if let Some(against) = &arguments.against {
        command.args(["--against", against]);
    }
    let mut file = None;
    if let Some(gpu) = &arguments.record {
        let folder = workspace::root().join(RECORDS).join(gpu);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let record = folder.join("arithmetic.csv");
        command.arg("--csv").arg(&record);
        file = Some(record);
    }
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        // The program has said why.
        std::process::exit(status.code().unwrap_or(1));
    }
    if let Some(record) = file {
        println!("{}", workspace::relative(&record));
    }
    Ok(())
}

/// Builds the program.
pub fn build() -> Result<PathBuf> {
    let mut command = cargo::in_workspace("build");
    command.args(["--bin", PROGRAM]);
    cargo::build(command)?.program(PROGRAM)
}
