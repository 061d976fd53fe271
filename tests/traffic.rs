//! What the plain smoothed loss costs, held to what it cost before the conventions came: the emulated
//! driver's counts of lane-instructions and of 32-byte sectors. A convention costs nothing to who does
//! not use it.

#[path = "common/report.rs"]
mod report;

use std::process::ExitCode;

use half::{bf16, f16};
use libtest_mimic::{Arguments, Completion, Trial};
use report::{Launch, Report};
use smoothxent::{
    Gradient, Kernels, Logit, LossConfig, LossInputs, LossOutputs, Shape, Workspace,
    cudarc::driver::{DeviceRepr, ValidAsZeroBits},
    loss,
};

/// Lane-instructions, sectors read and sectors written.
type Counts = (u64, u64, u64);

/// Rows, classes, and the counts in f32, f16 and bf16 of the fused loss and gradient with label smoothing
/// 0.1 at commit 9879307^, on the emulated sm_90: before class weights, divisors, z-loss and the rest.
const BEFORE: [(usize, usize, [Counts; 3]); 15] = [
    (64, 10, [(923607, 311, 238), (862354, 238, 165), (899657, 238, 165)]),
    (64, 32, [(963601, 459, 386), (935396, 331, 258), (957892, 331, 258)]),
    (64, 100, [(1088856, 1033, 960), (1035392, 673, 600), (1051067, 673, 600)]),
    (64, 300, [(2477059, 2826, 2625), (2362526, 1635, 1434), (2377275, 1635, 1434)]),
    (64, 1000, [(3362298, 8331, 8130), (3278369, 4458, 4257), (3221540, 4458, 4257)]),
    (64, 1001, [(3364081, 8666, 8465), (3283734, 4543, 4342), (3226139, 4543, 4342)]),
    (64, 2000, [(10190817, 17099, 16130), (4442342, 8331, 8130), (4328051, 8331, 8130)]),
    (64, 3000, [(11495244, 25099, 24130), (11132354, 13481, 12512), (10993710, 13481, 12512)]),
    (64, 4096, [(12813429, 33867, 32898), (12477868, 17483, 16514), (12221280, 17483, 16514)]),
    (64, 6000, [(22841527, 50123, 48130), (14695570, 25099, 24130), (14374179, 25099, 24130)]),
    (64, 8000, [(25251621, 66123, 64130), (17012312, 33099, 32130), (16532579, 33099, 32130)]),
    (8, 20000, [(7378901, 20523, 20018), (5042357, 10267, 10018), (4867266, 10267, 10018)]),
    (8, 32000, [(9249554, 32523, 32018), (6804327, 16267, 16018), (6518147, 16267, 16018)]),
    (8, 50257, [(12766386, 52361, 51856), (11657505, 27038, 26533), (11152349, 27038, 26533)]),
    (8, 128256, [(26270830, 199051, 128274), (23806809, 70795, 64146), (22614203, 70795, 64146)]),
];

/// Of the instructions: what another block size of a short row may cost; more is a regression.
const ALLOWED_INSTRUCTIONS: f64 = 1.02;

/// Of the sectors: targets, row losses and tickets of few rows are a part of them.
const ALLOWED_SECTORS: f64 = 1.005;

/// Shapes whose rows a block keeps in shared memory, aligned and ragged, and of which the logits are nearly
/// all that is read: no more than a hundredth of the traffic is anything else.
const READ_ONCE: [(usize, usize); 5] =
    [(16, 4096), (16, 10450), (16, 21841), (8, 32000), (8, 32001)];

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet.
    let report = unsafe { Report::begin() };
    let trial = |name: &str, test: fn(&Report) -> Result<Completion, String>| {
        let report = report.clone();
        Trial::ignorable_test(name, move || test(&report).map_err(Into::into))
    };
    let trials = vec![
        trial("traffic::plain_loss", plain_loss),
        trial("traffic::each_logit_is_read_once", each_logit_is_read_once),
    ];
    // The report is one for the process, so the tests take turns.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The kernels on the emulated sm_90, or why not.
fn open() -> Result<Result<Kernels, Completion>, String> {
    let context = smoothxent::open(0).map_err(|error| error.to_string())?;
    let name = context.name().map_err(|error| format!("{:?}", error.0))?;
    if !name.contains("sm_90") || !name.starts_with("Emulated") {
        return Ok(Err(Completion::ignored_with(
            "only the emulated sm_90 counts what is compared",
        )));
    }
    Kernels::load(&context).map(Ok).map_err(|error| error.to_string())
}

