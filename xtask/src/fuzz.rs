//! `cargo xtask fuzz`: calls and problems at random, for as long as one likes.

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

/// Draws calls and problems at random and checks every answer, on the emulated driver
///
/// Each round has a seed, which also chooses the emulated device, the strategy that everything is given to
/// that it can take, the order of blocks, and whether a block has to take several rows. The draws of a round
/// are those of the device suite's `fuzz::` tests: arbitrary lengths, strides, offsets, options, targets and
/// values, at every entry. A failure ends it and is printed, shrunk, with how to repeat it.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many cases, all tests and rounds together
    #[arg(long, default_value_t = 100_000)]
    cases: u64,
    /// The first round's seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The tests that draw cases.
const TESTS: &str = "fuzz::";

/// Cases that each test draws in a round.
const CASES_A_TEST: u64 = 250;

/// Instructions of a warp, a hundred times what a case takes: threads that wait for ever end after minutes, not hours.
const STEPS: &str = "10000000";

/// None: what the plan chooses.
const STRATEGIES: [Option<&str>; 7] = [
    None,
    Some("tiny"),
    Some("warp"),
    Some("block"),
    Some("two_pass"),
    Some("cluster"),
    Some("split_row"),
];

pub fn run(arguments: &Arguments) -> Result<()> {
    toolchain::ensure_nvcc()?;
    let driver = Driver::Emulated { folder: emulator::build()? };
    let mut build = cargo::in_workspace("test");
    build.args(["--no-run", "--test=device"]);
    driver.narrow(&mut build);
    let programs = cargo::build(build)?.tests();
    let program = programs.first().context("cargo built no test program")?;

    println!("{} cases, from seed {} on", arguments.cases, arguments.seed);
    let start = Instant::now();
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} cases, {elapsed}, {eta} left")?;
    let bar = ProgressBar::new(arguments.cases).with_style(style);
    // Where there is no terminal to draw on, a line now and then.
    let said = AtomicU64::new(0);
    let say = |drawn: u64| {
        let tenth = drawn * 10 / arguments.cases.max(1);
        if bar.is_hidden() && said.fetch_max(tenth, Ordering::Relaxed) < tenth {
            eprintln!("{drawn} of {} cases, {:.0?}", arguments.cases, start.elapsed());
        }
    };
    let (next, drawn) = (AtomicU64::new(arguments.seed), AtomicU64::new(0));
    let stopped = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    let work = || {
        while !stopped.load(Ordering::Relaxed) && drawn.load(Ordering::Relaxed) < arguments.cases {
            match try_round(program, &driver, next.fetch_add(1, Ordering::Relaxed)) {
                Ok(cases) => {
                    say(drawn.fetch_add(cases, Ordering::Relaxed) + cases);
                    bar.inc(cases);
                }
                Err(failure) => {
                    stopped.store(true, Ordering::Relaxed);
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    let drawn = drawn.into_inner();
    if let Some(failure) = failures.into_inner().unwrap_or_else(PoisonError::into_inner).pop() {
        return Err(failure.context(format!("after {drawn} cases without a finding")));
    }
    let (last, took) = (next.into_inner().saturating_sub(1), start.elapsed().as_secs_f64());
    println!("{drawn} cases, seeds {} to {last}: nothing to report ({took:.0} s)", arguments.seed);
    Ok(())
}

/// Runs the tests with a seed and returns how many cases they drew; the error says how to do it again.
fn try_round(program: &Program, driver: &Driver, seed: u64) -> Result<u64> {
    let (cases, seed_text) = (CASES_A_TEST.to_string(), seed.to_string());
    let order = format!("shuffle:{seed}");
    let pick = |count: usize, turn: u64| (seed / turn) as usize % count;
    let (devices, strategies) = (emulator::DEVICES.len() as u64, STRATEGIES.len() as u64);
    let mut settings = vec![
        ("SMOOTHXENT_FUZZ_CASES", cases.as_str()),
        ("SMOOTHXENT_FUZZ_SEED", seed_text.as_str()),
        ("CUDA_EMULATOR_DEVICE", emulator::DEVICES[pick(emulator::DEVICES.len(), 1)]),
        ("CUDA_EMULATOR_ORDER", order.as_str()),
        ("CUDA_EMULATOR_STEPS", STEPS),
    ];
    if let Some(strategy) = STRATEGIES[pick(STRATEGIES.len(), devices)] {
        settings.push(("SMOOTHXENT_TEST_STRATEGY", strategy));
    }
    if pick(2, devices * strategies) == 1 {
        settings.push(("CUDA_EMULATOR_MAX_GRID", "2"));
    }
    let mut command = Command::new(&program.path);
    // The rounds run beside each other, so each takes one core.
    command
        .current_dir(&program.folder)
        .stdin(Stdio::null())
        .arg(TESTS)
        .arg("--test-threads=1")
        .envs(settings.iter().copied())
        .env("CUDA_EMULATOR_THREADS", "1");
    driver.apply(&mut command)?;
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let passed = printed.lines().find_map(|line| {
        line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<u64>().ok()
    });
    match passed {
        Some(tests) if tests > 0 && output.status.success() => Ok(tests * CASES_A_TEST),
        _ => {
            let from = printed.find("\nfailures:").unwrap_or(0);
            let assigned: Vec<String> =
                settings.iter().map(|(name, to)| format!("{name}={to}")).collect();
            bail!(
                "seed {seed} ({}):\n{}\n{}\nAgain: {} {} {} with the emulated driver (`cargo xtask emulator`)",
                output.status,
                &printed[from..],
                String::from_utf8_lossy(&output.stderr),
                assigned.join(" "),
                workspace::relative(&program.path),
                TESTS,
            )
        }
    }
}
