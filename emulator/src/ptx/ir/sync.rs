//! Collectives, barriers, mbarriers, fences.

use super::{Address, Register, Scope, Slot, Space};

/// What a fence orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// Accesses of threads.
    Threads(Scope),
    /// The same, and in one order with all other such fences.
    Sequential(Scope),
    /// Accesses of threads before those of asynchronous bulk copies.
    AsyncProxy,
    /// Initialisations of mbarriers before their use by other blocks and bulk copies.
    MbarrierInit,
    /// Proxies that are not emulated, and therefore in order.
    Nothing,
}

/// An operation on an mbarrier.
#[derive(Debug)]
pub struct Mbarrier {
    /// What it does.
    pub kind: MbarrierKind,
    /// Where the mbarrier may lie.
    pub space: Space,
    /// Its address.
    pub address: Address,
    /// Whether the thread's earlier accesses are ordered before those of who waits, or those of who
    /// arrived before the thread's later ones.
    pub orders: bool,
}

/// What is done to an mbarrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MbarrierKind {
    /// `init`
    Init { count: Slot },
    /// `inval`
    Invalidate,
    /// `arrive`, `arrive_drop`, with `expect_tx` or without.
    Arrive { state: Option<Slot>, count: Option<Slot>, bytes: Option<Slot>, drops: bool },
    /// `expect_tx`
    Expect { bytes: Slot },
    /// `complete_tx`
    Complete { bytes: Slot },
    /// `test_wait`, `try_wait`
    Wait { done: Slot, phase: Phase, suspends: bool },
    /// `cp.async.mbarrier.arrive`; without `.noinc` the arrival adds itself to what is awaited.
    ArriveAfterCopies { increments: bool },
}

/// Which phase is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The one that an arrival's state names.
    State(Slot),
    /// The current or last one of this parity.
    Parity(Slot),
}

/// `barrier.cluster`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterBarrier {
    /// Arrives; what came before is ordered before what follows the others' waits, unless relaxed.
    Arrive { releases: bool, aligned: bool },
    /// Waits for all threads of the cluster.
    Wait { aligned: bool },
}

/// `griddepcontrol`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GridDependency {
    /// The next launch may begin.
    LaunchDependents,
    /// Waits for the launches before it.
    Wait,
}

/// `shfl.sync`
#[derive(Debug)]
pub struct Shuffle {
    /// Mode.
    pub mode: ShuffleMode,
    /// Result.
    pub d: Slot,
    /// Whether the source lane was in range.
    pub pred: Option<Slot>,
    /// Value.
    pub a: Slot,
    /// Lane or offset.
    pub b: Slot,
    /// Clamp and segment.
    pub c: Slot,
    /// Members.
    pub mask: Slot,
}

/// Modes of `shfl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

/// Modes of `vote`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// `match.sync`
#[derive(Debug)]
pub struct Match {
    /// `all` rather than `any`.
    pub all: bool,
    /// Mask of equal lanes.
    pub d: Slot,
    /// Whether all are equal.
    pub pred: Option<Slot>,
    /// Value.
    pub source: Register,
    /// Members.
    pub mask: Slot,
}

/// Operations of `redux`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Redux {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
}

/// `bar` and `barrier`
#[derive(Debug)]
pub struct Barrier {
    /// What the thread does.
    pub kind: BarrierKind,
    /// Which barrier.
    pub id: Slot,
    /// Threads that take part; all of the block if `None`.
    pub threads: Option<Slot>,
    /// Whether all threads of the warp have to execute it together.
    pub aligned: bool,
}

/// What a thread does at a barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarrierKind {
    /// Arrives and waits.
    Sync,
    /// Arrives and goes on.
    Arrive,
    /// Arrives, waits, gets the number of threads whose predicate is true.
    Popc { d: Slot, source: Slot, flip: u32 },
    /// Arrives, waits, gets whether all predicates are true.
    And { d: Slot, source: Slot, flip: u32 },
    /// Arrives, waits, gets whether any predicate is true.
    Or { d: Slot, source: Slot, flip: u32 },
}
