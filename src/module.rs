//! The compiled kernels: loading them for a device, and the one place that launches.

use std::{ffi::c_void, fmt, mem::ManuallyDrop, sync::Arc};

use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaStream, DriverError,
        result::launch_kernel,
        sys::{
            CUdevice_attribute, CUdeviceptr, CUfunction, CUfunction_attribute, CUlaunchAttribute,
            CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUresult, CUstream,
            cuLaunchKernelEx, cuMemsetD32Async, cuOccupancyMaxActiveClusters,
        },
    },
    nvrtc::Ptx,
};

use crate::{
    abi,
    config::Selection,
    device::same_context,
    error::Error,
    plan::{DeviceProperties, Family, Generation, Kernel, Launch, Plan, Planner, RowsPlan, Start},
    problem::{BinaryProblem, LogSoftmaxProblem, Pass, Problem},
    reclaim::{ContextFence, Release, give_back},
};

macro_rules! images {
    ($($image:ident = $stem:literal;)*) => {
        /// A `.cu` file of kernels/, compiled.
        #[derive(Clone, Copy)]
        enum Image {
            $($image,)*
        }

        /// What build.rs compiled, in the order of [`Image`]; empty if it could not.
        const IMAGES: &[&[u8]] =
            &[$(include_bytes!(concat!(env!("OUT_DIR"), "/", $stem, ".fatbin")),)*];
    };
}

images! {
    FusedTiny = "fused_tiny";
    FusedWarp = "fused_warp";
    FusedBlock = "fused_block";
    FusedCluster = "fused_cluster";
    FusedSplitRow = "fused_split_row";
    FusedProbabilities = "fused_probabilities";
    LogSoftmax = "log_softmax";
    LogSoftmaxBackward = "log_softmax_backward";
    Binary = "binary";
    Normalizer = "normalizer";
}

/// Which image holds a kernel.
const fn image_of(kernel: Kernel) -> Image {
    use Family as F;
    match kernel {
        Kernel::Rows(family, _) => match family {
            F::FusedTiny | F::FusedGeneralTiny => Image::FusedTiny,
            F::FusedWarp | F::FusedGeneralWarp => Image::FusedWarp,
            F::FusedBlock | F::FusedGeneralBlock => Image::FusedBlock,
            F::FusedCluster | F::FusedGeneralCluster => Image::FusedCluster,
            F::FusedSplitRow | F::FusedGeneralSplitRow => Image::FusedSplitRow,
            F::FusedProbabilitiesWarp
            | F::FusedProbabilitiesBlock
            | F::FusedProbabilitiesCluster => Image::FusedProbabilities,
            F::LogSoftmaxTiny | F::LogSoftmaxWarp | F::LogSoftmaxBlock | F::LogSoftmaxCluster => {
                Image::LogSoftmax
            }
            F::LogSoftmaxBackwardWarp
            | F::LogSoftmaxBackwardBlock
            | F::LogSoftmaxBackwardCluster => Image::LogSoftmaxBackward,
            F::BinaryTiny | F::BinaryWarp | F::BinaryBlock => Image::Binary,
        },
        Kernel::Normalizer => Image::Normalizer,
    }
}

/// What a kernel needs before it is launched.
enum Setting {
    /// At most 48 KiB of shared memory.
    Default,
    /// All the shared memory that a block can have.
    SharedMemory,
    /// The same, where there are clusters. Elsewhere the kernel is a trap that is never launched.
    Cluster,
}

const fn setting_of(kernel: Kernel) -> Setting {
    use Family as F;
    match kernel {
        Kernel::Rows(family, _) => match family {
            F::FusedBlock
            | F::FusedGeneralBlock
            | F::FusedProbabilitiesBlock
            | F::LogSoftmaxBlock
            | F::LogSoftmaxBackwardBlock => Setting::SharedMemory,
            F::FusedCluster
            | F::FusedGeneralCluster
            | F::FusedProbabilitiesCluster
            | F::LogSoftmaxCluster
            | F::LogSoftmaxBackwardCluster => Setting::Cluster,
            F::FusedTiny
            | F::FusedWarp
            | F::FusedSplitRow
            | F::FusedGeneralTiny
            | F::FusedGeneralWarp
            | F::FusedGeneralSplitRow
            | F::FusedProbabilitiesWarp
            | F::LogSoftmaxTiny
            | F::LogSoftmaxWarp
            | F::LogSoftmaxBackwardWarp
            | F::BinaryTiny
            | F::BinaryWarp
            | F::BinaryBlock => Setting::Default,
        },
        Kernel::Normalizer => Setting::Default,
    }
}

