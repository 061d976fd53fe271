//! The project's own commands; `cargo xtask --help` lists them.

mod api;
mod bugs;
mod bundle;
mod cargo;
mod codegen;
mod compare;
mod costs;
mod demo;
mod driver;
mod emulator;
mod fuzz;
mod miri;
mod mutate;
mod package;
mod process;
mod report;
mod sass;
mod seeds;
mod suite;
mod table;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// smoothxent's own commands. Only `compare` needs a GPU, and none an installed CUDA.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Test(test::Arguments),
    Bundle(bundle::Arguments),
    Package(package::Arguments),
    Toolchain(toolchain::Arguments),
    Emulator(emulator::Arguments),
    Compare(compare::Arguments),
    Codegen(codegen::Arguments),
    Report(report::Arguments),
    Sass(sass::Arguments),
    Costs(costs::Arguments),
    Tidy(tidy::Arguments),
    Mutate(mutate::Arguments),
    Bugs(bugs::Arguments),
    Seeds(seeds::Arguments),
    Fuzz(fuzz::Arguments),
    Miri(miri::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Bundle(arguments) => bundle::run(&arguments),
        Command::Package(arguments) => package::run(&arguments),
        Command::Toolchain(arguments) => toolchain::run(&arguments),
        Command::Emulator(arguments) => emulator::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Codegen(arguments) => codegen::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Sass(arguments) => sass::run(&arguments),
        Command::Costs(arguments) => costs::run(&arguments),
        Command::Tidy(arguments) => tidy::run(&arguments),
        Command::Mutate(arguments) => mutate::run(&arguments),
        Command::Bugs(arguments) => bugs::run(&arguments),
        Command::Seeds(arguments) => seeds::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Miri(arguments) => miri::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
