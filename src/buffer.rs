//! Device memory that kernels may touch: sealed traits over cudarc's buffers, the workspace, class
//! weights, and what is saved between passes.
//!
//! The traits are sealed because cudarc's own `DevicePtr` is a safe trait that any type can
//! implement with any address; a safe launch can only trust buffers that cudarc allocated.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut,
    DeviceSlice, SyncOnDrop, sys::CUdeviceptr,
};
use half::{bf16, f16};

use crate::{
    abi, capture,
    device::same_context,
    error::Error,
    plan::WorkspaceLayout,
    problem::{ClassWeighting, Dtype, SoftmaxOf, TargetType},
    raw::{self, Memory, SavedAddresses, WorkspaceAddresses, saved_words},
    reclaim::{ContextFence, Owned},
};

mod sealed {
    use super::{Arc, CUdeviceptr, CudaContext, CudaStream, SyncOnDrop};

    pub trait Read {
        fn elements(&self) -> usize;
        /// Whether the elements can be as many as they claim: cudarc multiplies by their size
        /// unchecked when it allocates.
        fn is_addressable(&self) -> bool;
        fn context(&self) -> &Arc<CudaContext>;
        /// Makes `stream` wait for writers; the guard tells later writers to wait for `stream`.
        fn read<'a>(&'a self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>);
    }

    pub trait Write: Read {
        /// Makes `stream` wait for readers and writers; the guard tells later users to wait.
        fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>);
    }

    pub trait Element {}
}

/// A device buffer of `T` to read: `CudaSlice<T>`, `CudaView<T>` or `CudaViewMut<T>`.
pub trait DeviceRead<T>: sealed::Read {}

/// A device buffer of `T` to write: `CudaSlice<T>` or `CudaViewMut<T>`.
pub trait DeviceWrite<T>: DeviceRead<T> + sealed::Write {}

macro_rules! readable {
    ($buffer:ty) => {
        impl<T> sealed::Read for $buffer {
            fn elements(&self) -> usize {
                DeviceSlice::len(self)
            }
            fn is_addressable(&self) -> bool {
                DeviceSlice::len(self)
                    .checked_mul(size_of::<T>())
                    .is_some_and(|bytes| bytes <= isize::MAX as usize)
            }
            fn context(&self) -> &Arc<CudaContext> {
                DeviceSlice::stream(self).context()
            }
            fn read<'a>(&'a self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
                self.device_ptr(stream)
            }
        }
        impl<T> DeviceRead<T> for $buffer {}
    };
}

macro_rules! writable {
    ($buffer:ty) => {
        impl<T> sealed::Write for $buffer {
            fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
                self.device_ptr_mut(stream)
            }
        }
        impl<T> DeviceWrite<T> for $buffer {}
    };
}

