//! The report of launches: one line of JSON for each, in the file that `CUDA_EMULATOR_REPORT` names.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::exec::race::Touch;
use crate::memory::Table;

/// Which bytes of device memory a launch touched, whatever how often.
#[derive(Debug)]
pub struct Touched {
    /// By place in the table of allocations: bits of bytes read, and of bytes written.
    bits: Vec<[OnceLock<Box<[AtomicU64]>>; 2]>,
}

impl Touched {
    /// Nothing yet.
    pub fn new(table: &Table) -> Self {
        Self { bits: (0..table.len()).map(|_| [OnceLock::new(), OnceLock::new()]).collect() }
    }

    /// An access of at most 16 aligned bytes that is in bounds.
    pub fn mark(&self, table: &Table, address: u64, bytes: u64, touch: Touch) {
        let Some(position) = table.position(address) else { return };
        let Some(allocation) = table.get(position) else { return };
        let side = &self.bits[position][usize::from(touch == Touch::Write)];
        let words = || crate::memory::zeroed_bits(allocation.bytes.div_ceil(64) as usize);
        let offset = address - allocation.address;
        let mask = (u64::MAX >> (64 - bytes)) << (offset % 64);
        side.get_or_init(words)[(offset / 64) as usize].fetch_or(mask, Ordering::Relaxed);
    }

    /// A longer stretch.
    pub fn mark_all(&self, table: &Table, address: u64, bytes: u64, touch: Touch) {
        for at in (address..address + bytes).step_by(16) {
            self.mark(table, at, 16.min(address + bytes - at), touch);
        }
    }

    /// Bytes that were touched.
    fn count(&self, touch: Touch) -> u64 {
        let side = usize::from(touch == Touch::Write);
        let bits = self.bits.iter().filter_map(|sides| sides[side].get());
        bits.flatten().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }

    /// Bytes that were read.
    pub fn read(&self) -> u64 {
        self.count(Touch::Read)
    }

    /// Bytes that were written.
    pub fn written(&self) -> u64 {
        self.count(Touch::Write)
    }
}

/// What a launch did, summed over its blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions times active lanes.
    pub lane_instructions: u64,
    /// Bytes that loads took from global memory.
    pub global_bytes_read: u64,
    /// Bytes that stores put into global memory.
    pub global_bytes_written: u64,
    /// 32-byte sectors that the loads of a warp touched, summed over instructions.
    pub global_sectors_read: u64,
    /// 32-byte sectors that the stores of a warp touched, summed over instructions.
    pub global_sectors_written: u64,
    /// Atomic operations on global memory, by lane.
    pub global_atomics: u64,
    /// Wavefronts of shared memory's banks; counted where a report is wanted.
    pub shared_wavefronts: u64,
    /// Of those, how many came of two words in one bank.
    pub shared_bank_conflicts: u64,
    /// Block barriers that were completed.
    pub barriers: u64,
    /// Cluster barriers that were completed.
    pub cluster_barriers: u64,
    /// Phases of mbarriers that were completed.
    pub mbarrier_phases: u64,
}

impl Counters {
    /// Adds another block's.
    pub fn add(&mut self, other: &Self) {
        self.lane_instructions += other.lane_instructions;
        self.global_bytes_read += other.global_bytes_read;
        self.global_bytes_written += other.global_bytes_written;
        self.global_sectors_read += other.global_sectors_read;
        self.global_sectors_written += other.global_sectors_written;
        self.global_atomics += other.global_atomics;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_bank_conflicts += other.shared_bank_conflicts;
        self.barriers += other.barriers;
        self.cluster_barriers += other.cluster_barriers;
        self.mbarrier_phases += other.mbarrier_phases;
    }
}

/// One launch.
#[derive(Debug)]
pub struct LaunchRecord<'a> {
    /// Kernel symbol.
    pub kernel: &'a str,
    /// Device name.
    pub device: &'a str,
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis.
    pub block: [u32; 3],
    /// Static and dynamic shared bytes of a block.
    pub shared_bytes: u64,
    /// What it did.
    pub counters: Counters,
}

impl LaunchRecord<'_> {
    /// One line of JSON, without its end.
    pub fn to_json(&self) -> String {
        let Self { kernel, device, grid, block, shared_bytes, counters } = self;
        let c = counters;
        format!(
            "{{\"kernel\":\"{kernel}\",\"device\":\"{device}\",\"grid\":{grid:?},\
             \"block\":{block:?},\"shared_bytes\":{shared_bytes},\
             \"lane_instructions\":{},\"global_bytes_read\":{},\"global_bytes_written\":{},\
             \"global_sectors_read\":{},\"global_sectors_written\":{},\"global_atomics\":{},\
             \"barriers\":{}}}",
            c.lane_instructions,
            c.global_bytes_read,
            c.global_bytes_written,
            c.global_sectors_read,
            c.global_sectors_written,
            c.global_atomics,
            c.barriers
        )
    }
}

static APPENDING: Mutex<()> = Mutex::new(());

/// Appends the record to a file; says so on stderr if it cannot.
pub fn append(path: &std::path::Path, record: &LaunchRecord<'_>) {
    let _guard = APPENDING.lock();
    let line = record.to_json() + "\n";
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("cuda-emulator: cannot write CUDA_EMULATOR_REPORT={}: {error}", path.display());
    }
}
