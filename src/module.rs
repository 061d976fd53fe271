//! The compiled kernels: loading them for a device, and the one place that launches.

use std::{ffi::c_void, sync::Arc};

use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaStream, DriverError,
        result::launch_kernel,
        sys::{CUdevice_attribute, CUdeviceptr, CUfunction_attribute, CUresult, cuMemsetD32Async},
    },
    nvrtc::Ptx,
};

use crate::{
    abi,
    device::same_context,
    error::Error,
    plan::{DeviceProperties, Kernel, Launch},
};

/// Images that build.rs compiled; empty if it could not.
const IMAGES: [&[u8]; 5] = [
    include_bytes!(concat!(env!("OUT_DIR"), "/fused_block.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/fused_probabilities_block.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/log_softmax_block.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/binary_block.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/normalizer.fatbin")),
];

/// Which of [`IMAGES`] holds a kernel.
const fn image_of(kernel: Kernel) -> usize {
    match kernel {
        Kernel::FusedBlock(_) | Kernel::FusedBlockGeneral(_) => 0,
        Kernel::FusedProbabilitiesBlock(_) => 1,
        Kernel::LogSoftmaxBlock(_) | Kernel::LogSoftmaxBackwardBlock(_) => 2,
        Kernel::BinaryBlock(_) => 3,
        Kernel::Normalizer => 4,
    }
}

/// What build.rs compiled them for, such as `sm_80,sm_90,compute_90`.
const IMAGE_ARCHITECTURES: &str = env!("SMOOTHXENT_IMAGE_ARCHS");

/// Why there are none, if so.
const IMAGE_ABSENCE: &str = env!("SMOOTHXENT_IMAGE_ABSENCE");

/// The kernels, loaded on one device. Made once per context and shared.
#[derive(Debug)]
pub struct Kernels {
    context: Arc<CudaContext>,
    properties: DeviceProperties,
    /// In the order of [`Kernel::all`].
    functions: Vec<CudaFunction>,
}

impl Kernels {
    /// Loads all kernels. Later calls allocate nothing and never wait.
    ///
    /// # Errors
    /// [`Error::NoKernels`] if the crate was built without nvcc; [`Error::NoImage`] if it was built
    /// for other GPUs; [`Error::Driver`].
    pub fn load(context: &Arc<CudaContext>) -> Result<Self, Error> {
        if IMAGES.iter().any(|image| image.is_empty()) {
            return Err(Error::NoKernels { reason: IMAGE_ABSENCE });
        }
        context.bind_to_thread().map_err(Error::driver("bind the context"))?;
        let properties = properties(context)?;
        let modules = IMAGES
            .into_iter()
            .map(|image| context.load_module(Ptx::from_binary(image.to_vec())))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| load_error(error, &properties))?;
        let functions = Kernel::all()
            .map(|kernel| {
                let function = modules[image_of(kernel)].load_function(kernel.symbol())?;
                if !matches!(kernel, Kernel::BinaryBlock(_) | Kernel::Normalizer) {
                    allow_shared_memory(&function, &properties)?;
                }
                Ok(function)
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(Error::driver("look up a kernel"))?;
        Ok(Self { context: context.clone(), properties, functions })
    }

    /// The context that they were loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// What plans for this device are made from.
    pub fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    /// Refuses a stream of another context and makes the context current on this thread.
    pub(crate) fn enter(&self, stream: &CudaStream) -> Result<(), Error> {
        same_context("stream", &self.context, stream.context())?;
        self.context.bind_to_thread().map_err(Error::driver("bind the context"))
    }

    /// Reports what cudarc could not: an event that a guard failed to wait for, or to record, is
    /// only remembered by the context, and the launch would go ahead unordered.
    pub(crate) fn check_order(&self) -> Result<(), Error> {
        self.context.check_err().map_err(Error::driver("order this stream behind others"))
    }

    /// Enqueues one kernel. The context is current (`enter`).
    ///
    /// # Safety
    /// Every address in `argument` is valid on this context's device for what the kernel does with
    /// it (abi.h) until the launch has run, and `launch` was planned for the same problem.
    pub(crate) unsafe fn launch<A: KernelArgument>(
        &self,
        stream: &CudaStream,
        launch: Launch,
        argument: &A,
    ) -> Result<(), Error> {
        assert!(A::belongs_to(launch.kernel), "{:?} takes another argument", launch.kernel);
        let function = self.functions[launch.kernel.index()].cu_function();
        let mut parameters = [std::ptr::from_ref(argument).cast_mut().cast::<c_void>()];
        // SAFETY: the function lives as long as its module, which `functions` keeps; the driver
        // copies the one parameter, whose type is the kernel's (KernelArgument), before it
        // returns; what its addresses need is the caller's promise.
        unsafe {
            launch_kernel(
                function,
                (launch.grid, 1, 1),
                (launch.block, 1, 1),
                launch.shared_bytes,
                stream.cu_stream(),
                &mut parameters,
            )
        }
        .map_err(Error::driver("launch a kernel"))
    }

    /// Enqueues writing what follows from no rows: `loss` and no correct prediction, each where there
    /// is an address for it. The context is current (`enter`).
    ///
    /// # Safety
    /// What is not null is an f32, and a u64, that this stream may write.
    pub(crate) unsafe fn write_nothing(
        &self,
        stream: &CudaStream,
        loss: f32,
        sums: &abi::XentRowSums,
    ) -> Result<(), Error> {
        let fill = |address: CUdeviceptr, bits, words| match address {
            0 => Ok(()),
            // SAFETY: the caller's promise.
            _ => unsafe { cuMemsetD32Async(address, bits, words, stream.cu_stream()) }
                .result()
                .map_err(Error::driver("write the loss of no rows")),
        };
        fill(sums.loss as CUdeviceptr, loss.to_bits(), 1)?;
        fill(sums.correct as CUdeviceptr, 0, 2)
    }
}

impl Drop for Kernels {
    /// Waits for the device: unloading a kernel that still runs is not defined.
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the context reports it at its next use.
        let _ = self.context.synchronize();
    }
}

