//! How calls are timed: buffers that keep the cache cold, samples that take turns.
//!
//! A sample is a batch of calls between two device events, behind one that is not timed, so that the
//! device never waits for the host. Calls too short for that are captured into a graph, whose replay is
//! the sample, and an empty kernel takes turns with them: what no launch can be faster than. Successive
//! calls use different buffers, four times the L2 cache in all, so that logits come from memory.

use std::{error::Error, ffi::c_void, ops::Range, time::Duration};

use half::{bf16, f16};
use smoothxent::{
    ClassWeights, DeviceRead, Gradient, Kernels, LogSoftmaxShape, Logit, LossInputs, LossOutputs,
    SavedSoftmax, Target, Workspace,
    binary::{self, BinaryInputs, BinaryOutputs},
    cudarc::driver::{
        CudaGraph, CudaSlice, CudaViewMut, DeviceRepr, ValidAsZeroBits,
        sys::{self, CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode},
    },
    log_softmax::{self, LogSoftmaxOutputs, Softmax},
    loss,
    problem::Pass,
};

use crate::{
    cases::{self, Case, Variant},
    machine::{EMPTY_ARGUMENT_BYTES, Machine, Times},
};

/// A batch is as many calls as take about this long.
const BATCH_MICROSECONDS: f32 = 2000.0;
const MAX_BATCH: usize = 500;
const MAX_GRAPH_BATCH: usize = 128;

/// Faster than a host may enqueue them: captured.
const GRAPH_BELOW_MICROSECONDS: f32 = 25.0;

/// Enough that no buffer is still in the cache when its turn comes again.
const L2_SIZES: usize = 4;

/// With which the smallest problems stay in the cache; their latency is what is looked at.
const MAX_SETS: usize = 256;

/// So that every matrix starts at a multiple of 256 bytes.
const SET_ALIGNMENT: usize = 128;

pub trait Element: Logit + Target + DeviceRepr + ValidAsZeroBits + Copy {
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Element for bf16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// How calls reach the device.
#[derive(Clone, Copy, PartialEq)]
pub enum Method {
    Stream,
    Graph,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Graph => "graph",
        }
    }
}

/// One of those that take turns.
pub enum Work {
    Loss(Kernels),
    Copy,
    Empty,
}

/// Microseconds of one call.
#[derive(Clone, Copy)]
pub struct Quantiles {
    pub p20: f32,
    pub p50: f32,
    pub p80: f32,
}

impl Quantiles {
    fn of(mut times: Vec<f32>) -> Self {
        times.sort_by(f32::total_cmp);
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        Self { p20: at(20), p50: at(50), p80: at(80) }
    }
}

/// What one case gave.
pub struct Measured {
    pub method: Method,
    pub cold: bool,
    /// In the order of what was asked for.
    pub losses: Vec<Quantiles>,
    pub copy: Quantiles,
    /// Beside graphs.
    pub empty: Option<Quantiles>,
}

/// What no call took time in.
const NO_TIME: f32 = f32::NAN;

/// Measures each of `kernels`, which differ in their selection, and a copy.
pub fn measure<T: Element>(
    machine: &Machine,
    case: Case,
    kernels: &[Kernels],
    repeats: usize,
) -> Result<Measured, Box<dyn Error>> {
    let mut buffers = Buffers::<T>::ready(machine, case)?;
    let mut works: Vec<Work> = kernels.iter().cloned().map(Work::Loss).collect();
    let methods = buffers.methods(machine, &works[0])?;
    works.push(Work::Copy);
    let mut measured = None;
    for &method in methods {
        if method == Method::Graph {
            works.push(Work::Empty);
        }
        measured = Some(buffers.in_turns(machine, method, &works, repeats)?);
    }
    buffers.workspace.take_status(&machine.stream)?;
    measured.ok_or_else(|| "there is no method".into())
}

/// A case under the chosen strategy, whose calls are timed as often as somebody likes.
#[allow(dead_code, reason = "benches/device.rs has it")]
pub struct Calls<T> {
    buffers: Buffers<T>,
    work: Work,
    batches: Vec<Batch>,
}

