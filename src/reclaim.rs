//! Giving back what the device may still be using.
//!
//! cudarc remembers an error that a drop could not return, and gives it to the next call in place of an answer, a
//! wait among them; and it frees a buffer in whatever context is current. Neither may free what is in use. And
//! nobody here waits by cuCtxSynchronize, which another thread's capture of a stream turns into a crash (`ContextFence`).

use std::{
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    sync::Arc,
    thread::{self, ThreadId},
};

use cudarc::driver::{
    CudaContext, CudaSlice, DevicePtrMut, DriverError,
    result::{self, ctx},
    sys::{
        CUcontext, CUdeviceptr, CUstream, CUstreamCaptureMode, cuThreadExchangeStreamCaptureMode,
    },
};

use crate::capture::is_captured;

/// What becomes of a value that nobody on the host uses any more.
pub(crate) enum Release {
    /// Nobody on the device does, either.
    Free,
    /// Its own stream is being captured, and a graph may use it at every replay; or to free it there would end a capture.
    Leak,
}

/// Drops `value` in `context` once `wait` allows it there, or leaks it: also where `wait` fails (the context is lost, or
/// there is no byte to wait by). A failure is remembered as cudarc remembers those of its drops. The thread's current
/// context stays what it was, unless this was the last user of `context`. Captures of streams, by this thread or others,
/// go on undisturbed.
///
/// # Safety
/// Nobody uses `value` again.
pub(crate) unsafe fn give_back<T>(
    context: &Arc<CudaContext>,
    value: &mut ManuallyDrop<T>,
    wait: impl FnOnce(&mut T) -> Result<Release, DriverError>,
) {
    let before = ctx::get_current();
    // Not `bind_to_thread`, which returns what cudarc remembers instead.
    // SAFETY: the context is one that `context` keeps.
    let current = unsafe { ctx::set_current(context.cu_ctx()) };
    let given_back = current.and_then(|()| beside_captures()).and_then(|_beside| {
        match wait(value)? {
            // SAFETY: the caller's promise, and this runs once.
            Release::Free => unsafe { ManuallyDrop::drop(value) },
            Release::Leak => {}
        }
        Ok(())
    });
    context.record_err(given_back);
    context.record_err(restore(before));
}

fn restore(current: Result<Option<CUcontext>, DriverError>) -> Result<(), DriverError> {
    let current = current?.unwrap_or(std::ptr::null_mut());
    // SAFETY: null, or what was current on this thread a moment ago.
    unsafe { ctx::set_current(current) }
}

/// The mode in which a thread's captures forbid calls, to be put back.
struct CaptureMode(CUstreamCaptureMode);

/// As long as what it returns lives, this thread may free and unload while streams are being captured: otherwise the
/// driver refuses it in a capture of global mode, anybody's, and ends that capture.
fn beside_captures() -> Result<CaptureMode, DriverError> {
    exchange(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).map(CaptureMode)
}

impl Drop for CaptureMode {
    fn drop(&mut self) {
        // It was accepted before.
        let _ = exchange(self.0);
    }
}

/// Returns the mode until now.
fn exchange(mut mode: CUstreamCaptureMode) -> Result<CUstreamCaptureMode, DriverError> {
    // SAFETY: reads and writes `mode`, nothing else.
    unsafe { cuThreadExchangeStreamCaptureMode(&mut mode) }.result().map(|()| mode)
}

/// Memory of cuMemAlloc, to wait for all work of its context by: the driver frees it behind all that may use it.
///
/// cuCtxSynchronize would say what is meant, but driver 580.159 reads through a null pointer there, and in
/// cuCtxRecordEvent, when another thread begins or ends the capture of a stream: `RELIABILITY.md`.
#[derive(Debug)]
pub(crate) struct ContextFence(CUdeviceptr);

impl ContextFence {
    /// In the current context. To be made ahead of its time, since memory can be short.
    pub fn new() -> Result<Self, DriverError> {
        let _beside = beside_captures()?;
        // SAFETY: it is freed once, below, or leaked.
        unsafe { result::malloc_sync(1) }.map(Self)
    }

    /// For all work that was enqueued so far, on any stream. Once: there is nothing to wait by afterwards.
    pub fn wait(&mut self) -> Result<(), DriverError> {
        // SAFETY: nobody else knows of it, and null is no allocation, which frees nothing.
        unsafe { result::free_sync(std::mem::take(&mut self.0)) }
    }
}

/// Waits for all work of the current context, or cannot.
fn all_work() -> Result<(), DriverError> {
    ContextFence::new()?.wait()
}

/// Of each thread another one: the per-thread default stream.
const PER_THREAD: usize = 2;

/// Whether to free the buffer, whose context is current, would be a graph's work, or end a capture.
fn is_in_a_capture<T>(slice: &CudaSlice<T>) -> Result<bool, DriverError> {
    // SAFETY: the stream is there as long as the buffer, and of its context.
    unsafe { is_captured(slice.stream().cu_stream()) }
}

/// Puts the buffer's own stream, on which it is freed, behind those users of it that cudarc knows of; where that
/// cannot be said for sure, waits for all work. The buffer's context is current, and its stream is not being captured;
/// `maker` is the thread that made it.
fn behind_its_users<T>(slice: &mut CudaSlice<T>, maker: ThreadId) -> Result<(), DriverError> {
    let stream = slice.stream().clone();
    // This thread's stream is not behind the maker's.
    if stream.cu_stream() == PER_THREAD as CUstream && thread::current().id() != maker {
        return all_work();
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
    maker: ThreadId,
    readers: Option<ContextFence>,
}

impl<T> Owned<T> {
    /// Freed behind its users.
    pub fn new(slice: CudaSlice<T>) -> Self {
        Self::with(slice, None)
    }

    /// Freed behind all work, since several streams may read it at a time: cudarc remembers one reader of a buffer,
    /// the last.
    pub fn shared(slice: CudaSlice<T>, readers: ContextFence) -> Self {
        Self::with(slice, Some(readers))
    }

    fn with(slice: CudaSlice<T>, readers: Option<ContextFence>) -> Self {
        Self { slice: ManuallyDrop::new(slice), maker: thread::current().id(), readers }
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
        let (readers, maker) = (self.readers.as_mut(), self.maker);
        // SAFETY: nothing comes after its drop.
        unsafe {
            give_back(&context, &mut self.slice, |slice| {
                if is_in_a_capture(slice)? {
                    return Ok(Release::Leak);
                }
                match readers {
                    None => behind_its_users(slice, maker)?,
                    Some(readers) => readers.wait()?,
                }
                Ok(Release::Free)
            });
        }
    }
}
