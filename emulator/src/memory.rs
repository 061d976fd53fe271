//! Device memory: virtual addresses, the allocations behind them, and what became of freed ones.
//!
//! Addresses are never used twice and lie far apart, so that a stray access never lands in another
//! allocation, and a freed one is recognised for ever.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What allocations are aligned to, as on a GPU.
const ALIGN: u64 = 512;
/// Addresses between two allocations at least.
const GUARD_BYTES: u64 = 64 << 10;
/// Freed allocations that are remembered, those of the highest addresses: mostly the last ones.
const REMEMBERED: usize = 4096;

/// Host memory of one allocation, which several workers may access at the same time.
#[derive(Debug)]
struct Backing {
    /// What was allocated, and how.
    base: NonNull<u8>,
    layout: Layout,
    /// Its first byte that is aligned to ALIGN; `bytes` follow.
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the pointer is owned, and after construction memory is only touched through atomics.
unsafe impl Send for Backing {}
// SAFETY: as above: every access through a shared reference is atomic.
unsafe impl Sync for Backing {}

impl Backing {
    /// Holds the complement of device memory: fresh pages, which the system hands out zeroed and only
    /// when they are touched, are full of 0xFF to the device, NaN in every float format. So an
    /// allocation of which little is used costs little, however large it is.
    fn new(bytes: u64) -> Option<Self> {
        let align = ALIGN as usize;
        let bytes = usize::try_from(bytes).ok()?.max(1).checked_next_multiple_of(align)?;
        // Zeroed memory of a larger alignment would be written to be zero.
        let layout = Layout::from_size_align(bytes.checked_add(align)?, 16).ok()?;
        // SAFETY: the layout's size is at least ALIGN.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        // SAFETY: less than ALIGN further, there are `bytes` more.
        let start = unsafe { base.add(base.align_offset(align)) };
        Some(Self { base, layout, start, bytes })
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// An unsigned integer that device memory is read and written in.
///
/// Plain device accesses are relaxed atomics: kernels may race, as they may on a GPU, and a race in
/// the kernel must not become undefined behaviour of the emulator.
pub trait Word: Copy + Eq {
    /// The atomic of the same size.
    type Atomic;
    /// Size in bytes.
    const BYTES: usize;
    /// Relaxed load of a complement.
    fn load(from: &Self::Atomic) -> Self;
    /// Relaxed store as a complement.
    fn store(to: &Self::Atomic, value: Self);
    /// Replaces the value, kept as a complement, by a function of it and returns the old one.
    fn update(at: &Self::Atomic, f: impl FnMut(Self) -> Self) -> Self;
}

macro_rules! word {
    ($word:ty, $atomic:ty) => {
        impl Word for $word {
            type Atomic = $atomic;
            const BYTES: usize = size_of::<$word>();
            #[inline(always)]
            fn load(from: &$atomic) -> Self {
                !from.load(Ordering::Relaxed)
            }
            #[inline(always)]
            fn store(to: &$atomic, value: Self) {
                to.store(!value, Ordering::Relaxed);
            }
            fn update(at: &$atomic, mut f: impl FnMut(Self) -> Self) -> Self {
                let mut old = at.load(Ordering::Relaxed);
                loop {
                    let new = !f(!old);
                    match at.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
                        Ok(_) => return !old,
                        Err(now) => old = now,
                    }
                }
            }
        }
    };
}

word!(u8, AtomicU8);
word!(u16, AtomicU16);
word!(u32, AtomicU32);
word!(u64, AtomicU64);

/// A live allocation.
#[derive(Debug)]
pub struct Allocation {
    /// Device address of its first byte.
    pub address: u64,
    /// Bytes that were asked for.
    pub bytes: u64,
    /// `allocation 3` or `variable counter`
    pub label: String,
    backing: Backing,
    /// A bit for each byte that was written. Fresh zero pages cost nothing.
    written: Box<[AtomicU64]>,
}

/// So many zeros, from pages that the system hands out when they are touched.
pub(crate) fn zeroed_bits(words: usize) -> Box<[AtomicU64]> {
    let zeros: Box<[u64]> = vec![0; words].into();
    // SAFETY: AtomicU64 has the layout of u64, and the box is owned.
    unsafe { Box::from_raw(Box::into_raw(zeros) as *mut [AtomicU64]) }
}

impl Allocation {
    /// The bits of an aligned access of at most 64 bytes: place and mask.
    #[inline(always)]
    fn bits(offset: u64, bytes: u64) -> (usize, u64) {
        ((offset / 64) as usize, (u64::MAX >> (64 - bytes)) << (offset % 64))
    }

