//! `cuMem*`, `cuMemcpy*`, `cuMemset*`, `cuPointer*`.

use std::alloc::Layout;
use std::sync::Arc;

use super::device::POOL;
use super::state::{address_context, check_device, current, objects, stream_context};
use super::{Handle, Host, Out, Result, api};
use crate::context::Context;
use crate::error::Error;

fn device_to_device(to: u64, from: u64, bytes: usize) -> Result {
    let target = address_context(to)?;
    let source: Arc<Context> = address_context(from)?;
    target.copy_from(to, &source, from, bytes as u64)
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

/// Host memory is filled like device memory, so that nobody relies on zeros.
fn allocate_host(bytes: usize) -> Result<usize> {
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
    objects().pinned.insert(start as usize, layout);
    Ok(start as usize)
}

api! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        address.set(current()?.allocate(bytes as u64)?)
    }

    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        address.set(stream_context(stream)?.allocate(bytes as u64)?)
    }

    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        check_pool(pool)?;
        address.set(stream_context(stream)?.allocate(bytes as u64)?)
    }

    fn cuMemFree_v2(address: u64) {
        if address == 0 {
            return Ok(());
        }
        address_context(address)?.free(address)
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
        stream_context(stream)?;
        if address == 0 {
            return Ok(());
        }
        address_context(address)?.free(address)
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
            .ok_or_else(|| Error::InvalidValue(format!("{address:#x} is in no allocation")))?;
        base.set_if_wanted(allocation.address)?;
        bytes.set_if_wanted(allocation.bytes as usize)
    }

    fn cuMemHostAlloc(pointer: Out<usize>, bytes: usize, _flags: u32) {
        pointer.set(allocate_host(bytes)?)
    }

    fn cuMemAllocHost_v2(pointer: Out<usize>, bytes: usize) {
        pointer.set(allocate_host(bytes)?)
    }

    fn cuMemFreeHost(pointer: usize) {
        match objects().pinned.remove(&pointer) {
            Some(layout) => {
                // SAFETY: `allocate_host` made it with this layout, and it was still registered.
                unsafe { std::alloc::dealloc(pointer as *mut u8, layout) };
                Ok(())
            }
            None => Err(Error::InvalidValue(format!("{pointer:#x} is not pinned memory"))),
        }
    }

    fn cuMemcpyHtoD_v2(to: u64, from: Host, bytes: usize) {
        address_context(to)?.write(to, from.as_slice(bytes)?)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: Host, bytes: usize, stream: Handle) {
        stream_context(stream)?.check()?;
        address_context(to)?.write(to, from.as_slice(bytes)?)
    }

    fn cuMemcpyDtoH_v2(to: Host, from: u64, bytes: usize) {
        let mut to = to;
        address_context(from)?.read(from, to.as_slice_mut(bytes)?)
    }

    fn cuMemcpyDtoHAsync_v2(to: Host, from: u64, bytes: usize, stream: Handle) {
        let mut to = to;
        stream_context(stream)?.check()?;
        address_context(from)?.read(from, to.as_slice_mut(bytes)?)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        device_to_device(to, from, bytes)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        stream_context(stream)?.check()?;
        device_to_device(to, from, bytes)
    }

    fn cuMemcpyPeer(to: u64, _to_context: Handle, from: u64, _from_context: Handle, bytes: usize) {
        device_to_device(to, from, bytes)
    }

    fn cuMemcpyPeerAsync(
        to: u64,
        _to_context: Handle,
        from: u64,
        _from_context: Handle,
        bytes: usize,
        stream: Handle,
    ) {
        stream_context(stream)?.check()?;
        device_to_device(to, from, bytes)
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        address_context(to)?.fill(to, &[value], count as u64)
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) {
        stream_context(stream)?;
        address_context(to)?.fill(to, &[value], count as u64)
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        address_context(to)?.fill(to, &value.to_le_bytes(), count as u64)
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) {
        stream_context(stream)?;
        address_context(to)?.fill(to, &value.to_le_bytes(), count as u64)
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        address_context(to)?.fill(to, &value.to_le_bytes(), count as u64)
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) {
        stream_context(stream)?;
        address_context(to)?.fill(to, &value.to_le_bytes(), count as u64)
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

    fn cuPointerGetAttribute(value: *mut u8, attribute: i32, address: u64) {
        let pinned = objects().pinned.contains_key(&(address as usize));
        let owner = objects().context_of(address);
        let found = owner.and_then(|context| {
            let allocation = context.memory().table().find(address, 1).cloned()?;
            Some((context, allocation))
        });
        let (context, start, bytes) = match (&found, pinned) {
            (Some((context, allocation)), _) => (context.id(), allocation.address, allocation.bytes),
            (None, true) => (0, address, 0),
            (None, false) => {
                return Err(Error::InvalidValue(format!("{address:#x} is in no allocation")));
            }
        };
        let entry = objects().contexts.iter().find(|(_, e)| e.context.id() == context).map(|(h, e)| (*h, e.device));
        let (handle, device) = entry.unwrap_or((0, 0));
        match attribute {
            1 => Out(value.cast()).set(handle),                      // CONTEXT
            2 => Out(value.cast()).set(if pinned { 1_u32 } else { 2 }), // MEMORY_TYPE
            3 => Out(value.cast()).set(address),                     // DEVICE_POINTER
            8 => Out(value).set(0),                                  // IS_MANAGED
            9 => Out(value.cast()).set(device),                      // DEVICE_ORDINAL
            11 => Out(value.cast()).set(start),                      // RANGE_START_ADDR
            12 => Out(value.cast()).set(bytes as usize),             // RANGE_SIZE
            13 => Out(value).set(1),                                 // MAPPED
            _ => Err(Error::NotSupported(format!("pointer attribute {attribute}"))),
        }
    }
}
