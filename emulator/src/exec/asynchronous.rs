//! What a warp does with mbarriers, clusters and asynchronous copies.

use super::access::{combine, read_word, write_word};
use super::alu::LANES;
use super::block::{Block, Cluster};
use super::checks::{Lane, Place, Refusal, check_alignment, check_initialised, fault};
use super::copy::{Copy, End, Grouped, Told};
use super::mbarrier::{MBARRIER_BYTES, State, refuse};
use super::race::{Agent, Claim, Touch};
use super::warp::{Wait, Warp, lanes};
use crate::fault::{Fault, FaultKind};
use crate::ptx::ir::{
    Address, ClusterBarrier, Completion, CopyAsync, CopyBulk, CopyGroup, Fence, GridDependency,
    Mbarrier, MbarrierKind, MemoryOrder, Phase, RANK_SHIFT, Register, SHARED_WINDOW, Scope, Slot,
    Space, StoreAsync, WINDOW_BYTES,
};

/// What bulk copies are aligned to, and multiples of.
const BULK: u64 = 16;

/// Who uses an mbarrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    /// A thread.
    Thread,
    /// An asynchronous store that it starts.
    Store,
    /// A bulk copy that it starts, through the other proxy.
    Bulk,
}

impl Cluster<'_> {
    /// The mbarrier at a place, which a thread, or a copy that it starts, is about to use.
    fn mbarrier(&mut self, place: Place, by: Lane, user: User) -> Result<&mut State, Refusal> {
        check_alignment(place.offset, MBARRIER_BYTES)?;
        if place.rank != by.rank {
            self.check_peer(place.rank, by)?;
        }
        let shared = &mut self.blocks[place.rank as usize].shared;
        shared.check(place.offset, MBARRIER_BYTES)?;
        if let Some(races) = &mut self.races {
            let at = (place.rank, place.offset, MBARRIER_BYTES);
            // Using it is a strong access: it races with its initialisation alone.
            let touched = if user == User::Thread {
                races.touch_shared(at, by.thread, Touch::Read, Some(Scope::Cluster), by.pc)
            } else {
                // Whoever waits for the copy knows that it came, but not what its thread did.
                let agent = Agent::Mbarrier(place.rank, place.offset);
                let claim = if user == User::Bulk { Claim::BulkRead } else { Claim::Read };
                races.copy_shared(at, by.thread, (agent, 0), claim, by.pc)
            };
            touched.map_err(|conflict| self.conflict(conflict))?;
        }
        let found = &mut self.blocks[place.rank as usize].mbarriers;
        let found = found.iter_mut().find(|(at, _)| *at == place.offset);
        found.map(|(_, state)| state).ok_or_else(|| refuse("there is no mbarrier".into()))
    }

    fn mbarrier_at(&mut self, rank: u32, offset: u64) -> Option<&mut State> {
        let found = self.blocks.get_mut(rank as usize)?.mbarriers.iter_mut();
        found.into_iter().find(|(at, _)| *at == offset).map(|(_, state)| state)
    }

    /// Ends the mbarrier's phase if nothing is missing.
    fn complete_phase(&mut self, rank: u32, offset: u64) {
        if self.mbarrier_at(rank, offset).is_some_and(State::complete) {
            self.changed = true;
            self.idle = 0;
            self.counters.mbarrier_phases += 1;
        }
    }

    /// Starts a copy; by its due time it may happen at once.
    fn start(&mut self, copy: Copy) -> Result<(), Fault> {
        self.poison(&copy);
        let now = copy.due == 0;
        self.copies.under_way.push(copy);
        if now { self.perform_copy(self.copies.under_way.len() - 1) } else { Ok(()) }
    }

    /// Until it is done, nobody can rely on what a copy writes, or change what it reads.
    fn poison(&mut self, copy: &Copy) {
        if let End::Shared(rank, offset) = copy.to
            && copy.reduction.is_none()
        {
            let shared = &mut self.blocks[rank as usize].shared;
            let bytes = copy.bytes + copy.zeros;
            shared.bytes[offset as usize..][..bytes as usize].fill(0xFF);
            shared.forget(offset, bytes);
        }
        mark_busy(&mut self.blocks, copy);
    }

    /// A copy is done with one of its ends: it is free, but for what other copies hold of it.
    fn let_go(&mut self, end: End, bytes: u64) {
        let End::Shared(rank, offset) = end else { return };
        self.blocks[rank as usize].shared.vacate(offset, bytes);
        for other in &self.copies.under_way {
            if other.uses(rank, offset, bytes) {
                mark_busy(&mut self.blocks, other);
            }
        }
    }

    /// The same of its destination. Of what it does not reduce, no other copy holds anything ([`Cluster::claim`]),
    /// and thousands may be under way.
    fn let_go_of_destination(&mut self, copy: &Copy) {
        let bytes = copy.bytes + copy.zeros;
        match copy.to {
            End::Shared(rank, offset) if copy.reduction.is_none() => {
                self.blocks[rank as usize].shared.vacate(offset, bytes);
            }
            end => self.let_go(end, bytes),
        }
    }

    /// A copy under way happens now.
    pub(super) fn perform_copy(&mut self, at: usize) -> Result<(), Fault> {
        let copy = self.copies.under_way.remove(at);
        self.perform_removed(copy)
    }

    fn perform_removed(&mut self, mut copy: Copy) -> Result<(), Fault> {
        let broken =
            |(kind, detail): Refusal, copy: &Copy, lane| Fault { kind, pc: copy.pc, lane, detail };
        let (_, lane) = self.warp_of(copy.thread);
        let source = copy.from;
        self.read_source(&mut copy).map_err(|refusal| broken(refusal, &copy, lane))?;
        self.write_destination(&copy).map_err(|refusal| broken(refusal, &copy, lane))?;
        self.let_go_of_destination(&copy);
        self.let_go(source, copy.bytes);
        if let Told::Mbarrier(rank, offset) = copy.told {
            let done = (copy.bytes + copy.zeros) as i64;
            let races = self.races.as_deref_mut();
            let found = self.blocks[rank as usize].mbarriers.iter_mut();
            let Some((_, state)) = found.into_iter().find(|(at, _)| *at == offset) else {
                let text = "the mbarrier that the copy completes on is gone".into();
                return Err(broken(refuse(text), &copy, lane));
            };
            if let Some(races) = races {
                let agent = Agent::Mbarrier(rank, offset);
                races.release_agent(&mut state.gathering, agent, state.phase + 1);
            }
            state.expect(-done).map_err(|refusal| broken(refusal, &copy, lane))?;
            self.complete_phase(rank, offset);
        }
        self.idle = 0;
        Ok(())
    }

    /// The source is read into the copy's buffer.
    fn read_source(&mut self, copy: &mut Copy) -> Result<(), Refusal> {
        match copy.from {
            End::Global(address) => {
                copy.buffer.resize(copy.bytes as usize, 0);
                let allocation = self.bounded_global(address, copy.bytes.max(1))?;
                allocation.read(address - allocation.address, &mut copy.buffer);
            }
            End::Shared(rank, offset) => {
                let shared = &self.blocks[rank as usize].shared;
                copy.buffer = shared.bytes[offset as usize..][..copy.bytes as usize].to_vec();
            }
            End::Buffer => {}
        }
        copy.from = End::Buffer;
        Ok(())
    }

    fn write_destination(&mut self, copy: &Copy) -> Result<(), Refusal> {
        let zeros = std::iter::repeat_n(0, copy.zeros as usize);
        let data: Vec<u8> = copy.buffer.iter().copied().chain(zeros).collect();
        let bytes = data.len() as u64;
        match copy.to {
            End::Global(address) => {
                let allocation = self.bounded_global(address, bytes)?;
                allocation.write(address - allocation.address, &data);
                self.counters.global_bytes_written += bytes;
                self.counters.global_sectors_written += bytes.div_ceil(32);
                if let Some(touched) = &self.launch.touched {
                    touched.mark_all(self.launch.table, address, bytes, Touch::Write);
                }
            }
            End::Shared(rank, offset) => {
                let shared = &mut self.blocks[rank as usize].shared;
                if let Some((op, kind)) = copy.reduction {
                    let size = bytes as u32;
                    let old = read_word(&shared.bytes, offset, size);
                    let operand = read_word(&data, 0, size);
                    let new = combine(op, kind, old, [operand, 0], Space::Shared);
                    write_word(&mut shared.bytes, offset, size, new);
                } else {
                    shared.bytes[offset as usize..][..data.len()].copy_from_slice(&data);
                    shared.mark_all_written(offset, bytes);
                }
            }
            End::Buffer => {}
        }
        Ok(())
    }

    /// All copies under way of a kind happen, in the order of their start.
    fn perform_all(&mut self, which: impl Fn(&Copy) -> bool) -> Result<(), Fault> {
        let chosen: Vec<Copy> = self.copies.under_way.extract_if(.., |copy| which(copy)).collect();
        chosen.into_iter().try_for_each(|copy| self.perform_removed(copy))
    }

    /// The place of a copy's end in shared memory: in bounds, and of nobody else.
    fn claim(
        &mut self,
        (place, bytes): (Place, u64),
        by: Lane,
        actor: (Agent, u32),
        claim: Claim,
    ) -> Result<(), Refusal> {
        if place.space != Space::Shared {
            return Err((FaultKind::IllegalAddress, "not in shared memory".into()));
        }
        if place.rank != by.rank {
            self.check_peer(place.rank, by)?;
        }
        let shared = &mut self.blocks[place.rank as usize].shared;
        shared.check_range(place.offset, bytes)?;
        if claim.reads() {
            shared.check_all_written(place.offset, bytes)?;
        }
        let Place { rank, offset, .. } = place;
        let meets = |copy: &Copy| {
            let both_reduce = claim == Claim::Reduce && copy.reduction.is_some();
            copy.writes(rank, offset, bytes) && !both_reduce
                || claim.writes() && copy.reads(rank, offset, bytes)
        };
        if shared.is_busy(offset, bytes)
            && let Some(other) = self.copies.under_way.iter().find(|copy| meets(copy))
        {
            let origin = self.launch.describe(other.pc);
            let text = format!("another copy that is still under way uses it:{origin}");
            return Err((FaultKind::CopyUnderWay, text));
        }
        if let Some(races) = &mut self.races {
            let at = (rank, offset, bytes);
            let touched = races.copy_shared(at, by.thread, actor, claim, by.pc);
            touched.map_err(|conflict| self.conflict(conflict))?;
        }
        Ok(())
    }

    /// The same in device memory.
    fn claim_global(
        &mut self,
        (address, bytes): (u64, u64),
        by: Lane,
        actor: (Agent, u32),
        touch: Touch,
    ) -> Result<(), Refusal> {
        if bytes == 0 {
            return Ok(());
        }
        let allocation = self.bounded_global(address, bytes)?;
        let offset = address - allocation.address;
        if touch == Touch::Read {
            if let Some(first) = allocation.first_unwritten(offset, bytes) {
                let at = first / 16 * 16;
                let size = 16.min(allocation.bytes - at);
                check_initialised(allocation, at, size, self.launch.uninitialised)?;
            }
            if let Some(touched) = &self.launch.touched {
                touched.mark_all(self.launch.table, address, bytes, touch);
            }
        }
        self.check_predecessor(address, bytes, touch, by)?;
        if let Some(races) = &mut self.races {
            let touched = races.copy_global(address, bytes, by.thread, actor, touch, by.pc);
            touched.map_err(|conflict| self.conflict(conflict))?;
        }
        Ok(())
    }
}

