//! Many at once: threads, streams and handles side by side, the same launch a thousand times, user code that
//! panics between two calls, and things dropped in any order while their launches are under way. Whatever
//! happens around it, a call gives the bits that it gives alone.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use libtest_mimic::Trial;
use smoothxent::{
    ClassWeights, Error, Gradient, Kernels, LossConfig, LossInputs, LossOutputs, SavedSoftmax,
    Shape, Workspace,
    cudarc::driver::{CudaContext, CudaSlice, CudaStream, DriverError, result::ctx},
    loss,
};

use super::{
    common::{inputs, run::Rig},
    repeats, trial,
};
use smoothxent::problem::Dtype;

/// How often the same is launched, if not told. Less of everything for Miri, which looks at the host's part alone.
const REPEATS: usize = if cfg!(miri) { 2 } else { 20 };

const THREADS: usize = if cfg!(miri) { 3 } else { 8 };
const CALLS: usize = if cfg!(miri) { 2 } else { 12 };

/// Rows and classes: one for each strategy, among them more rows than a block takes at once.
const SHAPES: [(usize, usize); 5] = if cfg!(miri) {
    [(7, 10), (4, 30), (3, 41), (2, 70), (11, 3)]
} else {
    [(70, 10), (40, 300), (9, 4100), (2, 70_000), (1100, 33)]
};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("concurrency::threads_share_a_handle", threads_share_a_handle),
        trial("concurrency::a_handle_for_each_thread", a_handle_for_each_thread),
        trial("concurrency::handles_come_and_go", handles_come_and_go),
        trial("concurrency::streams_share_a_thread", streams_share_a_thread),
        trial("concurrency::the_same_bits_every_time", the_same_bits_every_time),
        trial("concurrency::a_panic_between_two_calls", a_panic_between_two_calls),
        trial("concurrency::dropped_in_any_order", dropped_in_any_order),
        trial("concurrency::dropped_by_another_thread", dropped_by_another_thread),
    ]
}

/// What one thread needs of its own.
struct Work {
    stream: Arc<CudaStream>,
    shape: Shape,
    config: LossConfig,
    logits: CudaSlice<f32>,
    targets: CudaSlice<i32>,
    gradient: CudaSlice<f32>,
    loss: CudaSlice<f32>,
    workspace: Workspace,
    saved: SavedSoftmax,
}

/// Loss and gradient.
#[derive(Clone, Debug, PartialEq)]
struct Bits(u32, Vec<u32>);

type Result<T, E = String> = std::result::Result<T, E>;

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

impl Work {
    fn new(context: &Arc<CudaContext>, seed: usize) -> Result<Self> {
        let stream = context.new_stream().map_err(text)?;
        let (rows, classes) = SHAPES[seed % SHAPES.len()];
        let logits = inputs::logits(Dtype::F32, rows, classes, seed as u64);
        let targets = inputs::targets(rows, classes, seed as u64);
        let targets: Vec<i32> = targets.into_iter().map(|target| target as i32).collect();
        Ok(Self {
            shape: Shape::contiguous(rows, classes),
            config: LossConfig {
                label_smoothing: 0.1,
                ignore_index: Some(1),
                ..LossConfig::default()
            },
            logits: stream.clone_htod(&logits).map_err(text)?,
            targets: stream.clone_htod(&targets).map_err(text)?,
            gradient: stream.alloc_zeros(rows * classes).map_err(text)?,
            loss: stream.alloc_zeros(1).map_err(text)?,
            workspace: Workspace::new(&stream, rows).map_err(text)?,
            saved: SavedSoftmax::new(&stream, rows).map_err(text)?,
            stream,
        })
    }

    fn enqueue(&mut self, kernels: &Kernels) -> Result<(), Error> {
        self.enqueue_weighted(kernels, None)
    }

    fn enqueue_weighted(
        &mut self,
        kernels: &Kernels,
        class_weights: Option<&ClassWeights>,
    ) -> Result<(), Error> {
        let inputs = LossInputs {
            class_weights,
            ..LossInputs::new(self.shape, &self.logits, &self.targets)
        };
        let outputs = LossOutputs { loss: Some(&mut self.loss), ..LossOutputs::default() };
        let to = Gradient::new(&mut self.gradient);
        let workspace = &mut self.workspace;
        loss::forward_backward(kernels, &self.stream, self.config, inputs, outputs, to, workspace)
    }

