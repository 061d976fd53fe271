//! From a [`Problem`] and a device's properties to the launches that solve it. Pure: a plan for any
//! GPU can be asked for anywhere.

mod tuning;

use crate::{
    abi,
    error::Error,
    problem::{Dtype, EmptyMean, InverseDivisor, Problem, Terms},
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
    /// Loss and gradient in one pass, one block a row.
    FusedBlock(Dtype),
    /// The same with class weights in the smoothing term, or capped logits.
    FusedBlockGeneral(Dtype),
    /// What a mean divides by, when the targets decide it.
    Normalizer,
}

impl Kernel {
    /// All of them, in the order of [`Kernel::index`].
    pub const ALL: [Self; 7] = [
        Self::FusedBlock(Dtype::F32),
        Self::FusedBlock(Dtype::F16),
        Self::FusedBlock(Dtype::Bf16),
        Self::FusedBlockGeneral(Dtype::F32),
        Self::FusedBlockGeneral(Dtype::F16),
        Self::FusedBlockGeneral(Dtype::Bf16),
        Self::Normalizer,
    ];

    /// Position in [`Kernel::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::FusedBlock(Dtype::F32) => 0,
            Self::FusedBlock(Dtype::F16) => 1,
            Self::FusedBlock(Dtype::Bf16) => 2,
            Self::FusedBlockGeneral(Dtype::F32) => 3,
            Self::FusedBlockGeneral(Dtype::F16) => 4,
            Self::FusedBlockGeneral(Dtype::Bf16) => 5,
            Self::Normalizer => 6,
        }
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
            Self::Normalizer => "xent_normalizer",
        }
    }

    /// Largest block that it is compiled for.
    pub const fn max_threads(self) -> u32 {
        match self {
            Self::FusedBlock(_) => abi::XENT_MAX_THREADS,
            Self::FusedBlockGeneral(_) => abi::XENT_MAX_GENERAL_THREADS,
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
    Fused {
        /// Finds what a mean divides by, where the targets decide it.
        normalizer: Option<Launch>,
        /// Loss and gradient.
        fused: Launch,
        /// 16-byte packs of a row that stay in shared memory between its two passes.
        cached_packs: u32,
    },
}

/// The fastest plan that the tuning table knows.
pub fn choose(problem: &Problem, device: &DeviceProperties) -> Plan {
    let rows = problem.shape().rows;
    if rows == 0 {
        // The caller's number divides even nothing; every other divisor of a mean is 0.
        let divided =
            matches!(problem.inverse_divisors().nll, InverseDivisor::Host(n) if n.is_finite());
        let nan = !divided && problem.config().empty_mean == EmptyMean::Nan;
        return Plan::Empty { loss: if nan { f32::NAN } else { 0.0 } };
    }
    let packs = row_packs(problem);
    let cached_packs = cached_packs(packs, device);
    let general = problem.weighs_smoothing() || problem.config().logit_softcap.is_some();
    let kernel = if general {
        Kernel::FusedBlockGeneral(problem.dtype())
    } else {
        Kernel::FusedBlock(problem.dtype())
    };
    let Terms { nll, smoothing, z_loss } = problem.inverse_divisors();
    let host_knows =
        [nll, smoothing, z_loss].iter().all(|divisor| matches!(divisor, InverseDivisor::Host(_)));
    Plan::Fused {
        normalizer: (!host_knows).then(|| normalizer(rows, device)),
        fused: Launch {
            kernel,
            // The kernels step over the rows beyond.
            grid: clamp_grid(rows, device.max_grid),
            block: tuning::block_threads(packs).min(kernel.max_threads()),
            shared_bytes: cached_packs * abi::XENT_PACK_BYTES,
        },
        cached_packs,
    }
}

fn clamp_grid(blocks: usize, max: u32) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX).min(max)
}

