//! Everything that can go wrong, with the numbers that did.

use std::fmt;

use cudarc::driver::{DriverError, sys::CUresult};

use crate::config::{Smoothing, Strategy};

/// Why an operation was refused or failed.
///
/// Everything that the host can know is reported before anything is launched. What only the device
/// can see, a target that names no class, is recorded there and reported by
/// [`Workspace::take_status`](crate::Workspace::take_status).
/// `Debug` writes what `Display` does, since that is what a `main` that returns it prints, and `unwrap`.
#[derive(Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The CUDA driver library could not be loaded.
    #[error(
        "no CUDA driver: libcuda could not be loaded ({reason}). Install the NVIDIA driver; in a \
         container, start it with the GPU passed through"
    )]
    NoDriver {
        /// What the dynamic loader said.
        reason: String,
    },

    /// The driver works and sees no device.
    #[error("the CUDA driver sees no device; check nvidia-smi and CUDA_VISIBLE_DEVICES")]
    NoDevice,

    /// A device was asked for that is not there.
    #[error("device {ordinal} was asked for, but the driver sees {count} device(s)")]
    DeviceOrdinal {
        /// The device asked for, counted from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },

    /// The crate was built without its kernels.
    #[error(
        "smoothxent was built without kernels: {reason}. Run `cargo xtask toolchain` in its checkout, or \
         install the CUDA toolkit, or point NVCC at an nvcc; leave SMOOTHXENT_CUDA_ARCHS unset or name this \
         GPU in it; then build again"
    )]
    NoKernels {
        /// Why there are none.
        reason: &'static str,
    },

    /// The crate holds kernels, but none that this device can run.
    #[error(
        "no kernel image fits this device of compute capability {major}.{minor}: the build holds \
         {images}. Build again with SMOOTHXENT_CUDA_ARCHS={major}{minor} (or all, or native), or, if they \
         are for it, update the driver: it is older than the CUDA toolkit that compiled them"
    )]
    NoImage {
        /// Major compute capability of the device.
        major: u32,
        /// Minor compute capability of the device.
        minor: u32,
        /// The architectures that were compiled, comma-separated.
        images: &'static str,
    },

    /// A driver call failed.
    #[error(
        "the CUDA driver could not {action}: {code:?} (the failure may belong to work enqueued earlier)"
    )]
    Driver {
        /// What was being done.
        action: &'static str,
        /// The driver's error, such as `CUDA_ERROR_OUT_OF_MEMORY`.
        code: CUresult,
    },

    /// `label_smoothing` is NaN or outside 0..=1.
    #[error("label_smoothing is {value}, which is not within 0..=1")]
    LabelSmoothing {
        /// The value given.
        value: f64,
    },

    /// Smoothing over the other classes was asked for where there is no other class.
    #[error("smoothing over other classes needs {needed} classes or more; there are {classes}")]
    TooFewClasses {
        /// Over which classes.
        smoothing: Smoothing,
        /// Classes of the problem.
        classes: usize,
        /// The fewest that it needs.
        needed: usize,
    },

    /// Classes were left out of smoothing, and nothing says which.
    #[error(
        "smoothing leaves {excluded} class(es) out; say which by class weights of the smoothing term alone: 0 for those, \
         1 for the others"
    )]
    ExcludedClasses {
        /// How many.
        excluded: usize,
    },

    /// An option has a value that means nothing.
    #[error("{option} is {value}; it has to be {range}")]
    Option {
        /// Its name.
        option: &'static str,
        /// The value given.
        value: f64,
        /// What it has to be.
        range: &'static str,
    },

    /// The number of classes is zero or more than the kernels count.
    #[error("{classes} classes were given; a row has 1 to {max} of them")]
    Classes {
        /// The number given.
        classes: usize,
        /// The largest that is supported.
        max: usize,
    },

    /// Rows would overlap.
    #[error(
        "the row stride of the {buffer} is {row_stride} elements, less than its {classes} classes"
    )]
    RowStride {
        /// Which matrix.
        buffer: &'static str,
        /// The stride given, in elements.
        row_stride: usize,
        /// Classes of a row.
        classes: usize,
    },

    /// A gradient was to take the place of logits whose rows are apart by another stride.
    #[error(
        "in place, gradient and logits are one matrix, but their row strides are {gradient} and {logits} elements"
    )]
    InPlaceStrides {
        /// Stride of the logits.
        logits: usize,
        /// Stride of the gradient.
        gradient: usize,
    },

    /// Logits are said to be in the gradient's buffer where there is no gradient.
    #[error(
        "a forward pass writes no gradient, so it cannot be in place; give it logits in a buffer of their own"
    )]
    ForwardInPlace,

    /// A class weight is negative, infinite or NaN.
    #[error("the weight of class {class} is {value}; it has to be finite, and 0 or more")]
    ClassWeight {
        /// The first such class.
        class: usize,
        /// Its weight.
        value: f32,
    },

    /// Correct predictions were to be counted where targets are no classes.
    #[error(
        "correct predictions can be counted for class indices, not for target probabilities; ask for row_argmax"
    )]
    CorrectOfProbabilities,

    /// A backward pass was given what another problem's forward pass saved, or none.
    #[error(
        "the saved softmax holds {found}; this backward pass needs {expected}. Pass the types, sizes, options \
         and class weights of the forward call, and give that call `saved` (a fused call in place saves nothing)"
    )]
    SavedSoftmax {
        /// The problem whose forward pass saved it last.
        found: String,
        /// The problem of the call.
        expected: String,
    },

    /// A saved softmax is too small.
    #[error(
        "the saved softmax was made for {capacity} rows; the problem has {rows}. Make it once, for the most \
         rows of any call"
    )]
    SavedCapacity {
        /// Rows that it can hold.
        capacity: usize,
        /// Rows of the problem.
        rows: usize,
    },

    /// A strategy was pinned that cannot take the problem.
    #[error(
        "the strategy {strategy} was pinned, but {obstacle}; where it is preferred, not pinned, another takes what it cannot"
    )]
    Strategy {
        /// The strategy.
        strategy: Strategy,
        /// Why it cannot.
        obstacle: Obstacle,
    },

    /// A shape spans more elements than can be addressed.
    #[error(
        "{rows} rows with a stride of {row_stride} elements span more than this machine can address"
    )]
    Size {
        /// Rows given.
        rows: usize,
        /// Stride given, in elements.
        row_stride: usize,
    },

    /// A buffer is shorter than its shape says, or longer where it must match.
    #[error(
        "the {buffer} buffer holds {len} elements; the problem needs {needed} (exactly, if it is a vector: pass a view)"
    )]
    Length {
        /// Which buffer.
        buffer: &'static str,
        /// Elements it holds.
        len: usize,
        /// Elements it has to hold.
        needed: usize,
    },

    /// A buffer or stream was made with another [`CudaContext`](cudarc::driver::CudaContext).
    ///
    /// Two contexts that cudarc made for one device count as different: each orders only its own
    /// streams.
    #[error(
        "the {buffer} belongs to another CudaContext (of device {found}) than what it is used with (of device \
         {expected}); use one Arc<CudaContext> for kernels, streams and buffers"
    )]
    OtherContext {
        /// Which buffer, or `stream`.
        buffer: &'static str,
        /// Device ordinal of what it is used with: kernels, a workspace, or a stream.
        expected: usize,
        /// Its own device ordinal.
        found: usize,
    },

    /// Something that allocates was to be made on a stream that is being captured.
    #[error(
        "{what} cannot be made on a stream that is being captured: its memory would be the graph's. Make it before \
         the capture begins, or on another stream"
    )]
    Capturing {
        /// What was to be made.
        what: &'static str,
    },

    /// The status of a workspace was asked for on a stream that is being captured.
    #[error(
        "the status cannot be asked for on a stream that is being captured: that waits for the stream, which would end \
         the capture. Ask after the capture, or between replays of its graph"
    )]
    WaitInCapture,

    /// A workspace was asked for that no memory can hold.
    #[error("a workspace for {rows} rows is larger than memory can be")]
    WorkspaceSize {
        /// Rows asked for.
        rows: usize,
    },

    /// A buffer claims a length that no memory can hold: its size in bytes wrapped around when it was
    /// allocated, or memory of a caller's own leads beyond the last address.
    #[error(
        "the {buffer} buffer claims {len} elements (bytes, of raw memory): they lead beyond the last address"
    )]
    BufferSize {
        /// Which buffer.
        buffer: &'static str,
        /// Elements it claims; of raw memory, bytes.
        len: usize,
    },

    /// The workspace was made for fewer rows.
    #[error(
        "the workspace was made for {capacity} rows; the problem has {rows}. Make it once, for the most rows \
         of any call"
    )]
    Workspace {
        /// Rows that the workspace can serve.
        capacity: usize,
        /// Rows of the problem.
        rows: usize,
    },

    /// A raw address is null where there have to be elements.
    #[error("the address of the {buffer} is null")]
    Null {
        /// Which buffer.
        buffer: &'static str,
    },

    /// A raw address is none that an element can have.
    #[error("the address {address:#x} of the {buffer} is not a multiple of {alignment} bytes")]
    Alignment {
        /// Which buffer.
        buffer: &'static str,
        /// The address.
        address: u64,
        /// Bytes that it has to be a multiple of.
        alignment: usize,
    },

    /// A caller's own workspace, or memory for what a forward pass saves, is too small.
    #[error("the {buffer} has {bytes} bytes; the problem needs {needed}")]
    Memory {
        /// Which of them.
        buffer: &'static str,
        /// Bytes that it has.
        bytes: usize,
        /// Bytes that it has to have.
        needed: usize,
    },

    /// Two matrices that have to be apart were given one address.
    #[error(
        "the {written} would overwrite the {read}, whose address it has; a gradient in place of the \
         logits has to be asked for as such"
    )]
    SameAddress {
        /// What is read.
        read: &'static str,
        /// What is written.
        written: &'static str,
    },

    /// A scalar loss was asked for without a reduction that gives one.
    #[error(
        "a scalar loss was asked for of losses that are not reduced; ask for row_losses, or reduce by sum or mean"
    )]
    LossWithoutReduction,

    /// Targets were met on the device that are neither a class nor `ignore_index`.
    #[error(
        "{count} target(s) name no class: the first is {target} in row {row}, where targets are \
         within 0..{classes} or ignore_index. Those rows got a NaN loss and a zero gradient"
    )]
    BadTargets {
        /// How many rows since the last time the status was taken.
        count: u64,
        /// The lowest such row, counted within its call.
        row: u64,
        /// Its target.
        target: i64,
        /// Classes of its problem.
        classes: u64,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a strategy cannot take a problem on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// No kernel was written.
    #[error("the operation has no such kernel")]
    NoKernel,

    /// Tiny: the lanes of a row take a few classes each.
    #[error("a row has {classes} classes, and its lanes take {most} at most")]
    Classes {
        /// Classes of the problem.
        classes: u32,
        /// The most that it takes.
        most: u32,
    },

    /// Warp: the row is in registers.
    #[error("a row has up to {packs} packs of 16 bytes, and a warp holds {most} at most")]
    Packs {
        /// Packs of the problem's rows.
        packs: u32,
        /// The most that it holds.
        most: u32,
    },

    /// Block: the row is in shared memory.
    #[error("a row takes {bytes} bytes of shared memory, and a block has {most} for it")]
    SharedBytes {
        /// What a row takes.
        bytes: u64,
        /// What a block has.
        most: u32,
    },

    /// Two-pass: nothing could be read a second time.
    #[error("the pass goes over each row once")]
    OnePass,

    /// Cluster: the device cannot place one, or the kernels are for devices that cannot.
    #[error(
        "a cluster needs 2 blocks or more; of kernels for compute capability {major}.{minor} this device \
         places {largest} at most"
    )]
    Clusters {
        /// Major compute capability that the kernels were compiled for.
        major: u32,
        /// Minor compute capability that the kernels were compiled for.
        minor: u32,
        /// The most blocks of a cluster.
        largest: u32,
    },

    /// Split-row: a block would overwrite the target's logit before others have read it.
    #[error("split_row has no pass for a gradient alone in place of the logits")]
    InPlace,

    /// Split-row: the workspace has room for the partial results of so many rows.
    #[error("there are {rows} rows, and a workspace holds the partial results of {most} at most")]
    Rows {
        /// Rows of the problem.
        rows: usize,
        /// The most that it takes.
        most: u32,
    },
}

impl Error {
    /// `DriverError`'s own `Display` asks the driver for a text, which panics while none is
    /// loaded; the code's name needs no driver.
    pub(crate) fn driver(action: &'static str) -> impl FnOnce(DriverError) -> Self {
        move |DriverError(code)| Self::from_code(action, code)
    }

    pub(crate) fn from_code(action: &'static str, code: CUresult) -> Self {
        Self::Driver { action, code }
    }
}
