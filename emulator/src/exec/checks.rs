//! The checks on every address: where it lies, bounds, alignment, bytes that nobody wrote, copies under way,
//! races.

use super::alu::LANES;
use super::block::Cluster;
use super::race::{Conflict, Event, HeldPage, Touch};
use super::shared::SharedMemory;
use crate::fault::{Fault, FaultKind};
use crate::memory::{Allocation, Table};
use crate::ptx::ir::{
    LOCAL_WINDOW, MemoryOrder, PARAM_WINDOW, RANK_SHIFT, SHARED_WINDOW, Scope, Space, WINDOW_BYTES,
};
use crate::settings::Uninitialised;

/// Where an address lies: its space, the rank of its block there if it is shared, and its offset (the
/// address itself in global space).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub space: Space,
    pub rank: u32,
    pub offset: u64,
}

impl Place {
    /// Of an address that a thread of the block of rank `own` uses.
    #[inline(always)]
    pub fn of(space: Space, address: u64, own: u32) -> Self {
        let within = |window: u64| address.wrapping_sub(window);
        let place = |space, offset| Self { space, rank: own, offset };
        let shared = |offset: u64| {
            let rank = match (offset >> RANK_SHIFT) as u32 {
                0 => own,
                rank => rank - 1,
            };
            let offset = offset & ((1 << RANK_SHIFT) - 1);
            Self { space: Space::Shared, rank, offset }
        };
        match space {
            Space::Global | Space::Const => place(Space::Global, address),
            Space::Shared => place(space, address),
            Space::SharedCluster if address >> 32 == 0 => shared(address),
            Space::SharedCluster => place(Space::Shared, address),
            Space::Local => place(space, within(LOCAL_WINDOW)),
            Space::Param => place(space, within(PARAM_WINDOW)),
            Space::Generic => {
                if within(SHARED_WINDOW) < WINDOW_BYTES {
                    shared(within(SHARED_WINDOW))
                } else if within(LOCAL_WINDOW) < WINDOW_BYTES {
                    place(Space::Local, within(LOCAL_WINDOW))
                } else if within(PARAM_WINDOW) < WINDOW_BYTES {
                    place(Space::Param, within(PARAM_WINDOW))
                } else {
                    place(Space::Global, address)
                }
            }
        }
    }
}

/// The fault's kind and text, before it is known whose it is.
pub(super) type Refusal = (FaultKind, String);

/// The last allocation that an access of this block went to: the next one is likely the same.
#[derive(Debug)]
pub struct Recent<'l> {
    table: &'l Table,
    position: usize,
}

impl<'l> Recent<'l> {
    pub fn new(table: &'l Table) -> Self {
        Self { table, position: 0 }
    }

    #[inline(always)]
    pub fn find(&mut self, address: u64, bytes: u64) -> Option<&'l Allocation> {
        if let Some(allocation) = self.table.get(self.position)
            && allocation.contains(address, bytes)
        {
            return Some(allocation);
        }
        self.position = self.table.position(address)?;
        self.table.get(self.position).filter(|allocation| allocation.contains(address, bytes))
    }
}

/// How far a strong access reaches.
pub(super) fn strength(order: MemoryOrder) -> Option<Scope> {
    match order {
        MemoryOrder::Weak => None,
        MemoryOrder::Strong { scope, .. } => Some(scope),
    }
}

/// One lane's access, as its checks need it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    /// The thread, counted through the cluster.
    pub thread: u32,
    /// The rank of its block.
    pub rank: u32,
    /// The instruction.
    pub pc: u32,
}

impl<'l> Cluster<'l> {
    /// An access to shared memory that is aligned, in bounds of a block that is there, and races with none.
    #[inline(always)]
    pub(super) fn checked_shared(
        &mut self,
        place: Place,
        bytes: u64,
        touch: Touch,
        order: MemoryOrder,
        by: Lane,
    ) -> Result<(), Refusal> {
        if place.rank != by.rank {
            self.check_peer(place.rank, by)?;
        }
        let block = &mut self.blocks[place.rank as usize];
        block.shared.check(place.offset, bytes)?;
        if !block.mbarriers.is_empty() {
            let inside = |(at, _): &&(u64, super::mbarrier::State)| {
                place.offset < at + super::mbarrier::MBARRIER_BYTES && *at < place.offset + bytes
            };
            if block.mbarriers.iter().any(|entry| inside(&entry)) {
                let text =
                    "an mbarrier lies there, which only mbarrier operations may touch".into();
                return Err((FaultKind::Mbarrier, text));
            }
        }
        if !block.shared.busy.is_empty() {
            self.check_busy(place, bytes, touch)?;
        }
        match touch {
            Touch::Read => self.check_written(place, bytes)?,
            Touch::Write => {
                self.blocks[place.rank as usize].shared.mark_written(place.offset, bytes)
            }
        }
        if let Some(races) = &mut self.races {
            let at = (place.rank, place.offset, bytes);
            let touched = races.touch_shared(at, by.thread, touch, strength(order), by.pc);
            return touched.map_err(|conflict| self.conflict(conflict));
        }
        Ok(())
    }

