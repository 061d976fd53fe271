//! How rows are given to threads: which strategies can, which one is chosen, and the launches.

use super::{
    DeviceProperties, Family, Generation, Geometry, Kernel, Launch, Phase, Residency, RowsPlan,
    Selection, Start, Step, Strategy, Traffic, WARP_SIZE, clamp_grid, pack_elements,
    reason::{Ground, Reasons, Verdict},
    tuning::{self, Choices, Splitting},
};
use crate::{
    abi,
    error::{Error, Obstacle},
    problem::{Dtype, Pass, Place},
};

/// What is computed, as far as kernels differ.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Operation {
    Fused,
    FusedGeneral,
    FusedProbabilities,
    LogSoftmax,
    LogSoftmaxBackward,
    Binary,
}

/// What stays in shared memory between two passes over a row.
#[derive(Clone, Copy)]
pub(super) enum Kept {
    Nothing,
    /// Packs, with what belongs to each.
    Packs {
        bytes: u32,
    },
}

/// A problem, as far as its rows are cut by it.
pub(super) struct Work {
    pub operation: Operation,
    pub dtype: Dtype,
    /// At least 1.
    pub rows: usize,
    pub classes: u32,
    /// Whether elements may lie between the rows of a matrix.
    pub gaps: bool,
    pub pass: Pass,
    pub place: Place,
    /// What decides how rows are cut: passes that give the same bits have the same.
    pub cut_for: Kept,
    /// What this pass keeps.
    pub kept: Kept,
}

impl Work {
    /// Packs of a row whose start is aligned: an upper bound of the aligned body of any other.
    fn body_packs(&self) -> u32 {
        self.classes / pack_elements(self.dtype)
    }

    /// Packs of a row with its edges.
    fn packs(&self) -> u32 {
        self.classes.div_ceil(pack_elements(self.dtype))
    }

    fn row_bytes(&self) -> u64 {
        u64::from(self.classes) * self.dtype.bytes() as u64
    }

    /// What a row takes of shared memory where all of it is kept.
    fn kept_bytes(&self) -> u64 {
        match self.cut_for {
            Kept::Nothing => 0,
            Kept::Packs { bytes } => u64::from(self.body_packs()) * u64::from(bytes),
        }
    }

    /// Packs of a row that a lane keeps under warp, at most.
    fn lane_packs(&self) -> u32 {
        match self.operation {
            Operation::LogSoftmaxBackward => abi::XENT_WARP_PACKS_OF_TWO,
            Operation::FusedProbabilities => abi::XENT_WARP_PACKS_OF_PROBABILITIES,
            Operation::Fused
            | Operation::FusedGeneral
            | Operation::LogSoftmax
            | Operation::Binary => abi::XENT_WARP_PACKS,
        }
    }

    /// What a pin is worth.
    fn pin(&self) -> Pin {
        match self.pass {
            Pass::Forward | Pass::Fused => Pin::Binds,
            // What belongs to a pinned forward pass shall not fail where its strategy has no kernel.
            Pass::Backward => Pin::Asks,
        }
    }

