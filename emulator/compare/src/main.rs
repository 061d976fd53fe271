//! Runs the same operands through one-instruction kernels on a GPU and on the emulator, and says
//! where the results differ: exact instructions have to agree bit for bit, `.approx` ones to stay
//! within the error that the PTX manual documents.

mod classes;
mod inputs;
mod report;
mod sides;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use cuda_emulator::settings::Approximation;

use crate::classes::Class;
use crate::report::Comparison;
use crate::sides::{Emulated, Machine, RealDriver, Side};

/// Compares single instructions of this machine's GPU with the emulated ones
///
/// Ends with an error if an exact instruction differs, or an approximate one exceeds its documented
/// error.
#[derive(Parser)]
#[command(name = "compare")]
struct Arguments {
    /// Only instructions whose names contain this
    filter: Option<String>,
    /// Write the results to this file, one line an instruction
    #[arg(long)]
    csv: Option<PathBuf>,
    /// What takes the GPU's place, for tests of this program: `driver` (whatever libcuda.so.1 is
    /// found), `exact` or `perturb:SEED` (the emulator itself)
    #[arg(long, hide = true)]
    against: Option<String>,
    /// Write each kernel to this folder, for ptxas
    #[arg(long, hide = true)]
    ptx: Option<PathBuf>,
}

fn other_side(against: Option<&str>) -> Result<Box<dyn Side>> {
    Ok(match against {
        None => Box::new(RealDriver::open(Machine::Gpu)?),
        Some("driver") => Box::new(RealDriver::open(Machine::Any)?),
        Some(text) => {
            let approximation = Approximation::parse(text).with_context(|| {
                format!("--against {text}: driver, exact or perturb:SEED expected")
            })?;
            Box::new(Emulated::new(approximation))
        }
    })
}

fn write_ptx(folder: &Path) -> Result<()> {
    for (number, class) in classes::all().iter().enumerate() {
        let file = folder.join(format!("{number}.sm_{}.ptx", class.capability));
        fs::write(&file, class.ptx())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(folder) = &arguments.ptx {
        return write_ptx(folder);
    }
    let other = other_side(arguments.against.as_deref())?;
    let emulated = Emulated::new(Approximation::Exact);
    let chosen = |class: &&Class| {
        arguments.filter.as_ref().is_none_or(|part| class.instruction.contains(part.as_str()))
    };
    let all = classes::all();
    let (able, unable): (Vec<&Class>, Vec<&Class>) =
        all.iter().filter(chosen).partition(|class| class.capability <= other.capability());
    if able.is_empty() {
        bail!("no instruction to compare: give another filter");
    }
    println!("{}: {} instructions", other.name(), able.len());
    let mut comparisons: Vec<Comparison> = Vec::new();
    for class in able {
        let rows = class.operands.rows();
        let found = other.run(class, &rows).with_context(|| class.instruction.clone())?;
        let expected = emulated.run(class, &rows).with_context(|| class.instruction.clone())?;
        let comparison = Comparison::new(class, &rows, &found, &expected);
        println!("{comparison}");
        comparisons.push(comparison);
    }
    if !unable.is_empty() {
        println!("not on this device: {} instructions of later ones", unable.len());
    }
    if let Some(path) = &arguments.csv {
        let text = report::csv(&other.name(), other.capability(), &comparisons);
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let failed = comparisons.iter().filter(|comparison| !comparison.agrees()).count();
    if failed > 0 {
        bail!("{failed} of {} instructions differ more than they may", comparisons.len());
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
