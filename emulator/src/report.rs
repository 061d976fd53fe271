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

/// What instructions do, as far as it decides what they cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Arithmetic and logic of integers, addresses among them.
    Integer,
    /// f32 arithmetic.
    Float,
    /// f16 and bf16 arithmetic.
    Half,
    /// f64 arithmetic.
    Double,
    /// Functions of the special-function unit: `ex2`, `lg2`, `rcp`, `sqrt`, divisions.
    Special,
    /// Conversions between types.
    Convert,
    /// Comparisons, selections and logic of predicates.
    Compare,
    /// Moves, which a GPU's compiler mostly removes.
    Move,
    /// Loads and stores of device memory, or of an address whose space shows when it is used.
    Global,
    /// Loads and stores of shared memory.
    Shared,
    /// Loads and stores of parameters, constants and local memory.
    OtherMemory,
    /// Atomics.
    Atomic,
    /// Shuffles, votes and their kin.
    Collective,
    /// Barriers, fences and mbarriers.
    Synchronisation,
    /// Asynchronous copies.
    Copy,
    /// Branches and exits.
    Control,
}

impl Class {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::Integer,
        Self::Float,
        Self::Half,
        Self::Double,
        Self::Special,
        Self::Convert,
        Self::Compare,
        Self::Move,
        Self::Global,
        Self::Shared,
        Self::OtherMemory,
        Self::Atomic,
        Self::Collective,
        Self::Synchronisation,
        Self::Copy,
        Self::Control,
    ];

    /// As the report writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Float => "f32",
            Self::Half => "half",
            Self::Double => "f64",
            Self::Special => "special",
            Self::Convert => "convert",
            Self::Compare => "compare",
            Self::Move => "move",
            Self::Global => "global",
            Self::Shared => "shared",
            Self::OtherMemory => "other_memory",
            Self::Atomic => "atomic",
            Self::Collective => "collective",
            Self::Synchronisation => "synchronisation",
            Self::Copy => "copy",
            Self::Control => "control",
        }
    }
}

/// What a launch did, summed over its blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions times active lanes, by [`Class`].
    pub lane_instructions_by_class: [u64; Class::ALL.len()],
    /// Bytes that loads took from global memory; what several lanes of one instruction read counts once.
    pub global_bytes_read: u64,
    /// Bytes that stores put into global memory, counted alike.
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
    /// Instructions times active lanes.
    pub fn lane_instructions(&self) -> u64 {
        self.lane_instructions_by_class.iter().sum()
    }

    /// Adds another block's.
    pub fn add(&mut self, other: &Self) {
        for (own, more) in
            self.lane_instructions_by_class.iter_mut().zip(other.lane_instructions_by_class)
        {
            *own += more;
        }
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
    /// Blocks of a cluster by axis.
    pub cluster: [u32; 3],
    /// Static and dynamic shared bytes of a block.
    pub shared_bytes: u64,
    /// What it did.
    pub counters: Counters,
    /// Bytes of device memory that it read, each counted once.
    pub unique_bytes_read: u64,
    /// The same of those that it wrote.
    pub unique_bytes_written: u64,
}

impl LaunchRecord<'_> {
    /// One line of JSON, without its end.
    pub fn to_json(&self) -> String {
        let Self { kernel, device, grid, block, cluster, shared_bytes, counters, .. } = self;
        let c = counters;
        let classes: Vec<String> = Class::ALL
            .iter()
            .zip(c.lane_instructions_by_class)
            .map(|(class, count)| format!("\"{}\":{count}", class.name()))
            .collect();
        let numbers = [
            ("shared_bytes", *shared_bytes),
            ("lane_instructions", c.lane_instructions()),
            ("global_bytes_read", c.global_bytes_read),
            ("global_bytes_written", c.global_bytes_written),
            ("global_sectors_read", c.global_sectors_read),
            ("global_sectors_written", c.global_sectors_written),
            ("unique_bytes_read", self.unique_bytes_read),
            ("unique_bytes_written", self.unique_bytes_written),
            ("global_atomics", c.global_atomics),
            ("shared_wavefronts", c.shared_wavefronts),
            ("shared_bank_conflicts", c.shared_bank_conflicts),
            ("barriers", c.barriers),
            ("cluster_barriers", c.cluster_barriers),
            ("mbarrier_phases", c.mbarrier_phases),
        ];
        let numbers: Vec<String> =
            numbers.iter().map(|(name, number)| format!("\"{name}\":{number}")).collect();
        format!(
            "{{\"kernel\":\"{kernel}\",\"device\":\"{device}\",\"grid\":{grid:?},\
             \"block\":{block:?},\"cluster\":{cluster:?},{},\
             \"lane_instructions_by_class\":{{{}}}}}",
            numbers.join(","),
            classes.join(",")
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