readable!(CudaSlice<T>);
readable!(CudaView<'_, T>);
readable!(CudaViewMut<'_, T>);
writable!(CudaSlice<T>);
writable!(CudaViewMut<'_, T>);

/// Element type of logits and gradient: `f32`, [`half::f16`] or [`half::bf16`].
pub trait Logit: sealed::Element {
    /// The same as a value.
    const DTYPE: Dtype;
}

/// Element type of targets: `i32`, `u32` or `i64` for class indices, `f32`, [`half::f16`] or
/// [`half::bf16`] for probabilities.
pub trait Target: sealed::Element {
    /// The same as a value.
    const TYPE: TargetType;
}

macro_rules! elements {
    ($($element:ty),*) => {$( impl sealed::Element for $element {} )*};
}

macro_rules! constants {
    ($trait:ident, $constant:ident: $kind:ty, $($element:ty => $value:expr),*) => {$(
        impl $trait for $element {
            const $constant: $kind = $value;
        }
    )*};
}

elements!(f32, f16, bf16, i32, u32, i64);
constants!(Logit, DTYPE: Dtype, f32 => Dtype::F32, f16 => Dtype::F16, bf16 => Dtype::Bf16);
constants!(Target, TYPE: TargetType,
    i32 => TargetType::I32, u32 => TargetType::U32, i64 => TargetType::I64,
    f32 => TargetType::Probabilities(Dtype::F32), f16 => TargetType::Probabilities(Dtype::F16),
    bf16 => TargetType::Probabilities(Dtype::Bf16));

/// The address of a buffer that was checked, and the guard to keep until the launch is enqueued.
pub(crate) type Guarded<'a> = (CUdeviceptr, SyncOnDrop<'a>);

/// Checks of a buffer against what a problem needs of it.
#[derive(Clone, Copy)]
pub(crate) struct Requirement<'a> {
    pub name: &'static str,
    pub context: &'a Arc<CudaContext>,
    pub needed: usize,
}

impl Requirement<'_> {
    fn check<B: sealed::Read + ?Sized>(&self, buffer: &B, fits: bool) -> Result<(), Error> {
        same_context(self.name, self.context, buffer.context())?;
        if !buffer.is_addressable() {
            return Err(Error::BufferSize { buffer: self.name, len: buffer.elements() });
        }
        if fits {
            Ok(())
        } else {
            Err(Error::Length { buffer: self.name, len: buffer.elements(), needed: self.needed })
        }
    }

    /// At least as long as needed: matrices may end in padding.
    pub fn at_least<B: sealed::Read + ?Sized>(&self, buffer: &B) -> Result<(), Error> {
        self.check(buffer, buffer.elements() >= self.needed)
    }

    /// Exactly as long as needed: anything else is a mix-up of rows.
    pub fn exactly<B: sealed::Read + ?Sized>(&self, buffer: &B) -> Result<(), Error> {
        self.check(buffer, buffer.elements() == self.needed)
    }
}

/// Refuses to allocate in a capture, where memory belongs to the graph, and a copy would read the host's memory again
/// at each replay.
fn not_captured(what: &'static str, stream: &CudaStream) -> Result<(), Error> {
    if is_captured(stream)? { Err(Error::Capturing { what }) } else { Ok(()) }
}

fn is_captured(stream: &CudaStream) -> Result<bool, Error> {
    stream
        .context()
        .bind_to_thread()
        // SAFETY: the stream's context is current.
        .and_then(|()| unsafe { capture::is_captured(stream.cu_stream()) })
        .map_err(Error::driver("ask whether a stream is captured"))
}

/// Device memory that the kernels need between and during calls; made once and reused.
///
/// It serves problems of up to [`capacity`](Self::capacity) rows of any number of classes and any
/// dtype: `32,864 + 4 * rows + 8 * ceil(rows / 512)` bytes. It also holds the sticky record of bad
/// targets. One workspace serves one call at a time; calls that share it are ordered by `&mut`, and
/// on the device by the streams and cudarc's events. Dropped while its stream is being captured it is leaked; so it is if
/// that is the default stream, beside the capture of a stream that waits for it.
#[derive(Debug)]
pub struct Workspace {
    words: Owned<u32>,
    layout: WorkspaceLayout,
}

impl Workspace {
    /// Allocates on `stream`, for problems of up to `rows` rows.
    ///
    /// # Errors
    /// [`Error::WorkspaceSize`] if no memory can hold it; [`Error::Capturing`] while `stream` is being captured;
    /// [`Error::Driver`] if there is too little.
    pub fn new(stream: &Arc<CudaStream>, rows: usize) -> Result<Self, Error> {
        let layout = WorkspaceLayout::new(rows)?;
        not_captured("a workspace", stream)?;
        let words = stream
            .alloc_zeros::<u32>(layout.words)
            .map_err(Error::driver("allocate the workspace"))?;
        Ok(Self { words: Owned::new(words), layout })
    }

    /// Rows that it can serve.
    pub fn capacity(&self) -> usize {
        self.layout.capacity
    }

