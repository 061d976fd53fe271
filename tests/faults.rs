//! What is left when the driver refuses something: the emulated one does so when it is told to. Every
//! public operation meets every refusal that can happen in it, one at a time, and has to return a typed
//! error, leak nothing and leave a handle that works.
//!
//! The driver reads its settings once, so each case is a process of its own: this program again.

use std::env;
use std::process::{Command, ExitCode, Output};
use std::sync::Arc;
use std::thread;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use smoothxent::cudarc::driver::sys::CUresult;
use smoothxent::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DriverError, profiler_start};
use smoothxent::log_softmax::{self, LogSoftmaxOutputs, Softmax};
use smoothxent::{
    BinaryConfig, ClassWeights, Error, Gradient, Kernels, LogSoftmaxShape, LossConfig, LossInputs,
    LossOutputs, SavedSoftmax, Shape, Workspace, binary, loss,
};

/// Set in a child, and by `cargo xtask miri`: what it does.
const CHILD: &str = "SMOOTHXENT_TEST_CHILD";

/// A child's exit code where no operation met the refusal; `cargo xtask miri` looks for it.
const NOTHING: i32 = 4;

/// Kinds of calls that the emulated driver can refuse.
const KINDS: [&str; 6] = ["alloc", "copy", "memset", "launch", "load", "event"];

type Operation = fn(&mut Scene) -> Result<(), Error>;

/// Each leaves its result in the scene.
const OPERATIONS: [(&str, Operation); 17] = [
    ("load", |s| {
        s.kernels = Kernels::load(&s.context)?;
        Ok(())
    }),
    ("workspace", |s| {
        s.workspace = Workspace::new(&s.stream, ROWS)?;
        Ok(())
    }),
    ("saved_softmax", |s| {
        s.saved = SavedSoftmax::new(&s.stream, ROWS)?;
        s.forward(SHAPE)
    }),
    ("class_weights", |s| {
        s.class_weights = ClassWeights::new(&s.stream, &[0.5, 1.0, 2.0])?;
        Ok(())
    }),
    ("class_weights_from_device", |s| {
        s.class_weights = ClassWeights::from_device(&s.stream, &s.weights.as_view())?;
        Ok(())
    }),
    ("take_status", |s| s.workspace.take_status(&s.stream)),
    ("forward", |s| s.forward(SHAPE)),
    ("forward_of_no_rows", |s| {
        let (shape, none) = (Shape { rows: 0, ..SHAPE }, s.targets.slice(0..0));
        let inputs = LossInputs::new(shape, &s.logits, &none);
        let outputs = LossOutputs { loss: Some(&mut s.loss), ..LossOutputs::default() };
        let (stream, workspace) = (&s.other_stream, &mut s.workspace);
        loss::forward(&s.kernels, stream, LossConfig::default(), inputs, outputs, workspace)
    }),
    ("backward", |s| {
        let inputs = LossInputs::new(SHAPE, &s.logits, &s.targets);
        let inputs = LossInputs { class_weights: Some(&s.class_weights), ..inputs };
        let to = Gradient::new(&mut s.gradient);
        loss::backward(&s.kernels, &s.other_stream, LossConfig::default(), inputs, &s.saved, to)
    }),
    ("forward_backward", |s| {
        let inputs = LossInputs::new(SHAPE, &s.logits, &s.targets);
        let inputs = LossInputs { class_weights: Some(&s.class_weights), ..inputs };
        let outputs = LossOutputs { loss: Some(&mut s.loss), ..LossOutputs::default() };
        let to = Gradient::new(&mut s.gradient);
        let (stream, workspace) = (&s.other_stream, &mut s.workspace);
        loss::forward_backward(
            &s.kernels,
            stream,
            LossConfig::default(),
            inputs,
            outputs,
            to,
            workspace,
        )
    }),
    ("forward_backward_in_place", |s| {
        let inputs = LossInputs::in_place(SHAPE, &s.targets);
        let outputs = LossOutputs { loss: Some(&mut s.loss), ..LossOutputs::default() };
        let to = Gradient::new(&mut s.gradient);
        let (stream, workspace) = (&s.other_stream, &mut s.workspace);
        let config = LossConfig::default();
        loss::forward_backward(&s.kernels, stream, config, inputs, outputs, to, workspace)
    }),
    ("log_softmax_forward", |s| {
        let mut outputs = LogSoftmaxOutputs::new(&mut s.gradient);
        outputs.saved = Some(&mut s.saved);
        log_softmax::forward(&s.kernels, &s.other_stream, SOFTMAX_SHAPE, &s.logits, outputs)
    }),
    ("log_softmax_backward", |s| {
        let softmax = Softmax::OfLogProbabilities(&s.logits);
        let (kernels, stream, to) = (&s.kernels, &s.other_stream, &mut s.gradient);
        log_softmax::backward(kernels, stream, SOFTMAX_SHAPE, softmax, &s.logits, to)
    }),
    ("binary_forward", |s| {
        let inputs = binary::BinaryInputs::new(SHAPE, &s.logits, &s.probabilities);
        let outputs = binary::BinaryOutputs { loss: Some(&mut s.loss), row_losses: None };
        let (stream, workspace) = (&s.other_stream, &mut s.workspace);
        binary::forward(&s.kernels, stream, BinaryConfig::default(), inputs, outputs, workspace)
    }),
    ("binary_backward", |s| {
        let inputs = binary::BinaryInputs::new(SHAPE, &s.logits, &s.probabilities);
        let to = Gradient::new(&mut s.gradient);
        let (stream, workspace) = (&s.other_stream, &mut s.workspace);
        binary::backward(&s.kernels, stream, BinaryConfig::default(), inputs, to, workspace)
    }),
    ("binary_forward_backward", |s| {
        let inputs = binary::BinaryInputs::new(SHAPE, &s.logits, &s.probabilities);
        let outputs = binary::BinaryOutputs { loss: Some(&mut s.loss), row_losses: None };
        let to = Gradient::new(&mut s.gradient);
        let (stream, workspace) = (&s.other_stream, &mut s.workspace);
        let config = BinaryConfig::default();
        binary::forward_backward(&s.kernels, stream, config, inputs, outputs, to, workspace)
    }),
    ("ignored_rows", |s| {
        let inputs = LossInputs::new(SHAPE, &s.logits, &s.targets);
        let outputs = LossOutputs { loss: Some(&mut s.loss), ..LossOutputs::default() };
        let to = Gradient::new(&mut s.gradient);
        let config = LossConfig { ignore_index: Some(1), ..LossConfig::default() };
        let (stream, workspace) = (&s.other_stream, &mut s.workspace);
        loss::forward_backward(&s.kernels, stream, config, inputs, outputs, to, workspace)
    }),
];

