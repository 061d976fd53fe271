//! Instructions as the interpreter executes them: operands are places in a register file, targets
//! are indexes, modifiers are enums. Immediates, addresses of variables and special registers such
//! as `%tid.x` are registers that are filled before a warp starts, so an operand is always a slot.

mod arithmetic;
mod memory;
mod sync;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::ast::Location;
use super::decode::{source_line, squeeze};
use crate::exec::warp::Warp;
use crate::report::Class;

pub use arithmetic::*;
pub use memory::*;
pub use sync::*;

/// Place of an operand in the register file of its width.
pub type Slot = u32;

/// The predicate that is always true: the guard of an unguarded instruction.
pub const ALWAYS: Slot = 0;

/// A kernel that can be launched.
#[derive(Debug)]
pub struct Kernel {
    /// Symbol.
    pub name: String,
    /// The instructions.
    pub code: Vec<Inst>,
    /// Where they come from.
    pub source: Source,
    /// Parameters in order.
    pub parameters: Vec<Parameter>,
    /// Bytes of all parameters.
    pub parameter_bytes: u64,
    /// Shared variables, by offset. The last has the launch's dynamic bytes if `has_dynamic`.
    pub shared: Vec<SharedVariable>,
    /// Whether the kernel declares `.extern .shared`.
    pub has_dynamic_shared: bool,
    /// Sum of the sizes of the variables that are not `.extern`, aligned.
    pub static_shared_bytes: u64,
    /// Local bytes of each thread.
    pub local_bytes: u64,
    /// Threads a block at most, 0 if the PTX does not say.
    pub max_threads: u32,
    /// Blocks of a cluster by axis, if the PTX says.
    pub cluster: Option<[u32; 3]>,
    /// Whether it starts asynchronous copies.
    pub copies: bool,
    /// The architecture that it was compiled for, times ten.
    pub architecture: u32,
    /// Registers of a thread, where the image has machine code for the device.
    pub registers: Option<u32>,
    /// Slots of the files of 32-bit registers, 64-bit registers and predicates.
    pub slots: SlotCounts,
    /// Registers that hold immediates.
    pub constants32: Vec<(Slot, u32)>,
    /// Registers that hold immediates and addresses.
    pub constants64: Vec<(Slot, u64)>,
    /// 32-bit registers that stand for special registers.
    pub specials: Vec<(Slot, Special)>,
    /// Register files of earlier launches: making them costs more than a small launch.
    pub(crate) spare: Mutex<Vec<Vec<Warp>>>,
}

/// How many registers of each file a kernel uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct SlotCounts {
    /// 16-bit and 32-bit registers.
    pub b32: u32,
    /// 64-bit registers.
    pub b64: u32,
    /// Predicates.
    pub pred: u32,
}

/// Where a kernel's instructions come from, for reports. A clone is cheap.
#[derive(Debug, Clone)]
pub struct Source {
    /// The module's text.
    pub text: Arc<str>,
    /// For each instruction, its place.
    pub origins: Arc<[Origin]>,
    /// Names of source files, by the number in [`Location`].
    pub files: Arc<[(u32, String)]>,
}

impl Source {
    /// An instruction's PTX on one line.
    pub fn ptx(&self, pc: u32) -> String {
        squeeze(&self.text[self.origins[pc as usize].span.clone()])
    }

    /// ` at file.cu:12, inlined at file.cu:40`, or nothing.
    pub fn line(&self, pc: u32) -> String {
        source_line(&self.origins[pc as usize], &self.files)
    }

    /// ` at file.cu:12: ld.global.u32 ...`
    pub fn describe(&self, pc: u32) -> String {
        format!("{}: {}", self.line(pc), self.ptx(pc))
    }
}

/// Where an instruction comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Bytes of the module's text.
    pub span: Range<usize>,
    /// Source line, and the call sites it was inlined at, innermost first.
    pub location: Option<Arc<[Location]>>,
}

/// A kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Offset in parameter space.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// A shared variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedVariable {
    /// Symbol.
    pub name: String,
    /// Address in shared space.
    pub offset: u64,
    /// Size in bytes; 0 for the dynamic one until launch.
    pub bytes: u64,
}

impl SharedVariable {
    /// Whether a stretch lies within it.
    pub fn holds(&self, offset: u64, bytes: u64) -> bool {
        offset >= self.offset && bytes <= self.bytes && offset - self.offset <= self.bytes - bytes
    }
}

/// Special registers that do not change while a block runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// `%tid`, by axis
    Tid(usize),
    /// `%ntid`
    Ntid(usize),
    /// `%ctaid`
    Ctaid(usize),
    /// `%nctaid`
    Nctaid(usize),
    /// `%laneid`
    LaneId,
    /// `%warpid`
    WarpId,
    /// `%nwarpid`
    WarpCount,
    /// `%smid`: the emulator's worker runs as multiprocessor 0
    SmId,
    /// `%nsmid`
    SmCount,
    /// `%lanemask_eq` and its kin
    LaneMask(Relation),
    /// `%dynamic_smem_size`
    DynamicSharedBytes,
    /// `%total_smem_size`
    TotalSharedBytes,
    /// `%clusterid`, by axis
    ClusterId(usize),
    /// `%nclusterid`
    ClusterCount(usize),
    /// `%cluster_ctaid`
    ClusterCtaid(usize),
    /// `%cluster_nctaid`
    ClusterNctaid(usize),
    /// `%cluster_ctarank`
    ClusterRank,
    /// `%cluster_nctarank`
    ClusterSize,
}

