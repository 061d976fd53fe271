//! Instructions as the interpreter executes them: operands are places in a register file, targets
//! are indexes, modifiers are enums. Immediates, addresses of variables and special registers such
//! as `%tid.x` are registers that are filled before a warp starts, so an operand is always a slot.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::ast::Location;
use crate::exec::warp::Warp;
use crate::report::Class;
use crate::settings::Choice;

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
    /// For each instruction, where it comes from.
    pub origins: Vec<Origin>,
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
    /// The module's text, for reports.
    pub text: Arc<str>,
    /// Names of source files, by the number in [`Location`].
    pub files: Arc<[(u32, String)]>,
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
            Self::CopyAsync(_) | Self::CopyBulk(_) | Self::StoreAsync(_) | Self::CopyGroup(_) => {
                Class::Copy
            }
            Self::MapRank { .. } | Self::RankOf { .. } => Class::Integer,
            Self::Clock { .. } => Class::Move,
            Self::Branch { .. }
            | Self::BranchIndexed { .. }
            | Self::Exit
            | Self::Trap
            | Self::Nothing => Class::Control,
        }
    }
}

/// Extended-precision integer arithmetic. A lane's carry flag is a predicate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carry {
    /// What is computed.
    pub op: CarryOp,
    /// The carry (of a subtraction: the borrow) that is added to the second operand.
    pub reads: Option<Slot>,
    /// Where the carry or borrow of the result goes.
    pub writes: Option<Slot>,
}

/// Operations with a carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum CarryOp {
    Add,
    Sub,
    MadLo,
    MadHiU,
    MadHiS,
}

/// An `.approx` instruction in a process that perturbs them.
#[derive(Debug)]
pub struct Perturbed {
    /// The instruction, an `Alu32`.
    pub exact: Op,
    /// Which of the results that the documented error allows.
    pub choice: Choice,
}

/// Rounding of a floating-point result, or of a float made an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// Toward zero.
    Zero,
    /// Toward negative infinity.
    Down,
    /// Toward positive infinity.
    Up,
}

/// Modifiers of f32 arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloatMode {
    /// Rounding of the result.
    pub round: Round,
    /// Subnormal inputs and results become zero of their sign.
    pub ftz: bool,
    /// The result is clamped to [0, 1], NaN to 0.
    pub sat: bool,
}

/// Which of the two 16-bit float formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfKind {
    /// IEEE binary16
    F16,
    /// bfloat16
    Bf16,
}

/// Arithmetic on 16-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfOp {
    /// `add`
    Add,
    /// `sub`
    Sub,
    /// `mul`
    Mul,
    /// `fma`
    Fma,
    /// `min`
    Min,
    /// `max`
    Max,
    /// `min.NaN`
    MinNan,
    /// `max.NaN`
    MaxNan,
    /// `neg`
    Neg,
    /// `abs`
    Abs,
    /// `ex2.approx`
    Ex2,
    /// `tanh.approx`
    Tanh,
}

/// Arithmetic on 16-bit floats, with its modifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    /// The operation.
    pub op: HalfOp,
    /// The format.
    pub kind: HalfKind,
    /// Two to a register.
    pub packed: bool,
    /// Subnormals become zero.
    pub ftz: bool,
    /// Clamped to [0, 1].
    pub sat: bool,
    /// Negative results become zero.
    pub relu: bool,
    /// `.xorsign.abs`: the smaller or greater magnitude, its sign the product of both signs.
    pub xorsign: bool,
}

/// Formats that have a conversion of their own from f32, and from packed halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Small {
    /// `f16` or `bf16`
    Half(HalfKind),
    /// `tf32`: an f32 with 10 bits of mantissa.
    Tf32,
    /// 8 bits, 4 of exponent, no infinity.
    E4m3,
    /// 8 bits, 5 of exponent.
    E5m2,
}