/// A copy's ends in shared memory belong to it.
fn mark_busy(blocks: &mut [Block], copy: &Copy) {
    for (end, bytes) in [(copy.to, copy.bytes + copy.zeros), (copy.from, copy.bytes)] {
        if let End::Shared(rank, offset) = end {
            blocks[rank as usize].shared.occupy(offset, bytes);
        }
    }
}

impl Warp {
    /// A thread's number in the cluster.
    #[inline(always)]
    pub fn thread(&self, launch: &super::launch::Launch<'_>, lane: usize) -> u32 {
        self.rank * launch.threads_per_block() + self.index * LANES as u32 + lane as u32
    }

    fn slot32(&self, slot: Slot, lane: usize) -> u32 {
        self.regs.b32[slot as usize][lane]
    }

    /// Executes an operation on an mbarrier. Returns the lanes that are done; the others wait.
    pub(super) fn mbarrier(
        &mut self,
        cluster: &mut Cluster<'_>,
        op: &Mbarrier,
        mask: u32,
        pc: u32,
    ) -> Result<u32, Fault> {
        let addresses = self.addresses(op.address);
        let mut done = 0;
        for lane in lanes(mask) {
            let place = Place::of(op.space, addresses[lane], self.rank);
            let refuse =
                |refusal| fault(refusal, "mbarrier", addresses[lane], MBARRIER_BYTES, pc, lane);
            if place.space != Space::Shared {
                let text = "mbarriers lie in shared memory".to_string();
                return Err(refuse((FaultKind::IllegalAddress, text)));
            }
            let by = self.lane(cluster, lane, pc);
            if self.mbarrier_lane(cluster, op, place, by, lane).map_err(refuse)? {
                done |= 1 << lane;
            } else {
                self.hold(1 << lane, pc, Wait::Mbarrier { offset: place.offset });
            }
            if matches!(op.kind, MbarrierKind::Wait { .. }) && done >> lane & 1 == 0 {
                // Whoever waits lets the copies happen that it waits for.
                let told = Told::Mbarrier(place.rank, place.offset);
                cluster.perform_all(|copy| copy.told == told && copy.is_late())?;
            }
        }
        Ok(done)
    }

