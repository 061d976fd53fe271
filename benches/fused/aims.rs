//! What the kernels are meant to reach. `cargo xtask report` reads it, too.

/// Of an empty launch: what a small problem may take,
pub const OF_EMPTY: f32 = 1.15;

/// and what a copy of it may take, for it to be small.
pub const SMALL_COPY_OF_EMPTY: f32 = 2.0;

/// The share of a copy's bytes a second of a gradient and a loss in one launch.
pub const FUSED_OF_COPY: f32 = 0.97;

/// The same of one pass alone.
pub const ONE_PASS_OF_COPY: f32 = 0.95;

/// The same of the fewest classes, in any pass.
pub const TINY_OF_COPY: f32 = 0.92;
pub const TINY_CLASSES: usize = 32;

/// Where latency no longer decides.
pub const FROM_BYTES: usize = 64_000_000;

/// The share of a copy's bytes a second that a case should reach at least; `of_pass` where it has many
/// classes, none where latency decides.
pub fn of_copy(bytes: usize, classes: usize, of_pass: f32) -> Option<f32> {
    match bytes {
        ..FROM_BYTES => None,
        _ if classes <= TINY_CLASSES => Some(TINY_OF_COPY),
        _ => Some(of_pass),
    }
}
