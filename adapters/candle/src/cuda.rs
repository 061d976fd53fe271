//! What tensors on a GPU get: smoothxent's kernels, on candle's stream and buffers.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

use candle_core::{
    CudaDevice, CudaStorage, Error, Layout, Result,
    backend::BackendStorage,
    cuda_backend::{CudaDType, CudaStorageSlice},
};
use smoothxent::{
    ClassWeights, Gradient, Kernels, LogSoftmaxShape, Logit, LossConfig, LossInputs, LossOutputs,
    Reduction, SavedSoftmax, Target, Upstream, Workspace,
    cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr},
    log_softmax::{self as kernels_log_softmax, LogSoftmaxOutputs, Softmax},
    loss,
};

use crate::{
    cross_entropy::{shape, targets_rows},
    rows::{Rows, target_type},
};

/// What a forward pass knows of each row, for the backward pass.
pub(crate) type Saved = SavedSoftmax;

/// Where a forward pass puts it; empty until then.
pub(crate) type SavedSlot = Mutex<Option<Saved>>;

/// What a loss on a GPU has beside its options.
pub(crate) struct Losses {
    device: CudaDevice,
    kernels: Arc<Kernels>,
    class_weights: Option<ClassWeights>,
    /// Of each thread, because candle's default stream is another one on each; the last is in use, those
    /// before it were too small and may hold a record of bad targets.
    workspaces: Mutex<HashMap<ThreadId, Vec<Workspace>>>,
}

impl fmt::Debug for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Losses").field("class_weights", &self.class_weights).finish_non_exhaustive()
    }
}

/// Logits and targets as an op gets them.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    logits: (&'a CudaStorage, Rows),
    targets: (&'a CudaStorage, Rows),
}

impl<'a> Inputs<'a> {
    pub fn of(
        (x, x_layout): (&'a CudaStorage, &Layout),
        (y, y_layout): (&'a CudaStorage, &Layout),
        op: &'static str,
    ) -> Result<Self> {
        let logits = Rows::of(x_layout, op)?;
        let probabilities = target_type(y.dtype(), op)?.is_probabilities();
        let targets = targets_rows(y_layout, probabilities, logits.rows)?;
        Ok(Self { logits: (x, logits), targets: (y, targets) })
    }
}

/// Element types of candle that the kernels take.
trait Element: Logit + CudaDType + DeviceRepr {}
impl<T: Logit + CudaDType + DeviceRepr> Element for T {}

/// Something to do with inputs, once their types are known.
trait Call {
    type Output;
    fn run<T: Element, Y: Target>(
        self,
        shape: smoothxent::Shape,
        logits: CudaView<'_, T>,
        targets: CudaView<'_, Y>,
    ) -> Result<Self::Output>;
}

impl Inputs<'_> {
    fn dispatch<C: Call>(self, call: C) -> Result<C::Output> {
        let (x, rows) = self.logits;
        match &x.slice {
            CudaStorageSlice::F32(x) => self.with_logits(call, view(x, rows)),
            CudaStorageSlice::F16(x) => self.with_logits(call, view(x, rows)),
            CudaStorageSlice::BF16(x) => self.with_logits(call, view(x, rows)),
            _ => Err(Error::UnsupportedDTypeForOp(x.dtype(), "logits").bt()),
        }
    }

    fn with_logits<C: Call, T: Element>(self, call: C, x: CudaView<'_, T>) -> Result<C::Output> {
        let (y, rows) = self.targets;
        let shape = shape(self.logits.1, rows);
        match &y.slice {
            CudaStorageSlice::I32(y) => call.run(shape, x, view(y, rows)),
            CudaStorageSlice::U32(y) => call.run(shape, x, view(y, rows)),
            CudaStorageSlice::I64(y) => call.run(shape, x, view(y, rows)),
            CudaStorageSlice::F32(y) => call.run(shape, x, view(y, rows)),
            CudaStorageSlice::F16(y) => call.run(shape, x, view(y, rows)),
            CudaStorageSlice::BF16(y) => call.run(shape, x, view(y, rows)),
            _ => Err(Error::UnsupportedDTypeForOp(y.dtype(), "targets").bt()),
        }
    }
}

/// From the first row to the last.
fn view<T>(buffer: &CudaSlice<T>, rows: Rows) -> CudaView<'_, T> {
    let Rows { rows, classes, row_stride, start } = rows;
    let len = rows.checked_sub(1).map_or(0, |before_last| before_last * row_stride + classes);
    buffer.slice(start..start + len)
}

