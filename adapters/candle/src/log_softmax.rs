//! Log-softmax as a candle op.

#[cfg(feature = "cuda")]
use std::sync::Mutex;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Tensor, backend::BackendStorage,
};
use smoothxent::{LogSoftmaxShape, problem::LogSoftmaxProblem, reference};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{
    cpu::{Matrix, floats, rounded},
    rows::{Rows, dtype, with_rows},
};

const OP: &str = "log_softmax";

/// Log-softmax over the last dimension, of the logits' shape and dtype; gradients flow back to the logits.
///
/// Logits are f32, f16 or bf16, of any layout. The backward pass takes the probabilities from the logits, not
/// from the rounded result, so that its gradient is accurate in every dtype, also as p -> 1. On a GPU each
/// pass is one launch; kernels are loaded once for a `Device` and its clones. On the CPU it is computed in f64.
///
/// # Errors
/// A scalar, or another dtype; on a GPU those of [`smoothxent::Kernels::load`]; or that this was built
/// without the feature `cuda`.
pub fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    dtype(logits.dtype(), OP)?;
    if logits.rank() == 0 {
        let shape = logits.shape().clone();
        return Err(Error::UnexpectedNumberOfDims { expected: 1, got: 0, shape }.bt());
    }
    let logits = with_rows(logits)?;
    let forward = Forward {
        #[cfg(feature = "cuda")]
        saved: logits.track_op().then(|| Mutex::new(None)),
    };
    logits.apply_op1(forward)
}

struct Forward {
    /// Whether there will be a backward pass, and what it needs.
    #[cfg(feature = "cuda")]
    saved: Option<Mutex<Option<cuda::Saved>>>,
}

fn checked<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Matrix<'a>> {
    let rows = Rows::of(layout, OP)?;
    let shape = LogSoftmaxShape::contiguous(rows.rows, rows.classes);
    LogSoftmaxProblem::new(dtype(storage.dtype(), OP)?, shape).map_err(Error::wrap)?;
    Ok(Matrix { storage, rows })
}

impl CustomOp1 for Forward {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = checked(x, layout)?;
        let (log_probs, _) = reference::log_softmax(&floats(logits)?, logits.rows.classes);
        Ok((rounded(&log_probs, x.dtype())?, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let log_probs = cuda::log_softmax(x, Rows::of(layout, OP)?, self.saved.as_ref())?;
        Ok((log_probs, layout.shape().clone()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let backward = Backward { forward: self };
        logits.apply_op2_no_bwd(&with_rows(upstream)?, &backward).map(Some)
    }
}

struct Backward<'a> {
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    forward: &'a Forward,
}

impl CustomOp2 for Backward<'_> {
    fn name(&self) -> &'static str {
        "log_softmax_backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        upstream: &CpuStorage,
        upstream_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (logits, upstream) = (checked(x, x_layout)?, checked(upstream, upstream_layout)?);
        let classes = logits.rows.classes;
        let (log_probs, _) = reference::log_softmax(&floats(logits)?, classes);
        let gradient = reference::log_softmax_backward(&log_probs, &floats(upstream)?, classes);
        Ok((rounded(&gradient, x.dtype())?, x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        x_layout: &Layout,
        upstream: &candle_core::CudaStorage,
        upstream_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (logits, upstream_rows) = (Rows::of(x_layout, OP)?, Rows::of(upstream_layout, OP)?);
        let saved = self.forward.saved.as_ref();
        let gradient = cuda::log_softmax_backward((x, logits), saved, (upstream, upstream_rows))?;
        Ok((gradient, x_layout.shape().clone()))
    }
}