    /// One lane's operation; whether it is done.
    fn mbarrier_lane(
        &mut self,
        cluster: &mut Cluster<'_>,
        op: &Mbarrier,
        place: Place,
        by: Lane,
        lane: usize,
    ) -> Result<bool, Refusal> {
        let Place { rank, offset, .. } = place;
        match op.kind {
            MbarrierKind::Init { count } => {
                let state = State::new(self.slot32(count, lane))?;
                if let Some(block) = cluster.blocks.get_mut(rank as usize)
                    && block.mbarriers.iter().any(|(at, _)| *at == offset)
                {
                    return Err(refuse("an mbarrier that is in use is initialised again".into()));
                }
                cluster.checked_shared(
                    place,
                    MBARRIER_BYTES,
                    Touch::Write,
                    MemoryOrder::Weak,
                    by,
                )?;
                if let Some(races) = &mut cluster.races {
                    let at = (rank, offset, MBARRIER_BYTES);
                    let touched = races.initialised(at, by.thread, by.pc);
                    touched.map_err(|conflict| cluster.conflict(conflict))?;
                }
                cluster.blocks[rank as usize].mbarriers.push((offset, state));
            }
            MbarrierKind::Invalidate => {
                cluster.mbarrier(place, by, User::Thread)?;
                cluster.blocks[rank as usize].mbarriers.retain(|(at, _)| *at != offset);
                cluster.checked_shared(
                    place,
                    MBARRIER_BYTES,
                    Touch::Write,
                    MemoryOrder::Weak,
                    by,
                )?;
            }
            MbarrierKind::Expect { bytes } => {
                let bytes = i64::from(self.slot32(bytes, lane));
                cluster.mbarrier(place, by, User::Thread)?.expect(bytes)?;
                cluster.complete_phase(rank, offset);
            }
            MbarrierKind::Complete { bytes } => {
                let bytes = i64::from(self.slot32(bytes, lane));
                cluster.mbarrier(place, by, User::Thread)?.expect(-bytes)?;
                cluster.complete_phase(rank, offset);
            }
            MbarrierKind::Arrive { state, count, bytes, drops } => {
                let count = count.map_or(1, |slot| self.slot32(slot, lane));
                let bytes = bytes.map(|slot| i64::from(self.slot32(slot, lane)));
                let token = cluster.mbarrier(place, by, User::Thread)?.token();
                if op.orders {
                    self.publish(cluster, place, by);
                }
                // Not as a use of its own, which would come after what was published.
                let Some(mbarrier) = cluster.mbarrier_at(rank, offset) else {
                    return Err(refuse("there is no mbarrier".into()));
                };
                if let Some(bytes) = bytes {
                    mbarrier.expect(bytes)?;
                }
                mbarrier.arrive(count, drops)?;
                cluster.complete_phase(rank, offset);
                if let Some(state) = state {
                    self.set(Register::B64(state), lane, token);
                }
            }
            MbarrierKind::ArriveAfterCopies { increments } => {
                // The copies may happen at any time until then: now.
                let thread = by.thread;
                cluster
                    .perform_all(|copy| matches!(copy.told, Told::Group(by, _) if by == thread))
                    .map_err(|fault| (fault.kind, fault.detail))?;
                let group = cluster.copies.open_group(thread, Grouped::Small);
                cluster.copies.commit(thread, Grouped::Small);
                let agent = Agent::Copies(thread);
                cluster.mbarrier(place, by, User::Thread)?;
                let Cluster { blocks, races, .. } = cluster;
                let found = blocks[rank as usize].mbarriers.iter_mut();
                let Some((_, mbarrier)) = found.into_iter().find(|(at, _)| *at == offset) else {
                    return Err(refuse("there is no mbarrier".into()));
                };
                if let Some(races) = races {
                    races.release_agent(&mut mbarrier.gathering, agent, group);
                }
                if increments {
                    mbarrier.await_one_more();
                }
                mbarrier.arrive(1, false)?;
                cluster.complete_phase(rank, offset);
            }
            MbarrierKind::Wait { done, phase, suspends } => {
                if rank != by.rank {
                    return Err(refuse("a block waits on its own mbarriers alone".into()));
                }
                let is_past = |state: &State, warp: &Self| match phase {
                    Phase::State(slot) => state.is_past(warp.regs.b64[slot as usize][lane]),
                    Phase::Parity(slot) => state.is_past_parity(warp.slot32(slot, lane)),
                };
                let past = is_past(cluster.mbarrier(place, by, User::Thread)?, self);
                let timed_out = self.timed_out >> lane & 1 == 1;
                self.timed_out &= !(1 << lane);
                if !past {
                    if suspends && !timed_out && !cluster.gives_up() {
                        return Ok(false);
                    }
                    cluster.idle += 1;
                    // Without suspension the copies that it waits for happen as well.
                    let told = Told::Mbarrier(rank, offset);
                    cluster
                        .perform_all(|copy| copy.told == told && copy.is_late())
                        .map_err(|fault| (fault.kind, fault.detail))?;
                }
                self.regs.write_pred(done, 1 << lane, if past { u32::MAX } else { 0 });
                if past && op.orders {
                    let Cluster { blocks, races, .. } = cluster;
                    let found =
                        blocks[rank as usize].mbarriers.iter().find(|(at, _)| *at == offset);
                    if let (Some(races), Some((_, state))) = (races, found) {
                        races.acquire(&state.published, by.thread);
                    }
                }
            }
        }
        Ok(true)
    }