#[allow(dead_code, reason = "benches/device.rs has it")]
impl<T: Element> Calls<T> {
    pub fn new(machine: &Machine, case: Case) -> Result<Self, Box<dyn Error>> {
        let mut buffers = Buffers::ready(machine, case)?;
        let work = Work::Loss(machine.kernels.clone());
        let mut batches = vec![];
        for &method in buffers.methods(machine, &work)? {
            batches.push(buffers.batch(machine, method, &work)?);
        }
        Ok(Self { buffers, work, batches })
    }

    /// What so many calls take on the device; none where no times are taken.
    pub fn time(&mut self, machine: &Machine, calls: u64) -> Result<Duration, Box<dyn Error>> {
        let (mut of_one, calls) = (NO_TIME, usize::try_from(calls)?);
        for batch in &mut self.batches {
            batch.resize(calls);
            of_one = self.buffers.sample(machine, &self.work, batch)?;
        }
        self.buffers.workspace.take_status(&machine.stream)?;
        let seconds = f64::from(of_one) * calls as f64 / 1e6;
        Ok(if seconds.is_nan() { Duration::ZERO } else { Duration::from_secs_f64(seconds) })
    }
}

struct Buffers<T> {
    case: Case,
    sets: usize,
    /// Whose turn it is.
    turn: usize,
    /// Elements from one matrix to the next.
    stride: usize,
    logits: CudaSlice<T>,
    gradients: CudaSlice<T>,
    targets: CudaSlice<i64>,
    /// Target probabilities, or an upstream gradient, where a call reads them.
    second: CudaSlice<T>,
    class_weights: Option<ClassWeights>,
    saved: Vec<SavedSoftmax>,
    loss: CudaSlice<f32>,
    workspace: Workspace,
}

/// How a batch of a work is enqueued.
enum Batch {
    Calls(usize),
    /// So many replays of a graph of so many calls.
    Replays {
        graph: CudaGraph,
        calls: usize,
        replays: usize,
    },
}

impl Batch {
    /// Of so many sets of buffers, those that it uses however often it is repeated.
    fn sets(&self, all: usize) -> usize {
        match self {
            Self::Calls(_) => all,
            Self::Replays { calls, .. } => all.min(*calls),
        }
    }

    /// Takes so many calls, or as many more as fill a graph.
    #[allow(dead_code, reason = "benches/device.rs has it")]
    fn resize(&mut self, wanted: usize) {
        match self {
            Self::Calls(calls) => *calls = wanted,
            Self::Replays { calls, replays, .. } => *replays = wanted.div_ceil(*calls),
        }
    }
}

impl<T: Element> Buffers<T> {
    fn new(machine: &Machine, case: Case) -> Result<Self, Box<dyn Error>> {
        let (stream, len) = (&machine.stream, case.rows * case.classes);
        let stride = len.next_multiple_of(SET_ALIGNMENT);
        let has_second = case.variant.has_second_matrix(case.pass);
        let set_bytes = (2 + usize::from(has_second)) * case.matrix_bytes();
        let most = if machine.times == Times::Taken { MAX_SETS } else { 2 };
        let sets = (L2_SIZES * machine.l2_bytes).div_ceil(set_bytes).clamp(1, most);
        let targets: Vec<i64> =
            (0..sets * case.rows).map(|row| (row * 7919 % case.classes) as i64).collect();
        let saved = match (case.variant, case.pass) {
            (Variant::LogSoftmax | Variant::Binary, _) | (_, Pass::Fused) => 0,
            (_, Pass::Forward | Pass::Backward) => sets,
        };
        let saved = (0..saved).map(|_| SavedSoftmax::new(stream, case.rows));
        Ok(Self {
            case,
            sets,
            turn: 0,
            stride,
            logits: numbers(machine, sets * stride, 1, -8.0..8.0)?,
            gradients: stream.alloc_zeros(sets * stride)?,
            targets: stream.clone_htod(&targets)?,
            second: match has_second {
                true => numbers(machine, sets * stride, 2, 0.0..1.0)?,
                false => stream.alloc_zeros(1)?,
            },
            class_weights: match case.variant {
                Variant::Weighted => Some(ClassWeights::new(stream, &weights(case.classes))?),
                _ => None,
            },
            saved: saved.collect::<Result<_, _>>()?,
            loss: stream.alloc_zeros(1)?,
            workspace: Workspace::new(stream, case.rows)?,
        })
    }