/// What build.rs compiled them for, such as `sm_80,sm_90,compute_90`.
const IMAGE_ARCHITECTURES: &str = env!("SMOOTHXENT_IMAGE_ARCHS");

/// Where they are from, or why there are none.
const IMAGE_ORIGIN: &str = env!("SMOOTHXENT_IMAGE_ORIGIN");

/// What kernels this build of the crate holds, and where they are from; see [`images`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Images {
    /// Machine code and PTX, such as `sm_80,sm_90,compute_90`; empty if there is none.
    pub architectures: &'static str,
    /// Such as `compiled by nvcc, release 13.0, V13.0.88`, or why there are none.
    pub origin: &'static str,
}

/// What kernels this build of the crate holds: those that `build.rs` compiled, those of the published
/// package where it found no nvcc, or none. [`Kernels::load`] says whether a device can run them.
pub fn images() -> Images {
    Images { architectures: IMAGE_ARCHITECTURES, origin: IMAGE_ORIGIN }
}

/// `sm_80,sm_90,compute_90 (compiled by nvcc, release 13.0, V13.0.88)`, or `none (<reason>)`.
impl fmt::Display for Images {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let architectures = if self.architectures.is_empty() { "none" } else { self.architectures };
        write!(f, "{architectures} ({})", self.origin)
    }
}

/// The kernels, loaded on one device. Made once per context and shared: a clone is another handle to
/// the same kernels.
///
/// Dropping the last clone waits for all work of its context and unloads the kernels; captures of streams go on
/// meanwhile. A graph that uses the kernels does not keep them: drop them behind its last replay.
#[derive(Clone, Debug)]
pub struct Kernels {
    loaded: Arc<Loaded>,
    selection: Selection,
}

#[derive(Debug)]
struct Loaded {
    context: Arc<CudaContext>,
    planner: Planner,
    /// In the order of [`Kernel::all`].
    functions: ManuallyDrop<Vec<CudaFunction>>,
    launches: ContextFence,
}

impl Kernels {
    /// Loads all kernels. Later calls allocate nothing and wait for nothing; the driver may load a kernel when it is
    /// first launched, so make each call once before a capture. Not while another thread captures in global mode.
    ///
    /// # Errors
    /// [`Error::NoKernels`] if the build has none ([`images`] says why); [`Error::NoImage`] if it has them
    /// for other GPUs, or newer ones than the driver; [`Error::Driver`].
    pub fn load(context: &Arc<CudaContext>) -> Result<Self, Error> {
        if IMAGES.iter().any(|image| image.is_empty()) {
            return Err(Error::NoKernels { reason: IMAGE_ORIGIN });
        }
        context.bind_to_thread().map_err(Error::driver("bind the context"))?;
        let mut properties = properties(context)?;
        let modules = IMAGES
            .iter()
            .map(|image| context.load_module(Ptx::from_binary(image.to_vec())))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| load_error(error, &properties))?;
        let functions = Kernel::all()
            .map(|kernel| modules[image_of(kernel) as usize].load_function(kernel.symbol()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(Error::driver("look up a kernel"))?;
        properties.compiled_for = compiled_for(&functions)
            .map_err(Error::driver("ask what a kernel was compiled for"))?;
        for (kernel, function) in Kernel::all().zip(&functions) {
            match (setting_of(kernel), properties.generation()) {
                (Setting::Default, _) | (Setting::Cluster, Generation::Blocks) => {}
                (Setting::SharedMemory, _) | (Setting::Cluster, Generation::Clusters) => {
                    allow_shared_memory(function, &properties)
                        .map_err(Error::driver("let a kernel have more shared memory"))?;
                }
            }
        }
        properties.largest_cluster = largest_cluster(&functions, &properties)?;
        let planner = Planner::new(properties);
        let launches = ContextFence::new().map_err(Error::driver("allocate beside the kernels"))?;
        let functions = ManuallyDrop::new(functions);
        let loaded = Loaded { context: context.clone(), planner, functions, launches };
        Ok(Self { loaded: Arc::new(loaded), selection: Selection::Fastest })
    }

    /// The same kernels with another choice of strategies. Costs nothing:
    /// `kernels.clone().with_selection(Selection::Pinned(Strategy::Block))` is a second handle.
    pub fn with_selection(self, selection: Selection) -> Self {
        Self { selection, ..self }
    }

    /// Who chooses strategies.
    pub fn selection(&self) -> Selection {
        self.selection
    }

    /// The context that they were loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.loaded.context
    }