    /// Bytes of an aligned access that nobody wrote.
    #[inline(always)]
    pub fn unwritten(&self, offset: u64, bytes: u64) -> u32 {
        let (at, mask) = Self::bits(offset, bytes);
        (mask & !self.written[at].load(Ordering::Relaxed)).count_ones()
    }

    /// The bytes of an aligned access are written.
    #[inline(always)]
    pub fn mark(&self, offset: u64, bytes: u64) {
        let (at, mask) = Self::bits(offset, bytes);
        // Most are already: a read is cheaper than an atomic update.
        if self.written[at].load(Ordering::Relaxed) & mask != mask {
            self.written[at].fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// A stretch of any length is written.
    pub fn mark_all(&self, offset: u64, bytes: u64) {
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let next = (at / 64 + 1) * 64;
            self.mark(at, next.min(end) - at);
            at = next;
        }
    }

    /// The first byte of a stretch that nobody wrote.
    pub fn first_unwritten(&self, offset: u64, bytes: u64) -> Option<u64> {
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let next = (at / 64 + 1) * 64;
            let (word, mask) = Self::bits(at, next.min(end) - at);
            let missing = mask & !self.written[word].load(Ordering::Relaxed);
            if missing != 0 {
                return Some(at / 64 * 64 + u64::from(missing.trailing_zeros()));
            }
            at = next;
        }
        None
    }

    /// A copy of `from`'s bytes is as written as they are.
    fn mark_like(&self, offset: u64, from: &Self, from_offset: u64, bytes: u64) {
        for at in 0..bytes {
            if from.unwritten(from_offset + at, 1) == 0 {
                self.mark(offset + at, 1);
            }
        }
    }

    /// Whether an access lies within it.
    #[inline(always)]
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        address >= self.address
            && bytes <= self.bytes
            && address - self.address <= self.bytes - bytes
    }

    #[inline(always)]
    fn atomic<W: Word>(&self, offset: u64) -> &W::Atomic {
        let offset = offset as usize;
        assert!(offset + W::BYTES <= self.backing.bytes && offset.is_multiple_of(W::BYTES));
        // SAFETY: in bounds and, as the start is aligned to ALIGN, aligned; atomics allow all bit
        // patterns, and all accesses to this memory are atomic.
        unsafe { &*self.backing.start.as_ptr().add(offset).cast::<W::Atomic>() }
    }

    /// Reads at an offset that is a multiple of the word's size.
    #[inline(always)]
    pub fn load<W: Word>(&self, offset: u64) -> W {
        W::load(self.atomic::<W>(offset))
    }

    /// Writes at an offset that is a multiple of the word's size.
    #[inline(always)]
    pub fn store<W: Word>(&self, offset: u64, value: W) {
        W::store(self.atomic::<W>(offset), value);
    }

    /// Atomically replaces a word by a function of it, returns the old one.
    pub fn update<W: Word>(&self, offset: u64, f: impl FnMut(W) -> W) -> W {
        W::update(self.atomic::<W>(offset), f)
    }

    /// Copies into it.
    pub fn write(&self, offset: u64, from: &[u8]) {
        self.mark_all(offset, from.len() as u64);
        self.store_all(offset, from);
    }

    /// Copies into it without marking it as written.
    fn store_all(&self, offset: u64, from: &[u8]) {
        let to_boundary = (offset.next_multiple_of(8) - offset).min(from.len() as u64) as usize;
        let (head, rest) = from.split_at(to_boundary);
        let (words, tail) = rest.as_chunks::<8>();
        for (at, byte) in (offset..).zip(head) {
            self.store(at, *byte);
        }
        let offset = offset + head.len() as u64;
        for (at, word) in (offset..).step_by(8).zip(words) {
            self.store(at, u64::from_le_bytes(*word));
        }
        for (at, byte) in (offset + 8 * words.len() as u64..).zip(tail) {
            self.store(at, *byte);
        }
    }

