//! Softmax cross-entropy with label smoothing, and log-softmax, as differentiable ops of candle: on a GPU
//! the fused kernels of [`smoothxent`], on the CPU its f64 reference.
#![doc = ""]
#![doc = include_str!("../README.md")]
#![deny(missing_docs, unsafe_op_in_unsafe_fn)]
// Clippy sees the crate with the feature alone: .ci/run.
#![cfg_attr(not(feature = "cuda"), deny(unused, unfulfilled_lint_expectations))]

mod cpu;
mod cross_entropy;
#[cfg(feature = "cuda")]
mod cuda;
mod log_softmax;
mod rows;

pub use cross_entropy::{CrossEntropy, cross_entropy};
pub use log_softmax::log_softmax;
/// What the options are made of.
pub use smoothxent::{
    self, Divisor, Divisors, EmptyMean, LossConfig, Reduction, Smoothing, WeightedTerms,
};
