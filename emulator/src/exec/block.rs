//! A block: its warps, shared memory and barriers.

use super::access::Recent;
use super::alu::LANES;
use super::launch::Launch;
use super::warp::{Wait, Warp, lanes};
use crate::fault::{Fault, FaultKind};
use crate::ptx::ir::{Barrier, BarrierKind, Op, SharedVariable};
use crate::report::Counters;

/// Barriers of a block.
const BARRIERS: usize = 16;

/// Shared memory of a block, and which of its bytes were written.
#[derive(Debug)]
pub struct SharedMemory {
    /// The bytes, 0xFF until they are written.
    pub bytes: Vec<u8>,
    /// One bit for each byte.
    pub written: Vec<u64>,
    /// What lies where.
    pub variables: Vec<SharedVariable>,
    /// The variable of the last access.
    pub recent: usize,
}

/// One of the block's barriers.
#[derive(Debug, Clone, Copy, Default)]
struct BarrierState {
    /// Threads that have arrived.
    arrived: u32,
    /// Threads it waits for, if the instruction says how many.
    expected: Option<u32>,
    /// Arrived threads whose predicate is true (`bar.red`).
    votes: u32,
}

/// A block while it runs.
#[derive(Debug)]
pub struct Block<'l> {
    /// The launch it belongs to.
    pub launch: &'l Launch<'l>,
    /// `%ctaid`
    pub index: [u32; 3],
    /// Its shared memory.
    pub shared: SharedMemory,
    /// What it and its predecessors on this worker did.
    pub counters: Counters,
    /// Where the last global access went.
    pub recent: Recent<'l>,
    barriers: [BarrierState; BARRIERS],
}

/// A fault and the warp that it happened in.
pub type WarpFault = Box<(u32, Fault)>;

impl<'l> Block<'l> {
    /// Memory for the blocks that one worker runs.
    pub fn new(launch: &'l Launch<'l>) -> Self {
        let mut variables = launch.kernel.shared.clone();
        if let (true, Some(dynamic)) = (launch.kernel.has_dynamic_shared, variables.last_mut()) {
            dynamic.bytes = launch.dynamic_shared_bytes;
        }
        let bytes = variables.last().map_or(0, |last| last.offset + last.bytes) as usize;
        Self {
            launch,
            index: [0; 3],
            shared: SharedMemory {
                bytes: vec![0; bytes],
                written: vec![0; bytes / 64 + 1],
                variables,
                recent: 0,
            },
            counters: Counters::default(),
            recent: Recent::new(launch.table),
            barriers: [BarrierState::default(); BARRIERS],
        }
    }

    /// `%tid` of a lane.
    pub fn thread_index(&self, warp: u32, lane: u32) -> [u32; 3] {
        let linear = warp * LANES as u32 + lane;
        let [x, y, _] = self.launch.block;
        [linear % x, linear / x % y, linear / (x * y)]
    }

    /// Runs one block to its end.
    pub fn run(&mut self, index: [u32; 3], warps: &mut [Warp]) -> Result<(), WarpFault> {
        self.index = index;
        self.shared.bytes.fill(0xFF);
        self.shared.written.fill(0);
        self.barriers = [BarrierState::default(); BARRIERS];
        for warp in warps.iter_mut() {
            warp.start(self);
        }
        let order = self.launch.order.permutation(warps.len() as u64);
        while warps.iter().any(|warp| warp.alive != 0) {
            if self.launch.is_stopped() {
                return Ok(());
            }
            let mut progress = false;
            for at in 0..warps.len() {
                let at = order.at(at as u64) as usize;
                if warps[at].runnable() == 0 && !warps[at].collective_is_complete() {
                    continue;
                }
                progress = true;
                let result = warps[at].run(self).and_then(|()| self.check_divergence(&warps[at]));
                result.map_err(|fault| Box::new((at as u32, fault)))?;
                self.release_barriers(warps);
            }
            progress |= self.release_barriers(warps);
            if !progress {
                return Err(self.deadlock(warps));
            }
        }
        Ok(())
    }

