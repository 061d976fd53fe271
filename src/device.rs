//! Finding a device without ever panicking: cudarc's own entry points panic where libcuda is absent.

use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, sys::CUresult};
use libloading::Library;

use crate::error::Error;

/// How many CUDA devices there are; at least 1 on success.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::NoDevice`], or [`Error::Driver`] if the driver does not start.
pub fn device_count() -> Result<usize, Error> {
    load_driver()?;
    match CudaContext::device_count() {
        Ok(count @ 1..) => Ok(count as usize),
        Ok(_) | Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Err(Error::NoDevice),
        Err(error) => Err(Error::driver("count its devices")(error)),
    }
}

/// A context on device `ordinal`, counted from 0.
///
/// The device's primary context, as [`CudaContext::new`] gives it, with errors where that panics. Call it once a device and
/// share the `Arc`: two of one device count as different ([`Error::OtherContext`]). In candle it is the stream's
/// `context()`.
///
/// # Errors
/// Those of [`device_count`]; [`Error::DeviceOrdinal`].
pub fn open(ordinal: usize) -> Result<Arc<CudaContext>, Error> {
    let count = device_count()?;
    if ordinal >= count {
        return Err(Error::DeviceOrdinal { ordinal, count });
    }
    CudaContext::new(ordinal).map_err(Error::driver("create a context"))
}

/// Compares the objects, not the devices: two contexts of one device do not order each other's
/// streams.
pub(crate) fn same_context(
    buffer: &'static str,
    expected: &Arc<CudaContext>,
    found: &Arc<CudaContext>,
) -> Result<(), Error> {
    if Arc::ptr_eq(expected, found) {
        Ok(())
    } else {
        Err(Error::OtherContext { buffer, expected: expected.ordinal(), found: found.ordinal() })
    }
}

/// The names that drivers are installed under. cudarc tries these too, so it finds what is found here; its
/// own list is no longer there once another crate of the build (candle) makes it link to the driver.
const DRIVER_NAMES: &[&str] =
    if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };

/// Loads the library, so that cudarc finds it.
fn load_driver() -> Result<(), Error> {
    if cfg!(miri) {
        // It cannot load a library; the driver's functions are linked there (`cargo xtask miri`).
        return Ok(());
    }
    let mut reason = String::new();
    for &name in DRIVER_NAMES {
        // SAFETY: loading runs the initialisers of the CUDA driver, which cudarc is about to load
        // in the same way.
        match unsafe { Library::new(name) } {
            // Never closed: what a driver's initialisers leave behind is not made for being unmapped and mapped again.
            Ok(library) => {
                std::mem::forget(library);
                return Ok(());
            }
            Err(error) if reason.is_empty() => reason = describe(&error),
            Err(_) => {}
        }
    }
    Err(Error::NoDriver { reason })
}

/// libloading keeps the loader's own words in the source of its error.
fn describe(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
