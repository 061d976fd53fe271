//! A warp: the registers and program counters of 32 lanes, and the choice of who goes next.
//!
//! Lanes that stand at the same instruction execute it together. Among several such groups the one
//! at the lowest instruction goes first, so that lanes which left a loop wait for the others where
//! the paths join; a group that runs for long without doing so gives way, so that lanes which spin
//! do not starve the lane that they wait for. Lanes that part within the loop in which they spin end
//! their turns early: after a while each lane has one, whoever it is.

use super::alu::{LANES, Registers};
use super::block::Cluster;
use crate::fault::{Fault, FaultKind};
use crate::ptx::ir::{ALWAYS, Kernel, Op, Register, Relation, Slot, Special};

/// Instructions that a warp executes before the next warp has its turn.
pub const TURN: u32 = 20_000;
/// Instructions that a group of lanes executes before another group of its warp has its turn.
const GROUP_TURN: u32 = 4_000;
/// Instructions that a warp whose lanes are apart executes before the next one of them has its turn.
const PATIENCE: u32 = 16 * GROUP_TURN;

/// Why a lane waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It does not.
    Running,
    /// For the other lanes of a collective's mask.
    Collective(u32),
    /// The same at a `bar.warp.sync`, where the others may stand at another one.
    WarpSync(u32),
    /// At a barrier of the block.
    Barrier {
        /// Which.
        id: u32,
        /// Whether the warp has to be there together.
        aligned: bool,
    },
    /// For a phase of an mbarrier.
    Mbarrier {
        /// Where it lies in the block's shared memory.
        offset: u64,
    },
    /// For the other threads of the cluster.
    Cluster,
}

/// 32 lanes.
#[derive(Debug)]
pub struct Warp {
    /// Their registers.
    pub regs: Registers,
    /// Rank of its block in the cluster.
    pub rank: u32,
    /// Place in the block.
    pub index: u32,
    /// Where each lane stands.
    pub pc: [u32; LANES],
    /// Lanes that exist and have not exited.
    pub alive: u32,
    /// Why each lane waits.
    pub wait: [Wait; LANES],
    /// Lanes whose `wait` is not `Running`.
    pub waiting: u32,
    /// Lanes that have arrived at the cluster's barrier in its present phase.
    pub cluster_arrived: u32,
    /// Lanes whose phase of the cluster's barrier is complete, and that have not waited for it yet.
    pub cluster_passed: u32,
    /// Lanes whose suspended wait for an mbarrier ends without success.
    pub timed_out: u32,
    /// Local memory, one stretch for each lane.
    pub local: Vec<u8>,
    steps: u64,
    give_way: bool,
    /// Instructions since the lanes were together, or one had its turn.
    apart: u32,
    /// Who has it next, or the next one that can.
    next: u32,
}

/// The lanes of a mask in order.
pub fn lanes(mask: u32) -> Lanes {
    Lanes(mask)
}

/// See [`lanes`].
#[derive(Debug, Clone)]
pub struct Lanes(u32);

impl Iterator for Lanes {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let lane = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(lane)
    }
}

impl Warp {
    /// A warp whose immediates are in place. Its other registers hold ones, later the last block's
    /// values: nothing that a kernel may rely on.
    pub fn new(kernel: &Kernel, rank: u32, index: u32) -> Self {
        let mut regs = Registers {
            b32: vec![[u32::MAX; LANES]; kernel.slots.b32 as usize],
            b64: vec![[u64::MAX; LANES]; kernel.slots.b64 as usize],
            pred: vec![u32::MAX; kernel.slots.pred as usize],
        };
        regs.pred[ALWAYS as usize] = u32::MAX;
        for &(slot, value) in &kernel.constants32 {
            regs.b32[slot as usize] = [value; LANES];
        }
        for &(slot, value) in &kernel.constants64 {
            regs.b64[slot as usize] = [value; LANES];
        }
        Self {
            regs,
            rank,
            index,
            pc: [0; LANES],
            alive: 0,
            wait: [Wait::Running; LANES],
            waiting: 0,
            cluster_arrived: 0,
            cluster_passed: 0,
            timed_out: 0,
            local: vec![0; kernel.local_bytes as usize * LANES],
            steps: 0,
            give_way: false,
            apart: 0,
            next: 0,
        }
    }

