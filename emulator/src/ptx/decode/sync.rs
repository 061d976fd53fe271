//! Collectives of a warp, barriers of a block and a cluster, mbarriers, fences.

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::{Decoded, Decoder, Modifiers, Type, UNKNOWN_TYPE};

impl<'a> Decoder<'a, '_> {
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
        if m.take("cluster") {
            return self.cluster_barrier(inst, m);
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

    /// `barrier.cluster.arrive{.sem}{.aligned}`, `barrier.cluster.wait{.acquire}{.aligned}`
    fn cluster_barrier(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        Self::expect_operands(inst, 0)?;
        let aligned = m.take("aligned");
        let barrier = if m.take("arrive") {
            let relaxed = m.take("relaxed");
            m.take("release");
            ClusterBarrier::Arrive { releases: !relaxed, aligned }
        } else if m.take("wait") {
            m.take("acquire");
            ClusterBarrier::Wait { aligned }
        } else {
            return Err("unknown instruction: `arrive` or `wait` expected".into());
        };
        m.finish()?;
        self.emit(Op::ClusterBarrier(barrier));
        Ok(())
    }

    /// `mapa{.shared::cluster}.type d, a, rank;` and `getctarank{.shared::cluster}.type d, a;`
    pub(super) fn rank(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        m.take("shared::cluster");
        let ty = m.ty()?;
        m.finish()?;
        let bits = ty.bits();
        if !matches!(bits, 32 | 64) || ty.is_signed() {
            return Err(UNKNOWN_TYPE.into());
        }
        let register = |slot| if bits == 64 { Register::B64(slot) } else { Register::B32(slot) };
        if inst.opcode == "mapa" {
            Self::expect_operands(inst, 3)?;
            let d = register(self.dst(inst, 0, bits)?);
            let s = register(self.src(inst, 1, bits)?);
            let rank = self.src(inst, 2, 32)?;
            self.emit(Op::MapRank { d, s, rank });
        } else {
            Self::expect_operands(inst, 2)?;
            let d = self.dst(inst, 0, 32)?;
            let s = register(self.src(inst, 1, bits)?);
            self.emit(Op::RankOf { d, s });
        }
        Ok(())
    }

    /// `membar.scope`, `fence.sem.scope`, `fence.proxy.*`, `fence.mbarrier_init.release.cluster`
    pub(super) fn fence(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        if m.take("proxy") {
            let fence = m.need_one(
                "proxy",
                &[
                    ("async", Fence::AsyncProxy),
                    ("async::generic", Fence::AsyncProxy),
                    ("alias", Fence::Nothing),
                ],
            )?;
            m.0.retain(|m| {
                !matches!(*m, "global" | "shared::cta" | "shared::cluster")
                    && !m.starts_with("sync_restrict::")
            });
            let sided = m.take("acquire") || m.take("release");
            if sided {
                m.need_one("scope", &[("cluster", ())])?;
            }
            m.finish()?;
            Self::expect_operands(inst, 0)?;
            self.emit(Op::Fence(fence));
            return Ok(());
        }
        if m.take("mbarrier_init") {
            m.need_one("order", &[("release", ())])?;
            m.need_one("scope", &[("cluster", ())])?;
            m.finish()?;
            self.emit(Op::Fence(Fence::MbarrierInit));
            return Ok(());
        }
        // One-sided fences are taken for acq_rel. `membar` is a synonym of `fence.sc`.
        let sequential = m.take("sc") || inst.opcode == "membar";
        m.take_one(&[("acq_rel", ()), ("acquire", ()), ("release", ())]);
        let Some(scope) = m.scope() else {
            return Err("unknown instruction: no known scope".into());
        };
        m.finish()?;
        Self::expect_operands(inst, 0)?;
        let fence = if sequential { Fence::Sequential(scope) } else { Fence::Threads(scope) };
        self.emit(Op::Fence(fence));
        Ok(())
    }

    pub(super) fn emit_mbarrier(
        &mut self,
        inst: &Instruction<'a>,
        at: usize,
        kind: MbarrierKind,
        space: Space,
        orders: bool,
    ) -> Decoded {
        let address = self.address(inst, at)?;
        let mbarrier = Mbarrier { kind, space, address, orders };
        self.emit(Op::Mbarrier(Box::new(mbarrier)));
        Ok(())
    }

    pub(super) fn mbarrier(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let action = m.need_one(
            "action",
            &[
                ("init", "init"),
                ("inval", "inval"),
                ("arrive", "arrive"),
                ("arrive_drop", "arrive_drop"),
                ("expect_tx", "expect_tx"),
                ("complete_tx", "complete_tx"),
                ("test_wait", "test_wait"),
                ("try_wait", "try_wait"),
                ("pending_count", "pending_count"),
            ],
        )?;
        let expects = action.starts_with("arrive") && m.take("expect_tx");
        // It only promises something that holds anyway where it is written.
        m.take("noComplete");
        let parity = m.take("parity");
        let orders = !m.take("relaxed");
        m.take_one(&[("acquire", ()), ("release", ())]);
        m.scope();
        let space = m.space();
        m.take("b64");
        m.finish()?;
        if action == "pending_count" {
            // A state is (phase << 32 | arrivals that are missing), see exec/mbarrier.rs.
            let d = self.dst(inst, 0, 32)?;
            let s = self.src(inst, 1, 64)?;
            self.emit(Op::Narrow { op: Narrow::Low, d, s });
            return Ok(());
        }
        if !matches!(space, Space::Shared | Space::SharedCluster | Space::Generic) {
            return Err("unknown instruction: mbarriers lie in shared memory".into());
        }
        let count = inst.operands.len();
        match action {
            "init" => {
                Self::expect_operands(inst, 2)?;
                let count = self.src(inst, 1, 32)?;
                self.emit_mbarrier(inst, 0, MbarrierKind::Init { count }, space, false)
            }
            "inval" => {
                Self::expect_operands(inst, 1)?;
                self.emit_mbarrier(inst, 0, MbarrierKind::Invalidate, space, false)
            }
            "expect_tx" | "complete_tx" => {
                Self::expect_operands(inst, 2)?;
                let bytes = self.src(inst, 1, 32)?;
                let kind = if action == "expect_tx" {
                    MbarrierKind::Expect { bytes }
                } else {
                    MbarrierKind::Complete { bytes }
                };
                self.emit_mbarrier(inst, 0, kind, space, false)
            }
            "arrive" | "arrive_drop" => {
                // The state may be left out: `_`, or no operand at all before the address.
                let has_state = !matches!(Self::operand(inst, 0)?, Operand::Address(..));
                let at = usize::from(has_state);
                let state = match &inst.operands[0] {
                    Operand::Name("_", 0) | Operand::Address(..) => None,
                    _ => Some(self.dst(inst, 0, 64)?),
                };
                let extra = match count - at {
                    1 => None,
                    2 => Some(self.src(inst, at + 1, 32)?),
                    _ => return Err(format!("mbarrier.{action} with {count} operands")),
                };
                if expects && extra.is_none() {
                    return Err("expect_tx without a number of bytes".into());
                }
                let (count, bytes) = if expects { (None, extra) } else { (extra, None) };
                let drops = action == "arrive_drop";
                let kind = MbarrierKind::Arrive { state, count, bytes, drops };
                self.emit_mbarrier(inst, at, kind, space, orders)
            }
            _ => {
                if !(3..=4).contains(&count) {
                    return Err(format!("mbarrier.{action} with {count} operands"));
                }
                let done = self.dst(inst, 0, 1)?;
                let phase = if parity {
                    Phase::Parity(self.src(inst, 2, 32)?)
                } else {
                    Phase::State(self.src(inst, 2, 64)?)
                };
                if count == 4 {
                    // How long to suspend: time is not emulated.
                    self.src(inst, 3, 32)?;
                }
                let kind = MbarrierKind::Wait { done, phase, suspends: action == "try_wait" };
                self.emit_mbarrier(inst, 1, kind, space, orders)
            }
        }
    }
}
