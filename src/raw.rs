//! The operations on raw device pointers and a raw stream, for buffers that cudarc did not allocate: those of
//! PyTorch, burn, or a C program.
//!
//! Every call checks what can be known without the memory itself (all of [`Problem::new`], null and
//! misaligned addresses, the room in a workspace) and then does what its safe sibling does, through the
//! same code. It allocates nothing, waits for nothing, and may be captured into a graph.
//!
//! An address of 0 stands for what is not there: an output that nobody wants, weights that are all 1. What a
//! call needs may be 0 where it has no elements.
//!
//! # Safety
//! What every unsafe function here asks of its caller:
//!
//! - The stream belongs to the context of `kernels`, or is a default stream (null).
//! - Each address that is not 0 is that of device memory of that context for as many elements as the call
//!   names, from now until all that the call enqueued has run, and during every replay of a graph that
//!   captured it. So long a clone of `kernels` lives, too: the last one that is dropped unloads them.
//! - Nothing that is written overlaps anything else of the call. In place, the logits are the gradient's
//!   matrix ([`Logits::InGradient`]).
//! - Work of other streams on the same memory is ordered by the caller, with events; nothing here knows of
//!   them. The workspace counts as written.
//! - A workspace holds [`workspace_bytes`], all of them zero before its first use and written by nobody else
//!   afterwards. It is passed with the same address and length each time: where things lie in it follows
//!   from the length. Otherwise a launch may write anywhere, or never end.
//! - What a backward pass is given as saved was written by a forward pass of the same types, shape and
//!   options, on the same logits, targets and class weights.
//!
//! Class weights that are negative or not finite make results that mean nothing, as
//! [`ClassWeights`](crate::ClassWeights) would have said; they do no other harm.
//!
//! # From burn
//! On a GPU burn runs on cubecl, of which this is true (read at 0.11.0-pre.2):
//!
//! - It uses the device's primary context, which is that of [`open`](crate::open) with the same ordinal.
//! - `ComputeClient::get_resource` gives the address of a tensor's handle.
//! - Rows may be padded, those of more than 256 bytes to a multiple of 512. Take each row stride from the tensor's
//!   strides: with [`Shape::contiguous`](crate::Shape::contiguous) padding would count as logits, and nothing
//!   would report it.
//! - It launches on streams of its own. Take the addresses, wait for its client (`sync`) on the same thread, make the
//!   call, and wait for your stream before burn uses or frees the memory.
//!
//! # The current context
//! Each call makes the context of `kernels` current on the calling thread, and leaves it so.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use smoothxent::problem::{Dtype, TargetType};
//! use smoothxent::cudarc::driver::{DevicePtr, DevicePtrMut};
//! use smoothxent::{Kernels, LossConfig, Shape, half::bf16, raw};
//!
//! let context = smoothxent::open(0)?;
//! let stream = context.default_stream();
//! let kernels = Kernels::load(&context)?;
//! let shape = Shape::contiguous(64, 1000);
//!
//! // From any allocator; here cudarc's.
//! let bytes = raw::workspace_bytes(shape.rows)?;
//! let (mut workspace, mut logits) = (stream.alloc_zeros::<u8>(bytes)?, stream.alloc_zeros::<bf16>(64_000)?);
//! let (targets, mut loss) = (stream.alloc_zeros::<i64>(64)?, stream.alloc_zeros::<f32>(1)?);
//!
//! // `device_ptr_mut` for what is written. The guards tell cudarc when a buffer was used last, so they have to
//! // live until the call has returned.
//! let (targets, _targets) = targets.device_ptr(&stream);
//! let (gradient, _gradient) = logits.device_ptr_mut(&stream);
//! let (loss, _loss) = loss.device_ptr_mut(&stream);
//! let (address, _workspace) = workspace.device_ptr_mut(&stream);
//!
//! let in_place = raw::Logits::InGradient;
//! let inputs = raw::LossInputs::new(Dtype::Bf16, TargetType::I64, shape, in_place, targets);
//! let outputs = raw::LossOutputs { loss, ..Default::default() };
//! let gradient = raw::Gradient::new(gradient);
//! let workspace = raw::Memory { address, bytes };
//! let (cu_stream, config) = (stream.cu_stream(), LossConfig::pytorch());
//! // SAFETY: the buffers are of this context, as long as the shape says, and live until the stream is done.
//! unsafe {
//!     raw::loss::forward_backward(&kernels, cu_stream, config, inputs, outputs, gradient, workspace)?;
//!     raw::take_status(&kernels, cu_stream, workspace)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Problem::new`]: crate::problem::Problem::new

mod argument;
pub mod binary;
pub mod log_softmax;
pub mod loss;
mod memory;

