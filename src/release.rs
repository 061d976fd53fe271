//! Giving back what the device may still be using.
//!
//! cudarc remembers an error that a drop could not return, and gives it to the next call in place of an answer, a
//! wait among them; and it frees a buffer in whatever context is current. Neither may free what is in use.

use std::{
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use cudarc::driver::{CudaContext, CudaSlice, DriverError, result::ctx, sys::CUcontext};

/// What has to have happened before something is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing more: cudarc frees it in the order of its stream, behind those users that it knows of.
    Enqueued,
    /// All work of the context, on any stream.
    AllWork,
}

/// Drops `value` in `context`, or leaks it if what has to come before cannot be had: the context is lost, or one of
/// its streams is being captured. Leaves the thread's current context, and the error that cudarc remembers, as
/// they were; a failure is remembered in the same way.
///
/// # Safety
/// Nobody uses `value` again.
pub(crate) unsafe fn give_back<T>(
    context: &Arc<CudaContext>,
    value: &mut ManuallyDrop<T>,
    after: After,
) {
    let earlier = context.check_err();
    let current = ctx::get_current();
    let wait = || match after {
        After::Enqueued => context.bind_to_thread(),
        After::AllWork => context.synchronize(),
    };
    match wait() {
        // SAFETY: the caller's promise, and this runs once.
        Ok(()) => unsafe { ManuallyDrop::drop(value) },
        Err(error) => context.record_err(Err::<(), _>(error)),
    }
    context.record_err(restore(current));
    context.record_err(earlier);
}

fn restore(current: Result<Option<CUcontext>, DriverError>) -> Result<(), DriverError> {
    let current = current?.unwrap_or(std::ptr::null_mut());
    // SAFETY: null, or what was current on this thread a moment ago.
    unsafe { ctx::set_current(current) }
}

/// A buffer that the crate allocated.
#[derive(Debug)]
pub(crate) struct Owned<T> {
    slice: ManuallyDrop<CudaSlice<T>>,
    after: After,
}

impl<T> Owned<T> {
    pub fn new(slice: CudaSlice<T>, after: After) -> Self {
        Self { slice: ManuallyDrop::new(slice), after }
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
        unsafe { give_back(&context, &mut self.slice, self.after) };
    }
}
