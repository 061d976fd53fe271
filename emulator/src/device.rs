//! The devices that can be emulated: one table of what NVIDIA documents of each.

/// A GPU as the driver describes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Model {
    /// `Emulated sm_90 (CPU, no GPU)`
    pub name: &'static str,
    /// Compute capability times ten.
    pub architecture: u32,
    /// Multiprocessors.
    pub multiprocessors: i32,
    /// Shared bytes of a block that asks for no more.
    pub shared_per_block: i32,
    /// Shared bytes of a block at most.
    pub shared_per_block_opt_in: i32,
    /// Shared bytes of a multiprocessor.
    pub shared_per_multiprocessor: i32,
    /// Shared bytes that the system takes of each block.
    pub shared_reserved_per_block: i32,
    /// Threads of a multiprocessor at most.
    pub threads_per_multiprocessor: i32,
    /// Blocks of a multiprocessor at most.
    pub blocks_per_multiprocessor: i32,
    /// Registers of a multiprocessor, and of a block at most.
    pub registers: u32,
    /// Multiprocessors of each partition that a cluster fits into; none on a device without clusters.
    pub partitions: &'static [i32],
    /// Throughput of f32 over f64 arithmetic.
    pub f32_per_f64: i32,
    /// Bytes of level-2 cache.
    pub l2_bytes: i32,
    /// In kHz.
    pub clock_khz: i32,
    /// In kHz.
    pub memory_clock_khz: i32,
    /// In bits.
    pub memory_bus_bits: i32,
}

/// Device memory of every model. The host's is used as far as it is touched.
pub const TOTAL_MEMORY: u64 = 64 << 30;
/// Emulated devices in a process, all of the same model.
pub const COUNT: i32 = 2;

/// V100, T4, A100 and H100 SXM.
pub static MODELS: [Model; 4] = [
    Model {
        name: "Emulated sm_70 (CPU, no GPU)",
        architecture: 70,
        multiprocessors: 80,
        shared_per_block: 48 << 10,
        shared_per_block_opt_in: 96 << 10,
        shared_per_multiprocessor: 96 << 10,
        shared_reserved_per_block: 0,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        registers: 65536,
        partitions: &[],
        f32_per_f64: 2,
        l2_bytes: 6 << 20,
        clock_khz: 1_530_000,
        memory_clock_khz: 877_000,
        memory_bus_bits: 4096,
    },
    Model {
        name: "Emulated sm_75 (CPU, no GPU)",
        architecture: 75,
        multiprocessors: 40,
        shared_per_block: 48 << 10,
        shared_per_block_opt_in: 64 << 10,
        shared_per_multiprocessor: 64 << 10,
        shared_reserved_per_block: 0,
        threads_per_multiprocessor: 1024,
        blocks_per_multiprocessor: 16,
        registers: 65536,
        partitions: &[],
        f32_per_f64: 32,
        l2_bytes: 4 << 20,
        clock_khz: 1_590_000,
        memory_clock_khz: 5_001_000,
        memory_bus_bits: 256,
    },
    Model {
        name: "Emulated sm_80 (CPU, no GPU)",
        architecture: 80,
        multiprocessors: 108,
        shared_per_block: 48 << 10,
        shared_per_block_opt_in: 163 << 10,
        shared_per_multiprocessor: 164 << 10,
        shared_reserved_per_block: 1024,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        registers: 65536,
        partitions: &[],
        f32_per_f64: 2,
        l2_bytes: 40 << 20,
        clock_khz: 1_410_000,
        memory_clock_khz: 1_215_000,
        memory_bus_bits: 5120,
    },
    Model {
        name: "Emulated sm_90 (CPU, no GPU)",
        architecture: 90,
        multiprocessors: 132,
        shared_per_block: 48 << 10,
        shared_per_block_opt_in: 227 << 10,
        shared_per_multiprocessor: 228 << 10,
        shared_reserved_per_block: 1024,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        registers: 65536,
        partitions: &[16, 16, 16, 16, 16, 16, 18, 18],
        f32_per_f64: 2,
        l2_bytes: 50 << 20,
        clock_khz: 1_980_000,
        memory_clock_khz: 2_619_000,
        memory_bus_bits: 5120,
    },
];

/// The model for a name such as `sm_80`.
pub fn named(name: &str) -> Option<&'static Model> {
    let architecture: u32 = name.strip_prefix("sm_")?.parse().ok()?;
    MODELS.iter().find(|model| model.architecture == architecture)
}

/// Registers are given to a warp in units of these.
const REGISTER_UNIT: u32 = 256;
/// Registers of a thread at most.
const REGISTERS_PER_THREAD: u32 = 255;
/// Schedulers of a multiprocessor: each has a part of its registers.
const SCHEDULERS: u32 = 4;

impl Model {
    /// Blocks of a kernel that fit one multiprocessor. A kernel's registers are unknown where its
    /// image has no machine code for the device.
    pub fn resident_blocks(&self, threads: u32, shared_bytes: u64, registers: Option<u32>) -> i32 {
        if threads == 0 || threads > 1024 || shared_bytes > self.shared_per_block_opt_in as u64 {
            return 0;
        }
        let rounded = threads.next_multiple_of(32) as i32;
        let shared = shared_bytes + self.shared_reserved_per_block as u64;
        let by_shared = match shared.next_multiple_of(self.shared_unit()) {
            0 => self.blocks_per_multiprocessor,
            bytes => (self.shared_per_multiprocessor as u64 / bytes) as i32,
        };
        let by_registers =
            registers.map_or(i32::MAX, |each| self.blocks_by_registers(threads, each));
        (self.threads_per_multiprocessor / rounded)
            .min(by_shared)
            .min(by_registers)
            .min(self.blocks_per_multiprocessor)
    }

    /// Shared memory is given to a block in units of these bytes.
    fn shared_unit(&self) -> u64 {
        if self.architecture < 80 { 256 } else { 128 }
    }

    /// Blocks of threads with so many registers that fit one multiprocessor, as `cuda_occupancy.h`
    /// of NVIDIA's toolkit counts them.
    pub fn blocks_by_registers(&self, threads: u32, registers: u32) -> i32 {
        let warps = threads.div_ceil(32);
        let per_warp = (registers * 32).next_multiple_of(REGISTER_UNIT);
        if per_warp == 0 {
            return i32::MAX;
        }
        // A block's registers are checked as if each scheduler had as many of its warps.
        let assumed = per_warp * warps.next_multiple_of(SCHEDULERS);
        if assumed > self.registers || registers > REGISTERS_PER_THREAD || warps == 0 {
            return 0;
        }
        let resident = self.registers / SCHEDULERS / per_warp * SCHEDULERS;
        (resident / warps) as i32
    }

    /// Clusters of so many blocks that the device holds at a time, with so many blocks to a
    /// multiprocessor: a cluster lies within one partition.
    pub fn resident_clusters(&self, blocks: u32, resident: i32) -> i32 {
        self.partitions.iter().map(|partition| partition * resident / blocks.max(1) as i32).sum()
    }
}
