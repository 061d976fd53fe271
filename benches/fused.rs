//! How long the fused loss and gradient takes, and how far it is from a copy of the same bytes.
//!
//! For each shape, samples of the fused call and of a device-to-device copy from the logits to the
//! gradient take turns. A sample is a batch of calls between two device events, behind one call that
//! is not timed, so that the device never waits for the host to enqueue. Successive calls use
//! different buffers, four times the L2 cache in all, so that logits come from memory.

use std::{error::Error, fs, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
use half::{bf16, f16};
use smoothxent::{
    Gradient, Kernels, Logit, LossConfig, LossInputs, LossOutputs, Shape, Workspace,
    cudarc::driver::{
        CudaContext, CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits,
        sys::{CUdevice_attribute, CUevent_flags},
    },
    loss,
};

/// Times the fused loss and gradient beside a copy of the same size.
#[derive(Parser)]
struct Arguments {
    /// Write the results to this file, too
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Three shapes and fewer repeats
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` passes; changes nothing
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

/// Tiny, image and language problems: many short rows to few long ones.
const SHAPES: [(Dtype, usize, usize); 14] = [
    (Dtype::F32, 65_536, 10),
    (Dtype::F16, 65_536, 10),
    (Dtype::F32, 4096, 1000),
    (Dtype::Bf16, 4096, 1000),
    (Dtype::F16, 8192, 32_000),
    (Dtype::Bf16, 8192, 32_000),
    (Dtype::F32, 8192, 32_000),
    (Dtype::F16, 8192, 50_257),
    (Dtype::Bf16, 8192, 50_257),
    (Dtype::F16, 4096, 128_256),
    (Dtype::Bf16, 4096, 128_256),
    (Dtype::F32, 2048, 128_256),
    (Dtype::Bf16, 64, 128_256),
    (Dtype::F32, 64, 128_256),
];
const QUICK_SHAPES: [(Dtype, usize, usize); 3] =
    [(Dtype::F16, 65_536, 10), (Dtype::Bf16, 4096, 1000), (Dtype::Bf16, 8192, 32_000)];

const REPEATS: usize = 25;
const QUICK_REPEATS: usize = 7;

/// A batch is as many calls as take about this long.
const BATCH_MILLISECONDS: f32 = 2.0;
const MAX_BATCH: usize = 500;

/// Enough that no buffer is still in the cache when its turn comes again.
const L2_SIZES: usize = 4;

const SMOOTHING: f64 = 0.1;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let context = smoothxent::open(0)?;
    let name = context.name().map_err(|error| format!("the device has no name: {:?}", error.0))?;
    println!("{name}");
    if name.starts_with("Emulated") {
        println!("This device is emulated: times mean nothing here, so none are taken.");
        return Ok(());
    }
    let bench = Bench {
        kernels: Kernels::load(&context)?,
        stream: context.default_stream(),
        l2_bytes: l2_bytes(&context)?,
        repeats: if arguments.quick { QUICK_REPEATS } else { REPEATS },
    };
    let shapes = if arguments.quick { &QUICK_SHAPES[..] } else { &SHAPES[..] };

    println!("{}", Row::TABLE_HEADER);
    let mut csv = vec![Row::CSV_HEADER.to_owned()];
    for &(dtype, rows, classes) in shapes {
        let result = match dtype {
            Dtype::F32 => bench.measure::<f32>(rows, classes),
            Dtype::F16 => bench.measure::<f16>(rows, classes),
            Dtype::Bf16 => bench.measure::<bf16>(rows, classes),
        };
        match result {
            Ok(row) => {
                println!("{}", row.table_line());
                csv.push(row.csv_line(&name));
            }
            // Most often a device without the memory; the other shapes still count.
            Err(error) => println!("{rows} x {classes}: not measured: {error}"),
        }
    }
    if csv.len() == 1 {
        return Err("no shape could be measured".into());
    }
    if let Some(path) = &arguments.csv {
        fs::write(path, csv.join("\n") + "\n")
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

fn l2_bytes(context: &CudaContext) -> Result<usize, Box<dyn Error>> {
    let bytes = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
    Ok(usize::try_from(bytes)?)
}

/// Element types, as far as a benchmark has to know them.
trait Element: Logit + DeviceRepr + ValidAsZeroBits + Copy {
    const NAME: &'static str;
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const NAME: &'static str = "f32";
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    const NAME: &'static str = "f16";
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

struct Bench {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    l2_bytes: usize,
    repeats: usize,
}

/// What one call uses.
struct Buffers<T> {
    logits: CudaSlice<T>,
    gradient: CudaSlice<T>,
}

impl Bench {
    fn measure<T: Element>(&self, rows: usize, classes: usize) -> Result<Row, Box<dyn Error>> {
        let matrix_bytes = rows * classes * size_of::<T>();
        let sets = (L2_SIZES * self.l2_bytes).div_ceil(2 * matrix_bytes).max(1);
        let mut sets = (0..sets)
            .map(|set| self.buffers::<T>(rows * classes, set))
            .collect::<Result<Vec<_>, _>>()?;
        let targets: Vec<i64> = (0..rows).map(|row| (row * 7919 % classes) as i64).collect();
        let targets = self.stream.clone_htod(&targets)?;
        let mut loss = self.stream.alloc_zeros::<f32>(1)?;
        let mut workspace = Workspace::new(&self.stream, rows)?;
        let config = LossConfig { label_smoothing: SMOOTHING, ..LossConfig::default() };
        let shape = Shape::contiguous(rows, classes);

        let mut fused = |set: &mut Buffers<T>| -> Result<(), Box<dyn Error>> {
            let inputs = LossInputs::new(shape, &set.logits, &targets);
            let outputs = LossOutputs { loss: Some(&mut loss), ..LossOutputs::default() };
            let gradient = Gradient::new(&mut set.gradient);
            loss::forward_backward(
                &self.kernels,
                &self.stream,
                config,
                inputs,
                outputs,
                gradient,
                &mut workspace,
            )?;
            Ok(())
        };
        let mut copy = |set: &mut Buffers<T>| -> Result<(), Box<dyn Error>> {
            Ok(self.stream.memcpy_dtod(&set.logits, &mut set.gradient)?)
        };

        let mut turn = 0;
        let fused_batch = self.batch(&mut sets, &mut turn, &mut fused)?;
        let copy_batch = self.batch(&mut sets, &mut turn, &mut copy)?;
        let mut fused_times = Vec::new();
        let mut copy_times = Vec::new();
        for _ in 0..self.repeats {
            fused_times.push(self.sample(fused_batch, &mut sets, &mut turn, &mut fused)?);
            copy_times.push(self.sample(copy_batch, &mut sets, &mut turn, &mut copy)?);
        }
        workspace.take_status(&self.stream)?;
        Ok(Row {
            dtype: T::NAME,
            rows,
            classes,
            // Logits and targets are read, gradient and row losses are written, each once.
            bytes: 2 * matrix_bytes + rows * (size_of::<i64>() + size_of::<f32>()),
            copy_bytes: 2 * matrix_bytes,
            fused: Quantiles::of(fused_times),
            copy: Quantiles::of(copy_times),
        })
    }

    /// Logits of prime period, so that no two rows of a shape are alike.
    fn buffers<T: Element>(&self, len: usize, set: usize) -> Result<Buffers<T>, Box<dyn Error>> {
        const PERIOD: usize = 1_048_573;
        let mut state = set as u32 + 1;
        let block: Vec<T> = (0..PERIOD.min(len))
            .map(|_| {
                // Numerical Recipes' generator; its upper bits are even enough for logits.
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                T::from_f32((state >> 8) as f32 / (1 << 24) as f32 * 16.0 - 8.0)
            })
            .collect();
        let mut logits = self.stream.alloc_zeros::<T>(len)?;
        for start in (0..len).step_by(block.len()) {
            let end = len.min(start + block.len());
            self.stream.memcpy_htod(&block[..end - start], &mut logits.slice_mut(start..end))?;
        }
        Ok(Buffers { logits, gradient: self.stream.alloc_zeros::<T>(len)? })
    }

    /// Warms up, and finds how many calls fill a batch.
    fn batch<T>(
        &self,
        sets: &mut [Buffers<T>],
        turn: &mut usize,
        call: &mut impl FnMut(&mut Buffers<T>) -> Result<(), Box<dyn Error>>,
    ) -> Result<usize, Box<dyn Error>> {
        self.sample(3, sets, turn, call)?;
        let microseconds = self.sample(10, sets, turn, call)?;
        let batch = (BATCH_MILLISECONDS * 1000.0 / microseconds) as usize;
        Ok(batch.clamp(1, MAX_BATCH))
    }

    /// Microseconds of one call, averaged over a batch.
    fn sample<T>(
        &self,
        batch: usize,
        sets: &mut [Buffers<T>],
        turn: &mut usize,
        call: &mut impl FnMut(&mut Buffers<T>) -> Result<(), Box<dyn Error>>,
    ) -> Result<f32, Box<dyn Error>> {
        let mut next = || {
            *turn = (*turn + 1) % sets.len();
            call(&mut sets[*turn])
        };
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let start = self.stream.context().new_event(timed)?;
        let end = self.stream.context().new_event(timed)?;
        next()?;
        start.record(&self.stream)?;
        for _ in 0..batch {
            next()?;
        }
        end.record(&self.stream)?;
        Ok(start.elapsed_ms(&end)? * 1000.0 / batch as f32)
    }
}

/// In microseconds.
struct Quantiles {
    p20: f32,
    p50: f32,
    p80: f32,
}

impl Quantiles {
    fn of(mut times: Vec<f32>) -> Self {
        times.sort_by(f32::total_cmp);
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        Self { p20: at(20), p50: at(50), p80: at(80) }
    }
}

struct Row {
    dtype: &'static str,
    rows: usize,
    classes: usize,
    bytes: usize,
    copy_bytes: usize,
    fused: Quantiles,
    copy: Quantiles,
}

impl Row {
    const TABLE_HEADER: &str =
        "  rows x classes  dtype      p20 us      p50 us      p80 us     GB/s  share of copy";
    const CSV_HEADER: &str = "implementation,device,rows,classes,dtype,label_smoothing,bytes,\
                              p20_us,p50_us,p80_us,gb_per_s,copy_p50_us,share_of_copy";

    fn gigabytes_per_second(&self) -> f32 {
        self.bytes as f32 / self.fused.p50 / 1000.0
    }

    /// Of the copy's bytes per second.
    fn share_of_copy(&self) -> f32 {
        self.gigabytes_per_second() / (self.copy_bytes as f32 / self.copy.p50 / 1000.0)
    }

    fn table_line(&self) -> String {
        format!(
            "{:>7} x {:<7} {:>5} {:>11.2} {:>11.2} {:>11.2} {:>8.0} {:>14.3}",
            self.rows,
            self.classes,
            self.dtype,
            self.fused.p20,
            self.fused.p50,
            self.fused.p80,
            self.gigabytes_per_second(),
            self.share_of_copy()
        )
    }

    fn csv_line(&self, device: &str) -> String {
        format!(
            "smoothxent,{},{},{},{},{SMOOTHING},{},{:.3},{:.3},{:.3},{:.1},{:.3},{:.4}",
            device.replace(',', " "),
            self.rows,
            self.classes,
            self.dtype,
            self.bytes,
            self.fused.p20,
            self.fused.p50,
            self.fused.p80,
            self.gigabytes_per_second(),
            self.copy.p50,
            self.share_of_copy()
        )
    }
}
