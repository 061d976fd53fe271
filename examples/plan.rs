//! Prints how a problem would be solved on a device, and why. Needs neither a GPU nor nvcc.
//!
//! `cargo run --example plan -- --rows 8192 --classes 128256 --dtype bf16 --device h200`
//!
//! `--pin two_pass` asks for a strategy, as `Kernels::with_selection` does for calls, and says why where it
//! cannot take the problem.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use smoothxent::{
    BinaryConfig, Error, LogSoftmaxShape, LossConfig, Selection, Shape, Strategy,
    plan::{self, devices},
    problem::{
        BinaryProblem, ClassWeighting, Dtype, LogSoftmaxProblem, Pass, Place, Problem, TargetType,
        Types,
    },
};

/// Prints how a problem would be solved on a device, and why
#[derive(Parser)]
struct Arguments {
    /// Rows: samples, or tokens
    #[arg(long, default_value_t = 8192)]
    rows: usize,
    /// Classes, or the size of the vocabulary
    #[arg(long, default_value_t = 128_256)]
    classes: usize,
    /// Element type of logits and gradient
    #[arg(long, value_enum, default_value_t = DtypeName::Bf16)]
    dtype: DtypeName,
    /// A known device; all of them if left out
    #[arg(long, value_parser = device_names())]
    device: Option<String>,
    /// What is computed
    #[arg(long, value_enum, default_value_t = Operation::Fused)]
    operation: Operation,
    /// What the targets are
    #[arg(long, value_enum, default_value_t = TargetsName::Indices)]
    targets: TargetsName,
    /// Label smoothing
    #[arg(long, default_value_t = 0.0)]
    smoothing: f64,
    /// Index of rows that are ignored, which a mean has to count
    #[arg(long, allow_hyphen_values = true)]
    ignore_index: Option<i64>,
    /// With a weight for each class
    #[arg(long)]
    class_weights: bool,
    /// Cap on the logits
    #[arg(long)]
    softcap: Option<f64>,
    /// Only with this strategy
    #[arg(long, value_enum)]
    pin: Option<StrategyName>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeName {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Operation {
    /// Loss and gradient at once
    Fused,
    /// The loss alone
    Forward,
    /// The gradient alone, from what a forward pass saved
    Backward,
    LogSoftmax,
    LogSoftmaxBackward,
    /// Binary cross-entropy and its gradient
    Binary,
}

#[derive(Clone, Copy, ValueEnum)]
enum TargetsName {
    /// A class a row
    Indices,
    /// A number for each class, of the logits' type
    Probabilities,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum StrategyName {
    Tiny,
    Warp,
    Block,
    TwoPass,
    Cluster,
    SplitRow,
}

fn device_names() -> Vec<&'static str> {
    devices::ALL.iter().map(|device| device.name).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen = |device: &&devices::Device| {
        arguments.device.as_ref().is_none_or(|name| name == device.name)
    };
    let Arguments { rows, classes, .. } = arguments;
    let dtype = value_name(&arguments.dtype);
    println!("{rows} x {classes} {dtype}, rows x classes");
    for device in devices::ALL.iter().filter(chosen) {
        match arguments.explain(device) {
            Ok(text) => println!("\n{text}"),
            Err(error) => {
                eprintln!("\n{}: {error}", device.name);
                if arguments.device.is_some() {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}

fn value_name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl Arguments {
    fn explain(&self, device: &devices::Device) -> Result<String, Error> {
        let properties = &device.properties;
        let operation = value_name(&self.operation);
        let plan = match self.operation {
            Operation::Fused => self.loss(properties, Pass::Fused)?,
            Operation::Forward => self.loss(properties, Pass::Forward)?,
            Operation::Backward => self.loss(properties, Pass::Backward)?,
            Operation::LogSoftmax => self.log_softmax(properties, Pass::Forward)?,
            Operation::LogSoftmaxBackward => self.log_softmax(properties, Pass::Backward)?,
            Operation::Binary => {
                let config = BinaryConfig {
                    label_smoothing: self.smoothing,
                    ignore_index: self.ignore_index,
                    ..BinaryConfig::default()
                };
                let (types, shape) = (self.types(), self.shape());
                let problem = BinaryProblem::new(types, shape, config, Pass::Fused, Place::Apart)?;
                plan::choose_binary(&problem, properties, self.selection())?.to_string()
            }
        };
        let limit = self.bytes() / device.bytes_per_second * 1e6;
        Ok(format!(
            "{operation} on {}\n{plan}\nlimit      {limit:.2} us: {:.2} MB at the rated {:.0} GB/s",
            device.name,
            self.bytes() / 1e6,
            device.bytes_per_second / 1e9,
        ))
    }

    fn loss(&self, device: &plan::DeviceProperties, pass: Pass) -> Result<String, Error> {
        let config = LossConfig {
            label_smoothing: self.smoothing,
            ignore_index: self.ignore_index,
            logit_softcap: self.softcap,
            ..LossConfig::default()
        };
        let problem = Problem::new(self.types(), self.shape(), config, pass, Place::Apart)?;
        Ok(plan::choose(&problem, device, self.selection())?.to_string())
    }

    fn log_softmax(&self, device: &plan::DeviceProperties, pass: Pass) -> Result<String, Error> {
        let shape = LogSoftmaxShape::contiguous(self.rows, self.classes);
        let problem = LogSoftmaxProblem::new(self.dtype(), shape)?;
        let plan = plan::choose_log_softmax(&problem, pass, device, self.selection())?;
        Ok(plan.map_or("no rows: nothing is launched".to_owned(), |plan| plan.to_string()))
    }

    /// The least that goes through memory.
    fn bytes(&self) -> f64 {
        let matrices = match (self.operation, self.targets) {
            (Operation::Forward, TargetsName::Indices) => 1.0,
            (Operation::Fused | Operation::Backward, TargetsName::Indices) => 2.0,
            (Operation::Forward, TargetsName::Probabilities) => 2.0,
            (Operation::Fused | Operation::Backward, TargetsName::Probabilities) => 3.0,
            (Operation::Binary, TargetsName::Indices) | (Operation::LogSoftmax, _) => 2.0,
            (Operation::Binary, TargetsName::Probabilities) => 3.0,
            (Operation::LogSoftmaxBackward, _) => 3.0,
        };
        matrices * self.rows as f64 * self.classes as f64 * self.dtype().bytes() as f64
    }

    fn dtype(&self) -> Dtype {
        match self.dtype {
            DtypeName::F32 => Dtype::F32,
            DtypeName::F16 => Dtype::F16,
            DtypeName::Bf16 => Dtype::Bf16,
        }
    }

    fn types(&self) -> Types {
        let dtype = self.dtype();
        let targets = match self.targets {
            TargetsName::Indices => TargetType::I64,
            TargetsName::Probabilities => TargetType::Probabilities(dtype),
        };
        let class_weights =
            if self.class_weights { ClassWeighting::Given } else { ClassWeighting::Absent };
        Types { dtype, targets, class_weights }
    }

    fn shape(&self) -> Shape {
        Shape::contiguous(self.rows, self.classes)
    }

    fn selection(&self) -> Selection {
        let strategy = match self.pin {
            None => return Selection::Fastest,
            Some(StrategyName::Tiny) => Strategy::Tiny,
            Some(StrategyName::Warp) => Strategy::Warp,
            Some(StrategyName::Block) => Strategy::Block,
            Some(StrategyName::TwoPass) => Strategy::TwoPass,
            Some(StrategyName::Cluster) => Strategy::Cluster,
            Some(StrategyName::SplitRow) => Strategy::SplitRow,
        };
        Selection::Pinned(strategy)
    }
}
