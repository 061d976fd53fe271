//! Blocks and clusters: their warps, shared memory and barriers.

use super::alu::LANES;
use super::checks::Recent;
use super::copy::{Copies, End, Told};
use super::launch::Launch;
use super::mbarrier;
use super::race::{Conflict, Gathered, Races};
use super::shared::SharedMemory;
use super::warp::{TURN, Wait, Warp, lanes};
use crate::fault::{Fault, FaultKind};
use crate::ptx::ir::{Barrier, BarrierKind, Op};
use crate::report::Counters;
use crate::settings::{Order, split_mix};

/// Barriers of a block.
const BARRIERS: usize = 16;

/// One of the block's barriers.
#[derive(Debug, Default)]
struct BarrierState {
    /// Threads that have arrived.
    arrived: u32,
    /// Of those, how many are not there: they fill the last warp up.
    absent: u32,
    /// Threads it waits for, if the instruction says how many.
    expected: Option<u32>,
    /// Arrived threads whose predicate is true (`bar.red`).
    votes: u32,
    /// What they published.
    gathered: Gathered,
}

/// A block while it runs.
#[derive(Debug)]
pub struct Block {
    /// `%ctaid`
    pub index: [u32; 3],
    /// Its shared memory.
    pub shared: SharedMemory,
    /// Its mbarriers, by offset.
    pub mbarriers: Vec<(u64, mbarrier::State)>,
    /// Threads that have not exited.
    pub alive: u32,
    barriers: [BarrierState; BARRIERS],
}

/// The blocks of a cluster while they run: one block where the launch has no clusters.
#[derive(Debug)]
pub struct Cluster<'l> {
    /// The launch it belongs to.
    pub launch: &'l Launch<'l>,
    /// `%clusterid`
    pub index: [u32; 3],
    /// The same as one number.
    pub number: u32,
    /// By rank.
    pub blocks: Vec<Block>,
    /// What it and its predecessors on this worker did.
    pub counters: Counters,
    /// Where the last global access went.
    pub recent: Recent<'l>,
    /// Asynchronous copies under way.
    pub copies: Copies,
    /// Races, if they are checked.
    pub races: Option<Box<Races<'l>>>,
    /// What arrivals at the cluster's barrier published: of this phase, and of the last.
    pub gathering: Gathered,
    /// See `gathering`.
    pub published: Gathered,
    /// An mbarrier or the cluster's barrier has let somebody go on.
    pub changed: bool,
    /// Waits without suspension that found nothing new since anything changed, or a warp did anything
    /// else.
    pub idle: u32,
    /// Times that all suspended waits ended without success since an mbarrier changed.
    timeouts: u32,
    /// The last race, which a store of the value that is there already is not.
    pub last_conflict: Option<Conflict>,
    random: u64,
    /// The same for suspended waits.
    patience: u64,
}

/// A fault and the warp that it happened in, counted through the cluster.
pub type WarpFault = Box<(u32, Fault)>;

/// Waits without suspension that find nothing new before they count as a deadlock.
const IDLE_LIMIT: u32 = 1_000_000;
/// Times that all suspended waits end without success, and nothing comes of it, before they count as
/// one.
const TIMEOUT_LIMIT: u32 = 8;

