//! The C program, the Python loader and the Rust interface on the same inputs: the same bits. And what the
//! header promises: that it compiles, and what mistakes are called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::Arc;

use half::{bf16, f16};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use smoothxent::binary::{self, BinaryInputs, BinaryOutputs};
use smoothxent::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use smoothxent::log_softmax::{self, LogSoftmaxOutputs, Softmax};
use smoothxent::{
    BinaryConfig, ClassWeights, Gradient, Kernels, LogSoftmaxShape, Logit, Logits, LossConfig,
    LossInputs, LossOutputs, SavedSoftmax, Shape, Target, Upstream, Workspace, loss,
};
use smoothxent_c::{
    SX_BF16, SX_F16, SX_F32, SX_TARGET_BF16, SX_TARGET_F32, SX_TARGET_I32, SX_TARGET_I64,
    SX_TARGET_U32,
};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = smoothxent::open(0).and_then(|context| Kernels::load(&context))
    {
        eprintln!(
            "{error}. Without a GPU: `cargo xtask test` runs everything on an emulated driver."
        );
        return ExitCode::FAILURE;
    }
    let trials = vec![
        Trial::test("header_is_c99", || header_compiles("c", "-std=c99")),
        Trial::test("header_is_cpp", || header_compiles("c++", "-std=c++11")),
        Trial::test("readme_example_compiles", readme_example_compiles),
        Trial::test("c_program_gives_the_bits_of_rust", || c_program(Linked::Shared)),
        Trial::test("static_library_gives_the_bits_of_rust", || c_program(Linked::Static)),
        Trial::ignorable_test("python_gives_the_bits_of_rust", python),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

// ---------------------------------------------------------------- cases

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Fused,
    Apart,
    LogSoftmax,
    Binary,
}

/// A problem as all three languages read it from a file.
struct Case {
    operation: Operation,
    rows: usize,
    classes: usize,
    /// Elements between the rows of the logits, of the gradient, and of target probabilities.
    padding: [usize; 3],
    dtype: u32,
    target_type: u32,
    in_place: bool,
    weighted: bool,
    /// Numbers that flow back: none, one, or one a row.
    upstream: usize,
    label_smoothing: f64,
    z_loss: f64,
    preset: &'static str,
}

const PLAIN: Case = Case {
    operation: Operation::Fused,
    rows: 5,
    classes: 1000,
    padding: [0; 3],
    dtype: SX_F32,
    target_type: SX_TARGET_I64,
    in_place: false,
    weighted: false,
    upstream: 0,
    label_smoothing: 0.1,
    z_loss: 0.0,
    preset: "pytorch",
};

const CASES: [Case; 12] = [
    PLAIN,
    Case { dtype: SX_BF16, classes: 32_001, ..PLAIN },
    Case { dtype: SX_F16, classes: 50_257, rows: 3, padding: [7, 3, 0], upstream: 1, ..PLAIN },
    Case { dtype: SX_BF16, in_place: true, weighted: true, target_type: SX_TARGET_I32, ..PLAIN },
    Case { rows: 1500, classes: 33, upstream: 1500, target_type: SX_TARGET_U32, ..PLAIN },
    Case { operation: Operation::Apart, dtype: SX_F16, z_loss: 1e-3, preset: "liger", ..PLAIN },
    Case { operation: Operation::Apart, in_place: true, classes: 4099, weighted: true, ..PLAIN },
    Case {
        target_type: SX_TARGET_BF16,
        dtype: SX_BF16,
        classes: 4099,
        padding: [0, 0, 5],
        ..PLAIN
    },
    Case { operation: Operation::LogSoftmax, dtype: SX_F16, padding: [1, 2, 0], ..PLAIN },
    Case { operation: Operation::LogSoftmax, dtype: SX_BF16, classes: 32_001, rows: 2, ..PLAIN },
    Case { operation: Operation::Binary, target_type: SX_TARGET_F32, preset: "keras", ..PLAIN },
    Case {
        operation: Operation::Binary,
        dtype: SX_F16,
        weighted: true,
        preset: "timm",
        upstream: 5,
        ..PLAIN
    },
];

