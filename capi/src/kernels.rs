//! The handle, memory that the caller has to bring, and the record of bad targets.

use std::ffi::{CStr, c_char};

use smoothxent::{Error, Kernels, Selection, Strategy, raw};

use crate::status::{Current, Failure, Text, read, report, sx_status, write};
use crate::types::{sx_memory, sx_stream};

/// The kernels, loaded in the primary context of a device: the one that the CUDA runtime, and so PyTorch,
/// uses. A handle is of `sx_kernels_load` or `sx_kernels_select`, and may be used by several threads at once.
pub struct sx_kernels {
    pub(crate) kernels: Kernels,
}

const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<sx_kernels>();
};

/// Targets that named no class.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sx_bad_targets {
    /// How many rows since the last time the status was taken.
    pub count: u64,
    /// The lowest such row, counted within its call. Of several calls, nothing says which one that was.
    pub row: u64,
    /// Its target.
    pub target: i64,
    /// Classes of its problem.
    pub classes: u64,
}

/// `SX_FASTEST`, `SX_PINNED` or `SX_PREFERRED`: who chooses how rows are given to threads.
pub type sx_selection = u32;

/// `sx_selection`: the library.
pub const SX_FASTEST: sx_selection = 1;
/// `sx_selection`: the caller. A call that computes a loss or a log-softmax is refused where the strategy cannot
/// take the problem; a gradient alone is then computed with the fastest strategy.
pub const SX_PINNED: sx_selection = 2;
/// `sx_selection`: the caller where the strategy can take the problem, the library elsewhere.
pub const SX_PREFERRED: sx_selection = 3;

/// The version of the library, such as "0.1.0": `SX_VERSION` of the header it comes with.
#[unsafe(no_mangle)]
pub extern "C" fn sx_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no NUL"),
        };
    VERSION.as_ptr()
}

/// Loads all kernels on a device, counted from 0, once for each device. `kernels` is to be freed by
/// `sx_kernels_free`; it is null after a failure.
///
/// # Safety
/// `kernels` is null or can be written; `message` is null or has `message_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_kernels_load(
    device: usize,
    kernels: *mut *mut sx_kernels,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let message = unsafe { Text::new(message, message_bytes) };
    report(message, || {
        // SAFETY: the caller's promise.
        unsafe { write(kernels, "kernels", std::ptr::null_mut())? };
        // It also initialises the driver, which has no current context before.
        smoothxent::device_count()?;
        let _current = Current::keep();
        let loaded = Kernels::load(&smoothxent::open(device)?)?;
        // SAFETY: the caller's promise.
        unsafe { write(kernels, "kernels", new_handle(loaded)) }
    })
}

/// The same kernels with another choice of strategies: `strategy` is "tiny", "warp", "block", "two_pass",
/// "cluster" or "split_row", and not looked at for `SX_FASTEST`. `selected` is a handle of its own, to be
/// freed by `sx_kernels_free`, in any order.
///
/// # Safety
/// `kernels` is null or a handle; `strategy` is null or NUL-terminated; `selected` is null or can
/// be written; `message` is null or has `message_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_kernels_select(
    kernels: *const sx_kernels,
    selection: sx_selection,
    strategy: *const c_char,
    selected: *mut *mut sx_kernels,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let message = unsafe { Text::new(message, message_bytes) };
    report(message, || {
        // SAFETY: the caller's promise.
        unsafe { write(selected, "selected", std::ptr::null_mut())? };
        // SAFETY: the caller's promise.
        let kernels = unsafe { read(kernels, "kernels")? };
        // SAFETY: the caller's promise.
        let strategy = || unsafe { named(strategy) };
        let selection = match selection {
            SX_FASTEST => Selection::Fastest,
            SX_PINNED => Selection::Pinned(strategy()?),
            SX_PREFERRED => Selection::Preferred(strategy()?),
            _ => {
                let allowed = "SX_FASTEST, SX_PINNED, SX_PREFERRED";
                return Err(crate::types::unknown("selection", selection, allowed));
            }
        };
        let chosen = kernels.kernels.clone().with_selection(selection);
        // SAFETY: the caller's promise.
        unsafe { write(selected, "selected", new_handle(chosen)) }
    })
}

fn new_handle(kernels: Kernels) -> *mut sx_kernels {
    Box::into_raw(Box::new(sx_kernels { kernels }))
}