/// Whoever panicked left nothing half done: what is locked is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of a device and its clones, loaded once, and for good: functions without a handle use them, too.
fn kernels_of(device: &CudaDevice) -> Result<Arc<Kernels>> {
    static LOADED: Mutex<Vec<Arc<Kernels>>> = Mutex::new(Vec::new());
    let stream = device.cuda_stream();
    let context = stream.context();
    let mut loaded = lock(&LOADED);
    if let Some(kernels) = loaded.iter().find(|kernels| Arc::ptr_eq(kernels.context(), context)) {
        return Ok(kernels.clone());
    }
    let kernels = Arc::new(Kernels::load(context).map_err(Error::wrap)?);
    loaded.push(kernels.clone());
    Ok(kernels)
}

impl Losses {
    pub fn new(device: &CudaDevice, class_weights: Option<&[f32]>) -> Result<Self> {
        let stream = device.cuda_stream();
        let kernels = kernels_of(device)?;
        let on_device = |weights| ClassWeights::new(&stream, weights);
        let class_weights = class_weights.map(on_device).transpose().map_err(Error::wrap)?;
        // Other threads have default streams that nothing puts behind this one's copy of the weights.
        if class_weights.is_some() {
            stream.synchronize().map_err(Error::wrap)?;
        }
        Ok(Self { device: device.clone(), kernels, class_weights, workspaces: Mutex::default() })
    }

    /// Row losses or the scalar, as the reduction says.
    pub fn forward(
        &self,
        config: LossConfig,
        inputs: Inputs<'_>,
        saved: Option<&SavedSlot>,
    ) -> Result<CudaStorage> {
        inputs.dispatch(ForwardCall { losses: self, config, saved })
    }

    /// The loss, and the gradient without gaps.
    pub fn forward_backward(
        &self,
        config: LossConfig,
        inputs: Inputs<'_>,
    ) -> Result<(CudaStorage, CudaStorage)> {
        inputs.dispatch(FusedCall { losses: self, config })
    }

    /// The gradient without gaps.
    pub fn backward(
        &self,
        config: LossConfig,
        inputs: Inputs<'_>,
        saved: Option<&SavedSlot>,
        upstream: (&CudaStorage, Rows),
    ) -> Result<CudaStorage> {
        inputs.dispatch(BackwardCall { losses: self, config, saved, upstream })
    }

    /// Of this thread's calls.
    pub fn check(&self) -> std::result::Result<(), smoothxent::Error> {
        let stream = self.device.cuda_stream();
        let mut all = lock(&self.workspaces);
        let Some(own) = all.get_mut(&thread::current().id()) else { return Ok(()) };
        // Every record is read and forgotten; the oldest is reported.
        let results: Vec<_> =
            own.iter_mut().map(|workspace| workspace.take_status(&stream)).collect();
        // None are there if the first could not be allocated.
        own.drain(..own.len().saturating_sub(1));
        results.into_iter().collect()
    }

    fn with_workspace<R>(
        &self,
        stream: &Arc<CudaStream>,
        rows: usize,
        call: impl FnOnce(&mut Workspace) -> std::result::Result<R, smoothxent::Error>,
    ) -> std::result::Result<R, smoothxent::Error> {
        let mut all = lock(&self.workspaces);
        let own = all.entry(thread::current().id()).or_default();
        if own.last().is_none_or(|workspace| workspace.capacity() < rows) {
            own.push(Workspace::new(stream, rows.next_power_of_two())?);
        }
        let last = own.len() - 1;
        call(&mut own[last])
    }

    fn inputs<'a, T, Y>(
        &'a self,
        shape: smoothxent::Shape,
        logits: &'a CudaView<'_, T>,
        targets: &'a CudaView<'_, Y>,
    ) -> LossInputs<'a, T, Y> {
        let class_weights = self.class_weights.as_ref();
        LossInputs { class_weights, ..LossInputs::new(shape, logits, targets) }
    }

    /// Room for the loss: a scalar, or one a row. Never none, as in [`matrix`].
    fn loss(&self, config: LossConfig, rows: usize) -> Result<CudaSlice<f32>> {
        let len = if config.reduction == Reduction::None { rows.max(1) } else { 1 };
        self.device.alloc_zeros(len)
    }
}

/// What is asked for, as the reduction says.
fn outputs(config: LossConfig, rows: usize, loss: &mut CudaSlice<f32>) -> LossOutputs<'_> {
    match config.reduction {
        Reduction::None if rows == 0 => LossOutputs::default(),
        Reduction::None => LossOutputs { row_losses: Some(loss), ..LossOutputs::default() },
        Reduction::Sum | Reduction::Mean => {
            LossOutputs { loss: Some(loss), ..LossOutputs::default() }
        }
    }
}

