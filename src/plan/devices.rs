//! Devices whose properties are known, so that a plan for one can be asked for anywhere.
//!
//! From the CUDA programming guide (limits of a compute capability) and the vendor's data sheets
//! (multiprocessors, L2, bandwidth), with the kernels of a build for all GPUs. A loaded device is asked itself.

use super::DeviceProperties;

/// A device that can be bought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    /// What it is called here: one word in lower case.
    pub name: &'static str,
    /// What plans are made from.
    pub properties: DeviceProperties,
    /// What its memory is rated at. Copies reach about nine tenths of it.
    pub bytes_per_second: f64,
}

/// Capability 7.5: one pool of 64 KiB, no reserve of the driver's.
const TURING: DeviceProperties = DeviceProperties {
    compute_capability: (7, 5),
    compiled_for: (7, 5),
    multiprocessors: 0,
    max_grid: i32::MAX as u32,
    registers_per_multiprocessor: 65_536,
    threads_per_multiprocessor: 1024,
    blocks_per_multiprocessor: 16,
    shared_bytes_per_block: 65_536,
    shared_bytes_per_multiprocessor: 65_536,
    reserved_shared_bytes_per_block: 0,
    largest_cluster: 1,
    l2_bytes: 0,
};

const AMPERE_SERVER: DeviceProperties = DeviceProperties {
    compute_capability: (8, 0),
    compiled_for: (8, 0),
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    shared_bytes_per_block: 163 << 10,
    shared_bytes_per_multiprocessor: 164 << 10,
    reserved_shared_bytes_per_block: 1024,
    ..TURING
};

const ADA: DeviceProperties = DeviceProperties {
    compute_capability: (8, 9),
    threads_per_multiprocessor: 1536,
    blocks_per_multiprocessor: 24,
    shared_bytes_per_block: 99 << 10,
    shared_bytes_per_multiprocessor: 100 << 10,
    ..AMPERE_SERVER
};

const HOPPER: DeviceProperties = DeviceProperties {
    compute_capability: (9, 0),
    compiled_for: (9, 0),
    shared_bytes_per_block: 227 << 10,
    shared_bytes_per_multiprocessor: 228 << 10,
    largest_cluster: 8,
    ..AMPERE_SERVER
};

const BLACKWELL_SERVER: DeviceProperties =
    DeviceProperties { compute_capability: (10, 0), compiled_for: (10, 0), ..HOPPER };

const BLACKWELL: DeviceProperties = DeviceProperties {
    compute_capability: (12, 0),
    compiled_for: (12, 0),
    largest_cluster: 8,
    ..ADA
};

const fn device(
    name: &'static str,
    class: DeviceProperties,
    multiprocessors: u32,
    l2_mebibytes: u32,
    gigabytes_per_second: f64,
) -> Device {
    let properties = DeviceProperties { multiprocessors, l2_bytes: l2_mebibytes << 20, ..class };
    Device { name, properties, bytes_per_second: gigabytes_per_second * 1e9 }
}

/// H200, 141 GB.
pub const H200: Device = device("h200", HOPPER, 132, 60, 4800.0);
/// H100 SXM5, 80 GB.
pub const H100: Device = device("h100", HOPPER, 132, 50, 3350.0);
/// A100 SXM4, 80 GB.
pub const A100: Device = device("a100", AMPERE_SERVER, 108, 40, 2039.0);
/// L4.
pub const L4: Device = device("l4", ADA, 58, 48, 300.0);
/// T4.
pub const T4: Device = device("t4", TURING, 40, 4, 320.0);
/// GeForce RTX 4090.
pub const RTX_4090: Device = device("rtx4090", ADA, 128, 72, 1008.0);
/// B200.
pub const B200: Device = device("b200", BLACKWELL_SERVER, 148, 126, 8000.0);
/// GeForce RTX 5090.
pub const RTX_5090: Device = device("rtx5090", BLACKWELL, 170, 96, 1792.0);

/// All of them.
pub const ALL: [Device; 8] = [H200, H100, A100, L4, T4, RTX_4090, B200, RTX_5090];