    /// Releases barriers whose threads have all arrived; whether there were any.
    fn release_barriers(&mut self, warps: &mut [Warp]) -> bool {
        let mut released = false;
        for id in 0..BARRIERS {
            let state = self.barriers[id];
            if state.arrived == 0 {
                continue;
            }
            let expected = state
                .expected
                .unwrap_or_else(|| warps.iter().map(|warp| warp.alive.count_ones()).sum());
            if state.arrived < expected {
                continue;
            }
            for warp in warps.iter_mut() {
                self.pass_barrier(warp, id as u32, state);
            }
            self.barriers[id] = BarrierState::default();
            self.counters.barriers += 1;
            released = true;
        }
        released
    }

    /// Lets the lanes of a warp that wait at a barrier go on, with the barrier's result.
    fn pass_barrier(&self, warp: &mut Warp, id: u32, state: BarrierState) {
        let here = lanes(warp.waiting)
            .filter(|&lane| matches!(warp.wait[lane], Wait::Barrier { id: at, .. } if at == id))
            .fold(0_u32, |mask, lane| mask | 1 << lane);
        for lane in lanes(here) {
            let own = 1 << lane;
            let inst = &self.launch.kernel.code[warp.pc[lane] as usize];
            if let Op::Barrier(barrier) = &inst.op {
                let spread = |holds: bool| if holds { u32::MAX } else { 0 };
                match barrier.kind {
                    BarrierKind::Popc { d, .. } => {
                        warp.regs.write32(d, own, &[state.votes; LANES]);
                    }
                    BarrierKind::And { d, .. } => {
                        warp.regs.write_pred(d, own, spread(state.votes == state.arrived));
                    }
                    BarrierKind::Or { d, .. } => {
                        warp.regs.write_pred(d, own, spread(state.votes != 0));
                    }
                    BarrierKind::Sync | BarrierKind::Arrive => {}
                }
            }
            warp.pc[lane] += 1;
        }
        warp.release(here);
    }

    /// A warp whose lanes all wait, some of them at a barrier that the whole warp has to reach
    /// together, is wrong now, whatever the other warps do.
    fn check_divergence(&self, warp: &Warp) -> Result<(), Fault> {
        if warp.runnable() != 0 || warp.waiting == 0 {
            return Ok(());
        }
        let mut waiting = lanes(warp.waiting & warp.alive);
        let Some(first) = waiting.next() else {
            return Ok(());
        };
        let apart = waiting.find(|&lane| warp.pc[lane] != warp.pc[first]);
        let aligned = lanes(warp.waiting & warp.alive)
            .find(|&lane| matches!(warp.wait[lane], Wait::Barrier { aligned: true, .. }));
        match (apart, aligned) {
            (Some(_), Some(at)) if !warp.collective_is_complete() => Err(Fault {
                kind: FaultKind::DivergentBarrier,
                pc: warp.pc[at],
                lane: at as u32,
                detail: format!(
                    "lanes of one warp wait at different places:{}",
                    self.who_waits(std::slice::from_ref(warp))
                ),
            }),
            _ => Ok(()),
        }
    }

    fn deadlock(&self, warps: &[Warp]) -> WarpFault {
        let stuck = warps.iter().position(|warp| warp.waiting & warp.alive != 0).unwrap_or(0);
        let lane = (warps[stuck].waiting & warps[stuck].alive).trailing_zeros();
        let collective = matches!(warps[stuck].wait[lane as usize & 31], Wait::Collective(_));
        let fault = Fault {
            kind: if collective { FaultKind::AbsentLane } else { FaultKind::Deadlock },
            pc: warps[stuck].pc[lane as usize & 31],
            lane,
            detail: format!("nobody can go on:{}", self.who_waits(warps)),
        };
        Box::new((stuck as u32, fault))
    }