/// A number within 0..1 that depends on its place alone.
fn unit(seed: u64, index: usize) -> f32 {
    let mixed = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 40) as f32 / (1u32 << 24) as f32
}

trait Element: DeviceRepr + ValidAsZeroBits + Copy {
    fn of(value: f32) -> Self;
}

impl Element for f32 {
    fn of(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Element for bf16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
}

fn bytes_of<T: DeviceRepr>(values: &[T]) -> Vec<u8> {
    // SAFETY: every T here is a number, without padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }.to_vec()
}

impl Case {
    fn shape(&self) -> Shape {
        let [logits, gradient, targets] = self.padding.map(|padding| self.classes + padding);
        Shape {
            logits_row_stride: logits,
            gradient_row_stride: if self.in_place { logits } else { gradient },
            targets_row_stride: targets,
            ..Shape::contiguous(self.rows, self.classes)
        }
    }

    fn span(&self, stride: usize) -> usize {
        (self.rows - 1) * stride + self.classes
    }

    fn logits<T: Element>(&self) -> Vec<T> {
        let elements = self.span(self.shape().logits_row_stride);
        (0..elements).map(|i| T::of(20.0 * unit(1, i) - 10.0)).collect()
    }

    /// Some are ignored by presets that do so.
    fn indices(&self) -> Vec<i64> {
        let ignores = self.operation != Operation::Binary && self.target_type != SX_TARGET_U32;
        let target = |row: usize| match row % 4 {
            3 if ignores => -100,
            _ => (row as i64 * 7919 + 11) % self.classes as i64,
        };
        (0..self.rows).map(target).collect()
    }

    fn probabilities<T: Element>(&self) -> Vec<T> {
        let elements = self.span(self.shape().targets_row_stride);
        let scale =
            if self.operation == Operation::Binary { 1.0 } else { self.classes as f32 / 2.0 };
        (0..elements).map(|i| T::of(unit(2, i) / scale)).collect()
    }

    fn target_bytes(&self) -> Vec<u8> {
        let indices = self.indices();
        match self.target_type {
            SX_TARGET_I32 => bytes_of(&narrow::<i32>(&indices)),
            SX_TARGET_U32 => bytes_of(&narrow::<u32>(&indices)),
            SX_TARGET_I64 => bytes_of(&indices),
            SX_TARGET_F32 => bytes_of(&self.probabilities::<f32>()),
            SX_TARGET_BF16 => bytes_of(&self.probabilities::<bf16>()),
            other => panic!("no case has targets of type {other}"),
        }
    }

    fn weights(&self) -> Option<Vec<f32>> {
        self.weighted.then(|| (0..self.classes).map(|class| unit(3, class)).collect())
    }

    fn upstream(&self) -> Vec<f32> {
        (0..self.upstream).map(|row| unit(4, row) - 0.25).collect()
    }

    /// `[rows, classes]` for a log-softmax, without gaps between its rows.
    fn upstream_matrix<T: Element>(&self) -> Vec<T> {
        (0..self.rows * self.classes).map(|i| T::of(unit(5, i) - 0.5)).collect()
    }