    /// Prepares it for a block.
    pub fn start(&mut self, cluster: &Cluster<'_>) {
        let threads = cluster.launch.threads_per_block();
        let first = self.index * LANES as u32;
        let existing = threads.saturating_sub(first).min(LANES as u32);
        self.alive = (1_u64 << existing).wrapping_sub(1) as u32;
        self.pc = [0; LANES];
        self.wait = [Wait::Running; LANES];
        self.waiting = 0;
        self.cluster_arrived = 0;
        self.cluster_passed = 0;
        self.timed_out = 0;
        self.steps = 0;
        self.give_way = false;
        (self.apart, self.next) = (0, 0);
        self.local.fill(0xFF);
        for &(slot, special) in &cluster.launch.kernel.specials {
            self.regs.b32[slot as usize] =
                std::array::from_fn(|lane| self.special(cluster, special, lane as u32));
        }
    }

    fn special(&self, cluster: &Cluster<'_>, special: Special, lane: u32) -> u32 {
        let launch = cluster.launch;
        let block = &cluster.blocks[self.rank as usize];
        match special {
            Special::Tid(axis) => cluster.thread_index(self.index, lane)[axis],
            Special::Ntid(axis) => launch.block[axis],
            Special::Ctaid(axis) => block.index[axis],
            Special::Nctaid(axis) => launch.grid[axis],
            Special::LaneId => lane,
            Special::WarpId => self.index,
            Special::WarpCount => launch.threads_per_block().div_ceil(LANES as u32),
            Special::SmId => 0,
            Special::SmCount => launch.device.multiprocessors as u32,
            Special::LaneMask(relation) => {
                let own = 1_u32 << lane;
                match relation {
                    Relation::Equal => own,
                    Relation::Less => own - 1,
                    Relation::LessEqual => (own - 1) | own,
                    Relation::Greater => !((own - 1) | own),
                    Relation::GreaterEqual => !(own - 1),
                }
            }
            Special::DynamicSharedBytes => launch.dynamic_shared_bytes as u32,
            Special::TotalSharedBytes => launch.shared_bytes() as u32,
            Special::ClusterId(axis) => cluster.index[axis],
            Special::ClusterCount(axis) => launch.grid[axis] / launch.cluster[axis],
            Special::ClusterCtaid(axis) => block.index[axis] % launch.cluster[axis],
            Special::ClusterNctaid(axis) => launch.cluster[axis],
            Special::ClusterRank => self.rank,
            Special::ClusterSize => launch.cluster.iter().product(),
        }
    }

    /// Lanes that can execute now.
    pub fn runnable(&self) -> u32 {
        self.alive & !self.waiting
    }

    /// Makes lanes wait where they stand.
    pub fn hold(&mut self, mask: u32, pc: u32, wait: Wait) {
        self.waiting |= mask;
        for lane in lanes(mask) {
            self.pc[lane] = pc;
            self.wait[lane] = wait;
        }
    }

    /// Lets waiting lanes go on.
    pub fn release(&mut self, mask: u32) {
        self.waiting &= !mask;
        for lane in lanes(mask) {
            self.wait[lane] = Wait::Running;
        }
    }

    fn set_pc(&mut self, mask: u32, pc: u32) {
        for lane in lanes(mask) {
            self.pc[lane] = pc;
        }
    }

    /// Lanes that wait for the same collective as `lane`.
    pub fn same_collective(&self, lane: usize) -> u32 {
        let anywhere = matches!(self.wait[lane], Wait::WarpSync(_));
        lanes(self.waiting & self.alive)
            .filter(|&other| anywhere || self.pc[other] == self.pc[lane])
            .filter(|&other| self.wait[other] == self.wait[lane])
            .fold(0, |mask, other| mask | 1 << other)
    }

    /// Releases collectives for which all lanes have come (or exited). They execute them then, but for
    /// `bar.warp.sync`, which is over.
    fn release_collectives(&mut self, cluster: &mut Cluster<'_>) {
        for lane in lanes(self.waiting & self.alive) {
            let (Wait::Collective(members) | Wait::WarpSync(members)) = self.wait[lane] else {
                continue;
            };
            let present = self.same_collective(lane);
            if members & self.alive & !present != 0 {
                continue;
            }
            if let Wait::WarpSync(_) = self.wait[lane] {
                self.meet(cluster, present);
                lanes(present).for_each(|lane| self.pc[lane] += 1);
            }
            self.release(present);
        }
    }

