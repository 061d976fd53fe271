//! The device that is measured: its kernels, what it calls itself, and how fast it runs just now.

use std::{cell::Cell, error::Error, process::Command, sync::Arc};

use smoothxent::{
    Kernels,
    cudarc::{
        driver::{CudaContext, CudaFunction, CudaStream, sys, sys::CUdevice_attribute},
        nvrtc::Ptx,
    },
};

/// As large as the argument of a fused kernel.
pub const EMPTY_ARGUMENT_BYTES: usize = 344;

/// What the emulated driver's devices are called at first.
pub const EMULATED: &str = "Emulated";

/// Whether clocks mean anything here.
#[derive(Clone, Copy, PartialEq)]
pub enum Times {
    Taken,
    /// On an emulated device: everything runs once, and nothing is timed.
    NotTaken,
}

pub struct Machine {
    pub name: String,
    pub driver: String,
    pub times: Times,
    pub kernels: Kernels,
    /// Not the default one, which cannot be captured.
    pub stream: Arc<CudaStream>,
    /// A kernel that does nothing with an argument of [`EMPTY_ARGUMENT_BYTES`].
    pub empty: CudaFunction,
    pub l2_bytes: usize,
    smi: Smi,
    smi_answers: Cell<bool>,
}

/// As nvidia-smi states them while the device is busy or has just been.
pub struct Clocks {
    pub sm_mhz: String,
    pub memory_mhz: String,
    /// A bit mask; bit 0 is idling, 2 the power cap, 3, 5 and 6 heat and brakes.
    pub throttle: String,
}

impl Machine {
    pub fn open() -> Result<Self, Box<dyn Error>> {
        let context = smoothxent::open(0)?;
        let name =
            context.name().map_err(|error| format!("the device has no name: {:?}", error.0))?;
        let times = if name.starts_with(EMULATED) { Times::NotTaken } else { Times::Taken };
        // SAFETY: there is one stream, on which everything that uses a buffer is in order. With it
        // and the default stream cudarc would record an event around each use of a buffer.
        unsafe { context.disable_event_tracking() };
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
        let l2_bytes = usize::try_from(context.attribute(attribute)?)?;
        let source = format!(
            ".version 6.3\n.target sm_75\n.address_size 64\n\
             .visible .entry empty(.param .align 8 .b8 argument[{EMPTY_ARGUMENT_BYTES}]) {{ ret; }}"
        );
        let empty = context.load_module(Ptx::from_src(source))?.load_function("empty")?;
        let smi = Smi::about(&context)?;
        Ok(Self {
            name,
            driver: driver(times, &smi),
            times,
            kernels: Kernels::load(&context)?,
            stream: context.new_stream()?,
            empty,
            l2_bytes,
            smi,
            smi_answers: Cell::new(times == Times::Taken),
        })
    }

    pub fn clocks(&self) -> Clocks {
        let unknown =
            || Clocks { sm_mhz: String::new(), memory_mhz: String::new(), throttle: String::new() };
        if !self.smi_answers.get() {
            return unknown();
        }
        let answer = self.smi.ask("clocks.sm,clocks.mem,clocks_throttle_reasons.active");
        let fields: Vec<String> = answer
            .iter()
            .flat_map(|line| line.split(','))
            .map(|field| field.trim().into())
            .collect();
        match <[String; 3]>::try_from(fields) {
            Ok([sm_mhz, memory_mhz, throttle]) => Clocks { sm_mhz, memory_mhz, throttle },
            Err(_) => {
                // Asked once, not once a case.
                self.smi_answers.set(false);
                unknown()
            }
        }
    }
}

/// Its own version where nvidia-smi is there, else the CUDA version that it is for.
fn driver(times: Times, smi: &Smi) -> String {
    let stated = if times == Times::Taken { smi.ask("driver_version") } else { None };
    stated.unwrap_or_else(|| {
        let mut version = 0;
        // SAFETY: the driver is loaded, and writes one integer.
        let result = unsafe { sys::cuDriverGetVersion(&mut version) };
        match result.result() {
            Ok(()) => format!("CUDA {}.{}", version / 1000, version % 1000 / 10),
            Err(_) => String::new(),
        }
    })
}

/// nvidia-smi, asked about one device.
struct Smi {
    /// CUDA_VISIBLE_DEVICES renames devices, and nvidia-smi numbers them by their slots.
    device: String,
}

impl Smi {
    fn about(context: &CudaContext) -> Result<Self, Box<dyn Error>> {
        let bytes = context.uuid()?.bytes;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        Ok(Self { device: format!("GPU-{}", parts.join("-")) })
    }

    /// One line.
    fn ask(&self, query: &str) -> Option<String> {
        let query = format!("--query-gpu={query}");
        let output = Command::new("nvidia-smi")
            .args(["-i", &self.device, &query, "--format=csv,noheader,nounits"])
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        Some(text.lines().next()?.trim().to_owned())
    }
}