    /// As loss.c and loss.py read it.
    fn write<T: Element>(&self, to: &mut Vec<u8>) {
        let shape = self.shape();
        let upstream = match self.operation {
            Operation::LogSoftmax => bytes_of(&self.upstream_matrix::<T>()),
            _ => bytes_of(&self.upstream()),
        };
        let (logits, targets) = (bytes_of(&self.logits::<T>()), self.target_bytes());
        let weights = bytes_of(&self.weights().unwrap_or_default());
        let gradient_bytes = self.span(shape.gradient_row_stride) * size_of::<T>();
        let per_row = self.upstream > 1;
        for number in [
            self.operation as usize,
            self.rows,
            self.classes,
            shape.logits_row_stride,
            shape.gradient_row_stride,
            shape.targets_row_stride,
            self.dtype as usize,
            self.target_type as usize,
            self.in_place.into(),
            per_row.into(),
            logits.len(),
            targets.len(),
            weights.len(),
            upstream.len(),
            gradient_bytes,
        ] {
            to.extend((number as u64).to_ne_bytes());
        }
        to.extend(self.label_smoothing.to_ne_bytes());
        to.extend(self.z_loss.to_ne_bytes());
        let mut preset = [0; 32];
        preset[..self.preset.len()].copy_from_slice(self.preset.as_bytes());
        to.extend(preset);
        for part in [logits, targets, weights, upstream] {
            to.extend(part);
        }
    }
}

fn narrow<T: TryFrom<i64>>(indices: &[i64]) -> Vec<T> {
    let narrow = |&index| T::try_from(index).ok().expect("the case's targets fit their type");
    indices.iter().map(narrow).collect()
}

/// The bytes of the file that the programs read.
fn cases() -> Vec<u8> {
    let mut file = vec![];
    for case in &CASES {
        match case.dtype {
            SX_F16 => case.write::<f16>(&mut file),
            SX_BF16 => case.write::<bf16>(&mut file),
            _ => case.write::<f32>(&mut file),
        }
    }
    file
}

// ---------------------------------------------------------------- in Rust

struct Rig {
    stream: Arc<CudaStream>,
    kernels: Kernels,
}

/// The bytes that the programs have to write.
fn expected() -> Vec<u8> {
    let context = smoothxent::open(0).expect("main opened it");
    let kernels = Kernels::load(&context).expect("main loaded them");
    let rig = Rig { stream: context.default_stream(), kernels };
    CASES
        .iter()
        .flat_map(|case| match case.dtype {
            SX_F16 => rig.results::<f16>(case),
            SX_BF16 => rig.results::<bf16>(case),
            _ => rig.results::<f32>(case),
        })
        .collect()
}

impl Rig {
    fn upload<T: DeviceRepr>(&self, values: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(values).expect("a few bytes are left")
    }

    fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, elements: usize) -> CudaSlice<T> {
        self.stream.alloc_zeros(elements).expect("a few bytes are left")
    }

    fn bytes<T: DeviceRepr>(&self, buffer: &CudaSlice<T>) -> Vec<u8> {
        bytes_of(&self.stream.clone_dtoh(buffer).expect("results can be copied back"))
    }

    fn results<T: Element + Logit>(&self, case: &Case) -> Vec<u8> {
        let indices = case.indices();
        match (case.operation, case.target_type) {
            (Operation::LogSoftmax, _) => self.log_softmax::<T>(case),
            (_, SX_TARGET_I32) => self.of_targets::<T, i32>(case, &narrow(&indices)),
            (_, SX_TARGET_U32) => self.of_targets::<T, u32>(case, &narrow(&indices)),
            (_, SX_TARGET_I64) => self.of_targets::<T, i64>(case, &indices),
            (_, SX_TARGET_F32) => self.of_targets::<T, f32>(case, &case.probabilities()),
            (_, SX_TARGET_BF16) => self.of_targets::<T, bf16>(case, &case.probabilities()),
            (_, other) => panic!("no case has targets of type {other}"),
        }
    }

    fn of_targets<T: Element + Logit, Y: Target + DeviceRepr + Copy>(
        &self,
        case: &Case,
        targets: &[Y],
    ) -> Vec<u8> {
        match case.operation {
            Operation::Binary => self.binary::<T, Y>(case, targets),
            _ => self.loss::<T, Y>(case, targets),
        }
    }