/// Operations that make a buffer. cudarc makes the buffer's two events behind it and, where that fails,
/// does not free it (0.19.10, `CudaStream::alloc`); nothing here could.
const LEAKS_OF_CUDARC: [&str; 4] =
    ["workspace", "saved_softmax", "class_weights", "class_weights_from_device"];

const ROWS: usize = 2;
const CLASSES: usize = 3;
const SHAPE: Shape = Shape::contiguous(ROWS, CLASSES);
const SOFTMAX_SHAPE: LogSoftmaxShape = LogSoftmaxShape::contiguous(ROWS, CLASSES);

/// What operations work with. Buffers belong to one stream and are used in another, so that events
/// come into it.
struct Scene {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    other_stream: Arc<CudaStream>,
    kernels: Kernels,
    logits: CudaSlice<f32>,
    probabilities: CudaSlice<f32>,
    weights: CudaSlice<f32>,
    targets: CudaSlice<i64>,
    gradient: CudaSlice<f32>,
    loss: CudaSlice<f32>,
    class_weights: ClassWeights,
    workspace: Workspace,
    saved: SavedSoftmax,
}

impl Scene {
    fn new(context: &Arc<CudaContext>) -> Result<Self, String> {
        let failed = |error: DriverError| format!("{:?}", error.0);
        let typed = |error: Error| error.to_string();
        let stream = context.new_stream().map_err(failed)?;
        let upload = |values: &[f32]| stream.clone_htod(values).map_err(failed);
        let mut scene = Self {
            context: context.clone(),
            other_stream: context.new_stream().map_err(failed)?,
            kernels: Kernels::load(context).map_err(typed)?,
            logits: upload(&[0.5, 2.0, -1.0, 0.0, 0.1, 0.2])?,
            probabilities: upload(&[0.5, 0.25, 0.25, 0.0, 1.0, 0.0])?,
            weights: upload(&[1.0, 2.0, 0.5])?,
            targets: stream.clone_htod(&[1_i64, 0]).map_err(failed)?,
            gradient: upload(&[0.5, 2.0, -1.0, 0.0, 0.1, 0.2])?,
            loss: upload(&[0.0])?,
            class_weights: ClassWeights::new(&stream, &[1.0; CLASSES]).map_err(typed)?,
            workspace: Workspace::new(&stream, ROWS).map_err(typed)?,
            saved: SavedSoftmax::new(&stream, ROWS).map_err(typed)?,
            stream,
        };
        scene.forward(SHAPE).map_err(typed)?;
        scene.settle()?;
        Ok(scene)
    }

