//! Collectives of a warp and barriers of a block.

use super::super::ast::Instruction;
use super::super::ir::*;
use super::{Decoded, Decoder, Modifiers, Type, UNKNOWN_TYPE};

impl<'a> Decoder<'a> {
    pub(super) fn collective(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
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

    pub(super) fn barrier(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
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