    /// Copies from another allocation, what nobody wrote included.
    pub fn copy_from(&self, offset: u64, from: &Self, from_offset: u64, bytes: u64) {
        let mut buffer = vec![0; bytes as usize];
        from.read(from_offset, &mut buffer);
        self.store_all(offset, &buffer);
        if from.first_unwritten(from_offset, bytes).is_none() {
            self.mark_all(offset, bytes);
        } else {
            self.mark_like(offset, from, from_offset, bytes);
        }
    }

    /// Copies out of it.
    pub fn read(&self, offset: u64, to: &mut [u8]) {
        let to_boundary = (offset.next_multiple_of(8) - offset).min(to.len() as u64) as usize;
        let (head, rest) = to.split_at_mut(to_boundary);
        for (at, byte) in (offset..).zip(head) {
            *byte = self.load(at);
        }
        let offset = offset + to_boundary as u64;
        let (words, tail) = rest.as_chunks_mut::<8>();
        for (at, word) in (offset..).step_by(8).zip(words.iter_mut()) {
            *word = self.load::<u64>(at).to_le_bytes();
        }
        for (at, byte) in (offset + 8 * words.len() as u64..).zip(tail) {
            *byte = self.load(at);
        }
    }
}

/// The live allocations at one moment, by address.
#[derive(Debug, Clone, Default)]
pub struct Table {
    live: Vec<Arc<Allocation>>,
}

impl Table {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Place of the last allocation that starts at or before an address.
    pub fn position(&self, address: u64) -> Option<usize> {
        self.live.partition_point(|a| a.address <= address).checked_sub(1)
    }

    /// The allocation that holds all of an access.
    pub fn find(&self, address: u64, bytes: u64) -> Option<&Arc<Allocation>> {
        self.position(address).map(|at| &self.live[at]).filter(|a| a.contains(address, bytes))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Allocation> {
        self.live.iter().map(AsRef::as_ref)
    }

    /// By place.
    #[inline(always)]
    pub fn get(&self, position: usize) -> Option<&Allocation> {
        self.live.get(position).map(AsRef::as_ref)
    }
}

#[derive(Debug)]
struct Freed {
    bytes: u64,
    label: String,
}

#[derive(Debug)]
struct State {
    /// Shared with launches in progress, which see the table as it was when they began.
    table: Arc<Table>,
    /// Addresses that were given out before their memory is there: bytes by address.
    reserved: BTreeMap<u64, u64>,
    /// By address.
    freed: BTreeMap<u64, Freed>,
    next_address: u64,
    allocations: u64,
    live_bytes: u64,
}

/// Why an allocation cannot be made at its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplaced {
    /// It is there already.
    Live,
    /// The host has no memory left.
    NoHostMemory,
}

/// Memory of one context.
#[derive(Debug)]
pub struct Memory {
    state: Mutex<State>,
    limit: u64,
}

impl Memory {
    /// Empty memory whose addresses start at `base`.
    pub fn new(base: u64, limit: u64) -> Self {
        let state = State {
            table: Arc::default(),
            reserved: BTreeMap::new(),
            freed: BTreeMap::new(),
            next_address: base + GUARD_BYTES,
            allocations: 0,
            live_bytes: 0,
        };
        Self { state: Mutex::new(state), limit }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is consistent between any two statements that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh allocation full of 0xFF, or nothing if memory is exhausted.
    pub fn allocate(&self, bytes: u64, label: Option<String>) -> Option<u64> {
        let address = self.reserve(bytes)?;
        self.place(address, bytes, label).ok().map(|()| address)
    }

    /// An address for an allocation that `place` makes later, or nothing if memory is exhausted.
    pub fn reserve(&self, bytes: u64) -> Option<u64> {
        let mut state = self.state();
        let reserved: u64 = state.reserved.values().sum();
        if bytes > self.limit.saturating_sub(state.live_bytes + reserved) {
            return None;
        }
        let address = state.next_address;
        state.next_address += bytes.next_multiple_of(ALIGN) + GUARD_BYTES;
        state.reserved.insert(address, bytes);
        Some(address)
    }

    /// Gives up what `reserve` gave.
    pub fn cancel(&self, address: u64) {
        self.state().reserved.remove(&address);
    }

    /// Makes the allocation at an address that was reserved once. A graph does so at each launch.
    pub fn place(&self, address: u64, bytes: u64, label: Option<String>) -> Result<(), Unplaced> {
        let backing = Backing::new(bytes).ok_or(Unplaced::NoHostMemory)?;
        let mut state = self.state();
        let at = state.table.position(address).map_or(0, |position| {
            if state.table.live[position].address == address { usize::MAX } else { position + 1 }
        });
        if at == usize::MAX {
            return Err(Unplaced::Live);
        }
        state.reserved.remove(&address);
        state.freed.remove(&address);
        state.allocations += 1;
        state.live_bytes += bytes;
        let label = label.unwrap_or_else(|| format!("allocation {}", state.allocations));
        let written = zeroed_bits(bytes.div_ceil(64) as usize);
        let allocation = Arc::new(Allocation { address, bytes, label, backing, written });
        Arc::make_mut(&mut state.table).live.insert(at, allocation);
        Ok(())
    }

    /// Whether an access lies in a live allocation or in one that is reserved.
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        let state = self.state();
        let reserved = state.reserved.range(..=address).next_back();
        state.table.find(address, bytes).is_some()
            || reserved
                .is_some_and(|(&start, &size)| bytes <= size && address - start <= size - bytes)
    }

