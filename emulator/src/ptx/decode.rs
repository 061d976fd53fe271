//! Checks every instruction of a kernel and resolves it into [`super::ir`].
//!
//! Each modifier has to be consumed by the arm of its opcode: what is left over is an instruction
//! that the emulator does not know, and an error. So nothing is approximated silently.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::PtxError;
use super::ast::{self, Instruction, Module, Operand, StateSpace, Statement, Variable};
use super::ir::*;
use super::lexer::line_of;
use super::operands::{Operands, clock_bits};

/// Decodes one kernel of a module whose `.global` and `.const` variables have `addresses`.
pub fn decode(
    text: &Arc<str>,
    module: &Module<'_>,
    kernel: &ast::Kernel<'_>,
    addresses: &HashMap<String, u64>,
) -> Result<Kernel, PtxError> {
    let mut decoder = Decoder {
        operands: Operands::new(),
        code: Vec::new(),
        origins: Vec::new(),
        pending: Vec::new(),
        branch_lists: HashMap::new(),
        guard: (ALWAYS, 0),
        origin: Origin { span: 0..0, location: None },
    };
    for (name, address) in addresses {
        if let Some(variable) = module.variables.iter().find(|v| v.name == name) {
            decoder.operands.define_symbol(variable.name, *address);
        }
    }

    let mut parameters = Vec::new();
    let mut parameter_bytes = 0_u64;
    for parameter in &kernel.parameters {
        let offset = parameter_bytes.next_multiple_of(parameter.align);
        decoder.operands.define_symbol(parameter.name, PARAM_WINDOW + offset);
        parameters.push(Parameter { offset, bytes: parameter.bytes });
        parameter_bytes = offset + parameter.bytes;
    }

    let mut names = HashSet::new();
    let mut variables = Vec::new();
    collect(&kernel.body, &mut names, &mut variables);
    let shared: Vec<&Variable<'_>> = module
        .variables
        .iter()
        .filter(|v| v.space == StateSpace::Shared && names.contains(v.name))
        .chain(variables.iter().copied().filter(|v| v.space == StateSpace::Shared))
        .collect();
    let layout = SharedLayout::new(&shared);
    for (variable, place) in shared.iter().filter(|v| !v.is_extern).zip(&layout.places) {
        decoder.operands.define_symbol(variable.name, place.offset);
    }
    for variable in shared.iter().filter(|v| v.is_extern) {
        decoder.operands.define_symbol(variable.name, layout.dynamic_offset);
    }

    let mut local_bytes = 0_u64;
    for variable in variables.iter().filter(|v| v.space == StateSpace::Local) {
        let offset = local_bytes.next_multiple_of(variable.align);
        decoder.operands.define_symbol(variable.name, LOCAL_WINDOW + offset);
        local_bytes = offset + variable.bytes;
    }

    let files: Arc<[(u32, String)]> =
        module.files.iter().map(|(number, name)| (*number, (*name).to_string())).collect();
    decoder.block(&kernel.body).map_err(|message| {
        let origin = &decoder.origin;
        PtxError {
            message,
            text: squeeze(&text[origin.span.clone()]),
            line: line_of(text, origin.span.start),
            source_line: source_line(origin, &files).into(),
        }
    })?;
    if let Some((_, label, origin)) = decoder.pending.first() {
        return Err(PtxError {
            message: format!("label {label} is not defined"),
            text: squeeze(&text[origin.span.clone()]),
            line: line_of(text, origin.span.start),
            source_line: source_line(origin, &files).into(),
        });
    }
    // A body may end without `ret`.
    decoder.guard = (ALWAYS, 0);
    decoder.emit(Op::Exit);

    let mut places = layout.places;
    if layout.has_dynamic {
        places.push(SharedVariable {
            name: "dynamic shared memory".into(),
            offset: layout.dynamic_offset,
            bytes: 0,
        });
    }
    Ok(Kernel {
        name: kernel.name.into(),
        code: decoder.code,
        origins: decoder.origins,
        parameters,
        parameter_bytes,
        shared: places,
        has_dynamic_shared: layout.has_dynamic,
        static_shared_bytes: layout.static_bytes,
        local_bytes: local_bytes.next_multiple_of(16),
        max_threads: kernel.max_threads,
        slots: decoder.operands.slots,
        constants32: decoder.operands.constants32.iter().map(|(&v, &s)| (s, v)).collect(),
        constants64: decoder.operands.constants64.iter().map(|(&v, &s)| (s, v)).collect(),
        specials: decoder.operands.specials,
        text: text.clone(),
        files,
    })
}

/// ` at file.cu:12, inlined at file.cu:40`, or nothing.
pub fn source_line(origin: &Origin, files: &[(u32, String)]) -> String {
    let Some(places) = &origin.location else {
        return String::new();
    };
    let mut text = String::new();
    for (depth, place) in places.iter().take(3).enumerate() {
        let file = files.iter().find(|(number, _)| *number == place.file);
        let name = file.map_or("?", |(_, name)| name.as_str());
        let short = name.rsplit('/').next().unwrap_or(name);
        text += if depth == 0 { " at " } else { ", inlined at " };
        text += &format!("{short}:{}", place.line);
    }
    text
}

/// PTX on one line.
pub fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct SharedLayout {
    places: Vec<SharedVariable>,
    static_bytes: u64,
    dynamic_offset: u64,
    has_dynamic: bool,
}

impl SharedLayout {
    fn new(variables: &[&Variable<'_>]) -> Self {
        let mut places = Vec::new();
        let mut static_bytes = 0_u64;
        let mut end = 0_u64;
        let mut dynamic_align = 1;
        let mut has_dynamic = false;
        for variable in variables {
            if variable.is_extern {
                has_dynamic = true;
                dynamic_align = variable.align.max(dynamic_align);
                continue;
            }
            static_bytes = static_bytes.next_multiple_of(variable.align) + variable.bytes;
            let offset = end.next_multiple_of(variable.align);
            places.push(SharedVariable {
                name: variable.name.into(),
                offset,
                bytes: variable.bytes,
            });
            end = offset + variable.bytes + SHARED_GUARD_BYTES;
        }
        Self {
            places,
            static_bytes,
            dynamic_offset: end.next_multiple_of(dynamic_align),
            has_dynamic,
        }
    }
}

/// Names that a body mentions, and variables that it declares.
fn collect<'a, 'b>(
    body: &'b [Statement<'a>],
    names: &mut HashSet<&'a str>,
    variables: &mut Vec<&'b Variable<'a>>,
) {
    fn operand_names<'a>(operand: &Operand<'a>, names: &mut HashSet<&'a str>) {
        match operand {
            Operand::Name(name, _) | Operand::Address(Some(name), _) => {
                names.insert(name);
            }
            Operand::Vector(parts) => parts.iter().for_each(|part| operand_names(part, names)),
            Operand::Integer(_)
            | Operand::F32(_)
            | Operand::F64(_)
            | Operand::Not(_)
            | Operand::Pair(..)
            | Operand::Address(None, _) => {}
        }
    }
    for statement in body {
        match statement {
            Statement::Instruction(instruction) => {
                instruction.operands.iter().for_each(|operand| operand_names(operand, names));
            }
            Statement::Variable(variable) => variables.push(variable),
            Statement::Block(inner) => collect(inner, names, variables),
            Statement::Registers { .. } | Statement::Label(_) | Statement::BranchTargets(..) => {}
        }
    }
}

/// A type as instructions name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Bits(u32),
    Unsigned(u32),
    Signed(u32),
    Half(HalfKind),
    Half2(HalfKind),
    F32,
    F64,
    Pred,
}