impl<'l> Cluster<'l> {
    /// Memory for the clusters that one worker runs.
    pub fn new(launch: &'l Launch<'l>) -> Self {
        let mut variables = launch.kernel.shared.clone();
        if let (true, Some(dynamic)) = (launch.kernel.has_dynamic_shared, variables.last_mut()) {
            dynamic.bytes = launch.dynamic_shared_bytes;
        }
        let bytes = variables.last().map_or(0, |last| last.offset + last.bytes) as usize;
        let size = launch.cluster.iter().product::<u32>();
        let busy = if launch.kernel.copies { bytes / 64 + 1 } else { 0 };
        let block = |_| Block {
            index: [0; 3],
            shared: SharedMemory {
                bytes: vec![0; bytes],
                written: vec![0; bytes / 64 + 1],
                busy: vec![0; busy],
                variables: variables.clone(),
                recent: 0,
            },
            mbarriers: Vec::new(),
            alive: 0,
            barriers: std::array::from_fn(|_| BarrierState::default()),
        };
        let threads = launch.threads_per_block();
        let races = launch.shadow.as_deref().map(|shadow| {
            let before = launch.predecessor.as_deref();
            Box::new(Races::new(shadow, before, size, threads, bytes as u64))
        });
        Self {
            launch,
            index: [0; 3],
            number: 0,
            blocks: (0..size).map(block).collect(),
            counters: Counters::default(),
            recent: Recent::new(launch.table),
            copies: Copies::new(launch.order),
            races,
            gathering: Gathered::default(),
            published: Gathered::default(),
            changed: false,
            idle: 0,
            timeouts: 0,
            last_conflict: None,
            random: 0,
            patience: 0,
        }
    }

    /// `%tid` of a lane.
    pub fn thread_index(&self, warp: u32, lane: u32) -> [u32; 3] {
        let linear = warp * LANES as u32 + lane;
        let [x, y, _] = self.launch.block;
        [linear % x, linear / x % y, linear / (x * y)]
    }

    fn begin(&mut self, number: u64, index: [u32; 3], warps: &mut [Warp]) {
        self.index = index;
        self.number = number as u32;
        let size = self.launch.cluster;
        let threads = self.launch.threads_per_block();
        for (rank, block) in (0..).zip(&mut self.blocks) {
            let within = [rank % size[0], rank / size[0] % size[1], rank / (size[0] * size[1])];
            block.index = std::array::from_fn(|axis| index[axis] * size[axis] + within[axis]);
            block.shared.bytes.fill(0xFF);
            block.shared.written.fill(0);
            block.shared.busy.fill(0);
            block.mbarriers.clear();
            block.alive = threads;
            block.barriers = std::array::from_fn(|_| BarrierState::default());
        }
        self.copies.begin(number, self.blocks.len() * threads as usize);
        if let Some(races) = &mut self.races {
            races.begin(number as u32);
        }
        self.gathering = Gathered::default();
        self.published = Gathered::default();
        self.changed = false;
        self.idle = 0;
        self.timeouts = 0;
        if let Order::Shuffle(seed) = self.launch.order {
            self.random = seed.wrapping_add(number << 20);
            self.patience = !self.random;
        }
        for warp in warps.iter_mut() {
            warp.start(self);
        }
    }

    /// Instructions of a warp's turn: by seed, so that warps come apart in many ways.
    fn turn(&mut self) -> u32 {
        match self.launch.order {
            Order::Forward | Order::Reverse => TURN,
            Order::Shuffle(_) => [12, 100, 1000, TURN][(split_mix(&mut self.random) % 4) as usize],
        }
    }

    /// Runs one cluster to its end.
    pub fn run(
        &mut self,
        number: u64,
        index: [u32; 3],
        warps: &mut [Warp],
    ) -> Result<(), WarpFault> {
        self.begin(number, index, warps);
        let count = warps.len() as u64;
        let order = self.launch.order.permutation(count);
        while warps.iter().any(|warp| warp.alive != 0) {
            if self.launch.is_stopped() {
                return Ok(());
            }
            let mut progress = false;
            let first = match self.launch.order {
                Order::Shuffle(_) => split_mix(&mut self.random) % count,
                Order::Forward | Order::Reverse => 0,
            };
            for place in 0..count {
                let at = order.at((first + place) % count) as usize;
                if warps[at].runnable() == 0 && !warps[at].collective_is_complete() {
                    continue;
                }
                progress = true;
                let turn = self.turn();
                let idle = self.idle;
                let result = warps[at].run(self, turn);
                if self.idle == idle {
                    // This warp does something else than wait: what the others wait for may come.
                    self.idle = 0;
                }
                let result = result.and_then(|()| self.check_divergence(&warps[at], warps));
                result.map_err(|fault| Box::new((at as u32, fault)))?;
                self.release_barriers(warps);
                self.perform_due()?;
                self.release_waiting(warps);
            }
            progress |= self.release_barriers(warps) | self.release_waiting(warps);
            if !progress && !self.copies.under_way.is_empty() {
                // Nobody can do anything else: the copies happen now.
                while !self.copies.under_way.is_empty() {
                    self.perform(0)?;
                }
                progress = self.release_waiting(warps);
            }
            if !progress && !self.time_out(warps) {
                return Err(self.deadlock(warps));
            }
            if self.idle > IDLE_LIMIT {
                return Err(self.deadlock(warps));
            }
        }
        self.end(warps)
    }

