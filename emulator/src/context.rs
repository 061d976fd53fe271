//! A context: memory, modules and launches on one device. The driver API is a thin layer over it,
//! and tests use it directly.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::decoded::{self, Kernels, Purpose};
use crate::device::{Model, TOTAL_MEMORY};
use crate::error::Error;
use crate::exec::alu::step;
use crate::exec::launch::Launch;
use crate::exec::race::GlobalShadow;
use crate::fatbin::{Code, Image, image_for};
use crate::memory::{Allocation, Memory, Unplaced};
use crate::profile::Profile;
use crate::ptx::ast::StateSpace;
use crate::ptx::decode::decode;
use crate::ptx::ir::Kernel;
use crate::ptx::{PtxError, parser};
use crate::report::{self, Counters, LaunchRecord, Touched};
use crate::settings::{Injectable, Races, Settings};

/// Every context has addresses of its own, `id << ADDRESS_BITS` and up: above all host addresses
/// and the windows of shared, local and parameter memory.
const ADDRESS_BITS: u32 = 44;
const FIRST_ID: u64 = 16;

static NEXT_ID: AtomicU64 = AtomicU64::new(FIRST_ID);

/// Blocks of a cluster that every device with clusters can hold.
pub const PORTABLE_CLUSTER_BLOCKS: u32 = 8;
/// Blocks of a cluster that the emulated device can hold.
pub const MOST_CLUSTER_BLOCKS: u32 = 16;

/// A context on an emulated device.
#[derive(Debug)]
pub struct Context {
    id: u64,
    settings: Settings,
    memory: Memory,
    /// Code of the fault that ended this context, 0 while it is sound.
    failure: AtomicU32,
    /// The last launch of `launch`.
    last: LastLaunch,
}

/// Who touched device memory in a launch, for one behind it that may begin before its end.
#[derive(Debug, Default)]
pub struct LastLaunch(Mutex<Option<Arc<GlobalShadow>>>);

impl LastLaunch {
    fn shadow(&self) -> MutexGuard<'_, Option<Arc<GlobalShadow>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    kernels: Arc<Kernels>,
    variables: HashMap<String, (u64, u64)>,
}

impl Module {
    /// Device address and size of a `.global` or `.const` variable.
    pub fn variable(&self, name: &str) -> Result<(u64, u64), Error> {
        let found = self.variables.get(name).copied();
        found.ok_or_else(|| Error::NotFound(format!("variable {name}")))
    }

    /// Names of all kernels.
    pub fn kernel_names(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }

    /// A kernel. One that cannot be executed is found, and refused when it is launched.
    pub fn kernel(&self, name: &str) -> Result<Result<Arc<Kernel>, PtxError>, Error> {
        let found = self.kernels.get(name).cloned();
        found.ok_or_else(|| Error::NotFound(format!("kernel {name}")))
    }
}

/// Geometry of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis.
    pub block: [u32; 3],
    /// Blocks of a cluster by axis.
    pub cluster: [u32; 3],
    /// Blocks that a cluster may have: 8 everywhere, 16 where the function's attribute allows what not
    /// every device can do.
    pub max_cluster_blocks: u32,
    /// Whether it may begin before the launch before it on its stream has ended.
    pub programmatic: bool,
    /// Dynamic shared bytes of a block.
    pub dynamic_shared_bytes: u64,
    /// Shared bytes that the kernel's attribute allows, if it was raised above the default.
    pub max_dynamic_shared_bytes: Option<u64>,
}

impl LaunchConfig {
    /// Blocks of a cluster by axis: the launch's, or those that the kernel was compiled for.
    pub fn cluster_of(&self, kernel: &Kernel) -> [u32; 3] {
        if self.cluster == [1; 3] { kernel.cluster.unwrap_or([1; 3]) } else { self.cluster }
    }

    /// So many blocks of so many threads, without dynamic shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Self {
        Self {
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            cluster: [1; 3],
            max_cluster_blocks: PORTABLE_CLUSTER_BLOCKS,
            programmatic: false,
            dynamic_shared_bytes: 0,
            max_dynamic_shared_bytes: None,
        }
    }
}

