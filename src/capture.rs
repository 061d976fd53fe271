//! Whether work on a stream would become a graph's.

use cudarc::driver::{
    DriverError,
    result::stream,
    sys::{CUresult, CUstream, CUstreamCaptureStatus},
};

/// Whether a stream is being captured, or is the legacy default one beside the capture of a stream that is ordered
/// with it (of `cuStreamCreate` without `CU_STREAM_NON_BLOCKING`, or a thread's default one): work there ends that
/// capture. To ask does not.
///
/// # Safety
/// `stream` is one of the current context.
pub(crate) unsafe fn is_captured(stream: CUstream) -> Result<bool, DriverError> {
    // SAFETY: the caller's promise.
    match unsafe { stream::is_capturing(stream) } {
        Ok(status) => Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE),
        Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)) => Ok(true),
        Err(error) => Err(error),
    }
}
