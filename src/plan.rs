//! From a [`Problem`] and a device's properties to the launches that solve it. Pure: a plan for any
//! GPU can be asked for anywhere.

mod tuning;

use crate::{
    abi,
    config::EmptyMean,
    error::Error,
    problem::{BinaryProblem, Dtype, InverseDivisor, LogSoftmaxProblem, Pass, Problem, Terms},
};

/// What a plan has to know of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceProperties {
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Blocks that a grid can have in its first dimension.
    pub max_grid: u32,
    /// Shared memory that one block can have when it asks for more than the default 48 KiB.
    pub shared_bytes_per_block: u32,
    /// Shared memory of one multiprocessor.
    pub shared_bytes_per_multiprocessor: u32,
}

impl DeviceProperties {
    /// What a block kernel leaves of a block's shared memory for the row.
    pub(crate) fn dynamic_shared_bytes(&self) -> u32 {
        self.shared_bytes_per_block.saturating_sub(abi::XENT_BLOCK_STATIC_SHARED_BYTES)
    }
}

/// A loaded kernel's name. `Kernel::symbol` is the only place that spells the symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Loss and gradient, or one of them, one block a row.
    FusedBlock(Dtype),
    /// The same with class weights in the smoothing term, or capped logits.
    FusedBlockGeneral(Dtype),
    /// The same with target probabilities.
    FusedProbabilitiesBlock(Dtype),
    /// Log-softmax, or softmax, one block a row.
    LogSoftmaxBlock(Dtype),
    /// Its gradient.
    LogSoftmaxBackwardBlock(Dtype),
    /// Binary cross-entropy and its gradient, one block a row.
    BinaryBlock(Dtype),
    /// What a mean divides by, when the targets decide it.
    Normalizer,
}

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

impl Kernel {
    /// How many there are.
    pub const COUNT: usize = 6 * DTYPES.len() + 1;

    /// All of them, in the order of [`Kernel::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        let families = [
            Self::FusedBlock,
            Self::FusedBlockGeneral,
            Self::FusedProbabilitiesBlock,
            Self::LogSoftmaxBlock,
            Self::LogSoftmaxBackwardBlock,
            Self::BinaryBlock,
        ];
        families.into_iter().flat_map(|family| DTYPES.map(family)).chain([Self::Normalizer])
    }

    /// Position in [`Kernel::all`].
    pub const fn index(self) -> usize {
        let (family, dtype) = match self {
            Self::FusedBlock(dtype) => (0, dtype),
            Self::FusedBlockGeneral(dtype) => (1, dtype),
            Self::FusedProbabilitiesBlock(dtype) => (2, dtype),
            Self::LogSoftmaxBlock(dtype) => (3, dtype),
            Self::LogSoftmaxBackwardBlock(dtype) => (4, dtype),
            Self::BinaryBlock(dtype) => (5, dtype),
            Self::Normalizer => return 6 * DTYPES.len(),
        };
        let dtype = match dtype {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::Bf16 => 2,
        };
        family * DTYPES.len() + dtype
    }

    /// Its name in the image.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::FusedBlock(Dtype::F32) => "xent_fused_block_f32",
            Self::FusedBlock(Dtype::F16) => "xent_fused_block_f16",
            Self::FusedBlock(Dtype::Bf16) => "xent_fused_block_bf16",
            Self::FusedBlockGeneral(Dtype::F32) => "xent_fused_block_general_f32",
            Self::FusedBlockGeneral(Dtype::F16) => "xent_fused_block_general_f16",
            Self::FusedBlockGeneral(Dtype::Bf16) => "xent_fused_block_general_bf16",
            Self::FusedProbabilitiesBlock(Dtype::F32) => "xent_fused_probabilities_block_f32",
            Self::FusedProbabilitiesBlock(Dtype::F16) => "xent_fused_probabilities_block_f16",
            Self::FusedProbabilitiesBlock(Dtype::Bf16) => "xent_fused_probabilities_block_bf16",
            Self::LogSoftmaxBlock(Dtype::F32) => "xent_log_softmax_block_f32",
            Self::LogSoftmaxBlock(Dtype::F16) => "xent_log_softmax_block_f16",
            Self::LogSoftmaxBlock(Dtype::Bf16) => "xent_log_softmax_block_bf16",
            Self::LogSoftmaxBackwardBlock(Dtype::F32) => "xent_log_softmax_backward_block_f32",
            Self::LogSoftmaxBackwardBlock(Dtype::F16) => "xent_log_softmax_backward_block_f16",
            Self::LogSoftmaxBackwardBlock(Dtype::Bf16) => "xent_log_softmax_backward_block_bf16",
            Self::BinaryBlock(Dtype::F32) => "xent_binary_block_f32",
            Self::BinaryBlock(Dtype::F16) => "xent_binary_block_f16",
            Self::BinaryBlock(Dtype::Bf16) => "xent_binary_block_bf16",
            Self::Normalizer => "xent_normalizer",
        }
    }

    /// Largest block that it is compiled for.
    pub const fn max_threads(self) -> u32 {
        match self {
            Self::FusedBlock(_) | Self::LogSoftmaxBlock(_) | Self::LogSoftmaxBackwardBlock(_) => {
                abi::XENT_MAX_THREADS
            }
            Self::FusedBlockGeneral(_) => abi::XENT_MAX_GENERAL_THREADS,
            Self::FusedProbabilitiesBlock(_) => abi::XENT_MAX_PROBABILITIES_THREADS,
            Self::BinaryBlock(_) => abi::XENT_MAX_BINARY_THREADS,
            Self::Normalizer => abi::XENT_NORMALIZER_THREADS,
        }
    }
}

