//! The C interface of smoothxent: include/smoothxent.h, which is generated from here.
//!
//! Thin by intention: a C struct becomes the struct of [`smoothxent::raw`] that it stands for, and an error
//! becomes a status and a text. There is no global state, and no panic leaves a function.
#![deny(missing_docs)]
#![allow(non_camel_case_types, reason = "the names are those of the header")]

mod binary;
mod config;
mod kernels;
mod log_softmax;
mod loss;
mod status;
mod types;

pub use binary::*;
pub use config::*;
pub use kernels::*;
pub use log_softmax::*;
pub use loss::*;
pub use status::*;
pub use types::*;
