//! What is measured: shapes, dtypes, passes and variants, and which of them matter most.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use smoothxent::{
    BinaryConfig, Error, Kernels, LogSoftmaxShape, LossConfig, Shape, Strategy,
    plan::{Normalizer, Plan, RowsPlan},
    problem::{
        BinaryProblem, ClassWeighting, Dtype, LogSoftmaxProblem, Pass, Place, Problem, TargetType,
        Types,
    },
};

use crate::aims;

pub const SMOOTHING: f64 = 0.1;

/// PyTorch's, which the comparison with other implementations has: a mean then counts the rows that are not ignored.
pub const IGNORE_INDEX: i64 = -100;

/// Tiny, image and language problems: many short rows to few long ones.
pub const GRID: [Size; 14] = [
    Size::new(65_536, 10, Dtype::F32),
    Size::new(65_536, 10, Dtype::F16),
    Size::new(4096, 1000, Dtype::F32),
    Size::new(4096, 1000, Dtype::Bf16),
    Size::new(8192, 32_000, Dtype::F16),
    Size::new(8192, 32_000, Dtype::Bf16),
    Size::new(8192, 32_000, Dtype::F32),
    Size::new(8192, 50_257, Dtype::F16),
    Size::new(8192, 50_257, Dtype::Bf16),
    Size::new(4096, 128_256, Dtype::F16),
    Size::new(4096, 128_256, Dtype::Bf16),
    Size::new(2048, 128_256, Dtype::F32),
    Size::new(64, 128_256, Dtype::Bf16),
    Size::new(64, 128_256, Dtype::F32),
];

pub const QUICK_GRID: [Size; 3] = [
    Size::new(65_536, 10, Dtype::F16),
    Size::new(4096, 1000, Dtype::Bf16),
    Size::new(8192, 32_000, Dtype::Bf16),
];

/// What `--tune` measures, most important first: each place where the table of strategies changes its
/// mind has shapes on both sides.
const TUNE_SIZES: [(usize, usize); 33] = [
    // Language: rows that fit a block, that do not, and that are odd.
    (8192, 32_000),
    (8192, 128_256),
    (8192, 50_257),
    (4096, 1000),
    (1 << 20, 10),
    (65_536, 1000),
    (4096, 21_841),
    (1 << 20, 32),
    (64, 128_256),
    (64, 32_000),
    (1, 128_256),
    (65_536, 100),
    (2048, 262_144),
    (4096, 65_536),
    (4096, 10_450),
    // Small ones.
    (128, 1000),
    (64, 10),
    (8, 32_000),
    (256, 100),
    (1, 1000),
    // What is left of the grid, and neighbours of thresholds.
    (1 << 23, 2),
    (1 << 23, 3),
    (1 << 20, 16),
    (1 << 20, 48),
    (1 << 20, 64),
    (1 << 18, 128),
    (65_536, 365),
    (32_768, 2048),
    (16_384, 4096),
    (1024, 128_256),
    (256, 21_841),
    (256, 50_257),
    (4096, 201_088),
];

/// The order in which passes and dtypes matter. f16 differs little from bf16.
const TUNE_KINDS: [(Pass, Dtype); 9] = [
    (Pass::Fused, Dtype::Bf16),
    (Pass::Fused, Dtype::F32),
    (Pass::Forward, Dtype::Bf16),
    (Pass::Backward, Dtype::Bf16),
    (Pass::Forward, Dtype::F32),
    (Pass::Backward, Dtype::F32),
    (Pass::Fused, Dtype::F16),
    (Pass::Forward, Dtype::F16),
    (Pass::Backward, Dtype::F16),
];

/// In place of either grid where no times are taken: every strategy has a shape of its own.
pub const SMOKE_SIZES: [(usize, usize); 5] = [(7, 10), (5, 300), (3, 2500), (2, 9001), (1, 40_000)];

/// Rows, classes, dtype.
#[derive(Clone, Copy, PartialEq)]
pub struct Size {
    pub rows: usize,
    pub classes: usize,
    pub dtype: Dtype,
}

impl Size {
    const fn new(rows: usize, classes: usize, dtype: Dtype) -> Self {
        Self { rows, classes, dtype }
    }
}

/// What is computed, as `--variants` and a record name it.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Variant {
    /// Softmax cross-entropy of class indices
    Plain,
    /// The same with class weights on every term
    Weighted,
    /// Softmax cross-entropy of target probabilities of the logits' type
    Probabilities,
    /// Log-softmax; its backward pass is from log-probabilities
    LogSoftmax,
    /// Binary cross-entropy of target probabilities of the logits' type
    Binary,
}

