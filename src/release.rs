//! Giving back what the device may still be using.
//!
//! cudarc remembers an error that a drop could not return, and gives it to the next call in place of an answer, a
//! wait among them; and it frees a buffer in whatever context is current. Neither may free what is in use.

use std::{
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use cudarc::driver::{
    CudaContext, CudaSlice, DevicePtrMut, DriverError,
    result::{ctx, stream},
    sys::{CUcontext, CUresult, CUstreamCaptureStatus},
};

/// Drops `value` in `context` once `wait` has succeeded there, or leaks it: the context is lost, or one of its streams
/// is being captured. A failure is remembered as cudarc remembers those of its drops. The thread's current context
/// stays what it was, unless this was the last user of `context`.
///
/// # Safety
/// Nobody uses `value` again.
pub(crate) unsafe fn give_back<T>(
    context: &Arc<CudaContext>,
    value: &mut ManuallyDrop<T>,
    wait: impl FnOnce(&mut T) -> Result<(), DriverError>,
) {
    let before = ctx::get_current();
    // Not `bind_to_thread`, which returns what cudarc remembers instead.
    // SAFETY: the context is one that `context` keeps.
    let current = unsafe { ctx::set_current(context.cu_ctx()) };
    match current.and_then(|()| wait(value)) {
        // SAFETY: the caller's promise, and this runs once.
        Ok(()) => unsafe { ManuallyDrop::drop(value) },
        Err(error) => context.record_err(Err::<(), _>(error)),
    }
    context.record_err(restore(before));
}

fn restore(current: Result<Option<CUcontext>, DriverError>) -> Result<(), DriverError> {
    let current = current?.unwrap_or(std::ptr::null_mut());
    // SAFETY: null, or what was current on this thread a moment ago.
    unsafe { ctx::set_current(current) }
}

/// Waits for all work of the current context, on any stream.
pub(crate) fn all_work() -> Result<(), DriverError> {
    ctx::synchronize()
}

/// Puts the buffer's own stream, on which it is freed, behind those users of it that cudarc knows of; where that
/// cannot be said for sure, waits for all work. The buffer's context is current.
fn behind_its_users<T>(slice: &mut CudaSlice<T>) -> Result<(), DriverError> {
    let stream = slice.stream().clone();
    // SAFETY: the stream is there as long as the buffer.
    match unsafe { stream::is_capturing(stream.cu_stream()) }? {
        CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => {}
        // What is captured may use it at every replay.
        _ => return Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)),
    }
    let context = stream.context();
    let earlier = context.check_err();
    drop(slice.device_ptr_mut(&stream));
    let ordered = context.check_err();
    context.record_err(ordered);
    context.record_err(earlier);
    if ordered.is_ok() { Ok(()) } else { all_work() }
}

/// A buffer that the crate allocated.
#[derive(Debug)]
pub(crate) struct Owned<T> {
    slice: ManuallyDrop<CudaSlice<T>>,
    wait: fn(&mut CudaSlice<T>) -> Result<(), DriverError>,
}

impl<T> Owned<T> {
    /// Freed behind its users.
    pub fn new(slice: CudaSlice<T>) -> Self {
        Self { slice: ManuallyDrop::new(slice), wait: behind_its_users }
    }

    /// Freed behind all work, since several streams may read it at a time: cudarc remembers one reader of a buffer,
    /// the last.
    pub fn shared(slice: CudaSlice<T>) -> Self {
        Self { slice: ManuallyDrop::new(slice), wait: |_| all_work() }
    }
}

impl<T> Deref for Owned<T> {
    type Target = CudaSlice<T>;

    fn deref(&self) -> &CudaSlice<T> {
        &self.slice
    }
}

impl<T> DerefMut for Owned<T> {
    fn deref_mut(&mut self) -> &mut CudaSlice<T> {
        &mut self.slice
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        let context = self.slice.context().clone();
        // SAFETY: nothing comes after its drop.
        unsafe { give_back(&context, &mut self.slice, self.wait) };
    }
}