    fn loss<T: Element + Logit, Y: Target + DeviceRepr + Copy>(
        &self,
        case: &Case,
        targets: &[Y],
    ) -> Vec<u8> {
        let Self { stream, kernels } = self;
        let preset = match case.preset {
            "pytorch" => LossConfig::pytorch(),
            "liger" => LossConfig::liger(),
            other => panic!("no case has the preset {other}"),
        };
        let (label_smoothing, z_loss) = (case.label_smoothing, case.z_loss);
        let config = LossConfig { label_smoothing, z_loss, ..preset };
        let shape = case.shape();
        let logits = self.upload(&case.logits::<T>());
        let targets = self.upload(targets);
        let weights = case.weights().map(|w| ClassWeights::new(stream, &w).expect("they are fine"));
        let upstream = (case.upstream > 0).then(|| self.upload(&case.upstream()));
        let mut gradient = match case.in_place {
            true => self.upload(&case.logits::<T>()),
            false => self.zeros(case.span(shape.gradient_row_stride)),
        };
        let (mut loss, mut correct) = (self.zeros::<f32>(1), self.zeros::<i64>(1));
        let (mut row_losses, mut row_lse) = (self.zeros::<f32>(case.rows), self.zeros(case.rows));
        let mut row_argmax = self.zeros::<i64>(case.rows);
        let mut workspace = Workspace::new(stream, case.rows).expect("a few bytes are left");
        let mut saved = SavedSoftmax::new(stream, case.rows).expect("a few bytes are left");
        let counts = !Y::TYPE.is_probabilities();
        let apart = LossInputs {
            class_weights: weights.as_ref(),
            ..LossInputs::new(shape, &logits, &targets)
        };
        let inputs = match case.in_place {
            true => LossInputs { logits: Logits::InGradient, ..apart },
            false => apart,
        };
        let outputs = LossOutputs {
            loss: Some(&mut loss),
            row_losses: Some(&mut row_losses),
            row_lse: Some(&mut row_lse),
            row_argmax: Some(&mut row_argmax),
            correct: if counts { Some(&mut correct) } else { None },
            saved: None,
        };
        let to = Gradient { matrix: &mut gradient, upstream: flowing_back(&upstream) };
        let called = if case.operation == Operation::Fused {
            loss::forward_backward(kernels, stream, config, inputs, outputs, to, &mut workspace)
        } else {
            let outputs = LossOutputs { saved: Some(&mut saved), ..outputs };
            loss::forward(kernels, stream, config, apart, outputs, &mut workspace)
                .and_then(|()| loss::backward(kernels, stream, config, inputs, &saved, to))
        };
        called.expect("the case is sound");
        let mut results = self.bytes(&gradient);
        results.extend([self.bytes(&loss), self.bytes(&row_losses), self.bytes(&row_lse)].concat());
        results.extend(self.bytes(&row_argmax));
        if counts {
            results.extend(self.bytes(&correct));
        }
        results
    }

    fn binary<T: Element + Logit, Y: Target + DeviceRepr + Copy>(
        &self,
        case: &Case,
        targets: &[Y],
    ) -> Vec<u8> {
        let Self { stream, kernels } = self;
        let config = match case.preset {
            "keras" => BinaryConfig::keras(case.label_smoothing),
            "timm" => BinaryConfig::timm(case.label_smoothing),
            other => panic!("no case has the preset {other}"),
        };
        let shape = case.shape();
        let logits = self.upload(&case.logits::<T>());
        let targets = self.upload(targets);
        let weights = case.weights().map(|w| ClassWeights::new(stream, &w).expect("they are fine"));
        let upstream = (case.upstream > 0).then(|| self.upload(&case.upstream()));
        let mut gradient = self.zeros::<T>(case.span(shape.gradient_row_stride));
        let (mut loss, mut row_losses) = (self.zeros::<f32>(1), self.zeros::<f32>(case.rows));
        let mut workspace = Workspace::new(stream, case.rows).expect("a few bytes are left");
        let inputs = BinaryInputs {
            positive_weights: weights.as_ref(),
            ..BinaryInputs::new(shape, &logits, &targets)
        };
        let outputs = BinaryOutputs { loss: Some(&mut loss), row_losses: Some(&mut row_losses) };
        let to = Gradient { matrix: &mut gradient, upstream: flowing_back(&upstream) };
        binary::forward_backward(kernels, stream, config, inputs, outputs, to, &mut workspace)
            .expect("the case is sound");
        // The programs write it of both passes apart, and of both at once.
        [self.bytes(&gradient), self.bytes(&loss), self.bytes(&row_losses)].concat().repeat(2)
    }

