//! What the test programs share.

pub mod compare;
pub mod inputs;
pub mod operations;
pub mod run;
