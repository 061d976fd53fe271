//! The interpreter: a launch is blocks, a block is warps that share memory and barriers, a warp is
//! 32 lanes that execute one instruction together where they can.

mod access;
pub mod alu;
pub mod approx;
mod asynchronous;
mod block;
mod checks;
mod collective;
mod copy;
pub mod double;
pub mod float;
pub mod launch;
mod mbarrier;
pub mod race;
mod shared;
mod traffic;
pub mod warp;
