//! What a launch may cost, for every strategy, by the emulated driver's counts: bytes and 32-byte sectors of
//! device memory, lane-instructions an element, bank conflicts of shared memory. No GPU is needed, and none
//! would tell.
//!
//! Bytes and sectors are held to what the operation needs at least. Instructions are held to what
//! tests/data/costs.csv says of each device, strategy and shape; moves are not counted, since a GPU's
//! compiler removes most of them. `cargo xtask costs` writes that file anew, from what `--nocapture` prints.

#[path = "common/report.rs"]
mod report;

use std::env;
use std::fmt;
use std::process::ExitCode;

use half::{bf16, f16};
use libtest_mimic::{Arguments, Completion, Trial};
use report::{Launch, Report};
use smoothxent::{
    BinaryConfig, ClassWeights, Error, Gradient, Kernels, LogSoftmaxShape, Logit, LossConfig,
    LossInputs, LossOutputs, SavedSoftmax, Selection, Shape, Strategy, Workspace,
    binary::{self, BinaryInputs, BinaryOutputs},
    cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, DriverError, ValidAsZeroBits},
    log_softmax::{self, LogSoftmaxOutputs, Softmax},
    loss,
    plan::Plan,
    problem::{
        BinaryProblem, ClassWeighting, LogSoftmaxProblem, Pass, Place, Problem, TargetType, Types,
    },
};
use std::sync::Arc;

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    /// Loss and gradient, plain label smoothing.
    Fused,
    /// The loss alone.
    Forward,
    /// The gradient alone, from what the loss saved.
    Backward,
    /// Loss and gradient with class weights on every term.
    Weighted,
    /// Loss and gradient of target probabilities of the logits' type.
    Probabilities,
    LogSoftmax,
    LogSoftmaxBackward,
    /// Binary cross-entropy and gradient of target probabilities of the logits' type.
    Binary,
}

const OPERATIONS: [Operation; 8] = [
    Operation::Fused,
    Operation::Forward,
    Operation::Backward,
    Operation::Weighted,
    Operation::Probabilities,
    Operation::LogSoftmax,
    Operation::LogSoftmaxBackward,
    Operation::Binary,
];

/// A strategy on rows that are typical for it: of warp, as many as let a row have its fewest lanes.
#[derive(Clone, Copy, Debug)]
struct Run {
    strategy: Strategy,
    rows: usize,
    classes: usize,
}

const fn run(strategy: Strategy, rows: usize, classes: usize) -> Run {
    Run { strategy, rows, classes }
}

const RUNS: [Run; 26] = [
    run(Strategy::Tiny, 1024, 2),
    run(Strategy::Tiny, 1024, 10),
    run(Strategy::Tiny, 1024, 32),
    run(Strategy::Tiny, 512, 33),
    run(Strategy::Tiny, 512, 128),
    run(Strategy::Warp, 4096, 100),
    run(Strategy::Warp, 2112, 256),
    run(Strategy::Warp, 4224, 1000),
    run(Strategy::Warp, 4224, 1001),
    run(Strategy::Warp, 4224, 1024),
    run(Strategy::Warp, 2112, 2041),
    run(Strategy::Warp, 2112, 2048),
    run(Strategy::Block, 32, 2049),
    run(Strategy::Block, 32, 4096),
    run(Strategy::Block, 16, 10450),
    run(Strategy::Block, 8, 21841),
    run(Strategy::Block, 8, 32000),
    run(Strategy::TwoPass, 8, 32000),
    run(Strategy::TwoPass, 8, 32001),
    run(Strategy::TwoPass, 4, 128256),
    run(Strategy::Cluster, 8, 32000),
    run(Strategy::Cluster, 8, 32001),
    run(Strategy::Cluster, 4, 50257),
    run(Strategy::Cluster, 4, 128256),
    run(Strategy::SplitRow, 4, 50257),
    run(Strategy::SplitRow, 4, 128256),
];

/// Of the bytes: what is not counted as needed.
const BYTES: f64 = 1.01;

/// From so many classes on, sectors are held to their minimum: of rows that are whole packs, of others, and
/// of others that threads load by themselves. A row of those begins and ends within a sector, and where
/// its packs begin within one, each access of a warp touches a sector more than it has bytes for.
const SECTORS_FROM: usize = 1024;
const SECTORS_ALIGNED: f64 = 1.03;
const SECTORS_RAGGED: f64 = 1.06;
const SECTORS_RAGGED_LOADED: f64 = 1.075;

