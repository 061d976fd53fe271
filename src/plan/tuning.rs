//! Choices and launch numbers as data. Each row says where its numbers come from.

use std::fmt;

use super::{DeviceProperties, Generation};

/// Where it comes from which strategy takes which problem. How launches are cut says so beside each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provenance {
    /// Reasoned from the device's limits; the reasons are beside the table's row.
    Predicted,
    /// Measured.
    Measured {
        /// On which GPU.
        gpu: &'static str,
        /// When: year-month-day.
        date: &'static str,
        /// The file with the numbers, below `benches/record/`.
        record: &'static str,
    },
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Predicted => write!(f, "strategies as predicted, not measured"),
            Self::Measured { gpu, date, record } => {
                write!(f, "strategies as measured on {gpu}, {date}, benches/record/{record}")
            }
        }
    }
}

/// Which strategy takes which rows.
#[derive(Debug)]
pub(super) struct Choices {
    /// The lowest compute capability that it is for, if there is one,
    pub from: Option<(u32, u32)>,
    /// and the one from which another row is.
    pub below: Option<(u32, u32)>,
    pub provenance: Provenance,
    /// Tiny takes rows of up to so many classes,
    pub tiny_classes: u32,
    /// of so many 16-byte packs where it is the plain loss of many rows that are whole packs, without gaps,
    pub tiny_whole_packs: u32,
    /// and of so many classes where its blocks leave multiprocessors idle.
    pub tiny_classes_of_few_rows: u32,
    /// Warp takes rows of up to so many 16-byte packs.
    pub warp_packs: u32,
    /// The same of target probabilities.
    pub warp_packs_of_probabilities: u32,
    /// Rows that fit so many times into a multiprocessor's shared memory go to a block each, and of
    /// longer ones as much is kept.
    pub block_rows: u32,
    /// Where rows leave multiprocessors idle, so do rows of up to so many bytes that fit once.
    pub block_bytes_of_few_rows: u32,
    /// Of f32, so do all rows that fit once where two-pass would read more again, of all rows at once, than this part
    /// of the L2 cache; never if 0.
    pub block_alone_from_part_of_l2: u32,
    /// What else is spread over a cluster's shared memory, where the device has clusters.
    pub cluster: Slicing,
    /// Few rows are cut for blocks that work apart, in two launches; none where clusters do that in
    /// one.
    pub split_row: Option<Splitting>,
    /// The same for a gradient alone, which is one launch however a row is cut.
    pub split_gradient: Splitting,
    /// Which rows a block brings to the L2 cache ahead of its own; none where nothing was measured.
    pub ahead: Option<Ahead>,
}

/// Of rows that have a block each, for both passes together: where a row that another block will begin in a while
/// is brought to the L2 cache. As many rows ahead as there are multiprocessors.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Of elements of so many bytes,
    pub element_bytes: usize,
    /// and at least so many bytes a row,
    pub from_bytes: u32,
    /// where all rows that are ahead fit this part of the L2 cache: as much is written, and both pass through it.
    pub part_of_l2: u32,
}

/// Which rows that are too long for a block go to a cluster, and how it cuts them. All where rows leave
/// multiprocessors idle; else those of which two-pass would read too much again, which a loss of class indices never does
/// without its gradient.
#[derive(Debug)]
pub(super) struct Slicing {
    /// Of the plain loss two-pass takes what it reads again of all rows at once up to this part of the L2 cache,
    pub again_part_of_l2: u32,
    /// in f32 up to this one;
    pub again_part_of_l2_of_f32: u32,
    /// of everything else, which was not measured with each strategy, up to so many times the cache.
    pub again_in_l2_of_others: u32,
    /// More slices until one takes at most so much shared memory.
    pub up_to_bytes: u32,
    /// More slices while rows leave multiprocessors idle and one has at least so many bytes of the row.
    pub from_bytes: u32,
}

/// Which rows are cut for independent blocks, and how.
#[derive(Debug)]
pub(super) struct Splitting {
    /// Where there are at least so many multiprocessors for each row.
    pub multiprocessors_per_row: u32,
    /// Where a row has at least so many bytes.
    pub row_bytes: u32,
    /// Until so many blocks are there for each multiprocessor,
    pub blocks_per_multiprocessor: u32,
    /// and while a slice has at least so many bytes.
    pub slice_bytes: u32,
}

const KIB: u32 = 1 << 10;