impl Variant {
    #[allow(dead_code, reason = "benches/device.rs has them all")]
    pub const ALL: [Self; 5] =
        [Self::Plain, Self::Weighted, Self::Probabilities, Self::LogSoftmax, Self::Binary];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Weighted => "weighted",
            Self::Probabilities => "probabilities",
            Self::LogSoftmax => "log_softmax",
            Self::Binary => "binary",
        }
    }

    /// Whether there is such a pass: log-softmax has no loss to be fused with its gradient.
    fn has(self, pass: Pass) -> bool {
        self != Self::LogSoftmax || pass != Pass::Fused
    }

    /// Whether such a pass reads a matrix beside the logits.
    pub fn has_second_matrix(self, pass: Pass) -> bool {
        match self {
            Self::Plain | Self::Weighted => false,
            Self::Probabilities | Self::Binary => true,
            // The upstream gradient.
            Self::LogSoftmax => pass == Pass::Backward,
        }
    }
}

/// One thing to measure.
#[derive(Clone, Copy, PartialEq)]
pub struct Case {
    pub rows: usize,
    pub classes: usize,
    pub dtype: Dtype,
    pub pass: Pass,
    pub variant: Variant,
}

impl Case {
    pub fn of(size: Size, pass: Pass) -> Self {
        let Size { rows, classes, dtype } = size;
        Self { rows, classes, dtype, pass, variant: Variant::Plain }
    }

    pub fn shape(&self) -> Shape {
        Shape::contiguous(self.rows, self.classes)
    }

    /// What goes over the rows under these kernels' selection, and how many launches there are with the
    /// normalizer; none if they cannot take the case.
    pub fn plan(&self, kernels: &Kernels) -> Result<Option<(RowsPlan, usize)>, Error> {
        let &Self { rows, classes, dtype, pass, variant } = self;
        let (targets, class_weights) = match variant {
            Variant::Plain => (TargetType::I64, ClassWeighting::Absent),
            Variant::Weighted => (TargetType::I64, ClassWeighting::Given),
            Variant::Probabilities | Variant::Binary => {
                (TargetType::Probabilities(dtype), ClassWeighting::Absent)
            }
            Variant::LogSoftmax => {
                let shape = LogSoftmaxShape::contiguous(rows, classes);
                let problem = LogSoftmaxProblem::new(dtype, shape)?;
                let plan = kernels.plan_log_softmax(&problem, pass).unwrap_or_default();
                return Ok(plan.map(|rows| (rows, rows.steps().count())));
            }
        };
        let types = Types { dtype, targets, class_weights };
        let (shape, place) = (self.shape(), Place::Apart);
        let plan = match variant {
            Variant::Binary => kernels.plan_binary(&BinaryProblem::new(
                types,
                shape,
                binary_config(),
                pass,
                place,
            )?),
            _ => kernels.plan(&Problem::new(types, shape, config(), pass, place)?),
        };
        Ok(match plan {
            Ok(Plan::Launches { normalizer, rows }) => {
                let first = usize::from(matches!(normalizer, Normalizer::Launch(_)));
                Some((rows, first + rows.steps().count()))
            }
            Ok(Plan::Empty { .. }) | Err(_) => None,
        })
    }

    /// Targets that are probabilities have none.
    pub fn ignore_index(&self) -> Option<i64> {
        matches!(self.variant, Variant::Plain | Variant::Weighted).then_some(IGNORE_INDEX)
    }

    pub fn matrix_bytes(&self) -> usize {
        self.rows * self.classes * self.dtype.bytes()
    }

    /// The least that has to be read and written, each once; between a forward and a backward pass at least a
    /// log-sum-exp of each row is kept.
    pub fn bytes(&self) -> usize {
        const TARGET: usize = size_of::<i64>();
        const LOG_SUM_EXP: usize = size_of::<f32>();
        let target = match self.variant {
            Variant::Plain | Variant::Weighted => TARGET,
            Variant::Probabilities | Variant::LogSoftmax | Variant::Binary => 0,
        };
        let of_row = match (self.variant, self.pass) {
            (Variant::LogSoftmax | Variant::Binary, _) => 0,
            (_, Pass::Fused) => target,
            (_, Pass::Forward | Pass::Backward) => target + LOG_SUM_EXP,
        };
        self.matrices() * self.matrix_bytes() + self.rows * of_row
    }

    /// Matrices that are read and written. Class weights stay in the cache.
    pub fn matrices(&self) -> usize {
        let written =
            usize::from(self.pass != Pass::Forward || self.variant == Variant::LogSoftmax);
        1 + usize::from(self.variant.has_second_matrix(self.pass)) + written
    }

    /// Elements that a copy has to take so that it moves as much as the matrices; no more than there are.
    pub fn copied_elements(&self) -> usize {
        let all = self.rows * self.classes;
        if self.matrices() == 1 { (all / 2).max(1) } else { all }
    }

