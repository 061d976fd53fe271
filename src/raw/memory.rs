//! What lies where in a workspace, and in what is saved between passes; the record of bad targets.

use cudarc::driver::sys::{
    CUdeviceptr, CUstream, cuMemcpyDtoHAsync_v2, cuMemsetD32Async, cuStreamSynchronize,
};

use super::needed;
use crate::{abi, capture::is_captured, error::Error, module::Kernels, plan::WorkspaceLayout};

/// Device memory of a caller's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// A multiple of [`ALIGNMENT`].
    pub address: CUdeviceptr,
    /// From there on.
    pub bytes: usize,
}

/// Bytes that the addresses of workspaces and of what is saved are multiples of: a sector.
pub const ALIGNMENT: usize = 32;

impl Memory {
    fn check(&self, buffer: &'static str, needed_bytes: usize) -> Result<(), Error> {
        needed(buffer, self.address, ALIGNMENT, needed_bytes)?;
        if self.bytes < needed_bytes {
            return Err(Error::Memory { buffer, bytes: self.bytes, needed: needed_bytes });
        }
        if self.address.checked_add(self.bytes as CUdeviceptr).is_none() {
            return Err(Error::BufferSize { buffer, len: self.bytes });
        }
        Ok(())
    }
}

/// Bytes of a workspace for problems of up to `rows` rows. They have to be zero before its first use.
///
/// # Errors
/// [`Error::WorkspaceSize`] if no memory can hold it.
pub fn workspace_bytes(rows: usize) -> Result<usize, Error> {
    WorkspaceLayout::new(rows).map(|layout| layout.words * size_of::<u32>())
}

/// Bytes of what a forward pass of up to `rows` rows saves. They need not be zero.
///
/// # Errors
/// [`Error::WorkspaceSize`] if no memory can hold it.
pub fn saved_bytes(rows: usize) -> Result<usize, Error> {
    saved_words(rows).map(|words| words * size_of::<u32>())
}

/// Device addresses within a workspace.
#[derive(Clone, Copy)]
pub(crate) struct WorkspaceAddresses {
    pub head: *mut abi::XentWorkspace,
    pub partials: *mut abi::XentPartial,
    pub chunk_tickets: *mut u32,
    pub chunk_sums: *mut u32,
    pub row_shares: *mut u32,
}

impl WorkspaceAddresses {
    pub fn at(base: CUdeviceptr, layout: &WorkspaceLayout) -> Self {
        let at = |word: usize| base + (word * size_of::<u32>()) as CUdeviceptr;
        Self {
            head: base as *mut _,
            partials: at(layout.partials) as *mut _,
            chunk_tickets: at(layout.chunk_tickets) as *mut _,
            chunk_sums: at(layout.chunk_sums) as *mut _,
            row_shares: at(layout.row_shares) as *mut _,
        }
    }

    /// For a problem of `rows` rows.
    pub fn of(workspace: Memory, rows: usize) -> Result<Self, Error> {
        workspace.check("workspace", workspace_bytes(rows)?)?;
        let bytes = workspace.bytes;
        let layout = WorkspaceLayout::within(bytes).ok_or(Error::WorkspaceSize { rows })?;
        Ok(Self::at(workspace.address, &layout))
    }

    /// Where the normalizer writes if nothing is saved.
    pub fn divided(&self) -> *mut abi::XentDivided {
        let offset = std::mem::offset_of!(abi::XentWorkspace, divided);
        self.head.wrapping_byte_add(offset).cast()
    }
}

/// Device addresses within a saved softmax.
#[derive(Clone, Copy)]
pub(crate) struct SavedAddresses {
    pub divided: *mut abi::XentDivided,
    pub rows: *mut abi::XentSavedRow,
}

const SAVED_ROW_WORDS: usize = size_of::<abi::XentSavedRow>() / size_of::<u32>();

// Every class can be told from none.
const _: () = assert!(abi::XENT_NOTHING_APART > abi::XENT_MAX_CLASSES);

/// What the normalizer found comes first, and has as much room as two rows.
const SAVED_HEAD_WORDS: usize = 2 * SAVED_ROW_WORDS;
const _: () = assert!(size_of::<abi::XentDivided>() <= SAVED_HEAD_WORDS * size_of::<u32>());

/// Words of what is saved of so many rows.
pub(crate) fn saved_words(rows: usize) -> Result<usize, Error> {
    rows.checked_mul(SAVED_ROW_WORDS)
        .and_then(|words| words.checked_add(SAVED_HEAD_WORDS))
        .filter(|&words| words <= isize::MAX as usize / size_of::<u32>())
        .ok_or(Error::WorkspaceSize { rows })
}

impl SavedAddresses {
    pub fn at(base: CUdeviceptr) -> Self {
        Self {
            divided: base as *mut _,
            rows: (base + (SAVED_HEAD_WORDS * size_of::<u32>()) as CUdeviceptr) as *mut _,
        }
    }

    /// Of `rows` rows.
    pub fn of(saved: Memory, rows: usize) -> Result<Self, Error> {
        saved.check("saved", saved_bytes(rows)?)?;
        Ok(Self::at(saved.address))
    }
}

/// Reports targets that named no class, seen by any call that used this workspace since the last time, and
/// forgets them; as [`Workspace::take_status`](crate::Workspace::take_status) does.
///
/// Waits for `stream`.
///
/// # Errors
/// [`Error::BadTargets`] names the lowest such row; [`Error::Null`], [`Error::Alignment`],
/// [`Error::Memory`] and [`Error::BufferSize`] of the workspace; [`Error::WaitInCapture`] while `stream` is being
/// captured; [`Error::Driver`] if an earlier launch failed.
///
/// # Safety
/// That of [`raw`](crate::raw).
pub unsafe fn take_status(
    kernels: &Kernels,
    stream: CUstream,
    workspace: Memory,
) -> Result<(), Error> {
    workspace.check("workspace", workspace_bytes(0)?)?;
    kernels.bind()?;
    // SAFETY: the caller's promise.
    if unsafe { is_captured(stream) }.map_err(Error::driver("ask whether a stream is captured"))? {
        return Err(Error::WaitInCapture);
    }
    // SAFETY: the caller's promise, and what was just asked; a workspace begins with the record.
    unsafe { take_status_at(stream, workspace.address) }
}

const STATUS_WORDS: usize = size_of::<abi::XentStatus>() / size_of::<u32>();

/// # Safety
/// The current context has a workspace at `address`, which `stream` may write, and `stream` is not being captured.
pub(crate) unsafe fn take_status_at(stream: CUstream, address: CUdeviceptr) -> Result<(), Error> {
    let mut status = abi::XentStatus {
        bad_targets: 0,
        rows_from_first: 0,
        first_target: 0,
        first_classes: 0,
        lock: 0,
        reserved: 0,
    };
    let to = std::ptr::from_mut(&mut status).cast();
    // SAFETY: the caller's promise; `status` is plain integers, as large as what is copied, and outlives the
    // copy, behind which the stream is waited for.
    unsafe { cuMemcpyDtoHAsync_v2(to, address, size_of::<abi::XentStatus>(), stream).result() }
        // SAFETY: the caller's promise.
        .and_then(|()| unsafe { cuStreamSynchronize(stream) }.result())
        .map_err(Error::driver("read the status"))?;
    if status.bad_targets == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe { cuMemsetD32Async(address, 0, STATUS_WORDS, stream) }
        .result()
        .map_err(Error::driver("clear the status"))?;
    Err(Error::BadTargets {
        count: status.bad_targets,
        row: u64::MAX - status.rows_from_first,
        target: status.first_target,
        classes: status.first_classes,
    })
}