/// Room for a gradient, or log-probabilities, that a launch writes whole. Never none: the driver refuses
/// to allocate 0 bytes.
fn matrix<T: DeviceRepr>(device: &CudaDevice, rows: usize, classes: usize) -> Result<CudaSlice<T>> {
    // SAFETY: every caller hands this to a launch that writes each element of all rows, or drops it.
    unsafe { device.alloc::<T>((rows * classes).max(1)) }
}

struct ForwardCall<'a> {
    losses: &'a Losses,
    config: LossConfig,
    saved: Option<&'a SavedSlot>,
}

impl Call for ForwardCall<'_> {
    type Output = CudaStorage;

    fn run<T: Element, Y: Target>(
        self,
        shape: smoothxent::Shape,
        logits: CudaView<'_, T>,
        targets: CudaView<'_, Y>,
    ) -> Result<CudaStorage> {
        let Self { losses, config, saved: slot } = self;
        let stream = losses.device.cuda_stream();
        let mut loss = losses.loss(config, shape.rows)?;
        let saved = slot.map(|_| SavedSoftmax::new(&stream, shape.rows)).transpose();
        let mut saved = saved.map_err(Error::wrap)?;
        let inputs = losses.inputs(shape, &logits, &targets);
        let outputs =
            LossOutputs { saved: saved.as_mut(), ..outputs(config, shape.rows, &mut loss) };
        losses
            .with_workspace(&stream, shape.rows, |workspace| {
                loss::forward(&losses.kernels, &stream, config, inputs, outputs, workspace)
            })
            .map_err(Error::wrap)?;
        if let Some(slot) = slot {
            *lock(slot) = saved;
        }
        Ok(CudaStorage::wrap_cuda_slice(loss, losses.device.clone()))
    }
}

struct FusedCall<'a> {
    losses: &'a Losses,
    config: LossConfig,
}

impl Call for FusedCall<'_> {
    type Output = (CudaStorage, CudaStorage);

    fn run<T: Element, Y: Target>(
        self,
        shape: smoothxent::Shape,
        logits: CudaView<'_, T>,
        targets: CudaView<'_, Y>,
    ) -> Result<Self::Output> {
        let Self { losses, config } = self;
        let stream = losses.device.cuda_stream();
        let mut loss = losses.loss(config, shape.rows)?;
        let mut gradient = matrix::<T>(&losses.device, shape.rows, shape.classes)?;
        let inputs = losses.inputs(shape, &logits, &targets);
        let outputs = outputs(config, shape.rows, &mut loss);
        let to = Gradient::new(&mut gradient);
        losses
            .with_workspace(&stream, shape.rows, |workspace| {
                let kernels = &losses.kernels;
                loss::forward_backward(kernels, &stream, config, inputs, outputs, to, workspace)
            })
            .map_err(Error::wrap)?;
        let device = &losses.device;
        let loss = CudaStorage::wrap_cuda_slice(loss, device.clone());
        Ok((loss, CudaStorage::wrap_cuda_slice(gradient, device.clone())))
    }
}

struct BackwardCall<'a> {
    losses: &'a Losses,
    config: LossConfig,
    saved: Option<&'a SavedSlot>,
    upstream: (&'a CudaStorage, Rows),
}

impl Call for BackwardCall<'_> {
    type Output = CudaStorage;

    fn run<T: Element, Y: Target>(
        self,
        shape: smoothxent::Shape,
        logits: CudaView<'_, T>,
        targets: CudaView<'_, Y>,
    ) -> Result<CudaStorage> {
        let Self { losses, config, saved, upstream: (upstream, upstream_rows) } = self;
        let stream = losses.device.cuda_stream();
        let upstream = view(upstream.as_cuda_slice::<f32>()?, upstream_rows);
        let upstream = match config.reduction {
            Reduction::None => Upstream::PerRow(&upstream),
            Reduction::Sum | Reduction::Mean => Upstream::Scalar(&upstream),
        };
        let mut gradient = matrix::<T>(&losses.device, shape.rows, shape.classes)?;
        let inputs = losses.inputs(shape, &logits, &targets);
        let to = Gradient { matrix: &mut gradient, upstream };
        with_saved(saved, |saved| {
            loss::backward(&losses.kernels, &stream, config, inputs, saved, to)
        })?;
        Ok(CudaStorage::wrap_cuda_slice(gradient, losses.device.clone()))
    }
}

