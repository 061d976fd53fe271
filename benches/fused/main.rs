//! How long the loss and its gradient take, how far they are from a copy of the same bytes, and which
//! strategy is the fastest.
//!
//! `cargo bench --bench fused -- --help`. On the emulated driver everything runs once, on small shapes,
//! and no times are taken.

mod aims;
mod cases;
// One program, so that the kernels travel once.
#[allow(dead_code, reason = "its own main")]
#[path = "../host.rs"]
mod host;
mod machine;
mod measure;
mod record;
mod summary;

use std::{
    error::Error,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use criterion::Criterion;
use half::{bf16, f16};
use smoothxent::{
    Selection, Strategy,
    problem::{Dtype, Pass},
};

use cases::{Case, Named, PassName, Variant};
use machine::{EMULATED, Machine, Times};
use record::{Asked, Csv, Row};
use summary::Summary;

/// Times the loss and its gradient beside a copy of the same size.
#[derive(Parser)]
struct Arguments {
    /// Write the results to this file, too, each as soon as it is known
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Three shapes and fewer repeats
    #[arg(long, conflicts_with_all = ["tune", "shapes"])]
    quick: bool,
    /// Every strategy that can take a shape, over more shapes, most important ones first
    #[arg(long)]
    tune: bool,
    /// Begin no case that may not end in time
    #[arg(long, value_name = "SECONDS")]
    budget_seconds: Option<u64>,
    /// Only this strategy, beside the chosen one; may be given several times
    #[arg(long, value_name = "STRATEGY", value_parser = cases::parse_strategy)]
    strategy: Vec<Strategy>,
    /// Which passes; with --tune all of them, fused otherwise
    #[arg(long, value_enum, value_delimiter = ',')]
    pass: Vec<PassName>,
    /// What is computed: operations and kinds of targets
    #[arg(long, value_enum, value_delimiter = ',', default_value = "plain")]
    variants: Vec<Variant>,
    /// Instead of the grid, such as 8192x32000,64x128256:bf16
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<Named>,
    /// Instead of all that: what a call costs on the CPU, as `cargo bench --bench host` but briefly
    #[arg(long, exclusive = true)]
    host: bool,
    /// What `cargo bench` passes; changes nothing
    #[arg(long, hide = true)]
    bench: bool,
}

const REPEATS: usize = 25;
const FEW_REPEATS: usize = 7;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.host {
        call_on_the_cpu();
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn call_on_the_cpu() {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    host::without_driver(&mut criterion);
    let name = smoothxent::open(0).ok().and_then(|context| context.name().ok());
    if name.is_some_and(|name| name.starts_with(EMULATED)) {
        println!("with a driver: skipped, this device is emulated");
    } else {
        host::with_driver(&mut criterion);
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let machine = Machine::open()?;
    println!("{}, driver {}", machine.name, machine.driver);
    if machine.times == Times::NotTaken {
        println!("This device is emulated: small shapes run, no times are taken.");
    }
    let mut csv = Csv::create(arguments.csv.as_deref())?;
    let budget = arguments.budget_seconds.map(Duration::from_secs);
    let repeats = match machine.times {
        Times::NotTaken => 1,
        Times::Taken if arguments.quick || arguments.tune => FEW_REPEATS,
        Times::Taken => REPEATS,
    };

    println!("{}    (* chosen)", Row::TABLE_HEADER);
    let (mut measured, mut left_out, mut slowest) = (vec![], vec![], Duration::ZERO);
    for case in arguments.cases(machine.times) {
        if budget.is_some_and(|budget| begun.elapsed() + slowest > budget) {
            left_out.push(case);
            continue;
        }
        let start = Instant::now();
        match arguments.measure(&machine, case, repeats) {
            Ok(rows) => {
                let clocks = machine.clocks();
                for row in &rows {
                    println!("{}", row.table_line());
                    csv.write(row, &machine, &clocks)?;
                }
                measured.push(rows);
            }
            // Most often a device without the memory; the other shapes still count.
            Err(error) => {
                println!("{case} not measured: {error}");
                left_out.push(case);
            }
        }
        slowest = slowest.max(start.elapsed());
    }
    if measured.is_empty() {
        return Err("no shape could be measured".into());
    }
    let summary = Summary { cases: &measured, left_out: &left_out };
    if arguments.compares() {
        summary.print();
    } else if !left_out.is_empty() {
        summary.left_out();
    }
    Ok(())
}

impl Arguments {
    /// Whether there is more than the chosen strategy.
    fn compares(&self) -> bool {
        self.tune || !self.strategy.is_empty()
    }

    fn cases(&self, times: Times) -> Vec<Case> {
        let passes: Vec<Pass> = match self.pass[..] {
            [] if self.tune => vec![Pass::Fused, Pass::Forward, Pass::Backward],
            [] => vec![Pass::Fused],
            ref some => some.iter().map(|&pass| pass.into()).collect(),
        };
        let plain = match times {
            _ if !self.shapes.is_empty() => cases::named(&self.shapes, &passes),
            Times::NotTaken => cases::smoke(&passes),
            Times::Taken if self.tune => cases::tune(&passes),
            Times::Taken if self.quick => cases::of(&cases::QUICK_GRID, &passes),
            Times::Taken => cases::of(&cases::GRID, &passes),
        };
        cases::varied(&plain, &self.variants)
    }

    fn measure(
        &self,
        machine: &Machine,
        case: Case,
        repeats: usize,
    ) -> Result<Vec<Row>, Box<dyn Error>> {
        let asked = self.asked(machine, case)?;
        let kernels: Vec<_> = asked
            .iter()
            .map(|asked| machine.kernels.clone().with_selection(selection(asked.pinned)))
            .collect();
        let measured = match case.dtype {
            Dtype::F32 => measure::measure::<f32>(machine, case, &kernels, repeats),
            Dtype::F16 => measure::measure::<f16>(machine, case, &kernels, repeats),
            Dtype::Bf16 => measure::measure::<bf16>(machine, case, &kernels, repeats),
        };
        Ok(Row::all(case, &asked, &measured?))
    }

    /// The chosen strategy, and the others that can take the case and are wanted.
    fn asked(&self, machine: &Machine, case: Case) -> Result<Vec<Asked>, Box<dyn Error>> {
        let plan_of = |pinned| {
            let kernels = machine.kernels.clone().with_selection(selection(pinned));
            case.plan(&kernels)
        };
        let (plan, launches) = plan_of(None)?.ok_or("there is no plan")?;
        let chosen = Asked { pinned: None, plan, launches };
        let others = Strategy::ALL.into_iter().filter(|strategy| match self.strategy[..] {
            [] => self.tune,
            ref some => some.contains(strategy),
        });
        // A backward pass that cannot do as it is told does something else; that it is not.
        let others = others.filter_map(|strategy| {
            let (plan, launches) = plan_of(Some(strategy)).ok()??;
            let is_other = plan.strategy == strategy && strategy != chosen.plan.strategy;
            is_other.then_some(Asked { pinned: Some(strategy), plan, launches })
        });
        Ok([chosen].into_iter().chain(others).collect())
    }
}

fn selection(pinned: Option<Strategy>) -> Selection {
    pinned.map_or(Selection::Fastest, Selection::Pinned)
}
