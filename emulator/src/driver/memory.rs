//! `cuMem*`, `cuMemcpy*`, `cuMemset*`, `cuPointer*`.

use std::alloc::Layout;
use std::ffi::c_void;
use std::sync::Arc;

use super::device::POOL;
use super::state::{
    self, Pinned, address_context, check_device, current, objects, scheduler, uncaptured,
};
use super::{Handle, Out, Result, api};
use crate::context::Context;
use crate::error::Error;
use crate::stream::{Kind, Stream, Work};

/// One end of a copy.
#[derive(Debug, Clone)]
enum Place {
    /// Memory of the caller.
    Host(usize),
    /// A copy of memory that the caller may change as soon as the call is over.
    Staged(Arc<[u8]>),
    Device(Arc<Context>, u64),
}

/// Rows of a copy, and the distance between them on both sides.
#[derive(Debug, Clone, Copy)]
struct Extent {
    width: usize,
    height: usize,
    to_pitch: usize,
    from_pitch: usize,
}

impl Extent {
    fn linear(bytes: usize) -> Self {
        Self { width: bytes, height: 1, to_pitch: bytes, from_pitch: bytes }
    }

    /// From the first byte to the last.
    fn span(self, pitch: usize) -> usize {
        if self.width == 0 || self.height == 0 {
            return 0;
        }
        pitch * (self.height - 1) + self.width
    }
}

/// Whether a call comes back before its copy is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Return {
    Early,
    Done,
}

impl Place {
    /// Where a pointer leads that may be either's.
    fn unified(pointer: usize) -> Self {
        match objects().context_of(pointer as u64) {
            Some(context) => Self::Device(context, pointer as u64),
            None => Self::Host(pointer),
        }
    }

    fn device(address: u64) -> Result<Self> {
        Ok(Self::Device(address_context(address)?, address))
    }

    fn host<T>(pointer: *mut T) -> Self {
        Self::Host(pointer as usize)
    }

    fn admit(&self, bytes: usize) -> Result {
        match self {
            Self::Host(0) if bytes > 0 => {
                Err(Error::InvalidValue("a null pointer for host memory".into()))
            }
            Self::Host(_) | Self::Staged(_) => Ok(()),
            Self::Device(context, address) => context.admit_range("copy", *address, bytes as u64),
        }
    }

    fn is_pageable(&self, bytes: usize) -> bool {
        match self {
            Self::Host(start) => objects().pinned_range(*start, bytes).is_none(),
            _ => false,
        }
    }
}

/// Copies one row.
fn copy_row(
    to: &Place,
    to_offset: usize,
    from: &Place,
    from_offset: usize,
    width: usize,
) -> Result {
    let of_host = |start: usize, offset: usize| {
        // SAFETY: whoever submits a copy promises this memory until the copy is done, and uses it
        // for nothing else meanwhile; that is the driver API's contract.
        unsafe { std::slice::from_raw_parts((start + offset) as *const u8, width) }
    };
    match (to, from) {
        (Place::Device(context, address), Place::Host(start)) => {
            context.put(address + to_offset as u64, of_host(*start, from_offset))
        }
        (Place::Device(context, address), Place::Staged(bytes)) => {
            context.put(address + to_offset as u64, &bytes[from_offset..][..width])
        }
        (Place::Device(context, address), Place::Device(source, start)) => {
            let from = start + from_offset as u64;
            context.transfer(address + to_offset as u64, source, from, width as u64)
        }
        (Place::Host(start), Place::Device(context, address)) => {
            // SAFETY: as above.
            let to =
                unsafe { std::slice::from_raw_parts_mut((start + to_offset) as *mut u8, width) };
            context.get(address + from_offset as u64, to)
        }
        (Place::Host(start), Place::Host(source)) => {
            let (to, from) = (start + to_offset, source + from_offset);
            // SAFETY: as above; the two may overlap.
            unsafe { std::ptr::copy(from as *const u8, to as *mut u8, width) };
            Ok(())
        }
        (Place::Host(start), Place::Staged(bytes)) => {
            let from = &bytes[from_offset..][..width];
            // SAFETY: as above.
            unsafe { std::ptr::copy(from.as_ptr(), (start + to_offset) as *mut u8, width) };
            Ok(())
        }
        (Place::Staged(_), _) => Err(Error::InvalidValue("a copy into its own source".into())),
    }
}