// From 9.0, where one strategy ends and the next begins is as measured on an H200; what a later record would choose
// otherwise is in ARCHITECTURE.md. How clusters and split-row cut is predicted:
// - tiny up to 128 classes, and up to 256 in half precision where rows are whole packs: longer ones are warp's, and
//   few short rows;
// - warp up to what its registers hold: it needs no barrier;
// - a block where two rows fit a multiprocessor: one loads while the other computes and stores. A block
//   of its own multiprocessor needs no second one, and beats a cluster's exchange up to 128 KiB; of f32, whose
//   elements are half as much work a byte, it beats two passes, too, once they read much again (50,257 classes);
// - longer rows: two passes, of which the second finds the rest of the row in L2, beat a cluster as long as that is a
//   part of L2; and, however long rows are, where a loss alone reads them once (a cluster takes 30 to 64 % more in f32,
//   15 % of 65,536 classes in half precision and 44 % and more from 128,256 on);
// - a gradient alone: blocks that share rows of 96 KiB and more.
// Elsewhere predicted, not measured, from the same and from the sizes:
// - 12.0, 100 KiB: slices of 48 KiB, so that two blocks are resident;
// - below 9.0, few rows split in two launches: the second reads from L2, which at 32 KiB a row costs
//   less than leaving half of the multiprocessors idle.
const CHOICES: [Choices; 4] = [
    Choices {
        from: Some((12, 0)),
        below: None,
        provenance: Provenance::Predicted,
        block_alone_from_part_of_l2: 0,
        cluster: Slicing { up_to_bytes: 48 * KIB, ..H200.cluster },
        ahead: None,
        ..H200
    },
    Choices {
        from: Some((10, 0)),
        below: Some((12, 0)),
        provenance: Provenance::Predicted,
        block_alone_from_part_of_l2: 0,
        ahead: None,
        ..H200
    },
    H200,
    Choices {
        from: None,
        below: Some((9, 0)),
        provenance: Provenance::Predicted,
        block_bytes_of_few_rows: 0,
        block_alone_from_part_of_l2: 0,
        split_row: Some(Splitting {
            multiprocessors_per_row: 2,
            row_bytes: 32 * KIB,
            blocks_per_multiprocessor: 2,
            slice_bytes: 8 * KIB,
        }),
        split_gradient: Splitting { row_bytes: 16 * KIB, ..H200.split_gradient },
        ahead: None,
        ..H200
    },
];

const H200: Choices = Choices {
    from: Some((9, 0)),
    below: Some((10, 0)),
    provenance: Provenance::Measured {
        gpu: "an H200",
        date: "2026-11-27",
        record: "nvidia-h200/2026-11-27-d244feeee4a0.csv",
    },
    tiny_classes: 128,
    // In record 168b283, 65,536 rows of 256 classes in bf16: 33.0 us, and 46.2 under warp (of 128: 19.8 and 38.9). Of 365, which are no
    // whole packs, tiny took 16 % longer at d244fee.
    tiny_whole_packs: 32,
    tiny_classes_of_few_rows: 64,
    warp_packs: 256,
    // What 16 lanes keep, so that a warp has two rows or more, where a block has one. In record 168b283 65,536 rows of
    // 10 classes took 62 us, and 16,384 of 512 41.7; a row a warp is no faster (8,192 of 1,000).
    warp_packs_of_probabilities: 64,
    block_rows: 2,
    block_bytes_of_few_rows: 128 * KIB,
    // Between what was measured: of 32,000 f32, 4.6 MB would be read again, and two_pass takes 16 % less than
    // block; of 50,257, 24 MB, and block takes 13 % less.
    block_alone_from_part_of_l2: 6,
    // Between what was measured. In half precision, of 65,536 classes 5.5 MB would be read again, and two_pass takes 7 %
    // less than cluster; of 128,256, 38 MB, and cluster takes 1 to 2 % less. Of f32, 32,000: 4.6 MB, two_pass 7 % less;
    // 65,536: 40 MB, cluster 12 % less. Of the others, which read more or have one block a multiprocessor, predicted.
    cluster: Slicing {
        again_part_of_l2: 2,
        again_part_of_l2_of_f32: 6,
        again_in_l2_of_others: 2,
        up_to_bytes: 64 * KIB,
        from_bytes: 4 * KIB,
    },
    split_row: None,
    split_gradient: Splitting {
        multiprocessors_per_row: 2,
        row_bytes: 96 * KIB,
        blocks_per_multiprocessor: 2,
        slice_bytes: 8 * KIB,
    },
    // Measured with the kernels of commit d244fee, in the `.txt` beside its record: 4 to 6 % less time, of rows of 44,
    // 64 and 101 KB. Of longer ones, and twice as far ahead but for the shortest, it is 11 to 27 % more: it seems that
    // they are read from memory twice. The bytes ahead were up to 13 MB where it was less, and from 17 MB on where more.
    ahead: Some(Ahead { element_bytes: 2, from_bytes: 40 * KIB, part_of_l2: 4 }),
};