    fn family(&self, strategy: Strategy) -> Option<Family> {
        use Family as F;
        use Strategy as S;
        match (self.operation, strategy) {
            (Operation::Fused, S::Tiny) => Some(F::FusedTiny),
            (Operation::Fused, S::Warp) => Some(F::FusedWarp),
            (Operation::Fused, S::Block | S::TwoPass) => Some(F::FusedBlock),
            (Operation::Fused, S::Cluster) => Some(F::FusedCluster),
            (Operation::Fused, S::SplitRow) => Some(F::FusedSplitRow),
            (Operation::FusedGeneral, S::Tiny) => Some(F::FusedGeneralTiny),
            (Operation::FusedGeneral, S::Warp) => Some(F::FusedGeneralWarp),
            (Operation::FusedGeneral, S::Block | S::TwoPass) => Some(F::FusedGeneralBlock),
            (Operation::FusedGeneral, S::Cluster) => Some(F::FusedGeneralCluster),
            (Operation::FusedGeneral, S::SplitRow) => Some(F::FusedGeneralSplitRow),
            (Operation::FusedProbabilities, S::Warp) => Some(F::FusedProbabilitiesWarp),
            (Operation::FusedProbabilities, S::Block | S::TwoPass) => {
                Some(F::FusedProbabilitiesBlock)
            }
            (Operation::FusedProbabilities, S::Cluster) => Some(F::FusedProbabilitiesCluster),
            (Operation::FusedProbabilities, S::Tiny | S::SplitRow) => None,
            (Operation::LogSoftmax, S::Tiny) => Some(F::LogSoftmaxTiny),
            (Operation::LogSoftmax, S::Warp) => Some(F::LogSoftmaxWarp),
            (Operation::LogSoftmax, S::Block | S::TwoPass) => Some(F::LogSoftmaxBlock),
            (Operation::LogSoftmax, S::Cluster) => Some(F::LogSoftmaxCluster),
            (Operation::LogSoftmax, S::SplitRow) => None,
            (Operation::LogSoftmaxBackward, S::Warp) => Some(F::LogSoftmaxBackwardWarp),
            (Operation::LogSoftmaxBackward, S::Block | S::TwoPass) => {
                Some(F::LogSoftmaxBackwardBlock)
            }
            (Operation::LogSoftmaxBackward, S::Cluster) => Some(F::LogSoftmaxBackwardCluster),
            (Operation::LogSoftmaxBackward, S::Tiny | S::SplitRow) => None,
            (Operation::Binary, S::Tiny) => Some(F::BinaryTiny),
            (Operation::Binary, S::Warp) => Some(F::BinaryWarp),
            (Operation::Binary, S::Block | S::TwoPass) => Some(F::BinaryBlock),
            (Operation::Binary, S::Cluster | S::SplitRow) => None,
        }
    }
}

enum Pin {
    /// That strategy or an error.
    Binds,
    /// That strategy where it can.
    Asks,
}

/// The launches over the rows of a problem.
pub(super) fn rows(
    work: &Work,
    device: &DeviceProperties,
    selection: Selection,
) -> Result<RowsPlan, Error> {
    let choices = tuning::choices(device);
    let cutter = Cutter { work, device, choices, asked: selection != Selection::Fastest };
    let mut reasons = Reasons::new(cutter.choices);
    let asked = match selection {
        Selection::Fastest => None,
        Selection::Pinned(strategy) | Selection::Preferred(strategy) => Some(strategy),
    };
    let strategy = match (asked, asked.map(|strategy| cutter.feasible(strategy))) {
        (Some(strategy), Some(Ok(_))) => {
            reasons.add(strategy, Verdict::Asked(selection));
            strategy
        }
        (Some(strategy), Some(Err(obstacle))) => match (selection, work.pin()) {
            (Selection::Pinned(_), Pin::Binds) => {
                return Err(Error::Strategy { strategy, obstacle });
            }
            (Selection::Pinned(_), Pin::Asks)
            | (Selection::Preferred(_) | Selection::Fastest, _) => {
                reasons.add(strategy, Verdict::Cannot(obstacle));
                cutter.fastest(&mut reasons)
            }
        },
        (None, _) | (_, None) => cutter.fastest(&mut reasons),
    };
    // `fastest` ends with a strategy of which every operation has a kernel.
    let family =
        cutter.feasible(strategy).map_err(|obstacle| Error::Strategy { strategy, obstacle })?;
    Ok(cutter.plan(strategy, family, reasons))
}

struct Cutter<'a> {
    work: &'a Work,
    device: &'a DeviceProperties,
    choices: &'static Choices,
    /// Who asks for a strategy may want a row's bits not to depend on how many rows there are.
    asked: bool,
}

