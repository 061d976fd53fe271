//! `cuInit`, `cuDevice*`, `cuDevicePrimaryCtx*`.

use std::ffi::c_char;

use super::state::{Primary, check_device, end_context, objects, settings};
use super::{Handle, Out, Result, Text, api};
use crate::device::{COUNT, Model, TOTAL_MEMORY};
use crate::error::Error;
use crate::settings::Settings;

/// What `cuDriverGetVersion` reports: a CUDA 13.0 driver.
const VERSION: i32 = 13_000;

/// `CUdevice_attribute` by its number in `cuda.h`. A feature that the emulator lacks is one that its
/// devices lack, so that programs find another way.
fn attribute(settings: &Settings, number: i32, device: i32) -> Option<i32> {
    let model = settings.model;
    // Textures and surfaces are not emulated: their sizes are what such a GPU has.
    Some(match number {
        1 => 1024,                                      // MAX_THREADS_PER_BLOCK
        2 | 3 => 1024,                                  // MAX_BLOCK_DIM_X, _Y
        4 => 64,                                        // MAX_BLOCK_DIM_Z
        5 => settings.max_grid,                         // MAX_GRID_DIM_X
        6 | 7 => 65535,                                 // MAX_GRID_DIM_Y, _Z
        8 => model.shared_per_block,                    // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 64 << 10,                                  // TOTAL_CONSTANT_MEMORY
        10 => 32,                                       // WARP_SIZE
        11 => i32::MAX,                                 // MAX_PITCH
        12 | 82 => model.registers as i32, // MAX_REGISTERS_PER_BLOCK, _PER_MULTIPROCESSOR
        13 => model.clock_khz,             // CLOCK_RATE
        14 => 512,                         // TEXTURE_ALIGNMENT
        15 => 1,                           // GPU_OVERLAP
        16 => model.multiprocessors,       // MULTIPROCESSOR_COUNT
        17..=19 => 0,                      // KERNEL_EXEC_TIMEOUT, INTEGRATED, CAN_MAP_HOST_MEMORY
        20 => 0,                           // COMPUTE_MODE
        21 | 55 => 131_072,                // MAXIMUM_TEXTURE1D_WIDTH, _SURFACE2D_LAYERED_...
        22 => 131_072,                     // MAXIMUM_TEXTURE2D_WIDTH
        23 => 65536,                       // MAXIMUM_TEXTURE2D_HEIGHT
        24..=26 => 16384,                  // MAXIMUM_TEXTURE3D_*
        27 | 28 | 42 => 32768,             // MAXIMUM_TEXTURE2D_LAYERED_*, TEXTURE1D_LAYERED_WIDTH
        29 | 43 => 2048,                   // their LAYERS
        30 => 512,                         // SURFACE_ALIGNMENT
        31 => 1,                           // CONCURRENT_KERNELS
        32 => 1,                           // ECC_ENABLED
        33 => device + 1,                  // PCI_BUS_ID
        34 | 50 => 0,                      // PCI_DEVICE_ID, PCI_DOMAIN_ID
        35 => 0,                           // TCC_DRIVER
        36 => model.memory_clock_khz,      // MEMORY_CLOCK_RATE
        37 => model.memory_bus_bits,       // GLOBAL_MEMORY_BUS_WIDTH
        38 => model.l2_bytes,              // L2_CACHE_SIZE
        39 => model.threads_per_multiprocessor, // MAX_THREADS_PER_MULTIPROCESSOR
        40 => 2,                           // ASYNC_ENGINE_COUNT
        41 => 1,                           // UNIFIED_ADDRESSING
        44 => 0,                           // CAN_TEX2D_GATHER
        45 | 46 => 32768,                  // MAXIMUM_TEXTURE2D_GATHER_*
        47..=49 => 0,                      // MAXIMUM_TEXTURE3D_*_ALTERNATE
        51 => 32,                          // TEXTURE_PITCH_ALIGNMENT
        52..=54 => 32768,                  // MAXIMUM_TEXTURECUBEMAP_*
        56..=68 => 16384,                  // MAXIMUM_SURFACE*
        69..=74 | 77 => 65000,             // MAXIMUM_TEXTURE*_LINEAR_*, _MIPMAPPED_*
        75 => (model.architecture / 10) as i32, // COMPUTE_CAPABILITY_MAJOR
        76 => (model.architecture % 10) as i32, // COMPUTE_CAPABILITY_MINOR
        78 => 1,                           // STREAM_PRIORITIES_SUPPORTED
        79 | 80 => 1,                      // GLOBAL_L1_CACHE_SUPPORTED, LOCAL_
        81 => model.shared_per_multiprocessor, // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        83 => 0,                           // MANAGED_MEMORY
        84 | 85 => 0,                      // MULTI_GPU_BOARD, _GROUP_ID
        86 => 0,                           // HOST_NATIVE_ATOMIC_SUPPORTED
        87 => model.f32_per_f64,           // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        88 | 89 => 0,                      // PAGEABLE_MEMORY_ACCESS, CONCURRENT_MANAGED_ACCESS
        90 => 1,                           // COMPUTE_PREEMPTION_SUPPORTED
        91..=96 => 0, // host pointers of registered memory, stream memory operations, cooperation
        97 => model.shared_per_block_opt_in, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        98 => 0,      // CAN_FLUSH_REMOTE_WRITES
        99 => 1,      // HOST_REGISTER_SUPPORTED
        100..=105 => 0, // host page tables, virtual memory, handles
        106 => model.blocks_per_multiprocessor, // MAX_BLOCKS_PER_MULTIPROCESSOR
        107..=110 => 0, // compression, persisting L2, access policy window, RDMA
        111 => model.shared_reserved_per_block, // RESERVED_SHARED_MEMORY_PER_BLOCK
        112..=114 | 116..=119 => 0, // sparse arrays, read-only registration, semaphores, RDMA
        115 => 1,     // MEMORY_POOLS_SUPPORTED
        120 => i32::from(!model.partitions.is_empty()), // CLUSTER_LAUNCH
        121..=152 => 0, // interprocess, tensor maps, NUMA, multicast, decompression, graphics
        _ => return None,
    })
}

api! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Error::InvalidValue(format!("flags {flags}")));
        }
        settings()?;
        super::leaks::watch();
        Ok(())
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(VERSION)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        count.set(COUNT)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        check_device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetName(name: *mut c_char, length: i32, device: i32) {
        check_device(device)?;
        write_text(name, length, settings()?.model.name)
    }

    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) {
        check_device(device)?;
        uuid.set(uuid_of(settings()?.model, device))
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) {
        check_device(device)?;
        uuid.set(uuid_of(settings()?.model, device))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        check_device(device)?;
        bytes.set(TOTAL_MEMORY as usize)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, number: i32, device: i32) {
        check_device(device)?;
        match attribute(settings()?, number, device) {
            Some(found) => value.set(found),
            None => Err(Error::NotSupported(format!("device attribute {number}"))),
        }
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        check_device(device)?;
        let architecture = settings()?.model.architecture as i32;
        major.set(architecture / 10)?;
        minor.set(architecture % 10)
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        check_device(device)?;
        check_device(peer)?;
        can.set(i32::from(device != peer))
    }

    fn cuDeviceGetP2PAttribute(value: Out<i32>, attribute: i32, device: i32, peer: i32) {
        check_device(device)?;
        check_device(peer)?;
        if device == peer {
            return Err(Error::InvalidDevice(peer));
        }
        match attribute {
            1 => value.set(0),     // PERFORMANCE_RANK
            2 => value.set(1),     // ACCESS_SUPPORTED
            3..=5 => value.set(0), // NATIVE_ATOMIC_, CUDA_ARRAY_ACCESS_, ONLY_PARTIAL_ATOMIC_
            _ => Err(Error::InvalidValue(format!("attribute {attribute} of two devices"))),
        }
    }

    fn cuDeviceGetPCIBusId(text: *mut c_char, length: i32, device: i32) {
        check_device(device)?;
        write_text(text, length, &bus_id(device))
    }

    fn cuDeviceGetByPCIBusId(device: Out<i32>, text: Text) {
        let text = text.get()?.to_ascii_lowercase();
        // The domain may be left out.
        let found = (0..COUNT).find(|&device| bus_id(device).ends_with(&text) && text.len() >= 7);
        let none = || Error::InvalidValue(format!("no device at PCI address {text}"));
        device.set(found.ok_or_else(none)?)
    }

    fn cuDeviceGetExecAffinitySupport(supported: Out<i32>, _kind: i32, device: i32) {
        check_device(device)?;
        supported.set(0)
    }

    fn cuDeviceSetMemPool(device: i32, pool: Handle) {
        if pool == POOL + check_device(device)? {
            Ok(())
        } else {
            Err(Error::NotSupported("a memory pool of one's own".into()))
        }
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: i32) {
        pool.set(POOL + check_device(device)?)
    }

    fn cuDeviceGetMemPool(pool: Out<Handle>, device: i32) {
        pool.set(POOL + check_device(device)?)
    }

    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) {
        let at = check_device(device)?;
        let mut objects = objects();
        if objects.primary[at].retained == 0 {
            objects.primary[at].handle = objects.new_context(device)?;
        }
        objects.primary[at].retained += 1;
        context.set(objects.primary[at].handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        let at = check_device(device)?;
        let mut objects = objects();
        let Primary { handle, retained, .. } = objects.primary[at];
        match retained {
            0 => Err(Error::InvalidContext),
            1 => {
                objects.primary[at].retained = 0;
                drop(objects);
                end_context(handle)
            }
            _ => {
                objects.primary[at].retained -= 1;
                Ok(())
            }
        }
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        let at = check_device(device)?;
        let primary = objects().primary[at];
        if primary.retained == 0 {
            return Ok(());
        }
        objects().primary[at].retained = 0;
        end_context(primary.handle)
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let at = check_device(device)?;
        let primary = objects().primary[at];
        flags.set(primary.flags)?;
        active.set(i32::from(primary.retained > 0))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        let at = check_device(device)?;
        objects().primary[at].flags = flags;
        Ok(())
    }
}

/// Where a device would be plugged in.
fn bus_id(device: i32) -> String {
    format!("0000:{:02x}:00.0", device + 1)
}

/// Writes text with a zero byte behind it, as much as there is room for.
fn write_text(to: *mut c_char, length: i32, text: &str) -> Result {
    let room = usize::try_from(length).unwrap_or(0);
    if to.is_null() || room == 0 {
        return Err(Error::InvalidValue("no room for text".into()));
    }
    let copied = text.len().min(room - 1);
    // SAFETY: the caller gives `length` bytes.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), copied);
        to.add(copied).write(0);
    }
    Ok(())
}

/// Handle of device 0's memory pool; the others follow.
pub const POOL: Handle = 0x100;

fn uuid_of(model: &Model, device: i32) -> [u8; 16] {
    let mut uuid = *b"cuda-emulator\0\0\0";
    uuid[14] = model.architecture as u8;
    uuid[15] = device as u8;
    uuid
}