/// Bytes and sectors of a launch that belong to no row: tickets, sums of chunks, the scalar loss.
const FEW_BYTES: f64 = 64.0;
const FEW_SECTORS: f64 = 8.0;

/// Instructions may differ so much from what is written down, either way: figures that are out of date
/// say nothing.
const INSTRUCTIONS: f64 = 1.02;

/// Lane-instructions an element that a loss in half precision may take, with its gradient and alone, from
/// `AIMED_FROM` classes on. A block of 32 threads has too few elements a thread just above what warp takes; and
/// sm_75 rounds a gradient to bf16 in software.
const AIM_FUSED: f64 = 18.0;
const AIM_FORWARD: f64 = 10.0;
const AIMED_FROM: usize = 1024;
const AIM_MISSED: [(Operation, Strategy, usize); 3] = [
    (Operation::Fused, Strategy::Block, 2049),
    (Operation::Forward, Strategy::Block, 2049),
    // By six thousandths, on sm_75.
    (Operation::Forward, Strategy::Warp, 2041),
];

const COSTS: &str = include_str!("data/costs.csv");

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // SAFETY: no other thread runs yet.
    let report = unsafe {
        // What is counted does not depend on it, and the device suite looks for races.
        env::set_var("CUDA_EMULATOR_RACES", "0");
        Report::begin()
    };
    let print = arguments.nocapture;
    let trials = OPERATIONS
        .into_iter()
        .map(|operation| {
            let report = report.clone();
            Trial::ignorable_test(format!("guards::{operation:?}"), move || {
                guard(&report, operation, print).map_err(Into::into)
            })
        })
        .collect();
    // The report is one for the process, so the tests take turns.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn guard(report: &Report, operation: Operation, print: bool) -> Result<Completion, String> {
    let context = smoothxent::open(0).map_err(|error| error.to_string())?;
    let name = context.name().map_err(|error| format!("{:?}", error.0))?;
    let Some(device) = name.strip_prefix("Emulated ").and_then(|name| name.get(..5)) else {
        return Ok(Completion::ignored_with("only the emulated driver counts"));
    };
    let kernels = Kernels::load(&context).map_err(|error| error.to_string())?;
    let guard = Guard { report, kernels, device, operation, print };
    let mut faults = vec![];
    for run in RUNS {
        guard.check::<f32>(run, "f32", |x| x, &mut faults)?;
        guard.check::<f16>(run, "f16", f16::from_f32, &mut faults)?;
        // Whatever differs from f16 shows in the plain loss.
        if matches!(operation, Operation::Fused | Operation::Forward) {
            guard.check::<bf16>(run, "bf16", bf16::from_f32, &mut faults)?;
        }
    }
    if faults.is_empty() { Ok(Completion::Completed) } else { Err(faults.join("\n")) }
}

struct Guard<'a> {
    report: &'a Report,
    kernels: Kernels,
    device: &'a str,
    operation: Operation,
    print: bool,
}

/// Bytes that have to be moved.
struct Needed {
    read: f64,
    written: f64,
}