impl Type {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "f16" => Self::Half(HalfKind::F16),
            "bf16" => Self::Half(HalfKind::Bf16),
            "f16x2" => Self::Half2(HalfKind::F16),
            "bf16x2" => Self::Half2(HalfKind::Bf16),
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => {
                let bits = match name.get(1..)? {
                    "8" => 8,
                    "16" => 16,
                    "32" => 32,
                    "64" => 64,
                    _ => return None,
                };
                match &name[..1] {
                    "b" => Self::Bits(bits),
                    "u" => Self::Unsigned(bits),
                    "s" => Self::Signed(bits),
                    _ => return None,
                }
            }
        })
    }

    /// Bits of a value of this type.
    fn bits(self) -> u32 {
        match self {
            Self::Bits(bits) | Self::Unsigned(bits) | Self::Signed(bits) => bits,
            Self::Half(_) => 16,
            Self::Half2(_) | Self::F32 => 32,
            Self::F64 => 64,
            Self::Pred => 1,
        }
    }

    fn is_signed(self) -> bool {
        matches!(self, Self::Signed(_))
    }

    fn number(self) -> Result<Number, String> {
        match self {
            Self::Bits(bits) | Self::Unsigned(bits) => Ok(Number::Unsigned(bits)),
            Self::Signed(bits) => Ok(Number::Signed(bits)),
            Self::Half(kind) => Ok(Number::Half(kind)),
            Self::F32 => Ok(Number::F32),
            Self::F64 => Ok(Number::F64),
            Self::Half2(_) | Self::Pred => Err(UNKNOWN_TYPE.into()),
        }
    }
}

const UNKNOWN_TYPE: &str = "unknown instruction: this type is not supported with this opcode";

/// The modifiers of an instruction that no one has consumed yet.
struct Modifiers<'a>(Vec<&'a str>);

impl<'a> Modifiers<'a> {
    fn take(&mut self, name: &str) -> bool {
        match self.0.iter().position(|m| *m == name) {
            Some(at) => {
                self.0.remove(at);
                true
            }
            None => false,
        }
    }

    /// The first of these that is there.
    fn take_one<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().find(|(name, _)| self.take(name)).map(|(_, value)| *value)
    }

    fn need_one<T: Copy>(&mut self, what: &str, choices: &[(&str, T)]) -> Result<T, String> {
        self.take_one(choices).ok_or_else(|| format!("unknown instruction: no known {what}"))
    }

    /// The first type among the modifiers.
    fn ty(&mut self) -> Result<Type, String> {
        match self.0.iter().position(|m| Type::parse(m).is_some()) {
            Some(at) => Type::parse(self.0.remove(at)).ok_or_else(|| UNKNOWN_TYPE.to_string()),
            None => Err("unknown instruction: no known type".into()),
        }
    }

    fn round(&mut self) -> Option<Round> {
        self.take_one(&[
            ("rn", Round::Nearest),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
        ])
    }

    /// Cache and prefetch hints, memory order and scope: an interpreter that executes in order and
    /// synchronises at every fence satisfies them all.
    fn skip_memory_hints(&mut self) {
        self.0.retain(|m| {
            !matches!(
                *m,
                "weak"
                    | "volatile"
                    | "relaxed"
                    | "acquire"
                    | "release"
                    | "acq_rel"
                    | "cta"
                    | "gpu"
                    | "sys"
                    | "ca"
                    | "cg"
                    | "cs"
                    | "lu"
                    | "cv"
                    | "wb"
                    | "wt"
                    | "nc"
            ) && !m.starts_with("L1::evict")
                && *m != "L1::no_allocate"
                && !matches!(*m, "L2::64B" | "L2::128B" | "L2::256B")
        });
    }

    fn space(&mut self) -> Space {
        self.take_one(&[
            ("global", Space::Global),
            ("const", Space::Const),
            ("shared::cta", Space::Shared),
            ("shared", Space::Shared),
            ("local", Space::Local),
            ("param::entry", Space::Param),
            ("param", Space::Param),
        ])
        .unwrap_or(Space::Generic)
    }

    fn finish(&self) -> Result<(), String> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "unknown instruction: modifier `.{}` is not supported here",
                self.0.join(".")
            ))
        }
    }
}

struct Decoder<'a> {
    operands: Operands<'a>,
    code: Vec<Inst>,
    origins: Vec<Origin>,
    /// Branches to labels that are not resolved yet: (instruction, entry of its list), label.
    pending: Vec<((usize, usize), &'a str, Origin)>,
    branch_lists: HashMap<&'a str, Vec<&'a str>>,
    guard: (Slot, u32),
    /// The instruction that is being decoded.
    origin: Origin,
}

type Decoded<T = ()> = Result<T, String>;

impl<'a> Decoder<'a> {
    fn emit(&mut self, op: Op) {
        self.code.push(Inst { guard: self.guard.0, guard_flip: self.guard.1, op });
        self.origins.push(self.origin.clone());
    }

    fn block(&mut self, statements: &[Statement<'a>]) -> Decoded {
        self.operands.open_scope();
        let first_pending = self.pending.len();
        let mut labels = HashMap::new();
        // A list of branch targets may stand after the branch that uses it.
        for statement in statements {
            if let Statement::BranchTargets(name, targets) = statement {
                self.branch_lists.insert(name, targets.clone());
            }
        }
        for statement in statements {
            match statement {
                Statement::Registers { class, names } => {
                    for (name, family) in names {
                        self.operands.declare(class, name, *family)?;
                    }
                }
                Statement::Label(name) => {
                    labels.insert(*name, self.code.len() as u32);
                }
                Statement::Block(inner) => self.block(inner)?,
                Statement::Instruction(instruction) => {
                    self.origin = Origin {
                        span: instruction.span.clone(),
                        location: instruction.location.clone(),
                    };
                    self.guard = match instruction.guard {
                        None => (ALWAYS, 0),
                        Some((name, negate)) => {
                            let slot = self.operands.source(&Operand::Name(name, 0), 1)?;
                            (slot, if negate { u32::MAX } else { 0 })
                        }
                    };
                    self.instruction(instruction)?;
                }
                // Placed before the first instruction is decoded.
                Statement::Variable(_) | Statement::BranchTargets(..) => {}
            }
        }
        // Labels are visible in the block that defines them and inside it.
        let unresolved = self.pending.split_off(first_pending);
        for (place, label, origin) in unresolved {
            match labels.get(label) {
                Some(&pc) => match &mut self.code[place.0].op {
                    Op::Branch { target } => *target = pc,
                    Op::BranchIndexed { targets, .. } => targets[place.1] = pc,
                    _ => return Err("a branch that is none".into()),
                },
                None => self.pending.push((place, label, origin)),
            }
        }
        self.operands.close_scope();
        Ok(())
    }

    /// Operand `at`, or an error that says how many are missing.
    fn operand<'b>(inst: &'b Instruction<'a>, at: usize) -> Decoded<&'b Operand<'a>> {
        inst.operands.get(at).ok_or_else(|| format!("operand {} is missing", at + 1))
    }

    fn src(&mut self, inst: &Instruction<'a>, at: usize, bits: u32) -> Decoded<Slot> {
        self.operands.source(Self::operand(inst, at)?, bits)
    }

    fn dst(&mut self, inst: &Instruction<'a>, at: usize, bits: u32) -> Decoded<Slot> {
        self.operands.destination(Self::operand(inst, at)?, bits)
    }

    /// A predicate, and all ones if it is negated.
    fn pred(&mut self, inst: &Instruction<'a>, at: usize) -> Decoded<(Slot, u32)> {
        match Self::operand(inst, at)? {
            Operand::Not(name) => Ok((self.operands.source(&Operand::Name(name, 0), 1)?, u32::MAX)),
            operand => Ok((self.operands.source(operand, 1)?, 0)),
        }
    }

    /// `d|p` or `d`.
    fn dst_pair(
        &mut self,
        inst: &Instruction<'a>,
        bits: (u32, u32),
    ) -> Decoded<(Slot, Option<Slot>)> {
        match Self::operand(inst, 0)? {
            Operand::Pair(d, p) => {
                let d = self.operands.destination(&Operand::Name(d, 0), bits.0)?;
                let p = self.operands.destination(&Operand::Name(p, 0), bits.1)?;
                Ok((d, Some(p)))
            }
            operand => Ok((self.operands.destination(operand, bits.0)?, None)),
        }
    }

    fn expect_operands(inst: &Instruction<'a>, count: usize) -> Decoded {
        if inst.operands.len() == count {
            Ok(())
        } else {
            Err(format!("{count} operands expected, found {}", inst.operands.len()))
        }
    }

