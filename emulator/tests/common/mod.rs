//! Runs small PTX through the emulator's Rust API.
#![allow(dead_code, reason = "each test file uses a part of it")]

use cuda_emulator::context::{Context, LaunchConfig, Module};
use cuda_emulator::error::Error;
use cuda_emulator::fault::FaultReport;
use cuda_emulator::report::Counters;
use cuda_emulator::settings::Settings;

pub const HEADER: &str = ".version 8.0\n.target sm_90\n.address_size 64\n";

/// A context with one module.
pub struct Gpu {
    pub context: Context,
    pub module: Module,
}

impl Gpu {
    pub fn new(ptx: &str) -> Self {
        Self::with(ptx, Settings::default())
    }

    pub fn with(ptx: &str, settings: Settings) -> Self {
        let context = Context::new(settings);
        let module = context.load(&format!("{HEADER}{ptx}")).expect("PTX that parses");
        Self { context, module }
    }

    pub fn upload<T: Copy + Into<u64>>(&self, values: &[T]) -> u64 {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|&v| v.into().to_le_bytes()[..size_of::<T>()].to_vec())
            .collect();
        let address = self.context.allocate(bytes.len() as u64).expect("memory");
        self.context.write(address, &bytes).expect("a copy");
        address
    }

    pub fn download32(&self, address: u64, count: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * count];
        self.context.read(address, &mut bytes).expect("a copy");
        bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    }

    pub fn download64(&self, address: u64, count: usize) -> Vec<u64> {
        let mut bytes = vec![0; 8 * count];
        self.context.read(address, &mut bytes).expect("a copy");
        bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
    }

    /// Launches kernel `k` with 64-bit parameters.
    pub fn launch(&self, config: &LaunchConfig, parameters: &[u64]) -> Result<Counters, Error> {
        let kernel = self.module.kernel("k").expect("kernel k");
        let kernel = kernel.map_err(Error::InvalidPtx)?;
        let bytes: Vec<u8> = parameters.iter().flat_map(|p| p.to_le_bytes()).collect();
        self.context.launch(&kernel, config, &bytes)
    }

    /// Launches a kernel that has to fail.
    pub fn fault(&self, config: &LaunchConfig, parameters: &[u64]) -> FaultReport {
        match self.launch(config, parameters) {
            Err(Error::Fault(report)) => *report,
            other => panic!("a fault expected, got {other:?}"),
        }
    }
}

/// A kernel `k` of one 64-bit parameter `out`, with registers of every class.
pub fn kernel(body: &str) -> String {
    format!(
        ".visible .entry k(.param .u64 out)\n{{\n\
         .reg .pred %p<16>;\n.reg .b16 %h<16>;\n.reg .b32 %r<32>;\n.reg .b64 %rd<32>;\n\
         ld.param.u64 %rd1, [out];\nmov.u32 %r1, %tid.x;\n{body}\nret;\n}}\n"
    )
}

/// Runs `body` once for each row: a, b, c lie in %rd4.., %r4.. and %h4..; the result is what it
/// leaves in %rd7, %h7, %p7 or %r7, whichever it names first in this order.
pub fn evaluate(body: &str, rows: &[[u64; 3]]) -> Vec<u64> {
    evaluate_with(Settings::default(), body, rows)
}

/// The same on an emulator with other settings.
pub fn evaluate_with(settings: Settings, body: &str, rows: &[[u64; 3]]) -> Vec<u64> {
    let result = if body.contains("%rd7") {
        ""
    } else if body.contains("%h7") {
        "cvt.u64.u16 %rd7, %h7;"
    } else if body.contains("%p7") {
        "selp.b64 %rd7, 1, 0, %p7;"
    } else {
        "cvt.u64.u32 %rd7, %r7;"
    };
    let ptx = format!(
        ".visible .entry k(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .pred %p<16>;\n.reg .b16 %h<16>;\n.reg .b32 %r<32>;\n.reg .b64 %rd<32>;\n\
         ld.param.u64 %rd1, [in];\nld.param.u64 %rd2, [out];\nmov.u32 %r1, %tid.x;\n\
         mad.wide.u32 %rd1, %r1, 24, %rd1;\nmad.wide.u32 %rd2, %r1, 8, %rd2;\n\
         ld.global.u64 %rd4, [%rd1];\nld.global.u64 %rd5, [%rd1+8];\n\
         ld.global.u64 %rd6, [%rd1+16];\n\
         cvt.u32.u64 %r4, %rd4;\ncvt.u32.u64 %r5, %rd5;\ncvt.u32.u64 %r6, %rd6;\n\
         cvt.u16.u64 %h4, %rd4;\ncvt.u16.u64 %h5, %rd5;\ncvt.u16.u64 %h6, %rd6;\n\
         {body};\n{result}\nst.global.u64 [%rd2], %rd7;\nret;\n}}\n"
    );
    let gpu = Gpu::with(&ptx, settings);
    let flat: Vec<u64> = rows.iter().flatten().copied().collect();
    let input = gpu.upload(&flat);
    let output = gpu.context.allocate(8 * rows.len() as u64).expect("memory");
    let threads = rows.len() as u32;
    gpu.launch(&LaunchConfig::linear(1, threads), &[input, output]).expect("a launch");
    gpu.download64(output, rows.len())
}

/// Checks instructions against values written down from the PTX manual.
pub fn check(table: &[(&str, [u64; 3], u64)]) {
    for (instruction, inputs, expected) in table {
        let found = evaluate(instruction, std::slice::from_ref(inputs))[0];
        assert_eq!(found, *expected, "{instruction} of {inputs:x?}: {found:#x} != {expected:#x}");
    }
}
