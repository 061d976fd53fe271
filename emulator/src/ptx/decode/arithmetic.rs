//! Arithmetic, logic, moves.

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::operands::clock_bits;
use super::integer::{CarryIn, CarryOut};
use super::{Decoded, Decoder, Modifiers, Type, UNKNOWN_TYPE};

impl<'a> Decoder<'a, '_> {
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
                // A predicate constant has no register: ALWAYS or its inverse. nvcc writes true as 1 or
                // -1.
                let d = self.dst(inst, 0, bits)?;
                let op = if *value == 0 { BoolOp::Not } else { BoolOp::Mov };
                self.emit(Op::Pred { op, d, s: [ALWAYS, ALWAYS] });
                Ok(())
            }
            _ => {
                let d = self.dst(inst, 0, bits)?;
                let s = self.src(inst, 1, bits)?;
                match bits {
                    1 => self.emit(Op::Pred { op: BoolOp::Mov, d, s: [s, s] }),
                    16 | 32 => self.alu32(Alu32::Mov, d, &[s]),
                    64 => self.alu64(Alu64::Mov, d, &[s]),
                    128 => {
                        self.alu64(Alu64::Mov, d, &[s]);
                        self.alu64(Alu64::Mov, d + 1, &[s + 1]);
                    }
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
            (16, [a, b]) => {
                let zero = self.operands.constant(32, 0);
                self.alu32(Alu32::Pack8, d, &[*a, *b, zero, zero]);
            }
            (32, [a, b, c, e]) => self.alu32(Alu32::Pack8, d, &[*a, *b, *c, *e]),
            (128, [low, high]) => {
                // The destination may not be written before both sources are read.
                let temporary = self.operands.fresh(64, 1);
                self.alu64(Alu64::Mov, temporary, &[*high]);
                self.alu64(Alu64::Mov, d, &[*low]);
                self.alu64(Alu64::Mov, d + 1, &[temporary]);
            }
            (128, [a, b, c, e]) => {
                self.emit(Op::Widen { op: Widen::Pack, d, s: [*a, *b], addend: 0 });
                self.emit(Op::Widen { op: Widen::Pack, d: d + 1, s: [*c, *e], addend: 0 });
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
            (16, [_, _]) | (32, [_, _, _, _]) => {
                // A part may be the register that is taken apart.
                let whole = self.operands.fresh(32, 1);
                self.alu32(Alu32::Mov, whole, &[source]);
                for (number, part) in d.iter().enumerate() {
                    self.alu32(Alu32::Byte(number as u32), *part, &[whole]);
                }
            }
            (128, [low, high]) => {
                self.alu64(Alu64::Mov, *low, &[source]);
                self.alu64(Alu64::Mov, *high, &[source + 1]);
            }
            (128, [a, b, c, e]) => {
                for (word, low, high) in [(source, *a, *b), (source + 1, *c, *e)] {
                    self.emit(Op::Narrow { op: Narrow::Low, d: low, s: word });
                    self.emit(Op::Narrow { op: Narrow::High, d: high, s: word });
                }
            }
            _ => return Err("unknown instruction: a vector of this size".into()),
        }
        Ok(())
    }

    pub(super) fn arithmetic(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let opcode = inst.opcode;
        if let Some(done) = self.packed_integers(inst, m) {
            return done;
        }
        if m.take("oob") {
            // The manual does not give the bits of the special NaN that this looks for.
            return Err("unknown instruction: modifier `.oob` is not supported here".into());
        }
        let xorsign = m.take("xorsign");
        if xorsign && !(m.take("abs") && matches!(opcode, "min" | "max")) {
            return Err("unknown instruction: `.xorsign.abs` belongs to min and max".into());
        }
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
                    ("min", false) if xorsign => Alu32::MinXorSignF { ftz, nan },
                    ("max", false) if xorsign => Alu32::MaxXorSignF { ftz, nan },
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
                let round = m.round();
                m.finish()?;
                if approx || nan || part.is_some() || xorsign {
                    return Err(UNKNOWN_TYPE.into());
                }
                let directed = round.filter(|round| *round != Round::Nearest);
                let exact = match opcode {
                    "add" => Some((Alu64::AddF, DoubleOp::Add)),
                    "sub" => Some((Alu64::SubF, DoubleOp::Sub)),
                    "mul" => Some((Alu64::MulF, DoubleOp::Mul)),
                    "fma" | "mad" => Some((Alu64::FmaF, DoubleOp::Fma)),
                    "div" => Some((Alu64::DivF, DoubleOp::Div)),
                    _ => None,
                };
                let needs_round = matches!(opcode, "fma" | "mad" | "div");
                let op = match (opcode, exact, directed) {
                    _ if needs_round && round.is_none() => return Err(UNKNOWN_TYPE.into()),
                    (_, Some((_, op)), Some(round)) => Alu64::Directed(op, round),
                    (_, Some((nearest, _)), None) => nearest,
                    _ if round.is_some() => return Err(UNKNOWN_TYPE.into()),
                    ("min", ..) => Alu64::MinF,
                    ("max", ..) => Alu64::MaxF,
                    ("abs", ..) => Alu64::AbsF,
                    ("neg", ..) => Alu64::NegF,
                    ("copysign", ..) => Alu64::CopySignF,
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
                    xorsign,
                };
                m.finish()?;
                let is_f16 = kind == HalfKind::F16;
                let sums = matches!(opcode, "add" | "sub" | "mul" | "fma");
                if half.ftz && !is_f16
                    || half.sat && !(is_f16 && sums)
                    || half.relu && (opcode != "fma" || half.sat)
                {
                    return Err(UNKNOWN_TYPE.into());
                }
                self.simple32(inst, Alu32::Half(half), ty.bits(), sources)
            }
            Type::Unsigned(_) | Type::Signed(_) => {
                let carry = m.take("cc");
                let sat = m.take("sat");
                let relu = m.take("relu");
                m.finish()?;
                if approx || nan || xorsign || (sat && relu) {
                    return Err(UNKNOWN_TYPE.into());
                }
                if carry {
                    return self.with_carry(inst, ty, part, (CarryIn::No, CarryOut::Yes));
                }
                if relu {
                    return self.integer_relu(inst, ty);
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
                ("mad", Type::Signed(32)) if part == Some("hi") => {
                    return self.high_mad32(inst, Alu32::MulHiS, Alu32::AddSatS);
                }
                _ => return Err(UNKNOWN_TYPE.into()),
            };
            return self.simple32(inst, op, 32, 2);
        }
        match (inst.opcode, part) {
            ("mul" | "mad", Some("wide")) => return self.wide(inst, ty),
            ("mul" | "mad", Some("hi")) if ty.bits() == 16 => {
                Self::expect_operands(inst, 1 + sources)?;
                let d = self.dst(inst, 0, 16)?;
                let (a, b) = (self.src(inst, 1, 16)?, self.src(inst, 2, 16)?);
                let s = [self.extended16(a, signed), self.extended16(b, signed)];
                let product = self.operands.fresh(32, 1);
                self.alu32(Alu32::Mul, product, &s);
                if sources == 2 {
                    self.alu32(Alu32::High16, d, &[product]);
                } else {
                    let c = self.src(inst, 3, 16)?;
                    self.alu32(Alu32::High16, product, &[product]);
                    self.alu32(Alu32::Add, product, &[product, c]);
                    self.alu32(Alu32::Low16, d, &[product]);
                }
                return Ok(());
            }
            ("mad", Some("hi")) if ty.bits() == 64 => {
                Self::expect_operands(inst, 4)?;
                let d = self.dst(inst, 0, 64)?;
                let s = [self.src(inst, 1, 64)?, self.src(inst, 2, 64)?];
                let c = self.src(inst, 3, 64)?;
                let product = self.operands.fresh(64, 1);
                let op = if signed { Alu64::MulHiS } else { Alu64::MulHiU };
                self.alu64(op, product, &s);
                self.alu64(Alu64::Add, d, &[product, c]);
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
                let ftz = m.take("ftz");
                m.finish()?;
                let op = match (inst.opcode, approx, ftz, round) {
                    ("rcp", false, false, Some(Round::Nearest)) => Alu64::RcpF,
                    ("sqrt", false, false, Some(Round::Nearest)) => Alu64::SqrtF,
                    ("rcp", false, false, Some(round)) => Alu64::Directed(DoubleOp::Rcp, round),
                    ("sqrt", false, false, Some(round)) => Alu64::Directed(DoubleOp::Sqrt, round),
                    ("rcp", true, true, None) => Alu64::RcpGross,
                    ("rsqrt", true, true, None) => Alu64::RsqrtGross,
                    ("rsqrt", true, false, None) => Alu64::RsqrtF,
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                self.simple64(inst, op, 1)
            }
            Type::Half(kind) | Type::Half2(kind) => {
                let ftz = m.take("ftz");
                m.finish()?;
                let op = match (inst.opcode, approx) {
                    // `.ftz` belongs to bf16, and only to it.
                    ("ex2", true) if ftz == (kind == HalfKind::Bf16) => HalfOp::Ex2,
                    ("tanh", true) if !ftz => HalfOp::Tanh,
                    _ => return Err(UNKNOWN_TYPE.into()),
                };
                let packed = matches!(ty, Type::Half2(_));
                let half = Half { op, kind, packed, ftz, sat: false, relu: false, xorsign: false };
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
            _ => Err(UNKNOWN_TYPE.into()),
        }
    }
}