    /// What a thread did becomes known to those who wait on an mbarrier.
    fn publish(&self, cluster: &mut Cluster<'_>, place: Place, by: Lane) {
        let Cluster { blocks, races, .. } = cluster;
        let found = blocks[place.rank as usize].mbarriers.iter_mut();
        let found = found.into_iter().find(|(at, _)| *at == place.offset);
        if let (Some(races), Some((_, state))) = (races, found) {
            races.release(&mut state.gathering, std::iter::once(by.thread));
        }
    }

    /// Executes `barrier.cluster`. Returns the lanes that are done; the others wait.
    pub(super) fn cluster_barrier(
        &mut self,
        cluster: &mut Cluster<'_>,
        op: ClusterBarrier,
        mask: u32,
        pc: u32,
    ) -> Result<u32, Fault> {
        let lane = mask.trailing_zeros() as usize;
        let misuse = |detail: &str| Fault {
            kind: FaultKind::Cluster,
            pc,
            lane: lane as u32,
            detail: detail.into(),
        };
        let (ClusterBarrier::Arrive { aligned, .. } | ClusterBarrier::Wait { aligned }) = op;
        if aligned && mask != self.alive {
            let text = format!(
                "an aligned cluster barrier that lanes {mask:#010x} of {:#010x} execute",
                self.alive
            );
            return Err(Fault { kind: FaultKind::DivergentBarrier, ..misuse(&text) });
        }
        match op {
            ClusterBarrier::Arrive { releases, .. } => {
                if mask & (self.cluster_arrived | self.cluster_passed) != 0 {
                    return Err(misuse(
                        "a thread arrives at the cluster's barrier twice without a wait",
                    ));
                }
                self.cluster_arrived |= mask;
                if let Some(races) = &mut cluster.races {
                    let launch = cluster.launch;
                    let threads = lanes(mask).map(|lane| self.thread(launch, lane));
                    if releases {
                        races.release(&mut cluster.gathering, threads);
                    } else {
                        threads.for_each(|t| races.arrive_relaxed(&mut cluster.gathering, t));
                    }
                }
                Ok(mask)
            }
            ClusterBarrier::Wait { .. } => {
                if mask & !(self.cluster_arrived | self.cluster_passed) != 0 {
                    return Err(misuse(
                        "a thread waits at the cluster's barrier and has not arrived",
                    ));
                }
                let past = mask & self.cluster_passed;
                self.cluster_passed &= !past;
                if let Some(races) = &mut cluster.races {
                    for lane in lanes(past) {
                        races.acquire(&cluster.published, self.thread(cluster.launch, lane));
                    }
                }
                self.hold(mask & !past, pc, Wait::Cluster);
                Ok(past)
            }
        }
    }

