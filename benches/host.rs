//! What a call costs on the CPU: checks, planning and the kernel's argument without any driver, and a whole
//! call beside a bare launch with an argument of the same size.
//!
//! `cargo bench --bench host`; `fused --host` is the same, for machines without Rust. Without a driver, or
//! without kernels, the second part is left out. On the emulated driver it runs and its times mean nothing.

use std::{
    ffi::c_void,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use cudarc::{
    driver::{CudaFunction, CudaSlice, CudaStream, sys},
    nvrtc::Ptx,
};
use smoothxent::{
    Error, Gradient, Kernels, LossConfig, LossInputs, LossOutputs, Selection, Shape, Workspace,
    loss,
    plan::{self, Planner, devices},
    problem::{ClassWeighting, Dtype, Pass, Place, Problem, TargetType, Types},
};

const TYPES: Types =
    Types { dtype: Dtype::F32, targets: TargetType::I64, class_weights: ClassWeighting::Absent };

/// Short enough for the device to keep up with the host.
const SMALL: Shape = Shape::contiguous(8, 10);

fn config() -> LossConfig {
    LossConfig { label_smoothing: 0.1, ignore_index: Some(-100), ..LossConfig::default() }
}

pub fn without_driver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("without a driver");
    let shapes = [("8x10", SMALL), ("8192x128256", Shape::contiguous(8192, 128_256))];
    for (name, shape) in shapes {
        let device = devices::H200.properties;
        let problem = || Problem::new(TYPES, black_box(shape), config(), Pass::Fused, Place::Apart);
        group.bench_function(format!("Problem::new {name}"), |bencher| bencher.iter(problem));
        let known = problem().expect("it is sound");
        group.bench_function(format!("plan::choose {name}"), |bencher| {
            bencher.iter(|| plan::choose(black_box(&known), &device, Selection::Fastest));
        });
        let planner = Planner::new(device);
        group.bench_function(format!("remembered plan {name}"), |bencher| {
            bencher.iter(|| planner.loss(black_box(&known), Selection::Fastest));
        });
        group.bench_function(format!("problem, plan, argument {name}"), |bencher| {
            bencher.iter(|| loss::prepare(&planner, TYPES, black_box(shape), config()));
        });
    }
    group.finish();
}

pub fn with_driver(criterion: &mut Criterion) {
    let mut here = match Here::new() {
        Ok(here) => here,
        Err(error) => {
            println!("with a driver: skipped, {error}");
            return;
        }
    };
    let mut group = criterion.benchmark_group("with a driver");
    group.bench_function("bare cuLaunchKernel", |bencher| {
        bencher.iter_custom(|times| here.time(times, Here::bare));
    });
    group.bench_function("bind a context", |bencher| {
        bencher.iter_custom(|times| here.time(times, |here| here.bind()));
    });
    group.bench_function("forward_backward, one stream", |bencher| {
        bencher.iter_custom(|times| here.time(times, Here::call));
    });
    // A second stream makes cudarc wait for, and record, events around each use of a buffer.
    let other = here.stream.fork().expect("a second stream");
    group.bench_function("forward_backward, two streams", |bencher| {
        bencher.iter_custom(|times| here.time(times, Here::call));
    });
    drop(other);
    group.finish();
}

/// Everything that a call needs, on the default stream of the first device.
struct Here {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    empty: CudaFunction,
    workspace: Workspace,
    logits: CudaSlice<f32>,
    targets: CudaSlice<i64>,
    gradient: CudaSlice<f32>,
    loss: CudaSlice<f32>,
}

/// Launches before the host waits: far fewer than a driver queues.
const AT_ONCE: u64 = 128;

/// As large as the argument of a fused kernel.
const ARGUMENT_BYTES: usize = 344;

impl Here {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let context = smoothxent::open(0)?;
        let kernels = Kernels::load(&context)?;
        let stream = context.default_stream();
        let source = format!(
            ".version 6.3\n.target sm_75\n.address_size 64\n\
             .visible .entry empty(.param .align 8 .b8 argument[{ARGUMENT_BYTES}]) {{ ret; }}"
        );
        let empty = context.load_module(Ptx::from_src(source))?.load_function("empty")?;
        let elements = SMALL.rows * SMALL.classes;
        Ok(Self {
            workspace: Workspace::new(&stream, SMALL.rows)?,
            logits: stream.alloc_zeros(elements)?,
            targets: stream.alloc_zeros(SMALL.rows)?,
            gradient: stream.alloc_zeros(elements)?,
            loss: stream.alloc_zeros(1)?,
            kernels,
            stream,
            empty,
        })
    }

    /// The host's time alone: the device catches up while no clock runs.
    fn time(&mut self, times: u64, run: impl Fn(&mut Self) -> Result<(), Error>) -> Duration {
        let mut total = Duration::ZERO;
        let mut left = times;
        while left > 0 {
            let now = left.min(AT_ONCE);
            let start = Instant::now();
            for _ in 0..now {
                run(self).expect("it ran before");
            }
            total += start.elapsed();
            self.stream.synchronize().expect("the launches succeed");
            left -= now;
        }
        total
    }

    fn call(&mut self) -> Result<(), Error> {
        let inputs = LossInputs::new(SMALL, &self.logits, &self.targets);
        let outputs = LossOutputs { loss: Some(&mut self.loss), ..LossOutputs::default() };
        let gradient = Gradient::new(&mut self.gradient);
        let workspace = &mut self.workspace;
        let (kernels, stream) = (&self.kernels, &self.stream);
        loss::forward_backward(kernels, stream, config(), inputs, outputs, gradient, workspace)
    }

    fn bare(&mut self) -> Result<(), Error> {
        let argument = [0u8; ARGUMENT_BYTES];
        let mut parameters = [argument.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes one parameter of this size, and does nothing with it.
        let result = unsafe {
            sys::cuLaunchKernel(
                self.empty.cu_function(),
                1,
                1,
                1,
                128,
                1,
                1,
                0,
                self.stream.cu_stream(),
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        result.result().expect("an empty kernel can be launched");
        Ok(())
    }

    fn bind(&self) -> Result<(), Error> {
        self.kernels.context().bind_to_thread().expect("the context is there");
        Ok(())
    }
}

criterion_group!(benches, without_driver, with_driver);
criterion_main!(benches);
