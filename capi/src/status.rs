//! What a call says of itself, and what stands between a call and the library: null pointers, panics, and the
//! caller's current context.

use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};

use smoothxent::Error;
use smoothxent::cudarc::driver::{
    result::ctx,
    sys::{CUcontext, cuCtxSetCurrent},
};

/// What came of a call: `SX_OK`, or one of `SX_NULL_POINTER` to `SX_PANIC`.
pub type sx_status = i32;

/// `sx_status`: all is well.
pub const SX_OK: sx_status = 0;
/// `sx_status`: a pointer is null that may not be: a handle, a struct, or where a result goes.
pub const SX_NULL_POINTER: sx_status = 1;
/// `sx_status`: an argument was refused before anything was enqueued; the message has the numbers.
pub const SX_INVALID_ARGUMENT: sx_status = 2;
/// `sx_status`: there is no CUDA driver.
pub const SX_NO_DRIVER: sx_status = 3;
/// `sx_status`: there is no such device.
pub const SX_NO_DEVICE: sx_status = 4;
/// `sx_status`: the library was built without kernels, or without any that this device can run.
pub const SX_NO_KERNELS: sx_status = 5;
/// `sx_status`: a driver call failed, perhaps because of something that was enqueued earlier.
pub const SX_DRIVER_ERROR: sx_status = 6;
/// `sx_status`: targets were met that name no class; only `sx_take_status` says so.
pub const SX_BAD_TARGETS: sx_status = 7;
/// `sx_status`: a defect of the library.
pub const SX_PANIC: sx_status = 8;