impl Guard<'_> {
    fn check<T: Element>(
        &self,
        run: Run,
        dtype: &str,
        narrow: fn(f32) -> T,
        faults: &mut Vec<String>,
    ) -> Result<(), String> {
        let kernels = self.kernels.clone().with_selection(Selection::Pinned(run.strategy));
        // Not every strategy takes every row, on every device.
        if planned::<T>(&kernels, self.operation, run) != Ok(run.strategy) {
            return Ok(());
        }
        launch(self.report, &kernels, self.operation, run, narrow)
            .map_err(|failure| failure.to_string())?;
        let launches = self.report.take()?;
        let Run { strategy, rows, classes } = run;
        let sum = |count: fn(&Launch) -> u64| launches.iter().map(count).sum::<u64>() as f64;
        let what =
            format!("{},{:?},{strategy},{rows},{classes},{dtype}", self.device, self.operation);
        let mut expect = |name: &str, found: f64, least: f64, most: f64| {
            if !(least..=most).contains(&found) {
                faults
                    .push(format!("{what}: {name} {found:.3}, not within {least:.3} to {most:.3}"));
            }
        };

        let needed = self.needed::<T>(run);
        // What stays in shared memory or registers is read once; the rest, and slices, twice.
        let twice = match (strategy, self.operation) {
            (Strategy::TwoPass, _) => true,
            (Strategy::SplitRow, operation) => operation != Operation::Backward,
            (Strategy::Tiny | Strategy::Warp | Strategy::Block | Strategy::Cluster, _) => false,
        };
        // Class weights come from the cache closest by, for every row in both passes; so do, under warp, whose
        // registers keep logits alone, probabilities in the second pass.
        let from_cache = match (self.operation, strategy) {
            (Operation::Weighted, _) => Some(2.0 + 8.0 / size_of::<T>() as f64),
            (Operation::Probabilities, Strategy::Warp) => Some(1.5),
            _ => None,
        };
        let factor = from_cache.unwrap_or(if twice { 2.0 } else { 1.0 });
        // What every warp of a row reads for itself: targets, and what was saved; every slice's partial
        // results, twice in every warp.
        let mut beside = FEW_BYTES + (rows * 32 * 16) as f64;
        if strategy == Strategy::SplitRow {
            beside += (rows * 32 * 32 * 32) as f64;
        }
        // Of a gradient alone, each group of lanes reads the target's logit once more.
        let logit = if self.operation == Operation::Backward {
            (rows * size_of::<T>()) as f64
        } else {
            0.0
        };
        let few = if rows <= 32 { beside } else { FEW_BYTES + 8.0 * logit };
        let read = needed.read * factor * BYTES + few;
        let partials = if strategy == Strategy::SplitRow { rows * 32 * 32 } else { 0 };
        let written = needed.written * BYTES + FEW_BYTES + partials as f64;
        expect("bytes read", sum(|l| l.global_bytes_read), needed.read, read);
        expect("bytes written", sum(|l| l.global_bytes_written), needed.written, written);
        if classes >= SECTORS_FROM && !twice {
            let whole = (classes * size_of::<T>()).is_multiple_of(32);
            let loaded = !matches!(
                (self.operation, self.device),
                (Operation::Fused | Operation::LogSoftmax, "sm_80" | "sm_90")
            );
            let most = match (whole, loaded) {
                (true, _) => SECTORS_ALIGNED,
                (false, false) => SECTORS_RAGGED,
                (false, true) => SECTORS_RAGGED_LOADED,
            };
            // A word of a row is a sector: its share of the loss, and, in each warp, the target, its
            // logit, and what was saved.
            let threads = if strategy == Strategy::SplitRow { 32 * 32 } else { 32 * 12 };
            let warps = (classes * size_of::<T>() / 16 / 16).min(threads).div_ceil(32) as f64;
            let row_words = if self.operation == Operation::Backward { 8.0 * warps } else { warps };
            let sectors = |bytes: f64| (bytes / 32.0).floor();
            let (read, written) = (sectors(needed.read), sectors(needed.written));
            let few = FEW_SECTORS + rows as f64;
            let most_read = read * most + few + rows as f64 * row_words;
            if from_cache.is_none() {
                expect("sectors read", sum(|l| l.global_sectors_read), read, most_read);
            }
            expect(
                "sectors written",
                sum(|l| l.global_sectors_written),
                written,
                written * most + few,
            );
        }
        let wavefronts = sum(|l| l.shared_wavefronts);
        // Under tiny, lanes whose parts of rows are of odd sizes meet in a bank now and then.
        let most = if strategy == Strategy::Tiny { 0.45 } else { 0.01 };
        expect("bank conflicts", sum(|l| l.shared_bank_conflicts), 0.0, wavefronts * most);

        let counted = sum(|l| l.lane_instructions - l.lane_instructions_by_class.r#move);
        let instructions = counted / (rows * classes) as f64;
        if self.print {
            println!("{what},{instructions:.2}");
            return Ok(());
        }
        let aimed = size_of::<T>() == 2
            && classes >= AIMED_FROM
            && !AIM_MISSED.contains(&(self.operation, strategy, classes))
            && (self.operation, self.device, dtype) != (Operation::Fused, "sm_75", "bf16");
        if aimed {
            match self.operation {
                Operation::Fused => expect("instructions an element", instructions, 0.0, AIM_FUSED),
                Operation::Forward => {
                    expect("instructions an element", instructions, 0.0, AIM_FORWARD);
                }
                _ => {}
            }
        }
        let stated = COSTS.lines().find_map(|line| line.strip_prefix(&what)?.strip_prefix(','));
        match stated.map(str::parse::<f64>) {
            Some(Ok(stated)) => expect(
                "instructions an element",
                instructions,
                stated / INSTRUCTIONS - 0.01,
                stated * INSTRUCTIONS + 0.01,
            ),
            Some(Err(_)) | None => faults.push(format!(
                "{what}: no figure in tests/data/costs.csv (`cargo xtask costs`); found {instructions:.2}"
            )),
        }
        Ok(())
    }

    /// Matrices once, and what belongs to each row.
    fn needed<T: Element>(&self, Run { rows, classes, .. }: Run) -> Needed {
        let matrix = (rows * classes * size_of::<T>()) as f64;
        // A target is 8 bytes; a row's share of the scalar loss is written, read for the sum, and cleared.
        let (target, share, saved) = (8.0 * rows as f64, 4.0 * rows as f64, 16.0 * rows as f64);
        let left = 2.0 * share;
        let (read, written) = match self.operation {
            Operation::Fused | Operation::Weighted => (matrix + target + share, matrix + left),
            Operation::Forward => (matrix + target + share, left),
            Operation::Backward => (matrix + target + saved, matrix),
            Operation::Probabilities | Operation::Binary => (2.0 * matrix + share, matrix + left),
            Operation::LogSoftmax => (matrix, matrix),
            Operation::LogSoftmaxBackward => (2.0 * matrix, matrix),
        };
        Needed { read, written }
    }
}