    /// Nobody can go on unless suspended waits for mbarriers end without success, as they may at any
    /// time: whether they do. Who only waits again shall not do so for ever.
    fn time_out(&mut self, warps: &mut [Warp]) -> bool {
        if self.timeouts == TIMEOUT_LIMIT {
            return false;
        }
        self.timeouts += 1;
        let mut some = false;
        for warp in warps.iter_mut() {
            let suspended = warp.lanes_at_mbarriers();
            warp.timed_out |= suspended;
            warp.release(suspended);
            some |= suspended != 0;
        }
        some
    }

    /// Whether a suspended wait that starts now ends at once, without success: by seed.
    pub(super) fn gives_up(&mut self) -> bool {
        matches!(self.launch.order, Order::Shuffle(_))
            && split_mix(&mut self.patience).is_multiple_of(2)
    }

    /// All threads have exited.
    fn end(&mut self, warps: &[Warp]) -> Result<(), WarpFault> {
        // A bulk copy may outlive the thread that started it, but not the shared memory.
        let bulk = self.copies.under_way.iter().find(|copy| {
            let shared = |end| matches!(end, End::Shared(..));
            !matches!(copy.told, Told::Group(..)) && (shared(copy.from) || shared(copy.to))
        });
        if let Some(copy) = bulk {
            let (pc, thread) = (copy.pc, copy.thread);
            let detail = "the block ends while a bulk copy that it started, and did not wait for, \
                          still uses its shared memory"
                .into();
            let (warp, lane) = self.warp_of(thread);
            return Err(Box::new((
                warp,
                Fault { kind: FaultKind::CopyUnderWay, pc, lane, detail },
            )));
        }
        while !self.copies.under_way.is_empty() {
            self.perform(0)?;
        }
        for rank in 0..self.blocks.len() as u32 {
            let Some(races) = &mut self.races else { break };
            if let Some(visit) = races.unknown_visit(rank) {
                let detail = format!(
                    "block {rank} of the cluster may end before this access to its shared memory: \
                     no cluster barrier lies between"
                );
                let (warp, lane) = self.warp_of(visit.actor());
                let fault = Fault { kind: FaultKind::Cluster, pc: visit.pc, lane, detail };
                return Err(Box::new((warp, fault)));
            }
        }
        debug_assert!(warps.iter().all(|warp| warp.alive == 0));
        Ok(())
    }

    /// The warp, counted through the cluster, and the lane of a thread.
    pub fn warp_of(&self, thread: u32) -> (u32, u32) {
        let threads = self.launch.threads_per_block();
        let warps = threads.div_ceil(LANES as u32);
        let (rank, within) = (thread / threads, thread % threads);
        (rank * warps + within / LANES as u32, within % LANES as u32)
    }

    /// Copies whose time has come happen.
    fn perform_due(&mut self) -> Result<(), WarpFault> {
        if self.copies.under_way.is_empty() {
            return Ok(());
        }
        let due = self.copies.age();
        // From the last to the first, so that places stay right.
        for at in due.into_iter().rev() {
            self.perform(at)?;
        }
        Ok(())
    }

    fn perform(&mut self, at: usize) -> Result<(), WarpFault> {
        let thread = self.copies.under_way[at].thread;
        let (warp, _) = self.warp_of(thread);
        self.perform_copy(at).map_err(|fault| Box::new((warp, fault)))
    }