    /// Whether the block of another rank is there to be touched.
    pub(super) fn check_peer(&self, rank: u32, by: Lane) -> Result<(), Refusal> {
        let Some(peer) = self.blocks.get(rank as usize) else {
            let text = format!("rank {rank} in a cluster of {} blocks", self.blocks.len());
            return Err((FaultKind::IllegalAddress, text));
        };
        if peer.alive == 0 {
            let text =
                format!("block {rank} of the cluster has ended, and its shared memory with it");
            return Err((FaultKind::Cluster, text));
        }
        if self.races.as_ref().is_some_and(|races| !races.knows_block(by.thread, rank)) {
            let text = format!(
                "block {rank} of the cluster may not have begun: no cluster barrier lies before"
            );
            return Err((FaultKind::Cluster, text));
        }
        Ok(())
    }

    fn check_written(&self, place: Place, bytes: u64) -> Result<(), Refusal> {
        self.blocks[place.rank as usize].shared.check_written(place.offset, bytes).map_err(
            |refusal| {
                let Place { rank, offset, .. } = place;
                let copy =
                    self.copies.under_way.iter().find(|copy| copy.writes(rank, offset, bytes));
                match copy {
                    Some(copy) => {
                        let origin = self.launch.describe(copy.pc);
                        let text = format!("a copy that is still under way will write it:{origin}");
                        (FaultKind::CopyUnderWay, text)
                    }
                    None => refusal,
                }
            },
        )
    }

    /// Writes must not meet what copies under way read or write.
    fn check_busy(&self, place: Place, bytes: u64, touch: Touch) -> Result<(), Refusal> {
        let Place { rank, offset, .. } = place;
        let shared = &self.blocks[rank as usize].shared;
        let (at, mask) = SharedMemory::shadow(offset, bytes);
        if touch == Touch::Read || shared.busy[at] & mask == 0 {
            return Ok(());
        }
        let verb = |copy: &super::copy::Copy| {
            if copy.writes(rank, offset, bytes) {
                Some("write")
            } else if copy.reads(rank, offset, bytes) {
                Some("read")
            } else {
                None
            }
        };
        let copies = &self.copies.under_way;
        match copies.iter().find_map(|copy| Some((copy, verb(copy)?))) {
            Some((copy, verb)) => {
                let origin = self.launch.describe(copy.pc);
                let text = format!("a copy that is still under way will {verb} it:{origin}");
                Err((FaultKind::CopyUnderWay, text))
            }
            None => Ok(()),
        }
    }

    /// Whether the last race was with another lane of the same instruction.
    pub(super) fn by_same_instruction(&self, by: Lane) -> bool {
        let Some(Conflict { earlier, touched: Touch::Write, .. }) = self.last_conflict else {
            return false;
        };
        earlier.cluster == self.number
            && earlier.pc == by.pc
            && self.warp_of(earlier.actor()).0 == self.warp_of(by.thread).0
    }

    /// The race of an access, in words.
    pub(super) fn conflict(&mut self, conflict: Conflict) -> Refusal {
        self.last_conflict = Some(conflict);
        let Conflict { earlier, touched, proxy } = conflict;
        let verb = match touched {
            Touch::Read => "the read",
            Touch::Write => "the write",
        };
        let who = self.actor(earlier);
        let origin = self.launch.describe(earlier.pc);
        let why = if proxy {
            "no fence.proxy.async orders bulk copies after"
        } else {
            "nothing orders it after"
        };
        (FaultKind::Race, format!("{why} {verb} by {who}{origin}"))
    }

