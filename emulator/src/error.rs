//! Errors of the emulated driver, with the codes of `CUresult`.

use crate::capture::CaptureError;
use crate::fatbin::FatbinError;
use crate::fault::FaultReport;
use crate::ptx::PtxError;

/// What a call can fail with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An argument that makes no sense.
    #[error("{0}")]
    InvalidValue(String),
    /// More memory than is left, or an injected failure.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// `cuInit` was not called, or failed.
    #[error("{0}")]
    NotInitialised(String),
    /// No such device.
    #[error("no device {0}")]
    InvalidDevice(i32),
    /// No context is current, or it was destroyed.
    #[error("no current context, or it was destroyed")]
    InvalidContext,
    /// A module, function, stream or event that does not exist.
    #[error("invalid handle of a {0}")]
    InvalidHandle(&'static str),
    /// No kernel or variable of this name.
    #[error("the module has no {0}")]
    NotFound(String),
    /// An image without PTX for the device.
    #[error(transparent)]
    NoBinary(#[from] FatbinError),
    /// PTX that the emulator does not understand.
    #[error(transparent)]
    InvalidPtx(#[from] PtxError),
    /// A launch that no such device can hold.
    #[error("{0}")]
    LaunchTooLarge(String),
    /// A kernel went wrong.
    #[error(transparent)]
    Fault(Box<FaultReport>),
    /// The context has had a fault: nothing works on it any more.
    #[error("the context failed before, with code {0}")]
    Sticky(u32),
    /// An injected failure of a launch, a copy and so on.
    #[error("injected failure of a {0} (CUDA_EMULATOR_FAIL)")]
    Injected(&'static str),
    /// What capturing forbids.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Clusters that the device or the grid does not allow.
    #[error("{0}")]
    ClusterSize(String),
    /// Peer access that is there already.
    #[error("peer access is enabled already")]
    PeerAccessEnabled,
    /// Peer access that was not enabled.
    #[error("peer access is not enabled")]
    PeerAccessNotEnabled,
    /// A host range that is pinned already.
    #[error("{0:#x} is pinned already")]
    AlreadyRegistered(usize),
    /// A host range that is not pinned.
    #[error("{0:#x} is not pinned memory")]
    NotRegistered(usize),
    /// A call from a function that a stream calls.
    #[error("a function that a stream calls may not call the driver")]
    NotPermitted,
    /// Work is left: no failure.
    #[error("not ready")]
    NotReady,
    /// A call or an option that is not emulated.
    #[error("{0} is not emulated")]
    NotSupported(String),
    /// The emulator itself failed.
    #[error("the emulator panicked: {0}")]
    Panic(String),
}

impl Error {
    /// The `CUresult`.
    pub fn code(&self) -> u32 {
        match self {
            Self::InvalidValue(_) => 1,
            Self::OutOfMemory(_) => 2,
            Self::NotInitialised(_) => 3,
            Self::InvalidDevice(_) => 101,
            Self::InvalidContext => 201,
            Self::NoBinary(FatbinError::Damaged(_) | FatbinError::Unknown) => 200,
            Self::NoBinary(_) => 209,
            Self::InvalidPtx(_) => 218,
            Self::InvalidHandle(_) => 400,
            Self::NotFound(_) => 500,
            Self::LaunchTooLarge(_) => 701,
            Self::Fault(report) => report.kind.code(),
            Self::Sticky(code) => *code,
            Self::Injected(_) => 719,
            Self::Capture(error) => error.code(),
            Self::NotReady => 600,
            Self::PeerAccessEnabled => 704,
            Self::PeerAccessNotEnabled => 705,
            Self::AlreadyRegistered(_) => 712,
            Self::NotRegistered(_) => 713,
            Self::NotPermitted => 800,
            Self::ClusterSize(_) => 912,
            Self::NotSupported(_) => 801,
            Self::Panic(_) => 999,
        }
    }

    /// Whether the user has to be told on stderr: what a driver would not explain.
    pub fn is_worth_a_line(&self) -> bool {
        !matches!(self, Self::Sticky(_) | Self::NotFound(_) | Self::InvalidContext | Self::NotReady)
    }
}
