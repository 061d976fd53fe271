//! Why a plan takes the strategy that it takes, as data.

use super::{Provenance, Selection, Strategy, tuning::Choices};
use crate::error::Obstacle;

/// What became of the strategies that were looked at, in their order; the last was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reasons {
    /// The tuning table's row is for compute capabilities from this one up, if it has a lowest,
    pub from: Option<(u32, u32)>,
    /// and below this one, if another row is for that.
    pub below: Option<(u32, u32)>,
    /// Where its numbers come from.
    pub provenance: Provenance,
    /// Each strategy at most once.
    considered: [Option<Considered>; Strategy::ALL.len()],
}

impl Reasons {
    pub(super) fn new(choices: &Choices) -> Self {
        let Choices { from, below, provenance, .. } = *choices;
        Self { from, below, provenance, considered: [None; Strategy::ALL.len()] }
    }

    pub(super) fn add(&mut self, strategy: Strategy, verdict: Verdict) {
        // One that was asked for, and cannot, is met again among the others.
        if self.considered().any(|known| known.strategy == strategy) {
            return;
        }
        if let Some(free) = self.considered.iter_mut().find(|place| place.is_none()) {
            *free = Some(Considered { strategy, verdict });
        }
    }

    /// One after the other; the last was taken.
    pub fn considered(&self) -> impl DoubleEndedIterator<Item = Considered> {
        self.considered.into_iter().flatten()
    }
}

/// A strategy that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Which.
    pub strategy: Strategy,
    /// What became of it.
    pub verdict: Verdict,
}

/// Whether a strategy was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The caller asked for it.
    Asked(Selection),
    /// By the tuning table.
    Taken(Ground),
    /// Another will be faster.
    Passed(Ground),
    /// It cannot take the problem.
    Cannot(Obstacle),
}

/// What the tuning table decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Tiny.
    Classes {
        /// Of a row.
        classes: u32,
        /// The most for which it is the fastest.
        up_to: u32,
    },
    /// Warp.
    Packs {
        /// Of 16 bytes, of a row.
        packs: u32,
        /// The most for which it is the fastest.
        up_to: u32,
    },
    /// Block.
    SharedBytes {
        /// What a row takes of shared memory.
        bytes: u64,
        /// The most for which it is the fastest.
        up_to: u32,
    },
    /// Block, and two-pass in place of a cluster: a row is gone over once, whatever its length.
    OnePass,
    /// Split-row, and cluster in place of two-pass: rows leave multiprocessors idle.
    FewRows {
        /// Rows.
        rows: usize,
        /// Into how many a row is cut.
        slices: u32,
    },
    /// Split-row.
    Rows {
        /// Rows.
        rows: usize,
        /// The most for which it is the fastest.
        up_to: u32,
    },
    /// Split-row.
    RowBytes {
        /// Of a row.
        bytes: u64,
        /// The least for which it is the fastest.
        from: u32,
    },
    /// Split-row: a row would be one slice.
    OneSlice,
    /// Split-row: what it is for, clusters do in one launch.
    ClustersInstead,
    /// Cluster.
    Slices {
        /// Into how many a row is cut.
        slices: u32,
        /// What each takes of shared memory, where all of it is kept.
        bytes: u64,
    },
    /// Cluster in place of two-pass: too much would be read again.
    ReadAgain {
        /// What all rows that are resident would read again.
        bytes: u64,
        /// The most for which it is the fastest.
        up_to: u64,
    },
    /// Two-pass: as much of a row is kept as lets so many blocks share a multiprocessor.
    Rest {
        /// How many.
        blocks: u32,
    },
}
