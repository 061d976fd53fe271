//! Fused CUDA kernels for softmax cross-entropy with label smoothing and its gradient. The gradient is
//! written once, and the logits are read once, in rows up to the lengths that [`guide::memory`] states;
//! nothing else of that size is ever in memory.
//!
//! Row i has logits x of C classes and a target y. With `p = softmax(x)` and smoothing e,
//!
//! ```text
//! loss_i        = -((1 - e) log p_y + e/C sum_k log p_k)
//! gradient_i[k] = upstream_i / D * (p_k - e/C - (1 - e) * [k = y])
//! ```
//!
//! where D is 1, or for a mean the number of rows that are not ignored. [`LossConfig`] has the whole
//! formula.
//!
//! ```no_run
//! use smoothxent::{Gradient, Kernels, LossConfig, LossInputs, LossOutputs, Shape, Workspace, loss};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = smoothxent::open(0)?;
//! let stream = context.default_stream();
//! let kernels = Kernels::load(&context)?;
//!
//! let shape = Shape::contiguous(2, 3);
//! let logits = stream.clone_htod(&[0.5f32, 2.0, -1.0, 0.0, 0.1, 0.2])?;
//! let targets = stream.clone_htod(&[1i64, -100])?;
//! let mut gradient = stream.alloc_zeros::<f32>(6)?;
//! let mut loss = stream.alloc_zeros::<f32>(1)?;
//! let mut workspace = Workspace::new(&stream, shape.rows)?;
//!
//! let config = LossConfig {
//!     label_smoothing: 0.1,
//!     ignore_index: Some(-100),
//!     ..LossConfig::default()
//! };
//! let inputs = LossInputs::new(shape, &logits, &targets);
//! let outputs = LossOutputs { loss: Some(&mut loss), ..LossOutputs::default() };
//! let gradient_out = Gradient::new(&mut gradient);
//! loss::forward_backward(&kernels, &stream, config, inputs, outputs, gradient_out, &mut workspace)?;
//!
//! workspace.take_status(&stream)?; // waits; an error if a target named no class
//! println!("{:?} {:?}", stream.clone_dtoh(&loss)?, stream.clone_dtoh(&gradient)?);
//! # Ok(())
//! # }
//! ```
//!
//! A call is checked, planned and launched: [`loss::forward_backward`] makes a
//! [`Problem`](problem::Problem), [`plan::choose`] turns it into launches, and [`Kernels`] runs
//! them. It allocates nothing and does not wait for the device. Everything wrong that the host can
//! see is an [`Error`] before a launch.
//!
//! # What there is
//!
//! | | |
//! |---|---|
//! | [`loss::forward_backward`] | loss and gradient in one pass, also in place |
//! | [`loss::forward`], [`loss::backward`] | the two apart, for autograd |
//! | [`log_softmax`] | log-softmax and its gradient; softmax, without one |
//! | [`binary`] | binary cross-entropy from logits |
//! | [`raw`] | all of them on raw device pointers, for buffers of other libraries |
//! | [`plan`] | how a problem is solved on a device, and why, without one |
//! | [`mod@reference`] | the same in f64 on the host |
//!
//! | | |
//! |---|---|
//! | logits, gradient | f32, f16 or bf16; any number of classes, row stride and alignment; arithmetic, losses and log-sum-exps in f32 |
//! | targets | `i32`, `u32` or `i64` class indices with an `ignore_index` of any value, or probabilities in f32, f16 or bf16 |
//! | label smoothing | e/C over all classes, or e/(C-1) over the others: [`Smoothing`] |
//! | class weights | on every term, on the nll term, or on smoothing alone: [`WeightedTerms`] |
//! | reductions | none, sum, or mean by a [`Divisor`] for each term; upstream gradient as a scalar or one a row: [`Upstream`] |
//! | more terms | z-loss, logit scale, logit soft-cap, with their exact gradients |
//! | outputs | scalar loss, row losses, log-sum-exps, argmax, correct predictions: [`LossOutputs`] |
//! | presets | the losses of other frameworks by name, such as [`LossConfig::pytorch`] |
//! | promises | the same bits every time, CUDA graphs, no access out of bounds whatever a target is |
//!
//! # Pages
//!
//! | | |
//! |---|---|
//! | [`coming_from`] | PyTorch, Keras, timm, fairseq, Megatron, Liger and others: every argument |
//! | [`guide::options`] | which option does what, and what it costs |
//! | [`guide::errors`] | every error, what it means, what to do |
//! | [`guide::building`] | nvcc, architectures, containers, other GPUs, docs.rs |
//! | [`guide::graphs_and_streams`] | CUDA graphs, streams, threads, devices |
//! | [`guide::reproducibility`] | what gives the same bits, and what does not |
//! | [`guide::memory`] | what is read and written, how long a row may be, sizes of workspaces |
#![deny(missing_docs, unsafe_op_in_unsafe_fn)]

mod abi;
mod buffer;
#[forbid(unsafe_code)]
mod call;
mod capture;
#[forbid(unsafe_code)]
mod config;
mod device;
#[forbid(unsafe_code)]
mod error;
mod module;
mod reclaim;

pub mod binary;
pub mod guide;
pub mod log_softmax;
pub mod loss;
#[forbid(unsafe_code)]
pub mod plan;
#[forbid(unsafe_code)]
pub mod problem;
pub mod raw;
#[forbid(unsafe_code)]
pub mod reference;

pub use buffer::{ClassWeights, DeviceRead, DeviceWrite, Logit, SavedSoftmax, Target, Workspace};
pub use call::{Gradient, Upstream};
pub use config::{
    BinaryConfig, BinarySmoothing, Divisor, Divisors, EmptyMean, LossConfig, OverClasses,
    Reduction, Selection, Smoothing, Strategy, WeightedTerms,
};
/// The driver bindings whose buffers this crate takes.
pub use cudarc;
pub use device::{device_count, open};
pub use error::{Error, Obstacle};
/// The half-precision types that this crate takes.
pub use half;
pub use loss::{Logits, LossInputs, LossOutputs};
pub use module::{Images, Kernels, images};
pub use problem::{LogSoftmaxShape, Shape};

/// Coming from PyTorch, Keras, timm, fastai, fairseq, tensor2tensor, OpenNMT, NVIDIA's libraries,
/// Megatron, Liger, flash-attn, QuACK, candle, burn or optax.
#[doc = include_str!("coming_from.md")]
pub mod coming_from {}

/// The examples of the README, which have to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