/// A copy as a stream's work. Pageable memory is read in the call, and written before it returns;
/// pinned memory when the stream comes to it.
fn copy(to: Place, from: Place, extent: Extent, stream: &Arc<Stream>, back: Return) -> Result {
    let (to_bytes, from_bytes) = (extent.span(extent.to_pitch), extent.span(extent.from_pitch));
    let scheduler = scheduler()?;
    stream.context().admit_copy()?;
    to.admit(to_bytes)?;
    from.admit(from_bytes)?;
    if to_bytes == 0 {
        return Ok(());
    }
    let captured = scheduler.takes_work(stream)?;
    let from_pageable = from.is_pageable(from_bytes);
    let to_pageable = to.is_pageable(to_bytes);
    let to_host = matches!(to, Place::Host(_));
    let from_pinned = matches!(from, Place::Host(_)) && !from_pageable;
    if back == Return::Done {
        scheduler.wait_stream(stream)?;
    }
    let from = match from {
        // A graph's copies read the memory when they run.
        Place::Host(start) if from_pageable && !captured && !scheduler.is_immediate() => {
            // SAFETY: the caller gives memory of at least this size.
            let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, from_bytes) };
            Place::Staged(bytes.into())
        }
        other => other,
    };
    let work = Work::new(Kind::Copy, stream.context(), move || {
        (0..extent.height).try_for_each(|row| {
            copy_row(&to, row * extent.to_pitch, &from, row * extent.from_pitch, extent.width)
        })
    });
    scheduler.submit(stream, work)?;
    if !captured && (to_pageable || back == Return::Done && (to_host || from_pinned)) {
        scheduler.wait_stream(stream)?;
    }
    Ok(())
}

/// A copy in the null stream that is done when the call returns, so far as CUDA promises it.
fn copy_now(to: Place, from: Place, extent: Extent) -> Result {
    uncaptured()?;
    let stream = state::current_entry()?.legacy;
    copy(to, from, extent, &stream, Return::Done)
}

fn copy_later(to: Place, from: Place, extent: Extent, stream: Handle) -> Result {
    let stream = state::stream(stream)?;
    copy(to, from, extent, &stream, Return::Early)
}

/// A memset as a stream's work.
fn fill<const N: usize>(
    to: u64,
    element: [u8; N],
    [width, height, pitch]: [usize; 3],
    stream: &Arc<Stream>,
) -> Result {
    let context = address_context(to)?;
    stream.context().check()?;
    let rows = Extent { width: width * N, height, to_pitch: pitch, from_pitch: 0 };
    context.admit_fill(to, N as u64, (rows.span(pitch) / N) as u64)?;
    if !pitch.is_multiple_of(N) && height > 1 {
        return Err(Error::InvalidValue(format!("a pitch of {pitch} bytes for elements of {N}")));
    }
    if rows.span(pitch) == 0 {
        return Ok(());
    }
    let work = Work::new(Kind::Fill, stream.context(), move || {
        (0..height)
            .try_for_each(|row| context.repeat(to + (row * pitch) as u64, &element, width as u64))
    });
    scheduler()?.submit(stream, work)
}

/// A memset in the null stream. It need not be done when the call returns.
fn fill_now<const N: usize>(to: u64, element: [u8; N], shape: [usize; 3]) -> Result {
    uncaptured()?;
    fill(to, element, shape, &state::current_entry()?.legacy)
}

fn fill_later<const N: usize>(
    to: u64,
    element: [u8; N],
    shape: [usize; 3],
    stream: Handle,
) -> Result {
    fill(to, element, shape, &state::stream(stream)?)
}

fn check_pool(pool: Handle) -> Result {
    let device = pool.wrapping_sub(POOL);
    match i32::try_from(device) {
        Ok(device) => {
            check_device(device).map(|_| ()).map_err(|_| Error::InvalidHandle("memory pool"))
        }
        Err(_) => Err(Error::InvalidHandle("memory pool")),
    }
}

/// Where frees may be waiting in streams, does what is left if memory would not do.
fn make_room(context: &Context, bytes: usize) -> Result {
    if !scheduler()?.is_immediate() && context.memory().free_and_total().0 < bytes as u64 {
        scheduler()?.wait_context(context.id());
    }
    Ok(())
}

