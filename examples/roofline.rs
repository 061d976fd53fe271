//! Prints, as a Markdown table, what is predicted of the fused loss and gradient on known devices: which
//! strategy, how much goes through memory, how long that takes, and what bounds it. Nothing is measured.
//!
//! `cargo run --example roofline -- --device h200`
//!
//! With instructions an element, by the emulated driver's counts, from a file of its own that was written so.
//! A few rows will do, but a kernel has one cost here, that of its launch over the most elements: tiny and
//! warp cost a short row more an element than a long one.
//!
//! ```sh
//! export LD_LIBRARY_PATH=target/emulator CUDA_EMULATOR_REPORT=/tmp/report.jsonl
//! cargo bench --bench fused -- --pass fused --shapes 4096x10,64x1000,8x32000,4x128256
//! cargo run --example roofline -- --report /tmp/report.jsonl
//! ```

use std::{collections::BTreeMap, error::Error, fs, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use serde::Deserialize;
use smoothxent::{
    LossConfig, Selection, Shape,
    plan::{self, Kernel, Plan, RowsPlan, devices},
    problem::{ClassWeighting, Dtype, Pass, Place, Problem, TargetType, Types},
};

/// Prints what is predicted of the fused loss on known devices
#[derive(Parser)]
struct Arguments {
    /// A known device; all of them if left out
    #[arg(long, value_parser = device_names())]
    device: Option<String>,
    /// Element type of logits and gradient
    #[arg(long, value_enum, default_value_t = DtypeName::Bf16)]
    dtype: DtypeName,
    /// Lines of CUDA_EMULATOR_REPORT, of fused passes
    #[arg(long)]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeName {
    F32,
    F16,
    Bf16,
}

fn device_names() -> Vec<&'static str> {
    devices::ALL.iter().map(|device| device.name).collect()
}

/// Rows and classes: each strategy, and both sides of where it ends.
const SHAPES: [(usize, usize); 14] = [
    (1 << 20, 10),
    (1 << 20, 32),
    (65_536, 100),
    (65_536, 1000),
    (4096, 1000),
    (4096, 21_841),
    (8192, 32_000),
    (8192, 50_257),
    (8192, 128_256),
    (2048, 262_144),
    (64, 128_256),
    (1, 128_256),
    (128, 1000),
    (64, 10),
];

/// What a copy reaches of the rated bandwidth: 4.3 of 4.8 TB/s on one H200.
const COPY_SHARE: f64 = 0.9;

/// Boost clocks by their data sheets, in MHz.
const BOOST_MHZ: [(&str, f64); 8] = [
    ("h200", 1980.0),
    ("h100", 1980.0),
    ("a100", 1410.0),
    ("l4", 2040.0),
    ("t4", 1590.0),
    ("rtx4090", 2520.0),
    ("b200", 1965.0),
    ("rtx5090", 2407.0),
];

/// Of a multiprocessor and a clock: four schedulers issue an instruction of a warp each, and four special
/// function units have four lanes each (CUDA programming guide, arithmetic throughput).
const LANE_INSTRUCTIONS: f64 = 128.0;
const EXPONENTIALS: f64 = 16.0;

/// Once to sum, once for the gradient.
const EXPONENTIALS_PER_ELEMENT: f64 = 2.0;

/// From one kernel to the next on a stream, without anything to do; assumed.
const LAUNCH_MICROSECONDS: f64 = 2.0;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let costs = match &arguments.report {
        None => BTreeMap::new(),
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            costs(&text)?
        }
    };
    println!(
        "Predicted, not measured: fused loss and gradient, {}, at {COPY_SHARE} of the rated bandwidth.\n",
        arguments.dtype.name()
    );
    println!(
        "| device | rows x classes | strategy | grid x block | blocks a multiprocessor | waves | MB moved \
         | us at copy speed | instructions an element | bound | us |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for device in &devices::ALL {
        if arguments.device.as_ref().is_none_or(|name| name == device.name) {
            for (rows, classes) in SHAPES {
                let dtype = arguments.dtype.dtype();
                println!("{}", Prediction::new(device, rows, classes, dtype)?.line(&costs));
            }
        }
    }
    Ok(())
}

struct Prediction {
    device: devices::Device,
    rows: usize,
    classes: usize,
    dtype: Dtype,
    plan: RowsPlan,
}

