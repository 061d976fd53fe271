//! Loads, stores and atomics of a warp, and the checks on each address.

use super::alu::{LANES, add_half};
use super::block::{Cluster, SharedMemory};
use super::race::{Conflict, Event, Strong, Touch};
use super::warp::{Warp, lanes};
use crate::fault::{Fault, FaultKind};
use crate::memory::{Allocation, Table, Word};
use crate::ptx::ir::{
    Access, Address, Atomic, AtomicOp, AtomicType, LOCAL_WINDOW, MemoryOrder, PARAM_WINDOW,
    RANK_SHIFT, Register, SHARED_WINDOW, Scope, Slot, Space, WINDOW_BYTES,
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

/// How many of the lanes' accesses of one size are different, and how many 32-byte sectors they touch: each
/// lies in one, as they are naturally aligned and of at most 16 bytes.
pub(super) fn footprint(addresses: &[u64; LANES], mask: u32) -> (u64, u64) {
    let mut touched = [0_u64; LANES];
    let (mut count, mut sectors) = (0, 0);
    let mut sorted = true;
    for lane in lanes(mask) {
        let address = addresses[lane];
        if count > 0 {
            let last = touched[count - 1];
            if last == address {
                continue;
            }
            sorted &= last < address;
            sectors += u64::from(last / 32 != address / 32);
        } else {
            sectors = 1;
        }
        touched[count] = address;
        count += 1;
    }
    if sorted {
        return (count as u64, sectors);
    }
    let touched = &mut touched[..count];
    touched.sort_unstable();
    let steps = |same: fn(u64, u64) -> bool| {
        1 + touched.windows(2).filter(|pair| !same(pair[0], pair[1])).count() as u64
    };
    (steps(|a, b| a == b), steps(|a, b| a / 32 == b / 32))
}

fn bytes_of<const N: usize>(memory: &[u8], offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&memory[offset as usize..][..N]);
    bytes
}

pub(super) fn read_word(memory: &[u8], offset: u64, bytes: u32) -> u64 {
    match bytes {
        1 => u64::from(memory[offset as usize]),
        2 => u64::from(u16::from_le_bytes(bytes_of(memory, offset))),
        4 => u64::from(u32::from_le_bytes(bytes_of(memory, offset))),
        _ => u64::from_le_bytes(bytes_of(memory, offset)),
    }
}

pub(super) fn write_word(memory: &mut [u8], offset: u64, bytes: u32, value: u64) {
    memory[offset as usize..][..bytes as usize]
        .copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
}

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

/// A value that was loaded, as it fills its register.
#[inline(always)]
fn extended(value: u64, bytes: u32, signed: bool) -> u64 {
    if signed && bytes < 8 {
        let shift = 64 - 8 * bytes;
        ((value << shift) as i64 >> shift) as u64
    } else {
        value
    }
}

/// Wavefronts that the banks of shared memory need for the lanes' accesses: 32 banks of 4 bytes serve one
/// word each at a time. Accesses of 8 and 16 bytes are served by halves and quarters of the warp.
fn wavefronts(offsets: &[u64; LANES], mask: u32, bytes: u64) -> u64 {
    served_together(offsets, mask, bytes)
        .map(|touched| {
            let mut banks = [0_u64; 32];
            for word in touched {
                banks[(word % 32) as usize] += 1;
            }
            banks.into_iter().max().unwrap_or(0)
        })
        .sum()
}

/// The same if no two words lay in one bank.
fn wavefronts_at_least(offsets: &[u64; LANES], mask: u32, bytes: u64) -> u64 {
    served_together(offsets, mask, bytes).map(|touched| touched.len().div_ceil(32) as u64).sum()
}