    fn alu32(&mut self, op: Alu32, d: Slot, s: &[Slot]) {
        let mut sources = [s[0]; 4];
        sources[..s.len()].copy_from_slice(s);
        self.emit(Op::Alu32 { op, d, s: sources });
    }

    fn alu64(&mut self, op: Alu64, d: Slot, s: &[Slot]) {
        let mut sources = [s[0]; 3];
        sources[..s.len()].copy_from_slice(s);
        self.emit(Op::Alu64 { op, d, s: sources });
    }

    /// `d = op(a, b, ...)` with all operands of `bits` bits in the 32-bit file.
    fn simple32(
        &mut self,
        inst: &Instruction<'a>,
        op: Alu32,
        bits: u32,
        sources: usize,
    ) -> Decoded {
        Self::expect_operands(inst, 1 + sources)?;
        let d = self.dst(inst, 0, bits)?;
        let s: Vec<Slot> =
            (1..=sources).map(|at| self.src(inst, at, bits)).collect::<Decoded<_>>()?;
        self.alu32(op, d, &s);
        Ok(())
    }

    fn simple64(&mut self, inst: &Instruction<'a>, op: Alu64, sources: usize) -> Decoded {
        Self::expect_operands(inst, 1 + sources)?;
        let d = self.dst(inst, 0, 64)?;
        let s: Vec<Slot> =
            (1..=sources).map(|at| self.src(inst, at, 64)).collect::<Decoded<_>>()?;
        self.alu64(op, d, &s);
        Ok(())
    }

    /// An integer operation by width. 16-bit ones are done in 32 bits on extended sources.
    fn integer(
        &mut self,
        inst: &Instruction<'a>,
        ty: Type,
        op32: Alu32,
        op64: Option<Alu64>,
        sources: usize,
    ) -> Decoded {
        match (ty.bits(), op64) {
            (16, _) => {
                Self::expect_operands(inst, 1 + sources)?;
                let d = self.dst(inst, 0, 16)?;
                let mut s = Vec::new();
                for at in 1..=sources {
                    let source = self.src(inst, at, 16)?;
                    s.push(self.extended16(source, ty.is_signed()));
                }
                self.alu32(op32, d, &s);
                self.alu32(Alu32::Low16, d, &[d]);
                Ok(())
            }
            (32, _) => self.simple32(inst, op32, 32, sources),
            (64, Some(op64)) => self.simple64(inst, op64, sources),
            _ => Err(UNKNOWN_TYPE.into()),
        }
    }

    fn extended16(&mut self, source: Slot, signed: bool) -> Slot {
        if !signed {
            return source;
        }
        let temporary = self.operands.fresh(32, 1);
        self.alu32(Alu32::SignExtend16, temporary, &[source]);
        temporary
    }

    fn address(&mut self, inst: &Instruction<'a>, at: usize) -> Decoded<Address> {
        match Self::operand(inst, at)? {
            Operand::Address(None, absolute) => {
                let base = Register::B64(self.operands.constant(64, *absolute as u64));
                Ok(Address { base, offset: 0 })
            }
            Operand::Address(Some(name), offset) => match self.operands.register(name) {
                Some((64, slot)) => Ok(Address { base: Register::B64(slot), offset: *offset }),
                Some((32, slot)) => Ok(Address { base: Register::B32(slot), offset: *offset }),
                Some((bits, _)) => Err(format!("an address in {name}, which has {bits} bits")),
                None => match self.operands.symbol(name) {
                    Some(address) => {
                        let absolute = address.wrapping_add_signed(*offset);
                        let base = Register::B64(self.operands.constant(64, absolute));
                        Ok(Address { base, offset: 0 })
                    }
                    None => Err(format!("{name} is not declared, or not known to the emulator")),
                },
            },
            _ => Err("an address in brackets expected".into()),
        }
    }

    fn instruction(&mut self, inst: &Instruction<'a>) -> Decoded {
        let mut m = Modifiers(inst.modifiers.clone());
        match inst.opcode {
            "mov" => self.mov(inst, &mut m)?,
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "min" | "max" | "abs"
            | "neg" | "copysign" => self.arithmetic(inst, &mut m)?,
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "ex2" | "lg2" | "tanh" => {
                self.function(inst, &mut m)?;
            }
            "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "prmt" | "bfe"
            | "bfi" | "bfind" | "clz" | "popc" | "brev" | "lop3" | "sad" | "dp4a" => {
                self.bits(inst, &mut m)?;
            }
            "setp" => self.setp(inst, &mut m)?,
            "selp" => {
                Self::expect_operands(inst, 4)?;
                let ty = m.ty()?;
                m.finish()?;
                let bits = ty.bits();
                let d = self.dst(inst, 0, bits)?;
                let s = [self.src(inst, 1, bits)?, self.src(inst, 2, bits)?];
                let pred = self.src(inst, 3, 1)?;
                self.emit(match bits {
                    64 => Op::Select64 { d, s, pred },
                    16 | 32 => Op::Select32 { d, s, pred },
                    _ => return Err(UNKNOWN_TYPE.into()),
                });
            }
            "cvt" => self.cvt(inst, &mut m)?,
            "cvta" => {
                Self::expect_operands(inst, 2)?;
                let to = m.take("to");
                let space = m.space();
                let ty = m.ty()?;
                m.finish()?;
                if ty != Type::Unsigned(64) {
                    return Err(UNKNOWN_TYPE.into());
                }
                let d = self.dst(inst, 0, 64)?;
                let s = self.src(inst, 1, 64)?;
                if space == Space::Shared {
                    let base = self.operands.constant(64, SHARED_WINDOW);
                    self.alu64(if to { Alu64::Sub } else { Alu64::Add }, d, &[s, base]);
                } else {
                    self.alu64(Alu64::Mov, d, &[s]);
                }
            }
            "isspacep" => {
                Self::expect_operands(inst, 2)?;
                let space = m.space();
                m.finish()?;
                let d = self.dst(inst, 0, 1)?;
                let s = self.src(inst, 1, 64)?;
                self.emit(Op::IsSpace { space, d, s });
            }
            "ld" | "ldu" => {
                Self::expect_operands(inst, 2)?;
                let access = self.access(inst, &mut m, (1, 0))?;
                self.emit(Op::Load(Box::new(access)));
            }
            "st" => {
                Self::expect_operands(inst, 2)?;
                let access = self.access(inst, &mut m, (0, 1))?;
                if matches!(access.space, Space::Param | Space::Const) {
                    return Err("a store to read-only memory".into());
                }
                self.emit(Op::Store(Box::new(access)));
            }
            "atom" | "red" => self.atomic(inst, &mut m)?,
            "bra" => {
                m.take("uni");
                m.finish()?;
                let &Operand::Name(label, 0) = Self::operand(inst, 0)? else {
                    return Err("a label expected".into());
                };
                self.pending.push(((self.code.len(), 0), label, self.origin.clone()));
                self.emit(Op::Branch { target: 0 });
            }
            "brx" => {
                m.take("idx");
                m.take("uni");
                m.finish()?;
                let index = self.src(inst, 0, 32)?;
                let &Operand::Name(list, 0) = Self::operand(inst, 1)? else {
                    return Err("a list of branch targets expected".into());
                };
                let Some(labels) = self.branch_lists.get(list).cloned() else {
                    return Err(format!("no .branchtargets {list} in this block"));
                };
                for (entry, label) in labels.iter().enumerate() {
                    self.pending.push(((self.code.len(), entry), label, self.origin.clone()));
                }
                self.emit(Op::BranchIndexed { index, targets: vec![0; labels.len()].into() });
            }
            "ret" | "exit" => {
                m.take("uni");
                m.finish()?;
                self.emit(Op::Exit);
            }
            "trap" => {
                m.finish()?;
                self.emit(Op::Trap);
            }
            "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" => {
                self.collective(inst, &mut m)?;
            }
            "bar" | "barrier" => self.barrier(inst, &mut m)?,
            "membar" => {
                m.need_one("scope", &[("cta", ()), ("gl", ()), ("sys", ())])?;
                m.finish()?;
                self.emit(Op::Fence);
            }
            "fence" => {
                m.take_one(&[("sc", ()), ("acq_rel", ()), ("acquire", ()), ("release", ())]);
                m.need_one("scope", &[("cta", ()), ("gpu", ()), ("sys", ())])?;
                m.finish()?;
                self.emit(Op::Fence);
            }
            "nanosleep" => {
                m.take("u32");
                m.finish()?;
                self.src(inst, 0, 32)?;
                self.emit(Op::Nothing);
            }
            "prefetch" => {
                m.space();
                m.need_one("cache level", &[("L1", ()), ("L2", ())])?;
                m.finish()?;
                self.address(inst, 0)?;
                self.emit(Op::Nothing);
            }
            opcode => return Err(format!("unknown instruction `{opcode}`")),
        }
        Ok(())
    }