    fn bits(&self) -> Result<Bits> {
        let loss = self.stream.clone_dtoh(&self.loss).map_err(text)?;
        let gradient = self.stream.clone_dtoh(&self.gradient).map_err(text)?;
        self.stream.synchronize().map_err(text)?;
        Ok(Bits(loss[0].to_bits(), gradient.into_iter().map(f32::to_bits).collect()))
    }

    fn run(&mut self, kernels: &Kernels) -> Result<Bits> {
        self.enqueue(kernels).map_err(|error| error.to_string())?;
        self.bits()
    }
}

/// What each thread's problem gives alone.
fn alone(count: usize) -> Result<Vec<Bits>> {
    let Rig { context, kernels, .. } = Rig::here();
    (0..count).map(|seed| Work::new(context, seed)?.run(kernels)).collect()
}

/// All threads at once, each some calls with the handle that it gets.
fn side_by_side(handle: impl Fn() -> Result<Kernels> + Sync) -> Result<()> {
    let expected = alone(THREADS)?;
    let one = |seed: usize| -> Result<()> {
        let kernels = handle()?;
        let mut work = Work::new(&Rig::here().context, seed)?;
        for call in 0..CALLS {
            let found = work.run(&kernels)?;
            if found != expected[seed] {
                return Err(format!("thread {seed}, call {call}: other bits than alone"));
            }
        }
        Ok(())
    };
    all_at_once(THREADS, one)
}

/// A thread for each number.
fn all_at_once(count: usize, one: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let one = &one;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|seed| scope.spawn(move || one(seed))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()))
        })
    })
}

fn threads_share_a_handle() -> Result<()> {
    side_by_side(|| Ok(Rig::here().kernels.clone()))
}

fn a_handle_for_each_thread() -> Result<()> {
    side_by_side(|| Kernels::load(&Rig::here().context).map_err(|error| error.to_string()))
}

/// Beside threads that launch, others load a handle, or make class weights, and drop them while what uses them is
/// under way.
fn handles_come_and_go() -> Result<()> {
    let Rig { context, kernels, .. } = Rig::here();
    let expected = alone(THREADS)?;
    let expected = &expected;
    let rounds = repeats(REPEATS / 4)?;
    let one = |seed: usize| -> Result<()> {
        let mut work = Work::new(context, seed)?;
        for round in 0..rounds {
            match seed % 4 {
                0 => {
                    let own = Kernels::load(context).map_err(|error| error.to_string())?;
                    work.enqueue(&own).map_err(|error| error.to_string())?;
                }
                1 => {
                    let weights = vec![2.0; work.shape.classes];
                    let weights = ClassWeights::new(&work.stream, &weights)
                        .map_err(|error| error.to_string())?;
                    work.enqueue_weighted(kernels, Some(&weights))
                        .map_err(|error| error.to_string())?;
                }
                _ => {}
            }
            if work.run(kernels)? != expected[seed] {
                return Err(format!("thread {seed}, round {round}: other bits than alone"));
            }
        }
        Ok(())
    };
    all_at_once(THREADS, one)
}

/// All of them under way before the first is waited for.
fn streams_share_a_thread() -> Result<()> {
    let Rig { context, kernels, .. } = Rig::here();
    let expected = alone(THREADS)?;
    let works = (0..THREADS).map(|seed| Work::new(context, seed));
    let mut works = works.collect::<Result<Vec<_>>>()?;
    for _ in 0..CALLS {
        for work in &mut works {
            work.enqueue(kernels).map_err(|error| error.to_string())?;
        }
    }
    for (seed, (work, expected)) in works.iter().zip(expected).enumerate() {
        if work.bits()? != expected {
            return Err(format!("stream {seed}: other bits than alone"));
        }
    }
    Ok(())
}

