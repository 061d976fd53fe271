//! `cuLaunchKernel` and its kin.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use super::module::function;
use super::state::{self, Function, scheduler};
use super::{Callback, Handle, IN_CALLBACK, Result, api};
use crate::context::LaunchConfig;
use crate::error::Error;
use crate::ptx::ir::Kernel;
use crate::stream::{Kind, Work};

/// `CUlaunchConfig`
#[repr(C)]
pub struct CuLaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    stream: Handle,
    attributes: *const CuLaunchAttribute,
    attribute_count: u32,
}

/// What attributes of a launch ask for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub cluster: [u32; 3],
    pub programmatic: bool,
}

impl Asked {
    const NOTHING: Self = Self { cluster: [1; 3], programmatic: false };
}

impl CuLaunchConfig {
    /// # Safety
    /// The configuration has as many attributes as it counts.
    pub unsafe fn asked(&self) -> Result<Asked> {
        let mut asked = Asked::NOTHING;
        for at in 0..self.attribute_count as usize {
            // SAFETY: as the caller of this function promises.
            let attribute = unsafe { &*self.attributes.add(at) };
            let value = attribute.value;
            match attribute.id {
                // IGNORE; L2's access policy, the order in which clusters are placed, priorities,
                // memory synchronisation domains and the shared-memory carveout change speed alone.
                0 | 1 | 5 | 8 | 9 | 10 | 14 => {}
                // COOPERATIVE
                2 if value[0] as u32 == 0 => {}
                2 => return Err(Error::NotSupported("a cooperative launch".into())),
                // CLUSTER_DIMENSION: three sizes in the first twelve bytes.
                4 => {
                    asked.cluster = [value[0] as u32, (value[0] >> 32) as u32, value[1] as u32];
                }
                // PROGRAMMATIC_STREAM_SERIALIZATION
                6 => asked.programmatic = value[0] as u32 != 0,
                7 => return Err(Error::NotSupported("a launch that triggers an event".into())),
                11 => return Err(Error::NotSupported("a preferred cluster size".into())),
                id => return Err(Error::NotSupported(format!("launch attribute {id}"))),
            }
        }
        Ok(asked)
    }
}

/// `CUlaunchAttribute`
#[repr(C)]
pub struct CuLaunchAttribute {
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

/// The geometry of a launch of this function.
pub fn geometry(
    function: &Function,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    asked: Asked,
) -> LaunchConfig {
    LaunchConfig {
        grid,
        block,
        cluster: asked.cluster,
        max_cluster_blocks: function.max_cluster_blocks.load(Ordering::Relaxed),
        programmatic: asked.programmatic,
        dynamic_shared_bytes: u64::from(shared_bytes),
        max_dynamic_shared_bytes: Some(function.max_dynamic_shared_bytes.load(Ordering::Relaxed)),
    }
}

fn launch(
    handle: Handle,
    geometry: impl FnOnce(&Function) -> LaunchConfig,
    stream: Handle,
    arguments: *const *const c_void,
    extra: usize,
) -> Result {
    let stream = state::stream(stream)?;
    let context = stream.context();
    let function = function(handle)?;
    if function.context.id() != context.id() {
        return Err(Error::InvalidHandle("function of this context"));
    }
    if extra != 0 {
        return Err(Error::NotSupported("a launch with `extra`".into()));
    }
    let kernel = function.kernel.as_ref().map_err(|error| Error::InvalidPtx(error.clone()))?;
    let config = geometry(&function);
    let parameters = parameters(kernel, arguments)?;
    context.admit_launch(kernel, &config, &parameters)?;
    let (on, kernel) = (context.clone(), kernel.clone());
    let (this, before) = stream.next_launch();
    let work = Work::new(Kind::Kernel, context, move || {
        on.execute(&kernel, &config, &parameters, &before, &this).map(|_| ())
    });
    let submitted = scheduler()?.submit(&stream, work);
    let result = settle(submitted);
    if is_blocking() && scheduler()?.captured_graph(&stream).is_none() {
        scheduler()?.wait_stream(&stream)?;
    }
    result
}

fn is_blocking() -> bool {
    std::env::var_os("CUDA_LAUNCH_BLOCKING").is_some_and(|value| value == "1")
}

/// What a call says of a kernel's fault: on a GPU the kernel would still be running, so that the
/// error comes with the next call on the context.
pub fn settle(result: Result) -> Result {
    match result {
        Err(Error::Fault(report)) => {
            eprintln!("cuda-emulator: {report}");
            if is_blocking() { Err(Error::Sticky(report.kind.code())) } else { Ok(()) }
        }
        other => other,
    }
}

/// Calls a function of the program, which may not call the driver.
pub fn callback(function: impl FnOnce()) {
    let before = IN_CALLBACK.replace(Callback::Inside);
    function();
    IN_CALLBACK.set(before);
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
        let config = |function: &Function| {
            geometry(function, grid, block, shared_bytes, Asked::NOTHING)
        };
        launch(function, config, stream, arguments, extra)
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
        // SAFETY: the caller's configuration has as many attributes as it counts.
        let asked = unsafe { config.asked() }?;
        let CuLaunchConfig { grid, block, shared_bytes, stream, .. } = *config;
        let config = |function: &Function| geometry(function, grid, block, shared_bytes, asked);
        launch(function, config, stream, arguments, extra)
    }

    fn cuLaunchHostFunc(
        stream: Handle,
        function: Option<unsafe extern "C" fn(*mut c_void)>,
        data: usize,
    ) {
        let stream = state::stream(stream)?;
        let function = function.ok_or_else(|| Error::InvalidValue("no host function".into()))?;
        let work = Work::new(Kind::Host, stream.context(), move || {
            // SAFETY: the caller gives a function that may be called with `data` each time that the
            // stream comes to it.
            callback(|| unsafe { function(data as *mut c_void) });
            Ok(())
        });
        settle(scheduler()?.submit(&stream, work))
    }
}