    /// Reports targets outside `0..classes` that were not `ignore_index`, seen by any call that
    /// used this workspace since the last time, and forgets them.
    ///
    /// Waits for `stream`. A training loop asks now and then, not every step; one that replays a graph asks between
    /// replays.
    ///
    /// # Errors
    /// [`Error::BadTargets`] names the lowest such row; [`Error::Driver`] if an earlier launch
    /// failed; [`Error::OtherContext`] if `stream` is not of this workspace's context; [`Error::WaitInCapture`] while
    /// it is being captured.
    pub fn take_status(&mut self, stream: &Arc<CudaStream>) -> Result<(), Error> {
        same_context("stream", self.words.context(), stream.context())?;
        if is_captured(stream)? {
            return Err(Error::WaitInCapture);
        }
        let (base, _guard) = self.words.device_ptr_mut(stream);
        // Behind the guard, because it also reports what went wrong there.
        stream.context().bind_to_thread().map_err(Error::driver("bind the context"))?;
        // SAFETY: a workspace begins at `base`, in the stream's context, and the stream is not being captured, as asked
        // above; the guard orders other streams.
        unsafe { raw::take_status_at(stream.cu_stream(), base) }
    }

    /// Addresses for a problem of `rows` rows, and the guard to keep until the last launch.
    pub(crate) fn guarded<'a>(
        &'a mut self,
        context: &Arc<CudaContext>,
        stream: &'a CudaStream,
        rows: usize,
    ) -> Result<(WorkspaceAddresses, SyncOnDrop<'a>), Error> {
        same_context("workspace", context, self.words.context())?;
        let layout = self.layout;
        if rows > layout.capacity {
            return Err(Error::Workspace { capacity: layout.capacity, rows });
        }
        let (base, guard) = self.words.device_ptr_mut(stream);
        Ok((WorkspaceAddresses::at(base, &layout), guard))
    }
}

/// Weights of the classes, on the device, that are known to be finite and not negative.
///
/// They are checked once, here, so that no call has to: the device could only say so afterwards. Calls on several
/// streams may read the same ones at a time; dropping them waits for all work of their context. Captures of other
/// streams go on meanwhile; while the stream that they were made on is being captured, they are leaked.
#[derive(Debug)]
pub struct ClassWeights {
    weights: Owned<f32>,
}

impl ClassWeights {
    /// Checks one weight a class and copies them to the device.
    ///
    /// # Errors
    /// [`Error::ClassWeight`] names the first that is negative, infinite or NaN; [`Error::Classes`] if
    /// there are none; [`Error::Capturing`] while `stream` is being captured; [`Error::Driver`].
    pub fn new(stream: &Arc<CudaStream>, weights: &[f32]) -> Result<Self, Error> {
        if weights.is_empty() {
            return Err(Error::Classes { classes: 0, max: abi::XENT_MAX_CLASSES as usize });
        }
        let wrong = weights.iter().position(|&weight| !(0.0..f32::INFINITY).contains(&weight));
        if let Some(class) = wrong {
            return Err(Error::ClassWeight { class, value: weights[class] });
        }
        not_captured("class weights", stream)?;
        let weights = stream.clone_htod(weights).map_err(Error::driver("copy class weights"))?;
        let readers =
            ContextFence::new().map_err(Error::driver("allocate beside class weights"))?;
        Ok(Self { weights: Owned::shared(weights, readers) })
    }

    /// The same of weights that are on the device already, in a `CudaSlice`, `CudaView` or `CudaViewMut`: reads them
    /// back, once, and waits for it.
    ///
    /// # Errors
    /// Those of [`ClassWeights::new`]; [`Error::OtherContext`] if `stream` is not of their context.
    pub fn from_device(
        stream: &Arc<CudaStream>,
        weights: &impl DevicePtr<f32>,
    ) -> Result<Self, Error> {
        same_context("class_weights", stream.context(), weights.stream().context())?;
        not_captured("class weights", stream)?;
        if weights.is_empty() {
            return Self::new(stream, &[]);
        }
        let weights = stream
            .clone_dtoh(weights)
            .and_then(|weights| stream.synchronize().map(|()| weights))
            .map_err(Error::driver("read class weights"))?;
        Self::new(stream, &weights)
    }