/// One kernel launch; grids and blocks have one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Launch {
    /// Which kernel.
    pub kernel: Kernel,
    /// Blocks.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// How a problem is solved on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plan {
    /// There are no rows: nothing is launched, and this is the scalar loss.
    Empty {
        /// 0 for a sum, and what `EmptyMean` says for a mean.
        loss: f32,
    },
    /// One or two launches.
    Launches {
        /// Finds what a mean divides by, where the targets decide it.
        normalizer: Option<Launch>,
        /// Everything else.
        rows: RowsLaunch,
    },
}

/// A launch whose blocks take a row each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowsLaunch {
    /// The launch.
    pub launch: Launch,
    /// 16-byte packs of a row that stay in shared memory between its two passes.
    pub cached_packs: u32,
}

/// The fastest plan that the tuning table knows for a loss.
pub fn choose(problem: &Problem, device: &DeviceProperties) -> Plan {
    let rows = problem.shape().rows;
    let Terms { nll, smoothing, z_loss } = problem.inverse_divisors();
    if rows == 0 {
        return Plan::Empty { loss: loss_of_nothing(nll, problem.config().empty_mean) };
    }
    let dtype = problem.types().dtype;
    let probabilities = problem.types().targets.is_probabilities();
    let general = problem.weighs_smoothing() || problem.config().logit_softcap.is_some();
    let kernel = match (probabilities, general) {
        (true, _) => Kernel::FusedProbabilitiesBlock(dtype),
        (false, true) => Kernel::FusedBlockGeneral(dtype),
        (false, false) => Kernel::FusedBlock(dtype),
    };
    // With target probabilities, the f32 weight of each element is kept beside it.
    let weight_bytes =
        if probabilities { pack_elements(dtype) * size_of::<f32>() as u32 } else { 0 };
    // A pass alone goes over the logits once, but that a forward pass with probabilities looks again at
    // rows in which one class has most of the probability.
    let kept = match problem.pass() {
        Pass::Forward if !probabilities => Kept::Nothing,
        Pass::Backward => Kept::Nothing,
        Pass::Forward | Pass::Fused => Kept::Packs { bytes: abi::XENT_PACK_BYTES + weight_bytes },
    };
    let host_knows =
        [nll, smoothing, z_loss].iter().all(|divisor| matches!(divisor, InverseDivisor::Host(_)));
    // The backward pass finds the divisors where the forward pass saved them.
    let count = !host_knows && problem.pass() != Pass::Backward;
    Plan::Launches {
        normalizer: count.then(|| normalizer(rows, device)),
        rows: block_a_row(kernel, rows, row_packs(dtype, problem.classes()), kept, device),
    }
}

