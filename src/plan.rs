//! From a problem and a device's properties to the launches that solve it. Pure: a plan for any GPU
//! can be asked for anywhere, and printed.
//!
//! ```
//! use smoothxent::plan::{self, devices};
//! use smoothxent::problem::{ClassWeighting, Dtype, Pass, Place, Problem, TargetType, Types};
//! use smoothxent::{LossConfig, Selection, Shape};
//!
//! # fn main() -> Result<(), smoothxent::Error> {
//! let types = Types {
//!     dtype: Dtype::Bf16,
//!     targets: TargetType::I64,
//!     class_weights: ClassWeighting::Absent,
//! };
//! let (shape, config) = (Shape::contiguous(8192, 128_256), LossConfig::default());
//! let problem = Problem::new(types, shape, config, Pass::Fused, Place::Apart)?;
//! let plan = plan::choose(&problem, &devices::H200.properties, Selection::Fastest)?;
//! println!("{plan}");
//! # Ok(())
//! # }
//! ```

mod cut;
pub mod devices;
mod explain;
mod kernel;
mod planner;
mod reason;
#[cfg(test)]
mod tests;
mod tuning;
mod workspace;

pub use crate::config::{Selection, Strategy};
pub use kernel::{Family, Kernel};
pub use planner::Planner;
pub use reason::{Considered, Ground, Reasons, Verdict};
pub use tuning::Provenance;
pub(crate) use workspace::WorkspaceLayout;

use cut::{Kept, Operation, Work};

use crate::{
    abi,
    config::EmptyMean,
    error::Error,
    problem::{
        BinaryProblem, Dtype, InverseDivisor, LogSoftmaxProblem, LogSoftmaxShape, Pass, Place,
        Problem,
    },
};

const WARP_SIZE: u32 = 32;

/// What a plan has to know of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceProperties {
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// That which the loaded kernels were compiled for: an older one where the build had none for this device, and
    /// the driver compiled them from PTX.
    pub compiled_for: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Blocks that a grid can have in its first dimension.
    pub max_grid: u32,
    /// 32-bit registers of one multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// Threads that one multiprocessor can hold.
    pub threads_per_multiprocessor: u32,
    /// Blocks that one multiprocessor can hold.
    pub blocks_per_multiprocessor: u32,
    /// Shared memory that one block can have when it asks for more than the default 48 KiB.
    pub shared_bytes_per_block: u32,
    /// Shared memory of one multiprocessor.
    pub shared_bytes_per_multiprocessor: u32,
    /// What the driver takes of it for each block.
    pub reserved_shared_bytes_per_block: u32,
    /// The most blocks of a cluster, each with all the shared memory that plans ask for, that can be
    /// placed; 1 where there are no clusters.
    pub largest_cluster: u32,
    /// Size of the L2 cache.
    pub l2_bytes: u32,
}

impl DeviceProperties {
    /// What the block and cluster kernels leave of a block's shared memory for the row.
    pub(crate) fn dynamic_shared_bytes(&self) -> u32 {
        self.shared_bytes_per_block.saturating_sub(abi::XENT_BLOCK_STATIC_SHARED_BYTES)
    }

    /// The same for each of so many blocks that are to share a multiprocessor.
    fn dynamic_shared_bytes_of(&self, blocks: u32) -> u32 {
        let fixed = self.reserved_shared_bytes_per_block + abi::XENT_BLOCK_STATIC_SHARED_BYTES;
        let each = (self.shared_bytes_per_multiprocessor / blocks).saturating_sub(fixed);
        each.min(self.dynamic_shared_bytes())
    }

    /// Kernels have clusters, and wait for an earlier launch, only if they were compiled for a device that can.
    pub(crate) fn generation(&self) -> Generation {
        if self.compiled_for >= (9, 0) { Generation::Clusters } else { Generation::Blocks }
    }
}

/// What kernels can do on a device, as far as launches differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// Compiled for less than compute capability 9.0.
    Blocks,
    /// Clusters, and launches that start before the one before them has ended.
    Clusters,
}

/// When a launch may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// After all that was enqueued before it.
    InOrder,
    /// Once the launch before it lets it; the kernel waits for its results by itself.
    Early,
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
    /// Blocks of a cluster; 1 for a launch without clusters.
    pub cluster: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// When it may start.
    pub start: Start,
}

/// Which launch over the rows it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The only one.
    Whole,
    /// Partial results of all slices.
    Partials,
    /// Everything else, from the partial results or from what the forward pass saved.
    Finish,
}

impl Phase {
    pub(crate) fn abi(self) -> u32 {
        match self {
            Self::Whole => abi::XENT_PHASE_WHOLE,
            Self::Partials => abi::XENT_PHASE_PARTIALS,
            Self::Finish => abi::XENT_PHASE_FINISH,
        }
    }
}

/// A launch over the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// The launch.
    pub launch: Launch,
    /// Which one it is.
    pub phase: Phase,
}