    /// Lets those go on for whom an mbarrier or the cluster's barrier has done its part.
    fn release_waiting(&mut self, warps: &mut [Warp]) -> bool {
        let mut released = self.complete_cluster_barrier(warps);
        if self.changed {
            self.changed = false;
            self.idle = 0;
            self.timeouts = 0;
            for warp in warps.iter_mut() {
                let again = warp.lanes_at_mbarriers();
                // They look again, and wait again where it was not theirs.
                warp.release(again);
                released |= again != 0;
            }
        }
        released
    }

    fn complete_cluster_barrier(&mut self, warps: &mut [Warp]) -> bool {
        let some = warps.iter().any(|warp| warp.cluster_arrived != 0);
        let all = warps.iter().all(|warp| warp.alive & !warp.cluster_arrived == 0);
        if !some || !all {
            return false;
        }
        self.published = std::mem::take(&mut self.gathering);
        self.counters.cluster_barriers += 1;
        for warp in warps.iter_mut() {
            warp.cluster_passed |= warp.cluster_arrived;
            warp.cluster_arrived = 0;
            let here = lanes(warp.waiting & warp.alive)
                .filter(|&lane| warp.wait[lane] == Wait::Cluster)
                .fold(0, |mask, lane| mask | 1 << lane);
            warp.release(here);
        }
        self.idle = 0;
        true
    }

    /// Releases barriers whose threads have all arrived; whether there were any.
    fn release_barriers(&mut self, warps: &mut [Warp]) -> bool {
        let mut released = false;
        let each = warps.len() / self.blocks.len();
        for (rank, warps) in warps.chunks_mut(each).enumerate() {
            for id in 0..BARRIERS {
                let block = &mut self.blocks[rank];
                let state = &block.barriers[id];
                if state.arrived == 0 || state.arrived < state.expected.unwrap_or(block.alive) {
                    continue;
                }
                let state = std::mem::take(&mut block.barriers[id]);
                for warp in warps.iter_mut() {
                    self.pass_barrier(warp, id as u32, &state);
                }
                self.counters.barriers += 1;
                released = true;
            }
        }
        released
    }

