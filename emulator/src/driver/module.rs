//! `cuModule*`, `cuFunc*`.

use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::state::{Function, Module, current, objects, scheduler, uncaptured};
use super::{Handle, Out, Result, Text, api};
use crate::context::{MOST_CLUSTER_BLOCKS, PORTABLE_CLUSTER_BLOCKS};
use crate::error::Error;
use crate::fatbin;

fn load(module: &Out<Handle>, image: *const c_void) -> Result {
    module.set(load_image(image)?)
}

/// A module of the current context.
pub fn load_image(image: *const c_void) -> Result<Handle> {
    uncaptured()?;
    if image.is_null() {
        return Err(Error::InvalidValue("a null pointer for the image".into()));
    }
    let context = current()?;
    // SAFETY: the driver API has callers pass a fatbin, cubin or text that ends with a zero byte.
    let image = unsafe { fatbin::bytes_at(image) }?;
    let loaded = context.load_bytes(image)?;
    let mut objects = objects();
    let handle = objects.fresh();
    objects.modules.insert(handle, Module { context, loaded });
    Ok(handle)
}

/// Work that may use the module is done before.
pub fn unload(module: Handle) -> Result {
    uncaptured()?;
    let context = {
        let objects = objects();
        let found = objects.modules.get(&module).ok_or(Error::InvalidHandle("module"))?;
        found.context.id()
    };
    scheduler()?.wait_context(context);
    let mut objects = objects();
    let found = objects.modules.remove(&module).ok_or(Error::InvalidHandle("module"))?;
    objects.functions.retain(|_, function| function.module != module);
    found.context.unload(&found.loaded);
    Ok(())
}

/// A function of a module: the same handle for each request.
pub fn get_function(module: Handle, name: &str) -> Result<Handle> {
    let mut objects = objects();
    let known = objects.functions.iter().find(|(_, function)| {
        function.module == module && function.name.as_bytes() == name.as_bytes()
    });
    if let Some((handle, _)) = known {
        return Ok(*handle);
    }
    let found = objects.modules.get(&module).ok_or(Error::InvalidHandle("module"))?;
    let entry = Function {
        name: CString::new(name).unwrap_or_default(),
        module,
        context: found.context.clone(),
        kernel: found.loaded.kernel(name)?,
        max_dynamic_shared_bytes: AtomicU64::new(0),
        max_cluster_blocks: AtomicU32::new(PORTABLE_CLUSTER_BLOCKS),
    };
    let default = found.context.model().shared_per_block as u64;
    if let Ok(kernel) = &entry.kernel {
        let left = default.saturating_sub(kernel.static_shared_bytes);
        entry.max_dynamic_shared_bytes.store(left, Ordering::Relaxed);
    }
    let handle = objects.fresh();
    objects.functions.insert(handle, Arc::new(entry));
    Ok(handle)
}

pub fn function(handle: Handle) -> Result<Arc<Function>> {
    objects().functions.get(&handle).cloned().ok_or(Error::InvalidHandle("function"))
}

/// `CUfunction_attribute` by its number.
pub fn attribute(function: &Function, number: i32) -> Result<i32> {
    let kernel = function.kernel.as_ref().map_err(|error| Error::InvalidPtx(error.clone()))?;
    let architecture = function.context.model().architecture as i32;
    let required = kernel.cluster.unwrap_or([0; 3]);
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
        // NUM_REGS; without machine code for the device a number that fits every block.
        4 => kernel.registers.unwrap_or(64) as i32,
        5 => kernel.architecture as i32, // PTX_VERSION
        6 => architecture,               // BINARY_VERSION
        7 => 0,                          // CACHE_MODE_CA
        8 => function.max_dynamic_shared_bytes.load(Ordering::Relaxed) as i32,
        9 => -1, // PREFERRED_SHARED_MEMORY_CARVEOUT: default
        10 => 0, // CLUSTER_SIZE_MUST_BE_SET
        11..=13 => required[number as usize - 11] as i32, // REQUIRED_CLUSTER_WIDTH, _HEIGHT, _DEPTH
        // NON_PORTABLE_CLUSTER_SIZE_ALLOWED
        14 => {
            let most = function.max_cluster_blocks.load(Ordering::Relaxed);
            i32::from(most > PORTABLE_CLUSTER_BLOCKS)
        }
        15 => 0, // CLUSTER_SCHEDULING_POLICY_PREFERENCE: default
        _ => return Err(Error::NotSupported(format!("function attribute {number}"))),
    })
}

