//! Comparisons, and selections by them.

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::{Decoded, Decoder, Modifiers, Type, UNKNOWN_TYPE};

/// What `setp` and `set` begin with.
struct Comparison {
    relation: Compare,
    with: Option<BoolOp>,
    ftz: bool,
}

impl<'a> Decoder<'a, '_> {
    fn comparison(m: &mut Modifiers<'a>) -> Decoded<Comparison> {
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
        Ok(Comparison { relation, with, ftz: m.take("ftz") })
    }

    /// Emits the comparison of operands 1 and 2; its result, and that of the upper halves of packed
    /// operands, go to fresh predicates or to `d` and `q`.
    fn compare(
        &mut self,
        inst: &Instruction<'a>,
        comparison: &Comparison,
        ty: Type,
        (d, q): (Slot, Option<Slot>),
    ) -> Decoded {
        let Comparison { relation, with, ftz } = *comparison;
        Self::expect_operands(inst, if with.is_some() { 4 } else { 3 })?;
        let with = match with {
            Some(op) => {
                let (slot, flip) = self.pred(inst, 3)?;
                Some((op, slot, flip))
            }
            None => None,
        };
        let bits = ty.bits();
        let flushes =
            matches!(ty, Type::F32 | Type::Half(HalfKind::F16) | Type::Half2(HalfKind::F16));
        if !matches!(bits, 16 | 32 | 64) || ftz && !flushes {
            return Err(UNKNOWN_TYPE.into());
        }
        let s = [self.src(inst, 1, bits)?, self.src(inst, 2, bits)?];
        if let Type::Half2(kind) = ty {
            let test = Test { relation, number: Number::Half(kind), ftz };
            let high = [self.operands.fresh(32, 1), self.operands.fresh(32, 1)];
            for (part, whole) in high.into_iter().zip(s) {
                self.alu32(Alu32::High16, part, &[whole]);
            }
            for (d, s) in [(Some(d), s), (q, high)] {
                let Some(d) = d else { continue };
                let result = CompareResult { d, q: None, with };
                self.emit(Op::Compare32 { test, s, result });
            }
            return Ok(());
        }
        let test = Test { relation, number: ty.number()?, ftz };
        let result = CompareResult { d, q, with };
        self.emit(if bits == 64 {
            Op::Compare64 { test, s, result }
        } else {
            Op::Compare32 { test, s, result }
        });
        Ok(())
    }

    pub(super) fn setp(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let comparison = Self::comparison(m)?;
        let ty = m.ty()?;
        m.finish()?;
        let (d, q) = self.dst_pair(inst, (1, 1))?;
        if !matches!(ty, Type::Half2(_)) {
            return self.compare(inst, &comparison, ty, (d, q));
        }
        // Two instructions: neither result may be written before both have read the predicates, and
        // the one that guards them comes last.
        let fresh = [self.operands.fresh(1, 1), self.operands.fresh(1, 1)];
        self.compare(inst, &comparison, ty, (fresh[0], Some(fresh[1])))?;
        let mut results = vec![(d, fresh[0])];
        results.extend(q.map(|q| (q, fresh[1])));
        results.sort_by_key(|(slot, _)| *slot == self.guard.0);
        for (d, s) in results {
            self.emit(Op::Pred { op: BoolOp::Mov, d, s: [s, s] });
        }
        Ok(())
    }

    /// `set`: a comparison into a predicate of its own, and a selection by it.
    pub(super) fn set(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let comparison = Self::comparison(m)?;
        let (to, from) = (m.ty()?, m.ty()?);
        m.finish()?;
        let low = self.operands.fresh(1, 1);
        let half_one = |kind| if kind == HalfKind::F16 { 0x3C00 } else { 0x3F80 };
        let packed = matches!(from, Type::Half2(_));
        // The value of true in each element.
        let truth = match (to, packed) {
            (Type::Half2(to), true) if from == Type::Half2(to) => half_one(to),
            (Type::Unsigned(32) | Type::Signed(32), true) => 0xFFFF,
            (Type::Unsigned(32) | Type::Signed(32), false) => 0xFFFF_FFFF,
            (Type::Unsigned(16) | Type::Signed(16), false) if matches!(from, Type::Half(_)) => {
                0xFFFF
            }
            (Type::F32, false) if !matches!(from, Type::Half(_)) => 0x3F80_0000,
            (Type::Half(kind), false) => half_one(kind),
            _ => return Err(UNKNOWN_TYPE.into()),
        };
        let truth = self.operands.constant(32, truth);
        let zero = self.operands.constant(32, 0);
        if packed {
            let high = self.operands.fresh(1, 1);
            self.compare(inst, &comparison, from, (low, Some(high)))?;
            let d = self.dst(inst, 0, 32)?;
            let parts = [low, high].map(|pred| {
                let part = self.operands.fresh(32, 1);
                self.emit(Op::Select32 { d: part, s: [truth, zero], pred });
                part
            });
            self.alu32(Alu32::Pack16, d, &parts);
        } else {
            self.compare(inst, &comparison, from, (low, None))?;
            let d = self.dst(inst, 0, to.bits())?;
            self.emit(Op::Select32 { d, s: [truth, zero], pred: low });
        }
        Ok(())
    }

    /// `slct`: the first source if the third is not negative.
    pub(super) fn slct(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        Self::expect_operands(inst, 4)?;
        let ftz = m.take("ftz");
        let (ty, selector) = (m.ty()?, m.ty()?);
        m.finish()?;
        let number = match selector {
            Type::Signed(32) if !ftz => Number::Signed(32),
            Type::F32 => Number::F32,
            _ => return Err(UNKNOWN_TYPE.into()),
        };
        let bits = ty.bits();
        let d = self.dst(inst, 0, bits)?;
        let s = [self.src(inst, 1, bits)?, self.src(inst, 2, bits)?];
        let zero = self.operands.constant(32, 0);
        let compared = [self.src(inst, 3, 32)?, zero];
        let pred = self.operands.fresh(1, 1);
        let test = Test { relation: Compare::Ge, number, ftz };
        let result = CompareResult { d: pred, q: None, with: None };
        self.emit(Op::Compare32 { test, s: compared, result });
        self.emit(match (ty, bits) {
            (Type::Half(_) | Type::Half2(_), _) => return Err(UNKNOWN_TYPE.into()),
            (_, 64) => Op::Select64 { d, s, pred },
            (_, 16 | 32) => Op::Select32 { d, s, pred },
            _ => return Err(UNKNOWN_TYPE.into()),
        });
        Ok(())
    }

    /// `testp`, as comparisons of the magnitude's bits.
    pub(super) fn testp(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        Self::expect_operands(inst, 2)?;
        let property = m.need_one(
            "property",
            &[
                ("finite", "finite"),
                ("infinite", "infinite"),
                ("number", "number"),
                ("notanumber", "notanumber"),
                ("normal", "normal"),
                ("subnormal", "subnormal"),
            ],
        )?;
        let ty = m.ty()?;
        m.finish()?;
        let (bits, infinity, least_normal) = match ty {
            Type::F32 => (32, 0x7F80_0000, 0x0080_0000),
            Type::F64 => (64, 0x7FF0_0000_0000_0000, 0x0010_0000_0000_0000),
            _ => return Err(UNKNOWN_TYPE.into()),
        };
        let d = self.dst(inst, 0, 1)?;
        let source = self.src(inst, 1, bits)?;
        let mask = self.operands.constant(bits, u64::MAX >> (65 - bits));
        let magnitude = self.operands.fresh(bits, 1);
        let one = self.operands.constant(bits, 1);
        let before = self.operands.fresh(bits, 1);
        let finite = self.operands.fresh(1, 1);
        if bits == 64 {
            self.alu64(Alu64::And, magnitude, &[source, mask]);
            self.alu64(Alu64::Sub, before, &[magnitude, one]);
        } else {
            self.alu32(Alu32::And, magnitude, &[source, mask]);
            self.alu32(Alu32::Sub, before, &[magnitude, one]);
        }
        // Zero, which counts as normal, wraps to the greatest number.
        let subnormals = least_normal - 1;
        let mut test = |value, relation, limit, d, with| {
            let limit = self.operands.constant(bits, limit);
            let test = Test { relation, number: Number::Unsigned(bits), ftz: false };
            let result = CompareResult { d, q: None, with };
            self.emit(if bits == 64 {
                Op::Compare64 { test, s: [value, limit], result }
            } else {
                Op::Compare32 { test, s: [value, limit], result }
            });
        };
        match property {
            "finite" => test(magnitude, Compare::Lt, infinity, d, None),
            "infinite" => test(magnitude, Compare::Eq, infinity, d, None),
            "number" => test(magnitude, Compare::Le, infinity, d, None),
            "notanumber" => test(magnitude, Compare::Gt, infinity, d, None),
            "subnormal" => test(before, Compare::Lt, subnormals, d, None),
            _ => {
                test(magnitude, Compare::Lt, infinity, finite, None);
                test(before, Compare::Ge, subnormals, d, Some((BoolOp::And, finite, 0)));
            }
        }
        Ok(())
    }

    /// `selp`
    pub(super) fn selp(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        Self::expect_operands(inst, 4)?;
        let ty = m.ty()?;
        m.finish()?;
        let bits = ty.bits();
        let d = self.dst(inst, 0, bits)?;
        let s = [self.src(inst, 1, bits)?, self.src(inst, 2, bits)?];
        let pred = match Self::operand(inst, 3)? {
            Operand::Not(_) => return Err("selp takes no negated predicate".into()),
            operand => self.operands.source(operand, 1)?,
        };
        self.emit(match bits {
            64 => Op::Select64 { d, s, pred },
            16 | 32 => Op::Select32 { d, s, pred },
            _ => return Err(UNKNOWN_TYPE.into()),
        });
        Ok(())
    }
}