    /// Runs until no lane can go on, or the warp's turn is over.
    pub fn run(&mut self, cluster: &mut Cluster<'_>, turn: u32) -> Result<(), Fault> {
        let mut turn = turn;
        loop {
            if self.waiting != 0 {
                self.release_collectives(cluster);
            }
            let runnable = self.runnable();
            if runnable == 0 || turn == 0 {
                return Ok(());
            }
            let impatient = self.apart >= PATIENCE;
            let next = if impatient { self.next_of(runnable) } else { 0 };
            let pcs = || lanes(runnable).map(|lane| self.pc[lane]);
            let lowest = pcs().min().unwrap_or(0);
            let chosen = if impatient {
                self.pc[next]
            } else if self.give_way {
                pcs().max().unwrap_or(0)
            } else {
                lowest
            };
            // The next group up: where it stands, paths may join.
            let limit = pcs().filter(|&pc| pc > chosen).min().unwrap_or(u32::MAX);
            let group = lanes(runnable)
                .filter(|&lane| self.pc[lane] == chosen)
                .fold(0, |mask, lane| mask | 1 << lane);
            let used = self.run_group(cluster, chosen, group, limit, GROUP_TURN.min(turn))?;
            turn -= used.min(turn);
            self.give_way = used >= GROUP_TURN && !self.give_way && group != runnable;
            self.apart = if impatient || group == runnable { 0 } else { self.apart + used };
            self.steps += u64::from(used);
            if self.steps > cluster.launch.step_limit {
                let lane = group.trailing_zeros();
                return Err(Fault {
                    kind: FaultKind::StepLimit,
                    pc: self.pc[lane as usize],
                    lane,
                    detail: format!(
                        "a warp executed more than {} instructions (CUDA_EMULATOR_STEPS)",
                        cluster.launch.step_limit
                    ),
                });
            }
        }
    }

    /// The lane whose turn it is among some that can go on.
    fn next_of(&mut self, runnable: u32) -> usize {
        let from_next = runnable & (u32::MAX << self.next);
        let lane = if from_next == 0 { runnable } else { from_next }.trailing_zeros();
        self.next = (lane + 1) % LANES as u32;
        lane as usize
    }