    fn actor(&self, event: Event) -> String {
        use super::race::Agent;
        let threads = self.launch.threads_per_block();
        let agent = self.races.as_ref().and_then(|races| races.agent_of(event.actor()));
        let agent = agent.filter(|_| event.cluster == self.number);
        let actor = match agent {
            Some(Agent::Mbarrier(_, offset)) => {
                return format!("a bulk copy that completes on the mbarrier at {offset:#x}");
            }
            Some(Agent::Copies(_)) => return "a cp.async".into(),
            Some(Agent::BulkReads(_) | Agent::BulkWrites(_)) => {
                return "a bulk copy of a bulk group".into();
            }
            Some(Agent::Predecessor) => return "the launch before".into(),
            Some(Agent::Initialisations(thread)) => thread,
            None => event.actor(),
        };
        let clusters: [u32; 3] =
            std::array::from_fn(|axis| self.launch.grid[axis] / self.launch.cluster[axis]);
        let size = self.launch.cluster;
        let [x, y, _] = clusters;
        let n = event.cluster;
        let index = [n % x, n / x % y, n / (x * y)];
        let rank = actor / threads;
        if rank >= self.blocks.len() as u32 {
            return format!("an asynchronous copy of cluster {index:?}");
        }
        let within = [rank % size[0], rank / size[0] % size[1], rank / (size[0] * size[1])];
        let block: [u32; 3] = std::array::from_fn(|axis| index[axis] * size[axis] + within[axis]);
        let thread = actor % threads;
        let place = self.thread_index(thread / LANES as u32, thread % LANES as u32);
        format!("thread {place:?} of block {block:?}")
    }

    /// Checks a global access for races, with the launch before this one too.
    #[inline]
    pub(super) fn race_global(
        &mut self,
        held: &mut Option<HeldPage<'l>>,
        (address, bytes): (u64, u64),
        touch: Touch,
        order: MemoryOrder,
        by: Lane,
    ) -> Result<(), Refusal> {
        self.check_predecessor(address, bytes, touch, by)?;
        let Some(races) = &mut self.races else { return Ok(()) };
        let touched =
            races.touch_global(held, (address, bytes), by.thread, touch, strength(order), by.pc);
        touched.map_err(|conflict| self.conflict(conflict))
    }

    /// Whether the launch before this one is known to be done with these bytes.
    #[inline]
    pub(super) fn check_predecessor(
        &mut self,
        address: u64,
        bytes: u64,
        touch: Touch,
        by: Lane,
    ) -> Result<(), Refusal> {
        let Some(races) = &mut self.races else { return Ok(()) };
        let Some((before, event, touched)) = races.predecessor(address, bytes, by.thread, touch)
        else {
            return Ok(());
        };
        let verb = if touched == Touch::Read { "reads" } else { "writes" };
        let text = format!(
            "this thread has not executed griddepcontrol.wait, and the launch of {} before this one \
             {verb} it{}",
            before.kernel,
            before.source.describe(event.pc)
        );
        Err((FaultKind::Race, text))
    }
}

impl<'l> Cluster<'l> {
    /// The allocation of a global access that is aligned and in bounds.
    #[inline(always)]
    pub(super) fn checked_global(
        &mut self,
        address: u64,
        bytes: u64,
    ) -> Result<&'l Allocation, Refusal> {
        check_alignment(address, bytes)?;
        self.bounded_global(address, bytes)
    }

    /// The allocation of a global access that is in bounds.
    #[inline(always)]
    pub(super) fn bounded_global(
        &mut self,
        address: u64,
        bytes: u64,
    ) -> Result<&'l Allocation, Refusal> {
        match self.recent.find(address, bytes) {
            Some(allocation) => Ok(allocation),
            None => Err((FaultKind::IllegalAddress, self.launch.memory.describe(address, bytes))),
        }
    }
}

/// Bytes of device memory that a read needs and nobody wrote.
#[inline(always)]
pub(super) fn check_initialised(
    allocation: &Allocation,
    offset: u64,
    bytes: u64,
    allowed: Uninitialised,
) -> Result<(), Refusal> {
    let missing = allocation.unwritten(offset, bytes);
    if missing == 0 || allowed == Uninitialised::Allowed {
        return Ok(());
    }
    let text = format!(
        "{missing} of them were never written: {offset} bytes into {}, {} bytes at {:#x}",
        allocation.label, allocation.bytes, allocation.address
    );
    Err((FaultKind::UninitialisedGlobal, text))
}

#[inline(always)]
pub(super) fn check_alignment(address: u64, bytes: u64) -> Result<(), Refusal> {
    if address & (bytes - 1) == 0 {
        Ok(())
    } else {
        Err((FaultKind::MisalignedAddress, format!("not a multiple of {bytes}")))
    }
}

pub(super) fn check_range(offset: u64, bytes: u64, size: u64, what: &str) -> Result<(), Refusal> {
    check_alignment(offset, bytes)?;
    if offset <= size && bytes <= size - offset {
        Ok(())
    } else {
        let text = format!("offset {offset} of {size} bytes of {what} memory");
        Err((FaultKind::IllegalAddress, text))
    }
}

pub(super) fn fault(
    (kind, why): Refusal,
    verb: &str,
    address: u64,
    bytes: u64,
    pc: u32,
    lane: usize,
) -> Fault {
    let detail = format!("{verb} of {bytes} bytes at {address:#x}: {why}");
    Fault { kind, pc, lane: lane as u32, detail }
}