pub use binary::{BinaryInputs, BinaryOutputs};
pub use log_softmax::{LogSoftmaxInputs, LogSoftmaxOutputs, Softmax, SoftmaxOutput};
pub use loss::{LossInputs, LossOutputs};
pub use memory::{ALIGNMENT, Memory, saved_bytes, take_status, workspace_bytes};
pub(crate) use memory::{SavedAddresses, WorkspaceAddresses, saved_words, take_status_at};

use cudarc::driver::sys::CUdeviceptr;

use crate::{
    error::Error,
    problem::{Dtype, Place, TargetType},
};

/// Where the logits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// At an address of their own.
    At(CUdeviceptr),
    /// Where the gradient goes, which overwrites them.
    InGradient,
}

impl Logits {
    fn place(self) -> Place {
        match self {
            Self::At(_) => Place::Apart,
            Self::InGradient => Place::InPlace,
        }
    }

    /// Their address, given that of the gradient.
    fn address(self, gradient: CUdeviceptr) -> CUdeviceptr {
        match self {
            Self::At(address) => address,
            Self::InGradient => gradient,
        }
    }
}

/// The gradient of everything behind the loss with respect to it: f32, on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    /// 1.
    #[default]
    One,
    /// One number for all rows.
    Scalar(CUdeviceptr),
    /// One for each row.
    PerRow(CUdeviceptr),
}

impl Upstream {
    /// An address, or 0, and the elements from one row's number to the next.
    fn strided(self) -> (CUdeviceptr, u64) {
        match self {
            Self::One => (0, 0),
            Self::Scalar(one) => (one, 0),
            Self::PerRow(all) => (all, 1),
        }
    }
}

/// Where the gradient goes, and what flows into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gradient {
    /// `[rows, classes]` with a row stride.
    pub matrix: CUdeviceptr,
    /// What multiplies it.
    pub upstream: Upstream,
}

impl Gradient {
    /// With an upstream gradient of 1.
    pub fn new(matrix: CUdeviceptr) -> Self {
        Self { matrix, upstream: Upstream::One }
    }

    /// Everything that can be known to be wrong, for a matrix of so many elements; that it takes the place
    /// of the logits unasked, too.
    fn check(
        &self,
        logits: Logits,
        dtype: Dtype,
        elements: usize,
        rows: usize,
    ) -> Result<(), Error> {
        needed("gradient", self.matrix, dtype.bytes(), elements)?;
        match self.upstream {
            Upstream::One => {}
            Upstream::Scalar(one) => needed("upstream", one, size_of::<f32>(), 1)?,
            Upstream::PerRow(all) => needed("upstream", all, size_of::<f32>(), rows)?,
        }
        match logits {
            Logits::InGradient => Ok(()),
            Logits::At(logits) => {
                check_apart([("logits", logits), ("gradient", self.matrix)], elements)
            }
        }
    }
}

/// In place, their address is the gradient's, which is checked as such.
fn check_logits(logits: Logits, dtype: Dtype, elements: usize) -> Result<(), Error> {
    match logits {
        Logits::At(address) => needed("logits", address, dtype.bytes(), elements),
        Logits::InGradient => Ok(()),
    }
}

fn check_targets(address: CUdeviceptr, types: TargetType, elements: usize) -> Result<(), Error> {
    needed("targets", address, types.bytes(), elements)
}

/// Strategies for matrices that are apart may write one before they have read the other.
fn check_apart(
    [read, written]: [(&'static str, CUdeviceptr); 2],
    elements: usize,
) -> Result<(), Error> {
    if elements > 0 && read.1 == written.1 {
        return Err(Error::SameAddress { read: read.0, written: written.0 });
    }
    Ok(())
}

/// The address of so many elements of so many bytes each.
fn needed(
    buffer: &'static str,
    address: CUdeviceptr,
    element_bytes: usize,
    elements: usize,
) -> Result<(), Error> {
    if address == 0 && elements > 0 {
        return Err(Error::Null { buffer });
    }
    optional(buffer, address, element_bytes)
}

/// The same where nothing may be there.
fn optional(buffer: &'static str, address: CUdeviceptr, alignment: usize) -> Result<(), Error> {
    if address.is_multiple_of(alignment as CUdeviceptr) {
        Ok(())
    } else {
        Err(Error::Alignment { buffer, address, alignment })
    }
}

/// An address of one or several f32, or 0.
fn optional_f32(buffer: &'static str, address: CUdeviceptr) -> Result<(), Error> {
    optional(buffer, address, align_of::<f32>())
}

/// An address of one or several i64, or 0.
fn optional_i64(buffer: &'static str, address: CUdeviceptr) -> Result<(), Error> {
    optional(buffer, address, align_of::<i64>())
}