    fn forward(&mut self, shape: Shape) -> Result<(), Error> {
        let inputs = LossInputs::new(shape, &self.logits, &self.targets);
        let inputs = LossInputs { class_weights: Some(&self.class_weights), ..inputs };
        let (loss, saved) = (&mut self.loss, &mut self.saved);
        let outputs =
            LossOutputs { loss: Some(loss), saved: Some(saved), ..LossOutputs::default() };
        let (stream, workspace) = (&self.other_stream, &mut self.workspace);
        loss::forward(&self.kernels, stream, LossConfig::default(), inputs, outputs, workspace)
    }

    /// Waits, with the errors that cudarc kept for later.
    fn settle(&self) -> Result<(), String> {
        let waited = self.context.synchronize();
        waited.and_then(|()| self.context.check_err()).map_err(|error| format!("{:?}", error.0))
    }

    /// Everything works: a loss, twice the same.
    fn works(&mut self) -> Result<(), String> {
        let mut losses = vec![];
        for _ in 0..2 {
            self.forward(SHAPE).map_err(|error| format!("afterwards: {error}"))?;
            self.workspace
                .take_status(&self.other_stream)
                .map_err(|error| format!("status afterwards: {error}"))?;
            let loss = self.other_stream.clone_dtoh(&self.loss);
            losses.extend(loss.map_err(|error| format!("{:?}", error.0))?);
        }
        let [first, second] = losses[..] else { return Err("no losses".into()) };
        if first.is_finite() && first == second {
            Ok(())
        } else {
            Err(format!("losses {first} and {second} of the same rows"))
        }
    }
}