fn allocate(bytes: usize) -> Result<u64> {
    uncaptured()?;
    let context = current()?;
    make_room(&context, bytes)?;
    context.allocate(bytes as u64)
}

fn allocate_later(bytes: usize, stream: Handle) -> Result<u64> {
    let stream = state::stream(stream)?;
    let context = stream.context();
    make_room(context, bytes)?;
    let address = context.reserve(bytes as u64)?;
    let work = Work::allocate(context, address, bytes as u64);
    scheduler()?.submit(&stream, work).inspect_err(|_| context.memory().cancel(address))?;
    objects().stream_ordered.insert(address);
    Ok(address)
}

/// Host memory is filled like device memory, so that nobody relies on zeros.
fn allocate_host(bytes: usize, flags: u32) -> Result<usize> {
    uncaptured()?;
    current()?.check()?;
    if bytes == 0 {
        return Err(Error::InvalidValue("an allocation of 0 bytes".into()));
    }
    let layout = Layout::from_size_align(bytes, 4096)
        .map_err(|_| Error::InvalidValue(format!("{bytes} bytes of host memory")))?;
    // SAFETY: the size is not zero.
    let start = unsafe { std::alloc::alloc(layout) };
    if start.is_null() {
        return Err(Error::OutOfMemory(format!("{bytes} bytes of host memory")));
    }
    // SAFETY: just allocated with this size.
    unsafe { start.write_bytes(0xFF, bytes) };
    objects().pinned.insert(start as usize, Pinned { bytes, layout: Some(layout), flags });
    Ok(start as usize)
}

/// Takes pinned memory out of the register, after the work that may use it.
fn unpin(pointer: usize, ours: impl FnOnce(&Pinned) -> Option<Error>) -> Result<Pinned> {
    uncaptured()?;
    let known = objects().pinned.get(&pointer).copied();
    let known = known.ok_or(Error::NotRegistered(pointer))?;
    if let Some(error) = ours(&known) {
        return Err(error);
    }
    scheduler()?.wait_all();
    objects().pinned.remove(&pointer);
    Ok(known)
}

/// `CUDA_MEMCPY2D`
#[repr(C)]
struct CuMemcpy2d {
    from: CuPlace2d,
    to: CuPlace2d,
    width: usize,
    height: usize,
}

/// One half of it.
#[repr(C)]
struct CuPlace2d {
    x: usize,
    y: usize,
    kind: u32,
    host: usize,
    device: u64,
    array: Handle,
    pitch: usize,
}

impl CuPlace2d {
    fn place(&self, width: usize) -> Result<(Place, usize)> {
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        if pitch < self.x + width {
            return Err(Error::InvalidValue(format!(
                "rows of {width} bytes from {} on with a pitch of {pitch}",
                self.x
            )));
        }
        let offset = self.y * pitch + self.x;
        let place = match self.kind {
            1 => Place::Host(self.host + offset),
            2 => Place::device(self.device + offset as u64)?,
            4 => Place::unified(self.device as usize + offset),
            kind => return Err(Error::NotSupported(format!("a copy of memory type {kind}"))),
        };
        Ok((place, pitch))
    }
}

fn rectangle(copy: *const CuMemcpy2d) -> Result<(Place, Place, Extent)> {
    if copy.is_null() {
        return Err(Error::InvalidValue("no description of the copy".into()));
    }
    // SAFETY: the caller gives a description, checked not to be null.
    let copy = unsafe { &*copy };
    let (from, from_pitch) = copy.from.place(copy.width)?;
    let (to, to_pitch) = copy.to.place(copy.width)?;
    Ok((to, from, Extent { width: copy.width, height: copy.height, to_pitch, from_pitch }))
}