    /// Whether an allocation starts here, live or reserved.
    pub fn starts(&self, address: u64) -> bool {
        let state = self.state();
        let live = state.table.position(address).map(|at| state.table.live[at].address);
        live == Some(address) || state.reserved.contains_key(&address)
    }

    /// Frees the allocation that starts at an address; false if there is none.
    pub fn free(&self, address: u64) -> bool {
        let mut state = self.state();
        let Some(position) = state.table.position(address) else {
            return false;
        };
        if state.table.live[position].address != address {
            return false;
        }
        let allocation = Arc::make_mut(&mut state.table).live.remove(position);
        state.live_bytes -= allocation.bytes;
        let freed = Freed { bytes: allocation.bytes, label: allocation.label.clone() };
        state.freed.insert(address, freed);
        if state.freed.len() > REMEMBERED {
            state.freed.pop_first();
        }
        true
    }

    /// The live allocations now.
    pub fn table(&self) -> Arc<Table> {
        self.state().table.clone()
    }

    /// Free and total bytes.
    pub fn free_and_total(&self) -> (u64, u64) {
        let state = self.state();
        let reserved: u64 = state.reserved.values().sum();
        (self.limit.saturating_sub(state.live_bytes + reserved), self.limit)
    }

    /// Where an address lies relative to allocations, for reports.
    pub fn describe(&self, address: u64, bytes: u64) -> String {
        let state = self.state();
        if address == 0 {
            return "a null pointer".into();
        }
        let reserved = state.reserved.range(..=address).next_back();
        if let Some((start, size)) = reserved.filter(|(start, size)| address - *start < **size) {
            return format!(
                "{} bytes into {size} bytes at {start:#x} of a stream-ordered allocation that its \
                 stream has not reached",
                address - start
            );
        }
        let freed = state.freed.range(..=address).next_back();
        if let Some((start, freed)) =
            freed.filter(|(start, freed)| address - *start < freed.bytes.max(1))
        {
            return format!(
                "{} bytes into {}, {} bytes at {start:#x}, which was freed",
                address - start,
                freed.label,
                freed.bytes,
            );
        }
        let nearest = state.table.live.iter().min_by_key(|a| {
            let end = a.address + a.bytes;
            if address < a.address { a.address - address } else { address.saturating_sub(end) }
        });
        match nearest {
            Some(a) if a.contains(address, bytes) => format!(
                "{} bytes into {}, {} bytes at {:#x}",
                address - a.address,
                a.label,
                a.bytes,
                a.address
            ),
            Some(a) if address < a.address && a.address - address <= GUARD_BYTES => format!(
                "{} bytes before {}, {} bytes at {:#x}",
                a.address - address,
                a.label,
                a.bytes,
                a.address
            ),
            Some(a) if address >= a.address && address - a.address <= a.bytes + GUARD_BYTES => {
                let beyond = address + bytes - (a.address + a.bytes);
                format!(
                    "reaching {beyond} bytes past the end of {}, {} bytes at {:#x}",
                    a.label, a.bytes, a.address
                )
            }
            _ => "not a device address: near no allocation, live or freed (a host pointer?)".into(),
        }
    }
}
