//! `cuCtx*`.

use super::state::{
    current, current_entry, current_handle, end_context, objects, pop_current, push_current,
    scheduler, set_current, settings, uncaptured,
};
use super::{Handle, Out, Result, api};
use crate::context::Context;
use crate::error::Error;

/// `CU_LIMIT_STACK_SIZE`, `CU_LIMIT_PRINTF_FIFO_SIZE`, `CU_LIMIT_MALLOC_HEAP_SIZE`: what a driver
/// starts with. Setting them changes nothing here.
fn limit(number: i32) -> Result<usize> {
    match number {
        0 => Ok(1024),
        1 => Ok(1 << 20),
        2 => Ok(8 << 20),
        _ => Err(Error::NotSupported(format!("limit {number}"))),
    }
}

fn known(handle: Handle) -> Result {
    if handle == 0 || objects().contexts.contains_key(&handle) {
        Ok(())
    } else {
        Err(Error::InvalidContext)
    }
}

fn create(context: &Out<Handle>, device: i32) -> Result {
    super::state::check_device(device)?;
    let handle = objects().new_context(device)?;
    push_current(handle);
    context.set(handle)
}

fn synchronize(context: &Context) -> Result {
    scheduler()?.permit_wait(context.id())?;
    uncaptured()?;
    scheduler()?.wait_context(context.id());
    context.check()
}

api! {
    fn cuCtxCreate_v2(context: Out<Handle>, _flags: u32, device: i32) {
        create(&context, device)
    }

    fn cuCtxCreate_v3(context: Out<Handle>, affinity: usize, _count: i32, _flags: u32, device: i32) {
        if affinity != 0 {
            return Err(Error::NotSupported("execution affinity".into()));
        }
        create(&context, device)
    }

    fn cuCtxCreate_v4(context: Out<Handle>, parameters: usize, _flags: u32, device: i32) {
        if parameters != 0 {
            return Err(Error::NotSupported("a context with parameters".into()));
        }
        create(&context, device)
    }

    fn cuCtxDestroy_v2(context: Handle) {
        end_context(context)?;
        if current_handle() == context {
            pop_current();
        }
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) {
        context.set(current_handle())
    }

    fn cuCtxSetCurrent(context: Handle) {
        known(context)?;
        set_current(context);
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        known(context)?;
        push_current(context);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        let popped = pop_current().ok_or(Error::InvalidContext)?;
        context.set_if_wanted(popped)
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        device.set(current_entry()?.device)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        current()?;
        flags.set(0)
    }

    // Flags choose how a host thread waits; nothing here waits.
    fn cuCtxSetFlags(_flags: u32) {
        current().map(|_| ())
    }

    fn cuCtxSynchronize() {
        synchronize(&*current()?)
    }

    fn cuCtxSynchronize_v2(context: Handle) {
        let context = {
            let handle = if context == 0 { current_handle() } else { context };
            objects().contexts.get(&handle).ok_or(Error::InvalidContext)?.context.clone()
        };
        synchronize(&context)
    }

    // Both devices are the same model, and each may read and write the other's memory.
    fn cuCtxEnablePeerAccess(peer: Handle, flags: u32) {
        if flags != 0 {
            return Err(Error::InvalidValue(format!("flags {flags}")));
        }
        let mut objects = objects();
        let device = objects.contexts.get(&peer).ok_or(Error::InvalidContext)?.device;
        let entry = objects.contexts.get_mut(&current_handle()).ok_or(Error::InvalidContext)?;
        if entry.device == device {
            return Err(Error::InvalidDevice(device));
        }
        if entry.peers.contains(&peer) {
            return Err(Error::PeerAccessEnabled);
        }
        entry.peers.push(peer);
        Ok(())
    }

    fn cuCtxDisablePeerAccess(peer: Handle) {
        let mut objects = objects();
        let entry = objects.contexts.get_mut(&current_handle()).ok_or(Error::InvalidContext)?;
        let at = entry.peers.iter().position(|other| *other == peer);
        entry.peers.swap_remove(at.ok_or(Error::PeerAccessNotEnabled)?);
        Ok(())
    }

    // Memory banks of four bytes, as on all devices now.
    fn cuCtxGetSharedMemConfig(config: Out<i32>) {
        current()?;
        config.set(1)
    }

    fn cuCtxSetSharedMemConfig(_config: i32) {
        current().map(|_| ())
    }

    fn cuCtxResetPersistingL2Cache() {
        current().map(|_| ())
    }

    // Profilers see nothing of an emulated device. Where a program says that what matters begins,
    // calls that are to fail are counted anew.
    fn cuProfilerStart() {
        current()?;
        settings()?.injections.iter().for_each(|injection| injection.restart());
        Ok(())
    }

    fn cuProfilerStop() {
        current().map(|_| ())
    }

    fn cuCtxGetLimit(value: Out<usize>, number: i32) {
        current()?;
        value.set(limit(number)?)
    }

    fn cuCtxSetLimit(number: i32, _value: usize) {
        current()?;
        limit(number).map(|_| ())
    }

    // Preferences between caches and shared memory: hints.
    fn cuCtxGetCacheConfig(config: Out<i32>) {
        current()?;
        config.set(0)
    }

    fn cuCtxSetCacheConfig(_config: i32) {
        current().map(|_| ())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.set_if_wanted(0)?;
        greatest.set_if_wanted(-5)
    }

    fn cuCtxGetApiVersion(_context: Handle, version: Out<u32>) {
        version.set(3020)
    }

    fn cuCtxGetId(context: Handle, id: Out<u64>) {
        let handle = if context == 0 { current_handle() } else { context };
        let objects = objects();
        let entry = objects.contexts.get(&handle).ok_or(Error::InvalidContext)?;
        id.set(entry.context.id())
    }
}
