//! Lane-wise arithmetic: moves, integers, floats, conversions, comparisons.

use super::{Op, Slot};
use crate::settings::Choice;

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