    fn log_softmax<T: Element + Logit>(&self, case: &Case) -> Vec<u8> {
        let Self { stream, kernels } = self;
        let Shape { rows, classes, logits_row_stride, gradient_row_stride, .. } = case.shape();
        let shape = LogSoftmaxShape {
            logits_row_stride,
            output_row_stride: gradient_row_stride,
            gradient_row_stride,
            ..LogSoftmaxShape::contiguous(rows, classes)
        };
        let logits = self.upload(&case.logits::<T>());
        let upstream = self.upload(&case.upstream_matrix::<T>());
        let (mut log_probs, mut gradient) = (
            self.zeros::<T>(case.span(gradient_row_stride)),
            self.zeros::<T>(case.span(gradient_row_stride)),
        );
        let mut row_lse = self.zeros::<f32>(rows);
        let mut saved = SavedSoftmax::new(stream, rows).expect("a few bytes are left");
        let outputs = LogSoftmaxOutputs {
            row_lse: Some(&mut row_lse),
            saved: Some(&mut saved),
            ..LogSoftmaxOutputs::new(&mut log_probs)
        };
        log_softmax::forward(kernels, stream, shape, &logits, outputs)
            .and_then(|()| {
                let from = Softmax::OfLogits(&logits, &saved);
                log_softmax::backward(kernels, stream, shape, from, &upstream, &mut gradient)
            })
            .expect("the case is sound");
        [self.bytes(&log_probs), self.bytes(&row_lse), self.bytes(&gradient)].concat()
    }
}

fn flowing_back(upstream: &Option<CudaSlice<f32>>) -> Upstream<'_> {
    match upstream {
        None => Upstream::One,
        Some(one) if one.len() == 1 => Upstream::Scalar(one),
        Some(all) => Upstream::PerRow(all),
    }
}

// ---------------------------------------------------------------- in other languages

/// This package.
fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where tests may write.
fn scratch(name: &str) -> Result<PathBuf, Failed> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// What cargo built of this package, which is beside this program.
fn library(name: &str) -> Result<PathBuf, Failed> {
    let program = std::env::current_exe()?;
    let beside = program.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let found = beside.into_iter().find(|library| library.is_file());
    found.ok_or_else(|| format!("cargo built no {name} beside {}", program.display()).into())
}

/// What `cc` knows of the compiler here, with every warning an error.
fn compiler(language: &str) -> Result<Command, Failed> {
    let mut build = cc::Build::new();
    build.cpp(language == "c++").opt_level(1).warnings(false);
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    build.target(&host).host(&host).out_dir(scratch("cc")?).cargo_metadata(false);
    let mut command = build.try_get_compiler()?.to_command();
    command.args(["-Wall", "-Wextra", "-pedantic", "-Werror", "-I"]);
    command.arg(package().join("include"));
    Ok(command)
}

fn succeed(mut command: Command) -> Result<Output, Failed> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Err(format!("{command:?}: {}\n{stdout}{stderr}", output.status).into())
}

fn header_compiles(language: &str, standard: &str) -> Result<(), Failed> {
    let folder = scratch(standard)?;
    let source = folder.join("header.c");
    fs::write(&source, "#include \"smoothxent.h\"\n#include \"smoothxent.h\"\nint nothing;\n")?;
    let mut command = compiler(language)?;
    command.args([standard, "-x", language, "-c", "-o"]).arg(folder.join("header.o")).arg(source);
    succeed(command).map(drop)
}

/// The first example in C of README.md.
fn readme_example_compiles() -> Result<(), Failed> {
    let readme = fs::read_to_string(package().join("README.md"))?;
    let example = readme.split("```c\n").nth(1).and_then(|rest| rest.split("```").next());
    let folder = scratch("readme")?;
    let source = folder.join("example.c");
    fs::write(&source, example.ok_or("README.md has no example in C")?)?;
    let mut command = compiler("c")?;
    command.args(["-std=c99", "-c", "-o"]).arg(folder.join("example.o")).arg(source);
    succeed(command).map(drop)
}

#[derive(Clone, Copy, PartialEq)]
enum Linked {
    Shared,
    Static,
}

