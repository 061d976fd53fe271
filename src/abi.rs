//! Parameters, limits and status records shared with the kernels.
//!
//! Generated from `kernels/abi.h`; do not edit. `cargo xtask codegen` writes it anew.

/// Width of one vector access to logits or gradients.
pub const XENT_PACK_BYTES: u32 = 16;
/// Largest number of classes: positions within a row are 32-bit in the kernels.
pub const XENT_MAX_CLASSES: u32 = 1073741824;
/// Largest block that the plain kernels are compiled for: 80 registers a thread; 72 would spill.
pub const XENT_MAX_THREADS: u32 = 768;
/// Largest block of the general kernels, which need more registers.
pub const XENT_MAX_GENERAL_THREADS: u32 = 512;
/// Static shared memory of a fused block kernel; the rest of the device's limit can hold the row.
pub const XENT_BLOCK_STATIC_SHARED_BYTES: u32 = 512;
/// Rows whose losses are summed together; part of the definition of the scalar loss's last bits.
pub const XENT_CHUNK_ROWS: u32 = 1024;
/// Threads of one block of the normalizer kernel.
pub const XENT_NORMALIZER_THREADS: u32 = 256;
/// `XentStatus.first_row` while no bad target has been seen.
pub const XENT_NO_ROW: u64 = 18446744073709551615;
pub const XENT_TARGET_I32: XentTargetType = 0;
pub const XENT_TARGET_U32: XentTargetType = 1;
pub const XENT_TARGET_I64: XentTargetType = 2;
/// Integer type of the class indices.
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
/// Class indices, and which of them are to be ignored.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentTargets {
    /// `rows` indices of type `index_type`.
    pub indices: *const ::core::ffi::c_void,
    /// Compared before any other use of a target; any value. Meaningful if `has_ignore_index`.
    pub ignore_index: i64,
    /// An `XentTargetType`.
    pub index_type: u32,
    /// 0 or 1.
    pub has_ignore_index: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentTargets"][::core::mem::size_of::<XentTargets>() - 24usize];
    ["Alignment of XentTargets"][::core::mem::align_of::<XentTargets>() - 8usize];
    ["Offset of field: XentTargets::indices"]
        [::core::mem::offset_of!(XentTargets, indices) - 0usize];
    ["Offset of field: XentTargets::ignore_index"]
        [::core::mem::offset_of!(XentTargets, ignore_index) - 8usize];
    ["Offset of field: XentTargets::index_type"]
        [::core::mem::offset_of!(XentTargets, index_type) - 16usize];
    ["Offset of field: XentTargets::has_ignore_index"]
        [::core::mem::offset_of!(XentTargets, has_ignore_index) - 20usize];
};
/// Targets outside \[0, classes) that kernels met since the host last took this record.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentStatus {
    /// How many.
    pub bad_targets: u64,
    /// The lowest row among them, or XENT_NO_ROW.
    pub first_row: u64,
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
    ["Offset of field: XentStatus::first_row"]
        [::core::mem::offset_of!(XentStatus, first_row) - 8usize];
    ["Offset of field: XentStatus::first_target"]
        [::core::mem::offset_of!(XentStatus, first_target) - 16usize];
    ["Offset of field: XentStatus::first_classes"]
        [::core::mem::offset_of!(XentStatus, first_classes) - 24usize];
    ["Offset of field: XentStatus::lock"][::core::mem::offset_of!(XentStatus, lock) - 32usize];
    ["Offset of field: XentStatus::reserved"]
        [::core::mem::offset_of!(XentStatus, reserved) - 36usize];
};
/// Head of the workspace. All zero but `status.first_row` before its first use.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentWorkspace {
    /// Sticky record of bad targets.
    pub status: XentStatus,
    /// Rows counted so far by the normalizer kernel; 0 between launches.
    pub counted_rows: u64,
    /// Blocks of the normalizer kernel that are done; 0 between launches.
    pub normalizer_ticket: u32,
    /// Chunks of rows whose losses are summed; 0 between launches.
    pub loss_ticket: u32,
    /// What the normalizer kernel found: 1 / D for each term.
    pub inverse_divisors: XentTerms,
    /// Keeps the size a multiple of 8; 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentWorkspace"][::core::mem::size_of::<XentWorkspace>() - 72usize];
    ["Alignment of XentWorkspace"][::core::mem::align_of::<XentWorkspace>() - 8usize];
    ["Offset of field: XentWorkspace::status"]
        [::core::mem::offset_of!(XentWorkspace, status) - 0usize];
    ["Offset of field: XentWorkspace::counted_rows"]
        [::core::mem::offset_of!(XentWorkspace, counted_rows) - 40usize];
    ["Offset of field: XentWorkspace::normalizer_ticket"]
        [::core::mem::offset_of!(XentWorkspace, normalizer_ticket) - 48usize];
    ["Offset of field: XentWorkspace::loss_ticket"]
        [::core::mem::offset_of!(XentWorkspace, loss_ticket) - 52usize];
    ["Offset of field: XentWorkspace::inverse_divisors"]
        [::core::mem::offset_of!(XentWorkspace, inverse_divisors) - 56usize];
    ["Offset of field: XentWorkspace::reserved"]
        [::core::mem::offset_of!(XentWorkspace, reserved) - 68usize];
};
/// Argument of `xent_normalizer`.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentNormalizer {
    /// The targets to count.
    pub targets: XentTargets,
    /// \[classes\] or null for 1.
    pub class_weights: *const f32,
    /// \[ceil(rows / XENT_CHUNK_ROWS)\]: sums over chunks.
    pub chunk_sums: *mut f32,
    /// Where the result goes.
    pub workspace: *mut XentWorkspace,
    /// Number of targets, at least 1.
    pub rows: u64,
    /// In 1..=XENT_MAX_CLASSES.
    pub classes: u32,
    /// 0 or 1: divisors of 0 have the reciprocal 0 instead of infinity.
    pub empty_is_zero: u32,
    /// 1 / D where its source is XENT_DIVISOR_GIVEN.
    pub given: XentTerms,
    /// An `XentDivisorSource` for the nll term.
    pub nll_source: u32,
    /// An `XentDivisorSource` for the smoothing term.
    pub smoothing_source: u32,
    /// An `XentDivisorSource` for the z-loss.
    pub z_loss_source: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentNormalizer"][::core::mem::size_of::<XentNormalizer>() - 88usize];
    ["Alignment of XentNormalizer"][::core::mem::align_of::<XentNormalizer>() - 8usize];
    ["Offset of field: XentNormalizer::targets"]
        [::core::mem::offset_of!(XentNormalizer, targets) - 0usize];
    ["Offset of field: XentNormalizer::class_weights"]
        [::core::mem::offset_of!(XentNormalizer, class_weights) - 24usize];
    ["Offset of field: XentNormalizer::chunk_sums"]
        [::core::mem::offset_of!(XentNormalizer, chunk_sums) - 32usize];
    ["Offset of field: XentNormalizer::workspace"]
        [::core::mem::offset_of!(XentNormalizer, workspace) - 40usize];
    ["Offset of field: XentNormalizer::rows"]
        [::core::mem::offset_of!(XentNormalizer, rows) - 48usize];
    ["Offset of field: XentNormalizer::classes"]
        [::core::mem::offset_of!(XentNormalizer, classes) - 56usize];
    ["Offset of field: XentNormalizer::empty_is_zero"]
        [::core::mem::offset_of!(XentNormalizer, empty_is_zero) - 60usize];
    ["Offset of field: XentNormalizer::given"]
        [::core::mem::offset_of!(XentNormalizer, given) - 64usize];
    ["Offset of field: XentNormalizer::nll_source"]
        [::core::mem::offset_of!(XentNormalizer, nll_source) - 76usize];
    ["Offset of field: XentNormalizer::smoothing_source"]
        [::core::mem::offset_of!(XentNormalizer, smoothing_source) - 80usize];
    ["Offset of field: XentNormalizer::z_loss_source"]
        [::core::mem::offset_of!(XentNormalizer, z_loss_source) - 84usize];
};
/// Argument of `xent_fused_*`: per row i of `logits` x, with z = s tanh(t x / s) or t x,
/// lse = log sum_k exp(z_k), p = softmax(z), target y and weights u, v of the classes,
///
/// ```text
/// loss_i = a u_y (-log p_y) / D1 + b sum_k v_k (-log p_k) / D2 + L lse^2 / D3
/// gradient_i[k] = g_i dloss_i / dx_k
/// ```
///
/// with a, b, L = term_weights and g_i the upstream gradient.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentFused {
    /// \[rows, classes\] in the kernel's dtype; row i starts at element i * logits_row_stride.
    pub logits: *const ::core::ffi::c_void,
    /// \[rows, classes\] in the kernel's dtype; row i starts at element i * gradient_row_stride. May
    /// be `logits`, with the same stride.
    pub gradient: *mut ::core::ffi::c_void,
    /// \[rows\] class indices.
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
    /// One element or null: sum_i loss_i, in an order that depends on `rows` alone.
    pub loss: *mut f32,
    /// \[rows\]: loss_i; used if `loss` is not null.
    pub row_shares: *mut f32,
    /// \[ceil(rows / XENT_CHUNK_ROWS)\]: sums over chunks; used if `loss` is not null.
    pub chunk_sums: *mut f32,
    /// \[ceil(rows / XENT_CHUNK_ROWS)\]: rows of each chunk that are done; 0 between launches.
    pub chunk_tickets: *mut u32,
    /// Status, tickets and the divisors.
    pub workspace: *mut XentWorkspace,
    /// At least 1.
    pub rows: u64,
    /// At least `classes`.
    pub logits_row_stride: u64,
    /// At least `classes`.
    pub gradient_row_stride: u64,
    /// 0 or 1.
    pub upstream_stride: u64,
    /// In 1..=XENT_MAX_CLASSES.
    pub classes: u32,
    /// Packs of a row's aligned body that fit the launch's dynamic shared memory.
    pub cached_packs: u32,
    /// a, b, L.
    pub term_weights: XentTerms,
    /// 1 / D1, 1 / D2, 1 / D3, unless `device_divisors`.
    pub inverse_divisors: XentTerms,
    /// From stored logits to z.
    pub transform: XentTransform,
    /// 0 or 1: the reciprocals are workspace->inverse_divisors.
    pub device_divisors: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentFused"][::core::mem::size_of::<XentFused>() - 208usize];
    ["Alignment of XentFused"][::core::mem::align_of::<XentFused>() - 8usize];
    ["Offset of field: XentFused::logits"][::core::mem::offset_of!(XentFused, logits) - 0usize];
    ["Offset of field: XentFused::gradient"][::core::mem::offset_of!(XentFused, gradient) - 8usize];
    ["Offset of field: XentFused::targets"][::core::mem::offset_of!(XentFused, targets) - 16usize];
    ["Offset of field: XentFused::nll_weights"]
        [::core::mem::offset_of!(XentFused, nll_weights) - 40usize];
    ["Offset of field: XentFused::smoothing_weights"]
        [::core::mem::offset_of!(XentFused, smoothing_weights) - 48usize];
    ["Offset of field: XentFused::upstream"]
        [::core::mem::offset_of!(XentFused, upstream) - 56usize];
    ["Offset of field: XentFused::row_losses"]
        [::core::mem::offset_of!(XentFused, row_losses) - 64usize];
    ["Offset of field: XentFused::row_lse"][::core::mem::offset_of!(XentFused, row_lse) - 72usize];
    ["Offset of field: XentFused::loss"][::core::mem::offset_of!(XentFused, loss) - 80usize];
    ["Offset of field: XentFused::row_shares"]
        [::core::mem::offset_of!(XentFused, row_shares) - 88usize];
    ["Offset of field: XentFused::chunk_sums"]
        [::core::mem::offset_of!(XentFused, chunk_sums) - 96usize];
    ["Offset of field: XentFused::chunk_tickets"]
        [::core::mem::offset_of!(XentFused, chunk_tickets) - 104usize];
    ["Offset of field: XentFused::workspace"]
        [::core::mem::offset_of!(XentFused, workspace) - 112usize];
    ["Offset of field: XentFused::rows"][::core::mem::offset_of!(XentFused, rows) - 120usize];
    ["Offset of field: XentFused::logits_row_stride"]
        [::core::mem::offset_of!(XentFused, logits_row_stride) - 128usize];
    ["Offset of field: XentFused::gradient_row_stride"]
        [::core::mem::offset_of!(XentFused, gradient_row_stride) - 136usize];
    ["Offset of field: XentFused::upstream_stride"]
        [::core::mem::offset_of!(XentFused, upstream_stride) - 144usize];
    ["Offset of field: XentFused::classes"][::core::mem::offset_of!(XentFused, classes) - 152usize];
    ["Offset of field: XentFused::cached_packs"]
        [::core::mem::offset_of!(XentFused, cached_packs) - 156usize];
    ["Offset of field: XentFused::term_weights"]
        [::core::mem::offset_of!(XentFused, term_weights) - 160usize];
    ["Offset of field: XentFused::inverse_divisors"]
        [::core::mem::offset_of!(XentFused, inverse_divisors) - 172usize];
    ["Offset of field: XentFused::transform"]
        [::core::mem::offset_of!(XentFused, transform) - 184usize];
    ["Offset of field: XentFused::device_divisors"]
        [::core::mem::offset_of!(XentFused, device_divisors) - 204usize];
};
