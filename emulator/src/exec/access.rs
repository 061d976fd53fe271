//! Loads, stores and atomics of a warp, and the checks on each address.

use super::alu::{LANES, add_half};
use super::block::{Block, SharedMemory};
use super::warp::{Warp, lanes};
use crate::fault::{Fault, FaultKind};
use crate::memory::{Allocation, Table, Word};
use crate::ptx::ir::{
    Access, Address, Atomic, AtomicOp, AtomicType, LOCAL_WINDOW, PARAM_WINDOW, Register,
    SHARED_WINDOW, Slot, Space, WINDOW_BYTES,
};

/// Where an address lies: its space, and its offset there (the address itself in global space).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    space: Space,
    offset: u64,
}

impl Place {
    #[inline(always)]
    fn of(space: Space, address: u64) -> Self {
        let within = |window: u64| address.wrapping_sub(window);
        match space {
            Space::Global | Space::Const => Self { space: Space::Global, offset: address },
            Space::Shared => Self { space, offset: address },
            Space::Local => Self { space, offset: within(LOCAL_WINDOW) },
            Space::Param => Self { space, offset: within(PARAM_WINDOW) },
            Space::Generic => [
                (Space::Shared, SHARED_WINDOW),
                (Space::Local, LOCAL_WINDOW),
                (Space::Param, PARAM_WINDOW),
            ]
            .into_iter()
            .find(|(_, window)| within(*window) < WINDOW_BYTES)
            .map_or(
                Self { space: Space::Global, offset: address },
                |(space, window)| Self { space, offset: within(window) },
            ),
        }
    }
}

/// The fault's kind and text, before it is known whose it is.
type Refusal = (FaultKind, String);

/// 32-byte sectors that the lanes' accesses touch. Naturally aligned accesses of at most 16 bytes
/// touch one each.
fn sectors(addresses: &[u64; LANES], mask: u32) -> u64 {
    let mut touched = [0_u64; LANES];
    let mut count = 0;
    let mut sorted = true;
    for lane in lanes(mask) {
        let sector = addresses[lane] / 32;
        if count > 0 && touched[count - 1] == sector {
            continue;
        }
        sorted &= count == 0 || touched[count - 1] < sector;
        touched[count] = sector;
        count += 1;
    }
    if sorted {
        return count as u64;
    }
    touched[..count].sort_unstable();
    1 + touched[..count].windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
}

fn bytes_of<const N: usize>(memory: &[u8], offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&memory[offset as usize..][..N]);
    bytes
}

fn read_word(memory: &[u8], offset: u64, bytes: u32) -> u64 {
    match bytes {
        1 => u64::from(memory[offset as usize]),
        2 => u64::from(u16::from_le_bytes(bytes_of(memory, offset))),
        4 => u64::from(u32::from_le_bytes(bytes_of(memory, offset))),
        _ => u64::from_le_bytes(bytes_of(memory, offset)),
    }
}