    /// Filled with all that a call reads.
    fn ready(machine: &Machine, case: Case) -> Result<Self, Box<dyn Error>> {
        let mut buffers = Self::new(machine, case)?;
        // What the backward pass reads; all strategies save alike.
        if !buffers.saved.is_empty() && case.pass == Pass::Backward {
            for set in 0..buffers.sets {
                buffers.enqueue(machine, &machine.kernels, set, Pass::Forward)?;
            }
        }
        Ok(buffers)
    }

    /// How calls of `work` are to be timed; in every way where no times are taken.
    fn methods(
        &mut self,
        machine: &Machine,
        work: &Work,
    ) -> Result<&'static [Method], Box<dyn Error>> {
        let first = self.estimate(machine, work)?;
        Ok(match machine.times {
            Times::NotTaken => &[Method::Stream, Method::Graph],
            Times::Taken if first < GRAPH_BELOW_MICROSECONDS => &[Method::Graph],
            Times::Taken => &[Method::Stream],
        })
    }

    /// Enqueues one call on the next set.
    fn call(&mut self, machine: &Machine, work: &Work) -> Result<(), Box<dyn Error>> {
        match work {
            Work::Loss(kernels) => {
                let set = self.next();
                self.enqueue(machine, kernels, set, self.case.pass)
            }
            Work::Copy => {
                let at = self.next() * self.stride;
                let range = at..at + self.case.copied_elements();
                let (from, mut to) =
                    (self.logits.slice(range.clone()), self.gradients.slice_mut(range));
                Ok(machine.stream.memcpy_dtod(&from, &mut to)?)
            }
            Work::Empty => launch_empty(machine),
        }
    }

    fn next(&mut self) -> usize {
        self.turn = (self.turn + 1) % self.sets;
        self.turn
    }

    /// A pass on the buffers of one set.
    fn enqueue(
        &mut self,
        machine: &Machine,
        kernels: &Kernels,
        set: usize,
        pass: Pass,
    ) -> Result<(), Box<dyn Error>> {
        let Self { case, stride, logits, gradients, targets, second, .. } = self;
        let (at, rows) = (set * *stride, case.rows);
        let range = at..at + rows * case.classes;
        let (logits, mut gradient) =
            (logits.slice(range.clone()), gradients.slice_mut(range.clone()));
        let call = Call {
            case: *case,
            pass,
            kernels,
            machine,
            logits: &logits,
            gradient: &mut gradient,
            class_weights: self.class_weights.as_ref(),
            saved: self.saved.get_mut(set),
            loss: &mut self.loss,
            workspace: &mut self.workspace,
        };
        match case.variant {
            Variant::Plain | Variant::Weighted => {
                call.loss(&targets.slice(set * rows..(set + 1) * rows))
            }
            Variant::Probabilities => call.loss(&second.slice(range)),
            Variant::Binary => call.binary(&second.slice(range)),
            Variant::LogSoftmax if pass == Pass::Backward => {
                call.log_softmax_backward(&second.slice(range))
            }
            Variant::LogSoftmax => call.log_softmax(),
        }
    }

    /// Warms up; microseconds of a call whose enqueueing counts where it takes longer.
    fn estimate(&mut self, machine: &Machine, work: &Work) -> Result<f32, Box<dyn Error>> {
        let (few, more) = if machine.times == Times::Taken { (2, 6) } else { (1, 1) };
        self.sample(machine, work, &Batch::Calls(few))?;
        self.sample(machine, work, &Batch::Calls(more))
    }

    fn in_turns(
        &mut self,
        machine: &Machine,
        method: Method,
        works: &[Work],
        repeats: usize,
    ) -> Result<Measured, Box<dyn Error>> {
        let mut batches = vec![];
        for work in works {
            batches.push(self.batch(machine, method, work)?);
        }
        let mut times = vec![vec![]; works.len()];
        for _ in 0..repeats {
            for ((work, batch), times) in works.iter().zip(&batches).zip(&mut times) {
                times.push(self.sample(machine, work, batch)?);
            }
        }
        // Those that a batch of calls comes to, and what calls touch of them.
        let sets = batches.iter().map(|batch| batch.sets(self.sets)).min().unwrap_or(self.sets);
        let touched = sets * self.case.matrices() * self.case.matrix_bytes();
        let mut measured = Measured {
            method,
            cold: touched >= 2 * machine.l2_bytes,
            losses: vec![],
            copy: Quantiles { p20: NO_TIME, p50: NO_TIME, p80: NO_TIME },
            empty: None,
        };
        for (work, times) in works.iter().zip(times) {
            let quantiles = Quantiles::of(times);
            match work {
                Work::Loss(_) => measured.losses.push(quantiles),
                Work::Copy => measured.copy = quantiles,
                Work::Empty => measured.empty = Some(quantiles),
            }
        }
        Ok(measured)
    }

    /// As many calls as fill a sample.
    fn batch(
        &mut self,
        machine: &Machine,
        method: Method,
        work: &Work,
    ) -> Result<Batch, Box<dyn Error>> {
        let calls = BATCH_MICROSECONDS / self.estimate(machine, work)?;
        // No number where no times are taken.
        let calls = if calls.is_nan() { 1 } else { calls as usize };
        match method {
            Method::Stream => Ok(Batch::Calls(calls.clamp(1, MAX_BATCH))),
            Method::Graph => {
                let most = if machine.times == Times::Taken { MAX_GRAPH_BATCH } else { 2 };
                let calls = calls.clamp(2, most);
                let graph = self.capture(machine, work, calls)?;
                // The first replay uploads it.
                graph.launch()?;
                Ok(Batch::Replays { graph, calls, replays: 1 })
            }
        }
    }

    fn capture(
        &mut self,
        machine: &Machine,
        work: &Work,
        calls: usize,
    ) -> Result<CudaGraph, Box<dyn Error>> {
        let stream = &machine.stream;
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let enqueued = (0..calls).try_for_each(|_| self.call(machine, work));
        // Also where a call failed: the stream is of no use before its capture has ended.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags);
        enqueued?;
        graph?.ok_or_else(|| "nothing was captured".into())
    }

    /// Microseconds of one call, averaged over a batch.
    fn sample(
        &mut self,
        machine: &Machine,
        work: &Work,
        batch: &Batch,
    ) -> Result<f32, Box<dyn Error>> {
        let (stream, context) = (&machine.stream, machine.stream.context());
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let (start, end) = (context.new_event(timed)?, context.new_event(timed)?);
        let calls = match batch {
            Batch::Calls(calls) => {
                self.call(machine, work)?;
                start.record(stream)?;
                for _ in 0..*calls {
                    self.call(machine, work)?;
                }
                *calls
            }
            Batch::Replays { graph, calls, replays } => {
                graph.launch()?;
                start.record(stream)?;
                for _ in 0..*replays {
                    graph.launch()?;
                }
                calls * replays
            }
        };
        end.record(stream)?;
        let milliseconds = start.elapsed_ms(&end)?;
        match machine.times {
            Times::Taken => Ok(milliseconds * 1000.0 / calls as f32),
            Times::NotTaken => Ok(NO_TIME),
        }
    }
}