/// The words of each part of a warp that is served together.
fn served_together(
    offsets: &[u64; LANES],
    mask: u32,
    bytes: u64,
) -> impl Iterator<Item = Vec<u64>> {
    let words = (bytes / 4).max(1);
    let group = LANES / words as usize;
    (0..LANES).step_by(group).map(move |first| {
        let part = mask & (((1_u64 << group) - 1) << first) as u32;
        let mut touched: Vec<u64> = lanes(part)
            .flat_map(|lane| (0..words).map(move |word| offsets[lane] / 4 + word))
            .collect();
        touched.sort_unstable();
        touched.dedup();
        touched
    })
}

/// How far a strong access reaches.
fn strength(order: MemoryOrder) -> Option<Scope> {
    match order {
        MemoryOrder::Weak => None,
        MemoryOrder::Strong { scope, .. } => Some(scope),
    }
}

fn strong(order: MemoryOrder, reads: bool, writes: bool) -> Option<Strong> {
    match order {
        MemoryOrder::Weak => None,
        MemoryOrder::Strong { scope, acquire, release } => Some(Strong {
            scope,
            reads,
            writes,
            acquire: acquire && reads,
            release: release && writes,
        }),
    }
}

impl Strong {
    /// The same of an atomic, once its outcome is known: a failed comparison writes nothing.
    fn of(self, op: AtomicOp, old: u64, [expected, _]: [u64; 2]) -> Self {
        let writes = op != AtomicOp::CompareExchange || old == expected;
        Self { writes, release: self.release && writes, ..self }
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

impl Cluster<'_> {
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
    fn by_same_instruction(&self, by: Lane) -> bool {
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
            "no fence.proxy.async makes visible to bulk copies"
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
    pub(super) fn race_global(
        &mut self,
        address: u64,
        bytes: u64,
        touch: Touch,
        order: MemoryOrder,
        by: Lane,
    ) -> Result<(), Refusal> {
        self.check_predecessor(address, bytes, touch, by)?;
        let Some(races) = &mut self.races else { return Ok(()) };
        let touched = races.touch_global(address, bytes, by.thread, touch, strength(order), by.pc);
        touched.map_err(|conflict| self.conflict(conflict))
    }

    /// Whether the launch before this one is known to be done with these bytes.
    pub(super) fn check_predecessor(
        &mut self,
        address: u64,
        bytes: u64,
        touch: Touch,
        by: Lane,
    ) -> Result<(), Refusal> {
        let Some(races) = &mut self.races else { return Ok(()) };
        let Some((kernel, event, touched)) = races.predecessor(address, bytes, by.thread, touch)
        else {
            return Ok(());
        };
        let verb = if touched == Touch::Read { "reads" } else { "writes" };
        let text = format!(
            "the launch of {kernel} before this one {verb} it (its instruction {}), and this thread \
             has not executed griddepcontrol.wait",
            event.pc
        );
        Err((FaultKind::Race, text))
    }

    /// What a warp's accesses cost, if somebody wants to know.
    #[inline(always)]
    fn count(
        &mut self,
        global: u32,
        addresses: &[u64; LANES],
        shared: u32,
        offsets: &[u64; LANES],
        bytes: u64,
        touch: Touch,
    ) {
        let Some(touched) = &self.launch.touched else { return };
        for lane in lanes(global) {
            touched.mark(self.launch.table, addresses[lane], bytes, touch);
        }
        if shared != 0 {
            let needed = wavefronts(offsets, shared, bytes);
            // What the same bytes take without two words in one bank.
            let least = wavefronts_at_least(offsets, shared, bytes);
            self.counters.shared_wavefronts += needed;
            self.counters.shared_bank_conflicts += needed - least;
        }
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

impl Warp {
    #[inline(always)]
    pub(super) fn addresses(&self, address: Address) -> [u64; LANES] {
        match address.base {
            Register::B64(slot) => {
                let row = &self.regs.b64[slot as usize];
                std::array::from_fn(|lane| row[lane].wrapping_add_signed(address.offset))
            }
            Register::B32(slot) => {
                let row = &self.regs.b32[slot as usize];
                std::array::from_fn(|lane| u64::from(row[lane]).wrapping_add_signed(address.offset))
            }
        }
    }

    pub(super) fn is_space(&mut self, space: Space, d: Slot, s: Slot, mask: u32) {
        let row = &self.regs.b64[s as usize];
        let bits = (0..LANES)
            .filter(|&lane| {
                let place = Place::of(Space::Generic, row[lane], self.rank);
                match space {
                    Space::Shared => place.space == Space::Shared && place.rank == self.rank,
                    Space::SharedCluster => place.space == Space::Shared,
                    _ => place.space == space,
                }
            })
            .fold(0, |bits, lane| bits | 1 << lane);
        self.regs.write_pred(d, mask, bits);
    }

    /// A lane as the checks of its accesses need it.
    #[inline(always)]
    pub(super) fn lane(&self, cluster: &Cluster<'_>, lane: usize, pc: u32) -> Lane {
        Lane { thread: self.thread(cluster.launch, lane), rank: self.rank, pc }
    }

    pub(super) fn load(
        &mut self,
        cluster: &mut Cluster<'_>,
        access: &Access,
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(access.address);
        let size = access.element_bytes;
        let bytes = u64::from(size) * access.registers.len() as u64;
        let launch = cluster.launch;
        let checks_races = cluster.races.is_some() && access.space != Space::Const;
        // A strong read and what it takes in happen as one.
        let strong = strong(access.order, true, false);
        let shadow = cluster.races.as_ref().map(|races| races.global());
        let mut points = match (strong, shadow) {
            (Some(_), Some(shadow)) => Some(shadow.sync()),
            _ => None,
        };
        let (mut global, mut shared) = (0_u32, 0_u32);
        let mut offsets = [0; LANES];
        for lane in lanes(mask) {
            let place = Place::of(access.space, addresses[lane], self.rank);
            let refuse = |refusal| fault(refusal, "read", addresses[lane], bytes, pc, lane);
            let by = self.lane(cluster, lane, pc);
            match place.space {
                Space::Global => {
                    global |= 1 << lane;
                    let allocation = cluster.checked_global(place.offset, bytes).map_err(refuse)?;
                    let offset = place.offset - allocation.address;
                    check_initialised(allocation, offset, bytes, launch.uninitialised)
                        .map_err(refuse)?;
                    match size {
                        1 => self.load_words::<u8>(allocation, offset, access, lane),
                        2 => self.load_words::<u16>(allocation, offset, access, lane),
                        4 => self.load_words::<u32>(allocation, offset, access, lane),
                        _ => self.load_words::<u64>(allocation, offset, access, lane),
                    }
                    if checks_races {
                        cluster
                            .race_global(place.offset, bytes, Touch::Read, access.order, by)
                            .map_err(refuse)?;
                        if let (Some(points), Some(strong), Some(races)) =
                            (&mut points, strong, &mut cluster.races)
                        {
                            races.synchronise_global(points, place.offset, by.thread, strong);
                        }
                    }
                }
                Space::Shared => {
                    shared |= 1 << lane;
                    offsets[lane] = place.offset;
                    cluster
                        .checked_shared(place, bytes, Touch::Read, access.order, by)
                        .map_err(refuse)?;
                    let memory = &cluster.blocks[place.rank as usize].shared.bytes;
                    self.load_bytes(memory, place.offset, access, lane);
                    if let (Some(strong), Some(races)) = (strong, &mut cluster.races) {
                        races.synchronise_shared((place.rank, place.offset), by.thread, strong);
                    }
                }
                Space::Local => {
                    let start = self.local_place(place.offset, bytes, lane).map_err(refuse)?;
                    let local = std::mem::take(&mut self.local);
                    self.load_bytes(&local, start, access, lane);
                    self.local = local;
                }
                Space::Param => {
                    let parameters = launch.parameters;
                    check_range(place.offset, bytes, parameters.len() as u64, "parameter")
                        .map_err(refuse)?;
                    self.load_bytes(parameters, place.offset, access, lane);
                }
                Space::Generic | Space::Const | Space::SharedCluster => {
                    unreachable!("resolved by Place::of")
                }
            }
        }
        // Constants are not traffic: they come from a cache of their own.
        if access.space != Space::Const {
            let (different, sectors) = footprint(&addresses, global);
            cluster.counters.global_bytes_read += bytes * different;
            cluster.counters.global_sectors_read += sectors;
            cluster.count(global, &addresses, shared, &offsets, bytes, Touch::Read);
        }
        Ok(())
    }

    #[inline(always)]
    fn load_words<W: Word + Into<u64>>(
        &mut self,
        allocation: &Allocation,
        offset: u64,
        access: &Access,
        lane: usize,
    ) {
        for (at, register) in (offset..).step_by(W::BYTES).zip(&access.registers) {
            let value: u64 = allocation.load::<W>(at).into();
            if let Some(register) = *register {
                self.set(register, lane, extended(value, W::BYTES as u32, access.signed));
            }
        }
    }

    fn load_bytes(&mut self, memory: &[u8], offset: u64, access: &Access, lane: usize) {
        let size = access.element_bytes;
        for (at, register) in (offset..).step_by(size as usize).zip(&access.registers) {
            let value = read_word(memory, at, size);
            if let Some(register) = *register {
                self.set(register, lane, extended(value, size, access.signed));
            }
        }
    }

    pub(super) fn store(
        &mut self,
        cluster: &mut Cluster<'_>,
        access: &Access,
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(access.address);
        let size = access.element_bytes;
        let bytes = u64::from(size) * access.registers.len() as u64;
        let strong = strong(access.order, false, true);
        let shadow = cluster.races.as_ref().map(|races| races.global());
        let mut points = match (strong, shadow) {
            (Some(_), Some(shadow)) => Some(shadow.sync()),
            _ => None,
        };
        let (mut global, mut shared) = (0_u32, 0_u32);
        let mut offsets = [0; LANES];
        for lane in lanes(mask) {
            let place = Place::of(access.space, addresses[lane], self.rank);
            let refuse = |refusal| fault(refusal, "write", addresses[lane], bytes, pc, lane);
            let by = self.lane(cluster, lane, pc);
            match place.space {
                Space::Global => {
                    global |= 1 << lane;
                    if cluster.races.is_some() {
                        cluster.checked_global(place.offset, bytes).map_err(refuse)?;
                        let raced = cluster.race_global(
                            place.offset,
                            bytes,
                            Touch::Write,
                            access.order,
                            by,
                        );
                        if let Err(refusal) = raced {
                            let same = self.already_there(cluster, place, access, lane);
                            if !(same && cluster.by_same_instruction(by)) {
                                return Err(refuse(refusal));
                            }
                        }
                        if let (Some(points), Some(strong), Some(races)) =
                            (&mut points, strong, &mut cluster.races)
                        {
                            races.synchronise_global(points, place.offset, by.thread, strong);
                        }
                    }
                    let allocation = cluster.checked_global(place.offset, bytes).map_err(refuse)?;
                    let offset = place.offset - allocation.address;
                    allocation.mark(offset, bytes);
                    for (at, register) in (offset..).step_by(size as usize).zip(&access.registers) {
                        let Some(register) = *register else { continue };
                        let value = self.value(register, lane);
                        match size {
                            1 => allocation.store(at, value as u8),
                            2 => allocation.store(at, value as u16),
                            4 => allocation.store(at, value as u32),
                            _ => allocation.store(at, value),
                        }
                    }
                }
                Space::Shared => {
                    shared |= 1 << lane;
                    offsets[lane] = place.offset;
                    let checked =
                        cluster.checked_shared(place, bytes, Touch::Write, access.order, by);
                    if let Err(refusal) = checked {
                        let same = refusal.0 == FaultKind::Race
                            && self.already_there(cluster, place, access, lane)
                            && cluster.by_same_instruction(by);
                        if !same {
                            return Err(refuse(refusal));
                        }
                    }
                    let memory = &mut cluster.blocks[place.rank as usize].shared.bytes;
                    self.store_bytes(memory, place.offset, access, lane);
                    if let (Some(strong), Some(races)) = (strong, &mut cluster.races) {
                        races.synchronise_shared((place.rank, place.offset), by.thread, strong);
                    }
                }
                Space::Local => {
                    let start = self.local_place(place.offset, bytes, lane).map_err(refuse)?;
                    let mut local = std::mem::take(&mut self.local);
                    self.store_bytes(&mut local, start, access, lane);
                    self.local = local;
                }
                Space::Param => {
                    let refusal = "parameters are read-only".to_string();
                    return Err(refuse((FaultKind::IllegalAddress, refusal)));
                }
                Space::Generic | Space::Const | Space::SharedCluster => {
                    unreachable!("resolved by Place::of")
                }
            }
        }
        let (different, sectors) = footprint(&addresses, global);
        cluster.counters.global_bytes_written += bytes * different;
        cluster.counters.global_sectors_written += sectors;
        cluster.count(global, &addresses, shared, &offsets, bytes, Touch::Write);
        Ok(())
    }

    /// Whether a store would change nothing: lanes of one instruction may write the same value to one
    /// place, and which of them does is left open.
    fn already_there(
        &self,
        cluster: &Cluster<'_>,
        place: Place,
        access: &Access,
        lane: usize,
    ) -> bool {
        let size = access.element_bytes;
        let shared = &cluster.blocks[place.rank as usize].shared.bytes;
        let table = cluster.launch.table;
        (place.offset..).step_by(size as usize).zip(&access.registers).all(|(at, register)| {
            let Some(register) = *register else { return true };
            let now = if place.space == Space::Shared {
                read_word(shared, at, size)
            } else {
                let Some(allocation) = table.find(at, u64::from(size)) else { return false };
                let offset = at - allocation.address;
                match size {
                    1 => u64::from(allocation.load::<u8>(offset)),
                    2 => u64::from(allocation.load::<u16>(offset)),
                    4 => u64::from(allocation.load::<u32>(offset)),
                    _ => allocation.load::<u64>(offset),
                }
            };
            let kept = if size == 8 { u64::MAX } else { (1 << (8 * size)) - 1 };
            now == self.value(register, lane) & kept
        })
    }

    fn store_bytes(&self, memory: &mut [u8], offset: u64, access: &Access, lane: usize) {
        let size = access.element_bytes;
        for (at, register) in (offset..).step_by(size as usize).zip(&access.registers) {
            if let Some(register) = *register {
                write_word(memory, at, size, self.value(register, lane));
            }
        }
    }

    /// What `assert` says: message, file, line and function, whose places in local memory are given.
    pub(super) fn failed_assertion(
        &self,
        cluster: &Cluster<'_>,
        arguments: &[u64; 4],
        lane: usize,
    ) -> String {
        let each = (self.local.len() / LANES) as u64;
        let word = |offset: u64, bytes| read_word(&self.local, each * lane as u64 + offset, bytes);
        let text = |offset: u64| {
            let address = word(offset, 8);
            let characters = (address..address + 300).map_while(|at| {
                let allocation = cluster.launch.table.find(at, 1)?;
                let byte: u8 = allocation.load(at - allocation.address);
                (byte != 0).then_some(byte)
            });
            String::from_utf8_lossy(&characters.collect::<Vec<u8>>()).into_owned()
        };
        let [message, file, line, function] = arguments;
        let line = word(*line, 4);
        format!(
            "`{}` does not hold, {}:{line}, in {}",
            text(*message),
            text(*file),
            text(*function)
        )
    }

    /// Place in `self.local` of a lane's local address.
    fn local_place(&self, offset: u64, bytes: u64, lane: usize) -> Result<u64, Refusal> {
        let each = (self.local.len() / LANES) as u64;
        check_range(offset, bytes, each, "local")?;
        Ok(each * lane as u64 + offset)
    }

    pub(super) fn atomic(
        &mut self,
        cluster: &mut Cluster<'_>,
        atomic: &Atomic,
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(atomic.address);
        let bytes = atomic.kind.bytes();
        let uninitialised = cluster.launch.uninitialised;
        let strong = strong(atomic.order, true, true);
        let shadow = cluster.races.as_ref().map(|races| races.global());
        let mut points = shadow.map(|shadow| shadow.sync());
        let mut global = 0_u32;
        for lane in lanes(mask) {
            let place = Place::of(atomic.space, addresses[lane], self.rank);
            let wide = u64::from(bytes);
            let refuse = |refusal| fault(refusal, "atomic", addresses[lane], wide, pc, lane);
            let by = self.lane(cluster, lane, pc);
            let sources = atomic.sources.map(|s| s.map_or(0, |s| self.value(s, lane)));
            let old = match place.space {
                Space::Global => {
                    global |= 1 << lane;
                    cluster.counters.global_atomics += 1;
                    if cluster.races.is_some() {
                        cluster.checked_global(place.offset, wide).map_err(refuse)?;
                        cluster
                            .race_global(place.offset, wide, Touch::Write, atomic.order, by)
                            .map_err(refuse)?;
                    }
                    let allocation = cluster.checked_global(place.offset, wide).map_err(refuse)?;
                    let offset = place.offset - allocation.address;
                    if atomic.op != AtomicOp::Exchange {
                        check_initialised(allocation, offset, wide, uninitialised)
                            .map_err(refuse)?;
                    }
                    allocation.mark(offset, wide);
                    let new = |old| combine(atomic.op, atomic.kind, old, sources, Space::Global);
                    let old = match bytes {
                        2 => {
                            u64::from(allocation.update(offset, |x: u16| new(u64::from(x)) as u16))
                        }
                        4 => {
                            u64::from(allocation.update(offset, |x: u32| new(u64::from(x)) as u32))
                        }
                        _ => allocation.update(offset, new),
                    };
                    if let (Some(points), Some(strong), Some(races)) =
                        (&mut points, strong, &mut cluster.races)
                    {
                        let strong = strong.of(atomic.op, old, sources);
                        races.synchronise_global(points, place.offset, by.thread, strong);
                    }
                    old
                }
                Space::Shared => {
                    let rank = place.rank as usize;
                    // In bounds before anything is looked up there; as a write, it would count as
                    // written afterwards.
                    let unwritten = cluster.blocks.get_mut(rank).is_some_and(|block| {
                        block.shared.check(place.offset, wide).is_ok()
                            && block.shared.check_written(place.offset, wide).is_err()
                    });
                    cluster
                        .checked_shared(place, wide, Touch::Write, atomic.order, by)
                        .map_err(refuse)?;
                    if unwritten && atomic.op != AtomicOp::Exchange {
                        let text = "no byte of it was written by this block".to_string();
                        return Err(refuse((FaultKind::UninitialisedShared, text)));
                    }
                    let memory = &mut cluster.blocks[rank].shared.bytes;
                    let old = read_word(memory, place.offset, bytes);
                    if let (Some(strong), Some(races)) = (strong, &mut cluster.races) {
                        let strong = strong.of(atomic.op, old, sources);
                        races.synchronise_shared((place.rank, place.offset), by.thread, strong);
                    }
                    let new = combine(atomic.op, atomic.kind, old, sources, Space::Shared);
                    write_word(memory, place.offset, bytes, new);
                    old
                }
                _ => {
                    let text = "atomics work on global and shared memory only".to_string();
                    return Err(refuse((FaultKind::IllegalAddress, text)));
                }
            };
            if let Some(d) = atomic.d {
                self.set(d, lane, old);
            }
        }
        let bytes = u64::from(bytes);
        cluster.count(global, &addresses, 0, &addresses, bytes, Touch::Write);
        Ok(())
    }
}

impl AtomicType {
    /// Bytes of an operand.
    pub fn bytes(self) -> u32 {
        match self {
            Self::U16 | Self::Half(_) => 2,
            Self::U32 | Self::S32 | Self::F32 | Self::Half2(_) => 4,
            Self::U64 | Self::S64 | Self::F64 => 8,
        }
    }
}

#[inline(always)]
pub(super) fn check_alignment(address: u64, bytes: u64) -> Result<(), Refusal> {
    if address & (bytes - 1) == 0 {
        Ok(())
    } else {
        Err((FaultKind::MisalignedAddress, format!("not a multiple of {bytes}")))
    }
}

fn check_range(offset: u64, bytes: u64, size: u64, what: &str) -> Result<(), Refusal> {
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

/// The new value of an atomic operation.
pub(super) fn combine(
    op: AtomicOp,
    kind: AtomicType,
    old: u64,
    [b, c]: [u64; 2],
    space: Space,
) -> u64 {
    let global = space == Space::Global;
    let float32 = |f: fn(f32, f32) -> f32| {
        // The manual: f32 atomics flush subnormals in global memory, not in shared memory.
        let flush = |x: u64| super::float::flush(f32::from_bits(x as u32), global);
        let sum = super::float::canonical(f(flush(old), flush(b)));
        u64::from(super::float::flush(sum, global).to_bits())
    };
    match (op, kind) {
        (AtomicOp::Exchange, _) => b,
        (AtomicOp::CompareExchange, _) => {
            if old == b {
                c
            } else {
                old
            }
        }
        (AtomicOp::And, _) => old & b,
        (AtomicOp::Or, _) => old | b,
        (AtomicOp::Xor, _) => old ^ b,
        (AtomicOp::Inc, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (AtomicOp::Dec, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        (AtomicOp::Add, AtomicType::F32) => float32(|x, y| x + y),
        (AtomicOp::Add, AtomicType::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (AtomicOp::Add, AtomicType::Half(kind)) => u64::from(add_half(kind, old as u16, b as u16)),
        (AtomicOp::Add, AtomicType::Half2(kind)) => {
            let low = add_half(kind, old as u16, b as u16);
            let high = add_half(kind, (old >> 16) as u16, (b >> 16) as u16);
            u64::from(high) << 16 | u64::from(low)
        }
        (AtomicOp::Add, AtomicType::U16 | AtomicType::U32 | AtomicType::S32) => {
            u64::from((old as u32).wrapping_add(b as u32))
        }
        (AtomicOp::Add, AtomicType::U64 | AtomicType::S64) => old.wrapping_add(b),
        (AtomicOp::Min, AtomicType::S32) => u64::from((old as i32).min(b as i32) as u32),
        (AtomicOp::Max, AtomicType::S32) => u64::from((old as i32).max(b as i32) as u32),
        (AtomicOp::Min, AtomicType::S64) => (old as i64).min(b as i64) as u64,
        (AtomicOp::Max, AtomicType::S64) => (old as i64).max(b as i64) as u64,
        // The decoder lets no float through here.
        (AtomicOp::Min, _) => old.min(b),
        (AtomicOp::Max, _) => old.max(b),
    }
}

impl SharedMemory {
    /// In bounds of one variable, and aligned.
    pub(super) fn check(&mut self, offset: u64, bytes: u64) -> Result<(), Refusal> {
        check_alignment(offset, bytes)?;
        let inside = |variable: &crate::ptx::ir::SharedVariable| {
            offset >= variable.offset
                && bytes <= variable.bytes
                && offset - variable.offset <= variable.bytes - bytes
        };
        if self.variables.get(self.recent).is_some_and(inside) {
            return Ok(());
        }
        match self.variables.iter().position(inside) {
            Some(position) => {
                self.recent = position;
                Ok(())
            }
            None => Err((FaultKind::IllegalAddress, self.describe(offset, bytes))),
        }
    }

    fn describe(&self, offset: u64, bytes: u64) -> String {
        if offset >> RANK_SHIFT != 0 && offset >> 32 == 0 {
            return "an address of the cluster, which needs .shared::cluster (or nonsense)".into();
        }
        let before = self.variables.iter().rev().find(|variable| variable.offset <= offset);
        match before {
            Some(variable) => format!(
                "reaching {} bytes past the end of shared {} ({} bytes)",
                offset.saturating_add(bytes).saturating_sub(variable.offset + variable.bytes),
                variable.name,
                variable.bytes
            ),
            None => "the kernel has no shared memory there".into(),
        }
    }

    /// Bits of the shadow for an aligned access: place and mask.
    pub(super) fn shadow(offset: u64, bytes: u64) -> (usize, u64) {
        ((offset / 64) as usize, ((1 << bytes) - 1) << (offset % 64))
    }

    /// Words of a bitmap that a stretch of any length covers: place and mask.
    fn words(offset: u64, bytes: u64) -> impl Iterator<Item = (usize, u64)> {
        let end = offset + bytes;
        (offset / 64..end.div_ceil(64)).map(move |word| {
            let first = offset.max(word * 64) - word * 64;
            let last = end.min(word * 64 + 64) - word * 64;
            (word as usize, (u64::MAX >> (64 - (last - first))) << first)
        })
    }

    /// A stretch of any length is in bounds of one variable.
    pub(super) fn check_range(&self, offset: u64, bytes: u64) -> Result<(), Refusal> {
        let inside = |variable: &crate::ptx::ir::SharedVariable| {
            offset >= variable.offset
                && bytes <= variable.bytes
                && offset - variable.offset <= variable.bytes - bytes
        };
        if self.variables.iter().any(inside) {
            Ok(())
        } else {
            Err((FaultKind::IllegalAddress, self.describe(offset, bytes)))
        }
    }

    /// A stretch of any length was written.
    pub(super) fn check_all_written(&self, offset: u64, bytes: u64) -> Result<(), Refusal> {
        let missing: u32 = Self::words(offset, bytes)
            .map(|(at, mask)| (mask & !self.written[at]).count_ones())
            .sum();
        if missing == 0 {
            return Ok(());
        }
        let text = format!("{missing} of them were not written by this block");
        Err((FaultKind::UninitialisedShared, text))
    }

    pub(super) fn mark_all_written(&mut self, offset: u64, bytes: u64) {
        for (at, mask) in Self::words(offset, bytes) {
            self.written[at] |= mask;
        }
    }

    /// A stretch holds nothing that was written.
    pub(super) fn forget(&mut self, offset: u64, bytes: u64) {
        for (at, mask) in Self::words(offset, bytes) {
            self.written[at] &= !mask;
        }
    }

    /// A copy under way uses a stretch.
    pub(super) fn occupy(&mut self, offset: u64, bytes: u64) {
        for (at, mask) in Self::words(offset, bytes) {
            self.busy[at] |= mask;
        }
    }

    /// It does no longer.
    pub(super) fn vacate(&mut self, offset: u64, bytes: u64) {
        for (at, mask) in Self::words(offset, bytes) {
            self.busy[at] &= !mask;
        }
    }

    pub(super) fn mark_written(&mut self, offset: u64, bytes: u64) {
        let (at, mask) = Self::shadow(offset, bytes);
        self.written[at] |= mask;
    }

    fn check_written(&self, offset: u64, bytes: u64) -> Result<(), Refusal> {
        let (at, mask) = Self::shadow(offset, bytes);
        if self.written[at] & mask == mask {
            return Ok(());
        }
        let missing = (mask & !self.written[at]).count_ones();
        let text = format!("{missing} of them were not written by this block");
        Err((FaultKind::UninitialisedShared, text))
    }
}