/// How lanes of `%lanemask_*` relate to the reading lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// `eq`
    Equal,
    /// `lt`
    Less,
    /// `le`
    LessEqual,
    /// `gt`
    Greater,
    /// `ge`
    GreaterEqual,
}

/// One instruction.
#[derive(Debug)]
pub struct Inst {
    /// Predicate that selects the lanes that execute it.
    pub guard: Slot,
    /// All ones if the lanes are those where `guard` is false.
    pub guard_flip: u32,
    /// What it costs.
    pub class: Class,
    /// What it does.
    pub op: Op,
}

/// What an instruction does. `d` is the destination, `s` the sources in PTX order.
#[derive(Debug)]
pub enum Op {
    /// All operands in the 32-bit file.
    Alu32 { op: Alu32, d: Slot, s: [Slot; 4] },
    /// All operands in the 64-bit file.
    Alu64 { op: Alu64, d: Slot, s: [Slot; 3] },
    /// Shifts, bit fields: 64-bit values, 32-bit positions.
    Bits64 { op: Bits64, d: Slot, values: [Slot; 2], positions: [Slot; 2] },
    /// 32-bit sources (and a 64-bit addend), 64-bit result.
    Widen { op: Widen, d: Slot, s: [Slot; 2], addend: Slot },
    /// 64-bit source, 32-bit result.
    Narrow { op: Narrow, d: Slot, s: Slot },
    /// `add.cc`, `subc`, `madc.hi.cc` and their kin.
    Carry32 { op: Carry, d: Slot, s: [Slot; 3] },
    /// The same on 64-bit operands.
    Carry64 { op: Carry, d: Slot, s: [Slot; 3] },
    /// An `.approx` instruction whose result is moved within its documented error.
    Perturbed(Box<Perturbed>),
    /// `setp` on 32-bit operands.
    Compare32 { test: Test, s: [Slot; 2], result: CompareResult },
    /// `setp` on 64-bit operands.
    Compare64 { test: Test, s: [Slot; 2], result: CompareResult },
    /// `selp`
    Select32 { d: Slot, s: [Slot; 2], pred: Slot },
    /// `selp`
    Select64 { d: Slot, s: [Slot; 2], pred: Slot },
    /// `and.pred` and its kin.
    Pred { op: BoolOp, d: Slot, s: [Slot; 2] },
    /// `isspacep`
    IsSpace { space: Space, d: Slot, s: Slot },
    /// Branch.
    Branch { target: u32 },
    /// Branch to the target that a register selects.
    BranchIndexed { index: Slot, targets: Box<[u32]> },
    /// `ret`, `exit`
    Exit,
    /// `trap`
    Trap,
    /// A call of `__assertfail`: local offsets of message, file, line and function.
    AssertFail(Box<[u64; 4]>),
    /// Load.
    Load(Box<Access>),
    /// Store.
    Store(Box<Access>),
    /// `atom`, `red`
    Atomic(Box<Atomic>),
    /// `shfl.sync`
    Shuffle(Box<Shuffle>),
    /// `vote.sync`
    Vote { mode: Vote, d: Slot, source: Slot, flip: u32, mask: Slot },
    /// `match.sync`
    Match(Box<Match>),
    /// `redux.sync`
    Redux { op: Redux, d: Slot, s: Slot, mask: Slot },
    /// `bar.warp.sync`
    WarpSync { mask: Slot },
    /// `elect.sync`
    Elect { d: Slot, pred: Slot, mask: Slot },
    /// `activemask`
    ActiveMask { d: Slot },
    /// `bar`, `barrier`
    Barrier(Box<Barrier>),
    /// `membar`, `fence`
    Fence(Fence),
    /// `mbarrier.*`, `cp.async.mbarrier.arrive`
    Mbarrier(Box<Mbarrier>),
    /// `barrier.cluster.*`
    ClusterBarrier(ClusterBarrier),
    /// `mapa`
    MapRank { d: Register, s: Register, rank: Slot },
    /// `getctarank`
    RankOf { d: Slot, s: Register },
    /// `cp.async`
    CopyAsync(Box<CopyAsync>),
    /// `cp.async.bulk`
    CopyBulk(Box<CopyBulk>),
    /// `cp.async.bulk.prefetch.L2`: nothing but its checks shows.
    PrefetchBulk { from: Address, bytes: Slot },
    /// `st.async`, `red.async`
    StoreAsync(Box<StoreAsync>),
    /// `cp.async.commit_group`, `cp.async.bulk.wait_group` and their kin.
    CopyGroup(CopyGroup),
    /// `griddepcontrol`
    GridDependency(GridDependency),
    /// `%clock64`, `%globaltimer` and their kin.
    Clock { d: Register },
    /// Nothing that an emulator shows: `nanosleep`, `prefetch`.
    Nothing,
}