    /// `mapa`
    pub(super) fn map_rank(
        &mut self,
        cluster: &Cluster<'_>,
        (d, s, rank): (Register, Register, Slot),
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        for lane in lanes(mask) {
            let rank = self.slot32(rank, lane);
            let address = self.value(s, lane);
            let refuse = |text: String| {
                fault((FaultKind::IllegalAddress, text), "mapa", address, 0, pc, lane)
            };
            if rank as usize >= cluster.blocks.len() {
                let size = cluster.blocks.len();
                return Err(refuse(format!("rank {rank} in a cluster of {size} blocks")));
            }
            let (window, offset) = match s {
                Register::B32(_) => (0, address),
                Register::B64(_) => (SHARED_WINDOW, address.wrapping_sub(SHARED_WINDOW)),
            };
            if offset >= WINDOW_BYTES {
                return Err(refuse("no address of shared memory".into()));
            }
            let within = offset & ((1 << RANK_SHIFT) - 1);
            self.set(d, lane, window + (u64::from(rank + 1) << RANK_SHIFT | within));
        }
        Ok(())
    }

    /// `getctarank`
    pub(super) fn rank_of(&mut self, d: Slot, s: Register, mask: u32) {
        for lane in lanes(mask) {
            let address = self.value(s, lane);
            let space = match s {
                Register::B32(_) => Space::SharedCluster,
                Register::B64(_) => Space::Generic,
            };
            let rank = Place::of(space, address, self.rank).rank;
            self.set(Register::B32(d), lane, u64::from(rank));
        }
    }

