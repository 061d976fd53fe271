//! The shape of a PTX module: what the parser gives and the decoder takes.

use std::ops::Range;
use std::sync::Arc;

/// A PTX module.
#[derive(Debug, Default)]
pub struct Module<'a> {
    /// The architecture of its `.target`, times ten; 0 if there is none.
    pub architecture: u32,
    /// Variables outside functions.
    pub variables: Vec<Variable<'a>>,
    /// Kernels.
    pub kernels: Vec<Kernel<'a>>,
    /// Functions that kernels call.
    pub functions: Vec<Function<'a>>,
    /// Names of the files of `.loc`, by number.
    pub files: Vec<(u32, &'a str)>,
}

/// A `.entry` function.
#[derive(Debug)]
pub struct Kernel<'a> {
    /// Symbol.
    pub name: &'a str,
    /// Parameters in order.
    pub parameters: Vec<Variable<'a>>,
    /// `.maxntid` or `.reqntid`: threads a block at most, 0 if not given.
    pub max_threads: u32,
    /// `.reqnctapercluster`: blocks of a cluster by axis.
    pub cluster: Option<[u32; 3]>,
    /// The statements.
    pub body: Vec<Statement<'a>>,
}

/// A `.func`.
#[derive(Debug)]
pub struct Function<'a> {
    /// Symbol.
    pub name: &'a str,
    /// What it returns, and its parameters.
    pub results: Vec<Variable<'a>>,
    /// See `results`.
    pub parameters: Vec<Variable<'a>>,
    /// The statements; none for one that the driver provides, or that is defined later.
    pub body: Option<Vec<Statement<'a>>>,
}

/// Where a variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateSpace {
    /// `.global`
    Global,
    /// `.const`
    Const,
    /// `.shared`
    Shared,
    /// `.local`
    Local,
    /// `.param`
    Param,
}

/// A variable or parameter.
#[derive(Debug, Clone)]
pub struct Variable<'a> {
    /// Symbol.
    pub name: &'a str,
    /// Where it lives.
    pub space: StateSpace,
    /// In bytes, a power of two.
    pub align: u64,
    /// In bytes; 0 for `.extern .shared name[]`.
    pub bytes: u64,
    /// Whether `.extern`.
    pub is_extern: bool,
    /// Its first bytes; the rest is zero.
    pub initial: Vec<u8>,
}

/// One statement of a body.
#[derive(Debug)]
pub enum Statement<'a> {
    /// `.reg .type name, ...;` or `.reg .type name<count>;`
    Registers {
        /// The type without its dot.
        class: &'a str,
        /// Name, and how many if it stands for a family `name0..`.
        names: Vec<(&'a str, Option<u32>)>,
    },
    /// A variable of the function.
    Variable(Variable<'a>),
    /// `name:`
    Label(&'a str),
    /// An instruction.
    Instruction(Instruction<'a>),
    /// `name: .branchtargets a, b;`
    BranchTargets(&'a str, Vec<&'a str>),
    /// `{ ... }`, a scope of its own.
    Block(Vec<Statement<'a>>),
}

/// File and line in the source that the PTX was compiled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Number in [`Module::files`].
    pub file: u32,
    /// From 1.
    pub line: u32,
}

/// `@!p opcode.modifier operands;`
#[derive(Debug)]
pub struct Instruction<'a> {
    /// Name of the guard predicate and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    /// The opcode up to its first dot.
    pub opcode: &'a str,
    /// The rest of the opcode, cut at dots (`::` inside one is kept).
    pub modifiers: Vec<&'a str>,
    /// Destination first.
    pub operands: Vec<Operand<'a>>,
    /// Where it stands in the PTX.
    pub span: Range<usize>,
    /// The last `.loc` before it, and the call sites it was inlined at, innermost first.
    pub location: Option<Arc<[Location]>>,
}

/// An operand as written.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand<'a> {
    /// A register, symbol or label, with an offset for symbols.
    Name(&'a str, i64),
    /// An integer.
    Integer(i128),
    /// Bits of `0f...`.
    F32(u32),
    /// Bits of `0d...` or of a decimal fraction.
    F64(u64),
    /// `!name`
    Not(&'a str),
    /// `a|b`
    Pair(&'a str, &'a str),
    /// `{a, b, ...}`
    Vector(Vec<Operand<'a>>),
    /// `[name+offset]`; no name for an absolute address.
    Address(Option<&'a str>, i64),
}