/// The fastest plan that the tuning table knows for a log-softmax; none if there are no rows.
pub fn choose_log_softmax(
    problem: &LogSoftmaxProblem,
    pass: Pass,
    device: &DeviceProperties,
) -> Option<RowsLaunch> {
    let (dtype, rows) = (problem.dtype(), problem.shape().rows);
    let kernel = match pass {
        Pass::Backward => Kernel::LogSoftmaxBackwardBlock(dtype),
        Pass::Forward | Pass::Fused => Kernel::LogSoftmaxBlock(dtype),
    };
    let packs = row_packs(dtype, problem.classes());
    let kept = Kept::Packs { bytes: abi::XENT_PACK_BYTES };
    (rows > 0).then(|| block_a_row(kernel, rows, packs, kept, device))
}

/// The fastest plan that the tuning table knows for a binary cross-entropy.
pub fn choose_binary(problem: &BinaryProblem, device: &DeviceProperties) -> Plan {
    let rows = problem.shape().rows;
    let divisor = problem.inverse_divisor();
    if rows == 0 {
        return Plan::Empty { loss: loss_of_nothing(divisor, problem.config().empty_mean) };
    }
    let dtype = problem.types().dtype;
    let packs = row_packs(dtype, problem.classes());
    let counts = !matches!(divisor, InverseDivisor::Host(_));
    Plan::Launches {
        normalizer: counts.then(|| normalizer(rows, device)),
        rows: block_a_row(Kernel::BinaryBlock(dtype), rows, packs, Kept::Nothing, device),
    }
}

/// The caller's number divides even nothing; every other divisor of a mean is 0.
fn loss_of_nothing(divisor: InverseDivisor, empty_mean: EmptyMean) -> f32 {
    let divided = matches!(divisor, InverseDivisor::Host(number) if number.is_finite());
    if divided || empty_mean == EmptyMean::Zero { 0.0 } else { f32::NAN }
}

/// What a block keeps of its row in shared memory.
#[derive(Clone, Copy)]
enum Kept {
    Nothing,
    /// Packs, with what belongs to each.
    Packs {
        bytes: u32,
    },
}

fn block_a_row(
    kernel: Kernel,
    rows: usize,
    packs: u32,
    kept: Kept,
    device: &DeviceProperties,
) -> RowsLaunch {
    // The whole row if a block can have it, else as much of it as fits.
    let (cached_packs, shared_bytes) = match kept {
        Kept::Nothing => (0, 0),
        Kept::Packs { bytes } => {
            let cached_packs = packs.min(device.dynamic_shared_bytes() / bytes);
            (cached_packs, cached_packs * bytes)
        }
    };
    RowsLaunch {
        launch: Launch {
            kernel,
            // The kernels step over the rows beyond.
            grid: clamp_grid(rows, device.max_grid),
            block: tuning::block_threads(packs).min(kernel.max_threads()),
            shared_bytes,
        },
        cached_packs,
    }
}

fn clamp_grid(blocks: usize, max: u32) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX).min(max)
}

/// Packs of a row whose start is aligned: an upper bound for one whose start is not.
fn row_packs(dtype: Dtype, classes: u32) -> u32 {
    classes / pack_elements(dtype)
}

fn pack_elements(dtype: Dtype) -> u32 {
    abi::XENT_PACK_BYTES / dtype.bytes() as u32
}

