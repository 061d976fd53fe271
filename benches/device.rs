//! How long the kernels take, by criterion: `cargo bench --bench device`, with `-- --save-baseline before`
//! and, after a change, `-- --baseline before`.
//!
//! All calls of a sample lie between two device events, on inputs that take turns so that logits come from
//! memory; short calls are replayed from a graph. Without a driver nothing is measured. On the emulated
//! driver everything runs once, on small shapes, and no time is stated.

#[path = "fused/aims.rs"]
#[allow(dead_code, reason = "what `fused` alone says")]
mod aims;
#[path = "fused/cases.rs"]
#[allow(dead_code, reason = "what `fused` alone offers")]
mod cases;
#[path = "fused/machine.rs"]
#[allow(dead_code, reason = "what `fused` alone states")]
mod machine;
#[path = "fused/measure.rs"]
#[allow(dead_code, reason = "what `fused` alone compares")]
mod measure;

use std::{
    error::Error,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, Throughput};
use half::{bf16, f16};
use libtest_mimic::{Arguments, Trial};
use smoothxent::problem::{Dtype, Pass};

use cases::{Case, Variant};
use machine::{Machine, Times};
use measure::Calls;

const PASSES: [Pass; 3] = [Pass::Fused, Pass::Forward, Pass::Backward];
const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

fn main() -> ExitCode {
    let machine = match Machine::open() {
        Ok(machine) => machine,
        Err(error) => {
            eprintln!("nothing was measured: {error}");
            return ExitCode::FAILURE;
        }
    };
    match machine.times {
        Times::Taken => {
            benchmarks(&machine);
            ExitCode::SUCCESS
        }
        Times::NotTaken => rehearsal(machine),
    }
}

/// 75 cases of two and a half seconds, and what criterion makes of them.
fn benchmarks(machine: &Machine) {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let kinds = PASSES.into_iter().flat_map(|pass| DTYPES.map(|dtype| (pass, dtype)));
    let kinds = kinds.flat_map(|(pass, dtype)| Variant::ALL.map(|variant| (variant, pass, dtype)));
    for (variant, pass, dtype) in kinds {
        let plain = match variant {
            Variant::Plain => cases::of(&cases::GRID, &[pass]),
            _ => cases::of(&cases::QUICK_GRID, &[pass]),
        };
        let plain: Vec<Case> = plain.into_iter().filter(|case| case.dtype == dtype).collect();
        let cases = cases::varied(&plain, &[variant]);
        if cases.is_empty() {
            continue;
        }
        let mut group = criterion.benchmark_group(group(variant, pass, dtype));
        for case in cases {
            let Case { rows, classes, .. } = case;
            group.throughput(Throughput::Bytes(case.bytes() as u64));
            // Not before criterion has decided that the case is wanted.
            let mut timer = None;
            let name = BenchmarkId::from_parameter(format!("{rows} x {classes}"));
            group.bench_function(name, |bencher| {
                let timer = timer.get_or_insert_with(|| Timer::new(machine, case).expect("memory"));
                bencher.iter_custom(|calls| timer.time(machine, calls).expect("it ran before"));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}

/// As criterion's options name it.
fn group(variant: Variant, pass: Pass, dtype: Dtype) -> String {
    let name = format!("{} {}", cases::pass_name(pass), cases::dtype_name(dtype));
    match variant {
        Variant::Plain => name,
        variant => format!("{} {name}", variant.name()),
    }
}

/// Every case a few times, as tests, so that nobody takes what they print for a time.
fn rehearsal(machine: Machine) -> ExitCode {
    println!("{}: small shapes run, no times are taken", machine.name);
    let machine = Arc::new(Mutex::new(machine));
    let trial = |case: Case| {
        let machine = Arc::clone(&machine);
        let Case { rows, classes, dtype, pass, variant } = case;
        let name = format!("{}/{rows} x {classes}", group(variant, pass, dtype));
        Trial::test(name, move || {
            let machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            Timer::new(&machine, case).and_then(|mut timer| timer.time(&machine, 3))?;
            Ok(())
        })
    };
    let cases = cases::varied(&cases::smoke(&PASSES), &Variant::ALL).into_iter();
    let cases = cases.filter(|case| case.variant == Variant::Plain || case.dtype == Dtype::Bf16);
    let trials = cases.map(trial).collect();
    // `cargo bench` says `--bench`, and then tests are left out.
    let arguments = Arguments { bench: false, test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Calls of any dtype.
enum Timer {
    F32(Calls<f32>),
    F16(Calls<f16>),
    Bf16(Calls<bf16>),
}

impl Timer {
    fn new(machine: &Machine, case: Case) -> Result<Self, Box<dyn Error>> {
        Ok(match case.dtype {
            Dtype::F32 => Self::F32(Calls::new(machine, case)?),
            Dtype::F16 => Self::F16(Calls::new(machine, case)?),
            Dtype::Bf16 => Self::Bf16(Calls::new(machine, case)?),
        })
    }

    fn time(&mut self, machine: &Machine, calls: u64) -> Result<Duration, Box<dyn Error>> {
        match self {
            Self::F32(timed) => timed.time(machine, calls),
            Self::F16(timed) => timed.time(machine, calls),
            Self::Bf16(timed) => timed.time(machine, calls),
        }
    }
}