/// Rounding of a conversion to a [`Small`] format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmallRound {
    /// `.rn`
    NearestEven,
    /// `.rna`
    NearestAway,
    /// `.rz`
    Zero,
}

/// A conversion to a [`Small`] format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrink {
    /// The result's format.
    pub to: Small,
    /// Its rounding.
    pub round: SmallRound,
    /// Negative results become zero.
    pub relu: bool,
    /// Whatever is greater than the greatest number, infinity included, becomes that number.
    pub satfinite: bool,
}

/// Lanes of a packed integer operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Packed16 {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    /// Negative results become zero.
    MinSRelu,
    MaxSRelu,
}

/// Whether the bytes or words of an operand are numbers with a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Sign {
    Unsigned,
    Signed,
}

/// What a position or width of 32 and more means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Overrange {
    Clamp,
    Wrap,
}

/// Which bits of a 48-bit product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product24 {
    /// The lowest 32.
    Low,
    /// The highest 32.
    High,
}

/// Exact arithmetic on f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum DoubleOp {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Rcp,
    Sqrt,
}

/// A number's type in a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// Unsigned integer of so many bits.
    Unsigned(u32),
    /// Signed integer of so many bits.
    Signed(u32),
    /// 16-bit float.
    Half(HalfKind),
    /// f32
    F32,
    /// f64
    F64,
}

/// `cvt`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convert {
    /// Source type.
    pub from: Number,
    /// Result type.
    pub to: Number,
    /// Rounding where the result cannot hold the source.
    pub round: Round,
    /// The result is an integer even if its type is a float's.
    pub to_integral: bool,
    /// Subnormal f32 become zero.
    pub ftz: bool,
    /// Integers clamp to the result's range, floats to [0, 1].
    pub sat: bool,
    /// Bits of the destination register: narrower integers are extended to it.
    pub register_bits: u32,
}

/// Lane-wise operations on 32-bit registers. 16-bit values have zeros above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Alu32 {
    Mov,
    Add,
    Sub,
    Mul,
    MulHiU,
    MulHiS,
    Mad,
    MadHiU,
    MadHiS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    AbsS,
    Neg,
    And,
    Or,
    Xor,
    Not,
    CNot,
    Shl,
    ShrU,
    ShrS,
    /// Funnel shifts; `true` clamps the count to 32, `false` wraps it.
    ShfL(bool),
    ShfR(bool),
    Prmt(Prmt),
    BfeU,
    BfeS,
    Bfi,
    BfindU(bool),
    BfindS(bool),
    Clz,
    Popc,
    Brev,
    Lop3(u8),
    SadU,
    SadS,
    AddSatS,
    SubSatS,
    /// Greatest of the result and zero, as signed numbers.
    ReluS,
    /// Products of the bytes of two sources, added to the third.
    Dp4a([Sign; 2]),
    /// Products of the words of the first source and the low or high bytes of the second.
    Dp2aLow([Sign; 2]),
    Dp2aHigh([Sign; 2]),
    Mul24(Sign, Product24),
    /// Position of the n-th set bit from a base.
    Fns,
    Bmsk(Overrange),
    Szext(Sign, Overrange),
    Packed16(Packed16),
    /// Absolute differences of four bytes or two words, each in its place.
    AbsDiff4(Sign),
    AbsDiff2(Sign),
    /// The same, added up and added to the third source.
    AbsDiffSum4(Sign),
    AbsDiffSum2(Sign),
    /// `cvt.pack.sat`: two signed numbers clamped to so many bits, above them the third source.
    PackSat(Sign, u32),
    /// Four bytes, low first.
    Pack8,
    /// Byte of a register, by number.
    Byte(u32),
    /// Two 16-bit halves, low first.
    Pack16,
    Low16,
    High16,
    SignExtend16,
    AddF(FloatMode),
    SubF(FloatMode),
    MulF(FloatMode),
    FmaF(FloatMode),
    DivF(FloatMode),
    RcpF(FloatMode),
    SqrtF(FloatMode),
    MinF {
        ftz: bool,
        nan: bool,
    },
    MaxF {
        ftz: bool,
        nan: bool,
    },
    /// `.xorsign.abs`: the magnitudes' minimum, its sign the product of both signs.
    MinXorSignF {
        ftz: bool,
        nan: bool,
    },
    MaxXorSignF {
        ftz: bool,
        nan: bool,
    },
    AbsF {
        ftz: bool,
    },
    NegF {
        ftz: bool,
    },
    CopySign,
    /// `approx` operations, `true` with ftz.
    DivApprox(bool),
    DivFull(bool),
    RcpApprox(bool),
    RsqrtApprox(bool),
    SqrtApprox(bool),
    Ex2(bool),
    Lg2(bool),
    Sin(bool),
    Cos(bool),
    Tanh,
    Half(Half),
    F32FromF16,
    F16FromF32,
    F32FromBf16,
    Bf16FromF32,
    /// `cvt.rn.f16x2.f32 d, high, low`; `relu` clamps negative values to zero.
    PackHalf {
        kind: HalfKind,
        relu: bool,
    },
    Convert(Convert),
    /// One f32 to a small format.
    Shrink(Shrink),
    /// Two f32, the first to the upper half of the result.
    ShrinkPair(Shrink),
    /// The two halves of a register.
    ShrinkHalves(Shrink, HalfKind),
    /// Two 8-bit floats to two f16.
    Grow {
        from: Small,
        relu: bool,
    },
}