/// One attribute of a pointer.
fn pointer_attribute(value: *mut c_void, attribute: i32, address: u64) -> Result {
    let pinned = objects().pinned_range(address as usize, 1);
    let owner = objects().context_of(address);
    let found = owner.and_then(|context| {
        let allocation = context.memory().table().find(address, 1).cloned()?;
        Some((context, allocation))
    });
    let (context, start, bytes) = match (&found, pinned) {
        (Some((context, allocation)), _) => (context.id(), allocation.address, allocation.bytes),
        (None, Some((first, pinned))) => (0, first as u64, pinned.bytes as u64),
        (None, None) => {
            return Err(Error::InvalidValue(format!("{address:#x} is in no allocation")));
        }
    };
    let objects = objects();
    let entry = objects.contexts.iter().find(|(_, e)| e.context.id() == context);
    let (handle, device) = entry.map_or((0, 0), |(handle, entry)| (*handle, entry.device));
    match attribute {
        1 => Out(value.cast()).set(handle), // CONTEXT
        2 => Out(value.cast()).set(if found.is_some() { 2_u32 } else { 1 }), // MEMORY_TYPE
        3 if found.is_some() => Out(value.cast()).set(address), // DEVICE_POINTER
        3 => Err(no_mapping()),
        4 if found.is_none() => Out(value.cast()).set(address), // HOST_POINTER
        4 => Err(Error::InvalidValue(format!("{address:#x} is device memory"))),
        6 => Out(value.cast()).set(1_i32),           // SYNC_MEMOPS
        7 => Out(value.cast()).set(start),           // BUFFER_ID
        8 => Out(value.cast()).set(0_u8),            // IS_MANAGED
        9 => Out(value.cast()).set(device),          // DEVICE_ORDINAL
        11 => Out(value.cast()).set(start),          // RANGE_START_ADDR
        12 => Out(value.cast()).set(bytes as usize), // RANGE_SIZE
        13 => Out(value.cast()).set(1_u8),           // MAPPED
        _ => Err(Error::NotSupported(format!("pointer attribute {attribute}"))),
    }
}

fn no_mapping() -> Error {
    Error::NotSupported("host memory that a device may access (CAN_MAP_HOST_MEMORY is 0)".into())
}

/// Rows are this far apart at least, as on all GPUs that are emulated.
const PITCH: usize = 512;

api! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        address.set(allocate(bytes)?)
    }

    fn cuMemAllocPitch_v2(
        address: Out<u64>,
        pitch: Out<usize>,
        width: usize,
        height: usize,
        element: u32,
    ) {
        if !matches!(element, 4 | 8 | 16) {
            return Err(Error::InvalidValue(format!("elements of {element} bytes")));
        }
        let row = width.next_multiple_of(PITCH);
        pitch.set(row)?;
        address.set(allocate(row * height)?)
    }

    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        address.set(allocate_later(bytes, stream)?)
    }

    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        check_pool(pool)?;
        address.set(allocate_later(bytes, stream)?)
    }

    // Work that may use memory of cuMemAlloc is done before. Of memory of cuMemAllocAsync CUDA
    // assumes that nothing is left which does.
    fn cuMemFree_v2(address: u64) {
        uncaptured()?;
        if address == 0 {
            return Ok(());
        }
        let context = address_context(address)?;
        if !objects().stream_ordered.remove(&address) {
            scheduler()?.wait_context(context.id());
        }
        context.free(address)
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
        let stream = state::stream(stream)?;
        if address == 0 {
            return Ok(());
        }
        let context = address_context(address)?;
        context.admit_free(address)?;
        scheduler()?.submit(&stream, Work::free(&context, address))?;
        objects().stream_ordered.remove(&address);
        Ok(())
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let (left, all) = current()?.memory().free_and_total();
        free.set(left as usize)?;
        total.set(all as usize)
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        let table = address_context(address)?.memory().table();
        let allocation = table
            .find(address, 1)
            .ok_or_else(|| Error::NotFound(format!("allocation at {address:#x}")))?;
        base.set_if_wanted(allocation.address)?;
        bytes.set_if_wanted(allocation.bytes as usize)
    }

    // DEVICEMAP is allowed, the mapping is not: cuMemHostGetDevicePointer says so.
    fn cuMemHostAlloc(pointer: Out<usize>, bytes: usize, flags: u32) {
        pointer.set(allocate_host(bytes, flags)?)
    }

    fn cuMemAllocHost_v2(pointer: Out<usize>, bytes: usize) {
        pointer.set(allocate_host(bytes, 0)?)
    }

    fn cuMemFreeHost(pointer: usize) {
        let pinned = unpin(pointer, |known| {
            let text = || Error::InvalidValue(format!("{pointer:#x} was not allocated pinned"));
            known.layout.is_none().then(text)
        });
        // Only unregistering has an error of its own.
        let pinned = pinned.map_err(|error| match error {
            Error::NotRegistered(_) => {
                Error::InvalidValue(format!("{pointer:#x} is not pinned memory"))
            }
            other => other,
        })?;
        if let Some(layout) = pinned.layout {
            // SAFETY: `allocate_host` made it with this layout, and it was still registered.
            unsafe { std::alloc::dealloc(pointer as *mut u8, layout) };
        }
        Ok(())
    }

    fn cuMemHostRegister_v2(pointer: usize, bytes: usize, flags: u32) {
        uncaptured()?;
        current()?.check()?;
        if pointer == 0 || bytes == 0 {
            return Err(Error::InvalidValue(format!("{bytes} bytes at {pointer:#x}")));
        }
        let mut objects = objects();
        let before = objects.pinned.range(..pointer + bytes).next_back();
        if before.is_some_and(|(first, pinned)| first + pinned.bytes > pointer) {
            return Err(Error::AlreadyRegistered(pointer));
        }
        objects.pinned.insert(pointer, Pinned { bytes, layout: None, flags });
        Ok(())
    }

    fn cuMemHostUnregister(pointer: usize) {
        unpin(pointer, |known| known.layout.map(|_| Error::NotRegistered(pointer))).map(|_| ())
    }

    fn cuMemHostGetDevicePointer_v2(address: Out<u64>, pointer: usize, _flags: u32) {
        address.set(0)?;
        match objects().pinned_range(pointer, 1) {
            Some(_) => Err(no_mapping()),
            None => Err(Error::InvalidValue(format!("{pointer:#x} is not pinned memory"))),
        }
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: usize) {
        let found = objects().pinned_range(pointer, 1);
        let text = || Error::InvalidValue(format!("{pointer:#x} is not pinned memory"));
        flags.set(found.ok_or_else(text)?.1.flags)
    }

    fn cuMemcpy(to: usize, from: usize, bytes: usize) {
        copy_now(Place::unified(to), Place::unified(from), Extent::linear(bytes))
    }

    fn cuMemcpyAsync(to: usize, from: usize, bytes: usize, stream: Handle) {
        copy_later(Place::unified(to), Place::unified(from), Extent::linear(bytes), stream)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: *mut u8, bytes: usize) {
        copy_now(Place::device(to)?, Place::host(from), Extent::linear(bytes))
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: *mut u8, bytes: usize, stream: Handle) {
        copy_later(Place::device(to)?, Place::host(from), Extent::linear(bytes), stream)
    }

    fn cuMemcpyDtoH_v2(to: *mut u8, from: u64, bytes: usize) {
        copy_now(Place::host(to), Place::device(from)?, Extent::linear(bytes))
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, bytes: usize, stream: Handle) {
        copy_later(Place::host(to), Place::device(from)?, Extent::linear(bytes), stream)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        copy_now(Place::device(to)?, Place::device(from)?, Extent::linear(bytes))
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        copy_later(Place::device(to)?, Place::device(from)?, Extent::linear(bytes), stream)
    }

    fn cuMemcpyPeer(to: u64, _to_context: Handle, from: u64, _from_context: Handle, bytes: usize) {
        copy_now(Place::device(to)?, Place::device(from)?, Extent::linear(bytes))
    }

    fn cuMemcpyPeerAsync(
        to: u64,
        _to_context: Handle,
        from: u64,
        _from_context: Handle,
        bytes: usize,
        stream: Handle,
    ) {
        copy_later(Place::device(to)?, Place::device(from)?, Extent::linear(bytes), stream)
    }

    fn cuMemcpy2D_v2(copy: *const CuMemcpy2d) {
        let (to, from, extent) = rectangle(copy)?;
        copy_now(to, from, extent)
    }

    fn cuMemcpy2DUnaligned_v2(copy: *const CuMemcpy2d) {
        let (to, from, extent) = rectangle(copy)?;
        copy_now(to, from, extent)
    }

    fn cuMemcpy2DAsync_v2(copy: *const CuMemcpy2d, stream: Handle) {
        let (to, from, extent) = rectangle(copy)?;
        copy_later(to, from, extent, stream)
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        fill_now(to, [value], [count, 1, 0])
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) {
        fill_later(to, [value], [count, 1, 0], stream)
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        fill_now(to, value.to_le_bytes(), [count, 1, 0])
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) {
        fill_later(to, value.to_le_bytes(), [count, 1, 0], stream)
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        fill_now(to, value.to_le_bytes(), [count, 1, 0])
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) {
        fill_later(to, value.to_le_bytes(), [count, 1, 0], stream)
    }

    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill_now(to, [value], [width, height, pitch])
    }

    fn cuMemsetD2D8Async(
        to: u64,
        pitch: usize,
        value: u8,
        width: usize,
        height: usize,
        stream: Handle,
    ) {
        fill_later(to, [value], [width, height, pitch], stream)
    }

    fn cuMemsetD2D16_v2(to: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill_now(to, value.to_le_bytes(), [width, height, pitch])
    }

    fn cuMemsetD2D16Async(
        to: u64,
        pitch: usize,
        value: u16,
        width: usize,
        height: usize,
        stream: Handle,
    ) {
        fill_later(to, value.to_le_bytes(), [width, height, pitch], stream)
    }

    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill_now(to, value.to_le_bytes(), [width, height, pitch])
    }

    fn cuMemsetD2D32Async(
        to: u64,
        pitch: usize,
        value: u32,
        width: usize,
        height: usize,
        stream: Handle,
    ) {
        fill_later(to, value.to_le_bytes(), [width, height, pitch], stream)
    }

    // Memory is returned at once: there is nothing to keep or to trim.
    fn cuMemPoolTrimTo(pool: Handle, _keep: usize) {
        check_pool(pool)
    }

    fn cuMemPoolSetAttribute(pool: Handle, attribute: i32, _value: usize) {
        check_pool(pool)?;
        // REUSE_* and RELEASE_THRESHOLD
        if (1..=4).contains(&attribute) {
            Ok(())
        } else {
            Err(Error::NotSupported(format!("memory pool attribute {attribute}")))
        }
    }

    fn cuMemPoolGetAttribute(pool: Handle, attribute: i32, value: *mut c_void) {
        check_pool(pool)?;
        let device = i32::try_from(pool - POOL).unwrap_or(0);
        let used = || -> u64 {
            let objects = objects();
            let on_device = objects.contexts.values().filter(|entry| entry.device == device);
            let live = on_device.flat_map(|entry| {
                let table = entry.context.memory().table();
                table.iter().map(|a| (a.address, a.bytes)).collect::<Vec<_>>()
            });
            live.filter(|(address, _)| objects.stream_ordered.contains(address))
                .map(|(_, bytes)| bytes)
                .sum()
        };
        match attribute {
            1..=3 => Out(value.cast()).set(1_i32), // REUSE_*
            4 => Out(value.cast()).set(0_u64),     // RELEASE_THRESHOLD
            5..=8 => Out(value.cast()).set(used()), // RESERVED_MEM_*, USED_MEM_*: nothing is kept
            _ => Err(Error::NotSupported(format!("memory pool attribute {attribute}"))),
        }
    }

    fn cuPointerGetAttribute(value: *mut c_void, attribute: i32, address: u64) {
        pointer_attribute(value, attribute, address)
    }

    // What does not apply to a pointer is zero here, not an error.
    fn cuPointerGetAttributes(
        count: u32,
        attributes: *const i32,
        values: *const *mut c_void,
        address: u64,
    ) {
        if attributes.is_null() || values.is_null() {
            return Err(Error::InvalidValue("no attributes, or no place for them".into()));
        }
        for at in 0..count as usize {
            // SAFETY: the caller gives `count` attributes and as many places.
            let (attribute, value) = unsafe { (attributes.add(at).read(), values.add(at).read()) };
            match pointer_attribute(value, attribute, address) {
                Err(Error::InvalidValue(_)) if !value.is_null() => match attribute {
                    8 | 13 => Out(value.cast()).set(0_u8)?,
                    9 => Out(value.cast()).set(-2_i32)?,
                    2 | 6 => Out(value.cast()).set(0_u32)?,
                    _ => Out(value.cast()).set(0_u64)?,
                },
                other => other?,
            }
        }
        Ok(())
    }
}