/// Why a call did nothing.
pub(crate) enum Failure {
    Null(&'static str),
    /// An argument that is none of those it has to be.
    Argument {
        name: &'static str,
        value: String,
        allowed: String,
    },
    Refused(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl Failure {
    fn status(&self) -> sx_status {
        match self {
            Self::Null(_) => SX_NULL_POINTER,
            Self::Argument { .. } => SX_INVALID_ARGUMENT,
            Self::Refused(error) => match error {
                Error::NoDriver { .. } => SX_NO_DRIVER,
                Error::NoDevice | Error::DeviceOrdinal { .. } => SX_NO_DEVICE,
                Error::NoKernels { .. } | Error::NoImage { .. } => SX_NO_KERNELS,
                Error::Driver { .. } => SX_DRIVER_ERROR,
                Error::BadTargets { .. } => SX_BAD_TARGETS,
                _ => SX_INVALID_ARGUMENT,
            },
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Null(name) => format!("{name} is null"),
            Self::Argument { name, value, allowed } => {
                format!("{name} is {value}, which is none of {allowed}")
            }
            Self::Refused(error) => error.to_string(),
        }
    }
}

/// Where a message goes.
#[derive(Clone, Copy)]
pub(crate) struct Text {
    start: *mut c_char,
    bytes: usize,
}

impl Text {
    /// # Safety
    /// `start` is null, or `bytes` bytes there may be written while the text is in use.
    pub unsafe fn new(start: *mut c_char, bytes: usize) -> Self {
        Self { start, bytes }
    }

    /// As much as fits, and a NUL.
    pub fn write(self, text: &str) {
        if self.start.is_null() || self.bytes == 0 {
            return;
        }
        let fits =
            (0..self.bytes.min(text.len() + 1)).rev().find(|&end| text.is_char_boundary(end));
        let text = &text[..fits.unwrap_or(0)];
        // SAFETY: `new`'s caller promised so many bytes; the text and its NUL are not longer.
        unsafe {
            self.start.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
            self.start.add(text.len()).write(0);
        }
    }
}

/// Runs `body`; says in status and message what went wrong, and lets no panic out.
pub(crate) fn report(message: Text, body: impl FnOnce() -> Result<(), Failure>) -> sx_status {
    message.write("");
    // Nothing that a panic could leave half done is looked at again: handles only lock what stays whole.
    let outcome = catch_unwind(AssertUnwindSafe(body));
    match outcome {
        Ok(Ok(())) => SX_OK,
        Ok(Err(failure)) => {
            message.write(&failure.text());
            failure.status()
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            message.write(&format!("smoothxent panicked: {}", text.unwrap_or("no reason given")));
            SX_PANIC
        }
    }
}

/// The context that was current on this thread, which becomes so again: a library beside this one may have
/// chosen another device.
pub(crate) struct Current(CUcontext);

impl Current {
    /// A driver is loaded and initialised.
    pub fn keep() -> Self {
        // A failure shows in the call that comes next; there is nothing to go back to then.
        Self(ctx::get_current().ok().flatten().unwrap_or(std::ptr::null_mut()))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        // SAFETY: it was current when this was made, and null stands for none. A context that was destroyed
        // since is refused.
        let _ = unsafe { cuCtxSetCurrent(self.0) };
    }
}

/// What a pointer points to, or the failure that names it.
///
/// # Safety
/// It is null, or points to a whole `T` that lives and is not written as long as the reference is used.
pub(crate) unsafe fn read<'a, T>(pointer: *const T, name: &'static str) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or(Failure::Null(name))
}

/// Writes where a pointer points.
///
/// # Safety
/// It is null, or a `T` can be written there.
pub(crate) unsafe fn write<T>(
    pointer: *mut T,
    name: &'static str,
    value: T,
) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::Null(name));
    }
    // SAFETY: the caller's promise.
    unsafe { pointer.write(value) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_in(bytes: usize, text: &str) -> Vec<u8> {
        let mut buffer = vec![0xffu8; 8];
        // SAFETY: at most 8 bytes of the buffer.
        unsafe { Text::new(buffer.as_mut_ptr().cast(), bytes) }.write(text);
        buffer
    }

    #[test]
    fn texts_end_in_nul_and_fit() {
        assert_eq!(text_in(8, "abc"), b"abc\0\xff\xff\xff\xff");
        assert_eq!(text_in(3, "abc"), b"ab\0\xff\xff\xff\xff\xff");
        // No half of a character.
        assert_eq!(text_in(3, "aü"), b"a\0\xff\xff\xff\xff\xff\xff");
        assert_eq!(text_in(1, "abc"), b"\0\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(text_in(0, "abc"), [0xff; 8]);
        // SAFETY: nothing is written to null.
        unsafe { Text::new(std::ptr::null_mut(), 8) }.write("abc");
    }

    #[test]
    fn panics_become_a_status() {
        let mut buffer = [0u8; 64];
        // SAFETY: the buffer's own bytes.
        let message = unsafe { Text::new(buffer.as_mut_ptr().cast(), buffer.len()) };
        assert_eq!(report(message, || panic!("of {}", 7)), SX_PANIC);
        assert!(buffer.starts_with(b"smoothxent panicked: of 7\0"));
        assert_eq!(report(message, || Ok(())), SX_OK);
        assert_eq!(buffer[0], 0);
    }

    #[test]
    fn every_failure_has_its_status() {
        let driver = Error::Driver {
            action: "test",
            code: smoothxent::cudarc::driver::sys::CUresult::CUDA_ERROR_UNKNOWN,
        };
        let bad = Error::BadTargets { count: 1, row: 0, target: 9, classes: 3 };
        for (error, status) in [
            (Error::NoDriver { reason: "none".to_owned() }, SX_NO_DRIVER),
            (Error::DeviceOrdinal { ordinal: 3, count: 1 }, SX_NO_DEVICE),
            (Error::NoKernels { reason: "none" }, SX_NO_KERNELS),
            (driver, SX_DRIVER_ERROR),
            (bad, SX_BAD_TARGETS),
            (Error::LossWithoutReduction, SX_INVALID_ARGUMENT),
            (Error::Null { buffer: "logits" }, SX_INVALID_ARGUMENT),
        ] {
            assert_eq!(Failure::from(error.clone()).status(), status, "{error}");
        }
        assert_eq!(Failure::Null("kernels").status(), SX_NULL_POINTER);
    }
}
