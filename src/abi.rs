//! Parameters, limits and status records shared with the kernels.
//!
//! Generated from `kernels/abi.h`; do not edit. `cargo xtask codegen` writes it anew.

/// Width of one vector access to logits or gradients.
pub const XENT_PACK_BYTES: u32 = 16;
/// Packs of a thread that are compared with the maximum at once, wherever the row is: its sums depend on when that is raised. What is kept of a row is a multiple of that for each thread, or all of it.
pub const XENT_PACKS_AT_ONCE: u32 = 2;
/// Largest number of classes: positions within a row are 32-bit in the kernels.
pub const XENT_MAX_CLASSES: u32 = 1073741824;
/// Threads of a block of the strategies that give a row to a warp, or to a part of one.
pub const XENT_WARP_BLOCK_THREADS: u32 = 128;
/// Largest block of the strategies that give a row, or a slice of one, to a block.
pub const XENT_MAX_BLOCK_THREADS: u32 = 384;
/// 16-byte packs of a row that a lane keeps in registers, at most; the same where as many of a second matrix are beside them, and of target probabilities, whose arithmetic needs more registers; and the fewest lanes of a row.
pub const XENT_WARP_PACKS: u32 = 16;
pub const XENT_WARP_PACKS_OF_TWO: u32 = 8;
pub const XENT_WARP_PACKS_OF_PROBABILITIES: u32 = 4;
pub const XENT_FEWEST_WARP_LANES: u32 = 8;
/// tiny: a warp's tile is a whole number of so many packs, as many as all banks of shared memory hold.
pub const XENT_TINY_TILE_PACKS: u32 = 8;
/// Most blocks of a cluster that every GPU with clusters can place.
pub const XENT_MAX_CLUSTER: u32 = 8;
/// Most slices of a row under split_row: a warp merges them, a lane each.
pub const XENT_MAX_SLICES: u32 = 32;
/// Partial results in a workspace: the most rows times slices under split_row.
pub const XENT_MAX_PARTIALS: u32 = 1024;
/// Most rows of which a kernel finds the divisors by itself, a warp's reads of the targets.
pub const XENT_MAX_COUNTED_ROWS: u32 = 256;
/// Static shared memory of the block and cluster kernels, at most; the rest of the device's limit can hold the row.
pub const XENT_BLOCK_STATIC_SHARED_BYTES: u32 = 1024;
/// Rows whose losses are summed together; part of the definition of the scalar loss's last bits.
pub const XENT_CHUNK_ROWS: u32 = 512;
/// Threads of one block of the normalizer kernel, and rows that it counts at once.
pub const XENT_NORMALIZER_THREADS: u32 = 1024;
pub const XENT_NORMALIZER_ROWS: u32 = 8192;
/// No class, in XentSavedRow.apart_and_exact: more than XENT_MAX_CLASSES.
pub const XENT_NOTHING_APART: u32 = 2147483647;
pub const XENT_TARGET_I32: XentTargetType = 0;
pub const XENT_TARGET_U32: XentTargetType = 1;
pub const XENT_TARGET_I64: XentTargetType = 2;
pub const XENT_TARGET_F32: XentTargetType = 3;
pub const XENT_TARGET_F16: XentTargetType = 4;
pub const XENT_TARGET_BF16: XentTargetType = 5;
/// Type of the targets: class indices, then probabilities.
pub type XentTargetType = ::core::ffi::c_uint;
/// The host knew it.
pub const XENT_DIVISOR_GIVEN: XentDivisorSource = 0;
/// The rows that are not ignored.
pub const XENT_DIVISOR_COUNTED_ROWS: XentDivisorSource = 1;
/// The sum of the class weights of the targets of those rows.
pub const XENT_DIVISOR_TARGET_WEIGHTS: XentDivisorSource = 2;
/// Where the reciprocal of a divisor comes from.
pub type XentDivisorSource = ::core::ffi::c_uint;
/// One number for each term of the loss.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentTerms {
    /// -log p_y.
    pub nll: f32,
    /// The sum of all -log p_k.
    pub smoothing: f32,
    /// lse^2.
    pub z_loss: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentTerms"][::core::mem::size_of::<XentTerms>() - 12usize];
    ["Alignment of XentTerms"][::core::mem::align_of::<XentTerms>() - 4usize];
    ["Offset of field: XentTerms::nll"][::core::mem::offset_of!(XentTerms, nll) - 0usize];
    ["Offset of field: XentTerms::smoothing"]
        [::core::mem::offset_of!(XentTerms, smoothing) - 4usize];
    ["Offset of field: XentTerms::z_loss"][::core::mem::offset_of!(XentTerms, z_loss) - 8usize];
};
/// What the terms of a row are multiplied by, and divided by.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentDivided {
    /// 1 / D for each term.
    pub inverse_divisors: XentTerms,
    /// a / D1, b / D2, L / D3; a term that is not there is 0 whatever its divisor.
    pub term_weights: XentTerms,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentDivided"][::core::mem::size_of::<XentDivided>() - 24usize];
    ["Alignment of XentDivided"][::core::mem::align_of::<XentDivided>() - 4usize];
    ["Offset of field: XentDivided::inverse_divisors"]
        [::core::mem::offset_of!(XentDivided, inverse_divisors) - 0usize];
    ["Offset of field: XentDivided::term_weights"]
        [::core::mem::offset_of!(XentDivided, term_weights) - 12usize];
};
/// From stored logits x to z = scale * value, where value is x, or s tanh(t x / s) under a cap s.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentTransform {
    /// t, or 1 under a cap.
    pub scale: f32,
    /// log2(e) * scale.
    pub exponent_scale: f32,
    /// s, or 0 for no cap.
    pub softcap: f32,
    /// t / s, or 0 without a cap.
    pub inner: f32,
    /// t: dz / dx where tanh does not bend.
    pub slope: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentTransform"][::core::mem::size_of::<XentTransform>() - 20usize];
    ["Alignment of XentTransform"][::core::mem::align_of::<XentTransform>() - 4usize];
    ["Offset of field: XentTransform::scale"]
        [::core::mem::offset_of!(XentTransform, scale) - 0usize];
    ["Offset of field: XentTransform::exponent_scale"]
        [::core::mem::offset_of!(XentTransform, exponent_scale) - 4usize];
    ["Offset of field: XentTransform::softcap"]
        [::core::mem::offset_of!(XentTransform, softcap) - 8usize];
    ["Offset of field: XentTransform::inner"]
        [::core::mem::offset_of!(XentTransform, inner) - 12usize];
    ["Offset of field: XentTransform::slope"]
        [::core::mem::offset_of!(XentTransform, slope) - 16usize];
};
/// Class indices, and which of them are to be ignored; or target probabilities.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentTargets {
    /// `rows` indices, or \[rows, classes\] probabilities.
    pub values: *const ::core::ffi::c_void,
    /// Compared before any other use of an index; any value. Meaningful if `has_ignore_index`.
    pub ignore_index: i64,
    /// From one row of probabilities to the next, at least `classes`.
    pub row_stride: u64,
    /// An `XentTargetType`.
    pub kind: u32,
    /// 0 or 1; 0 for probabilities.
    pub has_ignore_index: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentTargets"][::core::mem::size_of::<XentTargets>() - 32usize];
    ["Alignment of XentTargets"][::core::mem::align_of::<XentTargets>() - 8usize];
    ["Offset of field: XentTargets::values"][::core::mem::offset_of!(XentTargets, values) - 0usize];
    ["Offset of field: XentTargets::ignore_index"]
        [::core::mem::offset_of!(XentTargets, ignore_index) - 8usize];
    ["Offset of field: XentTargets::row_stride"]
        [::core::mem::offset_of!(XentTargets, row_stride) - 16usize];
    ["Offset of field: XentTargets::kind"][::core::mem::offset_of!(XentTargets, kind) - 24usize];
    ["Offset of field: XentTargets::has_ignore_index"]
        [::core::mem::offset_of!(XentTargets, has_ignore_index) - 28usize];
};
/// Targets outside \[0, classes) that kernels met since the host last took this record. All zero while there
/// were none, so that zeroed memory is a record.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentStatus {
    /// How many.
    pub bad_targets: u64,
    /// 2^64 - 1 less the lowest row among them, so that no row is 0 and lower rows are larger.
    pub rows_from_first: u64,
    /// Target of that row.
    pub first_target: i64,
    /// Classes of the problem of that row.
    pub first_classes: u64,
    /// Taken while a thread compares and replaces the three fields above; 0 between launches.
    pub lock: u32,
    /// Keeps the size a multiple of 8; 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentStatus"][::core::mem::size_of::<XentStatus>() - 40usize];
    ["Alignment of XentStatus"][::core::mem::align_of::<XentStatus>() - 8usize];
    ["Offset of field: XentStatus::bad_targets"]
        [::core::mem::offset_of!(XentStatus, bad_targets) - 0usize];
    ["Offset of field: XentStatus::rows_from_first"]
        [::core::mem::offset_of!(XentStatus, rows_from_first) - 8usize];
    ["Offset of field: XentStatus::first_target"]
        [::core::mem::offset_of!(XentStatus, first_target) - 16usize];
    ["Offset of field: XentStatus::first_classes"]
        [::core::mem::offset_of!(XentStatus, first_classes) - 24usize];
    ["Offset of field: XentStatus::lock"][::core::mem::offset_of!(XentStatus, lock) - 32usize];
    ["Offset of field: XentStatus::reserved"]
        [::core::mem::offset_of!(XentStatus, reserved) - 36usize];
};
/// Head of the workspace. The whole workspace is zero before its first use.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentWorkspace {
    /// Sticky record of bad targets.
    pub status: XentStatus,
    /// Rows counted so far by the normalizer kernel; 0 between launches.
    pub counted_rows: u64,
    /// Chunks of rows that the normalizer kernel has counted; 0 between launches.
    pub normalizer_ticket: u32,
    /// Chunks of rows that are done; 0 between launches.
    pub chunk_ticket: u32,
    /// Correct predictions so far; 0 between launches.
    pub correct: u64,
    /// What the normalizer kernel found, if nothing is saved.
    pub divided: XentDivided,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentWorkspace"][::core::mem::size_of::<XentWorkspace>() - 88usize];
    ["Alignment of XentWorkspace"][::core::mem::align_of::<XentWorkspace>() - 8usize];
    ["Offset of field: XentWorkspace::status"]
        [::core::mem::offset_of!(XentWorkspace, status) - 0usize];
    ["Offset of field: XentWorkspace::counted_rows"]
        [::core::mem::offset_of!(XentWorkspace, counted_rows) - 40usize];
    ["Offset of field: XentWorkspace::normalizer_ticket"]
        [::core::mem::offset_of!(XentWorkspace, normalizer_ticket) - 48usize];
    ["Offset of field: XentWorkspace::chunk_ticket"]
        [::core::mem::offset_of!(XentWorkspace, chunk_ticket) - 52usize];
    ["Offset of field: XentWorkspace::correct"]
        [::core::mem::offset_of!(XentWorkspace, correct) - 56usize];
    ["Offset of field: XentWorkspace::divided"]
        [::core::mem::offset_of!(XentWorkspace, divided) - 64usize];
};
/// What the backward pass has to know of a row's softmax, beside its logits.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentSavedRow {
    /// The largest value.
    pub max: f32,
    /// The sum of the exponentials of all classes but the one that was kept apart: the target, or
    /// the one in `apart_and_exact`.
    pub others: f32,
    /// The sum of the weights of the same classes in the smoothing term.
    pub mass: f32,
    /// In the lowest bit, whether exponentials were formed with the exact shift; above, which class a
    /// row without a target kept apart, or XENT_NOTHING_APART.
    pub apart_and_exact: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentSavedRow"][::core::mem::size_of::<XentSavedRow>() - 16usize];
    ["Alignment of XentSavedRow"][::core::mem::align_of::<XentSavedRow>() - 4usize];
    ["Offset of field: XentSavedRow::max"][::core::mem::offset_of!(XentSavedRow, max) - 0usize];
    ["Offset of field: XentSavedRow::others"]
        [::core::mem::offset_of!(XentSavedRow, others) - 4usize];
    ["Offset of field: XentSavedRow::mass"][::core::mem::offset_of!(XentSavedRow, mass) - 8usize];
    ["Offset of field: XentSavedRow::apart_and_exact"]
        [::core::mem::offset_of!(XentSavedRow, apart_and_exact) - 12usize];
};
/// Under split_row, what a block found out about its slice of a row.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentPartial {
    /// The largest value, the target apart.
    pub max: f32,
    /// Sums over the slice's classes but the target, relative to `max`: softmax_state.cuh.
    pub sum: f32,
    pub shifted_sum: f32,
    pub mass: f32,
    /// The target's value, in the slice that has it.
    pub target: f32,
    /// The lowest class of the slice, the target apart, whose value is `max`.
    pub lowest: u32,
    /// Keeps two partials in a sector of 32 bytes each; 0.
    pub reserved: [u32; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentPartial"][::core::mem::size_of::<XentPartial>() - 32usize];
    ["Alignment of XentPartial"][::core::mem::align_of::<XentPartial>() - 4usize];
    ["Offset of field: XentPartial::max"][::core::mem::offset_of!(XentPartial, max) - 0usize];
    ["Offset of field: XentPartial::sum"][::core::mem::offset_of!(XentPartial, sum) - 4usize];
    ["Offset of field: XentPartial::shifted_sum"]
        [::core::mem::offset_of!(XentPartial, shifted_sum) - 8usize];
    ["Offset of field: XentPartial::mass"][::core::mem::offset_of!(XentPartial, mass) - 12usize];
    ["Offset of field: XentPartial::target"]
        [::core::mem::offset_of!(XentPartial, target) - 16usize];
    ["Offset of field: XentPartial::lowest"]
        [::core::mem::offset_of!(XentPartial, lowest) - 20usize];
    ["Offset of field: XentPartial::reserved"]
        [::core::mem::offset_of!(XentPartial, reserved) - 24usize];
};
/// How the strategy in a kernel's name cuts the work, as the plan decided.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentGeometry {
    /// Consecutive rows of a warp, at least 32 / lanes_per_row; 1 but under warp and tiny. warp: it reports
    /// them together, a power of two up to 32, and takes further ones beyond the grid. tiny: all that it takes, a
    /// multiple of 32 / lanes_per_row.
    pub rows_per_warp: u64,
    /// cluster, split_row: parts of a row, one a block. 1 elsewhere.
    pub slices: u32,
    /// block, cluster: packs of a slice's aligned body that fit the launch's dynamic shared memory, with
    /// the weights of their elements for target probabilities: all, or a multiple of the block's threads.
    /// 0 elsewhere.
    pub cached_packs: u32,
    /// tiny, warp: lanes of a row, a power of two up to 32; of warp from XENT_FEWEST_WARP_LANES up, each with
    /// XENT_WARP_PACKS packs at most, or what is above for two matrices and for target probabilities. 0
    /// elsewhere.
    pub lanes_per_row: u32,
    /// block: how many rows later the one is that a row's block asks the L2 cache for; 0 for none.
    pub rows_ahead: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentGeometry"][::core::mem::size_of::<XentGeometry>() - 24usize];
    ["Alignment of XentGeometry"][::core::mem::align_of::<XentGeometry>() - 8usize];
    ["Offset of field: XentGeometry::rows_per_warp"]
        [::core::mem::offset_of!(XentGeometry, rows_per_warp) - 0usize];
    ["Offset of field: XentGeometry::slices"]
        [::core::mem::offset_of!(XentGeometry, slices) - 8usize];
    ["Offset of field: XentGeometry::cached_packs"]
        [::core::mem::offset_of!(XentGeometry, cached_packs) - 12usize];
    ["Offset of field: XentGeometry::lanes_per_row"]
        [::core::mem::offset_of!(XentGeometry, lanes_per_row) - 16usize];
    ["Offset of field: XentGeometry::rows_ahead"]
        [::core::mem::offset_of!(XentGeometry, rows_ahead) - 20usize];
};
/// The only one.
pub const XENT_PHASE_WHOLE: XentPhase = 0;
/// Partial results of all slices.
pub const XENT_PHASE_PARTIALS: XentPhase = 1;
/// Everything else, from the partial results or from what the forward pass saved.
pub const XENT_PHASE_FINISH: XentPhase = 2;
/// Which launch of a strategy that takes two it is.
pub type XentPhase = ::core::ffi::c_uint;
/// The host knew it: `divided`.
pub const XENT_DIVIDED_HOST: XentDividedSource = 0;
/// `device_divided`, which an earlier launch wrote.
pub const XENT_DIVIDED_DEVICE: XentDividedSource = 1;
/// Every warp that needs it goes over the targets, at most XENT_MAX_COUNTED_ROWS.
pub const XENT_DIVIDED_HERE: XentDividedSource = 2;
/// Where a kernel takes `XentDivided` from.
pub type XentDividedSource = ::core::ffi::c_uint;
/// What the terms are divided by, where the targets decide it.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentDivisors {
    /// An `XentDivisorSource` for each term.
    pub nll_source: u32,
    pub smoothing_source: u32,
    pub z_loss_source: u32,
    /// 0 or 1: divisors of 0 have the reciprocal 0 instead of infinity.
    pub empty_is_zero: u32,
    /// 1 / D where its source is XENT_DIVISOR_GIVEN.
    pub given: XentTerms,
    /// a, b, L.
    pub term_weights: XentTerms,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentDivisors"][::core::mem::size_of::<XentDivisors>() - 40usize];
    ["Alignment of XentDivisors"][::core::mem::align_of::<XentDivisors>() - 4usize];
    ["Offset of field: XentDivisors::nll_source"]
        [::core::mem::offset_of!(XentDivisors, nll_source) - 0usize];
    ["Offset of field: XentDivisors::smoothing_source"]
        [::core::mem::offset_of!(XentDivisors, smoothing_source) - 4usize];
    ["Offset of field: XentDivisors::z_loss_source"]
        [::core::mem::offset_of!(XentDivisors, z_loss_source) - 8usize];
    ["Offset of field: XentDivisors::empty_is_zero"]
        [::core::mem::offset_of!(XentDivisors, empty_is_zero) - 12usize];
    ["Offset of field: XentDivisors::given"]
        [::core::mem::offset_of!(XentDivisors, given) - 16usize];
    ["Offset of field: XentDivisors::term_weights"]
        [::core::mem::offset_of!(XentDivisors, term_weights) - 28usize];
};
/// What follows from the losses of single rows, in an order that depends on `rows` alone.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentRowSums {
    /// One element or null: the sum of all shares.
    pub loss: *mut f32,
    /// One element or null: rows whose largest logit is the target's.
    pub correct: *mut i64,
    /// \[rows\]: each row's part of the loss on its way (ordered_sum.cuh); used if `loss` is not null, 0 between
    /// launches.
    pub row_shares: *mut u32,
    /// \[ceil(rows / XENT_CHUNK_ROWS)\]: the same of sums over chunks.
    pub chunk_sums: *mut u32,
    /// \[ceil(rows / XENT_CHUNK_ROWS)\]: rows of each chunk that are done; 0 between launches.
    pub chunk_tickets: *mut u32,
    /// Status and tickets.
    pub workspace: *mut XentWorkspace,
    /// At least 1.
    pub rows: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentRowSums"][::core::mem::size_of::<XentRowSums>() - 56usize];
    ["Alignment of XentRowSums"][::core::mem::align_of::<XentRowSums>() - 8usize];
    ["Offset of field: XentRowSums::loss"][::core::mem::offset_of!(XentRowSums, loss) - 0usize];
    ["Offset of field: XentRowSums::correct"]
        [::core::mem::offset_of!(XentRowSums, correct) - 8usize];
    ["Offset of field: XentRowSums::row_shares"]
        [::core::mem::offset_of!(XentRowSums, row_shares) - 16usize];
    ["Offset of field: XentRowSums::chunk_sums"]
        [::core::mem::offset_of!(XentRowSums, chunk_sums) - 24usize];
    ["Offset of field: XentRowSums::chunk_tickets"]
        [::core::mem::offset_of!(XentRowSums, chunk_tickets) - 32usize];
    ["Offset of field: XentRowSums::workspace"]
        [::core::mem::offset_of!(XentRowSums, workspace) - 40usize];
    ["Offset of field: XentRowSums::rows"][::core::mem::offset_of!(XentRowSums, rows) - 48usize];
};
/// Argument of `xent_normalizer`.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentNormalizer {
    /// The targets to count.
    pub targets: XentTargets,
    /// \[classes\] or null for 1.
    pub class_weights: *const f32,
    /// \[ceil(rows / XENT_NORMALIZER_ROWS)\]: sums over as many rows each on their way (ordered_sum.cuh); 0 between
    /// launches.
    pub chunk_sums: *mut u32,
    /// Tickets.
    pub workspace: *mut XentWorkspace,
    /// Where the result goes.
    pub divided: *mut XentDivided,
    /// Number of targets, at least 1.
    pub rows: u64,
    /// What to find.
    pub divisors: XentDivisors,
    /// In 1..=XENT_MAX_CLASSES.
    pub classes: u32,
    /// Keeps the size a multiple of 8; 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentNormalizer"][::core::mem::size_of::<XentNormalizer>() - 120usize];
    ["Alignment of XentNormalizer"][::core::mem::align_of::<XentNormalizer>() - 8usize];
    ["Offset of field: XentNormalizer::targets"]
        [::core::mem::offset_of!(XentNormalizer, targets) - 0usize];
    ["Offset of field: XentNormalizer::class_weights"]
        [::core::mem::offset_of!(XentNormalizer, class_weights) - 32usize];
    ["Offset of field: XentNormalizer::chunk_sums"]
        [::core::mem::offset_of!(XentNormalizer, chunk_sums) - 40usize];
    ["Offset of field: XentNormalizer::workspace"]
        [::core::mem::offset_of!(XentNormalizer, workspace) - 48usize];
    ["Offset of field: XentNormalizer::divided"]
        [::core::mem::offset_of!(XentNormalizer, divided) - 56usize];
    ["Offset of field: XentNormalizer::rows"]
        [::core::mem::offset_of!(XentNormalizer, rows) - 64usize];
    ["Offset of field: XentNormalizer::divisors"]
        [::core::mem::offset_of!(XentNormalizer, divisors) - 72usize];
    ["Offset of field: XentNormalizer::classes"]
        [::core::mem::offset_of!(XentNormalizer, classes) - 112usize];
    ["Offset of field: XentNormalizer::reserved"]
        [::core::mem::offset_of!(XentNormalizer, reserved) - 116usize];
};
/// Argument of `xent_fused_*`: per row i of `logits` x, with z = s tanh(t x / s) or t x,
/// lse = log sum_k exp(z_k), p = softmax(z), target y and weights u, v of the classes,
///
/// ```text
/// loss_i = a u_y (-log p_y) / D1 + b sum_k v_k (-log p_k) / D2 + L lse^2 / D3
/// gradient_i[k] = g_i dloss_i / dx_k
/// ```
///
/// with a, b, L = term_weights and g_i the upstream gradient; or, for target probabilities q,
///
/// ```text
/// loss_i = sum_k (a u_k q_k + b v_k) (-log p_k) / D1 + L lse^2 / D3.
/// ```
///
/// Any output may be left out. With `saved` the logits are read once, for the gradient alone.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentFused {
    /// \[rows, classes\] in the kernel's dtype; row i starts at element i * logits_row_stride.
    pub logits: *const ::core::ffi::c_void,
    /// \[rows, classes\] in the kernel's dtype, or null; row i starts at element
    /// i * gradient_row_stride. May be `logits`, with the same stride.
    pub gradient: *mut ::core::ffi::c_void,
    /// Class indices, or probabilities, as the kernel's name says.
    pub targets: XentTargets,
    /// u: \[classes\] or null for 1.
    pub nll_weights: *const f32,
    /// v: \[classes\] or null for 1.
    pub smoothing_weights: *const f32,
    /// g_i is upstream\[i * upstream_stride\]; null means 1.
    pub upstream: *const f32,
    /// \[rows\] or null: the terms of each row, not divided.
    pub row_losses: *mut f32,
    /// \[rows\] or null: logsumexp of each row; 0 for ignored rows, NaN for bad targets.
    pub row_lse: *mut f32,
    /// \[rows\] or null: the class of the largest value, the lowest of several; of NaN if there is one;
    /// -1 for ignored rows and bad targets.
    pub row_argmax: *mut i64,
    /// Scalar loss and correct predictions.
    pub sums: XentRowSums,
    /// \[rows\] or null: where to save what the backward pass needs.
    pub save: *mut XentSavedRow,
    /// \[rows\] or null: what the forward pass saved.
    pub saved: *const XentSavedRow,
    /// split_row: \[rows, slices\] partial results; used without `saved`.
    pub partials: *mut XentPartial,
    /// XENT_DIVIDED_DEVICE: what the normalizer kernel found.
    pub device_divided: *const XentDivided,
    /// XENT_DIVIDED_HERE: where the first row's team leaves what it found, or null.
    pub save_divided: *mut XentDivided,
    /// At least `classes`.
    pub logits_row_stride: u64,
    /// At least `classes`.
    pub gradient_row_stride: u64,
    /// 0 or 1.
    pub upstream_stride: u64,
    /// In 1..=XENT_MAX_CLASSES.
    pub classes: u32,
    /// An `XentPhase`.
    pub phase: u32,
    /// An `XentDividedSource`.
    pub divided_source: u32,
    /// XENT_DIVIDED_HERE: what to find; `nll_weights` are the weights of the targets.
    pub divisors: XentDivisors,
    /// a, b, L.
    pub term_weights: XentTerms,
    /// XENT_DIVIDED_HOST.
    pub divided: XentDivided,
    /// How rows are cut.
    pub geometry: XentGeometry,
    /// From stored logits to z.
    pub transform: XentTransform,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentFused"][::core::mem::size_of::<XentFused>() - 352usize];
    ["Alignment of XentFused"][::core::mem::align_of::<XentFused>() - 8usize];
    ["Offset of field: XentFused::logits"][::core::mem::offset_of!(XentFused, logits) - 0usize];
    ["Offset of field: XentFused::gradient"][::core::mem::offset_of!(XentFused, gradient) - 8usize];
    ["Offset of field: XentFused::targets"][::core::mem::offset_of!(XentFused, targets) - 16usize];
    ["Offset of field: XentFused::nll_weights"]
        [::core::mem::offset_of!(XentFused, nll_weights) - 48usize];
    ["Offset of field: XentFused::smoothing_weights"]
        [::core::mem::offset_of!(XentFused, smoothing_weights) - 56usize];
    ["Offset of field: XentFused::upstream"]
        [::core::mem::offset_of!(XentFused, upstream) - 64usize];
    ["Offset of field: XentFused::row_losses"]
        [::core::mem::offset_of!(XentFused, row_losses) - 72usize];
    ["Offset of field: XentFused::row_lse"][::core::mem::offset_of!(XentFused, row_lse) - 80usize];
    ["Offset of field: XentFused::row_argmax"]
        [::core::mem::offset_of!(XentFused, row_argmax) - 88usize];
    ["Offset of field: XentFused::sums"][::core::mem::offset_of!(XentFused, sums) - 96usize];
    ["Offset of field: XentFused::save"][::core::mem::offset_of!(XentFused, save) - 152usize];
    ["Offset of field: XentFused::saved"][::core::mem::offset_of!(XentFused, saved) - 160usize];
    ["Offset of field: XentFused::partials"]
        [::core::mem::offset_of!(XentFused, partials) - 168usize];
    ["Offset of field: XentFused::device_divided"]
        [::core::mem::offset_of!(XentFused, device_divided) - 176usize];
    ["Offset of field: XentFused::save_divided"]
        [::core::mem::offset_of!(XentFused, save_divided) - 184usize];
    ["Offset of field: XentFused::logits_row_stride"]
        [::core::mem::offset_of!(XentFused, logits_row_stride) - 192usize];
    ["Offset of field: XentFused::gradient_row_stride"]
        [::core::mem::offset_of!(XentFused, gradient_row_stride) - 200usize];
    ["Offset of field: XentFused::upstream_stride"]
        [::core::mem::offset_of!(XentFused, upstream_stride) - 208usize];
    ["Offset of field: XentFused::classes"][::core::mem::offset_of!(XentFused, classes) - 216usize];
    ["Offset of field: XentFused::phase"][::core::mem::offset_of!(XentFused, phase) - 220usize];
    ["Offset of field: XentFused::divided_source"]
        [::core::mem::offset_of!(XentFused, divided_source) - 224usize];
    ["Offset of field: XentFused::divisors"]
        [::core::mem::offset_of!(XentFused, divisors) - 228usize];
    ["Offset of field: XentFused::term_weights"]
        [::core::mem::offset_of!(XentFused, term_weights) - 268usize];
    ["Offset of field: XentFused::divided"][::core::mem::offset_of!(XentFused, divided) - 280usize];
    ["Offset of field: XentFused::geometry"]
        [::core::mem::offset_of!(XentFused, geometry) - 304usize];
    ["Offset of field: XentFused::transform"]
        [::core::mem::offset_of!(XentFused, transform) - 328usize];
};
/// x_k - lse.
pub const XENT_LOG_PROBABILITIES: XentSoftmaxOutput = 0;
/// exp(x_k - lse).
pub const XENT_PROBABILITIES: XentSoftmaxOutput = 1;
/// What `xent_log_softmax_*` writes.
pub type XentSoftmaxOutput = ::core::ffi::c_uint;
/// Argument of `xent_log_softmax_<strategy>_*`: per row of `logits` x, log softmax(x) or softmax(x).
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentLogSoftmax {
    /// \[rows, classes\] in the kernel's dtype.
    pub logits: *const ::core::ffi::c_void,
    /// \[rows, classes\] in the kernel's dtype.
    pub output: *mut ::core::ffi::c_void,
    /// \[rows\] or null: logsumexp of each row.
    pub row_lse: *mut f32,
    /// \[rows\] or null: where to save what the backward pass needs.
    pub save: *mut XentSavedRow,
    /// At least 1.
    pub rows: u64,
    /// At least `classes`.
    pub logits_row_stride: u64,
    /// At least `classes`.
    pub output_row_stride: u64,
    /// In 1..=XENT_MAX_CLASSES.
    pub classes: u32,
    /// An `XentSoftmaxOutput`.
    pub what: u32,
    /// How rows are cut.
    pub geometry: XentGeometry,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentLogSoftmax"][::core::mem::size_of::<XentLogSoftmax>() - 88usize];
    ["Alignment of XentLogSoftmax"][::core::mem::align_of::<XentLogSoftmax>() - 8usize];
    ["Offset of field: XentLogSoftmax::logits"]
        [::core::mem::offset_of!(XentLogSoftmax, logits) - 0usize];
    ["Offset of field: XentLogSoftmax::output"]
        [::core::mem::offset_of!(XentLogSoftmax, output) - 8usize];
    ["Offset of field: XentLogSoftmax::row_lse"]
        [::core::mem::offset_of!(XentLogSoftmax, row_lse) - 16usize];
    ["Offset of field: XentLogSoftmax::save"]
        [::core::mem::offset_of!(XentLogSoftmax, save) - 24usize];
    ["Offset of field: XentLogSoftmax::rows"]
        [::core::mem::offset_of!(XentLogSoftmax, rows) - 32usize];
    ["Offset of field: XentLogSoftmax::logits_row_stride"]
        [::core::mem::offset_of!(XentLogSoftmax, logits_row_stride) - 40usize];
    ["Offset of field: XentLogSoftmax::output_row_stride"]
        [::core::mem::offset_of!(XentLogSoftmax, output_row_stride) - 48usize];
    ["Offset of field: XentLogSoftmax::classes"]
        [::core::mem::offset_of!(XentLogSoftmax, classes) - 56usize];
    ["Offset of field: XentLogSoftmax::what"]
        [::core::mem::offset_of!(XentLogSoftmax, what) - 60usize];
    ["Offset of field: XentLogSoftmax::geometry"]
        [::core::mem::offset_of!(XentLogSoftmax, geometry) - 64usize];
};
/// Argument of `xent_log_softmax_backward_<strategy>_*`: per row, with p_k = exp(values_k - lse),
///
/// ```text
/// gradient[k] = upstream[k] - p_k sum_j upstream[j].
/// ```
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentLogSoftmaxBackward {
    /// \[rows, classes\] in the kernel's dtype: the logits, or log-probabilities, whose lse is 0.
    pub values: *const ::core::ffi::c_void,
    /// \[rows, classes\] in the kernel's dtype.
    pub upstream: *const ::core::ffi::c_void,
    /// \[rows, classes\] in the kernel's dtype.
    pub gradient: *mut ::core::ffi::c_void,
    /// \[rows\]: what the forward pass saved; null for log-probabilities.
    pub saved: *const XentSavedRow,
    /// At least 1.
    pub rows: u64,
    /// At least `classes`.
    pub values_row_stride: u64,
    /// At least `classes`.
    pub upstream_row_stride: u64,
    /// At least `classes`.
    pub gradient_row_stride: u64,
    /// In 1..=XENT_MAX_CLASSES.
    pub classes: u32,
    /// Keeps the size a multiple of 8; 0.
    pub reserved: u32,
    /// How rows of `upstream` are cut.
    pub geometry: XentGeometry,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentLogSoftmaxBackward"][::core::mem::size_of::<XentLogSoftmaxBackward>() - 96usize];
    ["Alignment of XentLogSoftmaxBackward"]
        [::core::mem::align_of::<XentLogSoftmaxBackward>() - 8usize];
    ["Offset of field: XentLogSoftmaxBackward::values"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, values) - 0usize];
    ["Offset of field: XentLogSoftmaxBackward::upstream"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, upstream) - 8usize];
    ["Offset of field: XentLogSoftmaxBackward::gradient"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, gradient) - 16usize];
    ["Offset of field: XentLogSoftmaxBackward::saved"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, saved) - 24usize];
    ["Offset of field: XentLogSoftmaxBackward::rows"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, rows) - 32usize];
    ["Offset of field: XentLogSoftmaxBackward::values_row_stride"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, values_row_stride) - 40usize];
    ["Offset of field: XentLogSoftmaxBackward::upstream_row_stride"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, upstream_row_stride) - 48usize];
    ["Offset of field: XentLogSoftmaxBackward::gradient_row_stride"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, gradient_row_stride) - 56usize];
    ["Offset of field: XentLogSoftmaxBackward::classes"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, classes) - 64usize];
    ["Offset of field: XentLogSoftmaxBackward::reserved"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, reserved) - 68usize];
    ["Offset of field: XentLogSoftmaxBackward::geometry"]
        [::core::mem::offset_of!(XentLogSoftmaxBackward, geometry) - 72usize];
};
/// Argument of `xent_binary_<strategy>_*`: per row i of `logits` x, with targets q in 0..1, class weights w
/// and positive weights r,
///
/// ```text
/// t_k = on q_k + off
/// loss_i = sum_k w_k (r_k t_k softplus(-x_k) + (1 - t_k) softplus(x_k)) / D
/// gradient_i[k] = g_i dloss_i / dx_k
/// ```
///
/// where q_k is \[k = y\] for class indices y.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentBinary {
    /// \[rows, classes\] in the kernel's dtype.
    pub logits: *const ::core::ffi::c_void,
    /// \[rows, classes\] in the kernel's dtype, or null. May be `logits`, with the same stride.
    pub gradient: *mut ::core::ffi::c_void,
    /// Class indices, or probabilities.
    pub targets: XentTargets,
    /// w: \[classes\] or null for 1.
    pub class_weights: *const f32,
    /// r: \[classes\] or null for 1.
    pub positive_weights: *const f32,
    /// g_i is upstream\[i * upstream_stride\]; null means 1.
    pub upstream: *const f32,
    /// \[rows\] or null: the loss of each row, times `over_classes` and not divided by D.
    pub row_losses: *mut f32,
    /// The scalar loss; `correct` is not used.
    pub sums: XentRowSums,
    /// 1 / D of the nll term, or null where the host knew it.
    pub device_divided: *const XentDivided,
    /// At least `classes`.
    pub logits_row_stride: u64,
    /// At least `classes`.
    pub gradient_row_stride: u64,
    /// 0 or 1.
    pub upstream_stride: u64,
    /// In 1..=XENT_MAX_CLASSES.
    pub classes: u32,
    /// What a target keeps.
    pub on: f32,
    /// What every class gets.
    pub off: f32,
    /// 1 - on - off.
    pub rest: f32,
    /// What multiplies the sum over classes: 1, or 1 / classes.
    pub over_classes: f32,
    /// 1 / D where `device_divided` is null.
    pub inverse_divisor: f32,
    /// How rows are cut.
    pub geometry: XentGeometry,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentBinary"][::core::mem::size_of::<XentBinary>() - 216usize];
    ["Alignment of XentBinary"][::core::mem::align_of::<XentBinary>() - 8usize];
    ["Offset of field: XentBinary::logits"][::core::mem::offset_of!(XentBinary, logits) - 0usize];
    ["Offset of field: XentBinary::gradient"]
        [::core::mem::offset_of!(XentBinary, gradient) - 8usize];
    ["Offset of field: XentBinary::targets"]
        [::core::mem::offset_of!(XentBinary, targets) - 16usize];
    ["Offset of field: XentBinary::class_weights"]
        [::core::mem::offset_of!(XentBinary, class_weights) - 48usize];
    ["Offset of field: XentBinary::positive_weights"]
        [::core::mem::offset_of!(XentBinary, positive_weights) - 56usize];
    ["Offset of field: XentBinary::upstream"]
        [::core::mem::offset_of!(XentBinary, upstream) - 64usize];
    ["Offset of field: XentBinary::row_losses"]
        [::core::mem::offset_of!(XentBinary, row_losses) - 72usize];
    ["Offset of field: XentBinary::sums"][::core::mem::offset_of!(XentBinary, sums) - 80usize];
    ["Offset of field: XentBinary::device_divided"]
        [::core::mem::offset_of!(XentBinary, device_divided) - 136usize];
    ["Offset of field: XentBinary::logits_row_stride"]
        [::core::mem::offset_of!(XentBinary, logits_row_stride) - 144usize];
    ["Offset of field: XentBinary::gradient_row_stride"]
        [::core::mem::offset_of!(XentBinary, gradient_row_stride) - 152usize];
    ["Offset of field: XentBinary::upstream_stride"]
        [::core::mem::offset_of!(XentBinary, upstream_stride) - 160usize];
    ["Offset of field: XentBinary::classes"]
        [::core::mem::offset_of!(XentBinary, classes) - 168usize];
    ["Offset of field: XentBinary::on"][::core::mem::offset_of!(XentBinary, on) - 172usize];
    ["Offset of field: XentBinary::off"][::core::mem::offset_of!(XentBinary, off) - 176usize];
    ["Offset of field: XentBinary::rest"][::core::mem::offset_of!(XentBinary, rest) - 180usize];
    ["Offset of field: XentBinary::over_classes"]
        [::core::mem::offset_of!(XentBinary, over_classes) - 184usize];
    ["Offset of field: XentBinary::inverse_divisor"]
        [::core::mem::offset_of!(XentBinary, inverse_divisor) - 188usize];
    ["Offset of field: XentBinary::geometry"]
        [::core::mem::offset_of!(XentBinary, geometry) - 192usize];
};