impl Cutter<'_> {
    /// The kernels of a strategy, or why it cannot take the problem at all.
    fn feasible(&self, strategy: Strategy) -> Result<Family, Obstacle> {
        let work = self.work;
        let family = work.family(strategy).ok_or(Obstacle::NoKernel)?;
        match strategy {
            Strategy::Tiny => {
                let most = tuning::TINY_MOST_CLASSES;
                if work.classes > most {
                    return Err(Obstacle::Classes { classes: work.classes, most });
                }
            }
            Strategy::Warp => {
                let most = WARP_SIZE * work.lane_packs();
                if work.packs() > most {
                    return Err(Obstacle::Packs { packs: work.packs(), most });
                }
            }
            Strategy::Block => {
                let (bytes, most) = (work.kept_bytes(), self.device.dynamic_shared_bytes());
                if bytes > u64::from(most) {
                    return Err(Obstacle::SharedBytes { bytes, most });
                }
            }
            Strategy::TwoPass => {
                if matches!(work.cut_for, Kept::Nothing) {
                    return Err(Obstacle::OnePass);
                }
            }
            Strategy::Cluster => {
                let largest = self.largest_cluster();
                if largest < 2 {
                    let (major, minor) = self.device.compiled_for;
                    return Err(Obstacle::Clusters { major, minor, largest });
                }
            }
            Strategy::SplitRow => {
                // With a forward pass, the first launch has read it.
                if work.pass == Pass::Backward && work.place == Place::InPlace {
                    return Err(Obstacle::InPlace);
                }
                let most = abi::XENT_MAX_PARTIALS;
                if work.rows > most as usize {
                    return Err(Obstacle::Rows { rows: work.rows, most });
                }
            }
        }
        Ok(family)
    }

    /// The first strategy that the tuning table has no word against.
    fn fastest(&self, reasons: &mut Reasons) -> Strategy {
        use Strategy as S;
        for strategy in [S::Tiny, S::Warp, S::SplitRow, S::Block, S::TwoPass] {
            if strategy == S::TwoPass
                && let Err(obstacle) = self.feasible(S::Cluster)
            {
                reasons.add(S::Cluster, Verdict::Cannot(obstacle));
            }
            let verdict = match self.feasible(strategy) {
                Ok(_) => self.judge(strategy),
                Err(obstacle) => Verdict::Cannot(obstacle),
            };
            reasons.add(strategy, verdict);
            if matches!(verdict, Verdict::Taken(_)) {
                return strategy;
            }
        }
        // Two-pass leaves only what a cluster can take.
        reasons.add(S::Cluster, self.judge(S::Cluster));
        S::Cluster
    }

    /// A strategy that could, after those before it were not taken.
    fn judge(&self, strategy: Strategy) -> Verdict {
        let Self { work, device, choices, .. } = self;
        match strategy {
            Strategy::Tiny => {
                let rows_per_block = TINY_BLOCK / self.tiny_lanes();
                let few = work.rows.div_ceil(rows_per_block as usize) < self.multiprocessors();
                let classes = work.classes;
                let pack = pack_elements(work.dtype);
                // Many rows: each has the fewest lanes.
                let measured = work.operation == Operation::Fused
                    && self.tiny_lanes() == self.fewest_tiny_lanes();
                // Without gaps, a tile is copied in packs.
                let whole_packs = classes.is_multiple_of(pack) && !work.gaps;
                let up_to = match (few, measured && whole_packs) {
                    (true, _) => choices.tiny_classes_of_few_rows,
                    (false, false) => choices.tiny_classes,
                    (false, true) => choices.tiny_classes.max(choices.tiny_whole_packs * pack),
                };
                let ground = Ground::Classes { classes, up_to };
                if classes <= up_to { Verdict::Taken(ground) } else { Verdict::Passed(ground) }
            }
            Strategy::Warp => {
                let up_to = match work.operation {
                    Operation::FusedProbabilities => choices.warp_packs_of_probabilities,
                    _ => choices.warp_packs,
                };
                let packs = work.packs();
                let ground = Ground::Packs { packs, up_to };
                if packs <= up_to { Verdict::Taken(ground) } else { Verdict::Passed(ground) }
            }
            Strategy::SplitRow => {
                let Some(splitting) = self.splitting() else {
                    return Verdict::Passed(Ground::ClustersInstead);
                };
                let most = device.multiprocessors / splitting.multiprocessors_per_row;
                let (rows, bytes) = (work.rows, work.row_bytes());
                let (from, slices) = (splitting.row_bytes, self.split_slices(splitting));
                if rows > most as usize {
                    Verdict::Passed(Ground::Rows { rows, up_to: most })
                } else if bytes < u64::from(from) {
                    Verdict::Passed(Ground::RowBytes { bytes, from })
                } else if slices < 2 {
                    Verdict::Passed(Ground::OneSlice)
                } else {
                    Verdict::Taken(Ground::FewRows { rows, slices })
                }
            }
            Strategy::Block => {
                let mut up_to = self.block_bytes();
                if self.idle(1) {
                    let alone = device.dynamic_shared_bytes();
                    up_to = up_to.max(choices.block_bytes_of_few_rows.min(alone));
                } else if self.reads_much_again() {
                    up_to = device.dynamic_shared_bytes();
                }
                let bytes = work.kept_bytes();
                if bytes > u64::from(up_to) {
                    Verdict::Passed(Ground::SharedBytes { bytes, up_to })
                } else if matches!(work.cut_for, Kept::Nothing) {
                    Verdict::Taken(Ground::OnePass)
                } else {
                    Verdict::Taken(Ground::SharedBytes { bytes, up_to })
                }
            }
            Strategy::TwoPass => {
                let rest = Verdict::Taken(Ground::Rest { blocks: choices.block_rows });
                if self.feasible(Strategy::Cluster).is_err() {
                    return rest;
                }
                let slices = self.cluster_slices();
                if self.idle(1) {
                    return Verdict::Passed(Ground::FewRows { rows: work.rows, slices });
                }
                // A loss alone. Who asked for a strategy gets one for both passes, also where that one cannot.
                if matches!(work.kept, Kept::Nothing) && !self.asked {
                    return Verdict::Taken(Ground::OnePass);
                }
                let (bytes, up_to) = (self.bytes_again(), self.worth_reading_again());
                let slice = work.kept_bytes().div_ceil(slices.into());
                // A cluster whose blocks have a multiprocessor each is no faster.
                if bytes > up_to && slice <= u64::from(self.block_bytes()) {
                    Verdict::Passed(Ground::ReadAgain { bytes, up_to })
                } else {
                    rest
                }
            }
            Strategy::Cluster => {
                let slices = self.cluster_slices();
                let bytes = work.kept_bytes().div_ceil(u64::from(slices));
                Verdict::Taken(Ground::Slices { slices, bytes })
            }
        }
    }

    /// What a row may take of shared memory so that as many rows as the table says are resident.
    fn block_bytes(&self) -> u32 {
        self.device.dynamic_shared_bytes_of(self.choices.block_rows)
    }

    /// What two-pass would read again of as many rows as are resident.
    fn bytes_again(&self) -> u64 {
        let resident = self.choices.block_rows as usize * self.multiprocessors();
        let not_kept = self.work.kept_bytes().saturating_sub(self.block_bytes().into());
        not_kept.saturating_mul(resident.min(self.work.rows) as u64)
    }

    /// Up to how many bytes read again two-pass is faster than a cluster.
    fn worth_reading_again(&self) -> u64 {
        let Self { work, device, choices: Choices { cluster, .. }, .. } = self;
        let l2_bytes = u64::from(device.l2_bytes);
        match (work.operation, work.dtype) {
            (Operation::Fused, Dtype::F32) => l2_bytes / u64::from(cluster.again_part_of_l2_of_f32),
            (Operation::Fused, _) => l2_bytes / u64::from(cluster.again_part_of_l2),
            _ => l2_bytes * u64::from(cluster.again_in_l2_of_others),
        }
    }

    /// More than is worth the second row of a multiprocessor.
    fn reads_much_again(&self) -> bool {
        let part = self.choices.block_alone_from_part_of_l2;
        let whole = part != 0 && self.work.dtype == Dtype::F32;
        whole && self.bytes_again() > u64::from(self.device.l2_bytes / part)
    }

    /// Whether rows of so many slices leave multiprocessors idle.
    fn idle(&self, slices: u32) -> bool {
        self.work.rows.saturating_mul(slices as usize) < self.multiprocessors()
    }

    fn splitting(&self) -> Option<&'static Splitting> {
        match self.work.pass {
            Pass::Backward => Some(&self.choices.split_gradient),
            Pass::Forward | Pass::Fused => self.choices.split_row.as_ref(),
        }
    }

    /// 1 where there are none; a power of two.
    fn largest_cluster(&self) -> u32 {
        let device = self.device;
        match device.generation() {
            Generation::Blocks => 1,
            Generation::Clusters => {
                let most = device.largest_cluster.min(abi::XENT_MAX_CLUSTER).min(device.max_grid);
                1 << most.max(1).ilog2()
            }
        }
    }

    /// So that a slice is as short as the table asks for, and no multiprocessor idles; 1 for a row that
    /// is better left whole.
    fn cluster_slices(&self) -> u32 {
        let (work, slicing) = (self.work, &self.choices.cluster);
        let (most, kept) = (self.largest_cluster(), work.kept_bytes());
        let mut slices = 1;
        while slices < most && kept.div_ceil(slices.into()) > slicing.up_to_bytes.into() {
            slices *= 2;
        }
        let long = |slices: u32| work.row_bytes() / u64::from(slices) >= slicing.from_bytes.into();
        while slices < most && self.idle(slices) && long(2 * slices) {
            slices *= 2;
        }
        slices
    }

    /// As many as the table asks for, if there is room for their partial results; at least 1.
    fn split_slices(&self, splitting: &Splitting) -> u32 {
        let (work, device) = (self.work, self.device);
        let blocks = u64::from(device.multiprocessors) * splitting.blocks_per_multiprocessor as u64;
        let for_device = blocks / work.rows as u64;
        let for_row = work.row_bytes() / u64::from(splitting.slice_bytes);
        let wanted = u32::try_from(for_device.min(for_row)).unwrap_or(u32::MAX);
        wanted.min(self.most_split_slices()).max(1)
    }

    fn most_split_slices(&self) -> u32 {
        let room = abi::XENT_MAX_PARTIALS as usize / self.work.rows;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        room.min(abi::XENT_MAX_SLICES).min(self.device.max_grid)
    }

    fn multiprocessors(&self) -> usize {
        self.device.multiprocessors as usize
    }

    fn plan(&self, strategy: Strategy, family: Family, reasons: Reasons) -> RowsPlan {
        let Self { work, device, .. } = self;
        let whole = Geometry {
            slices: 1,
            cached_packs: 0,
            rows_per_warp: 1,
            lanes_per_row: 0,
            rows_ahead: 0,
        };
        let rows = work.rows;
        let shape = match strategy {
            Strategy::Tiny => {
                let block = TINY_BLOCK;
                let lanes_per_row = self.tiny_lanes();
                let rows_at_once = WARP_SIZE / lanes_per_row;
                let warps = block / WARP_SIZE;
                let shared_bytes = self.tiny_shared_bytes(lanes_per_row);
                // Blocks stay, as many as are resident: a warp begins once, and counts its rows of a chunk once.
                let blocks = self.resident_blocks(family, block, shared_bytes);
                let rows_per_warp = (rows as u64)
                    .div_ceil(blocks as u64 * u64::from(warps))
                    .next_multiple_of(rows_at_once.into());
                Shape {
                    geometry: Geometry { rows_per_warp, lanes_per_row, ..whole },
                    blocks: (rows as u64).div_ceil(rows_per_warp * u64::from(warps)) as usize,
                    block,
                    shared_bytes,
                }
            }
            Strategy::Warp => {
                let block = abi::XENT_WARP_BLOCK_THREADS;
                let lanes_per_row = self.warp_lanes();
                let rows_per_warp = self.rows_per_warp().max(WARP_SIZE / lanes_per_row);
                let rows_per_block = rows_per_warp * (block / WARP_SIZE);
                let rows_per_warp = rows_per_warp.into();
                Shape {
                    geometry: Geometry { rows_per_warp, lanes_per_row, ..whole },
                    blocks: rows.div_ceil(rows_per_block as usize),
                    block,
                    shared_bytes: 0,
                }
            }
            Strategy::Block => {
                let shape = self.shape_of(1, device.dynamic_shared_bytes());
                let geometry = Geometry { rows_ahead: self.rows_ahead(), ..shape.geometry };
                Shape { geometry, ..shape }
            }
            Strategy::TwoPass => {
                let shape = self.shape_of(1, self.block_bytes());
                // A pin on rows that fit: some is read again, as the name says.
                if shape.geometry.cached_packs < work.body_packs() {
                    shape
                } else {
                    self.shape_of(1, (work.kept_bytes() / 2) as u32)
                }
            }
            Strategy::Cluster => {
                self.shape_of(self.cluster_slices().max(2), device.dynamic_shared_bytes())
            }
            Strategy::SplitRow => {
                let splitting = self.splitting().unwrap_or(&self.choices.split_gradient);
                let tuned = self.split_slices(splitting);
                self.shape_of(tuned.max(2).min(self.most_split_slices()), 0)
            }
        };
        let grid = clamp_grid(shape.blocks, device.max_grid);
        let cluster = if strategy == Strategy::Cluster { shape.geometry.slices } else { 1 };
        let launch = Launch {
            kernel: Kernel::Rows(family, work.dtype),
            // All slices of a row have a block.
            grid: grid - grid % shape.geometry.slices,
            block: shape.block,
            cluster,
            shared_bytes: shape.shared_bytes,
            start: Start::InOrder,
        };
        let (first, second) = match (strategy, work.pass) {
            (Strategy::SplitRow, Pass::Forward | Pass::Fused) => {
                let start = match device.generation() {
                    Generation::Blocks => Start::InOrder,
                    Generation::Clusters => Start::Early,
                };
                let finish = Launch { start, ..launch };
                (Phase::Partials, Some(Step { launch: finish, phase: Phase::Finish }))
            }
            (Strategy::SplitRow, Pass::Backward) => (Phase::Finish, None),
            (
                Strategy::Tiny
                | Strategy::Warp
                | Strategy::Block
                | Strategy::TwoPass
                | Strategy::Cluster,
                _,
            ) => (Phase::Whole, None),
        };
        let residency = residency(launch.block, launch.shared_bytes, device);
        let resident = residency.blocks() as usize * self.multiprocessors();
        let resident = resident.min(shape.blocks) as u64;
        RowsPlan {
            strategy,
            geometry: shape.geometry,
            first: Step { launch, phase: first },
            second,
            pass: work.pass,
            traffic: self.traffic(strategy, shape.geometry, resident),
            residency,
            reasons,
        }
    }

    /// Of a kernel of short rows on the device, at least one; no more than its largest grid.
    fn resident_blocks(&self, family: Family, block: u32, shared_bytes: u32) -> usize {
        let each = residency(block, shared_bytes, self.device).blocks();
        let by_registers = Kernel::Rows(family, self.work.dtype).resident_blocks();
        let resident = each.min(by_registers).max(1) as usize * self.multiprocessors();
        resident.min(self.device.max_grid as usize)
    }

    /// One block a row or slice, each with up to so many bytes of shared memory for what it keeps.
    fn shape_of(&self, slices: u32, bytes_at_most: u32) -> Shape {
        let work = self.work;
        let packs = work.body_packs().div_ceil(slices);
        let block = match slices {
            1 if !self.asked => tuning::block_threads(packs, work.rows, self.multiprocessors()),
            _ => tuning::threads(packs),
        };
        let (cached_packs, shared_bytes) = match work.kept {
            Kept::Nothing => (0, 0),
            Kept::Packs { bytes } => {
                let room = bytes_at_most / bytes;
                // All, or as many for each thread: so each adds its packs in the same order, and compares the same
                // ones with its maximum at once.
                let at_once = block * abi::XENT_PACKS_AT_ONCE;
                let cached_packs = if packs <= room { packs } else { room - room % at_once };
                (cached_packs, cached_packs * bytes)
            }
        };
        Shape {
            geometry: Geometry {
                slices,
                cached_packs,
                rows_per_warp: 1,
                lanes_per_row: 0,
                rows_ahead: 0,
            },
            blocks: work.rows.saturating_mul(slices as usize),
            block,
            shared_bytes,
        }
    }

    /// The fewest that can take a row, since each of them does what is done once a row; more, while a lane still
    /// has enough elements, where tiles would fill shared memory, or where rows give a device little to do at
    /// once.
    fn tiny_lanes(&self) -> u32 {
        let classes = self.work.classes;
        let mut lanes = self.fewest_tiny_lanes();
        let enough = self.multiprocessors() * tuning::TINY_LANES_PER_MULTIPROCESSOR;
        while lanes < WARP_SIZE && classes >= 2 * lanes * tuning::TINY_FEWEST_ELEMENTS {
            let resident = residency(TINY_BLOCK, self.tiny_shared_bytes(lanes), self.device);
            let few_blocks = resident.by_shared_bytes < tuning::TINY_BLOCKS_PER_MULTIPROCESSOR;
            let few_rows = self.work.rows.saturating_mul(2 * lanes as usize) <= enough;
            if !few_blocks && (self.asked || !few_rows) {
                break;
            }
            lanes *= 2;
        }
        lanes
    }

    fn fewest_tiny_lanes(&self) -> u32 {
        self.work.classes.div_ceil(tuning::TINY_LANE_ELEMENTS).next_power_of_two()
    }

    /// Of a block of tiny: each warp has a tile of its own, whose rows may start anywhere within a pack.
    fn tiny_shared_bytes(&self, lanes_per_row: u32) -> u32 {
        let tile = u64::from(WARP_SIZE / lanes_per_row) * self.work.row_bytes();
        let packs = (tile / u64::from(abi::XENT_PACK_BYTES)) as u32 + 2;
        let packs = packs.next_multiple_of(abi::XENT_TINY_TILE_PACKS);
        TINY_BLOCK / WARP_SIZE * packs * abi::XENT_PACK_BYTES
    }

    /// The fewest that can hold a row, since each of them does what is done once a row; more where rows
    /// leave multiprocessors little to do at once and a lane still has a pack.
    fn warp_lanes(&self) -> u32 {
        let packs = self.work.packs();
        let fewest = packs.div_ceil(self.work.lane_packs()).next_power_of_two();
        let mut lanes = fewest.max(abi::XENT_FEWEST_WARP_LANES);
        let rows_at_once = |lanes| (abi::XENT_WARP_BLOCK_THREADS / lanes) as usize;
        let are_few = |lanes| {
            let long = packs.div_ceil(2 * lanes) >= tuning::WARP_PACKS_OF_MORE_LANES;
            let blocks = if long { tuning::WARP_BLOCKS_OF_LONG_ROWS } else { 1 };
            self.work.rows / rows_at_once(lanes) < self.multiprocessors() * blocks
        };
        while lanes < WARP_SIZE && lanes < packs && are_few(lanes) {
            lanes *= 2;
        }
        lanes
    }

    /// A power of two; more than 1 where the grid fills the device all the same.
    fn rows_per_warp(&self) -> u32 {
        let full = self.multiprocessors() * tuning::WARP_BLOCKS_PER_MULTIPROCESSOR;
        let rows_at_once = full * (abi::XENT_WARP_BLOCK_THREADS / WARP_SIZE) as usize;
        let most = (self.work.rows / rows_at_once.max(1)).clamp(1, WARP_SIZE as usize);
        1 << most.ilog2()
    }

    /// A row for each multiprocessor, of those rows that the table says gain by it.
    fn rows_ahead(&self) -> u32 {
        let work = self.work;
        let Some(ahead) = &self.choices.ahead else { return 0 };
        let measured = matches!((work.operation, work.pass), (Operation::Fused, Pass::Fused))
            && work.dtype.bytes() == ahead.element_bytes
            && work.row_bytes() >= ahead.from_bytes.into();
        let rows = self.device.multiprocessors;
        let up_to = u64::from(self.device.l2_bytes / ahead.part_of_l2);
        if measured && work.row_bytes() * u64::from(rows) <= up_to { rows } else { 0 }
    }

    fn traffic(&self, strategy: Strategy, geometry: Geometry, resident_blocks: u64) -> Traffic {
        let slice_packs = self.work.body_packs().div_ceil(geometry.slices);
        let again_packs = match (strategy, self.work.kept, self.work.pass) {
            (Strategy::Tiny | Strategy::Warp, _, _) => 0,
            (Strategy::SplitRow, _, Pass::Fused) => slice_packs,
            (Strategy::SplitRow, _, Pass::Forward | Pass::Backward) => 0,
            (Strategy::Block | Strategy::TwoPass | Strategy::Cluster, Kept::Nothing, _) => 0,
            (Strategy::Block | Strategy::TwoPass | Strategy::Cluster, Kept::Packs { .. }, _) => {
                slice_packs - geometry.cached_packs
            }
        };
        let matrices = match (self.work.operation, self.work.pass) {
            (Operation::FusedProbabilities, Pass::Fused | Pass::Forward) => 2,
            _ => 1,
        };
        // Probabilities are counted as if they were as wide as the logits.
        let again_bytes = matrices * u64::from(again_packs) * u64::from(abi::XENT_PACK_BYTES);
        Traffic {
            slice_packs,
            again_packs,
            again_bytes_at_once: again_bytes * resident_blocks,
            l2_bytes: self.device.l2_bytes,
        }
    }
}

/// Threads of a block of tiny.
const TINY_BLOCK: u32 = abi::XENT_WARP_BLOCK_THREADS;

/// A launch before its grid is held within the device's limit.
struct Shape {
    geometry: Geometry,
    blocks: usize,
    block: u32,
    shared_bytes: u32,
}

fn residency(block: u32, shared_bytes: u32, device: &DeviceProperties) -> Residency {
    // The block and cluster kernels; the others have next to none.
    let fixed = match shared_bytes {
        0 => 0,
        _ => abi::XENT_BLOCK_STATIC_SHARED_BYTES,
    };
    let shared = shared_bytes + fixed + device.reserved_shared_bytes_per_block;
    let by_blocks = device.blocks_per_multiprocessor;
    let mut residency = Residency {
        by_shared_bytes: (device.shared_bytes_per_multiprocessor / shared.max(1)).min(by_blocks),
        by_threads: (device.threads_per_multiprocessor / block).min(by_blocks),
        by_blocks,
        registers: 0,
    };
    let threads = residency.blocks().max(1) * block;
    // Registers come in groups of 8 a thread.
    residency.registers = (device.registers_per_multiprocessor / threads / 8 * 8).min(255);
    residency
}