fn main() -> ExitCode {
    if let Ok(kind) = env::var(CHILD) {
        return ExitCode::from(run(&kind).unwrap_or_else(|text| {
            eprintln!("{text}");
            1
        }));
    }
    let kinds = KINDS.into_iter().map(|kind| {
        Trial::ignorable_test(format!("faults::{kind}"), move || meet_all_refusals(kind))
    });
    let forward = Trial::ignorable_test("faults::a_failed_forward_pass_saves_nothing", || {
        if !is_emulated()? {
            return Ok(real_driver());
        }
        let output = child("failed_forward", "launch:2")?;
        check(output.status.success(), "launch:2", &output).map(|()| Completion::Completed)
    });
    let dropped = [
        ("faults::class_weights_wait_for_all_their_readers", "weights"),
        ("faults::workspaces_wait_for_their_users", "workspaces"),
        ("faults::workspaces_of_a_thread_wait_for_it", "workspaces_of_a_thread"),
        ("faults::drops_after_an_error_wait_too", "after_an_error"),
    ];
    let dropped = dropped.map(|(name, kind)| {
        Trial::ignorable_test(name, move || {
            if !is_emulated()? {
                return Ok(Completion::ignored_with("a real driver works when it likes"));
            }
            // Nothing is done before something waits for it.
            let output = command(kind, "")?.env("CUDA_EMULATOR_STREAMS", "late").output()?;
            check(output.status.success(), "late streams", &output).map(|()| Completion::Completed)
        })
    });
    let trials = kinds.chain([forward]).chain(dropped).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn real_driver() -> Completion {
    Completion::ignored_with("a real driver refuses nothing on request")
}

/// Asked in a child: there, nothing is left of the driver when a test begins.
fn is_emulated() -> Result<bool, Failed> {
    Ok(child("is_emulated", "")?.status.success())
}

fn command(task: &str, refusal: &str) -> Result<Command, Failed> {
    let mut command = Command::new(env::current_exe()?);
    command.env(CHILD, task).env("CUDA_EMULATOR_FAIL", refusal).env("CUDA_EMULATOR_LEAKS", "1");
    Ok(command)
}

fn child(task: &str, refusal: &str) -> Result<Output, Failed> {
    Ok(command(task, refusal)?.output()?)
}

fn check(is_fine: bool, refusal: &str, output: &Output) -> Result<(), Failed> {
    let said = String::from_utf8_lossy(&output.stderr);
    if is_fine { Ok(()) } else { Err(format!("{refusal}: {}\n{said}", output.status).into()) }
}

/// The first call of a kind in each operation is refused, then the second, and so on.
fn meet_all_refusals(kind: &str) -> Result<Completion, Failed> {
    if !is_emulated()? {
        return Ok(real_driver());
    }
    for number in 1.. {
        let refusal = format!("{kind}:{number}");
        let output = child(kind, &refusal)?;
        if output.status.code() == Some(NOTHING) {
            check(number > 1, "no operation has such a call", &output)?;
            break;
        }
        check(output.status.success(), &refusal, &output)?;
    }
    Ok(Completion::Completed)
}

/// A child: what becomes of each operation. The emulated driver fails the process if something was not
/// given back.
fn run(kind: &str) -> Result<u8, String> {
    let failed = |error: DriverError| format!("{:?}", error.0);
    let context = smoothxent::open(0).map_err(|error| error.to_string())?;
    let is_emulated = context.name().map_err(failed)?.starts_with("Emulated");
    match kind {
        "is_emulated" => return Ok(u8::from(!is_emulated)),
        "failed_forward" => return failed_forward(&context).map(|()| 0),
        "weights" => return dropped_early(&context, Dropped::ClassWeights, Ok(())).map(|()| 0),
        "workspaces" => return dropped_early(&context, Dropped::Workspaces, Ok(())).map(|()| 0),
        "workspaces_of_a_thread" => {
            return dropped_early(&context, Dropped::WorkspacesOfAThread, Ok(())).map(|()| 0);
        }
        "after_an_error" => {
            let earlier = Err(DriverError(CUresult::CUDA_ERROR_UNKNOWN));
            dropped_early(&context, Dropped::ClassWeights, earlier)?;
            return dropped_early(&context, Dropped::Workspaces, earlier).map(|()| 0);
        }
        _ => {}
    }
    // Refusals strike within operations: each begins to count anew.
    let restart = || profiler_start().map_err(failed);
    if kind == "event" {
        // The preparation makes buffers (see LEAKS_OF_CUDARC): the refusal is spent on nothing.
        while context.new_event(None).is_ok() {}
    }
    // A call of the preparation is refused; the next try is whole.
    let mut scene = Scene::new(&context).or_else(|_| Scene::new(&context))?;
    let mut refused = 0;
    for (name, operation) in OPERATIONS {
        if kind == "event" && LEAKS_OF_CUDARC.contains(&name) {
            continue;
        }
        let about = |text: String| format!("{name}: {text}");
        restart()?;
        match operation(&mut scene) {
            Err(Error::Driver { .. }) => {}
            Err(other) => return Err(about(format!("another error: {other:?}"))),
            // A guard's event that could not be recorded is in cudarc's keeping; the next call has it.
            Ok(()) if scene.settle().is_err() => {}
            Ok(()) => continue,
        }
        refused += 1;
        // An error that cudarc kept beside the one that was returned.
        let _ = context.check_err();
        operation(&mut scene).map_err(|error| about(format!("the second time: {error}")))?;
        scene.works().and_then(|()| scene.settle()).map_err(about)?;
    }
    Ok(if refused == 0 { NOTHING as u8 } else { 0 })
}

/// What is dropped while two streams are still to use it.
#[derive(Clone, Copy, PartialEq)]
enum Dropped {
    /// cudarc by itself waits for the second stream alone.
    ClassWeights,
    /// Each was made on another stream than the one that uses it.
    Workspaces,
    /// Made and used on the per-thread default stream, which is another one where they are dropped.
    WorkspacesOfAThread,
}

/// While cudarc remembers an error of an earlier drop it waits for nobody: it returns that instead, once.
fn dropped_early(
    context: &Arc<CudaContext>,
    what: Dropped,
    earlier: Result<(), DriverError>,
) -> Result<(), String> {
    let failed = |error: Error| error.to_string();
    let of_driver = |error: DriverError| format!("{:?}", error.0);
    let kernels = Kernels::load(context).map_err(failed)?;
    let owner = match what {
        Dropped::WorkspacesOfAThread => context.per_thread_stream(),
        Dropped::ClassWeights | Dropped::Workspaces => context.new_stream().map_err(of_driver)?,
    };
    if what == Dropped::WorkspacesOfAThread {
        // As candle does: then cudarc knows of no users.
        // SAFETY: all is on one stream, until what is tested.
        unsafe { context.disable_event_tracking() };
    }
    let saved = SavedSoftmax::new(&owner, 1).map_err(failed)?;
    let weights = ClassWeights::new(&owner, &[0.5, 1.0, 2.0]).map_err(failed)?;
    let (mut under_way, mut workspaces) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let stream = match what {
            Dropped::WorkspacesOfAThread => owner.clone(),
            Dropped::ClassWeights | Dropped::Workspaces => {
                context.new_stream().map_err(of_driver)?
            }
        };
        let logits = stream.clone_htod(&[0.5f32, 2.0, -1.0]).map_err(of_driver)?;
        let targets = stream.clone_htod(&[1i32]).map_err(of_driver)?;
        let mut gradient = stream.alloc_zeros::<f32>(3).map_err(of_driver)?;
        let mut loss = stream.alloc_zeros::<f32>(1).map_err(of_driver)?;
        let of = if what == Dropped::Workspaces { &owner } else { &stream };
        let mut workspace = Workspace::new(of, 1).map_err(failed)?;
        let inputs = LossInputs {
            class_weights: Some(&weights),
            ..LossInputs::new(Shape::contiguous(1, 3), &logits, &targets)
        };
        // A sum is what needs the workspace.
        let outputs = LossOutputs { loss: Some(&mut loss), ..LossOutputs::default() };
        let (config, to) = (LossConfig::default(), Gradient::new(&mut gradient));
        loss::forward_backward(&kernels, &stream, config, inputs, outputs, to, &mut workspace)
            .map_err(failed)?;
        under_way.push((stream, logits, targets, gradient, loss));
        workspaces.push(workspace);
    }
    context.record_err(earlier);
    let (mut weights, mut workspaces) = (Some(weights), Some(workspaces));
    match what {
        Dropped::ClassWeights => drop(weights.take()),
        Dropped::Workspaces => drop(workspaces.take()),
        Dropped::WorkspacesOfAThread => {
            let workspaces = workspaces.take();
            let there = context.per_thread_stream();
            let dropped = thread::spawn(move || {
                drop(workspaces);
                there.synchronize()
            });
            dropped.join().map_err(|_| "a thread panicked")?.map_err(of_driver)?;
        }
    }
    if context.check_err() != earlier {
        return Err(format!("not remembered after the drop: {earlier:?}"));
    }
    owner.synchronize().map_err(of_driver)?;
    for (stream, ..) in &under_way {
        stream.synchronize().map_err(of_driver)?;
    }
    // What nobody uses is given back behind an error, too, not leaked.
    context.record_err(earlier);
    drop((saved, weights, workspaces, kernels));
    if context.check_err() == earlier { Ok(()) } else { Err("forgotten at the end".to_owned()) }
}

