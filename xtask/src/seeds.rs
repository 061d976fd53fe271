//! `cargo xtask seeds`: correct kernels in many orders of blocks and warps.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cargo::Program;
use crate::driver::Driver;
use crate::{cargo, emulator, toolchain, workspace};

/// Runs every kernel in many orders of blocks and warps, races checked
///
/// The crate's own kernels (tests/schedules.rs) and the emulator's test kernels
/// (emulator/tests/kernels.rs), once for each seed. With every other seed a grid has two blocks at most,
/// so that blocks take several rows. Nothing may be reported. A seed takes about a second.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
}

/// The test programs.
const PROGRAMS: [&str; 2] = ["schedules", "kernels"];

pub fn run(arguments: &Arguments) -> Result<()> {
    toolchain::ensure_nvcc()?;
    let driver = Driver::Emulated { folder: emulator::build()? };
    let mut build = cargo::in_workspace("test");
    build.arg("--no-run");
    for program in PROGRAMS {
        build.args(["--test", program]);
    }
    driver.narrow(&mut build);
    let programs = cargo::build(build)?.tests();
    if programs.len() != PROGRAMS.len() {
        bail!("cargo built {} of {} test programs", programs.len(), PROGRAMS.len());
    }

    let start = Instant::now();
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds ({elapsed})")?;
    let bar = ProgressBar::new(arguments.count).with_style(style);
    let next = AtomicU64::new(0);
    let stopped = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    let work = || {
        while !stopped.load(Ordering::Relaxed) {
            let taken = next.fetch_add(1, Ordering::Relaxed);
            if taken >= arguments.count {
                break;
            }
            for program in &programs {
                if let Err(failure) = try_seed(program, &driver, arguments.first + taken) {
                    stopped.store(true, Ordering::Relaxed);
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                }
            }
            bar.inc(1);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = failures.into_iter().next() {
        return Err(failure);
    }
    let (last, took) = (arguments.first + arguments.count, start.elapsed().as_secs_f64());
    println!(
        "seeds {} to {}: nothing to report ({took:.0} s)",
        arguments.first,
        last.saturating_sub(1)
    );
    Ok(())
}

/// Runs one program in the order of a seed; the error says how to do it again.
fn try_seed(program: &Program, driver: &Driver, seed: u64) -> Result<()> {
    let order = format!("shuffle:{seed}");
    let mut settings = vec![("CUDA_EMULATOR_ORDER", order.as_str()), ("CUDA_EMULATOR_RACES", "1")];
    if seed % 2 == 1 {
        settings.push(("CUDA_EMULATOR_MAX_GRID", "2"));
    }
    let mut command = Command::new(&program.path);
    // The seeds run beside each other, so each takes one core.
    command
        .current_dir(&program.folder)
        .stdin(Stdio::null())
        .arg("--test-threads=1")
        .envs(settings.iter().copied())
        .env("CUDA_EMULATOR_THREADS", "1");
    driver.apply(&mut command)?;
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    let from = printed.find("\nfailures:").unwrap_or(0);
    let assigned: Vec<String> = settings.iter().map(|(name, to)| format!("{name}={to}")).collect();
    bail!(
        "{} fails with seed {seed} ({}):\n{}\n{}\nAgain: {} {} with the emulated driver (`cargo xtask \
         emulator`)",
        program.name,
        output.status,
        &printed[from..],
        String::from_utf8_lossy(&output.stderr),
        assigned.join(" "),
        workspace::relative(&program.path),
    )
}
