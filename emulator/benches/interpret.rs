//! How long the interpreter takes for the crate's fused f16 kernel on 128 x 32000, with races checked and
//! without. On two cores this is to be below 8 s and below 1 s.
//!
//! `cargo bench -p cuda-emulator`; nvcc compiles kernels/fused_block.cu first.

use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use cuda_emulator::context::{Context, LaunchConfig};
use cuda_emulator::settings::{Races, Settings};

#[allow(dead_code, reason = "the bench uses one kernel")]
#[path = "../../src/abi.rs"]
mod abi;

#[allow(dead_code, reason = "nothing is replaced here")]
#[path = "../tests/acceptance/compile.rs"]
mod compile;

use compile::{Compiler, NO_NVCC, Source};

const ROWS: u64 = 128;
const CLASSES: u32 = 32000;
const THREADS: u32 = abi::XENT_MAX_BLOCK_THREADS;

/// What the launch adds to the kernel's static shared memory: whole rows fit.
const CACHED_PACKS: u32 = CLASSES / 8;

fn main() {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some(compiler) = Compiler::find(cache).expect("NVCC names an nvcc") else {
        println!("skipped: {NO_NVCC}");
        return;
    };
    let source = Source::read(&compile::workspace().join("kernels"), "fused_block.cu");
    let ptx = compiler.ptx(&source.expect("the crate's kernels"), "90").expect("they compile");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("fused_block_f16 128 x 32000");
    group.throughput(Throughput::Elements(ROWS * u64::from(CLASSES)));
    for (name, races) in [("plain", Races::Unchecked), ("races", Races::Checked)] {
        let launch = Launch::new(&ptx, races);
        group.bench_function(name, |bencher| bencher.iter(|| launch.run()));
    }
    group.finish();
    criterion.final_summary();
}

/// The loss and gradient of random logits, ready to be launched.
struct Launch {
    context: Context,
    module: cuda_emulator::context::Module,
    parameters: Vec<u8>,
    row_losses: u64,
}

impl Launch {
    fn new(ptx: &str, races: Races) -> Self {
        let context = Context::new(Settings { races, ..Settings::default() });
        let module = context.load(ptx).expect("PTX that parses");
        let upload = |bytes: &[u8]| {
            let address = context.allocate(bytes.len() as u64).expect("memory");
            context.write(address, bytes).expect("a copy");
            address
        };
        let elements = ROWS as usize * CLASSES as usize;
        // f16 of magnitude 1 to 2, either sign, with a long period.
        let logit = |i: usize| {
            let bits = ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as u16;
            bits & 0x83FF | 0x3C00
        };
        let logits: Vec<u8> = (0..elements).flat_map(|i| logit(i).to_le_bytes()).collect();
        let logits = upload(&logits);
        let gradient = upload(&vec![0; 2 * elements]);
        let targets: Vec<u8> = (0..ROWS as i64)
            .flat_map(|row| (row * 211 % i64::from(CLASSES)).to_le_bytes())
            .collect();
        let targets = upload(&targets);
        // As before its first use.
        let workspace = upload(&vec![0; size_of::<abi::XentWorkspace>()]);
        let row_losses = upload(&vec![0; 4 * ROWS as usize]);

        let mut fused = Parameters(vec![0; size_of::<abi::XentFused>()]);
        macro_rules! set {
            ($value:expr, $($field:tt)+) => {
                fused.set(std::mem::offset_of!(abi::XentFused, $($field)+), &$value.to_le_bytes())
            };
        }
        set!(logits, logits);
        set!(gradient, gradient);
        set!(targets, targets.values);
        set!(u64::from(CLASSES), targets.row_stride);
        set!(abi::XENT_TARGET_I64, targets.kind);
        set!(row_losses, row_losses);
        set!(workspace, sums.workspace);
        set!(ROWS, sums.rows);
        set!(u64::from(CLASSES), logits_row_stride);
        set!(u64::from(CLASSES), gradient_row_stride);
        set!(CLASSES, classes);
        set!(1_u32, geometry.slices);
        set!(CACHED_PACKS, geometry.cached_packs);
        set!(1_u32, geometry.rows_per_warp);
        set!(0.9_f32, term_weights.nll);
        set!((0.1 / CLASSES as f32), term_weights.smoothing);
        set!(1_f32, divided.inverse_divisors.nll);
        set!(1_f32, divided.inverse_divisors.smoothing);
        set!(1_f32, divided.inverse_divisors.z_loss);
        set!(0.9_f32, divided.term_weights.nll);
        set!((0.1 / CLASSES as f32), divided.term_weights.smoothing);
        set!(1_f32, transform.scale);
        set!(std::f32::consts::LOG2_E, transform.exponent_scale);
        set!(1_f32, transform.inner);
        set!(1_f32, transform.slope);
        let parameters = fused.0;
        Self { context, module, parameters, row_losses }
    }

    fn run(&self) {
        let kernel = self.module.kernel("xent_fused_block_f16").expect("the kernel");
        let kernel = kernel.expect("instructions that the emulator knows");
        let shared_bytes = u64::from(CACHED_PACKS) * u64::from(abi::XENT_PACK_BYTES);
        let config = LaunchConfig {
            dynamic_shared_bytes: shared_bytes,
            max_dynamic_shared_bytes: Some(shared_bytes),
            ..LaunchConfig::linear(ROWS as u32, THREADS)
        };
        let counters = self.context.launch(&kernel, &config, &self.parameters);
        let counters = counters.expect("a clean launch");
        let logits_bytes = 2 * ROWS * u64::from(CLASSES);
        assert!(counters.global_bytes_written >= logits_bytes, "the gradient was not written");
        let mut first = [0; 4];
        self.context.read(self.row_losses, &mut first).expect("a copy");
        let loss = f32::from_le_bytes(first);
        assert!(loss > 5.0 && loss < 25.0, "a loss of {loss} is not that of such rows");
    }
}

/// A parameter struct as bytes.
struct Parameters(Vec<u8>);

impl Parameters {
    fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}