/// Packs of a row whose start is aligned: an upper bound for one whose start is not.
fn row_packs(problem: &Problem) -> u32 {
    let pack_elements = abi::XENT_PACK_BYTES / problem.dtype().bytes() as u32;
    problem.classes() / pack_elements
}

/// The whole row if a block can have it, else as much of it as fits.
fn cached_packs(packs: u32, device: &DeviceProperties) -> u32 {
    packs.min(device.dynamic_shared_bytes() / abi::XENT_PACK_BYTES)
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
    use crate::problem::{
        ClassWeights, Divisor, Divisors, LossConfig, Reduction, Shape, Smoothing, TargetType,
        WeightedTerms,
    };

    const H200: DeviceProperties = DeviceProperties {
        compute_capability: (9, 0),
        multiprocessors: 132,
        max_grid: i32::MAX as u32,
        shared_bytes_per_block: 232_448,
        shared_bytes_per_multiprocessor: 233_472,
    };

    fn plan(dtype: Dtype, rows: usize, classes: usize, config: LossConfig) -> Plan {
        let shape = Shape::contiguous(rows, classes);
        let problem = Problem::new(dtype, TargetType::I64, ClassWeights::Absent, shape, config);
        choose(&problem.unwrap(), &H200)
    }

    #[test]
    fn symbols_are_distinct_and_indexed_in_order() {
        for (position, kernel) in Kernel::ALL.iter().enumerate() {
            assert_eq!(kernel.index(), position);
            let same = Kernel::ALL.iter().filter(|other| other.symbol() == kernel.symbol());
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
            Plan::Fused { normalizer, .. } => normalizer.is_some(),
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
            Plan::Fused { .. } => panic!("there are no rows"),
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
            let shape = Shape::contiguous(4, 1000);
            let problem =
                Problem::new(Dtype::Bf16, TargetType::I64, class_weights, shape, config).unwrap();
            match choose(&problem, &H200) {
                Plan::Fused { fused, .. } => fused.kernel,
                Plan::Empty { .. } => panic!("four rows are not empty"),
            }
        };
        let plain = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
        let hard = LossConfig::default();
        let on_nll = LossConfig { weighted_terms: WeightedTerms::Nll, ..plain };
        let others = LossConfig { smoothing: Smoothing::OtherClasses, ..plain };
        let rest = LossConfig { z_loss: 1e-4, logit_scale: 0.5, ignore_index: Some(0), ..plain };
        let capped = LossConfig { logit_softcap: Some(30.0), ..hard };
        let (absent, given) = (ClassWeights::Absent, ClassWeights::Given);
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
        for classes in [1, 2, 7, 8, 31, 32, 33, 1000, 4097, 50_257, 128_256, 1 << 24] {
            for rows in [1, 5, 1 << 31, 1 << 33] {
                for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                    let Plan::Fused { fused, cached_packs, .. } =
                        plan(dtype, rows, classes, LossConfig::default())
                    else {
                        panic!("{rows} rows are not empty")
                    };
                    assert!((1..=i32::MAX as u32).contains(&fused.grid));
                    assert!(
                        fused.block % 32 == 0
                            && (32..=fused.kernel.max_threads()).contains(&fused.block)
                    );
                    let limit = H200.shared_bytes_per_block - abi::XENT_BLOCK_STATIC_SHARED_BYTES;
                    assert!(fused.shared_bytes <= limit);
                    assert_eq!(fused.shared_bytes, cached_packs * 16);
                    assert!(cached_packs as usize * 16 <= classes * dtype.bytes());
                }
            }
        }
    }

    #[test]
    fn a_row_that_fits_shared_memory_is_read_once() {
        let cached = |classes| match plan(Dtype::Bf16, 64, classes, LossConfig::default()) {
            Plan::Fused { cached_packs, .. } => cached_packs,
            Plan::Empty { .. } => panic!("64 rows are not empty"),
        };
        assert_eq!(cached(50_257), 50_257 / 8);
        let fits = (232_448 - 512) / 16;
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