/// How rows are cut, as kernels are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Cluster, split-row: parts of a row, one a block. 1 elsewhere.
    pub slices: u32,
    /// Block, two-pass, cluster: 16-byte packs of a slice that stay in shared memory between the passes
    /// over it. 0 elsewhere.
    pub cached_packs: u32,
    /// Tiny: consecutive rows of a warp, all that it takes. Warp: those that it takes at a time, a power of
    /// two. 1 elsewhere.
    pub rows_per_warp: u64,
    /// Tiny, warp: lanes of a row, a power of two. 0 elsewhere.
    pub lanes_per_row: u32,
    /// Block: how many rows later the one is that is brought to the L2 cache while a block waits for its own;
    /// 0 for none.
    pub rows_ahead: u32,
}

impl From<Geometry> for abi::XentGeometry {
    fn from(geometry: Geometry) -> Self {
        let Geometry { slices, cached_packs, rows_per_warp, lanes_per_row, rows_ahead } = geometry;
        Self { rows_per_warp, slices, cached_packs, lanes_per_row, rows_ahead }
    }
}

/// What is read how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Traffic {
    /// Packs of a slice of an aligned row.
    pub slice_packs: u32,
    /// Packs of each slice that are read a second time.
    pub again_packs: u32,
    /// What all blocks that are resident, or all that there are, read a second time.
    pub again_bytes_at_once: u64,
    /// Where it comes from as far as it lasts: the device's L2 cache.
    pub l2_bytes: u32,
}

/// How many blocks of a launch a multiprocessor holds at a time, registers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Residency {
    /// By its shared memory, and not more than it can hold of any kind.
    pub by_shared_bytes: u32,
    /// By its threads, and not more than that.
    pub by_threads: u32,
    /// What it can hold of any kind.
    pub by_blocks: u32,
    /// Registers of a thread that still allow as many.
    pub registers: u32,
}

impl Residency {
    /// The least of them.
    pub fn blocks(&self) -> u32 {
        self.by_shared_bytes.min(self.by_threads)
    }
}

/// The launches over the rows of a problem; at least one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsPlan {
    /// How rows are given to threads.
    pub strategy: Strategy,
    /// How they are cut for that.
    pub geometry: Geometry,
    /// The first launch, or the only one.
    pub first: Step,
    /// The second, where there are two.
    pub second: Option<Step>,
    /// Which pass it is.
    pub pass: Pass,
    /// What is read how often.
    pub traffic: Traffic,
    /// What fits a multiprocessor.
    pub residency: Residency,
    /// Why this strategy, and not those before it.
    pub reasons: Reasons,
}

impl RowsPlan {
    /// The launches in their order.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        [self.first].into_iter().chain(self.second)
    }
}

/// Where kernels take from what the terms are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Normalizer {
    /// The host knows it.
    Host,
    /// The launch over the rows goes over the targets as well.
    Rows,
    /// A launch of its own, before the others.
    Launch(Launch),
    /// The forward pass saved it.
    Saved,
}

impl Normalizer {
    pub(crate) fn abi(self) -> u32 {
        match self {
            Self::Host => abi::XENT_DIVIDED_HOST,
            Self::Rows => abi::XENT_DIVIDED_HERE,
            Self::Launch(_) | Self::Saved => abi::XENT_DIVIDED_DEVICE,
        }
    }
}

/// How a problem is solved on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a plan is copied, never kept in numbers")]
pub enum Plan {
    /// There are no rows: nothing is launched, and this is the scalar loss.
    Empty {
        /// 0 for a sum, and what `EmptyMean` says for a mean.
        loss: f32,
    },
    /// One to three launches.
    Launches {
        /// What a mean divides by.
        normalizer: Normalizer,
        /// Everything else.
        rows: RowsPlan,
    },
}

/// The plan for a loss: the fastest that the tuning table knows, or what `selection` asks for.
///
/// # Errors
/// [`Error::Strategy`] where a pinned strategy cannot take the problem.
pub fn choose(
    problem: &Problem,
    device: &DeviceProperties,
    selection: Selection,
) -> Result<Plan, Error> {
    let rows = problem.shape().rows;
    let divisors = problem.inverse_divisors();
    if rows == 0 {
        let loss = loss_of_nothing(divisors.nll, problem.config().empty_mean);
        return Ok(Plan::Empty { loss });
    }
    let dtype = problem.types().dtype;
    let (pass, probabilities) = (problem.pass(), problem.types().targets.is_probabilities());
    let general = problem.weighs_smoothing() || problem.config().logit_softcap.is_some();
    let operation = match (probabilities, general) {
        (true, _) => Operation::FusedProbabilities,
        (false, true) => Operation::FusedGeneral,
        (false, false) => Operation::Fused,
    };
    // With target probabilities, the f32 weight of each element is kept beside it.
    let weight_bytes =
        if probabilities { pack_elements(dtype) * size_of::<f32>() as u32 } else { 0 };
    let packs = Kept::Packs { bytes: abi::XENT_PACK_BYTES + weight_bytes };
    // A pass alone goes over the logits once, but that a forward pass with probabilities looks again at
    // rows in which one class has most of the probability. It is cut as both passes together are, so
    // that it sums in the same order, but where those have a cluster that it is faster without.
    let (cut_for, kept) = match pass {
        Pass::Fused => (packs, packs),
        Pass::Forward if probabilities => (packs, packs),
        Pass::Forward => (packs, Kept::Nothing),
        Pass::Backward => (Kept::Nothing, Kept::Nothing),
    };
    let (classes, place) = (problem.classes(), problem.place());
    let gaps = problem.shape().has_gaps();
    let work = Work { operation, dtype, rows, classes, gaps, pass, place, cut_for, kept };
    let mut rows_plan = cut::rows(&work, device, selection)?;
    let normalizer = match pass {
        _ if divisors.all_known() => Normalizer::Host,
        Pass::Backward => Normalizer::Saved,
        Pass::Forward | Pass::Fused if rows <= abi::XENT_MAX_COUNTED_ROWS as usize => {
            Normalizer::Rows
        }
        Pass::Forward | Pass::Fused => launched_before(&mut rows_plan, rows, device),
    };
    Ok(Plan::Launches { normalizer, rows: rows_plan })
}

