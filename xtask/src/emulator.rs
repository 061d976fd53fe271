//! `cargo xtask emulator`: the emulated CUDA driver under the name that programs look for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process;

use anyhow::{Context, Result};

use crate::{cargo, compare, driver, workspace};

/// The emulated devices that the crate has kernels for, and the one that a process has unless it names another.
pub const DEVICES: [&str; 3] = ["sm_75", "sm_80", DEFAULT_DEVICE];
pub const DEFAULT_DEVICE: &str = "sm_90";

/// How the emulated driver's reports begin.
pub const FINDING: &str = "cuda-emulator: ";

/// Builds the emulated driver and prints how to use it
///
/// Programs that load libcuda.so.1 then run their kernels on the CPU, every access checked.
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Result<()> {
    let folder = build()?;
    println!(
        "The emulated driver is {}. Run a program on it with",
        workspace::relative(&folder.join(driver::LIBRARY))
    );
    println!("    {}={}", driver::SEARCH_PATH, folder.display());
    Ok(())
}

/// Builds it and returns the folder that holds it as libcuda.so.1.
///
/// By way of the smallest program that links to it: of a workspace, cargo builds a library only if it builds all of them
/// or the features are those of its package alone; then all of it would be compiled again for the tests.
pub fn build() -> Result<PathBuf> {
    let folder = workspace::target().join("emulator");
    let mut command = cargo::in_workspace("build");
    command.args(["--bin", compare::PROGRAM]);
    let library = cargo::build(command)?.library("libcuda_emulator.so")?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let link = folder.join(driver::LIBRARY);
    // At once, for programs that start meanwhile.
    let new = folder.join(format!("{}.{}", driver::LIBRARY, process::id()));
    symlink(&library, &new).with_context(|| format!("cannot link {}", new.display()))?;
    fs::rename(&new, &link).with_context(|| format!("cannot replace {}", link.display()))?;
    Ok(folder)
}
