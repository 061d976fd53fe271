//! What a process has not given back when it ends, for `CUDA_EMULATOR_LEAKS=1`.

use std::ffi::{c_int, c_void};
use std::sync::Once;

use super::state::{objects, scheduler, settings};
use crate::settings::Leaks;

/// Lines that are written at most.
const MOST_LINES: usize = 20;
/// The process's exit code with leaks.
const CODE: c_int = 87;

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
    fn fflush(stream: *mut c_void) -> c_int;
    fn _exit(code: c_int) -> !;
}

/// Has leaks looked for when the process ends, if the settings say so.
pub fn watch() {
    static WATCHING: Once = Once::new();
    if settings().is_ok_and(|settings| settings.leaks == Leaks::Fail) {
        WATCHING.call_once(|| {
            // SAFETY: the function lives as long as the process: the library is never unloaded
            // (see build.rs).
            unsafe { atexit(at_exit) };
        });
    }
}

extern "C" fn at_exit() {
    let found = std::panic::catch_unwind(leaks);
    let lines = found.unwrap_or_else(|_| vec!["the search for leaks panicked".into()]);
    if lines.is_empty() {
        return;
    }
    eprintln!("cuda-emulator: not given back when the process ended:");
    for line in lines.iter().take(MOST_LINES) {
        eprintln!("  {line}");
    }
    if lines.len() > MOST_LINES {
        eprintln!("  and {} more", lines.len() - MOST_LINES);
    }
    // SAFETY: `exit` must not be called again here. What C programs have buffered is written first,
    // as `exit` would do after this function.
    unsafe {
        fflush(std::ptr::null_mut());
        _exit(CODE)
    }
}

/// A line for each thing.
fn leaks() -> Vec<String> {
    // Frees may be waiting in streams.
    if let Ok(scheduler) = scheduler() {
        scheduler.wait_all();
    }
    let objects = objects();
    let mut lines = Vec::new();
    let mut contexts: Vec<_> = objects.contexts.iter().collect();
    contexts.sort_unstable_by_key(|(handle, _)| **handle);
    for (handle, entry) in contexts {
        let primary = objects.primary[entry.device as usize];
        let kind = if primary.handle == *handle {
            format!("primary, retained {} times", primary.retained)
        } else {
            "of cuCtxCreate".into()
        };
        lines.push(format!("context of device {}, {kind}", entry.device));
        let table = entry.context.memory().table();
        // A module's variables go with it.
        for allocation in table.iter().filter(|a| !a.label.starts_with("variable ")) {
            let (label, bytes) = (&allocation.label, allocation.bytes);
            lines.push(format!("{label}, {bytes} bytes at {:#x}", allocation.address));
        }
    }
    for (start, pinned) in &objects.pinned {
        lines.push(format!("pinned host memory, {} bytes at {start:#x}", pinned.bytes));
    }
    for (what, count) in [
        ("streams", objects.streams.len()),
        ("events", objects.events.len()),
        ("libraries", objects.libraries.len()),
        ("modules", objects.modules.len().saturating_sub(objects.libraries.len())),
        ("graphs", objects.graphs.len()),
        ("executable graphs", objects.executables.len()),
    ] {
        if count > 0 {
            lines.push(format!("{what}: {count}"));
        }
    }
    lines
}