    /// The share of a copy's bytes a second that it should reach at least; none where latency decides, or where
    /// none was set.
    pub fn aim(&self) -> Option<f32> {
        if self.variant != Variant::Plain {
            return None;
        }
        let of_pass = match self.pass {
            Pass::Fused => aims::FUSED_OF_COPY,
            Pass::Forward | Pass::Backward => aims::ONE_PASS_OF_COPY,
        };
        aims::of_copy(self.bytes(), self.classes, of_pass)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = format!("{} x {}", self.rows, self.classes);
        let (dtype, pass) = (dtype_name(self.dtype), pass_name(self.pass));
        write!(f, "{size:<16} {dtype:<4} {pass:<8} {:<13}", self.variant.name())
    }
}

pub fn config() -> LossConfig {
    LossConfig {
        label_smoothing: SMOOTHING,
        ignore_index: Some(IGNORE_INDEX),
        ..LossConfig::default()
    }
}

pub fn binary_config() -> BinaryConfig {
    BinaryConfig { label_smoothing: SMOOTHING, ..BinaryConfig::default() }
}

pub fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::Bf16 => "bf16",
    }
}

pub fn pass_name(pass: Pass) -> &'static str {
    match pass {
        Pass::Fused => "fused",
        Pass::Forward => "forward",
        Pass::Backward => "backward",
    }
}

/// As `--pass` names it.
#[derive(Clone, Copy, ValueEnum)]
pub enum PassName {
    Fused,
    Forward,
    Backward,
}

impl From<PassName> for Pass {
    fn from(name: PassName) -> Self {
        match name {
            PassName::Fused => Self::Fused,
            PassName::Forward => Self::Forward,
            PassName::Backward => Self::Backward,
        }
    }
}

/// As `--strategy` names it.
pub fn parse_strategy(text: &str) -> Result<Strategy, String> {
    let names = || Strategy::ALL.map(|strategy| strategy.to_string());
    let found = Strategy::ALL.into_iter().find(|strategy| strategy.to_string() == text);
    found.ok_or_else(|| format!("one of {}", names().join(", ")))
}

/// As `--shapes` names it: `8192x32000`, of every dtype, or `8192x32000:bf16`.
#[derive(Clone, Copy)]
pub struct Named {
    rows: usize,
    classes: usize,
    dtype: Option<Dtype>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || "ROWSxCLASSES or ROWSxCLASSES:DTYPE, such as 8192x32000:bf16".to_owned();
        let (size, dtype) = match text.split_once(':') {
            None => (text, None),
            Some((size, "f32")) => (size, Some(Dtype::F32)),
            Some((size, "f16")) => (size, Some(Dtype::F16)),
            Some((size, "bf16")) => (size, Some(Dtype::Bf16)),
            Some(_) => return Err(wanted()),
        };
        let (rows, classes) = size.split_once('x').ok_or_else(wanted)?;
        let number = |text: &str| text.parse().ok().filter(|&number| number > 0);
        let rows = number(rows).ok_or_else(wanted)?;
        let classes = number(classes).ok_or_else(wanted)?;
        Ok(Self { rows, classes, dtype })
    }
}

impl Named {
    fn sizes(self) -> Vec<Size> {
        let of = |dtype| Size::new(self.rows, self.classes, dtype);
        match self.dtype {
            Some(dtype) => vec![of(dtype)],
            None => [Dtype::Bf16, Dtype::F32, Dtype::F16].map(of).to_vec(),
        }
    }
}

/// Shapes that were asked for, of these passes.
pub fn named(shapes: &[Named], passes: &[Pass]) -> Vec<Case> {
    let sizes: Vec<Size> = shapes.iter().flat_map(|named| named.sizes()).collect();
    of(&sizes, passes)
}

pub fn of(shapes: &[Size], passes: &[Pass]) -> Vec<Case> {
    let each = passes.iter().flat_map(|&pass| shapes.iter().map(move |&of| Case::of(of, pass)));
    each.collect()
}

/// The cases of `--tune`, most important first.
pub fn tune(passes: &[Pass]) -> Vec<Case> {
    kinds(passes, &TUNE_SIZES)
}

pub fn smoke(passes: &[Pass]) -> Vec<Case> {
    kinds(passes, &SMOKE_SIZES)
}

fn kinds(passes: &[Pass], sizes: &[(usize, usize)]) -> Vec<Case> {
    let kinds = TUNE_KINDS.into_iter().filter(|(pass, _)| passes.contains(pass));
    let of = |(pass, dtype)| {
        sizes.iter().map(move |&(rows, classes)| Case::of(Size { rows, classes, dtype }, pass))
    };
    kinds.flat_map(of).collect()
}

/// The same in each of `variants`, as far as they have the pass.
pub fn varied(cases: &[Case], variants: &[Variant]) -> Vec<Case> {
    let each = variants.iter().flat_map(|&variant| {
        let there = cases.iter().filter(move |case| variant.has(case.pass));
        there.map(move |&case| Case { variant, ..case })
    });
    each.collect()
}
