//! Arithmetic, logic, comparisons, conversions, moves.

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::operands::clock_bits;
use super::{Decoded, Decoder, Modifiers, Type, UNKNOWN_TYPE};

impl<'a> Decoder<'a> {
    pub(super) fn mov(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
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

    pub(super) fn arithmetic(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
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
    pub(super) fn function(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
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
    pub(super) fn bits(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
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

    pub(super) fn setp(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
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

    pub(super) fn cvt(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
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
}