/// What the forward pass put into the slot.
fn with_saved<R>(
    slot: Option<&SavedSlot>,
    use_it: impl FnOnce(&Saved) -> std::result::Result<R, smoothxent::Error>,
) -> Result<R> {
    let guard = slot.map(lock);
    match guard.as_deref() {
        Some(Some(saved)) => use_it(saved).map_err(Error::wrap),
        // Logits that lead to no variable have no backward pass.
        Some(None) | None => candle_core::bail!("the forward pass saved nothing"),
    }
}

pub(crate) fn zero(like: &CudaStorage) -> Result<CudaStorage> {
    let device = like.device();
    Ok(CudaStorage::wrap_cuda_slice(device.alloc_zeros::<f32>(1)?, device.clone()))
}

fn softmax_shape(logits: Rows) -> LogSoftmaxShape {
    LogSoftmaxShape {
        logits_row_stride: logits.row_stride,
        ..LogSoftmaxShape::contiguous(logits.rows, logits.classes)
    }
}

/// Without gaps.
pub(crate) fn log_softmax(
    x: &CudaStorage,
    rows: Rows,
    saved: Option<&SavedSlot>,
) -> Result<CudaStorage> {
    match &x.slice {
        CudaStorageSlice::F32(slice) => log_softmax_of(x.device(), slice, rows, saved),
        CudaStorageSlice::F16(slice) => log_softmax_of(x.device(), slice, rows, saved),
        CudaStorageSlice::BF16(slice) => log_softmax_of(x.device(), slice, rows, saved),
        _ => Err(Error::UnsupportedDTypeForOp(x.dtype(), "log_softmax").bt()),
    }
}

fn log_softmax_of<T: Element>(
    device: &CudaDevice,
    x: &CudaSlice<T>,
    rows: Rows,
    slot: Option<&SavedSlot>,
) -> Result<CudaStorage> {
    let (kernels, stream) = (kernels_of(device)?, device.cuda_stream());
    let mut log_probs = matrix::<T>(device, rows.rows, rows.classes)?;
    let saved = slot.map(|_| SavedSoftmax::new(&stream, rows.rows)).transpose();
    let mut saved = saved.map_err(Error::wrap)?;
    let outputs =
        LogSoftmaxOutputs { saved: saved.as_mut(), ..LogSoftmaxOutputs::new(&mut log_probs) };
    kernels_log_softmax::forward(&kernels, &stream, softmax_shape(rows), &view(x, rows), outputs)
        .map_err(Error::wrap)?;
    if let Some(slot) = slot {
        *lock(slot) = saved;
    }
    Ok(CudaStorage::wrap_cuda_slice(log_probs, device.clone()))
}

/// Without gaps.
pub(crate) fn log_softmax_backward(
    (x, rows): (&CudaStorage, Rows),
    saved: Option<&SavedSlot>,
    (upstream, upstream_rows): (&CudaStorage, Rows),
) -> Result<CudaStorage> {
    let upstream = (upstream, upstream_rows);
    match &x.slice {
        CudaStorageSlice::F32(slice) => log_softmax_backward_of((slice, rows), saved, upstream),
        CudaStorageSlice::F16(slice) => log_softmax_backward_of((slice, rows), saved, upstream),
        CudaStorageSlice::BF16(slice) => log_softmax_backward_of((slice, rows), saved, upstream),
        _ => Err(Error::UnsupportedDTypeForOp(x.dtype(), "log_softmax_backward").bt()),
    }
}

fn log_softmax_backward_of<T: Element>(
    (x, rows): (&CudaSlice<T>, Rows),
    slot: Option<&SavedSlot>,
    (upstream, upstream_rows): (&CudaStorage, Rows),
) -> Result<CudaStorage> {
    let device = upstream.device();
    let (kernels, stream) = (kernels_of(device)?, device.cuda_stream());
    let shape =
        LogSoftmaxShape { upstream_row_stride: upstream_rows.row_stride, ..softmax_shape(rows) };
    let upstream = view(upstream.as_cuda_slice::<T>()?, upstream_rows);
    let logits = view(x, rows);
    let mut gradient = matrix::<T>(device, rows.rows, rows.classes)?;
    with_saved(slot, |saved| {
        let softmax = Softmax::OfLogits(&logits, saved);
        kernels_log_softmax::backward(&kernels, &stream, shape, softmax, &upstream, &mut gradient)
    })?;
    Ok(CudaStorage::wrap_cuda_slice(gradient, device.clone()))
}