pub(super) fn choices(device: &DeviceProperties) -> &'static Choices {
    let [others @ .., least] = &CHOICES;
    // None is less than any. Kernels without clusters are used as on devices that have none.
    let capability = match device.generation() {
        Generation::Blocks => None,
        Generation::Clusters => Some(device.compute_capability),
    };
    others.iter().find(|choices| capability >= choices.from).unwrap_or(least)
}

/// Measured on an H200, in the `.txt` beside the record of its choices: every thread takes part in what is done once a
/// row, and from sm_80 on the copies that fill shared memory need no threads to be on their way. Half as
/// many a thread cost a tenth to a third where rows are many,
const BLOCK_PACKS_PER_THREAD: u32 = 16;

/// and saved a seventh where a multiprocessor has two rows or fewer.
const BLOCK_PACKS_PER_THREAD_OF_FEW_ROWS: u32 = 8;
const FEW_ROWS_PER_MULTIPROCESSOR: usize = 2;

/// Threads of a block, for rows of up to so many 16-byte packs.
pub(super) fn block_threads(packs: u32, rows: usize, multiprocessors: usize) -> u32 {
    let few = rows <= multiprocessors * FEW_ROWS_PER_MULTIPROCESSOR;
    if few { threads_of(packs, BLOCK_PACKS_PER_THREAD_OF_FEW_ROWS) } else { threads(packs) }
}

/// The same however many rows or slices there are.
pub(super) fn threads(packs: u32) -> u32 {
    threads_of(packs, BLOCK_PACKS_PER_THREAD)
}

fn threads_of(packs: u32, packs_per_thread: u32) -> u32 {
    let warps = packs / (packs_per_thread * super::WARP_SIZE);
    (warps * super::WARP_SIZE).clamp(super::WARP_SIZE, crate::abi::XENT_MAX_BLOCK_THREADS)
}

/// Predicted, not measured: twice the 16 blocks of 128 threads that can be resident, before a warp
/// takes more than one row.
pub(super) const WARP_BLOCKS_PER_MULTIPROCESSOR: usize = 32;

/// A row has more lanes than can just hold it where there would be fewer blocks than one for each multiprocessor, or
/// than so many
pub(super) const WARP_BLOCKS_OF_LONG_ROWS: usize = 2;

/// if so many packs a lane are left. Measured on an H200, in the `.txt` of record 168b283: 4 % less time of 4,096 rows
/// of 1,000 classes and of 2,048 of 2,048, with 16 and 32 lanes; a quarter more at half as many packs a lane.
pub(super) const WARP_PACKS_OF_MORE_LANES: u32 = 8;

/// Most classes of a row under tiny.
pub(super) const TINY_MOST_CLASSES: u32 = 512;

/// Predicted, not measured: most elements of a row that a lane takes under tiny.
pub(super) const TINY_LANE_ELEMENTS: u32 = 64;

/// Predicted, not measured: a row has more lanes under tiny as long as each keeps so many elements, and there are no
/// more than four warps for each of the four schedulers,
pub(super) const TINY_FEWEST_ELEMENTS: u32 = 8;
pub(super) const TINY_LANES_PER_MULTIPROCESSOR: usize = 512;

/// or until so many blocks have room for their tiles.
pub(super) const TINY_BLOCKS_PER_MULTIPROCESSOR: u32 = 4;

/// One of the largest size, with twice the registers that it needs.
pub(super) const NORMALIZER_BLOCKS_PER_MULTIPROCESSOR: u32 = 1;

#[cfg(test)]
mod tests {
    use super::{super::devices, *};

    /// The table is in order, without gaps, and every row is found.
    #[test]
    fn every_capability_has_a_row() {
        for pair in CHOICES.windows(2) {
            assert_eq!(pair[0].from, pair[1].below);
            assert!(pair[0].from > pair[1].from);
        }
        for major in 0..20 {
            for minor in 0..10 {
                let capability = (major, minor);
                let device = |compiled_for| DeviceProperties {
                    compute_capability: capability,
                    compiled_for,
                    ..devices::H200.properties
                };
                let row = choices(&device(capability));
                assert!(row.from.is_none_or(|from| from <= capability), "{capability:?}");
                assert!(row.below.is_none_or(|below| capability < below), "{capability:?}");
                // What was measured is true of what it was measured on.
                let measured = matches!(row.provenance, Provenance::Measured { .. });
                assert_eq!(measured, major == 9, "{capability:?}");
                // Without clusters another takes their rows.
                assert!(choices(&device((8, 0))).split_row.is_some(), "{capability:?}");
            }
        }
    }
}
