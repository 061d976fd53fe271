//! `cuLaunchKernel` and its kin.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use super::module::function;
use super::state::stream_context;
use super::{Handle, Result, api};
use crate::context::LaunchConfig;
use crate::error::Error;
use crate::ptx::ir::Kernel;

/// `CUlaunchConfig`
#[repr(C)]
struct CuLaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: Handle,
    attributes: *const CuLaunchAttribute,
    attribute_count: u32,
}

/// `CUlaunchAttribute`
#[repr(C)]
struct CuLaunchAttribute {
    id: u32,
    pad: u32,
    value: [u64; 8],
}

/// The parameter space that `kernelParams` describes: a pointer to each parameter.
fn parameters(kernel: &Kernel, from: *const *const c_void) -> Result<Vec<u8>> {
    let mut space = vec![0; kernel.parameter_bytes as usize];
    if from.is_null() && !kernel.parameters.is_empty() {
        return Err(Error::InvalidValue("no kernel parameters".into()));
    }
    for (at, parameter) in kernel.parameters.iter().enumerate() {
        // SAFETY: `kernelParams` has one pointer for each parameter of the kernel.
        let source = unsafe { from.add(at).read() };
        if source.is_null() {
            return Err(Error::InvalidValue(format!("kernel parameter {at} is null")));
        }
        let bytes = parameter.bytes as usize;
        // SAFETY: each points at a value of the size that the kernel declares.
        let value = unsafe { std::slice::from_raw_parts(source.cast::<u8>(), bytes) };
        space[parameter.offset as usize..][..bytes].copy_from_slice(value);
    }
    Ok(space)
}

fn launch(
    handle: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: Handle,
    arguments: *const *const c_void,
    extra: usize,
) -> Result {
    let context = stream_context(stream)?;
    let function = function(handle)?;
    if function.context.id() != context.id() {
        return Err(Error::InvalidHandle("function of this context"));
    }
    if extra != 0 {
        return Err(Error::NotSupported("a launch with `extra`".into()));
    }
    let kernel = function.kernel.as_ref().map_err(|error| Error::InvalidPtx(error.clone()))?;
    let config = LaunchConfig {
        grid,
        block,
        cluster: [1; 3],
        programmatic: false,
        dynamic_shared_bytes: u64::from(shared_bytes),
        max_dynamic_shared_bytes: Some(function.max_dynamic_shared_bytes.load(Ordering::Relaxed)),
    };
    match context.launch(kernel, &config, &parameters(kernel, arguments)?) {
        Ok(_) => Ok(()),
        // A GPU would still be running: the error comes with the next call on the context.
        Err(Error::Fault(report)) => {
            eprintln!("cuda-emulator: {report}");
            if std::env::var_os("CUDA_LAUNCH_BLOCKING").is_some_and(|value| value == "1") {
                return Err(Error::Sticky(report.kind.code()));
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

api! {
    fn cuLaunchKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared_bytes: u32,
        stream: Handle,
        arguments: *const *const c_void,
        extra: usize,
    ) {
        let grid = [grid_x, grid_y, grid_z];
        let block = [block_x, block_y, block_z];
        launch(function, grid, block, shared_bytes, stream, arguments, extra)
    }

    fn cuLaunchKernelEx(
        config: *const CuLaunchConfig,
        function: Handle,
        arguments: *const *const c_void,
        extra: usize,
    ) {
        if config.is_null() {
            return Err(Error::InvalidValue("no launch configuration".into()));
        }
        // SAFETY: the caller gives a launch configuration, checked not to be null.
        let config = unsafe { &*config };
        for at in 0..config.attribute_count as usize {
            // SAFETY: the configuration gives as many attributes as it counts.
            let attribute = unsafe { &*config.attributes.add(at) };
            match attribute.id {
                // IGNORE; stream priority and the shared-memory carveout are hints.
                0 | 8 | 14 => {}
                // CLUSTER_DIMENSION: three sizes in the first twelve bytes.
                4 if attribute.value[0] == 1 << 32 | 1 && attribute.value[1] as u32 == 1 => {}
                4 => return Err(Error::NotSupported("a launch with clusters".into())),
                id => return Err(Error::NotSupported(format!("launch attribute {id}"))),
            }
        }
        launch(
            function,
            config.grid,
            config.block,
            config.shared_bytes,
            config.stream,
            arguments,
            extra,
        )
    }

    fn cuLaunchHostFunc(
        stream: Handle,
        function: Option<unsafe extern "C" fn(*mut c_void)>,
        data: *mut c_void,
    ) {
        stream_context(stream)?.check()?;
        match function {
            Some(function) => {
                // SAFETY: the caller gives a function that may be called once with `data`; all
                // work before it on the stream is done.
                unsafe { function(data) };
                Ok(())
            }
            None => Err(Error::InvalidValue("no host function".into())),
        }
    }
}