impl Prediction {
    fn new(
        device: &devices::Device,
        rows: usize,
        classes: usize,
        dtype: Dtype,
    ) -> Result<Self, Box<dyn Error>> {
        let targets = TargetType::I64;
        let types = Types { dtype, targets, class_weights: ClassWeighting::Absent };
        let config = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
        let shape = Shape::contiguous(rows, classes);
        let problem = Problem::new(types, shape, config, Pass::Fused, Place::Apart)?;
        match plan::choose(&problem, &device.properties, Selection::Fastest)? {
            Plan::Launches { rows: plan, .. } => {
                Ok(Self { device: *device, rows, classes, dtype, plan })
            }
            Plan::Empty { .. } => Err("no rows".into()),
        }
    }

    fn elements(&self) -> f64 {
        self.rows as f64 * self.classes as f64
    }

    /// Logits and targets read, gradient and row losses written; and what is read again that the L2 cache
    /// does not hold.
    fn bytes(&self) -> f64 {
        let matrix = self.elements() * self.dtype.bytes() as f64;
        let of_rows = (self.rows * (size_of::<i64>() + size_of::<f32>())) as f64;
        let traffic = self.plan.traffic;
        let again = f64::from(traffic.again_packs) / f64::from(traffic.slice_packs.max(1));
        let held = f64::from(traffic.l2_bytes) / traffic.again_bytes_at_once.max(1) as f64;
        2.0 * matrix + of_rows + matrix * again * (1.0 - held).max(0.0)
    }

    /// By shared memory, threads and registers.
    fn resident_blocks(&self) -> u32 {
        let launch = self.plan.first.launch;
        let threads = launch.kernel.resident_blocks() * launch.kernel.max_threads();
        self.plan.residency.blocks().min(threads / launch.block)
    }

    fn line(&self, costs: &BTreeMap<&'static str, f64>) -> String {
        let launch = self.plan.first.launch;
        let properties = self.device.properties;
        let multiprocessors = f64::from(properties.multiprocessors);
        let megahertz = BOOST_MHZ.iter().find(|(name, _)| *name == self.device.name);
        let clocks = megahertz.map_or(f64::NAN, |(_, megahertz)| megahertz * multiprocessors);
        let cost = costs.get(launch.kernel.symbol()).copied();

        let memory = self.bytes() / (self.device.bytes_per_second * COPY_SHARE) * 1e6;
        let exponentials = self.elements() * EXPONENTIALS_PER_ELEMENT / (clocks * EXPONENTIALS);
        let instructions =
            cost.map_or(0.0, |cost| self.elements() * cost / (clocks * LANE_INSTRUCTIONS));
        let launches = self.plan.steps().count() as f64 * LAUNCH_MICROSECONDS;
        let bounds = [
            ("memory", memory),
            ("instructions", instructions),
            ("exponentials", exponentials),
            ("launch", launches),
        ];
        let (bound, time) =
            bounds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(bounds[0]);
        let resident = self.resident_blocks();
        let waves = f64::from(launch.grid) / (multiprocessors * f64::from(resident.max(1)));
        format!(
            "| {} | {} x {} | {} | {} x {} | {resident} | {waves:.2} | {:.2} | {memory:.1} | {} | {bound} | \
             {time:.1} |",
            self.device.name,
            self.rows,
            self.classes,
            self.plan.strategy,
            launch.grid,
            launch.block,
            self.bytes() / 1e6,
            cost.map_or("-".to_owned(), |cost| format!("{cost:.1}")),
        )
    }
}

/// A line of the emulated driver's report, as far as it is read here.
#[derive(Deserialize)]
struct Launched {
    kernel: String,
    lane_instructions: u64,
    unique_bytes_read: u64,
    unique_bytes_written: u64,
}

/// Lane-instructions an element of each fused kernel that wrote a gradient, by its launch over the most
/// elements.
fn costs(report: &str) -> Result<BTreeMap<&'static str, f64>, Box<dyn Error>> {
    let mut most: BTreeMap<&'static str, (u64, f64)> = BTreeMap::new();
    for line in report.lines() {
        let launched: Launched =
            serde_json::from_str(line).map_err(|error| format!("{error} in {line}"))?;
        let known = Kernel::all().find(|kernel| kernel.symbol() == launched.kernel);
        let Some(kernel @ Kernel::Rows(_, dtype)) = known else { continue };
        // A forward pass writes little.
        if 2 * launched.unique_bytes_written < launched.unique_bytes_read {
            continue;
        }
        let elements = launched.unique_bytes_written / dtype.bytes() as u64;
        let cost = launched.lane_instructions as f64 / elements.max(1) as f64;
        let best = most.entry(kernel.symbol()).or_insert((0, f64::NAN));
        if elements > best.0 {
            *best = (elements, cost);
        }
    }
    Ok(most.into_iter().map(|(symbol, (_, cost))| (symbol, cost)).collect())
}

impl DtypeName {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }
}