/// # Safety
/// `name` is null or NUL-terminated.
unsafe fn named(name: *const c_char) -> Result<Strategy, Failure> {
    if name.is_null() {
        return Err(Failure::Null("strategy"));
    }
    // SAFETY: the caller's promise. By the pointer itself: a reference to the first byte would be to that alone.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let known = Strategy::ALL.into_iter().find(|strategy| strategy.to_string() == name);
    known.ok_or_else(|| Failure::Argument {
        name: "strategy",
        value: format!("{name:?}"),
        allowed: Strategy::ALL.map(|strategy| strategy.to_string()).join(", "),
    })
}

/// Frees a handle. The last one of a device waits for all that is enqueued there, and no captured graph may
/// be replayed afterwards. Null is fine.
///
/// # Safety
/// `kernels` is null, or a handle that no call uses and that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_kernels_free(kernels: *mut sx_kernels) {
    if kernels.is_null() {
        return;
    }
    // SAFETY: nothing is written to null.
    let message = unsafe { Text::new(std::ptr::null_mut(), 0) };
    let _nobody_to_tell: sx_status = report(message, || {
        let _current = Current::keep();
        // SAFETY: the caller's promise: it is the box that `new_handle` made.
        drop(unsafe { Box::from_raw(kernels) });
        Ok(())
    });
}

/// Bytes of a workspace for problems of up to `rows` rows. A workspace is device memory of the caller's own,
/// all of it zero before its first use, and passed with the same address and length to every call. One
/// workspace serves one call at a time. Otherwise a launch may write anywhere, or never end.
///
/// # Safety
/// `bytes` is null or can be written; `message` is null or has `message_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_workspace_bytes(
    rows: usize,
    bytes: *mut usize,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    unsafe { write_size(raw::workspace_bytes(rows), bytes, Text::new(message, message_bytes)) }
}

/// Bytes of what a forward pass of up to `rows` rows saves for the backward pass. They need not be zero.
///
/// # Safety
/// What `sx_workspace_bytes` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_saved_bytes(
    rows: usize,
    bytes: *mut usize,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    unsafe { write_size(raw::saved_bytes(rows), bytes, Text::new(message, message_bytes)) }
}

/// # Safety
/// `bytes` is null or can be written.
unsafe fn write_size(size: Result<usize, Error>, bytes: *mut usize, message: Text) -> sx_status {
    // SAFETY: the caller's promise.
    report(message, || unsafe { write(bytes, "bytes", size?) })
}

/// Waits for `stream`, and reports targets that were neither a class nor `ignore_index`, seen by any call
/// that used this workspace since the last time; then they are forgotten. Their rows got a NaN loss and a
/// zero gradient, and the reduced loss of such a call is NaN. The status is `SX_BAD_TARGETS` then, and
/// `bad_targets`, if it is not null, says which; it is all zero otherwise. On a stream that is being
/// captured it is refused (`SX_INVALID_ARGUMENT`), and the capture goes on.
///
/// # Safety
/// `kernels` is null or a handle; `workspace` is memory of the device; `stream` belongs to its
/// primary context; `bad_targets` is null or can be written; `message` is null or has `message_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sx_take_status(
    kernels: *const sx_kernels,
    stream: sx_stream,
    workspace: sx_memory,
    bad_targets: *mut sx_bad_targets,
    message: *mut c_char,
    message_bytes: usize,
) -> sx_status {
    // SAFETY: the caller's promise.
    let message = unsafe { Text::new(message, message_bytes) };
    let mut found = sx_bad_targets::default();
    let status = report(message, || {
        // SAFETY: the caller's promise.
        let kernels = unsafe { read(kernels, "kernels")? };
        let _current = Current::keep();
        // SAFETY: the caller's promise.
        let status = unsafe { raw::take_status(&kernels.kernels, stream.cast(), workspace.raw()) };
        if let Err(Error::BadTargets { count, row, target, classes }) = &status {
            found = sx_bad_targets { count: *count, row: *row, target: *target, classes: *classes };
        }
        Ok(status?)
    });
    if !bad_targets.is_null() {
        // SAFETY: the caller's promise.
        unsafe { bad_targets.write(found) };
    }
    status
}

/// Writes a plan as text.
///
/// # Safety
/// `needed` is null or can be written.
pub(crate) unsafe fn write_plan(plan: &str, text: Text, needed: *mut usize) {
    text.write(plan);
    if !needed.is_null() {
        // SAFETY: the caller's promise.
        unsafe { needed.write(plan.len() + 1) };
    }
}
