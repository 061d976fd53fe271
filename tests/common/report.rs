//! The emulated driver's report of launches.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::{env, fs};

use serde::Deserialize;

/// A line of the report, as far as it is read here.
#[derive(Deserialize)]
pub struct Launch {
    pub lane_instructions: u64,
    pub lane_instructions_by_class: Classes,
    pub global_bytes_read: u64,
    pub global_bytes_written: u64,
    pub global_sectors_read: u64,
    pub global_sectors_written: u64,
    pub shared_wavefronts: u64,
    pub shared_bank_conflicts: u64,
}

/// Of the instructions, by what they do, as far as it is read here.
#[derive(Deserialize)]
pub struct Classes {
    pub r#move: u64,
}

/// The file that the driver of this process appends to.
#[derive(Clone)]
pub struct Report {
    file: Arc<File>,
}

struct File {
    path: PathBuf,
    /// Lines that were taken.
    taken: Mutex<usize>,
}

impl Report {
    /// Makes the driver report.
    ///
    /// # Safety
    /// No other thread runs yet, and the driver, which reads its settings once, was not called.
    pub unsafe fn begin() -> Self {
        let path = env::temp_dir().join(format!("smoothxent-report-{}.jsonl", std::process::id()));
        // SAFETY: no other thread reads or writes the environment, as the caller says.
        unsafe { env::set_var("CUDA_EMULATOR_REPORT", &path) };
        Self { file: Arc::new(File { path, taken: Mutex::new(0) }) }
    }

    /// The launches since the last call.
    pub fn take(&self) -> Result<Vec<Launch>, String> {
        // Before the first launch there is no file.
        let text = fs::read_to_string(&self.file.path).unwrap_or_default();
        let mut taken = self.file.taken.lock().map_err(|error| error.to_string())?;
        let launches = text
            .lines()
            .skip(*taken)
            .map(|line| serde_json::from_str(line).map_err(|error| format!("{line}: {error}")))
            .collect::<Result<Vec<_>, _>>()?;
        *taken += launches.len();
        Ok(launches)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
