//! The emulator's acceptance test: kernels that use what a GPU has, each with a plain computation of
//! the same on the CPU. `kernels.rs` runs them as they are, `bugs.rs` with seeded bugs.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod cases;
pub mod compile;
pub mod rig;