impl Op {
    /// What it costs.
    pub fn class(&self) -> Class {
        match self {
            Self::Alu32 { op, .. } => match op {
                Alu32::Mov | Alu32::Pack16 | Alu32::Low16 | Alu32::High16 => Class::Move,
                Alu32::AddF(_)
                | Alu32::SubF(_)
                | Alu32::MulF(_)
                | Alu32::FmaF(_)
                | Alu32::MinF { .. }
                | Alu32::MaxF { .. }
                | Alu32::MinXorSignF { .. }
                | Alu32::MaxXorSignF { .. }
                | Alu32::AbsF { .. }
                | Alu32::NegF { .. }
                | Alu32::CopySign => Class::Float,
                Alu32::DivF(_)
                | Alu32::RcpF(_)
                | Alu32::SqrtF(_)
                | Alu32::DivApprox(_)
                | Alu32::DivFull(_)
                | Alu32::RcpApprox(_)
                | Alu32::RsqrtApprox(_)
                | Alu32::SqrtApprox(_)
                | Alu32::Ex2(_)
                | Alu32::Lg2(_)
                | Alu32::Sin(_)
                | Alu32::Cos(_)
                | Alu32::Tanh => Class::Special,
                Alu32::Half(half) if matches!(half.op, HalfOp::Ex2 | HalfOp::Tanh) => {
                    Class::Special
                }
                Alu32::Half(_) => Class::Half,
                Alu32::F32FromF16
                | Alu32::F16FromF32
                | Alu32::F32FromBf16
                | Alu32::Bf16FromF32
                | Alu32::PackHalf { .. }
                | Alu32::SignExtend16
                | Alu32::Convert(_)
                | Alu32::Shrink(_)
                | Alu32::ShrinkPair(_)
                | Alu32::ShrinkHalves(..)
                | Alu32::Grow { .. } => Class::Convert,
                _ => Class::Integer,
            },
            Self::Alu64 { op, .. } => match op {
                Alu64::Mov => Class::Move,
                Alu64::AddF
                | Alu64::SubF
                | Alu64::MulF
                | Alu64::FmaF
                | Alu64::DivF
                | Alu64::RcpF
                | Alu64::SqrtF
                | Alu64::Directed(..)
                | Alu64::RcpGross
                | Alu64::RsqrtGross
                | Alu64::RsqrtF
                | Alu64::MinF
                | Alu64::MaxF
                | Alu64::AbsF
                | Alu64::NegF
                | Alu64::CopySignF => Class::Double,
                Alu64::Convert(_) => Class::Convert,
                _ => Class::Integer,
            },
            Self::Bits64 { .. } | Self::Carry32 { .. } | Self::Carry64 { .. } => Class::Integer,
            Self::Perturbed(instruction) => instruction.exact.class(),
            Self::Widen { op: Widen::Pack | Widen::ZeroExtend, .. }
            | Self::Narrow { op: Narrow::Low | Narrow::High, .. } => Class::Move,
            Self::Widen { op: Widen::Convert(_) | Widen::SignExtend, .. }
            | Self::Narrow { op: Narrow::Convert(_), .. } => Class::Convert,
            Self::Widen { .. } | Self::Narrow { .. } => Class::Integer,
            Self::Compare32 { .. }
            | Self::Compare64 { .. }
            | Self::Select32 { .. }
            | Self::Select64 { .. }
            | Self::Pred { .. }
            | Self::IsSpace { .. } => Class::Compare,
            Self::Load(access) | Self::Store(access) => match access.space {
                Space::Global | Space::Generic => Class::Global,
                Space::Shared | Space::SharedCluster => Class::Shared,
                Space::Const | Space::Local | Space::Param => Class::OtherMemory,
            },
            Self::Atomic(_) => Class::Atomic,
            Self::Shuffle(_)
            | Self::Vote { .. }
            | Self::Match(_)
            | Self::Redux { .. }
            | Self::WarpSync { .. }
            | Self::Elect { .. }
            | Self::ActiveMask { .. } => Class::Collective,
            Self::Barrier(_)
            | Self::Fence(_)
            | Self::Mbarrier(_)
            | Self::ClusterBarrier(_)
            | Self::GridDependency(_) => Class::Synchronisation,
            Self::CopyAsync(_)
            | Self::CopyBulk(_)
            | Self::PrefetchBulk { .. }
            | Self::StoreAsync(_)
            | Self::CopyGroup(_) => Class::Copy,
            Self::MapRank { .. } | Self::RankOf { .. } => Class::Integer,
            Self::Clock { .. } => Class::Move,
            Self::Branch { .. }
            | Self::BranchIndexed { .. }
            | Self::Exit
            | Self::Trap
            | Self::AssertFail(_)
            | Self::Nothing => Class::Control,
        }
    }
}
