//! Asynchronous copies: `cp.async`, `cp.async.bulk`, `st.async`, `red.async`.

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::memory::{ATOMIC_OPERATIONS, atomic_type};
use super::{Decoded, Decoder, Modifiers, UNKNOWN_TYPE};

const COMPLETE_TX: &str = "mbarrier::complete_tx::bytes";

impl<'a> Decoder<'a, '_> {
    pub(super) fn copy(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        if !m.take("async") {
            return Err("unknown instruction: only `cp.async` is supported".into());
        }
        let bulk = m.take("bulk");
        if m.take("mbarrier") {
            m.need_one("action", &[("arrive", ())])?;
            let increments = !m.take("noinc");
            let space = m.space();
            m.take("b64");
            m.finish()?;
            let kind = MbarrierKind::ArriveAfterCopies { increments };
            return self.emit_mbarrier(inst, 0, kind, space, false);
        }
        if m.take("commit_group") {
            m.finish()?;
            Self::expect_operands(inst, 0)?;
            self.emit(Op::CopyGroup(if bulk { CopyGroup::CommitBulk } else { CopyGroup::Commit }));
            return Ok(());
        }
        if m.take("wait_all") {
            m.finish()?;
            self.emit(Op::CopyGroup(CopyGroup::Wait { pending: None }));
            return Ok(());
        }
        if m.take("wait_group") {
            let read = bulk && m.take("read");
            m.finish()?;
            let &Operand::Integer(pending) = Self::operand(inst, 0)? else {
                return Err("an immediate number of groups expected".into());
            };
            let pending = pending as u32;
            self.emit(Op::CopyGroup(if bulk {
                CopyGroup::WaitBulk { pending, read }
            } else {
                CopyGroup::Wait { pending: Some(pending) }
            }));
            return Ok(());
        }
        if bulk { self.copy_bulk(inst, m) } else { self.copy_async(inst, m) }
    }

    /// `cp.async.ca.shared.global [to], [from], bytes{, read_bytes | ignore}{, policy};`
    fn copy_async(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let whole_lines = m.need_one("cache operator", &[("ca", false), ("cg", true)])?;
        let policy = m.cache_policy();
        m.skip_cache_hints();
        if !(m.take("shared") || m.take("shared::cta")) || !m.take("global") {
            return Err("unknown instruction: cp.async copies from global to shared memory".into());
        }
        m.finish()?;
        let &Operand::Integer(bytes) = Self::operand(inst, 2)? else {
            return Err("an immediate number of bytes expected".into());
        };
        if !(bytes == 16 || !whole_lines && matches!(bytes, 4 | 8)) {
            return Err(format!("cp.async of {bytes} bytes"));
        }
        let (mut read_bytes, mut ignore) = (None, None);
        match inst.operands.len() - policy {
            3 => {}
            4 => {
                let operand = Self::operand(inst, 3)?;
                let is_predicate = matches!(operand, Operand::Not(_))
                    || matches!(operand, Operand::Name(name, _)
                        if self.operands.register(name).is_some_and(|(bits, _)| bits == 1));
                if is_predicate {
                    ignore = Some(self.pred(inst, 3)?);
                } else {
                    read_bytes = Some(self.src(inst, 3, 32)?);
                }
            }
            count => return Err(format!("cp.async with {count} operands")),
        }
        let (to, from) = (self.address(inst, 0)?, self.address(inst, 1)?);
        let bytes = bytes as u32;
        self.emit(Op::CopyAsync(Box::new(CopyAsync { to, from, bytes, read_bytes, ignore })));
        Ok(())
    }

    /// `cp.async.bulk.to.from.completion [to], [from], bytes{, [mbarrier]}{, mask}{, policy};`
    fn copy_bulk(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        let policy = m.cache_policy();
        if m.take("prefetch") {
            m.take("L2");
            m.take("global");
            m.finish()?;
            Self::expect_operands(inst, 2 + policy)?;
            let (from, bytes) = (self.address(inst, 0)?, self.src(inst, 1, 32)?);
            self.emit(Op::PrefetchBulk { from, bytes });
            return Ok(());
        }
        let multicast = m.take("multicast::cluster");
        let group = m.take("bulk_group");
        let mbarrier = m.take(COMPLETE_TX);
        // The order of the two spaces matters, so they are taken by place.
        let spaces: Vec<Space> =
            m.0.iter()
                .filter_map(|name| match *name {
                    "global" => Some(Space::Global),
                    "shared::cta" => Some(Space::Shared),
                    "shared::cluster" => Some(Space::SharedCluster),
                    _ => None,
                })
                .collect();
        m.0.retain(|name| !matches!(*name, "global" | "shared::cta" | "shared::cluster"));
        m.finish()?;
        let spaces: [Space; 2] = spaces
            .try_into()
            .map_err(|_| "unknown instruction: a bulk copy from one space to another expected")?;
        let known = match spaces {
            [Space::SharedCluster | Space::Shared, Space::Global] => mbarrier && !group,
            [Space::SharedCluster, Space::Shared] => mbarrier && !group && !multicast,
            [Space::Global, Space::Shared] => group && !mbarrier && !multicast,
            _ => false,
        };
        if !known {
            return Err("unknown instruction: this bulk copy is not supported".into());
        }
        let operands = 3 + usize::from(mbarrier) + usize::from(multicast);
        Self::expect_operands(inst, operands + policy)?;
        let (to, from) = (self.address(inst, 0)?, self.address(inst, 1)?);
        let bytes = self.src(inst, 2, 32)?;
        let completion =
            if mbarrier { Completion::Mbarrier(self.address(inst, 3)?) } else { Completion::Group };
        let multicast = if multicast { Some(self.src(inst, 4, 16)?) } else { None };
        self.emit(Op::CopyBulk(Box::new(CopyBulk {
            spaces,
            to,
            from,
            bytes,
            completion,
            multicast,
        })));
        Ok(())
    }

    /// `st.async{.weak}.shared::cluster.mbarrier::complete_tx::bytes{.v}.type [to], value, [mbarrier];`
    pub(super) fn store_async(
        &mut self,
        inst: &Instruction<'a>,
        m: &mut Modifiers<'a>,
        reduction: Option<AtomicOp>,
    ) -> Decoded {
        m.take("weak");
        if !m.take("shared::cluster") || !m.take(COMPLETE_TX) {
            return Err(
                "unknown instruction: an asynchronous store to shared::cluster expected".into()
            );
        }
        let count = m.take_one(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let ty = m.ty()?;
        m.finish()?;
        Self::expect_operands(inst, 3)?;
        let bits = ty.bits();
        if !matches!(bits, 32 | 64) || reduction.is_some() && count > 1 {
            return Err(UNKNOWN_TYPE.into());
        }
        let reduction = match reduction {
            Some(op) => Some((op, atomic_type(op, ty, false)?)),
            None => None,
        };
        let parts = match Self::operand(inst, 1)? {
            Operand::Vector(parts) => parts.clone(),
            single => vec![single.clone()],
        };
        if parts.len() != count {
            return Err(format!("{count} registers expected"));
        }
        let registers = parts
            .iter()
            .map(|part| {
                let slot = self.operands.source(part, bits)?;
                Ok(if bits == 64 { Register::B64(slot) } else { Register::B32(slot) })
            })
            .collect::<Decoded<_>>()?;
        let (to, mbarrier) = (self.address(inst, 0)?, self.address(inst, 2)?);
        let element_bytes = bits / 8;
        let store = StoreAsync { to, registers, element_bytes, reduction, mbarrier };
        self.emit(Op::StoreAsync(Box::new(store)));
        Ok(())
    }

    /// `red.async.relaxed.cluster...op.type [to], value, [mbarrier];`
    pub(super) fn reduce_async(
        &mut self,
        inst: &Instruction<'a>,
        m: &mut Modifiers<'a>,
    ) -> Decoded {
        m.take("relaxed");
        m.take("cluster");
        let op = m.need_one("operation", &ATOMIC_OPERATIONS)?;
        if matches!(op, AtomicOp::Exchange | AtomicOp::CompareExchange) {
            return Err("unknown instruction: no such asynchronous reduction".into());
        }
        if m.0.contains(&"f32") || m.0.contains(&"f64") || m.0.contains(&"v2") {
            return Err(UNKNOWN_TYPE.into());
        }
        self.store_async(inst, m, Some(op))
    }
}
