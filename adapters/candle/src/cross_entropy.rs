//! The loss as a handle, and the candle ops that it is made of.

use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::Mutex;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Error, Layout, Result, Shape,
    Storage, Tensor, backprop::GradStore, op::BackpropOp,
};
use smoothxent::{
    LossConfig, Reduction,
    problem::{ClassWeighting, Pass, Place, Problem, Types},
};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{
    cpu::{self, Matrix, floats, rounded},
    rows::{Rows, dtype, target_type, with_rows},
};

const OP: &str = "cross_entropy";

/// Softmax cross-entropy with everything that [`LossConfig`] has, and its gradient.
///
/// Logits are `[.., classes]` in f32, f16 or bf16, of any layout: what one row stride describes (also
/// rows that were narrowed) is read as it lies, anything else is copied first. Targets are
/// class indices `[..]` in u32, i64 or i32, or probabilities of the logits' shape in f32, f16 or bf16; their
/// dtype decides. Losses are f32, whatever the logits are: a scalar, or of the targets' shape
/// (without the classes) for [`Reduction::None`]. Targets are constants: no gradient reaches them.
///
/// On the GPU, a handle holds the workspace of each thread that uses it, and the class weights; kernels are
/// loaded with the first handle of a [`Device`], once for it and its clones (each `Device::new_cuda` is another one), and
/// stay loaded. Making a handle for every step works, but allocates.
/// On the CPU everything is computed in f64 by [`smoothxent::reference`], one row after the other.
///
/// A target that names no class gives its row a NaN loss and a zero gradient, makes the sum or mean NaN, and is
/// reported by [`check`](Self::check).
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    config: LossConfig,
    device: Device,
    /// How many there are.
    class_weights: Option<usize>,
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Cpu(Arc<cpu::Losses>),
    #[cfg(feature = "cuda")]
    Cuda(Arc<cuda::Losses>),
}

impl CrossEntropy {
    /// For logits on `device`, without class weights.
    ///
    /// # Errors
    /// On a GPU those of [`smoothxent::Kernels::load`]; or that this was built without the feature `cuda`.
    pub fn new(config: LossConfig, device: &Device) -> Result<Self> {
        Self::with_weights(config, None, device)
    }

    /// With one weight a class, for what [`LossConfig::weighted_terms`] says. Reads them back from the
    /// device, once.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::new`]; a tensor that is not `[classes]`; a weight that is negative or not
    /// finite.
    pub fn with_class_weights(
        config: LossConfig,
        class_weights: &Tensor,
        device: &Device,
    ) -> Result<Self> {
        let weights: Vec<f32> = class_weights.to_dtype(DType::F32)?.to_vec1()?;
        let wrong = weights.iter().position(|&weight| !(0.0..f32::INFINITY).contains(&weight));
        if let Some(class) = wrong {
            let value = weights[class];
            return Err(Error::wrap(smoothxent::Error::ClassWeight { class, value }));
        }
        Self::with_weights(config, Some(&weights), device)
    }

    fn with_weights(config: LossConfig, weights: Option<&[f32]>, device: &Device) -> Result<Self> {
        let backend = match device {
            Device::Cpu => Backend::Cpu(Arc::new(cpu::Losses::new(weights))),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Backend::Cuda(Arc::new(cuda::Losses::new(device, weights)?)),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => candle_core::bail!(
                "smoothxent-candle was built without its feature `cuda`; build it with that for {:?}",
                device.location()
            ),
            Device::Metal(_) => candle_core::bail!("smoothxent has no kernels for Metal"),
        };
        let class_weights = weights.map(<[f32]>::len);
        Ok(Self { config, device: device.clone(), class_weights, backend })
    }

    /// The options.
    pub fn config(&self) -> LossConfig {
        self.config
    }