impl Context {
    /// A fresh context.
    pub fn new(settings: Settings) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            settings,
            memory: Memory::new(id << ADDRESS_BITS, TOTAL_MEMORY),
            failure: AtomicU32::new(0),
            last: LastLaunch::default(),
        }
    }

    /// The context whose address this could be.
    pub fn id_of_address(address: u64) -> u64 {
        address >> ADDRESS_BITS
    }

    /// Distinguishes contexts.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What of an image it runs.
    pub fn code(&self) -> Code {
        Code { architecture: self.model().architecture, newest: self.settings.newest_code }
    }

    /// Its device.
    pub fn model(&self) -> &'static Model {
        self.settings.model
    }

    /// Its memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The error of a context that had a fault.
    pub fn check(&self) -> Result<(), Error> {
        match self.failure.load(Ordering::Relaxed) {
            0 => Ok(()),
            code => Err(Error::Sticky(code)),
        }
    }

    /// Ends the context with the code of what went wrong.
    pub fn fail(&self, code: u32) {
        let _ = self.failure.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Counts a call; whether it is one that the settings want to fail.
    fn strikes(&self, kind: Injectable) -> bool {
        // Every injection counts, also behind one that strikes.
        self.settings.injections.iter().filter(|injection| injection.strikes(kind)).count() > 0
    }

    /// Admits a call that does something with an event.
    pub fn admit_event(&self) -> Result<(), Error> {
        self.check()?;
        if self.strikes(Injectable::Event) {
            Err(Error::Injected("call on an event"))
        } else {
            Ok(())
        }
    }

    fn admit_allocation(&self, bytes: u64) -> Result<(), Error> {
        self.check()?;
        if bytes == 0 {
            return Err(Error::InvalidValue("an allocation of 0 bytes".into()));
        }
        if self.strikes(Injectable::Alloc) {
            return Err(Error::OutOfMemory("injected failure (CUDA_EMULATOR_FAIL)".into()));
        }
        Ok(())
    }

    fn exhausted(&self, bytes: u64) -> Error {
        let free = self.memory.free_and_total().0;
        Error::OutOfMemory(format!("{bytes} bytes asked for, {free} left"))
    }

    /// Device memory filled with 0xFF.
    pub fn allocate(&self, bytes: u64) -> Result<u64, Error> {
        self.admit_allocation(bytes)?;
        self.memory.allocate(bytes, None).ok_or_else(|| self.exhausted(bytes))
    }

    /// An address for memory that `place` makes when a stream comes to it.
    pub fn reserve(&self, bytes: u64) -> Result<u64, Error> {
        self.admit_allocation(bytes)?;
        self.memory.reserve(bytes).ok_or_else(|| self.exhausted(bytes))
    }

    /// Makes the memory of a reserved address.
    pub fn place(&self, address: u64, bytes: u64) -> Result<(), Error> {
        self.memory.place(address, bytes, None).map_err(|unplaced| match unplaced {
            Unplaced::Live => Error::InvalidValue(format!(
                "the graph allocates {bytes} bytes at {address:#x}, which an earlier launch of it \
                 allocated and nobody freed"
            )),
            Unplaced::NoHostMemory => self.exhausted(bytes),
        })
    }

    /// Frees what `allocate` gave.
    pub fn free(&self, address: u64) -> Result<(), Error> {
        self.check()?;
        if self.memory.free(address) { Ok(()) } else { Err(self.not_allocated(address)) }
    }

    /// Admits a free that a stream does later.
    pub fn admit_free(&self, address: u64) -> Result<(), Error> {
        self.check()?;
        if self.memory.starts(address) { Ok(()) } else { Err(self.not_allocated(address)) }
    }

    fn not_allocated(&self, address: u64) -> Error {
        let place = self.memory.describe(address, 1);
        Error::InvalidValue(format!("free of {address:#x}: {place}"))
    }

    fn range(&self, what: &str, address: u64, bytes: u64) -> Result<Arc<Allocation>, Error> {
        let found = self.memory.table().find(address, bytes).cloned();
        found.ok_or_else(|| self.outside(what, address, bytes))
    }

    fn outside(&self, what: &str, address: u64, bytes: u64) -> Error {
        let place = self.memory.describe(address, bytes);
        Error::InvalidValue(format!("{what} of {bytes} bytes at {address:#x}: {place}"))
    }

    /// Admits a copy.
    pub fn admit_copy(&self) -> Result<(), Error> {
        self.check()?;
        if self.strikes(Injectable::Copy) { Err(Error::Injected("copy")) } else { Ok(()) }
    }

    /// Admits a memset of a count of elements of some bytes.
    pub fn admit_fill(&self, address: u64, element: u64, count: u64) -> Result<(), Error> {
        self.check()?;
        if self.strikes(Injectable::Memset) {
            return Err(Error::Injected("memset"));
        }
        if !address.is_multiple_of(element) {
            return Err(Error::InvalidValue(format!("memset at {address:#x}: misaligned")));
        }
        self.admit_range("memset", address, element * count)
    }

    /// An error if an access is outside of live and of reserved allocations.
    pub fn admit_range(&self, what: &str, address: u64, bytes: u64) -> Result<(), Error> {
        if bytes == 0 || self.memory.holds(address, bytes) {
            Ok(())
        } else {
            Err(self.outside(what, address, bytes))
        }
    }

    /// Host to device.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), Error> {
        self.admit_copy()?;
        self.put(address, from)
    }

    /// Device to host.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Error> {
        self.admit_copy()?;
        self.get(address, to)
    }

    /// Device to device, also from another context.
    pub fn copy_from(&self, to: u64, source: &Self, from: u64, bytes: u64) -> Result<(), Error> {
        self.admit_copy()?;
        self.transfer(to, source, from, bytes)
    }

    /// Repeats an element of 1, 2 or 4 bytes.
    pub fn fill(&self, address: u64, element: &[u8], count: u64) -> Result<(), Error> {
        self.admit_fill(address, element.len() as u64, count)?;
        self.repeat(address, element, count)
    }

    /// Host to device, admitted before.
    pub fn put(&self, address: u64, from: &[u8]) -> Result<(), Error> {
        if !from.is_empty() {
            let to = self.range("copy to the device", address, from.len() as u64)?;
            to.write(address - to.address, from);
        }
        Ok(())
    }

    /// Device to host, admitted before.
    pub fn get(&self, address: u64, to: &mut [u8]) -> Result<(), Error> {
        if !to.is_empty() {
            let from = self.range("copy from the device", address, to.len() as u64)?;
            from.read(address - from.address, to);
        }
        Ok(())
    }

    /// Device to device, admitted before.
    pub fn transfer(&self, to: u64, source: &Self, from: u64, bytes: u64) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        let source = source.range("copy on the device", from, bytes)?;
        let target = self.range("copy on the device", to, bytes)?;
        target.copy_from(to - target.address, &source, from - source.address, bytes);
        Ok(())
    }

    /// Memset, admitted before.
    pub fn repeat(&self, address: u64, element: &[u8], count: u64) -> Result<(), Error> {
        let bytes = element.len() as u64 * count;
        if bytes == 0 {
            return Ok(());
        }
        let to = self.range("memset", address, bytes)?;
        to.write(address - to.address, &element.repeat(count as usize));
        Ok(())
    }

    /// Loads PTX. Kernels that cannot be executed do not keep the others from it.
    pub fn load(&self, ptx: &str) -> Result<Module, Error> {
        self.load_image(&Image { ptx: ptx.into(), registers: HashMap::new() })
    }

    /// Loads what an image has for the device: a fatbin, or PTX.
    pub fn load_bytes(&self, image: &[u8]) -> Result<Module, Error> {
        let purpose = Purpose { code: self.code(), approximation: self.settings.approximation };
        if let Some(kernels) = decoded::find(image, purpose) {
            self.admit_load()?;
            return Ok(Module { kernels, variables: HashMap::new() });
        }
        let module = self.load_image(&image_for(image, purpose.code)?)?;
        if module.variables.is_empty() {
            decoded::keep(image, purpose, &module.kernels);
        }
        Ok(module)
    }

    fn admit_load(&self) -> Result<(), Error> {
        self.check()?;
        if self.strikes(Injectable::Load) {
            return Err(Error::OutOfMemory(
                "injected failure of a load (CUDA_EMULATOR_FAIL)".into(),
            ));
        }
        Ok(())
    }

    /// Loads what was found in an image.
    pub fn load_image(&self, image: &Image) -> Result<Module, Error> {
        self.admit_load()?;
        let text: Arc<str> = image.ptx.as_str().into();
        let module = parser::parse(&text)?;
        let mut variables = HashMap::new();
        let mut addresses = HashMap::new();
        for variable in &module.variables {
            if !matches!(variable.space, StateSpace::Global | StateSpace::Const) {
                continue;
            }
            let label = Some(format!("variable {}", variable.name));
            let bytes = variable.bytes.max(1);
            let address = self
                .memory
                .allocate(bytes, label)
                .ok_or_else(|| Error::OutOfMemory(format!("variable {}", variable.name)))?;
            let mut initial = variable.initial.clone();
            initial.resize(bytes as usize, 0);
            let allocation = self.range("initial value", address, bytes)?;
            allocation.write(0, &initial);
            variables.insert(variable.name.to_string(), (address, variable.bytes));
            addresses.insert(variable.name.to_string(), address);
        }
        let kernels: Kernels = module
            .kernels
            .iter()
            .map(|kernel| {
                let approximation = self.settings.approximation;
                let decoded = decode(&text, &module, kernel, &addresses, approximation);
                let decoded = decoded.map(|mut decoded| {
                    decoded.registers = image.registers.get(&decoded.name).copied();
                    Arc::new(decoded)
                });
                (kernel.name.to_string(), decoded)
            })
            .collect();
        Ok(Module { kernels: Arc::new(kernels), variables })
    }

    /// Frees a module's variables.
    pub fn unload(&self, module: &Module) {
        for (address, _) in module.variables.values() {
            self.memory.free(*address);
        }
    }

    /// Runs a kernel to its end. `parameters` is its parameter space.
    pub fn launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        parameters: &[u8],
    ) -> Result<Counters, Error> {
        self.admit_launch(kernel, config, parameters)?;
        self.execute(kernel, config, parameters, &self.last, &self.last)
    }

    /// Admits a launch.
    pub fn admit_launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        parameters: &[u8],
    ) -> Result<(), Error> {
        self.check()?;
        if self.strikes(Injectable::Launch) {
            return Err(Error::Injected("launch"));
        }
        self.check_geometry(kernel, config)?;
        if parameters.len() as u64 != kernel.parameter_bytes {
            let wanted = kernel.parameter_bytes;
            let text = format!("{} bytes of parameters, {wanted} expected", parameters.len());
            return Err(Error::InvalidValue(text));
        }
        Ok(())
    }

    /// Runs a kernel whose launch was admitted, behind another launch. `this` is for the next one.
    pub fn execute(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        parameters: &[u8],
        before: &LastLaunch,
        this: &LastLaunch,
    ) -> Result<Counters, Error> {
        let table = self.memory.table();
        let shadow = match self.settings.races {
            Races::Checked => Some(Arc::new(GlobalShadow::new(&kernel.name, &kernel.source))),
            Races::Unchecked => None,
        };
        let predecessor = if config.programmatic { before.shadow().take() } else { None };
        this.shadow().clone_from(&shadow);
        let launch = Launch {
            kernel,
            cluster: config.cluster_of(kernel),
            shadow,
            predecessor,
            touched: self.settings.report.as_ref().map(|_| Touched::new(&table)),
            profile: self.settings.profile.as_ref().map(|_| Profile::new(kernel)),
            uninitialised: self.settings.uninitialised,
            device: self.settings.model,
            memory: &self.memory,
            table: &table,
            grid: config.grid,
            block: config.block,
            dynamic_shared_bytes: config.dynamic_shared_bytes,
            parameters,
            step_limit: self.settings.step_limit,
            workers: self.settings.workers.max(1),
            order: self.settings.order,
            step: step(),
            stopped: AtomicBool::new(false),
        };
        let counters = launch.run().map_err(|report| {
            self.fail(report.kind.code());
            Error::Fault(Box::new(report))
        })?;
        if let Some(path) = &self.settings.report {
            let record = LaunchRecord {
                kernel: &kernel.name,
                device: self.settings.model.name,
                grid: config.grid,
                block: config.block,
                cluster: launch.cluster,
                shared_bytes: launch.shared_bytes(),
                counters,
                unique_bytes_read: launch.touched.as_ref().map_or(0, Touched::read),
                unique_bytes_written: launch.touched.as_ref().map_or(0, Touched::written),
            };
            report::append(path, &record);
        }
        if let (Some(folder), Some(profile)) = (&self.settings.profile, &launch.profile) {
            profile.write(folder, kernel);
        }
        Ok(counters)
    }

    fn check_geometry(&self, kernel: &Kernel, config: &LaunchConfig) -> Result<(), Error> {
        let LaunchConfig { grid, block, .. } = config;
        let name = &kernel.name;
        let limits = [self.settings.max_grid.unsigned_abs(), 65535, 65535];
        if grid.contains(&0) || block.contains(&0) || grid.iter().zip(limits).any(|(n, l)| *n > l) {
            return Err(Error::InvalidValue(format!("{name}: grid {grid:?}, block {block:?}")));
        }
        let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
        if threads > 1024 || block[2] > 64 {
            return Err(Error::InvalidValue(format!("{name}: a block of {block:?} threads")));
        }
        if kernel.max_threads > 0 && threads > u64::from(kernel.max_threads) {
            let most = kernel.max_threads;
            let text = format!("{name}: {threads} threads, compiled for {most} at most");
            return Err(Error::LaunchTooLarge(text));
        }
        if let Some(registers) = kernel.registers
            && self.settings.model.blocks_by_registers(threads as u32, registers) == 0
        {
            return Err(Error::LaunchTooLarge(format!(
                "{name}: {threads} threads of {registers} registers; a block has {} at most",
                self.settings.model.registers
            )));
        }
        self.check_cluster(kernel, config)?;
        let default = self.settings.model.shared_per_block as u64;
        let default = default.saturating_sub(kernel.static_shared_bytes);
        let allowed = config.max_dynamic_shared_bytes.unwrap_or(0).max(default);
        if config.dynamic_shared_bytes > allowed {
            return Err(Error::InvalidValue(format!(
                "{name}: {} dynamic shared bytes, {allowed} allowed (\
                 CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
                config.dynamic_shared_bytes
            )));
        }
        Ok(())
    }

    /// An error if neither device nor grid nor kernel allow the clusters of a launch.
    pub fn check_cluster(&self, kernel: &Kernel, config: &LaunchConfig) -> Result<(), Error> {
        let grid = config.grid;
        let cluster = config.cluster_of(kernel);
        let refuse = |why: String| {
            Err(Error::ClusterSize(format!(
                "{}: clusters of {cluster:?} blocks: {why}",
                kernel.name
            )))
        };
        if let Some(required) = kernel.cluster.filter(|required| *required != cluster) {
            return refuse(format!("compiled for {required:?}"));
        }
        if cluster == [1; 3] {
            return Ok(());
        }
        if self.settings.model.partitions.is_empty() {
            return refuse(format!("{} has no clusters", self.settings.model.name));
        }
        let blocks = cluster.iter().map(|&n| u64::from(n)).product::<u64>();
        let most = config.max_cluster_blocks;
        if blocks == 0 || blocks > u64::from(most) {
            return refuse(format!(
                "{blocks} blocks, {most} at most (CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED)"
            ));
        }
        if grid.iter().zip(cluster).any(|(grid, cluster)| grid % cluster != 0) {
            return refuse(format!("the grid {grid:?} is no multiple"));
        }
        Ok(())
    }
}