fn write_word(memory: &mut [u8], offset: u64, bytes: u32, value: u64) {
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
    fn find(&mut self, address: u64, bytes: u64) -> Option<&'l Allocation> {
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

impl Warp {
    #[inline(always)]
    fn addresses(&self, address: Address) -> [u64; LANES] {
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
            .filter(|&lane| Place::of(Space::Generic, row[lane]).space == space)
            .fold(0, |bits, lane| bits | 1 << lane);
        self.regs.write_pred(d, mask, bits);
    }

    pub(super) fn load(
        &mut self,
        block: &mut Block<'_>,
        access: &Access,
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(access.address);
        let size = access.element_bytes;
        let bytes = u64::from(size) * access.registers.len() as u64;
        let mut global = 0_u32;
        for lane in lanes(mask) {
            let place = Place::of(access.space, addresses[lane]);
            let refuse = |refusal| fault(refusal, "read", addresses[lane], bytes, pc, lane);
            match place.space {
                Space::Global => {
                    global |= 1 << lane;
                    let allocation = checked_global(block, place.offset, bytes).map_err(refuse)?;
                    let offset = place.offset - allocation.address;
                    match size {
                        1 => self.load_words::<u8>(allocation, offset, access, lane),
                        2 => self.load_words::<u16>(allocation, offset, access, lane),
                        4 => self.load_words::<u32>(allocation, offset, access, lane),
                        _ => self.load_words::<u64>(allocation, offset, access, lane),
                    }
                }
                Space::Shared => {
                    block.shared.check(place.offset, bytes).map_err(refuse)?;
                    block.shared.check_written(place.offset, bytes).map_err(refuse)?;
                    self.load_bytes(&block.shared.bytes, place.offset, access, lane);
                }
                Space::Local => {
                    let start = self.local_place(place.offset, bytes, lane).map_err(refuse)?;
                    let local = std::mem::take(&mut self.local);
                    self.load_bytes(&local, start, access, lane);
                    self.local = local;
                }
                Space::Param => {
                    let parameters = block.launch.parameters;
                    check_range(place.offset, bytes, parameters.len() as u64, "parameter")
                        .map_err(refuse)?;
                    self.load_bytes(parameters, place.offset, access, lane);
                }
                Space::Generic | Space::Const => unreachable!("resolved by Place::of"),
            }
        }
        // Constants are not traffic: they come from a cache of their own.
        if access.space != Space::Const {
            block.counters.global_bytes_read += bytes * u64::from(global.count_ones());
            block.counters.global_sectors_read += sectors(&addresses, global);
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
        block: &mut Block<'_>,
        access: &Access,
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(access.address);
        let size = access.element_bytes;
        let bytes = u64::from(size) * access.registers.len() as u64;
        let mut global = 0_u32;
        for lane in lanes(mask) {
            let place = Place::of(access.space, addresses[lane]);
            let refuse = |refusal| fault(refusal, "write", addresses[lane], bytes, pc, lane);
            match place.space {
                Space::Global => {
                    global |= 1 << lane;
                    let allocation = checked_global(block, place.offset, bytes).map_err(refuse)?;
                    let offset = place.offset - allocation.address;
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
                    block.shared.check(place.offset, bytes).map_err(refuse)?;
                    block.shared.mark_written(place.offset, bytes);
                    self.store_bytes(&mut block.shared.bytes, place.offset, access, lane);
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
                Space::Generic | Space::Const => unreachable!("resolved by Place::of"),
            }
        }
        block.counters.global_bytes_written += bytes * u64::from(global.count_ones());
        block.counters.global_sectors_written += sectors(&addresses, global);
        Ok(())
    }

    fn store_bytes(&self, memory: &mut [u8], offset: u64, access: &Access, lane: usize) {
        let size = access.element_bytes;
        for (at, register) in (offset..).step_by(size as usize).zip(&access.registers) {
            if let Some(register) = *register {
                write_word(memory, at, size, self.value(register, lane));
            }
        }
    }

    /// Place in `self.local` of a lane's local address.
    fn local_place(&self, offset: u64, bytes: u64, lane: usize) -> Result<u64, Refusal> {
        let each = (self.local.len() / LANES) as u64;
        check_range(offset, bytes, each, "local")?;
        Ok(each * lane as u64 + offset)
    }

    pub(super) fn atomic(
        &mut self,
        block: &mut Block<'_>,
        atomic: &Atomic,
        mask: u32,
        pc: u32,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(atomic.address);
        let bytes: u32 = match atomic.kind {
            AtomicType::U16 | AtomicType::Half(_) => 2,
            AtomicType::U32 | AtomicType::S32 | AtomicType::F32 | AtomicType::Half2(_) => 4,
            AtomicType::U64 | AtomicType::S64 | AtomicType::F64 => 8,
        };
        for lane in lanes(mask) {
            let place = Place::of(atomic.space, addresses[lane]);
            let wide = u64::from(bytes);
            let refuse = |refusal| fault(refusal, "atomic", addresses[lane], wide, pc, lane);
            let sources = atomic.sources.map(|s| s.map_or(0, |s| self.value(s, lane)));
            let old = match place.space {
                Space::Global => {
                    block.counters.global_atomics += 1;
                    let allocation = checked_global(block, place.offset, wide).map_err(refuse)?;
                    let offset = place.offset - allocation.address;
                    let new = |old| combine(atomic, old, sources, true);
                    match bytes {
                        2 => {
                            u64::from(allocation.update(offset, |x: u16| new(u64::from(x)) as u16))
                        }
                        4 => {
                            u64::from(allocation.update(offset, |x: u32| new(u64::from(x)) as u32))
                        }
                        _ => allocation.update(offset, new),
                    }
                }
                Space::Shared => {
                    block.shared.check(place.offset, wide).map_err(refuse)?;
                    block.shared.check_written(place.offset, wide).map_err(refuse)?;
                    let old = read_word(&block.shared.bytes, place.offset, bytes);
                    let new = combine(atomic, old, sources, false);
                    write_word(&mut block.shared.bytes, place.offset, bytes, new);
                    old
                }
                Space::Local | Space::Param | Space::Generic | Space::Const => {
                    let text = "atomics work on global and shared memory only".to_string();
                    return Err(refuse((FaultKind::IllegalAddress, text)));
                }
            };
            if let Some(d) = atomic.d {
                self.set(d, lane, old);
            }
        }
        Ok(())
    }
}

/// The allocation of a global access that is aligned and in bounds.
#[inline(always)]
fn checked_global<'l>(
    block: &mut Block<'l>,
    address: u64,
    bytes: u64,
) -> Result<&'l Allocation, Refusal> {
    check_alignment(address, bytes)?;
    match block.recent.find(address, bytes) {
        Some(allocation) => Ok(allocation),
        None => Err((FaultKind::IllegalAddress, block.launch.memory.describe(address, bytes))),
    }
}

#[inline(always)]
fn check_alignment(address: u64, bytes: u64) -> Result<(), Refusal> {
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

fn fault(
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
fn combine(atomic: &Atomic, old: u64, [b, c]: [u64; 2], global: bool) -> u64 {
    let float32 = |f: fn(f32, f32) -> f32| {
        // The manual: f32 atomics flush subnormals in global memory, not in shared memory.
        let flush = |x: u64| super::float::flush(f32::from_bits(x as u32), global);
        let sum = super::float::canonical(f(flush(old), flush(b)));
        u64::from(super::float::flush(sum, global).to_bits())
    };
    match (atomic.op, atomic.kind) {
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
    fn check(&mut self, offset: u64, bytes: u64) -> Result<(), Refusal> {
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
        let before = self.variables.iter().rev().find(|variable| variable.offset <= offset);
        match before {
            Some(variable) => format!(
                "reaching {} bytes past the end of shared {} ({} bytes)",
                (offset + bytes).saturating_sub(variable.offset + variable.bytes),
                variable.name,
                variable.bytes
            ),
            None => "the kernel has no shared memory there".into(),
        }
    }

    /// Bits of the shadow for an aligned access: place and mask.
    fn shadow(offset: u64, bytes: u64) -> (usize, u64) {
        ((offset / 64) as usize, ((1 << bytes) - 1) << (offset % 64))
    }

    fn mark_written(&mut self, offset: u64, bytes: u64) {
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