/// The strategy of a plan.
fn planned<T: Element>(
    kernels: &Kernels,
    operation: Operation,
    Run { rows, classes, .. }: Run,
) -> Result<Strategy, Error> {
    let dtype = T::DTYPE;
    let pass = match operation {
        Operation::Forward | Operation::LogSoftmax => Pass::Forward,
        Operation::Backward | Operation::LogSoftmaxBackward => Pass::Backward,
        Operation::Fused | Operation::Weighted | Operation::Probabilities | Operation::Binary => {
            Pass::Fused
        }
    };
    let targets = match operation {
        Operation::Probabilities | Operation::Binary => TargetType::Probabilities(dtype),
        _ => TargetType::I64,
    };
    let class_weights = match operation {
        Operation::Weighted => ClassWeighting::Given,
        _ => ClassWeighting::Absent,
    };
    let types = Types { dtype, targets, class_weights };
    let shape = Shape::contiguous(rows, classes);
    let plan = match operation {
        Operation::LogSoftmax | Operation::LogSoftmaxBackward => {
            let shape = LogSoftmaxShape::contiguous(rows, classes);
            let problem = LogSoftmaxProblem::new(dtype, shape)?;
            return Ok(kernels.plan_log_softmax(&problem, pass)?.expect("there are rows").strategy);
        }
        Operation::Binary => {
            let config = BinaryConfig::default();
            kernels.plan_binary(&BinaryProblem::new(types, shape, config, pass, Place::Apart)?)?
        }
        _ => kernels.plan(&Problem::new(types, shape, config(), pass, Place::Apart)?)?,
    };
    match plan {
        Plan::Launches { rows, .. } => Ok(rows.strategy),
        Plan::Empty { .. } => panic!("there are rows"),
    }
}

fn config() -> LossConfig {
    LossConfig { label_smoothing: 0.1, ..LossConfig::default() }
}

trait Element: Logit + smoothxent::Target + DeviceRepr + ValidAsZeroBits + Copy {}
impl<T: Logit + smoothxent::Target + DeviceRepr + ValidAsZeroBits + Copy> Element for T {}

#[derive(Debug)]
enum Failure {
    Library(Error),
    Driver(DriverError),
    Report(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        Self::Driver(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(error) => error.fmt(f),
            Self::Driver(error) => write!(f, "{:?}", error.0),
            Self::Report(error) => error.fmt(f),
        }
    }
}

