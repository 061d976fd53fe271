//! Which CUDA driver child processes run on, and the one place that sets their environment for it.

use std::env;
use std::ffi::{CStr, OsString, c_char, c_int};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use libloading::{Library, Symbol};

use crate::emulator;

/// The file that every CUDA program loads.
pub const LIBRARY: &str = "libcuda.so.1";

/// The variable that says where the loader looks first.
pub const SEARCH_PATH: &str = "LD_LIBRARY_PATH";

/// Which kernels build.rs compiles.
pub const ARCHITECTURES: &str = "SMOOTHXENT_CUDA_ARCHS";

/// Where there is no GPU: PTX for the emulated devices, and machine code for `cargo xtask sass`. Half of what
/// a build has by default, in half the time.
const WITHOUT_GPU: &str = "75-virtual,80,90";

/// What an emulated device's name begins with.
const EMULATED: &str = "Emulated";

pub enum Driver {
    /// The machine's own, with at least one device.
    Gpu { name: String, devices: usize },
    /// The emulated one, in this folder.
    Emulated { folder: PathBuf },
    /// None: a libcuda.so.1 that [`SEARCH_PATH`] leads to is hidden.
    Hidden,
}

impl Driver {
    /// The machine's driver if it has a device, else the emulated one, which is then built.
    pub fn choose(emulated: bool) -> Result<Self> {
        if !emulated && let Some(gpu) = probe() {
            return Ok(gpu);
        }
        let folder = emulator::build()?;
        Ok(Self::Emulated { folder })
    }

    /// Makes a build compile the kernels that this driver can run, unless the user has said which.
    pub fn narrow(&self, build: &mut Command) {
        if matches!(self, Self::Emulated { .. }) {
            without_gpu(build);
        }
    }

    /// Makes `command` run on this driver.
    pub fn apply(&self, command: &mut Command) -> Result<()> {
        let search_path = match self {
            Self::Gpu { .. } => return Ok(()),
            Self::Emulated { folder } => search_path_starting_with(Some(folder))?,
            Self::Hidden => search_path_starting_with(None)?,
        };
        command.env(SEARCH_PATH, search_path);
        Ok(())
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Gpu { name, devices: 1 } => write!(f, "{name}"),
            Self::Gpu { name, devices } => write!(f, "{name}, the first of {devices} devices"),
            Self::Emulated { .. } => {
                write!(f, "emulated driver, no GPU: results are right, times mean nothing")
            }
            Self::Hidden => write!(f, "no driver"),
        }
    }
}

/// As [`Driver::narrow`], where it is known that no GPU runs them.
pub fn without_gpu(build: &mut Command) {
    if env::var_os(ARCHITECTURES).is_none() {
        build.env(ARCHITECTURES, WITHOUT_GPU);
    }
}

/// The present search path without other drivers, behind `folder`.
fn search_path_starting_with(folder: Option<&Path>) -> Result<OsString> {
    let present = env::var_os(SEARCH_PATH).unwrap_or_default();
    let others = env::split_paths(&present).filter(|other| !other.join(LIBRARY).exists());
    let folders = folder.map(Path::to_path_buf).into_iter().chain(others);
    env::join_paths(folders).with_context(|| format!("cannot extend {SEARCH_PATH}"))
}

/// The machine's own driver, if it loads and has a device.
pub fn probe() -> Option<Driver> {
    // SAFETY: loading NVIDIA's libcuda runs its initialisers, which every CUDA program runs.
    let library = unsafe { Library::new(LIBRARY) }.ok()?;
    // SAFETY: the signatures are those of cuda.h; cuInit comes before the others; the pointers are
    // to locals of the right type, and the name's buffer has the length that is passed.
    let (name, devices) = unsafe {
        let init: Symbol<unsafe extern "C" fn(u32) -> c_int> = library.get(b"cuInit\0").ok()?;
        let get_count: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int> =
            library.get(b"cuDeviceGetCount\0").ok()?;
        let get_name: Symbol<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int> =
            library.get(b"cuDeviceGetName\0").ok()?;
        let mut count = 0;
        let mut name = [0u8; 256];
        if init(0) != 0 || get_count(&mut count) != 0 || count < 1 {
            return None;
        }
        let length = c_int::try_from(name.len()).ok()?;
        if get_name(name.as_mut_ptr().cast(), length, 0) != 0 {
            return None;
        }
        let name = CStr::from_bytes_until_nul(&name).ok()?;
        (name.to_string_lossy().into_owned(), usize::try_from(count).ok()?)
    };
    (!name.starts_with(EMULATED)).then_some(Driver::Gpu { name, devices })
}