/// Sets an attribute by its number.
pub fn set_attribute(function: &Function, number: i32, value: i32) -> Result {
    match number {
        // MAX_DYNAMIC_SHARED_SIZE_BYTES
        8 => {
            let opt_in = function.context.model().shared_per_block_opt_in;
            let fixed = attribute(function, 1)?;
            if value < 0 || value + fixed > opt_in {
                return Err(Error::InvalidValue(format!(
                    "{value} dynamic shared bytes: with {fixed} static ones at most {opt_in}"
                )));
            }
            function.max_dynamic_shared_bytes.store(value as u64, Ordering::Relaxed);
            Ok(())
        }
        // PREFERRED_SHARED_MEMORY_CARVEOUT, CLUSTER_SCHEDULING_POLICY_PREFERENCE: hints
        9 | 15 => Ok(()),
        // NON_PORTABLE_CLUSTER_SIZE_ALLOWED
        14 => {
            let most = if value == 0 { PORTABLE_CLUSTER_BLOCKS } else { MOST_CLUSTER_BLOCKS };
            function.max_cluster_blocks.store(most, Ordering::Relaxed);
            Ok(())
        }
        10..=13 => Err(Error::NotSupported(format!(
            "setting function attribute {number}, a cluster size that kernels are compiled for,"
        ))),
        _ => Err(Error::NotSupported(format!("setting function attribute {number}"))),
    }
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
        unload(module)
    }

    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) {
        function.set(get_function(module, name.get()?)?)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle) {
        let objects = objects();
        let found = objects.modules.get(&module).ok_or(Error::InvalidHandle("module"))?;
        count.set(found.loaded.kernel_names().count() as u32)
    }

    fn cuModuleEnumerateFunctions(to: *mut Handle, count: u32, module: Handle) {
        let mut names: Vec<String> = {
            let objects = objects();
            let found = objects.modules.get(&module).ok_or(Error::InvalidHandle("module"))?;
            found.loaded.kernel_names().map(str::to_string).collect()
        };
        names.sort_unstable();
        for (at, name) in names.iter().take(count as usize).enumerate() {
            let handle = get_function(module, name)?;
            // SAFETY: the caller gives room for `count` functions.
            unsafe { to.add(at).write(handle) };
        }
        Ok(())
    }

    // CU_MODULE_EAGER_LOADING
    fn cuModuleGetLoadingMode(mode: Out<i32>) {
        mode.set(1)
    }

    fn cuFuncLoad(handle: Handle) {
        function(handle).map(|_| ())
    }

    // CU_FUNCTION_LOADING_STATE_LOADED
    fn cuFuncIsLoaded(state: Out<i32>, handle: Handle) {
        function(handle)?;
        state.set(1)
    }

    fn cuFuncGetParamInfo(
        handle: Handle,
        number: usize,
        offset: Out<usize>,
        bytes: Out<usize>,
    ) {
        let function = function(handle)?;
        let kernel = function.kernel.as_ref().map_err(|error| Error::InvalidPtx(error.clone()))?;
        let found = kernel.parameters.get(number);
        let found = found.ok_or_else(|| Error::InvalidValue(format!("parameter {number}")))?;
        offset.set(found.offset as usize)?;
        bytes.set_if_wanted(found.bytes as usize)
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
        set_attribute(&*function(handle)?, number, value)
    }

    // A hint.
    fn cuFuncSetCacheConfig(handle: Handle, _config: i32) {
        function(handle).map(|_| ())
    }
}