/// One call of the crate.
struct Call<'a, 'b, T> {
    case: Case,
    pass: Pass,
    kernels: &'a Kernels,
    machine: &'a Machine,
    logits: &'a dyn DeviceRead<T>,
    gradient: &'a mut CudaViewMut<'b, T>,
    class_weights: Option<&'a ClassWeights>,
    saved: Option<&'a mut SavedSoftmax>,
    loss: &'a mut CudaSlice<f32>,
    workspace: &'a mut Workspace,
}

impl<T: Element> Call<'_, '_, T> {
    fn loss<Y: Target>(self, targets: &dyn DeviceRead<Y>) -> Result<(), Box<dyn Error>> {
        let Self { case, pass, kernels, machine, class_weights, saved, workspace, .. } = self;
        let (stream, config) = (&machine.stream, cases::config());
        let inputs = LossInputs::new(case.shape(), self.logits, targets);
        let inputs = LossInputs { class_weights, ..inputs };
        let to = Gradient::new(self.gradient);
        match pass {
            Pass::Fused => {
                let outputs = LossOutputs { loss: Some(self.loss), ..LossOutputs::default() };
                loss::forward_backward(kernels, stream, config, inputs, outputs, to, workspace)?;
            }
            Pass::Forward => {
                let outputs =
                    LossOutputs { loss: Some(self.loss), saved, ..LossOutputs::default() };
                loss::forward(kernels, stream, config, inputs, outputs, workspace)?;
            }
            Pass::Backward => {
                let saved = saved.ok_or("nothing was saved")?;
                loss::backward(kernels, stream, config, inputs, saved, to)?;
            }
        }
        Ok(())
    }

