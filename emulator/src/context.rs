//! A context: memory, modules and launches on one device. The driver API is a thin layer over it,
//! and tests use it directly.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::device::{Model, TOTAL_MEMORY};
use crate::error::Error;
use crate::exec::alu::step;
use crate::exec::launch::Launch;
use crate::exec::race::GlobalShadow;
use crate::memory::{Allocation, Memory};
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

/// A context on an emulated device.
#[derive(Debug)]
pub struct Context {
    id: u64,
    settings: Settings,
    memory: Memory,
    /// Code of the fault that ended this context, 0 while it is sound.
    failure: AtomicU32,
    /// Who touched device memory in the last launch, for one that may begin before its end.
    last: Mutex<Option<Arc<GlobalShadow>>>,
}

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    kernels: HashMap<String, Result<Arc<Kernel>, PtxError>>,
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
    /// Whether it may begin before the launch before it on its stream has ended.
    pub programmatic: bool,
    /// Dynamic shared bytes of a block.
    pub dynamic_shared_bytes: u64,
    /// Shared bytes that the kernel's attribute allows, if it was raised above the default.
    pub max_dynamic_shared_bytes: Option<u64>,
}

impl LaunchConfig {
    /// So many blocks of so many threads, without dynamic shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Self {
        Self {
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            cluster: [1; 3],
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
            last: Mutex::default(),
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

    fn strikes(&self, kind: Injectable) -> bool {
        self.settings.injection.as_ref().is_some_and(|injection| injection.strikes(kind))
    }

    /// Device memory filled with 0xFF.
    pub fn allocate(&self, bytes: u64) -> Result<u64, Error> {
        self.check()?;
        if bytes == 0 {
            return Err(Error::InvalidValue("an allocation of 0 bytes".into()));
        }
        if self.strikes(Injectable::Alloc) {
            return Err(Error::OutOfMemory("injected failure (CUDA_EMULATOR_FAIL)".into()));
        }
        let free = self.memory.free_and_total().0;
        self.memory
            .allocate(bytes, None)
            .ok_or_else(|| Error::OutOfMemory(format!("{bytes} bytes asked for, {free} left")))
    }

    /// Frees what `allocate` gave.
    pub fn free(&self, address: u64) -> Result<(), Error> {
        self.check()?;
        if self.memory.free(address) {
            Ok(())
        } else {
            let place = self.memory.describe(address, 1);
            Err(Error::InvalidValue(format!("free of {address:#x}: {place}")))
        }
    }

    fn range(&self, what: &str, address: u64, bytes: u64) -> Result<Arc<Allocation>, Error> {
        self.memory.table().find(address, bytes).cloned().ok_or_else(|| {
            let place = self.memory.describe(address, bytes);
            Error::InvalidValue(format!("{what} of {bytes} bytes at {address:#x}: {place}"))
        })
    }

    fn begin_copy(&self) -> Result<(), Error> {
        self.check()?;
        if self.strikes(Injectable::Copy) { Err(Error::InjectedCopy) } else { Ok(()) }
    }

    /// Host to device.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), Error> {
        self.begin_copy()?;
        if !from.is_empty() {
            let to = self.range("copy to the device", address, from.len() as u64)?;
            to.write(address - to.address, from);
        }
        Ok(())
    }

    /// Device to host.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Error> {
        self.begin_copy()?;
        if !to.is_empty() {
            let from = self.range("copy from the device", address, to.len() as u64)?;
            from.read(address - from.address, to);
        }
        Ok(())
    }

    /// Device to device, also from another context.
    pub fn copy_from(&self, to: u64, source: &Self, from: u64, bytes: u64) -> Result<(), Error> {
        self.begin_copy()?;
        if bytes == 0 {
            return Ok(());
        }
        let source = source.range("copy on the device", from, bytes)?;
        let target = self.range("copy on the device", to, bytes)?;
        target.copy_from(to - target.address, &source, from - source.address, bytes);
        Ok(())
    }

    /// Repeats an element of 1, 2 or 4 bytes.
    pub fn fill(&self, address: u64, element: &[u8], count: u64) -> Result<(), Error> {
        self.check()?;
        let bytes = element.len() as u64 * count;
        if bytes == 0 {
            return Ok(());
        }
        if !address.is_multiple_of(element.len() as u64) {
            return Err(Error::InvalidValue(format!("memset at {address:#x}: misaligned")));
        }
        let to = self.range("memset", address, bytes)?;
        to.write(address - to.address, &element.repeat(count as usize));
        Ok(())
    }

    /// Loads PTX. Kernels that cannot be executed do not keep the others from it.
    pub fn load(&self, ptx: &str) -> Result<Module, Error> {
        self.check()?;
        let text: Arc<str> = ptx.into();
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
        let kernels = module
            .kernels
            .iter()
            .map(|kernel| {
                let approximation = self.settings.approximation;
                let decoded =
                    decode(&text, &module, kernel, &addresses, approximation).map(Arc::new);
                (kernel.name.to_string(), decoded)
            })
            .collect();
        Ok(Module { kernels, variables })
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
        self.check()?;
        if self.strikes(Injectable::Launch) {
            return Err(Error::InjectedLaunch);
        }
        self.check_geometry(kernel, config)?;
        if parameters.len() as u64 != kernel.parameter_bytes {
            let wanted = kernel.parameter_bytes;
            let text = format!("{} bytes of parameters, {wanted} expected", parameters.len());
            return Err(Error::InvalidValue(text));
        }
        let table = self.memory.table();
        let shadow = match self.settings.races {
            Races::Checked => Some(Arc::new(GlobalShadow::new(&kernel.name))),
            Races::Unchecked => None,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let predecessor = if config.programmatic { last.take() } else { None };
        last.clone_from(&shadow);
        drop(last);
        let launch = Launch {
            kernel,
            cluster: kernel.cluster.unwrap_or(config.cluster),
            shadow,
            predecessor,
            touched: self.settings.report.as_ref().map(|_| Touched::new(&table)),
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
            self.failure.store(report.kind.code(), Ordering::Relaxed);
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
}