    /// What plans for this device are made from.
    pub fn properties(&self) -> &DeviceProperties {
        self.loaded.planner.properties()
    }

    /// How a loss is launched; remembers the last few.
    ///
    /// # Errors
    /// [`Error::Strategy`] where a pinned strategy cannot take the problem.
    pub fn plan(&self, problem: &Problem) -> Result<Plan, Error> {
        self.loaded.planner.loss(problem, self.selection)
    }

    /// How a log-softmax is launched, as [`Kernels::plan`]; not at all if there are no rows.
    ///
    /// # Errors
    /// Those of [`Kernels::plan`].
    pub fn plan_log_softmax(
        &self,
        problem: &LogSoftmaxProblem,
        pass: Pass,
    ) -> Result<Option<RowsPlan>, Error> {
        self.loaded.planner.log_softmax(problem, pass, self.selection)
    }

    /// How a binary cross-entropy is launched, as [`Kernels::plan`].
    ///
    /// # Errors
    /// Those of [`Kernels::plan`].
    pub fn plan_binary(&self, problem: &BinaryProblem) -> Result<Plan, Error> {
        self.loaded.planner.binary(problem, self.selection)
    }

    /// Refuses a stream of another context and makes the context current on this thread.
    pub(crate) fn enter(&self, stream: &CudaStream) -> Result<(), Error> {
        same_context("stream", self.context(), stream.context())?;
        self.bind()
    }

    /// Makes the context current on this thread.
    pub(crate) fn bind(&self) -> Result<(), Error> {
        self.context().bind_to_thread().map_err(Error::driver("bind the context"))
    }

    /// Reports what cudarc could not: an event that a guard failed to wait for, or to record, is
    /// only remembered by the context, and the launch would go ahead unordered.
    pub(crate) fn check_order(&self) -> Result<(), Error> {
        self.context().check_err().map_err(Error::driver("order this stream behind others"))
    }

    /// Enqueues one kernel. The context is current (`enter` or `bind`).
    ///
    /// # Safety
    /// `stream` is one of this context's, or a default one; every address in `argument` is valid on this
    /// context's device for what the kernel does with it (abi.h) until the launch has run; and `launch` was
    /// planned for the same problem.
    pub(crate) unsafe fn launch<A: KernelArgument>(
        &self,
        stream: CUstream,
        launch: Launch,
        argument: &A,
    ) -> Result<(), Error> {
        assert!(A::belongs_to(launch.kernel), "{:?} takes another argument", launch.kernel);
        let function = self.loaded.functions[launch.kernel.index()].cu_function();
        let parameter = std::ptr::from_ref(argument).cast_mut().cast::<c_void>();
        // SAFETY: the function lives as long as its module, which `functions` keeps; the driver
        // copies the one parameter, whose type is the kernel's (KernelArgument), before it
        // returns; what its addresses and the stream need is the caller's promise.
        unsafe { enqueue(function, &launch, stream, parameter) }
            .map_err(Error::driver("launch a kernel"))
    }