    /// `membar`, `fence`
    pub(super) fn fence(&self, cluster: &mut Cluster<'_>, op: Fence, mask: u32) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let launch = cluster.launch;
        let Some(races) = &mut cluster.races else { return };
        for thread in lanes(mask).map(|lane| self.thread(launch, lane)) {
            match op {
                Fence::Threads(scope) => races.fence(thread, scope),
                Fence::Sequential(scope) => races.sequential_fence(thread, scope),
                Fence::AsyncProxy => races.proxy_fence(thread),
                Fence::MbarrierInit => races.fence_initialisations(thread),
                Fence::Nothing => {}
            }
        }
    }

    /// `griddepcontrol`
    pub(super) fn grid_dependency(&self, cluster: &mut Cluster<'_>, op: GridDependency, mask: u32) {
        let launch = cluster.launch;
        if let (GridDependency::Wait, Some(races)) = (op, &mut cluster.races) {
            races.wait_for_predecessor(lanes(mask).map(|lane| self.thread(launch, lane)));
        }
    }

    /// `cp.async`
    pub(super) fn copy_async(
        &mut self,
        cluster: &mut Cluster<'_>,
        op: &CopyAsync,
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let (to, from) = (self.addresses(op.to), self.addresses(op.from));
        let ignored = op.ignore.map_or(0, |(slot, flip)| self.predicate(slot, flip));
        let mut reading = 0;
        for lane in lanes(mask) {
            let by = self.lane(cluster, lane, pc);
            let place = Place::of(Space::Shared, to[lane], self.rank);
            let wide = u64::from(op.bytes);
            let refuse = |refusal| fault(refusal, "cp.async", to[lane], wide, pc, lane);
            let refuse_source = |refusal| fault(refusal, "cp.async", from[lane], wide, pc, lane);
            let read = match op.read_bytes {
                _ if ignored >> lane & 1 == 1 => 0,
                Some(slot) => u64::from(self.slot32(slot, lane)),
                None => wide,
            };
            if read > wide {
                let text = format!("{read} bytes are read where {wide} are written");
                return Err(refuse((FaultKind::IllegalAddress, text)));
            }
            check_alignment(place.offset, wide).map_err(refuse)?;
            check_alignment(from[lane], wide).map_err(refuse_source)?;
            let group = cluster.copies.open_group(by.thread, Grouped::Small);
            let told = Told::Group(by.thread, group);
            let actor = (Agent::Copies(by.thread), group);
            let source = Place::of(Space::Generic, from[lane], self.rank);
            if source.space != Space::Global {
                let text = "not in global memory".to_string();
                return Err(refuse_source((FaultKind::IllegalAddress, text)));
            }
            cluster
                .claim_global((from[lane], read), by, actor, Touch::Read)
                .map_err(refuse_source)?;
            cluster.counters.global_bytes_read += read;
            reading |= u32::from(read > 0) << lane;
            cluster.claim((place, wide), by, actor, Claim::Write).map_err(refuse)?;
            let due = cluster.copies.due();
            cluster.start(Copy {
                to: End::Shared(place.rank, place.offset),
                from: if read == 0 { End::Buffer } else { End::Global(from[lane]) },
                buffer: Vec::new(),
                bytes: read,
                zeros: wide - read,
                reduction: None,
                told,
                thread: by.thread,
                pc,
                due,
            })?;
        }
        cluster.counters.global_sectors_read += super::traffic::footprint(&from, reading).1;
        Ok(())
    }

    /// `cp.async.bulk.prefetch.L2`
    pub(super) fn prefetch_bulk(
        &mut self,
        cluster: &mut Cluster<'_>,
        (from, bytes): (Address, Slot),
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let from = self.addresses(from);
        for lane in lanes(mask) {
            let bytes = u64::from(self.slot32(bytes, lane));
            let refuse = |refusal| fault(refusal, "bulk prefetch", from[lane], bytes, pc, lane);
            if bytes % BULK != 0 {
                let text = format!("the size is not a multiple of {BULK}");
                return Err(refuse((FaultKind::MisalignedAddress, text)));
            }
            check_alignment(from[lane], BULK).map_err(refuse)?;
            if bytes != 0 {
                cluster.bounded_global(from[lane], bytes).map_err(refuse)?;
            }
        }
        Ok(())
    }

