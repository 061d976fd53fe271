//! The C surface: the functions that `libcuda.so.1` exports, one file for each area.
//!
//! Each is one `api!` entry: arguments as in `cuda.h`, a body that returns a Rust result. The macro
//! turns that into a `CUresult`, prints what a driver would not explain, and keeps panics from
//! crossing into C. Work goes to the scheduler of `stream.rs`, which decides when it runs.

mod context;
mod device;
mod errors;
mod graph;
mod launch;
mod leaks;
mod library;
mod memory;
mod module;
mod occupancy;
mod procedure;
mod state;
mod stream;
mod unsupported;

use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Error;

type Result<T = (), E = Error> = std::result::Result<T, E>;

/// A handle as C programs hold it: never followed, only looked up.
type Handle = usize;

/// A pointer that the C caller wants a result at.
#[repr(transparent)]
struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Where nobody wants a result.
    const NOWHERE: Self = Self(std::ptr::null_mut());

    fn is_null(&self) -> bool {
        self.0.is_null()
    }

    fn set(&self, value: T) -> Result {
        if self.0.is_null() {
            return Err(Error::InvalidValue("a null pointer for a result".into()));
        }
        // SAFETY: only C callers make an `Out`, and the driver API has them pass null or a pointer
        // that may be written.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// As `set`, for results that callers may leave out.
    fn set_if_wanted(&self, value: T) -> Result {
        if self.0.is_null() { Ok(()) } else { self.set(value) }
    }
}

/// Text from the C caller.
#[repr(transparent)]
struct Text(*const c_char);

impl Text {
    fn get(&self) -> Result<&str> {
        if self.0.is_null() {
            return Err(Error::InvalidValue("a null pointer for a name".into()));
        }
        // SAFETY: only C callers make a `Text`, and the driver API has them pass null or a string
        // that ends with a zero byte.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map_err(|_| Error::InvalidValue("a name that is not UTF-8".into()))
    }
}

thread_local! {
    /// Whether this thread is in a function that a stream calls.
    static IN_CALLBACK: Cell<Callback> = const { Cell::new(Callback::Outside) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Callback {
    Inside,
    Outside,
}

/// Runs the body of a call. Boxed, because hundreds of copies of this took a fifth of the time to compile the emulator.
fn call(name: &str, body: Box<dyn FnOnce() -> Result + '_>) -> u32 {
    let body = || {
        // Asking what an error means is no work for the device.
        if IN_CALLBACK.get() == Callback::Inside && !name.starts_with("cuGetError") {
            return Err(Error::NotPermitted);
        }
        body()
    };
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
        Err(Error::Panic(text.unwrap_or_default()))
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            if error.is_worth_a_line() {
                eprintln!("cuda-emulator: {name}: {error}");
            }
            error.code()
        }
    }
}

/// Defines exported functions.
macro_rules! api {
    ($($(#[$note:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        /// Name and address of each function, for `cuGetProcAddress`.
        pub(super) fn functions() -> Vec<(&'static str, usize)> {
            vec![$((stringify!($name), $name as *const () as usize)),*]
        }
        $(
            $(#[$note])*
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($argument: $type),*) -> u32 {
                $crate::driver::call(stringify!($name), Box::new(move || $body))
            }
        )*
    };
}
use api;
