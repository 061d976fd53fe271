//! `cuModule*`, `cuFunc*`, `cuOccupancy*`.

use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::state::{Function, Module, current, objects};
use super::{Handle, Out, Result, Text, api};
use crate::error::Error;
use crate::fatbin;

fn load(module: &Out<Handle>, image: *const c_void) -> Result {
    if image.is_null() {
        return Err(Error::InvalidValue("a null pointer for the image".into()));
    }
    let context = current()?;
    // SAFETY: the driver API has callers pass a fatbin, cubin or text that ends with a zero byte.
    let ptx = unsafe { fatbin::ptx_of_image(image, context.model().architecture) }?;
    add(module, &ptx)
}

fn add(module: &Out<Handle>, ptx: &str) -> Result {
    let context = current()?;
    let loaded = context.load(ptx)?;
    let mut objects = objects();
    let handle = objects.fresh();
    objects.modules.insert(handle, Module { context, loaded });
    module.set(handle)
}

pub fn function(handle: Handle) -> Result<Arc<Function>> {
    objects().functions.get(&handle).cloned().ok_or(Error::InvalidHandle("function"))
}

/// `CUfunction_attribute` by its number.
fn attribute(function: &Function, number: i32) -> Result<i32> {
    let kernel = function.kernel.as_ref().map_err(|error| Error::InvalidPtx(error.clone()))?;
    let architecture = function.context.model().architecture as i32;
    Ok(match number {
        // MAX_THREADS_PER_BLOCK
        0 => {
            if kernel.max_threads == 0 {
                1024
            } else {
                kernel.max_threads.min(1024) as i32
            }
        }
        1 => kernel.static_shared_bytes as i32, // SHARED_SIZE_BYTES
        2 => 0,                                 // CONST_SIZE_BYTES
        3 => kernel.local_bytes as i32,         // LOCAL_SIZE_BYTES
        // NUM_REGS is ptxas's business; a number that fits every block.
        4 => 64,
        5 | 6 => architecture, // PTX_VERSION, BINARY_VERSION
        7 => 0,                // CACHE_MODE_CA
        8 => function.max_dynamic_shared_bytes.load(Ordering::Relaxed) as i32,
        9 => -1,      // PREFERRED_SHARED_MEMORY_CARVEOUT: default
        10..=15 => 0, // clusters
        _ => return Err(Error::NotSupported(format!("function attribute {number}"))),
    })
}

fn resident_blocks(function: &Function, threads: i32, dynamic: usize) -> Result<i32> {
    let kernel = function.kernel.as_ref().map_err(|error| Error::InvalidPtx(error.clone()))?;
    let shared = kernel.static_shared_bytes + dynamic as u64;
    Ok(function.context.model().resident_blocks(u32::try_from(threads).unwrap_or(0), shared))
}

/// The block size with the most resident threads, the largest among equals.
fn best_block(
    function: &Function,
    shared: impl Fn(i32) -> usize,
    limit: i32,
) -> Result<(i32, i32)> {
    let most = attribute(function, 0)?;
    let most = if limit > 0 { most.min(limit) } else { most };
    let mut best = (0, 0);
    for threads in (32..=most).step_by(32) {
        let blocks = resident_blocks(function, threads, shared(threads))?;
        if blocks * threads >= best.0 * best.1 && blocks > 0 {
            best = (blocks, threads);
        }
    }
    Ok((best.0 * function.context.model().multiprocessors, best.1))
}

/// `CUoccupancyB2DSize`
type SharedBytesOfBlock = Option<unsafe extern "C" fn(i32) -> usize>;

fn potential_block(
    grid: &Out<i32>,
    block: &Out<i32>,
    handle: Handle,
    of_block: SharedBytesOfBlock,
    shared: usize,
    limit: i32,
) -> Result {
    let shared = |threads| match of_block {
        // SAFETY: the caller gives a function that may be called with any block size.
        Some(of_block) => unsafe { of_block(threads) },
        None => shared,
    };
    let (blocks, threads) = best_block(&*function(handle)?, shared, limit)?;
    grid.set(blocks)?;
    block.set(threads)
}