/// A warp for each chunk of rows, until the device is full.
fn normalizer(rows: usize, device: &DeviceProperties) -> Launch {
    let warps_per_block = abi::XENT_NORMALIZER_THREADS / WARP_SIZE;
    let rows_per_block = (warps_per_block * abi::XENT_CHUNK_ROWS) as usize;
    Launch {
        kernel: Kernel::Normalizer,
        grid: clamp_grid(
            rows.div_ceil(rows_per_block),
            (device.multiprocessors * tuning::NORMALIZER_BLOCKS_PER_MULTIPROCESSOR)
                .min(device.max_grid),
        ),
        block: abi::XENT_NORMALIZER_THREADS,
        shared_bytes: 0,
    }
}

const WARP_SIZE: u32 = 32;

/// Where things lie in a workspace that serves up to `capacity` rows, in 4-byte words.
///
/// Places depend on the capacity, not on the problem at hand: tickets have to be found at zero by
/// the next problem, whatever its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkspaceLayout {
    /// Rows that it serves.
    pub capacity: usize,
    pub chunk_tickets: usize,
    pub chunk_sums: usize,
    pub row_shares: usize,
    /// Words in all.
    pub words: usize,
}

impl WorkspaceLayout {
    /// # Errors
    /// [`Error::WorkspaceSize`] if so many rows cannot be addressed, or their chunks not counted.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        let chunks = capacity.div_ceil(abi::XENT_CHUNK_ROWS as usize);
        let chunk_tickets = size_of::<abi::XentWorkspace>() / size_of::<u32>();
        let words = chunks
            .checked_mul(2)
            .and_then(|of_chunks| of_chunks.checked_add(capacity))
            .and_then(|variable| variable.checked_add(chunk_tickets))
            .filter(|&words| words <= isize::MAX as usize / size_of::<u32>())
            .filter(|_| u32::try_from(chunks).is_ok())
            .ok_or(Error::WorkspaceSize { rows: capacity })?;
        let chunk_sums = chunk_tickets + chunks;
        let row_shares = chunk_sums + chunks;
        Ok(Self { capacity, chunk_tickets, chunk_sums, row_shares, words })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Divisor, Divisors, LossConfig, Reduction, Smoothing, WeightedTerms},
        problem::{ClassWeighting, LogSoftmaxShape, Place, Shape, TargetType, Types},
    };

    const H200: DeviceProperties = DeviceProperties {
        compute_capability: (9, 0),
        multiprocessors: 132,
        max_grid: i32::MAX as u32,
        shared_bytes_per_block: 232_448,
        shared_bytes_per_multiprocessor: 233_472,
    };

    fn plan(dtype: Dtype, rows: usize, classes: usize, config: LossConfig) -> Plan {
        plan_of(
            dtype,
            TargetType::I64,
            ClassWeighting::Absent,
            (rows, classes),
            config,
            Pass::Fused,
        )
    }

    fn plan_of(
        dtype: Dtype,
        targets: TargetType,
        class_weights: ClassWeighting,
        (rows, classes): (usize, usize),
        config: LossConfig,
        pass: Pass,
    ) -> Plan {
        let types = Types { dtype, targets, class_weights };
        let shape = Shape::contiguous(rows, classes);
        choose(&Problem::new(types, shape, config, pass, Place::Apart).unwrap(), &H200)
    }

    fn rows_launch(plan: Plan) -> RowsLaunch {
        match plan {
            Plan::Launches { rows, .. } => rows,
            Plan::Empty { .. } => panic!("there are rows"),
        }
    }

    #[test]
    fn symbols_are_distinct_and_indexed_in_order() {
        assert_eq!(Kernel::all().count(), Kernel::COUNT);
        for (position, kernel) in Kernel::all().enumerate() {
            assert_eq!(kernel.index(), position);
            let same = Kernel::all().filter(|other| other.symbol() == kernel.symbol());
            assert_eq!(same.count(), 1, "{}", kernel.symbol());
        }
    }

    #[test]
    fn no_rows_launch_nothing() {
        let mean = plan(Dtype::F32, 0, 10, LossConfig::default());
        assert!(matches!(mean, Plan::Empty { loss } if loss.is_nan()));
        let sum = LossConfig { reduction: Reduction::Sum, ..LossConfig::default() };
        assert_eq!(plan(Dtype::F32, 0, 10, sum), Plan::Empty { loss: 0.0 });
    }

    #[test]
    fn only_a_mean_with_ignored_rows_needs_the_device_to_count() {
        let launches_normalizer = |config| match plan(Dtype::F16, 5, 7, config) {
            Plan::Launches { normalizer, .. } => normalizer.is_some(),
            Plan::Empty { .. } => panic!("five rows are not empty"),
        };
        for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
            for ignore_index in [None, Some(-100)] {
                let config = LossConfig { reduction, ignore_index, ..LossConfig::default() };
                assert_eq!(
                    launches_normalizer(config),
                    reduction == Reduction::Mean && ignore_index.is_some()
                );
            }
        }
    }

    #[test]
    fn an_empty_mean_is_what_its_divisor_makes_of_it() {
        let loss = |config| match plan(Dtype::F32, 0, 10, config) {
            Plan::Empty { loss } => loss,
            Plan::Launches { .. } => panic!("there are no rows"),
        };
        let mean = LossConfig::default();
        for divisor in [Divisor::TargetWeights, Divisor::CountedRows, Divisor::AllRows] {
            let divisors = Divisors::all(divisor);
            assert!(loss(LossConfig { divisors, ..mean }).is_nan());
            assert_eq!(loss(LossConfig { divisors, empty_mean: EmptyMean::Zero, ..mean }), 0.0);
        }
        let divisors = Divisors::all(Divisor::Given(8.0));
        assert_eq!(loss(LossConfig { divisors, ..mean }), 0.0);
    }

    #[test]
    fn only_what_needs_the_general_kernel_pays_for_it() {
        let kernel = |class_weights, config| {
            let (dtype, targets) = (Dtype::Bf16, TargetType::I64);
            let sizes = (4, 1000);
            let plan = plan_of(dtype, targets, class_weights, sizes, config, Pass::Fused);
            rows_launch(plan).launch.kernel
        };
        let plain = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
        let hard = LossConfig::default();
        let on_nll = LossConfig { weighted_terms: WeightedTerms::Nll, ..plain };
        let others = LossConfig { smoothing: Smoothing::OtherClasses, ..plain };
        let rest = LossConfig { z_loss: 1e-4, logit_scale: 0.5, ignore_index: Some(0), ..plain };
        let capped = LossConfig { logit_softcap: Some(30.0), ..hard };
        let (absent, given) = (ClassWeighting::Absent, ClassWeighting::Given);
        for (class_weights, config) in
            [(absent, plain), (absent, others), (absent, rest), (given, hard), (given, on_nll)]
        {
            assert_eq!(kernel(class_weights, config), Kernel::FusedBlock(Dtype::Bf16));
        }
        for (class_weights, config) in [(given, plain), (given, others), (absent, capped)] {
            assert_eq!(kernel(class_weights, config), Kernel::FusedBlockGeneral(Dtype::Bf16));
        }
    }

    #[test]
    fn every_plan_is_launchable() {
        let targets = [TargetType::I32, TargetType::Probabilities(Dtype::F32)];
        for classes in [1, 2, 7, 8, 31, 32, 33, 1000, 4097, 50_257, 128_256, 1 << 24] {
            for rows in [1, 5, 1 << 31, 1 << 33] {
                for dtype in DTYPES {
                    let pack = 16 / dtype.bytes();
                    for targets in targets {
                        for pass in [Pass::Forward, Pass::Backward, Pass::Fused] {
                            let absent = ClassWeighting::Absent;
                            let config = LossConfig::default();
                            let sizes = (rows, classes);
                            let plan = plan_of(dtype, targets, absent, sizes, config, pass);
                            let weights = if targets.is_probabilities() { 4 * pack } else { 0 };
                            launchable(rows_launch(plan), classes / pack, 16 + weights);
                        }
                    }
                    let shape = LogSoftmaxShape::contiguous(rows, classes);
                    let problem = LogSoftmaxProblem::new(dtype, shape).unwrap();
                    for pass in [Pass::Forward, Pass::Backward] {
                        let plan = choose_log_softmax(&problem, pass, &H200).unwrap();
                        launchable(plan, classes / pack, 16);
                    }
                }
            }
        }
    }

    fn launchable(
        RowsLaunch { launch, cached_packs }: RowsLaunch,
        packs: usize,
        pack_bytes: usize,
    ) {
        assert!((1..=i32::MAX as u32).contains(&launch.grid));
        let threads = 32..=launch.kernel.max_threads();
        assert!(launch.block % 32 == 0 && threads.contains(&launch.block));
        let limit = H200.shared_bytes_per_block - abi::XENT_BLOCK_STATIC_SHARED_BYTES;
        assert!(launch.shared_bytes <= limit);
        assert_eq!(launch.shared_bytes as usize, cached_packs as usize * pack_bytes);
        assert!(cached_packs as usize <= packs);
    }

    #[test]
    fn a_pass_alone_keeps_nothing_and_sums_as_both_do() {
        let (absent, targets) = (ClassWeighting::Absent, TargetType::I64);
        let ignoring = LossConfig { ignore_index: Some(0), ..LossConfig::default() };
        let of = |pass| plan_of(Dtype::F16, targets, absent, (3, 50_257), ignoring, pass);
        let fused = rows_launch(of(Pass::Fused)).launch;
        for pass in [Pass::Forward, Pass::Backward] {
            let RowsLaunch { launch, cached_packs } = rows_launch(of(pass));
            assert_eq!((cached_packs, launch.shared_bytes), (0, 0));
            assert_eq!((launch.kernel, launch.block), (fused.kernel, fused.block));
            let counts = matches!(of(pass), Plan::Launches { normalizer: Some(_), .. });
            assert_eq!(counts, pass == Pass::Forward);
        }
    }

    #[test]
    fn a_row_that_fits_shared_memory_is_read_once() {
        let cached = |classes| {
            rows_launch(plan(Dtype::Bf16, 64, classes, LossConfig::default())).cached_packs
        };
        assert_eq!(cached(50_257), 50_257 / 8);
        let static_bytes = abi::XENT_BLOCK_STATIC_SHARED_BYTES as usize;
        let fits = (232_448 - static_bytes) / 16;
        assert_eq!(cached(8 * fits), fits as u32);
        assert_eq!(cached(128_256), fits as u32);
    }

    #[test]
    fn workspace_places_do_not_overlap() {
        for capacity in [0, 1, 1023, 1024, 1025, 1 << 23] {
            let layout = WorkspaceLayout::new(capacity).unwrap();
            let chunks = capacity.div_ceil(1024);
            assert_eq!(layout.chunk_tickets * 4, size_of::<abi::XentWorkspace>());
            assert_eq!(layout.chunk_sums - layout.chunk_tickets, chunks);
            assert_eq!(layout.row_shares - layout.chunk_sums, chunks);
            assert_eq!(layout.words - layout.row_shares, capacity);
        }
    }

    #[test]
    fn workspaces_beyond_memory_are_refused() {
        // The first two would wrap to a few bytes.
        for rows in [usize::MAX, 4_602_696_377_065_931_054, 1 << 62, (1 << 42) + 1] {
            assert_eq!(WorkspaceLayout::new(rows), Err(Error::WorkspaceSize { rows }));
        }
    }
}