    fn mov(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        Self::expect_operands(inst, 2)?;
        let ty = m.ty()?;
        m.finish()?;
        let bits = ty.bits();
        match (&inst.operands[0], &inst.operands[1]) {
            (Operand::Vector(parts), _) => {
                let parts = parts.clone();
                let source = self.src(inst, 1, bits)?;
                self.unpack(bits, &parts, source)
            }
            (_, Operand::Vector(parts)) => {
                let parts = parts.clone();
                let d = self.dst(inst, 0, bits)?;
                self.pack(bits, d, &parts)
            }
            (_, Operand::Name(name, 0)) if clock_bits(name).is_some() => {
                let d = self.dst(inst, 0, bits)?;
                if clock_bits(name) != Some(bits) {
                    return Err(UNKNOWN_TYPE.into());
                }
                let d = if bits == 64 { Register::B64(d) } else { Register::B32(d) };
                self.emit(Op::Clock { d });
                Ok(())
            }
            (_, Operand::Integer(value @ -1..=1)) if bits == 1 => {
                // A predicate constant has no register: d ^ d, inverted for true, which nvcc writes as
                // 1 or -1.
                let d = self.dst(inst, 0, bits)?;
                self.emit(Op::Pred { op: BoolOp::Xor, d, s: [d, d] });
                if *value != 0 {
                    self.emit(Op::Pred { op: BoolOp::Not, d, s: [d, d] });
                }
                Ok(())
            }
            _ => {
                let d = self.dst(inst, 0, bits)?;
                let s = self.src(inst, 1, bits)?;
                match bits {
                    1 => self.emit(Op::Pred { op: BoolOp::Mov, d, s: [s, s] }),
                    16 | 32 => self.alu32(Alu32::Mov, d, &[s]),
                    64 => self.alu64(Alu64::Mov, d, &[s]),
                    _ => return Err(UNKNOWN_TYPE.into()),
                }
                Ok(())
            }
        }
    }