/// The plan for a log-softmax, as [`choose`]; none if there are no rows.
///
/// # Errors
/// [`Error::Strategy`] where a pinned strategy cannot take the problem.
pub fn choose_log_softmax(
    problem: &LogSoftmaxProblem,
    pass: Pass,
    device: &DeviceProperties,
    selection: Selection,
) -> Result<Option<RowsPlan>, Error> {
    let (dtype, rows) = (problem.dtype(), problem.shape().rows);
    if rows == 0 {
        return Ok(None);
    }
    let operation = match pass {
        Pass::Backward => Operation::LogSoftmaxBackward,
        Pass::Forward | Pass::Fused => Operation::LogSoftmax,
    };
    let kept = Kept::Packs { bytes: abi::XENT_PACK_BYTES };
    let classes = problem.classes();
    let gaps = problem.shape() != LogSoftmaxShape::contiguous(rows, problem.shape().classes);
    let place = Place::Apart;
    let work = Work { operation, dtype, rows, classes, gaps, pass, place, cut_for: kept, kept };
    cut::rows(&work, device, selection).map(Some)
}

/// The plan for a binary cross-entropy, as [`choose`].
///
/// # Errors
/// [`Error::Strategy`] where a pinned strategy cannot take the problem.
pub fn choose_binary(
    problem: &BinaryProblem,
    device: &DeviceProperties,
    selection: Selection,
) -> Result<Plan, Error> {
    let rows = problem.shape().rows;
    let divisor = problem.inverse_divisor();
    if rows == 0 {
        let loss = loss_of_nothing(divisor, problem.config().empty_mean);
        return Ok(Plan::Empty { loss });
    }
    let work = Work {
        operation: Operation::Binary,
        dtype: problem.types().dtype,
        rows,
        classes: problem.classes(),
        gaps: problem.shape().has_gaps(),
        pass: problem.pass(),
        // Each element's gradient follows from its own logit.
        place: Place::Apart,
        cut_for: Kept::Nothing,
        kept: Kept::Nothing,
    };
    let mut rows_plan = cut::rows(&work, device, selection)?;
    let normalizer = match divisor {
        InverseDivisor::Host(_) => Normalizer::Host,
        InverseDivisor::CountedRows | InverseDivisor::TargetWeights => {
            launched_before(&mut rows_plan, rows, device)
        }
    };
    Ok(Plan::Launches { normalizer, rows: rows_plan })
}

/// The caller's number divides even nothing; every other divisor of a mean is 0.
fn loss_of_nothing(divisor: InverseDivisor, empty_mean: EmptyMean) -> f32 {
    let divided = matches!(divisor, InverseDivisor::Host(number) if number.is_finite());
    if divided || empty_mean == EmptyMean::Zero { 0.0 } else { f32::NAN }
}

/// A normalizer launch, under which the next may start early.
fn launched_before(rows_plan: &mut RowsPlan, rows: usize, device: &DeviceProperties) -> Normalizer {
    // Only a launch that waits for its predecessor may start early, and a second launch waits for the
    // first alone: that one has to be behind the normalizer.
    if device.generation() == Generation::Clusters && rows_plan.second.is_none() {
        rows_plan.first.launch.start = Start::Early;
    }
    // So many rows a block, until the device is full.
    let rows_per_block = abi::XENT_NORMALIZER_ROWS as usize;
    let full = device.multiprocessors * tuning::NORMALIZER_BLOCKS_PER_MULTIPROCESSOR;
    Normalizer::Launch(Launch {
        kernel: Kernel::Normalizer,
        grid: clamp_grid(rows.div_ceil(rows_per_block), full.min(device.max_grid)),
        block: abi::XENT_NORMALIZER_THREADS,
        cluster: 1,
        shared_bytes: 0,
        start: Start::InOrder,
    })
}

/// Kernels step over what is beyond.
fn clamp_grid(blocks: usize, max: u32) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX).min(max)
}

fn pack_elements(dtype: Dtype) -> u32 {
    abi::XENT_PACK_BYTES / dtype.bytes() as u32
}
