//! Loads, stores, atomics, asynchronous copies, and the windows of addresses.

use super::{HalfKind, Slot};

/// Where an access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Found from the address.
    Generic,
    /// Device memory.
    Global,
    /// Device memory that the module declares `.const`.
    Const,
    /// Memory of the block.
    Shared,
    /// Memory of the blocks of a cluster, the own among them.
    SharedCluster,
    /// Memory of the thread.
    Local,
    /// Kernel parameters.
    Param,
}

/// A register of either width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// In the 32-bit file.
    B32(Slot),
    /// In the 64-bit file.
    B64(Slot),
}

/// Address of an access: a register plus an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The register.
    pub base: Register,
    /// Added to it.
    pub offset: i64,
}

/// A load or store.
#[derive(Debug)]
pub struct Access {
    /// Where.
    pub space: Space,
    /// The address.
    pub address: Address,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub element_bytes: u32,
    /// Whether a load into a wider register extends the sign.
    pub signed: bool,
    /// One register for each element; `None` where the PTX has `_`.
    pub registers: Box<[Option<Register>]>,
    /// What it orders.
    pub order: MemoryOrder,
}

/// Threads that an order holds for, fewest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// `.cta`
    Block,
    /// `.cluster`
    Cluster,
    /// `.gpu`, and `.sys`: there is one device.
    Device,
}

/// `.weak`, or what a strong access orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryOrder {
    /// Orders nothing, and races with every unordered access.
    Weak,
    /// Reaches `scope`; of these threads' accesses before and after it, it orders what is said.
    Strong {
        /// Whose strong accesses it does not race with.
        scope: Scope,
        /// What it reads from a release is ordered before what follows.
        acquire: bool,
        /// What came before is ordered before what reads it.
        release: bool,
    },
}

/// Read-modify-write operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareExchange,
    Inc,
    Dec,
}

/// Types of read-modify-write operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum AtomicType {
    U16,
    U32,
    S32,
    U64,
    S64,
    F32,
    F64,
    Half(HalfKind),
    Half2(HalfKind),
}

/// `atom` or `red`
#[derive(Debug)]
pub struct Atomic {
    /// Where.
    pub space: Space,
    /// The address.
    pub address: Address,
    /// The operation.
    pub op: AtomicOp,
    /// The type.
    pub kind: AtomicType,
    /// Old value; `None` for `red`.
    pub d: Option<Register>,
    /// Operand, and the new value of `cas`.
    pub sources: [Option<Register>; 2],
    /// What it orders.
    pub order: MemoryOrder,
}

/// Bits of a shared address below the rank of its block in the cluster, plus one; 0 is the own block.
pub const RANK_SHIFT: u32 = 24;
/// Generic address of shared address 0. Shared addresses themselves are 32-bit offsets.
pub const SHARED_WINDOW: u64 = 0x0000_0100_0000_0000;
/// Address of the first local byte, in local space and in generic space alike.
pub const LOCAL_WINDOW: u64 = 0x0000_0200_0000_0000;
/// Address of the first parameter byte, in parameter space and in generic space alike.
pub const PARAM_WINDOW: u64 = 0x0000_0300_0000_0000;
/// Bytes of each window.
pub const WINDOW_BYTES: u64 = 1 << 32;
/// Unused bytes between two shared variables, so that an overrun of one is not a legal access to
/// the next.
pub const SHARED_GUARD_BYTES: u64 = 256;

/// `cp.async`: at most 16 bytes from global to shared memory.
#[derive(Debug)]
pub struct CopyAsync {
    /// In shared memory.
    pub to: Address,
    /// In global memory.
    pub from: Address,
    /// Bytes written.
    pub bytes: u32,
    /// Bytes read, if fewer; the rest is zero.
    pub read_bytes: Option<Slot>,
    /// Nothing is read where this predicate (negated by all ones) holds.
    pub ignore: Option<(Slot, u32)>,
}

/// `cp.async.bulk`
#[derive(Debug)]
pub struct CopyBulk {
    /// Where it writes, and where it reads: global memory, or shared memory.
    pub spaces: [Space; 2],
    /// Destination.
    pub to: Address,
    /// Source.
    pub from: Address,
    /// A multiple of 16.
    pub bytes: Slot,
    /// Who is told.
    pub completion: Completion,
    /// Blocks of the cluster that get the data at the same address, a bit for each rank.
    pub multicast: Option<Slot>,
}

/// Who is told that a bulk copy is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// An mbarrier, by the number of bytes.
    Mbarrier(Address),
    /// The bulk group of the thread.
    Group,
}

/// `st.async`, `red.async`: registers to the shared memory of a block of the cluster.
#[derive(Debug)]
pub struct StoreAsync {
    /// Destination.
    pub to: Address,
    /// What is stored.
    pub registers: Box<[Register]>,
    /// Bytes of each.
    pub element_bytes: u32,
    /// What is done with what is there, if it is not replaced.
    pub reduction: Option<(AtomicOp, AtomicType)>,
    /// Mbarrier that is told, beside the destination.
    pub mbarrier: Address,
}

/// Groups of a thread's asynchronous copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyGroup {
    /// Closes the group of `cp.async`.
    Commit,
    /// Waits until at most so many groups are under way; `None` also for copies in no group.
    Wait { pending: Option<u32> },
    /// Closes the group of bulk copies.
    CommitBulk,
    /// As `Wait`; `read` waits for the sources to be read alone.
    WaitBulk { pending: u32, read: bool },
}