    fn pack(&mut self, bits: u32, d: Slot, parts: &[Operand<'a>]) -> Decoded {
        let part_bits = bits / parts.len().max(1) as u32;
        let s: Vec<Slot> =
            parts.iter().map(|p| self.operands.source(p, part_bits)).collect::<Decoded<_>>()?;
        match (bits, s.as_slice()) {
            (32, [low, high]) => self.alu32(Alu32::Pack16, d, &[*low, *high]),
            (64, [low, high]) => {
                self.emit(Op::Widen { op: Widen::Pack, d, s: [*low, *high], addend: 0 });
            }
            (64, [a, b, c, e]) => {
                let words = [self.operands.fresh(32, 1), self.operands.fresh(32, 1)];
                self.alu32(Alu32::Pack16, words[0], &[*a, *b]);
                self.alu32(Alu32::Pack16, words[1], &[*c, *e]);
                self.emit(Op::Widen { op: Widen::Pack, d, s: words, addend: 0 });
            }
            _ => return Err("unknown instruction: a vector of this size".into()),
        }
        Ok(())
    }

    fn unpack(&mut self, bits: u32, parts: &[Operand<'a>], source: Slot) -> Decoded {
        let part_bits = bits / parts.len().max(1) as u32;
        let d: Vec<Slot> = parts
            .iter()
            .map(|part| self.operands.destination(part, part_bits))
            .collect::<Decoded<_>>()?;
        match (bits, d.as_slice()) {
            (32, [low, high]) => {
                self.alu32(Alu32::Low16, *low, &[source]);
                self.alu32(Alu32::High16, *high, &[source]);
            }
            (64, [low, high]) => {
                self.emit(Op::Narrow { op: Narrow::Low, d: *low, s: source });
                self.emit(Op::Narrow { op: Narrow::High, d: *high, s: source });
            }
            (64, [a, b, c, e]) => {
                for (word, low, high) in [(Narrow::Low, *a, *b), (Narrow::High, *c, *e)] {
                    let temporary = self.operands.fresh(32, 1);
                    self.emit(Op::Narrow { op: word, d: temporary, s: source });
                    self.alu32(Alu32::Low16, low, &[temporary]);
                    self.alu32(Alu32::High16, high, &[temporary]);
                }
            }
            _ => return Err("unknown instruction: a vector of this size".into()),
        }
        Ok(())
    }

    fn arithmetic(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let opcode = inst.opcode;
        let part = m.take_one(&[("lo", "lo"), ("hi", "hi"), ("wide", "wide")]);
        let full = m.take("full");
        let approx = m.take("approx") || full;
        let nan = m.take("NaN");
        let ty = m.ty()?;
        let sources = match opcode {
            "abs" | "neg" => 1,
            "mad" | "fma" => 3,
            _ => 2,
        };
        match ty {
            Type::F32 => {
                let explicit_round = m.round();
                let mode = FloatMode {
                    round: explicit_round.unwrap_or(Round::Nearest),
                    ftz: m.take("ftz"),
                    sat: m.take("sat"),
                };
                m.finish()?;
                let ftz = mode.ftz;
                let op = match (opcode, approx) {
                    ("add", false) => Alu32::AddF(mode),
                    ("sub", false) => Alu32::SubF(mode),
                    ("mul", false) => Alu32::MulF(mode),
                    ("fma" | "mad", false) => Alu32::FmaF(mode),
                    ("div", false) if explicit_round.is_some() => Alu32::DivF(mode),
                    ("div", true) if full => Alu32::DivFull(ftz),
                    ("div", true) => Alu32::DivApprox(ftz),
                    ("min", false) => Alu32::MinF { ftz, nan },
                    ("max", false) => Alu32::MaxF { ftz, nan },
                    ("abs", false) => Alu32::AbsF { ftz },
                    ("neg", false) => Alu32::NegF { ftz },
                    ("copysign", false) => Alu32::CopySign,
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                let takes_mode = matches!(opcode, "add" | "sub" | "mul" | "fma" | "mad" | "div");
                if (explicit_round.is_some() || mode.sat) && !takes_mode || part.is_some() {
                    return Err(UNKNOWN_TYPE.into());
                }
                if nan && !matches!(opcode, "min" | "max") {
                    return Err(UNKNOWN_TYPE.into());
                }
                self.simple32(inst, op, 32, sources)
            }
            Type::F64 => {
                if !matches!(m.round(), None | Some(Round::Nearest))
                    || approx
                    || nan
                    || part.is_some()
                {
                    return Err(
                        "unknown instruction: directed rounding or approximation of f64".into()
                    );
                }
                m.finish()?;
                let op = match opcode {
                    "add" => Alu64::AddF,
                    "sub" => Alu64::SubF,
                    "mul" => Alu64::MulF,
                    "fma" | "mad" => Alu64::FmaF,
                    "div" => Alu64::DivF,
                    "min" => Alu64::MinF,
                    "max" => Alu64::MaxF,
                    "abs" => Alu64::AbsF,
                    "neg" => Alu64::NegF,
                    "copysign" => Alu64::CopySignF,
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                self.simple64(inst, op, sources)
            }
            Type::Half(kind) | Type::Half2(kind) => {
                let op = match (opcode, nan) {
                    ("add", false) => HalfOp::Add,
                    ("sub", false) => HalfOp::Sub,
                    ("mul", false) => HalfOp::Mul,
                    ("fma", false) => HalfOp::Fma,
                    ("min", false) => HalfOp::Min,
                    ("max", false) => HalfOp::Max,
                    ("min", true) => HalfOp::MinNan,
                    ("max", true) => HalfOp::MaxNan,
                    ("abs", false) => HalfOp::Abs,
                    ("neg", false) => HalfOp::Neg,
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                if !matches!(m.round(), None | Some(Round::Nearest)) || approx || part.is_some() {
                    return Err(UNKNOWN_TYPE.into());
                }
                let half = Half {
                    op,
                    kind,
                    packed: matches!(ty, Type::Half2(_)),
                    ftz: m.take("ftz"),
                    sat: m.take("sat"),
                    relu: m.take("relu"),
                };
                m.finish()?;
                self.simple32(inst, Alu32::Half(half), ty.bits(), sources)
            }
            Type::Unsigned(_) | Type::Signed(_) => {
                let sat = m.take("sat");
                m.finish()?;
                if approx || nan {
                    return Err(UNKNOWN_TYPE.into());
                }
                self.integer_arithmetic(inst, ty, part, sat, sources)
            }
            Type::Bits(_) | Type::Pred => Err(UNKNOWN_TYPE.into()),
        }
    }

    fn integer_arithmetic(
        &mut self,
        inst: &Instruction<'a>,
        ty: Type,
        part: Option<&str>,
        sat: bool,
        sources: usize,
    ) -> Decoded {
        let signed = ty.is_signed();
        let pick = |s, u| if signed { s } else { u };
        if sat {
            let op = match (inst.opcode, ty) {
                ("add", Type::Signed(32)) => Alu32::AddSatS,
                ("sub", Type::Signed(32)) => Alu32::SubSatS,
                _ => return Err(UNKNOWN_TYPE.into()),
            };
            return self.simple32(inst, op, 32, 2);
        }
        match (inst.opcode, part) {
            ("mul" | "mad", Some("wide")) => return self.wide(inst, ty),
            ("mul", Some("hi")) if ty.bits() == 16 => {
                Self::expect_operands(inst, 3)?;
                let d = self.dst(inst, 0, 16)?;
                let (a, b) = (self.src(inst, 1, 16)?, self.src(inst, 2, 16)?);
                let s = [self.extended16(a, signed), self.extended16(b, signed)];
                let product = self.operands.fresh(32, 1);
                self.alu32(Alu32::Mul, product, &s);
                self.alu32(Alu32::High16, d, &[product]);
                return Ok(());
            }
            _ => {}
        }
        let (op32, op64) = match (inst.opcode, part) {
            ("add", None) => (Alu32::Add, Some(Alu64::Add)),
            ("sub", None) => (Alu32::Sub, Some(Alu64::Sub)),
            ("mul", Some("lo")) => (Alu32::Mul, Some(Alu64::Mul)),
            ("mul", Some("hi")) => (
                pick(Alu32::MulHiS, Alu32::MulHiU),
                Some(if signed { Alu64::MulHiS } else { Alu64::MulHiU }),
            ),
            ("mad", Some("lo")) => (Alu32::Mad, Some(Alu64::Mad)),
            ("mad", Some("hi")) if ty.bits() == 32 => (pick(Alu32::MadHiS, Alu32::MadHiU), None),
            ("div", None) => (
                pick(Alu32::DivS, Alu32::DivU),
                Some(if signed { Alu64::DivS } else { Alu64::DivU }),
            ),
            ("rem", None) => (
                pick(Alu32::RemS, Alu32::RemU),
                Some(if signed { Alu64::RemS } else { Alu64::RemU }),
            ),
            ("min", None) => (
                pick(Alu32::MinS, Alu32::MinU),
                Some(if signed { Alu64::MinS } else { Alu64::MinU }),
            ),
            ("max", None) => (
                pick(Alu32::MaxS, Alu32::MaxU),
                Some(if signed { Alu64::MaxS } else { Alu64::MaxU }),
            ),
            ("abs", None) if signed => (Alu32::AbsS, Some(Alu64::AbsS)),
            ("neg", None) if signed => (Alu32::Neg, Some(Alu64::Neg)),
            _ => return Err(UNKNOWN_TYPE.into()),
        };
        self.integer(inst, ty, op32, op64, sources)
    }

    /// `mul.wide`, `mad.wide`
    fn wide(&mut self, inst: &Instruction<'a>, ty: Type) -> Decoded {
        let signed = ty.is_signed();
        let multiply_add = inst.opcode == "mad";
        Self::expect_operands(inst, if multiply_add { 4 } else { 3 })?;
        match ty.bits() {
            16 => {
                let d = self.dst(inst, 0, 32)?;
                let (a, b) = (self.src(inst, 1, 16)?, self.src(inst, 2, 16)?);
                let s = [self.extended16(a, signed), self.extended16(b, signed)];
                if multiply_add {
                    let c = self.src(inst, 3, 32)?;
                    self.alu32(Alu32::Mad, d, &[s[0], s[1], c]);
                } else {
                    self.alu32(Alu32::Mul, d, &s);
                }
            }
            32 => {
                let d = self.dst(inst, 0, 64)?;
                let s = [self.src(inst, 1, 32)?, self.src(inst, 2, 32)?];
                let addend = if multiply_add { self.src(inst, 3, 64)? } else { d };
                let op = match (multiply_add, signed) {
                    (false, false) => Widen::MulU,
                    (false, true) => Widen::MulS,
                    (true, false) => Widen::MadU,
                    (true, true) => Widen::MadS,
                };
                self.emit(Op::Widen { op, d, s, addend });
            }
            _ => return Err(UNKNOWN_TYPE.into()),
        }
        Ok(())
    }

    /// Functions of one float.
    fn function(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let approx = m.take("approx");
        let ty = m.ty()?;
        match ty {
            Type::F32 => {
                let explicit_round = m.round();
                let mode = FloatMode {
                    round: explicit_round.unwrap_or(Round::Nearest),
                    ftz: m.take("ftz"),
                    sat: false,
                };
                m.finish()?;
                let ftz = mode.ftz;
                let op = match (inst.opcode, approx, explicit_round) {
                    ("rcp", false, Some(_)) => Alu32::RcpF(mode),
                    ("sqrt", false, Some(_)) => Alu32::SqrtF(mode),
                    ("rcp", true, None) => Alu32::RcpApprox(ftz),
                    ("sqrt", true, None) => Alu32::SqrtApprox(ftz),
                    ("rsqrt", true, None) => Alu32::RsqrtApprox(ftz),
                    ("sin", true, None) => Alu32::Sin(ftz),
                    ("cos", true, None) => Alu32::Cos(ftz),
                    ("ex2", true, None) => Alu32::Ex2(ftz),
                    ("lg2", true, None) => Alu32::Lg2(ftz),
                    ("tanh", true, None) if !ftz => Alu32::Tanh,
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                self.simple32(inst, op, 32, 1)
            }
            Type::F64 => {
                let round = m.round();
                m.finish()?;
                let op = match (inst.opcode, approx, round) {
                    ("rcp", false, Some(Round::Nearest)) => Alu64::RcpF,
                    ("sqrt", false, Some(Round::Nearest)) => Alu64::SqrtF,
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                self.simple64(inst, op, 1)
            }
            Type::Half(kind) | Type::Half2(kind) => {
                let ftz = m.take("ftz");
                m.finish()?;
                let op = match (inst.opcode, approx) {
                    ("ex2", true) => HalfOp::Ex2,
                    ("tanh", true) if !ftz => HalfOp::Tanh,
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                let packed = matches!(ty, Type::Half2(_));
                let half = Half { op, kind, packed, ftz, sat: false, relu: false };
                self.simple32(inst, Alu32::Half(half), ty.bits(), 1)
            }
            _ => Err(UNKNOWN_TYPE.into()),
        }
    }

    /// Logic, shifts and bit fields.
    fn bits(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        match inst.opcode {
            "and" | "or" | "xor" | "not" | "cnot" => {
                let ty = m.ty()?;
                m.finish()?;
                let sources = if matches!(inst.opcode, "not" | "cnot") { 1 } else { 2 };
                if ty == Type::Pred {
                    Self::expect_operands(inst, 1 + sources)?;
                    let d = self.dst(inst, 0, 1)?;
                    let a = self.src(inst, 1, 1)?;
                    let b = if sources == 2 { self.src(inst, 2, 1)? } else { a };
                    let op = match inst.opcode {
                        "and" => BoolOp::And,
                        "or" => BoolOp::Or,
                        "xor" => BoolOp::Xor,
                        "not" => BoolOp::Not,
                        _ => return Err(UNKNOWN_TYPE.into()),
                    };
                    self.emit(Op::Pred { op, d, s: [a, b] });
                    return Ok(());
                }
                if !matches!(ty, Type::Bits(_)) {
                    return Err(UNKNOWN_TYPE.into());
                }
                let (op32, op64) = match inst.opcode {
                    "and" => (Alu32::And, Alu64::And),
                    "or" => (Alu32::Or, Alu64::Or),
                    "xor" => (Alu32::Xor, Alu64::Xor),
                    "not" => (Alu32::Not, Alu64::Not),
                    _ => (Alu32::CNot, Alu64::CNot),
                };
                self.integer(inst, ty, op32, Some(op64), sources)
            }
            "shl" | "shr" => {
                Self::expect_operands(inst, 3)?;
                let ty = m.ty()?;
                m.finish()?;
                let signed = ty.is_signed();
                let bits = ty.bits();
                let d = self.dst(inst, 0, bits)?;
                let a = self.src(inst, 1, bits)?;
                let count = self.src(inst, 2, 32)?;
                match bits {
                    16 | 32 => {
                        let op = match (inst.opcode, signed) {
                            ("shl", _) => Alu32::Shl,
                            (_, false) => Alu32::ShrU,
                            (_, true) => Alu32::ShrS,
                        };
                        let a = if bits == 16 { self.extended16(a, signed) } else { a };
                        self.alu32(op, d, &[a, count]);
                        if bits == 16 {
                            self.alu32(Alu32::Low16, d, &[d]);
                        }
                    }
                    64 => {
                        let op = match (inst.opcode, signed) {
                            ("shl", _) => Bits64::Shl,
                            (_, false) => Bits64::ShrU,
                            (_, true) => Bits64::ShrS,
                        };
                        self.emit(Op::Bits64 { op, d, values: [a, a], positions: [count, count] });
                    }
                    _ => return Err(UNKNOWN_TYPE.into()),
                }
                Ok(())
            }
            "shf" => {
                let left = m.need_one("direction", &[("l", true), ("r", false)])?;
                let clamp = m.need_one("mode", &[("clamp", true), ("wrap", false)])?;
                m.take("b32");
                m.finish()?;
                let op = if left { Alu32::ShfL(clamp) } else { Alu32::ShfR(clamp) };
                self.simple32(inst, op, 32, 3)
            }
            "prmt" => {
                m.take("b32");
                let mode = m
                    .take_one(&[
                        ("f4e", Prmt::F4e),
                        ("b4e", Prmt::B4e),
                        ("rc8", Prmt::Rc8),
                        ("ecl", Prmt::Ecl),
                        ("ecr", Prmt::Ecr),
                        ("rc16", Prmt::Rc16),
                    ])
                    .unwrap_or(Prmt::Index);
                m.finish()?;
                self.simple32(inst, Alu32::Prmt(mode), 32, 3)
            }
            "bfe" | "bfi" => {
                let ty = m.ty()?;
                m.finish()?;
                let bits = ty.bits();
                let insert = inst.opcode == "bfi";
                let values = if insert { 2 } else { 1 };
                Self::expect_operands(inst, 3 + values)?;
                let d = self.dst(inst, 0, bits)?;
                let a = self.src(inst, 1, bits)?;
                let b = if insert { self.src(inst, 2, bits)? } else { a };
                let position = self.src(inst, 1 + values, 32)?;
                let length = self.src(inst, 2 + values, 32)?;
                match (bits, insert, ty.is_signed()) {
                    (32, true, _) => self.alu32(Alu32::Bfi, d, &[a, b, position, length]),
                    (32, false, false) => self.alu32(Alu32::BfeU, d, &[a, position, length]),
                    (32, false, true) => self.alu32(Alu32::BfeS, d, &[a, position, length]),
                    (64, _, signed) => {
                        let op = match (insert, signed) {
                            (true, _) => Bits64::Bfi,
                            (false, false) => Bits64::BfeU,
                            (false, true) => Bits64::BfeS,
                        };
                        self.emit(Op::Bits64 {
                            op,
                            d,
                            values: [a, b],
                            positions: [position, length],
                        });
                    }
                    _ => return Err(UNKNOWN_TYPE.into()),
                }
                Ok(())
            }
            "bfind" | "clz" | "popc" => {
                Self::expect_operands(inst, 2)?;
                let amount = inst.opcode == "bfind" && m.take("shiftamt");
                let ty = m.ty()?;
                m.finish()?;
                let signed = ty.is_signed();
                let d = self.dst(inst, 0, 32)?;
                let s = self.src(inst, 1, ty.bits())?;
                match (ty.bits(), inst.opcode) {
                    (32, "bfind") if signed => self.alu32(Alu32::BfindS(amount), d, &[s]),
                    (32, "bfind") => self.alu32(Alu32::BfindU(amount), d, &[s]),
                    (32, "clz") => self.alu32(Alu32::Clz, d, &[s]),
                    (32, _) => self.alu32(Alu32::Popc, d, &[s]),
                    (64, "bfind") if signed => {
                        self.emit(Op::Narrow { op: Narrow::BfindS(amount), d, s });
                    }
                    (64, "bfind") => self.emit(Op::Narrow { op: Narrow::BfindU(amount), d, s }),
                    (64, "clz") => self.emit(Op::Narrow { op: Narrow::Clz, d, s }),
                    (64, _) => self.emit(Op::Narrow { op: Narrow::Popc, d, s }),
                    _ => return Err(UNKNOWN_TYPE.into()),
                }
                Ok(())
            }
            "brev" => {
                let ty = m.ty()?;
                m.finish()?;
                match ty.bits() {
                    32 => self.simple32(inst, Alu32::Brev, 32, 1),
                    64 => self.simple64(inst, Alu64::Brev, 1),
                    _ => Err(UNKNOWN_TYPE.into()),
                }
            }
            "lop3" => {
                Self::expect_operands(inst, 5)?;
                m.take("b32");
                m.finish()?;
                let &Operand::Integer(table) = Self::operand(inst, 4)? else {
                    return Err("lop3 without an immediate table".into());
                };
                let d = self.dst(inst, 0, 32)?;
                let s = [self.src(inst, 1, 32)?, self.src(inst, 2, 32)?, self.src(inst, 3, 32)?];
                self.alu32(Alu32::Lop3(table as u8), d, &s);
                Ok(())
            }
            "sad" => {
                let ty = m.ty()?;
                m.finish()?;
                match ty {
                    Type::Unsigned(32) => self.simple32(inst, Alu32::SadU, 32, 3),
                    Type::Signed(32) => self.simple32(inst, Alu32::SadS, 32, 3),
                    _ => Err(UNKNOWN_TYPE.into()),
                }
            }
            _ => {
                let (a, b) = (m.ty()?, m.ty()?);
                m.finish()?;
                match (a, b) {
                    (Type::Unsigned(32), Type::Unsigned(32)) => {
                        self.simple32(inst, Alu32::Dp4aUU, 32, 3)
                    }
                    (Type::Signed(32), Type::Signed(32)) => {
                        self.simple32(inst, Alu32::Dp4aSS, 32, 3)
                    }
                    _ => Err(UNKNOWN_TYPE.into()),
                }
            }
        }
    }

    fn setp(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let relation = m.need_one(
            "comparison",
            &[
                ("eq", Compare::Eq),
                ("ne", Compare::Ne),
                ("lt", Compare::Lt),
                ("le", Compare::Le),
                ("gt", Compare::Gt),
                ("ge", Compare::Ge),
                ("lo", Compare::Lt),
                ("ls", Compare::Le),
                ("hi", Compare::Gt),
                ("hs", Compare::Ge),
                ("equ", Compare::Equ),
                ("neu", Compare::Neu),
                ("ltu", Compare::Ltu),
                ("leu", Compare::Leu),
                ("gtu", Compare::Gtu),
                ("geu", Compare::Geu),
                ("num", Compare::Num),
                ("nan", Compare::Nan),
            ],
        )?;
        let with = m.take_one(&[("and", BoolOp::And), ("or", BoolOp::Or), ("xor", BoolOp::Xor)]);
        let ftz = m.take("ftz");
        let ty = m.ty()?;
        m.finish()?;
        let number = ty.number()?;
        let bits = ty.bits();
        if !matches!(bits, 16 | 32 | 64) || ftz && ty != Type::F32 {
            return Err(UNKNOWN_TYPE.into());
        }
        Self::expect_operands(inst, if with.is_some() { 4 } else { 3 })?;
        let (d, q) = self.dst_pair(inst, (1, 1))?;
        let s = [self.src(inst, 1, bits)?, self.src(inst, 2, bits)?];
        let with = match with {
            Some(op) => {
                let (slot, flip) = self.pred(inst, 3)?;
                Some((op, slot, flip))
            }
            None => None,
        };
        let test = Test { relation, number, ftz };
        let result = CompareResult { d, q, with };
        self.emit(if bits == 64 {
            Op::Compare64 { test, s, result }
        } else {
            Op::Compare32 { test, s, result }
        });
        Ok(())
    }

    fn cvt(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let integral = m.take_one(&[
            ("rni", Round::Nearest),
            ("rzi", Round::Zero),
            ("rmi", Round::Down),
            ("rpi", Round::Up),
        ]);
        let round = m.round();
        let ftz = m.take("ftz");
        let sat = m.take("sat");
        let relu = m.take("relu");
        let (to, from) = (m.ty()?, m.ty()?);
        m.finish()?;
        if let (Type::Half2(kind), Type::F32) = (to, from) {
            Self::expect_operands(inst, 3)?;
            if round != Some(Round::Nearest) || sat || integral.is_some() {
                return Err(UNKNOWN_TYPE.into());
            }
            let d = self.dst(inst, 0, 32)?;
            let s = [self.src(inst, 1, 32)?, self.src(inst, 2, 32)?];
            self.alu32(Alu32::PackHalf { kind, relu }, d, &s);
            return Ok(());
        }
        Self::expect_operands(inst, 2)?;
        if relu {
            return Err(UNKNOWN_TYPE.into());
        }
        let Some((register_bits, d)) = self.operands.any_register(&inst.operands[0])? else {
            return Err("a register expected as destination".into());
        };
        let source_bits = match &inst.operands[1] {
            Operand::Name(name, _) => self.operands.register(name).map_or(from.bits(), |r| r.0),
            _ => from.bits().max(16),
        };
        let s = self.src(inst, 1, source_bits)?;
        if source_bits < from.bits() || register_bits < to.bits() {
            return Err("a register that is narrower than the type".into());
        }
        let convert = Convert {
            from: from.number()?,
            to: to.number()?,
            round: integral.or(round).unwrap_or(Round::Nearest),
            to_integral: integral.is_some(),
            ftz,
            sat,
            register_bits,
        };
        let is_float = |number| !matches!(number, Number::Signed(_) | Number::Unsigned(_));
        let narrows = is_float(convert.to) && (to.bits() < from.bits() || !is_float(convert.from))
            || convert.to == Number::Half(HalfKind::Bf16)
                && convert.from == Number::Half(HalfKind::F16);
        if narrows && round.is_none() && integral.is_none() {
            return Err("cvt to a narrower float without a rounding mode".into());
        }
        // The conversions of inner loops have operations of their own.
        let plain = !sat && integral.is_none() && matches!(round, None | Some(Round::Nearest));
        let exact_registers = register_bits == to.bits() && source_bits == from.bits();
        let fast = plain && exact_registers;
        match (source_bits == 64, d) {
            (false, Register::B32(d)) => {
                let op = match (convert.to, convert.from) {
                    (Number::F32, Number::Half(HalfKind::F16)) if fast => Alu32::F32FromF16,
                    (Number::Half(HalfKind::F16), Number::F32) if fast => Alu32::F16FromF32,
                    (Number::F32, Number::Half(HalfKind::Bf16)) if fast && !ftz => {
                        Alu32::F32FromBf16
                    }
                    (Number::Half(HalfKind::Bf16), Number::F32) if fast && !ftz => {
                        Alu32::Bf16FromF32
                    }
                    (Number::Unsigned(32) | Number::Signed(32), Number::Unsigned(16)) if fast => {
                        Alu32::Mov
                    }
                    (
                        Number::Unsigned(16) | Number::Signed(16),
                        Number::Unsigned(32) | Number::Signed(32),
                    ) if fast => Alu32::Low16,
                    (Number::Unsigned(32) | Number::Signed(32), Number::Signed(16)) if fast => {
                        Alu32::SignExtend16
                    }
                    _ => Alu32::Convert(convert),
                };
                self.alu32(op, d, &[s]);
            }
            (false, Register::B64(d)) => {
                let op = match (convert.to, convert.from) {
                    (Number::Unsigned(64) | Number::Signed(64), Number::Unsigned(32)) if fast => {
                        Widen::ZeroExtend
                    }
                    (Number::Unsigned(64) | Number::Signed(64), Number::Signed(32)) if fast => {
                        Widen::SignExtend
                    }
                    _ => Widen::Convert(convert),
                };
                self.emit(Op::Widen { op, d, s: [s, s], addend: d });
            }
            (true, Register::B32(d)) => {
                let op = match (convert.to, convert.from) {
                    (
                        Number::Unsigned(32) | Number::Signed(32),
                        Number::Unsigned(64) | Number::Signed(64),
                    ) if fast => Narrow::Low,
                    _ => Narrow::Convert(convert),
                };
                self.emit(Op::Narrow { op, d, s });
            }
            (true, Register::B64(d)) => self.alu64(Alu64::Convert(convert), d, &[s]),
        }
        Ok(())
    }

    /// A load or store with its register operand and its address at these places.
    fn access(
        &mut self,
        inst: &Instruction<'a>,
        m: &mut Modifiers<'a>,
        (address, register): (usize, usize),
    ) -> Decoded<Access> {
        m.skip_memory_hints();
        let space = m.space();
        let count = m.take_one(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let ty = m.ty()?;
        m.finish()?;
        if ty == Type::Pred {
            return Err(UNKNOWN_TYPE.into());
        }
        let element_bytes = ty.bits() / 8;
        if element_bytes * count > 16 {
            return Err("an access of more than 16 bytes".into());
        }
        let parts = match Self::operand(inst, register)? {
            Operand::Vector(parts) => parts.clone(),
            single => vec![single.clone()],
        };
        if parts.len() != count as usize {
            return Err(format!("{count} registers expected"));
        }
        let mut registers = Vec::new();
        for part in &parts {
            // A store may have an immediate operand.
            let is_register = matches!(part, Operand::Name(name, 0)
                if *name == "_" || self.operands.register(name).is_some());
            let found = if is_register {
                self.operands.any_register(part)?
            } else if inst.opcode == "st" {
                let bits = ty.bits().max(16);
                let slot = self.operands.source(part, bits)?;
                Some((bits, if bits == 64 { Register::B64(slot) } else { Register::B32(slot) }))
            } else {
                return Err("a register expected".into());
            };
            if found.is_some_and(|(bits, _)| bits < ty.bits()) {
                return Err("a register that is narrower than the type".into());
            }
            registers.push(found.map(|(_, register)| register));
        }
        Ok(Access {
            space,
            address: self.address(inst, address)?,
            element_bytes,
            signed: ty.is_signed(),
            registers: registers.into(),
        })
    }

    fn atomic(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        m.skip_memory_hints();
        let space = m.space();
        let op = m.need_one(
            "operation",
            &[
                ("add", AtomicOp::Add),
                ("min", AtomicOp::Min),
                ("max", AtomicOp::Max),
                ("and", AtomicOp::And),
                ("or", AtomicOp::Or),
                ("xor", AtomicOp::Xor),
                ("exch", AtomicOp::Exchange),
                ("cas", AtomicOp::CompareExchange),
                ("inc", AtomicOp::Inc),
                ("dec", AtomicOp::Dec),
            ],
        )?;
        let noftz = m.take("noftz");
        let ty = m.ty()?;
        m.finish()?;
        let swap = matches!(op, AtomicOp::Exchange | AtomicOp::CompareExchange);
        let logic = matches!(op, AtomicOp::And | AtomicOp::Or | AtomicOp::Xor);
        let kind = match ty {
            Type::Bits(16) if swap => AtomicType::U16,
            Type::Bits(32) if swap || logic => AtomicType::U32,
            Type::Bits(64) if swap || logic => AtomicType::U64,
            Type::Unsigned(32) if !swap && !logic => AtomicType::U32,
            Type::Signed(32) if matches!(op, AtomicOp::Add | AtomicOp::Min | AtomicOp::Max) => {
                AtomicType::S32
            }
            Type::Unsigned(64) | Type::Signed(64)
                if matches!(op, AtomicOp::Add | AtomicOp::Min | AtomicOp::Max) =>
            {
                if ty.is_signed() { AtomicType::S64 } else { AtomicType::U64 }
            }
            Type::F32 if op == AtomicOp::Add => AtomicType::F32,
            Type::F64 if op == AtomicOp::Add => AtomicType::F64,
            Type::Half(kind) if op == AtomicOp::Add && noftz => AtomicType::Half(kind),
            Type::Half2(kind) if op == AtomicOp::Add && noftz => AtomicType::Half2(kind),
            _ => return Err(UNKNOWN_TYPE.into()),
        };
        if matches!(space, Space::Const | Space::Local | Space::Param) {
            return Err("unknown instruction: an atomic outside global and shared memory".into());
        }
        let bits = ty.bits();
        let returns = inst.opcode == "atom";
        let first = usize::from(returns);
        let count = if op == AtomicOp::CompareExchange { 2 } else { 1 };
        Self::expect_operands(inst, first + 1 + count)?;
        let register = |slot| if bits == 64 { Register::B64(slot) } else { Register::B32(slot) };
        let d = if returns { Some(register(self.dst(inst, 0, bits)?)) } else { None };
        let address = self.address(inst, first)?;
        let mut sources = [None, None];
        for (at, source) in sources.iter_mut().enumerate().take(count) {
            *source = Some(register(self.src(inst, first + 1 + at, bits)?));
        }
        self.emit(Op::Atomic(Box::new(Atomic { space, address, op, kind, d, sources })));
        Ok(())
    }

    fn collective(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        if inst.opcode == "activemask" {
            m.take("b32");
            m.finish()?;
            let d = self.dst(inst, 0, 32)?;
            self.emit(Op::ActiveMask { d });
            return Ok(());
        }
        if !m.take("sync") {
            return Err("unknown instruction: collectives without `.sync` are not supported".into());
        }
        match inst.opcode {
            "shfl" => {
                Self::expect_operands(inst, 5)?;
                let mode = m.need_one(
                    "mode",
                    &[
                        ("up", ShuffleMode::Up),
                        ("down", ShuffleMode::Down),
                        ("bfly", ShuffleMode::Butterfly),
                        ("idx", ShuffleMode::Index),
                    ],
                )?;
                m.take("b32");
                m.finish()?;
                let (d, pred) = self.dst_pair(inst, (32, 1))?;
                let a = self.src(inst, 1, 32)?;
                let (b, c) = (self.src(inst, 2, 32)?, self.src(inst, 3, 32)?);
                let mask = self.src(inst, 4, 32)?;
                self.emit(Op::Shuffle(Box::new(Shuffle { mode, d, pred, a, b, c, mask })));
            }
            "vote" => {
                Self::expect_operands(inst, 3)?;
                let mode = m.need_one(
                    "mode",
                    &[
                        ("all", Vote::All),
                        ("any", Vote::Any),
                        ("uni", Vote::Uniform),
                        ("ballot", Vote::Ballot),
                    ],
                )?;
                let ty = m.ty()?;
                m.finish()?;
                let bits = if mode == Vote::Ballot { 32 } else { 1 };
                if ty.bits() != bits {
                    return Err(UNKNOWN_TYPE.into());
                }
                let d = self.dst(inst, 0, bits)?;
                let (source, flip) = self.pred(inst, 1)?;
                let mask = self.src(inst, 2, 32)?;
                self.emit(Op::Vote { mode, d, source, flip, mask });
            }
            "match" => {
                Self::expect_operands(inst, 3)?;
                let all = m.need_one("mode", &[("all", true), ("any", false)])?;
                let ty = m.ty()?;
                m.finish()?;
                let (d, pred) = self.dst_pair(inst, (32, 1))?;
                let slot = self.src(inst, 1, ty.bits())?;
                let source = match ty {
                    Type::Bits(32) => Register::B32(slot),
                    Type::Bits(64) => Register::B64(slot),
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                let mask = self.src(inst, 2, 32)?;
                self.emit(Op::Match(Box::new(Match { all, d, pred, source, mask })));
            }
            "redux" => {
                Self::expect_operands(inst, 3)?;
                let name = m.need_one(
                    "operation",
                    &[("add", 0), ("min", 1), ("max", 2), ("and", 3), ("or", 4), ("xor", 5)],
                )?;
                let ty = m.ty()?;
                m.finish()?;
                let op = match (name, ty) {
                    (0, Type::Unsigned(32) | Type::Signed(32)) => Redux::Add,
                    (1, Type::Unsigned(32)) => Redux::MinU,
                    (1, Type::Signed(32)) => Redux::MinS,
                    (2, Type::Unsigned(32)) => Redux::MaxU,
                    (2, Type::Signed(32)) => Redux::MaxS,
                    (3, Type::Bits(32)) => Redux::And,
                    (4, Type::Bits(32)) => Redux::Or,
                    (5, Type::Bits(32)) => Redux::Xor,
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                let d = self.dst(inst, 0, 32)?;
                let (s, mask) = (self.src(inst, 1, 32)?, self.src(inst, 2, 32)?);
                self.emit(Op::Redux { op, d, s, mask });
            }
            _ => {
                Self::expect_operands(inst, 2)?;
                m.finish()?;
                let (d, pred) = self.dst_pair(inst, (32, 1))?;
                let Some(pred) = pred else {
                    return Err("elect.sync without its predicate".into());
                };
                let mask = self.src(inst, 1, 32)?;
                self.emit(Op::Elect { d, pred, mask });
            }
        }
        Ok(())
    }

    fn barrier(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        if m.take("warp") {
            m.take("sync");
            m.finish()?;
            let mask = self.src(inst, 0, 32)?;
            self.emit(Op::WarpSync { mask });
            return Ok(());
        }
        m.take("cta");
        // `bar` is short for `barrier.aligned`.
        let aligned = m.take("aligned") || inst.opcode == "bar";
        let kind = m.need_one("kind", &[("sync", 0), ("arrive", 1), ("red", 2)])?;
        let count = inst.operands.len();
        let (kind, first, last) = match kind {
            0 => (BarrierKind::Sync, 0, count),
            1 => (BarrierKind::Arrive, 0, count),
            _ => {
                let op = m.need_one("operation", &[("popc", 0), ("and", 1), ("or", 2)])?;
                let ty = m.ty()?;
                if ty.bits() != if op == 0 { 32 } else { 1 } || count < 3 {
                    return Err(UNKNOWN_TYPE.into());
                }
                let d = self.dst(inst, 0, ty.bits())?;
                let (source, flip) = self.pred(inst, count - 1)?;
                let kind = match op {
                    0 => BarrierKind::Popc { d, source, flip },
                    1 => BarrierKind::And { d, source, flip },
                    _ => BarrierKind::Or { d, source, flip },
                };
                (kind, 1, count - 1)
            }
        };
        m.finish()?;
        let id = self.src(inst, first, 32)?;
        let threads = match last - first {
            1 => None,
            2 => Some(self.src(inst, first + 1, 32)?),
            _ => return Err("a barrier with this many operands".into()),
        };
        if kind == BarrierKind::Arrive && threads.is_none() {
            return Err("bar.arrive without a thread count".into());
        }
        self.emit(Op::Barrier(Box::new(Barrier { kind, id, threads, aligned })));
        Ok(())
    }
}