/// Modes of `prmt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Prmt {
    Index,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

/// Lane-wise operations on 64-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Alu64 {
    Mov,
    Add,
    Sub,
    Mul,
    MulHiU,
    MulHiS,
    Mad,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    AbsS,
    Neg,
    And,
    Or,
    Xor,
    Not,
    CNot,
    Brev,
    SadU,
    SadS,
    AddF,
    SubF,
    MulF,
    FmaF,
    DivF,
    RcpF,
    SqrtF,
    /// Rounded otherwise than to nearest.
    Directed(DoubleOp, Round),
    /// `rcp.approx.ftz.f64`, `rsqrt.approx.ftz.f64`: the upper 32 bits only.
    RcpGross,
    RsqrtGross,
    /// `rsqrt.approx.f64`
    RsqrtF,
    MinF,
    MaxF,
    AbsF,
    NegF,
    CopySignF,
    Convert(Convert),
}

/// 64-bit operations with 32-bit positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Bits64 {
    Shl,
    ShrU,
    ShrS,
    BfeU,
    BfeS,
    Bfi,
}

/// Operations from 32 to 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Widen {
    MulU,
    MulS,
    MadU,
    MadS,
    /// Two 32-bit halves, low first.
    Pack,
    ZeroExtend,
    SignExtend,
    Convert(Convert),
}

/// Operations from 64 to 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Narrow {
    Low,
    High,
    Popc,
    Clz,
    BfindU(bool),
    BfindS(bool),
    Convert(Convert),
}

/// How `setp` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// The relation.
    pub relation: Compare,
    /// The operands' type.
    pub number: Number,
    /// Subnormal f32 compare as zero.
    pub ftz: bool,
}

/// Relations of `setp`. Those that end in `u` are true if an operand is NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Where the result of `setp` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompareResult {
    /// `p`
    pub d: Slot,
    /// `q`, the result for the negated comparison.
    pub q: Option<Slot>,
    /// Combined with this predicate; all ones in the last place negate it.
    pub with: Option<(BoolOp, Slot, u32)>,
}

/// Operations on predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum BoolOp {
    And,
    Or,
    Xor,
    Not,
    Mov,
}

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

/// `griddepcontrol`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GridDependency {
    /// The next launch may begin.
    LaunchDependents,
    /// Waits for the launches before it.
    Wait,
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