    /// Who waits where, a line for each group of lanes, at most ten.
    fn who_waits(&self, warps: &[Warp]) -> String {
        let mut lines = Vec::new();
        for warp in warps {
            let mut left = warp.waiting & warp.alive;
            while left != 0 {
                let lane = left.trailing_zeros() as usize;
                let group = lanes(left)
                    .filter(|&other| {
                        warp.pc[other] == warp.pc[lane] && warp.wait[other] == warp.wait[lane]
                    })
                    .fold(0_u32, |mask, other| mask | 1 << other);
                left &= !group;
                let what = match warp.wait[lane] {
                    Wait::Barrier { id, .. } => {
                        let state = self.barriers[id as usize];
                        let all: u32 = warps.iter().map(|warp| warp.alive.count_ones()).sum();
                        match state.expected {
                            Some(count) => {
                                format!("barrier {id}, {} of {count} came", state.arrived)
                            }
                            None if warps.len() > 1 => {
                                format!("barrier {id}, {} of {all} came", state.arrived)
                            }
                            None => format!("barrier {id}"),
                        }
                    }
                    Wait::Collective(mask) => format!("lanes {mask:#010x}"),
                    Wait::Running => "nothing".into(),
                };
                let origin = self.launch.describe(warp.pc[lane]);
                lines.push(format!(
                    "\n    warp {} lanes {group:#010x} wait for {what}:{origin}",
                    warp.index
                ));
            }
        }
        let more = lines.len().saturating_sub(10);
        lines.truncate(10);
        if more > 0 {
            lines.push(format!("\n    and {more} groups more"));
        }
        lines.concat()
    }
}

impl Warp {
    /// Whether lanes that wait for a collective could go on (because others exited).
    pub(super) fn collective_is_complete(&self) -> bool {
        lanes(self.waiting & self.alive).any(|lane| match self.wait[lane] {
            Wait::Collective(members) => members & self.alive & !self.same_collective(lane) == 0,
            Wait::Running | Wait::Barrier { .. } => false,
        })
    }

    /// Lanes arrive at a barrier. Whether they have to wait there.
    pub(super) fn arrive(
        &mut self,
        block: &mut Block<'_>,
        barrier: &Barrier,
        mask: u32,
        pc: u32,
    ) -> Result<bool, Fault> {
        let first = mask.trailing_zeros() as usize;
        let refuse = |detail: String| Fault {
            kind: FaultKind::DivergentBarrier,
            pc,
            lane: first as u32,
            detail,
        };
        let ids = &self.regs.b32[barrier.id as usize];
        let id = ids[first];
        if lanes(mask).any(|lane| ids[lane] != id) {
            return Err(refuse("lanes of one warp arrive at different barriers".into()));
        }
        if id as usize >= BARRIERS {
            return Err(refuse(format!("barrier {id} of {BARRIERS}")));
        }
        let expected = barrier.threads.map(|slot| self.regs.b32[slot as usize][first]);
        if let Some(count) = expected
            && (count == 0 || count % LANES as u32 != 0)
        {
            return Err(refuse(format!("thread count {count} is not a multiple of {LANES}")));
        }
        let state = &mut block.barriers[id as usize];
        if state.arrived > 0 && state.expected != expected {
            let text = format!("thread count {expected:?} where others gave {:?}", state.expected);
            return Err(refuse(text));
        }
        state.expected = expected;
        state.arrived += mask.count_ones();
        if let Some(count) = expected
            && state.arrived > count
        {
            let text = format!("{} threads came to barrier {id} of {count}", state.arrived);
            return Err(refuse(text));
        }
        if let BarrierKind::Popc { source, flip, .. }
        | BarrierKind::And { source, flip, .. }
        | BarrierKind::Or { source, flip, .. } = barrier.kind
        {
            state.votes += (self.predicate(source, flip) & mask).count_ones();
        }
        if barrier.kind == BarrierKind::Arrive {
            return Ok(false);
        }
        self.hold(mask, pc, Wait::Barrier { id, aligned: barrier.aligned });
        Ok(true)
    }
}
