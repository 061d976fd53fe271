//! Parameters, limits and status records shared with the kernels.
//!
//! Generated from `kernels/abi.h`; do not edit. `cargo xtask codegen` writes it anew.

/// Width of one vector access to logits or gradients.
pub const XENT_PACK_BYTES: u32 = 16;
/// Largest number of classes: positions within a row are 32-bit in the kernels.
pub const XENT_MAX_CLASSES: u32 = 1073741824;
/// Largest block that the kernels are compiled for.
pub const XENT_MAX_THREADS: u32 = 1024;
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
    /// What the normalizer kernel found: 1 / counted rows.
    pub inverse_normalizer: f32,
    /// Keeps the size a multiple of 8; 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentWorkspace"][::core::mem::size_of::<XentWorkspace>() - 64usize];
    ["Alignment of XentWorkspace"][::core::mem::align_of::<XentWorkspace>() - 8usize];
    ["Offset of field: XentWorkspace::status"]
        [::core::mem::offset_of!(XentWorkspace, status) - 0usize];
    ["Offset of field: XentWorkspace::counted_rows"]
        [::core::mem::offset_of!(XentWorkspace, counted_rows) - 40usize];
    ["Offset of field: XentWorkspace::normalizer_ticket"]
        [::core::mem::offset_of!(XentWorkspace, normalizer_ticket) - 48usize];
    ["Offset of field: XentWorkspace::loss_ticket"]
        [::core::mem::offset_of!(XentWorkspace, loss_ticket) - 52usize];
    ["Offset of field: XentWorkspace::inverse_normalizer"]
        [::core::mem::offset_of!(XentWorkspace, inverse_normalizer) - 56usize];
    ["Offset of field: XentWorkspace::reserved"]
        [::core::mem::offset_of!(XentWorkspace, reserved) - 60usize];
};
/// Argument of `xent_normalizer`.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentNormalizer {
    /// The targets to count.
    pub targets: XentTargets,
    /// Number of targets, at least 1.
    pub rows: u64,
    /// Where the result goes.
    pub workspace: *mut XentWorkspace,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentNormalizer"][::core::mem::size_of::<XentNormalizer>() - 40usize];
    ["Alignment of XentNormalizer"][::core::mem::align_of::<XentNormalizer>() - 8usize];
    ["Offset of field: XentNormalizer::targets"]
        [::core::mem::offset_of!(XentNormalizer, targets) - 0usize];
    ["Offset of field: XentNormalizer::rows"]
        [::core::mem::offset_of!(XentNormalizer, rows) - 24usize];
    ["Offset of field: XentNormalizer::workspace"]
        [::core::mem::offset_of!(XentNormalizer, workspace) - 32usize];
};
/// Argument of `xent_fused_*`: per row i of `logits`, with p = softmax(row) and y its target,
///
/// ```text
/// loss_i = nll_weight * -log p_y + smoothing_weight * sum_k -log p_k
/// gradient_i[k] = g_i * n * ((nll_weight + classes * smoothing_weight) * p_k
///                            - smoothing_weight - nll_weight * [k = y])
/// ```
///
/// with g_i the upstream gradient and n the inverse normalizer.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct XentFused {
    /// \[rows, classes\] in the kernel's dtype; row i starts at element i * logits_row_stride.
    pub logits: *const ::core::ffi::c_void,
    /// \[rows, classes\] in the kernel's dtype; row i starts at element i * gradient_row_stride.
    pub gradient: *mut ::core::ffi::c_void,
    /// \[rows\] class indices.
    pub targets: XentTargets,
    /// g_i is upstream\[i * upstream_stride\]; null means 1.
    pub upstream: *const f32,
    /// \[rows\], never null: loss_i.
    pub row_losses: *mut f32,
    /// \[rows\] or null: logsumexp of each row; 0 for ignored rows, NaN for bad targets.
    pub row_lse: *mut f32,
    /// One element or null: n * sum_i loss_i, summed in an order that depends on `rows` alone.
    pub loss: *mut f32,
    /// \[ceil(rows / XENT_CHUNK_ROWS)\]: n times the sum of each chunk; used if `loss` is not null.
    pub chunk_losses: *mut f32,
    /// \[ceil(rows / XENT_CHUNK_ROWS)\]: rows of each chunk that are done; 0 between launches.
    pub chunk_tickets: *mut u32,
    /// Status, tickets and the normalizer.
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
    /// Weight of -log p_y.
    pub nll_weight: f32,
    /// Weight of each -log p_k.
    pub smoothing_weight: f32,
    /// What all weights of a row sum to: nll_weight + classes * smoothing_weight.
    pub total_weight: f32,
    /// What the weights of the classes but y sum to: (classes - 1) * smoothing_weight.
    pub others_weight: f32,
    /// n, unless `device_normalizer`.
    pub inverse_normalizer: f32,
    /// 0 or 1: n is workspace->inverse_normalizer.
    pub device_normalizer: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of XentFused"][::core::mem::size_of::<XentFused>() - 160usize];
    ["Alignment of XentFused"][::core::mem::align_of::<XentFused>() - 8usize];
    ["Offset of field: XentFused::logits"][::core::mem::offset_of!(XentFused, logits) - 0usize];
    ["Offset of field: XentFused::gradient"][::core::mem::offset_of!(XentFused, gradient) - 8usize];
    ["Offset of field: XentFused::targets"][::core::mem::offset_of!(XentFused, targets) - 16usize];
    ["Offset of field: XentFused::upstream"]
        [::core::mem::offset_of!(XentFused, upstream) - 40usize];
    ["Offset of field: XentFused::row_losses"]
        [::core::mem::offset_of!(XentFused, row_losses) - 48usize];
    ["Offset of field: XentFused::row_lse"][::core::mem::offset_of!(XentFused, row_lse) - 56usize];
    ["Offset of field: XentFused::loss"][::core::mem::offset_of!(XentFused, loss) - 64usize];
    ["Offset of field: XentFused::chunk_losses"]
        [::core::mem::offset_of!(XentFused, chunk_losses) - 72usize];
    ["Offset of field: XentFused::chunk_tickets"]
        [::core::mem::offset_of!(XentFused, chunk_tickets) - 80usize];
    ["Offset of field: XentFused::workspace"]
        [::core::mem::offset_of!(XentFused, workspace) - 88usize];
    ["Offset of field: XentFused::rows"][::core::mem::offset_of!(XentFused, rows) - 96usize];
    ["Offset of field: XentFused::logits_row_stride"]
        [::core::mem::offset_of!(XentFused, logits_row_stride) - 104usize];
    ["Offset of field: XentFused::gradient_row_stride"]
        [::core::mem::offset_of!(XentFused, gradient_row_stride) - 112usize];
    ["Offset of field: XentFused::upstream_stride"]
        [::core::mem::offset_of!(XentFused, upstream_stride) - 120usize];
    ["Offset of field: XentFused::classes"][::core::mem::offset_of!(XentFused, classes) - 128usize];
    ["Offset of field: XentFused::cached_packs"]
        [::core::mem::offset_of!(XentFused, cached_packs) - 132usize];
    ["Offset of field: XentFused::nll_weight"]
        [::core::mem::offset_of!(XentFused, nll_weight) - 136usize];
    ["Offset of field: XentFused::smoothing_weight"]
        [::core::mem::offset_of!(XentFused, smoothing_weight) - 140usize];
    ["Offset of field: XentFused::total_weight"]
        [::core::mem::offset_of!(XentFused, total_weight) - 144usize];
    ["Offset of field: XentFused::others_weight"]
        [::core::mem::offset_of!(XentFused, others_weight) - 148usize];
    ["Offset of field: XentFused::inverse_normalizer"]
        [::core::mem::offset_of!(XentFused, inverse_normalizer) - 152usize];
    ["Offset of field: XentFused::device_normalizer"]
        [::core::mem::offset_of!(XentFused, device_normalizer) - 156usize];
};