fn failed_forward(context: &Arc<CudaContext>) -> Result<(), String> {
    let failed = |error: Error| error.to_string();
    let of_driver = |error: DriverError| format!("{:?}", error.0);
    let stream = context.default_stream();
    let kernels = Kernels::load(context).map_err(failed)?;
    let logits = stream.clone_htod(&[0.5f32, 2.0, -1.0, 0.0, 0.1, 0.2]).map_err(of_driver)?;
    let targets = stream.clone_htod(&[1i32, 0]).map_err(of_driver)?;
    let mut gradient = stream.alloc_zeros::<f32>(6).map_err(of_driver)?;
    let mut workspace = Workspace::new(&stream, 2).map_err(failed)?;
    let mut saved = SavedSoftmax::new(&stream, 2).map_err(failed)?;
    let inputs = LossInputs::new(SHAPE, &logits, &targets);
    let config = LossConfig::default();
    let mut forward = |saved: &mut SavedSoftmax| {
        let outputs = LossOutputs { saved: Some(saved), ..LossOutputs::default() };
        loss::forward(&kernels, &stream, config, inputs, outputs, &mut workspace)
    };
    forward(&mut saved).map_err(failed)?;
    match forward(&mut saved) {
        Err(Error::Driver { .. }) => {}
        other => return Err(format!("the second launch: {other:?}")),
    }
    let to = Gradient::new(&mut gradient);
    match loss::backward(&kernels, &stream, config, inputs, &saved, to) {
        Err(Error::SavedSoftmax { found, .. }) if found == "nothing yet" => {}
        other => return Err(format!("backward: {other:?}")),
    }
    // Nothing is stuck: the same calls work after it.
    forward(&mut saved).map_err(failed)?;
    let to = Gradient::new(&mut gradient);
    loss::backward(&kernels, &stream, config, inputs, &saved, to).map_err(failed)?;
    workspace.take_status(&stream).map_err(failed)
}
