//! What a launch may cost, for every strategy, by the emulated driver's counts: bytes and 32-byte sectors of
//! device memory, lane-instructions an element, bank conflicts of shared memory. No GPU is needed, and none
//! would tell.
//!
//! `cargo test --test guards -- --nocapture` prints what is counted.

#[path = "common/report.rs"]
mod report;

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

/// A strategy on rows that are typical for it.
#[derive(Clone, Copy, Debug)]
struct Run {
    strategy: Strategy,
    rows: usize,
    classes: usize,
}

const fn run(strategy: Strategy, rows: usize, classes: usize) -> Run {
    Run { strategy, rows, classes }
}

const RUNS: [Run; 25] = [
    run(Strategy::Block, 32, 8),
    run(Strategy::Tiny, 1024, 2),
    run(Strategy::Tiny, 1024, 10),
    run(Strategy::Tiny, 1024, 32),
    run(Strategy::Tiny, 1024, 33),
    run(Strategy::Warp, 256, 100),
    run(Strategy::Warp, 256, 256),
    run(Strategy::Warp, 128, 1000),
    run(Strategy::Warp, 128, 1001),
    run(Strategy::Warp, 128, 1024),
    run(Strategy::Warp, 64, 2040),
    run(Strategy::Warp, 64, 2048),
    run(Strategy::Block, 32, 2049),
    run(Strategy::Block, 32, 4096),
    run(Strategy::Block, 16, 10450),
    run(Strategy::Block, 8, 21841),
    run(Strategy::Block, 8, 32000),
    run(Strategy::TwoPass, 8, 32000),
    run(Strategy::TwoPass, 8, 32001),
    run(Strategy::Cluster, 8, 32000),
    run(Strategy::Cluster, 8, 32001),
    run(Strategy::Cluster, 4, 50257),
    run(Strategy::Cluster, 4, 128256),
    run(Strategy::SplitRow, 4, 50257),
    run(Strategy::SplitRow, 4, 128256),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // SAFETY: no other thread runs yet.
    let report = unsafe { Report::begin() };
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
    if !name.starts_with("Emulated") {
        return Ok(Completion::ignored_with("only the emulated driver counts"));
    }
    let kernels = Kernels::load(&context).map_err(|error| error.to_string())?;
    let mut faults = vec![];
    for run in RUNS {
        faults.extend(one::<f32>(report, &kernels, operation, run, "f32", |x| x, print)?);
        faults.extend(one::<f16>(report, &kernels, operation, run, "f16", f16::from_f32, print)?);
        faults.extend(one::<bf16>(
            report,
            &kernels,
            operation,
            run,
            "bf16",
            bf16::from_f32,
            print,
        )?);
    }
    if faults.is_empty() { Ok(Completion::Completed) } else { Err(faults.join("\n")) }
}

fn one<T: Element>(
    report: &Report,
    kernels: &Kernels,
    operation: Operation,
    run: Run,
    dtype: &str,
    narrow: fn(f32) -> T,
    print: bool,
) -> Result<Option<String>, String> {
    report.take()?;
    let kernels = kernels.clone().with_selection(Selection::Pinned(run.strategy));
    match launch(&kernels, operation, run, narrow) {
        // Not every strategy takes every row, on every device.
        Err(Failure::Library(Error::Strategy { .. })) => return Ok(None),
        Err(failure) => return Err(failure.to_string()),
        Ok(()) => {}
    }
    let launches = report.take()?;
    let elements = (run.rows * run.classes) as f64;
    let b = size_of::<T>();
    if print {
        let sum = |f: fn(&Launch) -> u64| launches.iter().map(f).sum::<u64>() as f64;
        let bytes = elements * b as f64;
        println!(
            "{operation:?} {:9} {:6} x {:6} {dtype:4}: {:6.2} instructions ({:5.2} without moves), read {:.3} / {:.3} sectors, wrote {:.3} / {:.3} sectors, conflicts {:.4}",
            run.strategy,
            run.rows,
            run.classes,
            sum(|l| l.lane_instructions) / elements,
            sum(|l| l.lane_instructions - l.lane_instructions_by_class.r#move) / elements,
            sum(|l| l.global_bytes_read) / bytes,
            sum(|l| l.global_sectors_read) * 32.0 / bytes,
            sum(|l| l.global_bytes_written) / bytes,
            sum(|l| l.global_sectors_written) * 32.0 / bytes,
            sum(|l| l.shared_bank_conflicts) / sum(|l| l.shared_wavefronts).max(1.0),
        );
    }
    Ok(None)
}

trait Element: Logit + smoothxent::Target + DeviceRepr + ValidAsZeroBits + Copy {}
impl<T: Logit + smoothxent::Target + DeviceRepr + ValidAsZeroBits + Copy> Element for T {}

#[derive(Debug)]
enum Failure {
    Library(Error),
    Driver(DriverError),
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
    kernels: &Kernels,
    operation: Operation,
    run: Run,
    narrow: fn(f32) -> T,
) -> Result<(), Failure> {
    let Run { rows, classes, .. } = run;
    let stream = kernels.context().default_stream();
    let len = rows * classes;
    let logits = numbers(&stream, 12345, len, |x| narrow((x - 0.5) * 16.0))?;
    let targets: Vec<i64> = (0..rows).map(|row| ((row * 7919 + 13) % classes) as i64).collect();
    let targets = stream.clone_htod(&targets)?;
    let mut gradient = stream.alloc_zeros::<T>(len)?;
    let mut workspace = Workspace::new(&stream, rows)?;
    let mut scalar = stream.alloc_zeros::<f32>(1)?;
    let config = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
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
            REPORT_FROM_HERE.with(|mark| mark.set(true));
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
            let q = numbers(&stream, 99, len, |x| narrow(x))?;
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

thread_local! { static REPORT_FROM_HERE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) }; }
