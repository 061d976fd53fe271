//! Instructions that lanes of a warp execute together.

use super::alu::LANES;
use super::block::Cluster;
use super::warp::{Wait, Warp, lanes};
use crate::fault::{Fault, FaultKind};
use crate::ptx::ir::{Match, Op, Redux, Shuffle, ShuffleMode, Slot, Vote};

fn absent(pc: u32, lane: usize, detail: String) -> Fault {
    Fault { kind: FaultKind::AbsentLane, pc, lane: lane as u32, detail }
}

impl Warp {
    /// Executes a collective for those active lanes whose whole mask has arrived, and makes the
    /// others wait. Returns the lanes that are done.
    pub(super) fn collective(
        &mut self,
        cluster: &mut Cluster<'_>,
        op: &Op,
        active: u32,
        pc: u32,
    ) -> Result<u32, Fault> {
        let (Op::Shuffle(_)
        | Op::Vote { .. }
        | Op::Match(_)
        | Op::Redux { .. }
        | Op::WarpSync { .. }
        | Op::Elect { .. }) = op
        else {
            unreachable!("only collectives are sent here");
        };
        let members = self.regs.b32[member_slot(op) as usize];
        let mut done = 0;
        let mut left = active;
        while left != 0 {
            let first = left.trailing_zeros() as usize;
            let mask = members[first];
            let group = lanes(left)
                .filter(|&lane| members[lane] == mask)
                .fold(0, |group, lane| group | 1 << lane);
            left &= !group;
            if group & !mask != 0 {
                let lane = (group & !mask).trailing_zeros() as usize;
                let text = format!("lane {lane} is not in the mask {mask:#010x} that it gives");
                return Err(absent(pc, lane, text));
            }
            let synchronises = matches!(op, Op::WarpSync { .. });
            if mask & self.alive & !group != 0 {
                let wait = if synchronises { Wait::WarpSync(mask) } else { Wait::Collective(mask) };
                self.hold(group, pc, wait);
                continue;
            }
            if synchronises {
                self.meet(cluster, group);
            }
            self.execute_collective(op, group, pc)?;
            done |= group;
        }
        Ok(done)
    }

    /// `bar.warp.sync` alone orders memory; the manual promises nothing of the other collectives.
    pub(super) fn meet(&self, cluster: &mut Cluster<'_>, group: u32) {
        let launch = cluster.launch;
        if let Some(races) = &mut cluster.races {
            races.meet(lanes(group).map(|lane| self.thread(launch, lane)));
        }
    }

    fn execute_collective(&mut self, op: &Op, group: u32, pc: u32) -> Result<(), Fault> {
        match op {
            Op::Shuffle(shuffle) => self.shuffle(shuffle, group, pc)?,
            Op::Vote { mode, d, source, flip, .. } => {
                let yes = self.predicate(*source, *flip) & group;
                let spread = |holds: bool| if holds { u32::MAX } else { 0 };
                match mode {
                    Vote::Ballot => self.regs.write32(*d, group, &[yes; LANES]),
                    Vote::All => self.regs.write_pred(*d, group, spread(yes == group)),
                    Vote::Any => self.regs.write_pred(*d, group, spread(yes != 0)),
                    Vote::Uniform => {
                        self.regs.write_pred(*d, group, spread(yes == group || yes == 0));
                    }
                }
            }
            Op::Match(matching) => self.match_lanes(matching, group),
            Op::Redux { op, d, s, .. } => {
                let row = self.regs.b32[*s as usize];
                let values = lanes(group).map(|lane| row[lane]);
                let signed = lanes(group).map(|lane| row[lane] as i32);
                let result = match op {
                    Redux::Add => values.fold(0, u32::wrapping_add),
                    Redux::MinU => values.min().unwrap_or(0),
                    Redux::MaxU => values.max().unwrap_or(0),
                    Redux::MinS => signed.min().unwrap_or(0) as u32,
                    Redux::MaxS => signed.max().unwrap_or(0) as u32,
                    Redux::And => values.fold(u32::MAX, |a, b| a & b),
                    Redux::Or => values.fold(0, |a, b| a | b),
                    Redux::Xor => values.fold(0, |a, b| a ^ b),
                };
                self.regs.write32(*d, group, &[result; LANES]);
            }
            Op::Elect { d, pred, .. } => {
                let leader = group.trailing_zeros();
                self.regs.write32(*d, group, &[leader; LANES]);
                self.regs.write_pred(*pred, group, 1 << leader);
            }
            _ => {}
        }
        Ok(())
    }

    fn shuffle(&mut self, shuffle: &Shuffle, group: u32, pc: u32) -> Result<(), Fault> {
        let row = |slot: Slot| self.regs.b32[slot as usize];
        let (a, b, c) = (row(shuffle.a), row(shuffle.b), row(shuffle.c));
        let mut out = a;
        let mut in_range = 0_u32;
        for lane in lanes(group) {
            let own = lane as i32;
            let offset = (b[lane] & 31) as i32;
            let segment = (c[lane] >> 8 & 31) as i32;
            let clamp = (c[lane] & 31) as i32;
            let bound = own & segment | clamp & !segment;
            let (from, valid) = match shuffle.mode {
                ShuffleMode::Up => (own - offset, own - offset >= bound),
                ShuffleMode::Down => (own + offset, own + offset <= bound),
                ShuffleMode::Butterfly => (own ^ offset, own ^ offset <= bound),
                ShuffleMode::Index => {
                    let from = own & segment | offset & !segment;
                    (from, from <= bound)
                }
            };
            if !valid {
                continue;
            }
            in_range |= 1 << lane;
            if group >> from & 1 == 0 {
                let text = format!("lane {lane} reads lane {from}, which takes no part");
                return Err(absent(pc, lane, text));
            }
            out[lane] = a[from as usize];
        }
        self.regs.write32(shuffle.d, group, &out);
        if let Some(pred) = shuffle.pred {
            self.regs.write_pred(pred, group, in_range);
        }
        Ok(())
    }

    fn match_lanes(&mut self, matching: &Match, group: u32) {
        let value = |warp: &Self, lane| warp.value(matching.source, lane);
        let equal: [u32; LANES] = std::array::from_fn(|lane| {
            lanes(group)
                .filter(|&other| value(self, other) == value(self, lane))
                .fold(0, |mask, other| mask | 1 << other)
        });
        if matching.all {
            let all = equal[group.trailing_zeros() as usize] == group;
            self.regs.write32(matching.d, group, &[if all { group } else { 0 }; LANES]);
            if let Some(pred) = matching.pred {
                self.regs.write_pred(pred, group, if all { u32::MAX } else { 0 });
            }
        } else {
            self.regs.write32(matching.d, group, &equal);
        }
    }
}

/// The register that holds a collective's mask.
fn member_slot(op: &Op) -> Slot {
    match op {
        Op::Shuffle(shuffle) => shuffle.mask,
        Op::Match(matching) => matching.mask,
        Op::Vote { mask, .. }
        | Op::Redux { mask, .. }
        | Op::WarpSync { mask }
        | Op::Elect { mask, .. } => *mask,
        _ => unreachable!("not a collective"),
    }
}
