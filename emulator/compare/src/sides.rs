//! What runs a kernel: a GPU's driver, or the emulator in this process.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use cuda_emulator::context::{Context, LaunchConfig};
use cuda_emulator::error::Error;
use cuda_emulator::settings::{Approximation, Settings};
use cudarc::driver::{CudaContext, LaunchConfig as DriverLaunch, PushKernelArg};
use cudarc::nvrtc::Ptx;

use crate::classes::Class;
use crate::inputs::Row;

/// Threads of a block; the number of rows need not be a multiple.
const BLOCK: u32 = 256;

/// How an emulated device's name begins.
const EMULATED: &str = "Emulated";

pub trait Side {
    fn name(&self) -> String;
    /// 90 for sm_90.
    fn capability(&self) -> u32;
    /// What the class's kernel makes of each row.
    fn run(&self, class: &Class, rows: &[Row]) -> Result<Vec<u64>>;
}

/// What the driver may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    Gpu,
    Any,
}

pub struct RealDriver {
    context: Arc<CudaContext>,
    name: String,
    capability: u32,
}

const DRIVER: &str = "libcuda.so.1";

impl RealDriver {
    pub fn open(machine: Machine) -> Result<Self> {
        // cudarc panics where there is none.
        // SAFETY: the driver's initialisers, which every CUDA program runs; it stays loaded.
        let driver = unsafe { libloading::Library::new(DRIVER) };
        let driver =
            driver.with_context(|| format!("no GPU to compare with: {DRIVER} cannot be loaded"))?;
        std::mem::forget(driver);
        let context = CudaContext::new(0).context("no GPU to compare with")?;
        let name = context.name().context("the device has no name")?;
        if machine == Machine::Gpu && name.starts_with(EMULATED) {
            bail!("no GPU to compare with: LD_LIBRARY_PATH leads to the emulated driver");
        }
        let (major, minor) =
            context.compute_capability().context("the device has no capability")?;
        Ok(Self { context, name, capability: (10 * major + minor).unsigned_abs() })
    }
}

impl Side for RealDriver {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn capability(&self) -> u32 {
        self.capability
    }

    fn run(&self, class: &Class, rows: &[Row]) -> Result<Vec<u64>> {
        let module = self.context.load_module(Ptx::from_src(class.ptx()))?;
        let kernel = module.load_function("k")?;
        let stream = self.context.default_stream();
        let input = stream.clone_htod(rows.as_flattened())?;
        let mut output = stream.alloc_zeros::<u64>(rows.len())?;
        let count = rows.len() as u32;
        let config = DriverLaunch {
            grid_dim: (count.div_ceil(BLOCK), 1, 1),
            block_dim: (BLOCK, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: `Class::ptx` declares these three parameters, and its threads read the rows and
        // write the results below `count` only.
        unsafe {
            stream
                .launch_builder(&kernel)
                .arg(&input)
                .arg(&mut output)
                .arg(&count)
                .launch(config)?
        };
        Ok(stream.clone_dtoh(&output)?)
    }
}

pub struct Emulated {
    context: Context,
    name: String,
}

impl Emulated {
    pub fn new(approximation: Approximation) -> Self {
        let settings = Settings { approximation, ..Settings::default() };
        let name = format!("{} ({approximation:?})", settings.model.name);
        Self { context: Context::new(settings), name }
    }
}

impl Side for Emulated {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn capability(&self) -> u32 {
        self.context.model().architecture
    }

    fn run(&self, class: &Class, rows: &[Row]) -> Result<Vec<u64>> {
        let module = self.context.load(&class.ptx())?;
        let kernel = module.kernel("k")?.map_err(Error::InvalidPtx)?;
        let bytes = |words: &[u64]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        let input = self.context.allocate(24 * rows.len() as u64)?;
        self.context.write(input, &bytes(rows.as_flattened()))?;
        let output = self.context.allocate(8 * rows.len() as u64)?;
        let count = rows.len() as u32;
        let config = LaunchConfig::linear(count.div_ceil(BLOCK), BLOCK);
        let mut parameters = bytes(&[input, output]);
        parameters.extend(count.to_le_bytes());
        self.context.launch(&kernel, &config, &parameters)?;
        let mut found = vec![0; 8 * rows.len()];
        self.context.read(output, &mut found)?;
        self.context.free(input)?;
        self.context.free(output)?;
        Ok(found
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect())
    }
}