    /// Runs lanes that stand at `pc` until they part, wait, reach `limit` or have had `turn`
    /// instructions. Returns how many they executed.
    fn run_group(
        &mut self,
        cluster: &mut Cluster<'_>,
        mut pc: u32,
        mut active: u32,
        limit: u32,
        turn: u32,
    ) -> Result<u32, Fault> {
        let launch = cluster.launch;
        let code = launch.kernel.code.as_slice();
        let mut used = 0;
        while active != 0 && pc < limit && used < turn {
            let inst = &code[pc as usize];
            let mask = active & (self.regs.pred[inst.guard as usize] ^ inst.guard_flip);
            used += 1;
            cluster.counters.lane_instructions_by_class[inst.class as usize] +=
                u64::from(mask.count_ones());
            if let Some(profile) = &launch.profile {
                profile.count(pc, mask.count_ones());
            }
            if mask == 0 {
                pc += 1;
                continue;
            }
            match &inst.op {
                Op::Alu32 { .. }
                | Op::Alu64 { .. }
                | Op::Bits64 { .. }
                | Op::Widen { .. }
                | Op::Narrow { .. }
                | Op::Carry32 { .. }
                | Op::Carry64 { .. }
                | Op::Perturbed(_)
                | Op::Compare32 { .. }
                | Op::Compare64 { .. }
                | Op::Select32 { .. }
                | Op::Select64 { .. }
                | Op::Pred { .. } => {
                    (launch.step)(&mut self.regs, &inst.op, mask);
                    pc += 1;
                }
                Op::Load(access) => {
                    self.load(cluster, access, mask, pc)?;
                    pc += 1;
                }
                Op::Store(access) => {
                    self.store(cluster, access, mask, pc)?;
                    pc += 1;
                }
                Op::Atomic(atomic) => {
                    self.atomic(cluster, atomic, mask, pc)?;
                    pc += 1;
                }
                Op::IsSpace { space, d, s } => {
                    self.is_space(*space, *d, *s, mask);
                    pc += 1;
                }
                Op::Branch { target } => {
                    if mask == active {
                        pc = *target;
                    } else {
                        self.set_pc(mask, *target);
                        self.set_pc(active & !mask, pc + 1);
                        return Ok(used);
                    }
                }
                Op::BranchIndexed { index, targets } => {
                    for lane in lanes(mask) {
                        let index = self.regs.b32[*index as usize][lane] as usize;
                        let Some(&target) = targets.get(index) else {
                            return Err(Fault {
                                kind: FaultKind::Trap,
                                pc,
                                lane: lane as u32,
                                detail: format!("branch target {index} of {}", targets.len()),
                            });
                        };
                        self.pc[lane] = target;
                    }
                    self.set_pc(active & !mask, pc + 1);
                    return Ok(used);
                }
                Op::Exit => {
                    self.alive &= !mask;
                    active &= !mask;
                    cluster.blocks[self.rank as usize].alive -= mask.count_ones();
                    pc += 1;
                }
                Op::Trap => {
                    let detail = "the kernel stops itself".into();
                    let lane = mask.trailing_zeros();
                    return Err(Fault { kind: FaultKind::Trap, pc, lane, detail });
                }
                Op::AssertFail(arguments) => {
                    let lane = mask.trailing_zeros();
                    let detail = self.failed_assertion(cluster, arguments, lane as usize);
                    return Err(Fault { kind: FaultKind::Assert, pc, lane, detail });
                }
                Op::Shuffle(_)
                | Op::Vote { .. }
                | Op::Match(_)
                | Op::Redux { .. }
                | Op::WarpSync { .. }
                | Op::Elect { .. } => {
                    let done = self.collective(cluster, &inst.op, mask, pc)?;
                    if done == mask {
                        pc += 1;
                    } else {
                        self.set_pc(active & !mask | done, pc + 1);
                        return Ok(used);
                    }
                }
                Op::ActiveMask { d } => {
                    self.regs.write32(*d, mask, &[mask; LANES]);
                    pc += 1;
                }
                Op::Barrier(barrier) => {
                    let holds = self.arrive(cluster, barrier, mask, pc)?;
                    if holds {
                        self.set_pc(active & !mask, pc + 1);
                        return Ok(used);
                    }
                    pc += 1;
                }
                Op::Fence(op) => {
                    self.fence(cluster, *op, mask);
                    pc += 1;
                }
                Op::GridDependency(op) => {
                    self.grid_dependency(cluster, *op, mask);
                    pc += 1;
                }
                Op::Mbarrier(op) => {
                    let done = self.mbarrier(cluster, op, mask, pc)?;
                    if done == mask {
                        pc += 1;
                    } else {
                        self.set_pc(active & !mask | done, pc + 1);
                        return Ok(used);
                    }
                }
                Op::ClusterBarrier(op) => {
                    let done = self.cluster_barrier(cluster, *op, mask, pc)?;
                    if done == mask {
                        pc += 1;
                    } else {
                        self.set_pc(active & !mask | done, pc + 1);
                        return Ok(used);
                    }
                }
                Op::MapRank { d, s, rank } => {
                    self.map_rank(cluster, (*d, *s, *rank), mask, pc)?;
                    pc += 1;
                }
                Op::RankOf { d, s } => {
                    self.rank_of(*d, *s, mask);
                    pc += 1;
                }
                Op::CopyAsync(op) => {
                    self.copy_async(cluster, op, mask, pc)?;
                    pc += 1;
                }
                Op::CopyBulk(op) => {
                    self.copy_bulk(cluster, op, mask, pc)?;
                    pc += 1;
                }
                Op::PrefetchBulk { from, bytes } => {
                    self.prefetch_bulk(cluster, (*from, *bytes), mask, pc)?;
                    pc += 1;
                }
                Op::StoreAsync(op) => {
                    self.store_async(cluster, op, mask, pc)?;
                    pc += 1;
                }
                Op::CopyGroup(op) => {
                    self.copy_group(cluster, *op, mask)?;
                    pc += 1;
                }
                Op::Clock { d } => {
                    let now = self.steps + u64::from(used);
                    match *d {
                        Register::B32(d) => self.regs.write32(d, mask, &[now as u32; LANES]),
                        Register::B64(d) => self.regs.write64(d, mask, &[now; LANES]),
                    }
                    pc += 1;
                }
                Op::Nothing => pc += 1,
            }
        }
        self.set_pc(active, pc);
        Ok(used)
    }

    /// A register's value in a lane, zero-extended.
    pub fn value(&self, register: Register, lane: usize) -> u64 {
        match register {
            Register::B32(slot) => u64::from(self.regs.b32[slot as usize][lane]),
            Register::B64(slot) => self.regs.b64[slot as usize][lane],
        }
    }

    /// Sets a register in a lane.
    #[inline(always)]
    pub fn set(&mut self, register: Register, lane: usize, value: u64) {
        match register {
            Register::B32(slot) => self.regs.b32[slot as usize][lane] = value as u32,
            Register::B64(slot) => self.regs.b64[slot as usize][lane] = value,
        }
    }

    /// A predicate's lanes.
    pub fn predicate(&self, slot: Slot, flip: u32) -> u32 {
        self.regs.pred[slot as usize] ^ flip
    }
}