fn each_logit_is_read_once(report: &Report) -> Result<Completion, String> {
    let kernels = match open()? {
        Ok(kernels) => kernels,
        Err(ignored) => return Ok(ignored),
    };
    report.take()?;
    let mut faults = vec![];
    let mut check = |logits: usize, launches: Vec<Launch>| {
        faults.extend(launches.iter().filter_map(|launch| launch.moves_once(logits, logits).err()));
    };
    for (rows, classes) in READ_ONCE {
        run(&kernels, rows, classes, |x| x)?;
        check(4 * rows * classes, report.take()?);
        run(&kernels, rows, classes, f16::from_f32)?;
        check(2 * rows * classes, report.take()?);
        run(&kernels, rows, classes, bf16::from_f32)?;
        check(2 * rows * classes, report.take()?);
    }
    if faults.is_empty() { Ok(Completion::Completed) } else { Err(faults.join("\n")) }
}

fn plain_loss(report: &Report) -> Result<Completion, String> {
    let kernels = match open()? {
        Ok(kernels) => kernels,
        Err(ignored) => return Ok(ignored),
    };
    report.take()?;
    for (rows, classes, _) in BEFORE {
        run(&kernels, rows, classes, |x| x)?;
        run(&kernels, rows, classes, f16::from_f32)?;
        run(&kernels, rows, classes, bf16::from_f32)?;
    }
    let launches = report.take()?;
    let before = BEFORE.iter().flat_map(|(rows, classes, counts)| {
        let names = ["f32", "f16", "bf16"];
        names.into_iter().zip(counts).map(move |(dtype, counts)| (*rows, *classes, dtype, *counts))
    });
    let before: Vec<_> = before.collect();
    if launches.len() != before.len() {
        return Err(format!("{} launches instead of {}", launches.len(), before.len()));
    }
    let mut faults = vec![];
    for (launch, (rows, classes, dtype, (instructions, read, written))) in
        launches.iter().zip(before)
    {
        if launch.kernel != format!("xent_fused_block_{dtype}") {
            return Err(format!("{rows} x {classes} {dtype} ran {}", launch.kernel));
        }
        for (what, found, before, allowed) in [
            ("lane-instructions", launch.lane_instructions, instructions, ALLOWED_INSTRUCTIONS),
            ("sectors read", launch.global_sectors_read, read, ALLOWED_SECTORS),
            ("sectors written", launch.global_sectors_written, written, ALLOWED_SECTORS),
        ] {
            let ratio = found as f64 / before as f64;
            if ratio > allowed {
                faults.push(format!(
                    "{rows} x {classes} {dtype}: {found} {what}, {before} before: {ratio:.3} times"
                ));
            }
        }
    }
    if faults.is_empty() { Ok(Completion::Completed) } else { Err(faults.join("\n")) }
}

/// Logits and targets as they were made then.
fn run<T: Logit + DeviceRepr + ValidAsZeroBits + Copy>(
    kernels: &Kernels,
    rows: usize,
    classes: usize,
    narrow: fn(f32) -> T,
) -> Result<(), String> {
    let failed = |error: smoothxent::cudarc::driver::DriverError| format!("{:?}", error.0);
    let stream = kernels.context().default_stream();
    let mut state = 12345u64;
    let logits: Vec<T> = (0..rows * classes)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            narrow(((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 16.0)
        })
        .collect();
    let targets: Vec<i64> = (0..rows).map(|row| ((row * 7919 + 13) % classes) as i64).collect();
    let logits = stream.clone_htod(&logits).map_err(failed)?;
    let targets = stream.clone_htod(&targets).map_err(failed)?;
    let mut gradient = stream.alloc_zeros::<T>(rows * classes).map_err(failed)?;
    let mut loss = stream.alloc_zeros::<f32>(1).map_err(failed)?;
    let mut workspace = Workspace::new(&stream, rows).map_err(|error| error.to_string())?;
    let config = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
    let inputs = LossInputs::new(Shape::contiguous(rows, classes), &logits, &targets);
    let outputs = LossOutputs { loss: Some(&mut loss), ..LossOutputs::default() };
    let to = Gradient::new(&mut gradient);
    loss::forward_backward(kernels, &stream, config, inputs, outputs, to, &mut workspace)
        .map_err(|error| error.to_string())?;
    stream.synchronize().map_err(failed)
}