/// Ties each argument struct to the kernels that take it by value.
///
/// # Safety
/// The layout is that of the kernel's one parameter: the struct is generated from abi.h.
pub(crate) unsafe trait KernelArgument {
    fn belongs_to(kernel: Kernel) -> bool;
}

// SAFETY: kernels/fused_block.cu and kernels/fused_probabilities_block.cu declare `XentFused` from
// abi.h as the only parameter.
unsafe impl KernelArgument for abi::XentFused {
    fn belongs_to(kernel: Kernel) -> bool {
        matches!(
            kernel,
            Kernel::FusedBlock(_)
                | Kernel::FusedBlockGeneral(_)
                | Kernel::FusedProbabilitiesBlock(_)
        )
    }
}

// SAFETY: kernels/log_softmax_block.cu declares `XentLogSoftmax` from abi.h as the only parameter.
unsafe impl KernelArgument for abi::XentLogSoftmax {
    fn belongs_to(kernel: Kernel) -> bool {
        matches!(kernel, Kernel::LogSoftmaxBlock(_))
    }
}

// SAFETY: kernels/log_softmax_block.cu declares `XentLogSoftmaxBackward` from abi.h as the only
// parameter.
unsafe impl KernelArgument for abi::XentLogSoftmaxBackward {
    fn belongs_to(kernel: Kernel) -> bool {
        matches!(kernel, Kernel::LogSoftmaxBackwardBlock(_))
    }
}

// SAFETY: kernels/binary_block.cu declares `XentBinary` from abi.h as the only parameter.
unsafe impl KernelArgument for abi::XentBinary {
    fn belongs_to(kernel: Kernel) -> bool {
        matches!(kernel, Kernel::BinaryBlock(_))
    }
}

// SAFETY: kernels/normalizer.cu declares `XentNormalizer` from abi.h as the only parameter.
unsafe impl KernelArgument for abi::XentNormalizer {
    fn belongs_to(kernel: Kernel) -> bool {
        matches!(kernel, Kernel::Normalizer)
    }
}

fn properties(context: &CudaContext) -> Result<DeviceProperties, Error> {
    use CUdevice_attribute as A;
    let attribute = |which| {
        let value = context.attribute(which).map_err(Error::driver("describe the device"))?;
        // No attribute below can be negative.
        Ok(value.unsigned_abs())
    };
    Ok(DeviceProperties {
        compute_capability: (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        max_grid: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
        shared_bytes_per_block: attribute(
            A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?,
        shared_bytes_per_multiprocessor: attribute(
            A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
        )?,
    })
}

/// Without this a block gets 48 KiB at most.
fn allow_shared_memory(
    function: &CudaFunction,
    properties: &DeviceProperties,
) -> Result<(), DriverError> {
    function.set_attribute(
        CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        properties.dynamic_shared_bytes() as i32,
    )
}

fn load_error(DriverError(code): DriverError, properties: &DeviceProperties) -> Error {
    let (major, minor) = properties.compute_capability;
    match code {
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUresult::CUDA_ERROR_INVALID_PTX => {
            Error::NoImage { major, minor, images: IMAGE_ARCHITECTURES }
        }
        other => Error::from_code("load the kernels", other),
    }
}