    /// `cp.async.bulk`
    pub(super) fn copy_bulk(
        &mut self,
        cluster: &mut Cluster<'_>,
        op: &CopyBulk,
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let (to, from) = (self.addresses(op.to), self.addresses(op.from));
        for lane in lanes(mask) {
            let by = self.lane(cluster, lane, pc);
            let bytes = u64::from(self.slot32(op.bytes, lane));
            let refuse = |refusal| fault(refusal, "bulk copy", to[lane], bytes, pc, lane);
            let refuse_source = |refusal| fault(refusal, "bulk copy", from[lane], bytes, pc, lane);
            if bytes % BULK != 0 {
                let text = format!("the size is not a multiple of {BULK}");
                return Err(refuse((FaultKind::MisalignedAddress, text)));
            }
            let source = Place::of(op.spaces[1], from[lane], self.rank);
            let target = Place::of(op.spaces[0], to[lane], self.rank);
            check_alignment(target.offset, BULK).map_err(refuse)?;
            check_alignment(source.offset, BULK).map_err(refuse_source)?;
            if bytes == 0 {
                continue;
            }
            let ranks: Vec<u32> = match op.multicast {
                Some(slot) => {
                    let ranks = self.slot32(slot, lane);
                    if ranks == 0 || ranks >> cluster.blocks.len() != 0 {
                        let size = cluster.blocks.len();
                        let text = format!("ranks {ranks:#x} in a cluster of {size} blocks");
                        return Err(refuse((FaultKind::IllegalAddress, text)));
                    }
                    lanes(ranks).map(|rank| rank as u32).collect()
                }
                None => vec![target.rank],
            };
            for (copy, rank) in ranks.iter().enumerate() {
                let told = match op.completion {
                    Completion::Mbarrier(address) => {
                        let address = self.addresses(address)[lane];
                        // As a multicast destination, it is at the same offset in each block.
                        let place = Place::of(Space::SharedCluster, address, self.rank);
                        let rank = if op.multicast.is_some() { *rank } else { place.rank };
                        let place = Place { rank, ..place };
                        let wrong = |refusal| fault(refusal, "mbarrier", address, 8, pc, lane);
                        if op.multicast.is_none() && rank != target.rank {
                            let text = "a copy completes on an mbarrier of another block than its \
                                        destination's";
                            return Err(wrong((FaultKind::Mbarrier, text.into())));
                        }
                        cluster.mbarrier(place, by, User::Bulk).map_err(wrong)?;
                        Told::Mbarrier(rank, place.offset)
                    }
                    Completion::Group => Told::BulkGroup(
                        by.thread,
                        cluster.copies.open_group(by.thread, Grouped::Bulk),
                    ),
                };
                let clock = match told {
                    Told::Mbarrier(rank, offset) => {
                        cluster.mbarrier_at(rank, offset).map_or(0, |state| state.phase + 1)
                    }
                    Told::Group(_, group) | Told::BulkGroup(_, group) => group,
                };
                let [reader, writer] = told.agents();
                let from_end = if source.space == Space::Global {
                    // A multicast copy reads its source once.
                    if copy == 0 {
                        cluster
                            .claim_global((from[lane], bytes), by, (reader, clock), Touch::Read)
                            .map_err(refuse_source)?;
                        cluster.counters.global_bytes_read += bytes;
                        cluster.counters.global_sectors_read += bytes.div_ceil(32);
                    }
                    End::Global(from[lane])
                } else {
                    cluster
                        .claim((source, bytes), by, (reader, clock), Claim::BulkRead)
                        .map_err(refuse_source)?;
                    End::Shared(source.rank, source.offset)
                };
                let to_end = if target.space == Space::Global {
                    cluster
                        .claim_global((to[lane], bytes), by, (writer, clock), Touch::Write)
                        .map_err(refuse)?;
                    End::Global(to[lane])
                } else {
                    let place = Place { rank: *rank, ..target };
                    cluster
                        .claim((place, bytes), by, (writer, clock), Claim::BulkWrite)
                        .map_err(refuse)?;
                    End::Shared(*rank, target.offset)
                };
                let due = cluster.copies.due();
                cluster.start(Copy {
                    to: to_end,
                    from: from_end,
                    buffer: Vec::new(),
                    bytes,
                    zeros: 0,
                    reduction: None,
                    told,
                    thread: by.thread,
                    pc,
                    due,
                })?;
            }
        }
        Ok(())
    }