/// While other streams keep the device busy with something else each time.
fn the_same_bits_every_time() -> Result<()> {
    let Rig { context, kernels, .. } = Rig::here();
    let repeats = repeats(REPEATS)?;
    for seed in 0..SHAPES.len() {
        let mut work = Work::new(context, seed)?;
        let mut others = [Work::new(context, seed + 1)?, Work::new(context, seed + 2)?];
        let expected = work.run(kernels)?;
        for repeat in 0..repeats {
            let busy = repeat % 3;
            for other in &mut others[..busy.min(2)] {
                other.enqueue(kernels).map_err(|error| error.to_string())?;
            }
            // Another stream of its own now and then.
            if repeat % 10 == 9 {
                work.stream.synchronize().map_err(text)?;
                work.stream = context.new_stream().map_err(text)?;
            }
            if work.run(kernels)? != expected {
                return Err(format!("{:?}: other bits in repeat {repeat}", work.shape));
            }
        }
    }
    Ok(())
}

/// Nothing that is left behind keeps the handle, or the buffers, from going on.
fn a_panic_between_two_calls() -> Result<()> {
    let Rig { context, kernels, .. } = Rig::here();
    let mut work = Work::new(context, 1)?;
    let expected = work.run(kernels)?;
    let mut expected_apart = None;
    for panics in [false, true] {
        let forward = |work: &mut Work| -> Result<(), Error> {
            let inputs = LossInputs::new(work.shape, &work.logits, &work.targets);
            let outputs = LossOutputs {
                loss: Some(&mut work.loss),
                saved: Some(&mut work.saved),
                ..LossOutputs::default()
            };
            let workspace = &mut work.workspace;
            loss::forward(kernels, &work.stream, work.config, inputs, outputs, workspace)
        };
        let caught = catch_unwind(AssertUnwindSafe(|| {
            forward(&mut work).expect("the pass is enqueued");
            if panics {
                // Quietly: without the hook's message.
                std::panic::resume_unwind(Box::new("user code"));
            }
        }));
        if caught.is_err() != panics {
            return Err("only user code panics".to_owned());
        }
        let to = Gradient::new(&mut work.gradient);
        let inputs = LossInputs::new(work.shape, &work.logits, &work.targets);
        loss::backward(kernels, &work.stream, work.config, inputs, &work.saved, to)
            .map_err(|error| error.to_string())?;
        let found = work.bits()?;
        if *expected_apart.get_or_insert_with(|| found.clone()) != found {
            return Err("other bits after a panic".to_owned());
        }
    }
    if work.run(kernels)? != expected || expected_apart != Some(expected) {
        return Err("other bits after a panic".to_owned());
    }
    Ok(())
}

/// Buffers, stream and handle, each of them first, while what uses them is under way.
fn dropped_in_any_order() -> Result<()> {
    let Rig { context, .. } = Rig::here();
    for first in 0..4 {
        let kernels = Kernels::load(context).map_err(|error| error.to_string())?;
        let mut work = Work::new(context, 2)?;
        work.enqueue(&kernels).map_err(|error| error.to_string())?;
        let Work { stream, logits, targets, gradient, loss, workspace, saved, .. } = work;
        match first {
            0 => drop(kernels),
            1 => drop(stream),
            2 => drop((workspace, saved)),
            _ => drop((logits, targets, gradient, loss)),
        }
    }
    // What comes after them is as it was.
    let expected = alone(3)?;
    if alone(3)? != expected {
        return Err("other bits afterwards".to_owned());
    }
    Ok(())
}

/// By one without a current context, and with nothing but the default stream, of which cudarc frees in whatever context
/// is current. What was current stays so.
fn dropped_by_another_thread() -> Result<(), String> {
    let of_driver = |error: DriverError| format!("{:?}", error.0);
    let context = smoothxent::open(0).map_err(|error| error.to_string())?;
    let stream = context.default_stream();
    let workspace = Workspace::new(&stream, 8).map_err(|error| error.to_string())?;
    let saved = SavedSoftmax::new(&stream, 8).map_err(|error| error.to_string())?;
    let weights = ClassWeights::new(&stream, &[1.0; 3]).map_err(|error| error.to_string())?;
    let kernels = Kernels::load(&context).map_err(|error| error.to_string())?;
    let current = thread::spawn(move || {
        drop((workspace, saved, weights, kernels));
        ctx::get_current().map(|current| current.is_some())
    });
    let current = current.join().map_err(|_| "a thread panicked")?.map_err(of_driver)?;
    if current {
        return Err("a drop left its context current".to_owned());
    }
    context.check_err().map_err(of_driver)
}