api! {
    fn cuModuleLoadData(module: Out<Handle>, image: *const c_void) {
        load(&module, image)
    }

    fn cuModuleLoadFatBinary(module: Out<Handle>, image: *const c_void) {
        load(&module, image)
    }

    // Options steer ptxas, which does not run here.
    fn cuModuleLoadDataEx(
        module: Out<Handle>,
        image: *const c_void,
        _count: u32,
        _options: usize,
        _values: usize,
    ) {
        load(&module, image)
    }

    fn cuModuleLoad(module: Out<Handle>, path: Text) {
        let path = path.get()?;
        let mut bytes = std::fs::read(path)
            .map_err(|error| Error::NotFound(format!("file {path}: {error}")))?;
        bytes.push(0);
        load(&module, bytes.as_ptr().cast())
    }

    fn cuModuleUnload(module: Handle) {
        let mut objects = objects();
        let found = objects.modules.remove(&module).ok_or(Error::InvalidHandle("module"))?;
        objects.functions.retain(|_, function| function.module != module);
        found.context.unload(&found.loaded);
        Ok(())
    }

    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) {
        let name = name.get()?;
        let mut objects = objects();
        let found = objects.modules.get(&module).ok_or(Error::InvalidHandle("module"))?;
        let entry = Function {
            name: CString::new(name).unwrap_or_default(),
            module,
            context: found.context.clone(),
            kernel: found.loaded.kernel(name)?,
            max_dynamic_shared_bytes: AtomicU64::new(0),
        };
        let default = found.context.model().shared_per_block as u64;
        if let Ok(kernel) = &entry.kernel {
            let left = default.saturating_sub(kernel.static_shared_bytes);
            entry.max_dynamic_shared_bytes.store(left, Ordering::Relaxed);
        }
        let handle = objects.fresh();
        objects.functions.insert(handle, Arc::new(entry));
        function.set(handle)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) {
        let objects = objects();
        let found = objects.modules.get(&module).ok_or(Error::InvalidHandle("module"))?;
        let (start, size) = found.loaded.variable(name.get()?)?;
        address.set_if_wanted(start)?;
        bytes.set_if_wanted(size as usize)
    }

    fn cuFuncGetName(name: Out<*const c_char>, handle: Handle) {
        // The text lives as long as the function is registered.
        name.set(function(handle)?.name.as_ptr())
    }

    fn cuFuncGetModule(module: Out<Handle>, handle: Handle) {
        module.set(function(handle)?.module)
    }

    fn cuFuncGetAttribute(value: Out<i32>, number: i32, handle: Handle) {
        value.set(attribute(&*function(handle)?, number)?)
    }

    fn cuFuncSetAttribute(handle: Handle, number: i32, value: i32) {
        let function = function(handle)?;
        match number {
            // MAX_DYNAMIC_SHARED_SIZE_BYTES
            8 => {
                let opt_in = function.context.model().shared_per_block_opt_in;
                let fixed = attribute(&function, 1)?;
                if value < 0 || value + fixed > opt_in {
                    return Err(Error::InvalidValue(format!(
                        "{value} dynamic shared bytes: with {fixed} static ones at most {opt_in}"
                    )));
                }
                function.max_dynamic_shared_bytes.store(value as u64, Ordering::Relaxed);
                Ok(())
            }
            // PREFERRED_SHARED_MEMORY_CARVEOUT: a hint
            9 => Ok(()),
            _ => Err(Error::NotSupported(format!("setting function attribute {number}"))),
        }
    }

    // A hint.
    fn cuFuncSetCacheConfig(handle: Handle, _config: i32) {
        function(handle).map(|_| ())
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<i32>,
        handle: Handle,
        threads: i32,
        shared: usize,
    ) {
        blocks.set(resident_blocks(&*function(handle)?, threads, shared)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>,
        handle: Handle,
        threads: i32,
        shared: usize,
        _flags: u32,
    ) {
        blocks.set(resident_blocks(&*function(handle)?, threads, shared)?)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>,
        handle: Handle,
        blocks: i32,
        _threads: i32,
    ) {
        let function = function(handle)?;
        let model = function.context.model();
        let fixed = attribute(&function, 1)? + model.shared_reserved_per_block;
        let each = model.shared_per_multiprocessor / blocks.max(1) / 128 * 128;
        let left = (each - fixed).clamp(0, model.shared_per_block_opt_in - attribute(&function, 1)?);
        bytes.set(left as usize)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>,
        block: Out<i32>,
        handle: Handle,
        of_block: SharedBytesOfBlock,
        shared: usize,
        limit: i32,
    ) {
        potential_block(&grid, &block, handle, of_block, shared, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>,
        block: Out<i32>,
        handle: Handle,
        of_block: SharedBytesOfBlock,
        shared: usize,
        limit: i32,
        _flags: u32,
    ) {
        potential_block(&grid, &block, handle, of_block, shared, limit)
    }
}