    /// Enqueues writing what follows from no rows: `loss` and no correct prediction, each where there
    /// is an address for it. The context is current (`enter` or `bind`).
    ///
    /// # Safety
    /// `stream` is one of this context's, or a default one; what is not null is an f32, and a u64, that it
    /// may write.
    pub(crate) unsafe fn write_nothing(
        &self,
        stream: CUstream,
        loss: f32,
        sums: &abi::XentRowSums,
    ) -> Result<(), Error> {
        let fill = |address: CUdeviceptr, bits, words| match address {
            0 => Ok(()),
            // SAFETY: the caller's promise.
            _ => unsafe { cuMemsetD32Async(address, bits, words, stream) }
                .result()
                .map_err(Error::driver("write the loss of no rows")),
        };
        fill(sums.loss as CUdeviceptr, loss.to_bits(), 1)?;
        fill(sums.correct as CUdeviceptr, 0, 2)
    }
}

/// # Safety
/// `function` is a loaded kernel of the current context that takes one parameter, which is at
/// `parameter`; `stream` is of that context, or a default one.
unsafe fn enqueue(
    function: CUfunction,
    launch: &Launch,
    stream: CUstream,
    parameter: *mut c_void,
) -> Result<(), DriverError> {
    let mut parameters = [parameter];
    if launch.cluster == 1 && launch.start == Start::InOrder {
        let (grid, block) = ((launch.grid, 1, 1), (launch.block, 1, 1));
        // Drivers before CUDA 11.8 have no other.
        // SAFETY: the caller's promise.
        return unsafe {
            launch_kernel(function, grid, block, launch.shared_bytes, stream, &mut parameters)
        };
    }
    let mut both = [cluster_attribute(launch.cluster), start_attribute(launch.start)];
    let attributes = match (launch.cluster, launch.start) {
        (1, _) => &mut both[1..],
        (_, Start::InOrder) => &mut both[..1],
        (_, Start::Early) => &mut both[..],
    };
    let config = CUlaunchConfig { hStream: stream, ..config(launch, attributes) };
    let extra = std::ptr::null_mut();
    // SAFETY: the caller's promise; `both` outlives the call, which copies it.
    unsafe { cuLaunchKernelEx(&config, function, parameters.as_mut_ptr(), extra) }.result()
}

/// On the default stream.
fn config(launch: &Launch, attributes: &mut [CUlaunchAttribute]) -> CUlaunchConfig {
    CUlaunchConfig {
        gridDimX: launch.grid,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: launch.block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.shared_bytes,
        hStream: std::ptr::null_mut(),
        attrs: attributes.as_mut_ptr(),
        numAttrs: attributes.len() as u32,
    }
}

fn cluster_attribute(blocks: u32) -> CUlaunchAttribute {
    let mut value = no_value();
    value.clusterDim.x = blocks;
    value.clusterDim.y = 1;
    value.clusterDim.z = 1;
    CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value,
    }
}

fn start_attribute(start: Start) -> CUlaunchAttribute {
    let mut value = no_value();
    value.programmaticStreamSerializationAllowed = match start {
        Start::InOrder => 0,
        Start::Early => 1,
    };
    CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value,
    }
}

fn no_value() -> CUlaunchAttributeValue {
    CUlaunchAttributeValue { pad: [0; 64] }
}

/// The most blocks of which a cluster of any kernel can be placed with all the shared memory that plans
/// ask for. Partitioned devices may place less than others.
fn largest_cluster(
    functions: &[CudaFunction],
    properties: &DeviceProperties,
) -> Result<u32, Error> {
    if properties.generation() == Generation::Blocks {
        return Ok(1);
    }
    let clusters = Kernel::all().filter(|&kernel| matches!(setting_of(kernel), Setting::Cluster));
    let kernels: Vec<Kernel> = clusters.collect();
    let mut blocks = abi::XENT_MAX_CLUSTER;
    while blocks > 1 {
        let mut placed = blocks <= properties.max_grid;
        for &kernel in &kernels {
            placed = placed && {
                let function = functions[kernel.index()].cu_function();
                clusters_placed(function, kernel, blocks, properties)? > 0
            };
        }
        if placed {
            break;
        }
        blocks /= 2;
    }
    Ok(blocks)
}

