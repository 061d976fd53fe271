//! `cargo xtask demo`: trains digit classifiers whose loss and gradient are computed on the device.
//!
//! [`device`] shows how `smoothxent` is used; everything else is what a training needs around it.

mod data;
mod device;
mod metrics;
mod model;
mod plots;
mod report;
mod train;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::{device::Device, train::Recipe};

/// Trains a softmax classifier and a small MLP on 8x8 handwritten digits, with the loss and its
/// gradient on the device
///
/// Each in f32 and f16, without label smoothing and with 0.1. Prints a table of accuracy, negative
/// log-likelihood and calibration, writes two pictures, and fails if the results are not what they
/// should be.
#[derive(Parser)]
#[command(bin_name = "cargo xtask demo --")]
struct Arguments {
    /// Passes over the training images [default: 100, with --quick 10]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    epochs: Option<u16>,
    /// Seed of initial weights and of the order of training images
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for the pictures
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    out: PathBuf,
    /// Train briefly: shows that everything works; the numbers are not those of a full run
    #[arg(long)]
    quick: bool,
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

fn run(arguments: &Arguments) -> Result<()> {
    let device = Device::open()?;
    println!("{}", device.description());
    fs::create_dir_all(&arguments.out).with_context(|| {
        format!("cannot create {}; choose another folder with --out", arguments.out.display())
    })?;

    let mut recipe = Recipe { seed: arguments.seed, ..Recipe::default() };
    match arguments.epochs {
        Some(epochs) => recipe.epochs = usize::from(epochs),
        None if arguments.quick => recipe.epochs = 10,
        None => {}
    }
    let split = data::Split::load()?;
    println!(
        "{} images to train on, {} to test on; {}",
        split.train.len(),
        split.test.len(),
        recipe.description()
    );
    let runs = train::all(&device, &recipe, &split)?;

    println!("\n{}\n\n{}\n", report::table(&runs), report::LEGEND);
    for sentence in report::findings(&runs) {
        println!("{sentence}");
    }
    if arguments.quick {
        println!("These are the numbers of a short training (--quick), not those of a full run.");
    }
    for picture in plots::draw(&arguments.out, &runs)? {
        println!("Picture: {}", picture.display());
    }

    let broken = report::broken_expectations(&runs, arguments.quick);
    if !broken.is_empty() {
        bail!("the results are not what they should be:\n  {}", broken.join("\n  "));
    }
    Ok(())
}