    /// `st.async`, `red.async`
    pub(super) fn store_async(
        &mut self,
        cluster: &mut Cluster<'_>,
        op: &StoreAsync,
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let (to, barriers) = (self.addresses(op.to), self.addresses(op.mbarrier));
        let bytes = u64::from(op.element_bytes) * op.registers.len() as u64;
        for lane in lanes(mask) {
            let by = self.lane(cluster, lane, pc);
            let refuse = |refusal| fault(refusal, "st.async", to[lane], bytes, pc, lane);
            let target = Place::of(Space::SharedCluster, to[lane], self.rank);
            let barrier = Place::of(Space::SharedCluster, barriers[lane], self.rank);
            check_alignment(target.offset, bytes).map_err(refuse)?;
            if target.rank != barrier.rank {
                let text = "its mbarrier lies in another block than its destination".into();
                return Err(refuse((FaultKind::Mbarrier, text)));
            }
            let state = cluster.mbarrier(barrier, by, User::Store).map_err(refuse)?;
            let clock = state.phase + 1;
            let agent = Agent::Mbarrier(barrier.rank, barrier.offset);
            let claim = if op.reduction.is_some() { Claim::Reduce } else { Claim::Write };
            cluster.claim((target, bytes), by, (agent, clock), claim).map_err(refuse)?;
            let buffer = op
                .registers
                .iter()
                .flat_map(|register| {
                    let value = self.value(*register, lane).to_le_bytes();
                    value[..op.element_bytes as usize].to_vec()
                })
                .collect();
            let due = cluster.copies.due();
            cluster.start(Copy {
                to: End::Shared(target.rank, target.offset),
                from: End::Buffer,
                buffer,
                bytes,
                zeros: 0,
                reduction: op.reduction,
                told: Told::Mbarrier(barrier.rank, barrier.offset),
                thread: by.thread,
                pc,
                due,
            })?;
        }
        Ok(())
    }

    /// `cp.async.commit_group`, `cp.async.wait_group` and their kin.
    pub(super) fn copy_group(
        &mut self,
        cluster: &mut Cluster<'_>,
        op: CopyGroup,
        mask: u32,
    ) -> Result<(), Fault> {
        let first = self.thread(cluster.launch, 0);
        // By lane, the last of the groups that it waits for: closed ones, which count from 1.
        let mut past = [0; LANES];
        for lane in lanes(mask) {
            let thread = first + lane as u32;
            past[lane] = match op {
                CopyGroup::Commit => {
                    cluster.copies.commit(thread, Grouped::Small);
                    0
                }
                CopyGroup::CommitBulk => {
                    cluster.copies.commit(thread, Grouped::Bulk);
                    0
                }
                // `wait_all` is as if the open group had been closed.
                CopyGroup::Wait { pending: None } => {
                    let open = cluster.copies.open_group(thread, Grouped::Small);
                    cluster.copies.commit(thread, Grouped::Small);
                    open
                }
                CopyGroup::Wait { pending: Some(pending) } => {
                    let open = cluster.copies.open_group(thread, Grouped::Small);
                    (open - 1).saturating_sub(pending)
                }
                CopyGroup::WaitBulk { pending, .. } => {
                    let open = cluster.copies.open_group(thread, Grouped::Bulk);
                    (open - 1).saturating_sub(pending)
                }
            };
        }
        // Once for all lanes: each may have several copies under way.
        let is_past = |by: u32, group: u32| {
            let lane = by.wrapping_sub(first) as usize;
            past.get(lane).is_some_and(|&past| group <= past)
        };
        let small = |copy: &Copy| matches!(copy.told, Told::Group(by, group) if is_past(by, group));
        let bulk =
            |copy: &Copy| matches!(copy.told, Told::BulkGroup(by, group) if is_past(by, group));
        match op {
            CopyGroup::Commit | CopyGroup::CommitBulk => return Ok(()),
            CopyGroup::Wait { .. } => cluster.perform_all(small)?,
            CopyGroup::WaitBulk { read: true, .. } => cluster.read_sources(bulk)?,
            CopyGroup::WaitBulk { read: false, .. } => cluster.perform_all(bulk)?,
        }
        let Some(races) = &mut cluster.races else { return Ok(()) };
        for lane in lanes(mask) {
            let thread = first + lane as u32;
            let mut wait_for = |agent| races.wait_for_agent(thread, agent, past[lane]);
            match op {
                CopyGroup::Commit | CopyGroup::CommitBulk => {}
                CopyGroup::Wait { .. } => wait_for(Agent::Copies(thread)),
                CopyGroup::WaitBulk { read, .. } => {
                    wait_for(Agent::BulkReads(thread));
                    if !read {
                        wait_for(Agent::BulkWrites(thread));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Cluster<'_> {
    /// The sources of copies are read; their destinations are written later.
    fn read_sources(&mut self, which: impl Fn(&Copy) -> bool) -> Result<(), Fault> {
        for at in 0..self.copies.under_way.len() {
            if !which(&self.copies.under_way[at]) {
                continue;
            }
            let mut copy = self.copies.under_way.remove(at);
            let source = copy.from;
            let (_, lane) = self.warp_of(copy.thread);
            let pc = copy.pc;
            self.read_source(&mut copy).map_err(|(kind, detail)| Fault {
                kind,
                pc,
                lane,
                detail,
            })?;
            self.let_go(source, copy.bytes);
            self.copies.under_way.insert(at, copy);
        }
        Ok(())
    }
}
