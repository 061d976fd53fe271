//! Checks every instruction of a kernel and resolves it into [`super::ir`].
//!
//! Each modifier has to be consumed by the arm of its opcode: what is left over is an instruction
//! that the emulator does not know, and an error. So nothing is approximated silently.

mod arithmetic;
mod calls;
mod compare;
mod convert;
mod copies;
mod integer;
mod memory;
mod sync;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::PtxError;
use super::ast::{self, Instruction, Module, Operand, StateSpace, Statement, Variable};
use super::ir::*;
use super::lexer::line_of;
use super::operands::Operands;
use crate::exec::approx::is_approximate;
use crate::settings::Approximation;

/// Decodes one kernel of a module whose `.global` and `.const` variables have `addresses`.
pub fn decode(
    text: &Arc<str>,
    module: &Module<'_>,
    kernel: &ast::Kernel<'_>,
    addresses: &HashMap<String, u64>,
    approximation: Approximation,
) -> Result<Kernel, PtxError> {
    let mut decoder = Decoder {
        operands: Operands::new(),
        code: Vec::new(),
        origins: Vec::new(),
        pending: Vec::new(),
        branch_lists: HashMap::new(),
        guard: (ALWAYS, 0),
        approximation,
        origin: Origin { span: 0..0, location: None },
        module,
        local_bytes: 0,
        calls: Vec::new(),
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
    if names.contains(calls::CALLS) {
        for body in module.functions.iter().filter_map(|function| function.body.as_ref()) {
            collect(body, &mut names, &mut variables);
        }
    }
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
    let copies = decoder
        .code
        .iter()
        .any(|inst| matches!(inst.op, Op::CopyAsync(_) | Op::CopyBulk(_) | Op::StoreAsync(_)));
    Ok(Kernel {
        name: kernel.name.into(),
        copies,
        code: decoder.code,
        source: Source { text: text.clone(), origins: decoder.origins.into(), files },
        parameters,
        parameter_bytes,
        shared: places,
        has_dynamic_shared: layout.has_dynamic,
        static_shared_bytes: layout.static_bytes,
        local_bytes: decoder.local_bytes.next_multiple_of(16),
        max_threads: kernel.max_threads,
        cluster: kernel.cluster,
        architecture: module.architecture,
        registers: None,
        slots: decoder.operands.slots,
        constants32: decoder.operands.constants32.iter().map(|(&v, &s)| (s, v)).collect(),
        constants64: decoder.operands.constants64.iter().map(|(&v, &s)| (s, v)).collect(),
        specials: decoder.operands.specials,
        spare: Mutex::default(),
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
                if instruction.opcode == calls::CALLS {
                    names.insert(calls::CALLS);
                }
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
                    "128" if name.starts_with('b') => 128,
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

    /// Cache and prefetch hints: an interpreter has no cache.
    fn skip_cache_hints(&mut self) {
        self.0.retain(|m| {
            !matches!(*m, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc")
                && !m.starts_with("L1::evict")
                && !m.starts_with("L2::evict")
                && *m != "L1::no_allocate"
                && !matches!(*m, "L2::64B" | "L2::128B" | "L2::256B")
        });
    }

    fn scope(&mut self) -> Option<Scope> {
        self.take_one(&[
            ("cta", Scope::Block),
            ("cluster", Scope::Cluster),
            ("gpu", Scope::Device),
            ("gl", Scope::Device),
            ("sys", Scope::Device),
        ])
    }

    /// What an access orders; one that says nothing is `default`.
    fn memory_order(&mut self, default: MemoryOrder) -> Result<MemoryOrder, String> {
        let word = self.take_one(&[
            ("weak", "weak"),
            ("volatile", "volatile"),
            ("relaxed", "relaxed"),
            ("acquire", "acquire"),
            ("release", "release"),
            ("acq_rel", "acq_rel"),
        ]);
        let scope = self.scope();
        match (word, scope, default) {
            (Some("weak"), None, _) => Ok(MemoryOrder::Weak),
            (Some("volatile"), None, _) => {
                Ok(MemoryOrder::Strong { scope: Scope::Device, acquire: false, release: false })
            }
            (None, None, _) => Ok(default),
            (None, Some(scope), MemoryOrder::Strong { acquire, release, .. }) => {
                Ok(MemoryOrder::Strong { scope, acquire, release })
            }
            (Some(word @ ("relaxed" | "acquire" | "release" | "acq_rel")), scope, _) => {
                let scope = match (scope, default) {
                    (Some(scope), _) | (None, MemoryOrder::Strong { scope, .. }) => scope,
                    _ => return Err("unknown instruction: a memory order without a scope".into()),
                };
                let acquire = matches!(word, "acquire" | "acq_rel");
                let release = matches!(word, "release" | "acq_rel");
                Ok(MemoryOrder::Strong { scope, acquire, release })
            }
            _ => Err("unknown instruction: a scope without a memory order".into()),
        }
    }

    /// `.L2::cache_hint`: the instruction has an operand more, which must be there and changes nothing.
    fn cache_policy(&mut self) -> usize {
        usize::from(self.take("L2::cache_hint"))
    }

    fn space(&mut self) -> Space {
        self.take_one(&[
            ("global", Space::Global),
            ("const", Space::Const),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::SharedCluster),
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

struct Decoder<'a, 'm> {
    operands: Operands<'a>,
    code: Vec<Inst>,
    origins: Vec<Origin>,
    /// Branches to labels that are not resolved yet: (instruction, entry of its list), label.
    pending: Vec<((usize, usize), &'a str, Origin)>,
    branch_lists: HashMap<&'a str, Vec<&'a str>>,
    guard: (Slot, u32),
    /// Whether results of `.approx` instructions are moved within their documented error.
    approximation: Approximation,
    /// The instruction that is being decoded.
    origin: Origin,
    module: &'m Module<'a>,
    /// Local memory of a thread so far.
    local_bytes: u64,
    /// The functions that are being inlined, outermost first.
    calls: Vec<calls::Call<'a>>,
}

type Decoded<T = ()> = Result<T, String>;

impl<'a> Decoder<'a, '_> {
    fn emit(&mut self, op: Op) {
        let op = match self.approximation {
            Approximation::Perturbed(choice) if is_approximate(&op) => {
                Op::Perturbed(Box::new(Perturbed { exact: op, choice }))
            }
            _ => op,
        };
        let (guard, guard_flip) = self.guard;
        self.code.push(Inst { guard, guard_flip, class: op.class(), op });
        self.origins.push(self.origin.clone());
    }

    fn block(&mut self, statements: &[Statement<'a>]) -> Decoded {
        self.operands.open_scope();
        let first_pending = self.pending.len();
        // What names of this block's variables meant outside.
        let mut hidden = Vec::new();
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
                // Arguments and results of calls are the thread's own too.
                Statement::Variable(variable)
                    if matches!(variable.space, StateSpace::Local | StateSpace::Param) =>
                {
                    hidden.push((variable.name, self.operands.symbol(variable.name)));
                    self.place(variable);
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
        for (name, place) in hidden {
            if let Some(place) = place {
                self.operands.define_symbol(name, place);
            }
        }
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
            | "bfi" | "bfind" | "clz" | "popc" | "brev" | "lop3" => self.bits(inst, &mut m)?,
            "addc" | "subc" | "madc" => self.reading_carry(inst, &mut m)?,
            "sad" | "mul24" | "mad24" | "dp4a" | "dp2a" | "fns" | "bmsk" | "szext"
            | "vabsdiff4" | "vabsdiff2" => self.special_integer(inst, &mut m)?,
            "setp" => self.setp(inst, &mut m)?,
            "set" => self.set(inst, &mut m)?,
            "selp" => self.selp(inst, &mut m)?,
            "slct" => self.slct(inst, &mut m)?,
            "testp" => self.testp(inst, &mut m)?,
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
                if matches!(space, Space::Shared | Space::SharedCluster) {
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
                let access = self.access(inst, &mut m, (1, 0))?;
                self.emit(Op::Load(Box::new(access)));
            }
            "st" if m.take("async") => self.store_async(inst, &mut m, None)?,
            "st" => {
                let access = self.access(inst, &mut m, (0, 1))?;
                if matches!(access.space, Space::Param | Space::Const) {
                    return Err("a store to read-only memory".into());
                }
                self.emit(Op::Store(Box::new(access)));
            }
            "red" if m.take("async") => self.reduce_async(inst, &mut m)?,
            "cp" => self.copy(inst, &mut m)?,
            "createpolicy" => {
                // A policy steers caches, which are not emulated: any value will do.
                m.0.retain(|m| {
                    !m.starts_with("L2::")
                        && !matches!(*m, "fractional" | "range" | "cvt" | "global")
                });
                if m.ty()? != Type::Bits(64) {
                    return Err(UNKNOWN_TYPE.into());
                }
                m.finish()?;
                let d = self.dst(inst, 0, 64)?;
                let zero = self.operands.constant(64, 0);
                self.alu64(Alu64::Mov, d, &[zero]);
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
            "ret" if !self.calls.is_empty() => {
                m.take("uni");
                m.finish()?;
                self.leave();
            }
            "ret" | "exit" => {
                m.take("uni");
                m.finish()?;
                self.emit(Op::Exit);
            }
            calls::CALLS => self.call(inst, &mut m)?,
            "trap" => {
                m.finish()?;
                self.emit(Op::Trap);
            }
            "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" => {
                self.collective(inst, &mut m)?;
            }
            "bar" | "barrier" => self.barrier(inst, &mut m)?,
            "mbarrier" => self.mbarrier(inst, &mut m)?,
            "mapa" | "getctarank" => self.rank(inst, &mut m)?,
            "membar" | "fence" => self.fence(inst, &mut m)?,
            "griddepcontrol" => {
                let op = m.need_one(
                    "action",
                    &[
                        ("launch_dependents", GridDependency::LaunchDependents),
                        ("wait", GridDependency::Wait),
                    ],
                )?;
                m.finish()?;
                Self::expect_operands(inst, 0)?;
                self.emit(Op::GridDependency(op));
            }
            // Registers are ptxas's business.
            "setmaxnreg" => {
                m.need_one("direction", &[("inc", ()), ("dec", ())])?;
                m.take("sync");
                m.take("aligned");
                m.take("u32");
                m.finish()?;
                self.emit(Op::Nothing);
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
}
