//! An emulated CUDA driver: `libcuda.so.1` that interprets PTX on the CPU and checks every access.
//!
//! `driver` is the C surface that CUDA programs call. It stands on [`context`], a safe Rust API
//! that the tests of this package use. A module's text goes through `ptx` (tokens, syntax,
//! decoded instructions) into `exec` (arithmetic, warps, blocks, launches), which works on
//! [`memory`]. What goes wrong in a kernel is a [`fault`].
#![deny(missing_docs)]

pub mod capture;
pub mod context;
mod decoded;
pub mod device;
mod driver;
pub mod error;
mod exec;
pub mod fatbin;
pub mod fault;
pub mod graph;
pub mod memory;
mod profile;
mod ptx;
pub mod report;
pub mod settings;
pub mod stream;

pub use exec::{approx, double};
pub use ptx::PtxError;
pub use ptx::ir::Kernel;