fn c_program(linked: Linked) -> Result<(), Failed> {
    let folder = scratch(if linked == Linked::Shared { "shared" } else { "static" })?;
    let program = folder.join("loss");
    let mut command = compiler("c")?;
    command.arg("-std=c99").arg(package().join("tests/loss.c")).arg("-o").arg(&program);
    match linked {
        Linked::Shared => {
            let library = library("libsmoothxent_c.so")?;
            let beside = library.parent().unwrap_or(Path::new("."));
            command.arg(&library).arg(format!("-Wl,-rpath,{}", beside.display()));
        }
        Linked::Static => {
            command.arg(library("libsmoothxent_c.a")?).args(["-lm", "-lpthread"]);
        }
    }
    command.arg("-ldl");
    succeed(command)?;
    let (cases_file, results) = (folder.join("cases"), folder.join("results"));
    fs::write(&cases_file, cases())?;
    let mut command = Command::new(&program);
    command.args([&cases_file, &results]);
    let output = succeed(command)?;
    compare(&fs::read(&results)?, &expected())?;
    let said = String::from_utf8(output.stdout)?;
    let needed = smoothxent::raw::workspace_bytes(2)?;
    expect(
        &said,
        &[
            "preset: 2: preset is \"tensorflow\", which is none of default, pytorch, ",
            "null handle: 1: kernels is null\n",
            "null config: 1: config is null\n",
            "smoothing: 2: label_smoothing is 1.5, which is not within 0..=1\n",
            &format!("workspace: 2: the workspace has 64 bytes; the problem needs {needed}\n"),
            "dtype: 2: dtype is 0, which is none of SX_F32, SX_F16, SX_BF16\n",
            "alignment: 2: the address 0x",
            " of the logits is not a multiple of 4 bytes\n",
            "device: 4: device 99 was asked for, but the driver sees ",
            "strategy: 2: strategy is \"fast\", which is none of tiny, warp, block, two_pass, ",
            "status: 7: 1 target(s) name no class: the first is 7 in row 1, where targets are within 0..3",
            "bad targets: 1, row 1, target 7 of 3\n",
            "status again: 0: \n",
            "... of more\n",
        ],
    )
}

/// How Python is called here.
const PYTHON: &str = "python3";

fn python() -> Result<Completion, Failed> {
    if Command::new(PYTHON).arg("--version").output().is_err() {
        return Ok(Completion::ignored_with(format!("there is no {PYTHON}")));
    }
    let folder = scratch("python")?;
    let (cases_file, results) = (folder.join("cases"), folder.join("results"));
    fs::write(&cases_file, cases())?;
    let mut command = Command::new(PYTHON);
    command.env("SMOOTHXENT_LIBRARY", library("libsmoothxent_c.so")?);
    // Nothing is left beside the sources.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(package().join("tests/loss.py")).arg(package().join("python"));
    command.arg(package().join("include/smoothxent.h")).args([&cases_file, &results]);
    let output = succeed(command)?;
    compare(&fs::read(&results)?, &expected())?;
    let said = String::from_utf8(output.stdout)?;
    expect(
        &said,
        &[
            "header: ",
            "preset: 2: preset is \"tensorflow\", which is none of default, pytorch, ",
            "reduction: 2: reduction is 'median', which is none of none, sum, mean\n",
            "device: 4: device 99 was asked for, but the driver sees ",
            "library: 2: there is no /nowhere.so; build it with ",
            "smoothing: 2: label_smoothing is 1.5, which is not within 0..=1\n",
            "workspace: 2: the workspace has 64 bytes; the problem needs ",
            "no logits: 2: either logits are given, or in_place=True says ",
            "call: 0: \n",
            "status: 7: 1 target(s) name no class: the first is 7 in row 1, where targets are within 0..3",
            "bad targets: 1, row 1, target 7 of 3\n",
            "status again: 0: \n",
            "plan: ",
            "closed: 1: the kernels are closed\n",
        ],
    )?;
    Ok(Completion::Completed)
}

fn compare(found: &[u8], expected: &[u8]) -> Result<(), Failed> {
    if found.len() != expected.len() {
        return Err(format!("{} bytes of results, not {}", found.len(), expected.len()).into());
    }
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(first) => Err(format!("results differ from byte {first} on").into()),
    }
}

/// Whether a program said all of it, in this order.
fn expect(said: &str, words: &[&str]) -> Result<(), Failed> {
    let mut rest = said;
    for words in words {
        let (_, after) = rest.split_once(words).ok_or_else(|| {
            format!("the program did not say {words:?} (where it should) in:\n{said}")
        })?;
        rest = after;
    }
    Ok(())
}