    fn binary(self, targets: &dyn DeviceRead<T>) -> Result<(), Box<dyn Error>> {
        let Self { case, pass, kernels, machine, workspace, .. } = self;
        let (stream, config) = (&machine.stream, cases::binary_config());
        let inputs = BinaryInputs::new(case.shape(), self.logits, targets);
        let outputs = BinaryOutputs { loss: Some(self.loss), ..BinaryOutputs::default() };
        let to = Gradient::new(self.gradient);
        match pass {
            Pass::Fused => {
                binary::forward_backward(kernels, stream, config, inputs, outputs, to, workspace)?;
            }
            Pass::Forward => binary::forward(kernels, stream, config, inputs, outputs, workspace)?,
            Pass::Backward => binary::backward(kernels, stream, config, inputs, to, workspace)?,
        }
        Ok(())
    }

    fn log_softmax(self) -> Result<(), Box<dyn Error>> {
        let shape = LogSoftmaxShape::contiguous(self.case.rows, self.case.classes);
        let outputs = LogSoftmaxOutputs::new(self.gradient);
        log_softmax::forward(self.kernels, &self.machine.stream, shape, self.logits, outputs)?;
        Ok(())
    }

    /// Logits take the place of log-probabilities: what is done with them is the same.
    fn log_softmax_backward(self, upstream: &dyn DeviceRead<T>) -> Result<(), Box<dyn Error>> {
        let shape = LogSoftmaxShape::contiguous(self.case.rows, self.case.classes);
        let (stream, softmax) = (&self.machine.stream, Softmax::OfLogProbabilities(self.logits));
        log_softmax::backward(self.kernels, stream, shape, softmax, upstream, self.gradient)?;
        Ok(())
    }
}

/// No two neighbours alike, none 0.
fn weights(classes: usize) -> Vec<f32> {
    (0..classes).map(|class| 0.5 + (class * 7919 % 1024) as f32 / 1024.0).collect()
}

fn launch_empty(machine: &Machine) -> Result<(), Box<dyn Error>> {
    let argument = [0u8; EMPTY_ARGUMENT_BYTES];
    let mut parameters = [argument.as_ptr().cast_mut().cast::<c_void>()];
    let (function, stream) = (machine.empty.cu_function(), machine.stream.cu_stream());
    let extra = std::ptr::null_mut();
    // SAFETY: the kernel takes one parameter of this size, which the driver copies, and does nothing.
    let result = unsafe {
        sys::cuLaunchKernel(function, 1, 1, 1, 128, 1, 1, 0, stream, parameters.as_mut_ptr(), extra)
    };
    Ok(result.result()?)
}

/// Numbers within a range, of prime period, so that no two rows of a shape are alike.
fn numbers<T: Element>(
    machine: &Machine,
    len: usize,
    seed: u32,
    range: Range<f32>,
) -> Result<CudaSlice<T>, Box<dyn Error>> {
    const PERIOD: usize = 1_048_573;
    let mut state = seed;
    let block: Vec<T> = (0..PERIOD.min(len))
        .map(|_| {
            // Numerical Recipes' generator; its upper bits are even enough for logits.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            T::from_f32(
                (state >> 8) as f32 / (1 << 24) as f32 * (range.end - range.start) + range.start,
            )
        })
        .collect();
    let mut numbers = machine.stream.alloc_zeros::<T>(len)?;
    machine.stream.memcpy_htod(&block, &mut numbers.slice_mut(..block.len()))?;
    // The device repeats it, twice as much each time.
    let mut done = block.len();
    while done < len {
        let more = done.min(len - done);
        let (from, mut to) = numbers.split_at_mut(done);
        machine.stream.memcpy_dtod(&from.slice(..more), &mut to.slice_mut(..more))?;
        done += more;
    }
    Ok(numbers)
}
