//! Asynchronous copies: what was started and is not done.
//!
//! The PTX memory model lets a copy happen at any moment between its start and its completion. In order
//! [`Order::Forward`] it happens as late as it may: when somebody waits for it, or nobody can do
//! anything else. In order [`Order::Reverse`] it happens at once, and by seed anywhere between. Until
//! then its destination is poisoned, and what it reads and writes belongs to it.

use super::race::Agent;
use crate::settings::Order;

/// One end of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Device memory at an address.
    Global(u64),
    /// Shared memory of the block of a rank, at an offset.
    Shared(u32, u64),
    /// The copy's own buffer: the source is read already.
    Buffer,
}

/// Who is told that a copy is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The mbarrier of a rank at an offset.
    Mbarrier(u32, u64),
    /// A thread's groups of `cp.async`: this one of them.
    Group(u32, u32),
    /// A thread's bulk groups.
    BulkGroup(u32, u32),
}

/// A copy under way.
#[derive(Debug)]
pub struct Copy {
    /// Destination.
    pub to: End,
    /// Source.
    pub from: End,
    /// What was read of it, if `from` says so; what `st.async` stores.
    pub buffer: Vec<u8>,
    /// Bytes that are copied.
    pub bytes: u64,
    /// Zeros behind them.
    pub zeros: u64,
    /// How the destination's bytes are combined with what is there: `red.async`.
    pub reduction: Option<(crate::ptx::ir::AtomicOp, crate::ptx::ir::AtomicType)>,
    /// Who is told.
    pub told: Told,
    /// The thread that started it, counted through the cluster.
    pub thread: u32,
    /// The instruction that did.
    pub pc: u32,
    /// Turns of warps until it happens by itself.
    pub due: u32,
}

/// All copies of a cluster.
#[derive(Debug)]
pub struct Copies {
    /// In the order of their start.
    pub under_way: Vec<Copy>,
    order: Order,
    random: u64,
    /// By thread: the number of the open group of each [`Grouped`] kind.
    groups: Vec<[u32; 2]>,
}

/// What groups are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouped {
    /// `cp.async`
    Small,
    /// `cp.async.bulk`
    Bulk,
}

/// The turns of a copy that does not happen by itself.
const NEVER: u32 = u32::MAX;

impl Copies {
    /// None yet.
    pub fn new(order: Order) -> Self {
        Self { under_way: Vec::new(), order, random: 0, groups: Vec::new() }
    }

    /// A cluster of so many threads begins.
    pub fn begin(&mut self, cluster: u64, threads: usize) {
        self.under_way.clear();
        self.groups.clear();
        self.groups.resize(threads, [1; 2]);
        if let Order::Shuffle(seed) = self.order {
            self.random = seed ^ cluster.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }

    /// When a copy that starts now happens.
    pub fn due(&mut self) -> u32 {
        match self.order {
            Order::Forward => NEVER,
            Order::Reverse => 0,
            Order::Shuffle(_) => match crate::settings::split_mix(&mut self.random) % 4 {
                0 => 0,
                1 => NEVER,
                _ => (crate::settings::split_mix(&mut self.random) % 24) as u32,
            },
        }
    }

    /// The open group of a thread.
    pub fn open_group(&self, thread: u32, of: Grouped) -> u32 {
        self.groups[thread as usize][of as usize]
    }

    /// Closes the open group.
    pub fn commit(&mut self, thread: u32, of: Grouped) {
        self.groups[thread as usize][of as usize] += 1;
    }

    /// A turn has passed: the copies that are due.
    pub fn age(&mut self) -> Vec<usize> {
        let mut due = Vec::new();
        for (at, copy) in self.under_way.iter_mut().enumerate() {
            if !copy.is_late() {
                copy.due = copy.due.saturating_sub(1);
                if copy.due == 0 {
                    due.push(at);
                }
            }
        }
        due
    }
}

impl Told {
    /// The actor that reads the source and the one that writes the destination, for races.
    pub fn agents(self) -> [Agent; 2] {
        match self {
            Self::Mbarrier(rank, offset) => [Agent::Mbarrier(rank, offset); 2],
            Self::Group(thread, _) => [Agent::Copies(thread); 2],
            Self::BulkGroup(thread, _) => [Agent::BulkReads(thread), Agent::BulkWrites(thread)],
        }
    }
}

impl Copy {
    /// Whether it happens only when somebody waits for it.
    pub fn is_late(&self) -> bool {
        self.due == NEVER
    }

    /// Whether it still reads this shared memory.
    pub fn reads(&self, rank: u32, offset: u64, bytes: u64) -> bool {
        matches!(self.from, End::Shared(r, start)
            if r == rank && start < offset + bytes && offset < start + self.bytes)
    }

    /// Whether it still reads this shared memory, or will write it.
    pub fn uses(&self, rank: u32, offset: u64, bytes: u64) -> bool {
        self.reads(rank, offset, bytes) || self.writes(rank, offset, bytes)
    }

    /// Whether it will write this shared memory.
    pub fn writes(&self, rank: u32, offset: u64, bytes: u64) -> bool {
        matches!(self.to, End::Shared(r, start)
            if r == rank && start < offset + bytes && offset < start + self.bytes + self.zeros)
    }
}
