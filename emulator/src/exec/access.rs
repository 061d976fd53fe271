//! Loads, stores and atomics of a warp.

use super::alu::{LANES, add_half};
use super::block::Cluster;
use super::checks::{Lane, Place, Refusal, check_initialised, check_range, fault};
use super::race::{Strong, Touch};
use super::traffic::footprint;
use super::warp::{Warp, lanes};
use crate::fault::{Fault, FaultKind};
use crate::memory::{Allocation, Word};
use crate::ptx::ir::{
    Access, Address, Atomic, AtomicOp, AtomicType, MemoryOrder, Register, Slot, Space,
};

fn bytes_of<const N: usize>(memory: &[u8], offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&memory[offset as usize..][..N]);
    bytes
}

#[inline]
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
        let mut held = None;
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
                            .race_global(
                                &mut held,
                                (place.offset, bytes),
                                Touch::Read,
                                access.order,
                                by,
                            )
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
        let mut held = None;
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
                            &mut held,
                            (place.offset, bytes),
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
        let mut held = None;
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
                            .race_global(
                                &mut held,
                                (place.offset, wide),
                                Touch::Write,
                                atomic.order,
                                by,
                            )
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