/// Numbers of no short period, as many as are asked for.
fn numbers<T: Element>(
    stream: &Arc<CudaStream>,
    seed: u64,
    count: usize,
    narrow: impl Fn(f32) -> T,
) -> Result<CudaSlice<T>, DriverError> {
    let mut state = seed;
    let numbers: Vec<T> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            narrow((state >> 40) as f32 / (1u64 << 24) as f32)
        })
        .collect();
    stream.clone_htod(&numbers)
}

fn launch<T: Element>(
    report: &Report,
    kernels: &Kernels,
    operation: Operation,
    run: Run,
    narrow: fn(f32) -> T,
) -> Result<(), Failure> {
    report.take().map_err(Failure::Report)?;
    let Run { rows, classes, .. } = run;
    let stream = kernels.context().default_stream();
    let len = rows * classes;
    let logits = numbers(&stream, 12345, len, |x| narrow((x - 0.5) * 16.0))?;
    // Not 7919, which is -1 modulo 33: a warp's targets would all be in one bank.
    let targets: Vec<i64> = (0..rows).map(|row| ((row * 7907 + 13) % classes) as i64).collect();
    let targets = stream.clone_htod(&targets)?;
    let mut gradient = stream.alloc_zeros::<T>(len)?;
    let mut workspace = Workspace::new(&stream, rows)?;
    let mut scalar = stream.alloc_zeros::<f32>(1)?;
    let config = config();
    let shape = Shape::contiguous(rows, classes);
    let inputs = LossInputs::new(shape, &logits, &targets);
    let outputs = LossOutputs { loss: Some(&mut scalar), ..LossOutputs::default() };
    let to = Gradient::new(&mut gradient);
    match operation {
        Operation::Fused => {
            loss::forward_backward(kernels, &stream, config, inputs, outputs, to, &mut workspace)?;
        }
        Operation::Forward => {
            loss::forward(kernels, &stream, config, inputs, outputs, &mut workspace)?;
        }
        Operation::Backward => {
            let mut saved = SavedSoftmax::new(&stream, rows)?;
            let outputs = LossOutputs { saved: Some(&mut saved), ..outputs };
            let elsewhere = kernels.clone().with_selection(Selection::Fastest);
            loss::forward(&elsewhere, &stream, config, inputs, outputs, &mut workspace)?;
            stream.synchronize()?;
            report.take().map_err(Failure::Report)?;
            loss::backward(kernels, &stream, config, inputs, &saved, to)?;
        }
        Operation::Weighted => {
            let weights: Vec<f32> = (0..classes).map(|k| 0.5 + (k % 13) as f32 / 8.0).collect();
            let weights = ClassWeights::new(&stream, &weights)?;
            let inputs = LossInputs { class_weights: Some(&weights), ..inputs };
            loss::forward_backward(kernels, &stream, config, inputs, outputs, to, &mut workspace)?;
        }
        Operation::Probabilities => {
            let q = numbers(&stream, 99, len, |x| narrow(x * 2.0 / classes as f32))?;
            let inputs = LossInputs::new(shape, &logits, &q);
            loss::forward_backward(kernels, &stream, config, inputs, outputs, to, &mut workspace)?;
        }
        Operation::LogSoftmax => {
            let shape = LogSoftmaxShape::contiguous(rows, classes);
            let outputs = LogSoftmaxOutputs::new(&mut gradient);
            log_softmax::forward(kernels, &stream, shape, &logits, outputs)?;
        }
        Operation::LogSoftmaxBackward => {
            let shape = LogSoftmaxShape::contiguous(rows, classes);
            let upstream = numbers(&stream, 99, len, |x| narrow(x - 0.5))?;
            let from = Softmax::OfLogProbabilities(&logits);
            log_softmax::backward(kernels, &stream, shape, from, &upstream, &mut gradient)?;
        }
        Operation::Binary => {
            let q = numbers(&stream, 99, len, narrow)?;
            let inputs = BinaryInputs::new(shape, &logits, &q);
            let outputs = BinaryOutputs { loss: Some(&mut scalar), ..BinaryOutputs::default() };
            let config = BinaryConfig::default();
            binary::forward_backward(
                kernels,
                &stream,
                config,
                inputs,
                outputs,
                to,
                &mut workspace,
            )?;
        }
    }
    stream.synchronize()?;
    Ok(())
}