    /// The loss; gradients flow back to the logits.
    ///
    /// Reads each logit once here, and once more in the backward pass, which writes each gradient once: 16
    /// bytes a row are kept between them, and no matrix. Any upstream gradient is honoured. Where the loss
    /// is all that is minimised, [`backward`](Self::backward) reads the logits once.
    ///
    /// # Errors
    /// Shapes, dtypes or devices that do not go together; options that
    /// [`Problem::new`] refuses.
    pub fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (logits, targets) = self.checked(logits, targets)?;
        let save = logits.track_op();
        logits.apply_op2(&targets, Forward::new(self, save))
    }

    /// The loss, and the gradients of all variables behind the logits, as `forward(..)?.backward()` gives
    /// them: loss and gradient of the logits come from one launch, which reads each logit once. The loss has
    /// no graph any more. Without a reduction the gradients are those of the sum.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn backward(&self, logits: &Tensor, targets: &Tensor) -> Result<(Tensor, GradStore)> {
        let (logits, targets) = self.checked(logits, targets)?;
        let (loss, gradient) = self.fused(&logits, &targets)?;
        // The root of a graph of its own: what flows back into it is 1.
        let root = logits.apply_op1(Known { gradient })?;
        Ok((loss, root.backward()?))
    }

    /// Whether all targets were classes or `ignore_index`, of all calls since the last check: on a GPU of
    /// those by this thread, for whose work on the device it waits. A training loop asks now and then.
    ///
    /// # Errors
    /// [`smoothxent::Error::BadTargets`]; [`smoothxent::Error::Driver`] if earlier work on the device failed.
    pub fn check(&self) -> std::result::Result<(), smoothxent::Error> {
        match &self.backend {
            Backend::Cpu(losses) => losses.check(),
            #[cfg(feature = "cuda")]
            Backend::Cuda(losses) => losses.check(),
        }
    }

    /// As the ops take them; everything that can be known to be wrong.
    fn checked(&self, logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
        for tensor in [logits, targets] {
            if !tensor.device().same_device(&self.device) {
                let (lhs, rhs) = (self.device.location(), tensor.device().location());
                return Err(Error::DeviceMismatchBinaryOp { lhs, rhs, op: OP }.bt());
            }
        }
        let Some((&classes, leading)) = logits.dims().split_last() else {
            let shape = logits.shape().clone();
            return Err(Error::UnexpectedNumberOfDims { expected: 2, got: 0, shape }.bt());
        };
        dtype(logits.dtype(), OP)?;
        let target_type = target_type(targets.dtype(), OP)?;
        let expected = if target_type.is_probabilities() { logits.dims() } else { leading };
        if targets.dims() != expected {
            let what =
                if target_type.is_probabilities() { "probabilities" } else { "class indices" };
            let msg = format!("{OP}: {:?} targets are {what}", targets.dtype());
            let (expected, got) = (Shape::from(expected), targets.shape().clone());
            return Err(Error::UnexpectedShape { msg, expected, got }.bt());
        }
        if let Some(len) = self.class_weights.filter(|&len| len != classes) {
            let (buffer, needed) = ("class_weights", classes);
            return Err(Error::wrap(smoothxent::Error::Length { buffer, len, needed }));
        }
        // Detached: candle expects a gradient for every input that leads to a variable.
        let targets = targets.detach();
        let targets = if target_type.is_probabilities() {
            with_rows(&targets)?
        } else {
            targets.contiguous()?
        };
        Ok((with_rows(logits)?, targets))
    }

    /// Loss and gradient at once, without graph.
    fn fused(&self, logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
        let (x, x_layout) = logits.storage_and_layout();
        let (y, y_layout) = targets.storage_and_layout();
        let (loss, gradient) = match (&*x, &*y, &self.backend) {
            (Storage::Cpu(x), Storage::Cpu(y), Backend::Cpu(losses)) => {
                let (problem, x, y) = self.inputs((x, x_layout), (y, y_layout), Pass::Fused)?;
                let outcome = losses.run(&problem, x, y, &[])?;
                losses.note_bad_targets(&problem, y)?;
                let gradient = rounded(&outcome.gradient, logits.dtype())?;
                (Storage::Cpu(self.loss_of(&outcome)?), Storage::Cpu(gradient))
            }
            #[cfg(feature = "cuda")]
            (Storage::Cuda(x), Storage::Cuda(y), Backend::Cuda(losses)) => {
                let inputs = cuda::Inputs::of((x, x_layout), (y, y_layout), OP)?;
                let (loss, gradient) = losses.forward_backward(self.config, inputs)?;
                (Storage::Cuda(loss), Storage::Cuda(gradient))
            }
            _ => candle_core::bail!("{OP}: tensors moved between devices"),
        };
        let tensor = |storage, shape: &Shape| {
            Tensor::from_storage(storage, shape.clone(), BackpropOp::none(), false)
        };
        Ok((tensor(loss, &self.loss_shape(x_layout)), tensor(gradient, logits.shape())))
    }

    fn loss_shape(&self, logits: &Layout) -> Shape {
        match self.config.reduction {
            Reduction::None => Shape::from(&logits.dims()[..logits.dims().len() - 1]),
            Reduction::Sum | Reduction::Mean => Shape::from(()),
        }
    }

    fn loss_of(&self, outcome: &smoothxent::reference::Outcome) -> Result<CpuStorage> {
        match self.config.reduction {
            Reduction::None => rounded(&outcome.row_losses, DType::F32),
            Reduction::Sum | Reduction::Mean => rounded(&[outcome.loss], DType::F32),
        }
    }

    fn inputs<'a>(
        &self,
        (x, x_layout): (&'a CpuStorage, &Layout),
        (y, y_layout): (&'a CpuStorage, &Layout),
        pass: Pass,
    ) -> Result<(Problem, Matrix<'a>, Matrix<'a>)> {
        use candle_core::backend::BackendStorage;
        let logits = Rows::of(x_layout, OP)?;
        let types = Types {
            dtype: dtype(x.dtype(), OP)?,
            targets: target_type(y.dtype(), OP)?,
            class_weights: match self.class_weights {
                None => ClassWeighting::Absent,
                Some(_) => ClassWeighting::Given,
            },
        };
        let targets = targets_rows(y_layout, types.targets.is_probabilities(), logits.rows)?;
        let shape = shape(logits, targets);
        let problem =
            Problem::new(types, shape, self.config, pass, Place::Apart).map_err(Error::wrap)?;
        Ok((problem, Matrix { storage: x, rows: logits }, Matrix { storage: y, rows: targets }))
    }
}

