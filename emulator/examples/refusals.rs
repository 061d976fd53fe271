//! Lists the instructions of PTX files that the emulator refuses, with how many kernels stop there.
//!
//! `cargo run --release -p cuda-emulator --example refusals -- probe.ptx ...`: compile a file of
//! one-expression kernels with `nvcc -ptx` to learn what the compiler makes of them.

use std::collections::BTreeMap;
use std::process::ExitCode;

use cuda_emulator::context::Context;
use cuda_emulator::settings::Settings;

fn main() -> ExitCode {
    let context = Context::new(Settings::default());
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    let mut kernels = 0;
    for path in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("cannot read {path}: {error}");
                return ExitCode::FAILURE;
            }
        };
        let module = match context.load(&text) {
            Ok(module) => module,
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        };
        for name in module.kernel_names() {
            kernels += 1;
            if let Ok(Err(error)) = module.kernel(name) {
                let opcode = error.text.split_whitespace().find(|word| !word.starts_with('@'));
                let line = format!("{}: {}", opcode.unwrap_or_default(), error.message);
                *refusals.entry(line).or_default() += 1;
            }
        }
    }
    for (refusal, count) in &refusals {
        println!("{count:5} {refusal}");
    }
    println!("{} refusals in {kernels} kernels", refusals.values().sum::<usize>());
    if refusals.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