    /// How many there are; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// As kernels read them.
    pub(crate) fn buffer(&self) -> &dyn DeviceRead<f32> {
        &*self.weights
    }
}

impl From<Option<&ClassWeights>> for ClassWeighting {
    fn from(weights: Option<&ClassWeights>) -> Self {
        weights.map_or(Self::Absent, |_| Self::Given)
    }
}

/// What a forward pass knows of each row's softmax, for a backward pass: its largest value, and the
/// sum of the other classes' exponentials relative to it.
///
/// That is the log-sum-exp in two parts: in one f32 it could not tell 1 - p from 0 for a confident
/// row. 16 bytes a row; made once and reused. The backward pass has to be of the same problem, which
/// is checked, and of the same logits, targets and class weights, which nobody can check. Where a gradient has
/// taken the logits' place nothing saved of them is of use any more: a fused call in place leaves nothing that
/// a backward pass would accept. Backward passes on two streams at a time have to be joined before it is written
/// or dropped. Dropped while its stream is being captured it is leaked.
#[derive(Debug)]
pub struct SavedSoftmax {
    words: Owned<u32>,
    capacity: usize,
    of: Option<SoftmaxOf>,
}

impl SavedSoftmax {
    /// For problems of up to `rows` rows.
    ///
    /// # Errors
    /// [`Error::WorkspaceSize`] if no memory can hold it; [`Error::Capturing`] while `stream` is being captured;
    /// [`Error::Driver`] if there is too little.
    pub fn new(stream: &Arc<CudaStream>, rows: usize) -> Result<Self, Error> {
        let words = saved_words(rows)?;
        not_captured("a saved softmax", stream)?;
        let words = stream
            .alloc_zeros::<u32>(words)
            .map_err(Error::driver("allocate the saved softmax"))?;
        Ok(Self { words: Owned::new(words), capacity: rows, of: None })
    }

    /// Rows that it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Everything that can be known to be wrong before a forward pass saves `rows` rows here.
    pub(crate) fn check_capacity(
        &self,
        context: &Arc<CudaContext>,
        rows: usize,
    ) -> Result<(), Error> {
        same_context("saved softmax", context, self.words.context())?;
        let capacity = self.capacity;
        if rows <= capacity { Ok(()) } else { Err(Error::SavedCapacity { capacity, rows }) }
    }

    /// Everything that can be known to be wrong before a backward pass of `of` reads it.
    pub(crate) fn check(&self, context: &Arc<CudaContext>, of: &SoftmaxOf) -> Result<(), Error> {
        same_context("saved softmax", context, self.words.context())?;
        if self.of.as_ref() == Some(of) {
            return Ok(());
        }
        let found = self.of.as_ref().map_or("nothing yet".to_owned(), ToString::to_string);
        Err(Error::SavedSoftmax { found, expected: of.to_string() })
    }

    /// For a forward pass. The guard is to be kept until its launch; until the note that comes with it
    /// is set, after the launch, nothing counts as saved.
    pub(crate) fn write<'a>(
        &'a mut self,
        stream: &'a CudaStream,
    ) -> (Memory, SyncOnDrop<'a>, &'a mut Option<SoftmaxOf>) {
        self.of = None;
        let bytes = self.words.num_bytes();
        let (address, guard) = self.words.device_ptr_mut(stream);
        (Memory { address, bytes }, guard, &mut self.of)
    }

    /// For a backward pass; the guard is to be kept until its launch.
    pub(crate) fn read<'a>(&'a self, stream: &'a CudaStream) -> (SavedAddresses, SyncOnDrop<'a>) {
        let (base, guard) = self.words.device_ptr(stream);
        (SavedAddresses::at(base), guard)
    }
}