/// `CrossEntropy::new(*config, logits.device())?.forward(logits, targets)`, for a line of code: bad targets
/// show as NaN alone, and on a GPU each call allocates a workspace.
///
/// # Errors
/// Those of [`CrossEntropy::new`] and [`CrossEntropy::forward`].
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, config: &LossConfig) -> Result<Tensor> {
    CrossEntropy::new(*config, logits.device())?.forward(logits, targets)
}

/// Indices are one row, which says where they start.
pub(crate) fn targets_rows(layout: &Layout, probabilities: bool, rows: usize) -> Result<Rows> {
    if probabilities {
        return Rows::of(layout, OP);
    }
    Ok(Rows { rows: 1, classes: rows, row_stride: rows, start: layout.start_offset() })
}

/// Of these logits and targets, and a gradient without gaps.
pub(crate) fn shape(logits: Rows, targets: Rows) -> smoothxent::Shape {
    smoothxent::Shape {
        logits_row_stride: logits.row_stride,
        targets_row_stride: targets.row_stride,
        ..smoothxent::Shape::contiguous(logits.rows, logits.classes)
    }
}

/// The loss.
struct Forward {
    of: CrossEntropy,
    /// Whether there will be a backward pass, and what it needs. It lies here, not in the result: the result
    /// is then what the caller wants, and nothing has to be cut out of it and put together again.
    #[cfg(feature = "cuda")]
    saved: Option<Mutex<Option<cuda::Saved>>>,
}

impl Forward {
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables))]
    fn new(of: &CrossEntropy, save: bool) -> Self {
        Self {
            of: of.clone(),
            #[cfg(feature = "cuda")]
            saved: save.then(|| Mutex::new(None)),
        }
    }
}

impl CustomOp2 for Forward {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (problem, x, y) = self.of.inputs((x, x_layout), (y, y_layout), Pass::Forward)?;
        let losses = self.of.cpu()?;
        let outcome = losses.run(&problem, x, y, &[])?;
        losses.note_bad_targets(&problem, y)?;
        Ok((self.of.loss_of(&outcome)?, self.of.loss_shape(x_layout)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        x_layout: &Layout,
        y: &candle_core::CudaStorage,
        y_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let inputs = cuda::Inputs::of((x, x_layout), (y, y_layout), OP)?;
        let loss = self.of.cuda()?.forward(self.of.config, inputs, self.saved.as_ref())?;
        Ok((loss, self.of.loss_shape(x_layout)))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        // candle has detached `upstream`: nothing differentiates this once more.
        let upstream = upstream.contiguous()?;
        let gradient = logits.apply_op3_no_bwd(targets, &upstream, &Backward { forward: self })?;
        Ok((Some(gradient), None))
    }
}

/// The gradient, of what a forward pass was of.
struct Backward<'a> {
    forward: &'a Forward,
}

impl CustomOp3 for Backward<'_> {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
        upstream: &CpuStorage,
        upstream_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let of = &self.forward.of;
        let upstream = floats(Matrix { storage: upstream, rows: vector(upstream_layout) })?;
        let (problem, logits, y) = of.inputs((x, x_layout), (y, y_layout), Pass::Backward)?;
        let outcome = of.cpu()?.run(&problem, logits, y, &upstream)?;
        Ok((rounded(&outcome.gradient, x.dtype())?, x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        x_layout: &Layout,
        y: &candle_core::CudaStorage,
        y_layout: &Layout,
        upstream: &candle_core::CudaStorage,
        upstream_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let Forward { of, saved } = self.forward;
        let inputs = cuda::Inputs::of((x, x_layout), (y, y_layout), OP)?;
        let upstream = (upstream, vector(upstream_layout));
        let gradient = of.cuda()?.backward(of.config, inputs, saved.as_ref(), upstream)?;
        Ok((gradient, x_layout.shape().clone()))
    }
}

/// A tensor without gaps as one row.
fn vector(layout: &Layout) -> Rows {
    let len = layout.shape().elem_count();
    Rows { rows: 1, classes: len, row_stride: len, start: layout.start_offset() }
}

impl CrossEntropy {
    fn cpu(&self) -> Result<&cpu::Losses> {
        match &self.backend {
            Backend::Cpu(losses) => Ok(losses),
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => candle_core::bail!("{OP}: tensors moved between devices"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self) -> Result<&cuda::Losses> {
        match &self.backend {
            Backend::Cuda(losses) => Ok(losses),
            Backend::Cpu(_) => candle_core::bail!("{OP}: tensors moved between devices"),
        }
    }
}

/// A scalar that nobody reads, whose gradient is known.
struct Known {
    gradient: Tensor,
}

impl CustomOp1 for Known {
    fn name(&self) -> &'static str {
        "cross_entropy_fused"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((cuda::zero(x)?, Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.gradient.clone()))
    }
}
