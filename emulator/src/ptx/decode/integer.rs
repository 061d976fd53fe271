//! Integer arithmetic beyond add, multiply and divide: carries, packed words, dot products, masks.

use super::super::ast::Instruction;
use super::super::ir::*;
use super::{Decoded, Decoder, Modifiers, Type, UNKNOWN_TYPE};

/// Whether an instruction adds the carry flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CarryIn {
    No,
    Yes,
}

/// Whether an instruction sets the carry flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CarryOut {
    No,
    Yes,
}

fn sign_of(ty: Type) -> Sign {
    if ty.is_signed() { Sign::Signed } else { Sign::Unsigned }
}

impl<'a> Decoder<'a, '_> {
    /// `addc`, `subc`, `madc`, all with or without `.cc`
    pub(super) fn reading_carry(
        &mut self,
        inst: &Instruction<'a>,
        m: &mut Modifiers<'a>,
    ) -> Decoded {
        let part = m.take_one(&[("lo", "lo"), ("hi", "hi")]);
        let writes = if m.take("cc") { CarryOut::Yes } else { CarryOut::No };
        let ty = m.ty()?;
        m.finish()?;
        self.with_carry(inst, ty, part, (CarryIn::Yes, writes))
    }

    /// The carry flag is a predicate that no instruction names.
    pub(super) fn with_carry(
        &mut self,
        inst: &Instruction<'a>,
        ty: Type,
        part: Option<&str>,
        (reads, writes): (CarryIn, CarryOut),
    ) -> Decoded {
        let signed = ty.is_signed();
        let op = match (inst.opcode, part) {
            ("add" | "addc", None) => CarryOp::Add,
            ("sub" | "subc", None) => CarryOp::Sub,
            ("mad" | "madc", Some("lo")) => CarryOp::MadLo,
            ("mad" | "madc", Some("hi")) if signed => CarryOp::MadHiS,
            ("mad" | "madc", Some("hi")) => CarryOp::MadHiU,
            _ => return Err(UNKNOWN_TYPE.into()),
        };
        let bits = match ty {
            Type::Unsigned(bits @ (32 | 64)) | Type::Signed(bits @ (32 | 64)) => bits,
            _ => return Err(UNKNOWN_TYPE.into()),
        };
        let sources = if matches!(op, CarryOp::Add | CarryOp::Sub) { 2 } else { 3 };
        Self::expect_operands(inst, 1 + sources)?;
        let d = self.dst(inst, 0, bits)?;
        let mut s = [self.src(inst, 1, bits)?; 3];
        for (at, slot) in s.iter_mut().enumerate().take(sources).skip(1) {
            *slot = self.src(inst, 1 + at, bits)?;
        }
        let flag = self.operands.carry();
        let op = Carry {
            op,
            reads: (reads == CarryIn::Yes).then_some(flag),
            writes: (writes == CarryOut::Yes).then_some(flag),
        };
        self.emit(if bits == 64 { Op::Carry64 { op, d, s } } else { Op::Carry32 { op, d, s } });
        Ok(())
    }

    /// `min.relu.s32` and `max.relu.s32`
    pub(super) fn integer_relu(&mut self, inst: &Instruction<'a>, ty: Type) -> Decoded {
        let op = match (inst.opcode, ty) {
            ("min", Type::Signed(32)) => Alu32::MinS,
            ("max", Type::Signed(32)) => Alu32::MaxS,
            _ => return Err(UNKNOWN_TYPE.into()),
        };
        self.simple32(inst, op, 32, 2)?;
        let d = self.dst(inst, 0, 32)?;
        self.alu32(Alu32::ReluS, d, &[d]);
        Ok(())
    }

    /// `add`, `min` and `max` of two 16-bit integers to a register; `None` for other types.
    pub(super) fn packed_integers(
        &mut self,
        inst: &Instruction<'a>,
        m: &mut Modifiers<'a>,
    ) -> Option<Decoded> {
        let sign = m.take_one(&[("u16x2", Sign::Unsigned), ("s16x2", Sign::Signed)])?;
        let relu = m.take("relu");
        let op = match (inst.opcode, sign, relu) {
            ("add", _, false) => Packed16::Add,
            ("min", Sign::Unsigned, false) => Packed16::MinU,
            ("max", Sign::Unsigned, false) => Packed16::MaxU,
            ("min", Sign::Signed, false) => Packed16::MinS,
            ("max", Sign::Signed, false) => Packed16::MaxS,
            ("min", Sign::Signed, true) => Packed16::MinSRelu,
            ("max", Sign::Signed, true) => Packed16::MaxSRelu,
            _ => return Some(Err(UNKNOWN_TYPE.into())),
        };
        Some(m.finish().and_then(|()| self.simple32(inst, Alu32::Packed16(op), 32, 2)))
    }

    /// The upper half of a product, and a sum with the third source.
    pub(super) fn high_mad32(
        &mut self,
        inst: &Instruction<'a>,
        multiply: Alu32,
        add: Alu32,
    ) -> Decoded {
        Self::expect_operands(inst, 4)?;
        let d = self.dst(inst, 0, 32)?;
        let s = [self.src(inst, 1, 32)?, self.src(inst, 2, 32)?];
        let c = self.src(inst, 3, 32)?;
        let product = self.operands.fresh(32, 1);
        self.alu32(multiply, product, &s);
        self.alu32(add, d, &[product, c]);
        Ok(())
    }

    /// Instructions of 32 bits that have opcodes of their own, and `sad`.
    pub(super) fn special_integer(
        &mut self,
        inst: &Instruction<'a>,
        m: &mut Modifiers<'a>,
    ) -> Decoded {
        let modes = [("clamp", Overrange::Clamp), ("wrap", Overrange::Wrap)];
        match inst.opcode {
            "sad" => {
                let ty = m.ty()?;
                m.finish()?;
                let (op32, op64) = match ty {
                    Type::Unsigned(16 | 32 | 64) => (Alu32::SadU, Alu64::SadU),
                    Type::Signed(16 | 32 | 64) => (Alu32::SadS, Alu64::SadS),
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                self.integer(inst, ty, op32, Some(op64), 3)
            }
            "mul24" | "mad24" => {
                let part =
                    m.need_one("part", &[("lo", Product24::Low), ("hi", Product24::High)])?;
                let sat = m.take("sat");
                let ty = m.ty()?;
                m.finish()?;
                if !matches!(ty, Type::Unsigned(32) | Type::Signed(32)) {
                    return Err(UNKNOWN_TYPE.into());
                }
                let multiply = Alu32::Mul24(sign_of(ty), part);
                match (inst.opcode, sat) {
                    ("mul24", false) => self.simple32(inst, multiply, 32, 2),
                    ("mad24", false) => self.high_mad32(inst, multiply, Alu32::Add),
                    ("mad24", true) if ty.is_signed() && part == Product24::High => {
                        self.high_mad32(inst, multiply, Alu32::AddSatS)
                    }
                    _ => Err(UNKNOWN_TYPE.into()),
                }
            }
            "dp4a" | "dp2a" => {
                let part = m.take_one(&[("lo", "lo"), ("hi", "hi")]);
                let types = [m.ty()?, m.ty()?];
                m.finish()?;
                if !types.iter().all(|ty| matches!(ty, Type::Unsigned(32) | Type::Signed(32))) {
                    return Err(UNKNOWN_TYPE.into());
                }
                let signs = types.map(sign_of);
                let op = match (inst.opcode, part) {
                    ("dp4a", None) => Alu32::Dp4a(signs),
                    ("dp2a", Some("lo")) => Alu32::Dp2aLow(signs),
                    ("dp2a", Some("hi")) => Alu32::Dp2aHigh(signs),
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                self.simple32(inst, op, 32, 3)
            }
            "fns" => {
                m.need_one("type", &[("b32", ())])?;
                m.finish()?;
                self.simple32(inst, Alu32::Fns, 32, 3)
            }
            "bmsk" => {
                let mode = m.need_one("mode", &modes)?;
                m.need_one("type", &[("b32", ())])?;
                m.finish()?;
                self.simple32(inst, Alu32::Bmsk(mode), 32, 2)
            }
            "szext" => {
                let mode = m.need_one("mode", &modes)?;
                let ty = m.ty()?;
                m.finish()?;
                if !matches!(ty, Type::Unsigned(32) | Type::Signed(32)) {
                    return Err(UNKNOWN_TYPE.into());
                }
                self.simple32(inst, Alu32::Szext(sign_of(ty), mode), 32, 2)
            }
            "vabsdiff4" | "vabsdiff2" => {
                // Without a mask the third source is not merged in.
                let types = [m.ty()?, m.ty()?, m.ty()?];
                let sum = m.take("add");
                m.finish()?;
                let known =
                    types.iter().all(|ty| matches!(ty, Type::Unsigned(32) | Type::Signed(32)));
                if !known || types[1] != types[2] {
                    return Err(UNKNOWN_TYPE.into());
                }
                let sign = sign_of(types[1]);
                let op = match (inst.opcode, sum) {
                    ("vabsdiff4", false) => Alu32::AbsDiff4(sign),
                    ("vabsdiff4", true) => Alu32::AbsDiffSum4(sign),
                    (_, false) => Alu32::AbsDiff2(sign),
                    (_, true) => Alu32::AbsDiffSum2(sign),
                };
                self.simple32(inst, op, 32, 3)
            }
            _ => Err(UNKNOWN_TYPE.into()),
        }
    }
}
