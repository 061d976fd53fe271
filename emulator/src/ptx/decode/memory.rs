//! Loads, stores and atomics.

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::{Decoded, Decoder, Modifiers, Type, UNKNOWN_TYPE};

impl<'a> Decoder<'a, '_> {
    /// A load or store with its register operand and its address at these places.
    pub(super) fn access(
        &mut self,
        inst: &Instruction<'a>,
        m: &mut Modifiers<'a>,
        (address, register): (usize, usize),
    ) -> Decoded<Access> {
        let order = m.memory_order(MemoryOrder::Weak)?;
        m.skip_cache_hints();
        let policy = m.cache_policy();
        Self::expect_operands(inst, 2 + policy)?;
        let mut space = m.space();
        if space == Space::Param && self.is_own(inst.operands.get(address)) {
            space = Space::Local;
        }
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
            order,
        })
    }

    pub(super) fn atomic(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let relaxed = MemoryOrder::Strong { scope: Scope::Device, acquire: false, release: false };
        let order = m.memory_order(relaxed)?;
        let policy = m.cache_policy();
        let space = m.space();
        let op = m.need_one("operation", &ATOMIC_OPERATIONS)?;
        let noftz = m.take("noftz");
        let ty = m.ty()?;
        m.finish()?;
        let kind = atomic_type(op, ty, noftz)?;
        if matches!(space, Space::Const | Space::Local | Space::Param) {
            return Err("unknown instruction: an atomic outside global and shared memory".into());
        }
        let bits = ty.bits();
        let returns = inst.opcode == "atom";
        let first = usize::from(returns);
        let count = if op == AtomicOp::CompareExchange { 2 } else { 1 };
        Self::expect_operands(inst, first + 1 + count + policy)?;
        let register = |slot| if bits == 64 { Register::B64(slot) } else { Register::B32(slot) };
        let d = if returns { Some(register(self.dst(inst, 0, bits)?)) } else { None };
        let address = self.address(inst, first)?;
        let mut sources = [None, None];
        for (at, source) in sources.iter_mut().enumerate().take(count) {
            *source = Some(register(self.src(inst, first + 1 + at, bits)?));
        }
        self.emit(Op::Atomic(Box::new(Atomic { space, address, op, kind, d, sources, order })));
        Ok(())
    }
}

/// Operations of atomics and asynchronous reductions.
pub(super) const ATOMIC_OPERATIONS: [(&str, AtomicOp); 10] = [
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
];

/// The type that an operation works on, if it exists.
pub(super) fn atomic_type(op: AtomicOp, ty: Type, noftz: bool) -> Decoded<AtomicType> {
    let swap = matches!(op, AtomicOp::Exchange | AtomicOp::CompareExchange);
    let logic = matches!(op, AtomicOp::And | AtomicOp::Or | AtomicOp::Xor);
    let ordered = matches!(op, AtomicOp::Add | AtomicOp::Min | AtomicOp::Max);
    Ok(match ty {
        Type::Bits(16) if swap => AtomicType::U16,
        Type::Bits(32) if swap || logic => AtomicType::U32,
        Type::Bits(64) if swap || logic => AtomicType::U64,
        Type::Unsigned(32) if !swap && !logic => AtomicType::U32,
        Type::Signed(32) if ordered => AtomicType::S32,
        Type::Unsigned(64) if ordered => AtomicType::U64,
        Type::Signed(64) if ordered => AtomicType::S64,
        Type::F32 if op == AtomicOp::Add => AtomicType::F32,
        Type::F64 if op == AtomicOp::Add => AtomicType::F64,
        Type::Half(kind) if op == AtomicOp::Add && noftz => AtomicType::Half(kind),
        Type::Half2(kind) if op == AtomicOp::Add && noftz => AtomicType::Half2(kind),
        _ => return Err(UNKNOWN_TYPE.into()),
    })
}
