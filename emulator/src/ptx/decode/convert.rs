//! Conversions.

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::{Decoded, Decoder, Modifiers, Type, UNKNOWN_TYPE};

impl<'a> Decoder<'a, '_> {
    /// `cvt.pack.sat`
    fn cvt_pack(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let sat = m.take("sat");
        let (sign, bits) = m.need_one(
            "packed type",
            &[
                ("u16", (Sign::Unsigned, 16)),
                ("s16", (Sign::Signed, 16)),
                ("u8", (Sign::Unsigned, 8)),
                ("s8", (Sign::Signed, 8)),
                ("u4", (Sign::Unsigned, 4)),
                ("s4", (Sign::Signed, 4)),
                ("u2", (Sign::Unsigned, 2)),
                ("s2", (Sign::Signed, 2)),
            ],
        )?;
        let with_rest = bits < 16;
        if !sat || !m.take("s32") || with_rest && !m.take("b32") {
            return Err(UNKNOWN_TYPE.into());
        }
        m.finish()?;
        Self::expect_operands(inst, if with_rest { 4 } else { 3 })?;
        let d = self.dst(inst, 0, 32)?;
        let (a, b) = (self.src(inst, 1, 32)?, self.src(inst, 2, 32)?);
        let c = if with_rest { self.src(inst, 3, 32)? } else { self.operands.constant(32, 0) };
        self.alu32(Alu32::PackSat(sign, bits), d, &[a, b, c]);
        Ok(())
    }

    /// Conversions to and from packed and 8-bit floats and tf32, and those with `.relu` or
    /// `.satfinite`; `None` for all others.
    fn cvt_small(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Option<Decoded> {
        const EIGHT_BITS: [(&str, Small); 2] = [("e4m3x2", Small::E4m3), ("e5m2x2", Small::E5m2)];
        let has = |name: &str| m.0.contains(&name);
        let is_small = EIGHT_BITS.iter().any(|(name, _)| has(name))
            || ["f16x2", "bf16x2", "tf32", "relu", "satfinite"].into_iter().any(has);
        if !is_small {
            return None;
        }
        Some(self.small_conversion(inst, m, &EIGHT_BITS))
    }

    fn small_conversion(
        &mut self,
        inst: &Instruction<'a>,
        m: &mut Modifiers<'a>,
        eight_bits: &[(&str, Small)],
    ) -> Decoded {
        let relu = m.take("relu");
        let satfinite = m.take("satfinite");
        let round = m.take_one(&[
            ("rn", SmallRound::NearestEven),
            ("rz", SmallRound::Zero),
            ("rna", SmallRound::NearestAway),
        ]);
        let Some(round) = round else {
            return Err("unknown instruction: this cvt without one of .rn, .rz, .rna".into());
        };
        // The two types, destination first.
        let is_type = |name: &&str| {
            Type::parse(name).is_some()
                || *name == "tf32"
                || eight_bits.iter().any(|(small, _)| small == name)
        };
        let types: Vec<&str> = m.0.iter().copied().filter(is_type).collect();
        m.0.retain(|name| !is_type(name));
        m.finish()?;
        let &[to, from] = types.as_slice() else {
            return Err(UNKNOWN_TYPE.into());
        };
        let small = |name| eight_bits.iter().find(|(small, _)| *small == name).map(|(_, s)| *s);
        let half = |name| match Type::parse(name) {
            Some(Type::Half(kind)) => Some((kind, false)),
            Some(Type::Half2(kind)) => Some((kind, true)),
            _ => None,
        };
        let nearest = round == SmallRound::NearestEven;
        let how = |to| Shrink { to, round, relu, satfinite };
        if let (Some(to), Some(from)) = (small(to), half(from)) {
            // `bf16x2` as the source needs a later architecture.
            if !nearest || !satfinite || from != (HalfKind::F16, true) {
                return Err(UNKNOWN_TYPE.into());
            }
            Self::expect_operands(inst, 2)?;
            let (d, s) = (self.dst(inst, 0, 16)?, self.src(inst, 1, 32)?);
            self.alu32(Alu32::ShrinkHalves(how(to), from.0), d, &[s]);
            return Ok(());
        }
        if let (Some(to), "f32") = (small(to), from) {
            if !nearest || !satfinite {
                return Err(UNKNOWN_TYPE.into());
            }
            Self::expect_operands(inst, 3)?;
            let d = self.dst(inst, 0, 16)?;
            let s = [self.src(inst, 1, 32)?, self.src(inst, 2, 32)?];
            self.alu32(Alu32::ShrinkPair(how(to)), d, &s);
            return Ok(());
        }
        if let (Some((HalfKind::F16, true)), Some(from)) = (half(to), small(from)) {
            if !nearest || satfinite {
                return Err(UNKNOWN_TYPE.into());
            }
            Self::expect_operands(inst, 2)?;
            let (d, s) = (self.dst(inst, 0, 32)?, self.src(inst, 1, 16)?);
            self.alu32(Alu32::Grow { from, relu }, d, &[s]);
            return Ok(());
        }
        if from != "f32" {
            return Err(UNKNOWN_TYPE.into());
        }
        if to == "tf32" {
            let away = round == SmallRound::NearestAway;
            // `.rna` has no `.relu`; the others have no `.satfinite` before sm_100.
            if away && relu || !away && satfinite {
                return Err(UNKNOWN_TYPE.into());
            }
            Self::expect_operands(inst, 2)?;
            let (d, s) = (self.dst(inst, 0, 32)?, self.src(inst, 1, 32)?);
            self.alu32(Alu32::Shrink(how(Small::Tf32)), d, &[s]);
            return Ok(());
        }
        let Some((kind, packed)) = half(to).filter(|_| round != SmallRound::NearestAway) else {
            return Err(UNKNOWN_TYPE.into());
        };
        let how = how(Small::Half(kind));
        if packed {
            Self::expect_operands(inst, 3)?;
            let d = self.dst(inst, 0, 32)?;
            let s = [self.src(inst, 1, 32)?, self.src(inst, 2, 32)?];
            // The one of inner loops has an operation of its own.
            let op = if nearest && !satfinite {
                Alu32::PackHalf { kind, relu }
            } else {
                Alu32::ShrinkPair(how)
            };
            self.alu32(op, d, &s);
        } else {
            Self::expect_operands(inst, 2)?;
            let (d, s) = (self.dst(inst, 0, 16)?, self.src(inst, 1, 32)?);
            self.alu32(Alu32::Shrink(how), d, &[s]);
        }
        Ok(())
    }

    pub(super) fn cvt(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        if m.take("pack") {
            return self.cvt_pack(inst, m);
        }
        if let Some(done) = self.cvt_small(inst, m) {
            return done;
        }
        let integral = m.take_one(&[
            ("rni", Round::Nearest),
            ("rzi", Round::Zero),
            ("rmi", Round::Down),
            ("rpi", Round::Up),
        ]);
        let round = m.round();
        let ftz = m.take("ftz");
        let sat = m.take("sat");
        let (to, from) = (m.ty()?, m.ty()?);
        m.finish()?;
        Self::expect_operands(inst, 2)?;
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
}
