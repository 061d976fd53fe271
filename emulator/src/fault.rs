//! What a kernel can do wrong, and what the driver calls it.

/// Kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// An access outside every live allocation.
    IllegalAddress,
    /// An access that is not aligned to its width.
    MisalignedAddress,
    /// A read of shared memory that nobody wrote.
    UninitialisedShared,
    /// A read of device memory that nobody wrote.
    UninitialisedGlobal,
    /// Two accesses to one location, one of them a write, that nothing orders.
    Race,
    /// An access to what an asynchronous copy still reads or writes.
    CopyUnderWay,
    /// A misuse of an mbarrier.
    Mbarrier,
    /// A misuse of a cluster: a barrier used twice, a block that is gone.
    Cluster,
    /// A warp collective that reads or waits for a lane that does not take part.
    AbsentLane,
    /// Threads of one warp at different barriers.
    DivergentBarrier,
    /// Nobody can go on.
    Deadlock,
    /// More instructions than the limit.
    StepLimit,
    /// `trap`
    Trap,
    /// `assert` in a kernel does not hold.
    Assert,
}

impl FaultKind {
    /// The driver's error code.
    pub fn code(self) -> u32 {
        match self {
            Self::IllegalAddress => 700,
            Self::MisalignedAddress => 716,
            Self::UninitialisedShared
            | Self::UninitialisedGlobal
            | Self::Race
            | Self::CopyUnderWay
            | Self::Mbarrier
            | Self::Cluster
            | Self::AbsentLane
            | Self::DivergentBarrier
            | Self::Deadlock
            | Self::Trap => 719,
            Self::StepLimit => 702,
            Self::Assert => 710,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::IllegalAddress => "illegal address",
            Self::MisalignedAddress => "misaligned address",
            Self::UninitialisedShared => "read of shared memory that nobody wrote",
            Self::UninitialisedGlobal => "read of device memory that nobody wrote",
            Self::Race => "race",
            Self::CopyUnderWay => "asynchronous copy under way",
            Self::Mbarrier => "mbarrier",
            Self::Cluster => "cluster",
            Self::AbsentLane => "warp collective with an absent lane",
            Self::DivergentBarrier => "divergent barrier",
            Self::Deadlock => "deadlock",
            Self::StepLimit => "instruction limit exceeded",
            Self::Trap => "trap",
            Self::Assert => "assertion",
        }
    }
}

/// A fault as the interpreter finds it.
#[derive(Debug)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// The instruction.
    pub pc: u32,
    /// The lane of the warp.
    pub lane: u32,
    /// What exactly.
    pub detail: String,
}

/// A fault with everything a kernel author needs to find it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", kind.title())]
pub struct FaultReport {
    /// What kind.
    pub kind: FaultKind,
    /// Kernel, block, thread, detail, source line and PTX, one to a line.
    pub text: String,
}
