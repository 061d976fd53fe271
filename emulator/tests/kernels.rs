//! Correct kernels run clean, on several shapes and in several orders.
//!
//! `CUDA_EMULATOR_ORDER` replaces the orders by one: so `cargo xtask seeds` tries many.

mod acceptance;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use acceptance::cases::{CASES, Case};
use acceptance::compile::{Compiler, NO_NVCC};
use acceptance::rig::Rig;
use cuda_emulator::settings::Order;
use libtest_mimic::{Arguments, Completion, Trial};

/// Blocks and warps in these orders, on so many host threads.
const ORDERS: [(Order, usize); 6] = [
    (Order::Forward, 1),
    (Order::Forward, 2),
    (Order::Reverse, 1),
    (Order::Shuffle(1), 1),
    (Order::Shuffle(2), 2),
    (Order::Shuffle(3), 1),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> Result<Vec<Trial>, String> {
    let compiler = Compiler::find(Path::new(env!("CARGO_TARGET_TMPDIR")))?.map(Arc::new);
    let orders = match std::env::var("CUDA_EMULATOR_ORDER") {
        Ok(text) if !text.is_empty() => {
            let order = Order::parse(&text);
            let order = order.ok_or_else(|| format!("CUDA_EMULATOR_ORDER={text}: no order"))?;
            vec![(order, 1)]
        }
        _ => ORDERS.to_vec(),
    };
    let trial = |case: &'static Case| {
        let (compiler, orders) = (compiler.clone(), orders.clone());
        Trial::ignorable_test(case.name(), move || match compiler {
            Some(compiler) => Ok(check(case, &compiler, &orders)?),
            None => Ok(Completion::ignored_with(NO_NVCC)),
        })
    };
    Ok(CASES.iter().map(trial).collect())
}

fn check(
    case: &Case,
    compiler: &Compiler,
    orders: &[(Order, usize)],
) -> Result<Completion, String> {
    let ptx = compiler.ptx(&case.source()?, case.architecture)?;
    for run in (case.runs)() {
        for &(order, workers) in orders {
            let outcome = Rig::new(&ptx, order, workers).and_then(|rig| (run.check)(&rig));
            outcome.map_err(|failure| {
                format!("{}, {order:?}, {workers} host threads:\n{failure}", run.name)
            })?;
        }
    }
    Ok(Completion::Completed)
}