    /// Lets the lanes of a warp that wait at a barrier go on, with the barrier's result.
    fn pass_barrier(&mut self, warp: &mut Warp, id: u32, state: &BarrierState) {
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
                        warp.regs.write_pred(
                            d,
                            own,
                            spread(state.votes == state.arrived - state.absent),
                        );
                    }
                    BarrierKind::Or { d, .. } => {
                        warp.regs.write_pred(d, own, spread(state.votes != 0));
                    }
                    BarrierKind::Sync | BarrierKind::Arrive => {}
                }
            }
            warp.pc[lane] += 1;
            if let Some(races) = &mut self.races {
                races.acquire(&state.gathered, warp.thread(self.launch, lane));
            }
        }
        warp.release(here);
    }

    /// A warp whose lanes all wait, some of them at a barrier that the whole warp has to reach
    /// together, is wrong now, whatever the other warps do.
    fn check_divergence(&self, warp: &Warp, warps: &[Warp]) -> Result<(), Fault> {
        if warp.runnable() != 0 || warp.waiting == 0 {
            return Ok(());
        }
        let mut waiting = lanes(warp.waiting & warp.alive);
        let Some(first) = waiting.next() else {
            return Ok(());
        };
        // Lanes that wait for others than their own warp may still come.
        if lanes(warp.waiting & warp.alive)
            .any(|lane| matches!(warp.wait[lane], Wait::Mbarrier { .. } | Wait::Cluster))
        {
            return Ok(());
        }
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
                    self.who_waits(std::slice::from_ref(warp), warps.len() > 1)
                ),
            }),
            _ => Ok(()),
        }
    }

    fn deadlock(&self, warps: &[Warp]) -> WarpFault {
        let waits = |warp: &Warp| warp.waiting & warp.alive;
        let stuck = warps.iter().position(|warp| waits(warp) != 0);
        let stuck = stuck.or_else(|| warps.iter().position(|warp| warp.alive != 0)).unwrap_or(0);
        let waiting = waits(&warps[stuck]);
        let lane = if waiting != 0 { waiting } else { warps[stuck].alive }.trailing_zeros();
        let collective = matches!(
            warps[stuck].wait[lane as usize & 31],
            Wait::Collective(_) | Wait::WarpSync(_)
        );
        let fault = Fault {
            kind: if collective { FaultKind::AbsentLane } else { FaultKind::Deadlock },
            pc: warps[stuck].pc[lane as usize & 31],
            lane,
            detail: format!("nobody can go on:{}", self.who_waits(warps, warps.len() > 1)),
        };
        Box::new((stuck as u32, fault))
    }

    /// Who waits where, a line for each group of lanes, at most ten.
    fn who_waits(&self, warps: &[Warp], several: bool) -> String {
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
                        let block = &self.blocks[warp.rank as usize];
                        let state = &block.barriers[id as usize];
                        let all = block.alive;
                        match state.expected {
                            Some(count) => {
                                format!("barrier {id}, {} of {count} came", state.arrived)
                            }
                            None if several => {
                                format!("barrier {id}, {} of {all} came", state.arrived)
                            }
                            None => format!("barrier {id}"),
                        }
                    }
                    Wait::Collective(mask) | Wait::WarpSync(mask) => format!("lanes {mask:#010x}"),
                    Wait::Mbarrier { offset } => {
                        let block = &self.blocks[warp.rank as usize];
                        let found = block.mbarriers.iter().find(|(at, _)| *at == offset);
                        let missing = found.map_or_else(String::new, |(_, state)| state.missing());
                        format!("the mbarrier at {offset:#x} ({missing})")
                    }
                    Wait::Cluster => "the cluster's barrier".into(),
                    Wait::Running => "nothing".into(),
                };
                let origin = self.launch.describe(warp.pc[lane]);
                let block = match self.blocks.len() {
                    1 => String::new(),
                    _ => format!("block {} of the cluster, ", warp.rank),
                };
                lines.push(format!(
                    "\n    {block}warp {} lanes {group:#010x} wait for {what}:{origin}",
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
            Wait::Collective(members) | Wait::WarpSync(members) => {
                members & self.alive & !self.same_collective(lane) == 0
            }
            _ => false,
        })
    }

    /// Lanes that wait for a phase of an mbarrier.
    fn lanes_at_mbarriers(&self) -> u32 {
        lanes(self.waiting & self.alive)
            .filter(|&lane| matches!(self.wait[lane], Wait::Mbarrier { .. }))
            .fold(0, |mask, lane| mask | 1 << lane)
    }

    /// Lanes arrive at a barrier. Whether they have to wait there.
    pub(super) fn arrive(
        &mut self,
        cluster: &mut Cluster<'_>,
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
        let Cluster { blocks, races, launch, .. } = cluster;
        let state = &mut blocks[self.rank as usize].barriers[id as usize];
        if state.arrived > 0 && state.expected != expected {
            let text = format!("thread count {expected:?} where others gave {:?}", state.expected);
            return Err(refuse(text));
        }
        state.expected = expected;
        // Thread counts are in whole warps: the last warp of a block counts for one, even if it is not
        // full.
        let is_last = launch.threads_per_block() / LANES as u32 == self.index;
        let absent = if is_last && expected.is_some() && mask == self.alive {
            LANES as u32 - launch.threads_per_block() % LANES as u32
        } else {
            0
        };
        state.absent += absent;
        state.arrived += mask.count_ones() + absent;
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
        if let Some(races) = races {
            let threads = lanes(mask).map(|lane| self.thread(launch, lane));
            races.release(&mut state.gathered, threads);
        }
        if barrier.kind == BarrierKind::Arrive {
            return Ok(false);
        }
        self.hold(mask, pc, Wait::Barrier { id, aligned: barrier.aligned });
        Ok(true)
    }
}