fn clusters_placed(
    function: CUfunction,
    kernel: Kernel,
    blocks: u32,
    properties: &DeviceProperties,
) -> Result<i32, Error> {
    let launch = Launch {
        kernel,
        grid: blocks,
        block: kernel.max_threads(),
        cluster: blocks,
        shared_bytes: properties.dynamic_shared_bytes(),
        start: Start::InOrder,
    };
    let mut attributes = [cluster_attribute(blocks)];
    let config = config(&launch, &mut attributes);
    let mut placed = 0;
    // SAFETY: the function is loaded in the current context; the config and its attributes outlive the
    // call.
    unsafe { cuOccupancyMaxActiveClusters(&mut placed, function, &config) }
        .result()
        .map_err(Error::driver("count the clusters that fit"))?;
    Ok(placed)
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // Unloading a kernel that still runs is not defined.
        // SAFETY: nothing comes after its drop.
        unsafe {
            give_back(&self.context, &mut self.functions, |_| {
                self.launches.wait().map(|()| Release::Free)
            })
        };
    }
}

/// Ties each argument struct to the kernels that take it by value.
///
/// # Safety
/// The layout is that of the kernel's one parameter: the struct is generated from abi.h.
pub(crate) unsafe trait KernelArgument {
    fn belongs_to(kernel: Kernel) -> bool;
}

// SAFETY: kernels/fused_*.cu declare `XentFused` from abi.h as the only parameter.
unsafe impl KernelArgument for abi::XentFused {
    fn belongs_to(kernel: Kernel) -> bool {
        match image_of(kernel) {
            Image::FusedTiny
            | Image::FusedWarp
            | Image::FusedBlock
            | Image::FusedCluster
            | Image::FusedSplitRow
            | Image::FusedProbabilities => true,
            Image::LogSoftmax | Image::LogSoftmaxBackward | Image::Binary | Image::Normalizer => {
                false
            }
        }
    }
}

// SAFETY: kernels/log_softmax.cu declares `XentLogSoftmax` from abi.h as the only parameter.
unsafe impl KernelArgument for abi::XentLogSoftmax {
    fn belongs_to(kernel: Kernel) -> bool {
        matches!(image_of(kernel), Image::LogSoftmax)
    }
}

// SAFETY: kernels/log_softmax_backward.cu declares `XentLogSoftmaxBackward` from abi.h as the only
// parameter.
unsafe impl KernelArgument for abi::XentLogSoftmaxBackward {
    fn belongs_to(kernel: Kernel) -> bool {
        matches!(image_of(kernel), Image::LogSoftmaxBackward)
    }
}

// SAFETY: kernels/binary.cu declares `XentBinary` from abi.h as the only parameter.
unsafe impl KernelArgument for abi::XentBinary {
    fn belongs_to(kernel: Kernel) -> bool {
        matches!(image_of(kernel), Image::Binary)
    }
}

// SAFETY: kernels/normalizer.cu declares `XentNormalizer` from abi.h as the only parameter.
unsafe impl KernelArgument for abi::XentNormalizer {
    fn belongs_to(kernel: Kernel) -> bool {
        matches!(image_of(kernel), Image::Normalizer)
    }
}

/// The oldest compute capability of any. The driver compiles PTX for a newer device than it was compiled for.
fn compiled_for(functions: &[CudaFunction]) -> Result<(u32, u32), DriverError> {
    let mut oldest = u32::MAX;
    for function in functions {
        oldest = oldest.min(function.ptx_version()?.unsigned_abs());
    }
    Ok((oldest / 10, oldest % 10))
}

/// All but what depends on the kernels: what they were compiled for, and the largest cluster.
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
        compiled_for: (0, 0),
        multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        max_grid: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
        registers_per_multiprocessor: attribute(
            A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR,
        )?,
        threads_per_multiprocessor: attribute(
            A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
        )?,
        blocks_per_multiprocessor: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)?,
        shared_bytes_per_block: attribute(
            A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?,
        shared_bytes_per_multiprocessor: attribute(
            A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
        )?,
        reserved_shared_bytes_per_block: attribute(
            A::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK,
        )?,
        largest_cluster: 1,
        l2_bytes: attribute(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
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
