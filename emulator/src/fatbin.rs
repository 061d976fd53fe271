//! Finds the PTX in what `cuModuleLoadData` is given: a fatbin that nvcc wrote, or PTX itself.
//!
//! A fatbin is a 16-byte header (magic, version, header size, size of what follows) and entries,
//! each with a header of its own that gives kind, architecture and payload size. A payload is stored as
//! it is, or as a Zstandard frame with padding behind it.

use std::ffi::{CStr, c_char, c_void};
use std::io::Read;

use ruzstd::decoding::StreamingDecoder;

const FATBIN_MAGIC: u32 = 0xBA55_ED50;
/// What `nvcc --fatbin` embeds in host objects: a struct that points at the fatbin.
const WRAPPER_MAGIC: u32 = 0x4662_43B1;
const ELF_MAGIC: u32 = 0x464C_457F;
const KIND_PTX: u16 = 1;

/// Why an image has no PTX for a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatbinError {
    /// Machine code alone.
    #[error("the image is machine code (a cubin); the emulator needs PTX")]
    MachineCode,
    /// A size that leads out of the image.
    #[error("the image is damaged: {0}")]
    Damaged(&'static str),
    /// PTX, but compressed in a way that is not known.
    #[error(
        "the PTX of the image is compressed, and not by Zstandard; compile with `nvcc \
         -compress-mode=size`, or `none`"
    )]
    Compressed,
    /// No PTX that this device may run.
    #[error("no PTX for sm_{architecture} or older in the image; it has PTX for {found:?}")]
    NoneForDevice {
        /// Of the device, times ten.
        architecture: u32,
        /// Of the image's PTX.
        found: Vec<u32>,
    },
    /// Neither a fatbin nor text.
    #[error("the image is neither a fatbin nor PTX text")]
    Unknown,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The PTX of a fatbin with the highest architecture that the device can run.
pub fn ptx_for(image: &[u8], architecture: u32) -> Result<String, FatbinError> {
    let damaged = || FatbinError::Damaged("a header that does not fit");
    let mut at = usize::from(u16_at(image, 6).ok_or_else(damaged)?);
    let mut found = Vec::new();
    let mut best: Option<(u32, String)> = None;
    while at < image.len() {
        let kind = u16_at(image, at).ok_or_else(damaged)?;
        let header = u32_at(image, at + 4).ok_or_else(damaged)? as usize;
        let payload = u64_at(image, at + 8).ok_or_else(damaged)? as usize;
        let target = u32_at(image, at + 28).ok_or_else(damaged)?;
        let uncompressed = u64_at(image, at + 56).ok_or_else(damaged)?;
        let start = at + header;
        let end = start.checked_add(payload).ok_or_else(damaged)?;
        let content = image.get(start..end).ok_or_else(damaged)?;
        if kind == KIND_PTX {
            found.push(target);
            let better = best.as_ref().is_none_or(|(other, _)| target > *other);
            if target <= architecture && better {
                let unpacked;
                let content = if uncompressed == 0 {
                    content
                } else {
                    let frame = u32_at(image, at + 16).ok_or_else(damaged)? as usize;
                    unpacked = decompress(content.get(..frame).ok_or_else(damaged)?)?;
                    &unpacked
                };
                let end = content.iter().position(|&b| b == 0).unwrap_or(content.len());
                let text = std::str::from_utf8(&content[..end])
                    .map_err(|_| FatbinError::Damaged("PTX that is not text"))?;
                best = Some((target, text.to_string()));
            }
        }
        at = end;
    }
    match best {
        Some((_, text)) => Ok(text),
        None if found.is_empty() => Err(FatbinError::MachineCode),
        None => Err(FatbinError::NoneForDevice { architecture, found }),
    }
}

/// One Zstandard frame.
fn decompress(frame: &[u8]) -> Result<Vec<u8>, FatbinError> {
    const ZSTANDARD_MAGIC: u32 = 0xFD2F_B528;
    if u32_at(frame, 0) != Some(ZSTANDARD_MAGIC) {
        return Err(FatbinError::Compressed);
    }
    let damaged = || FatbinError::Damaged("a Zstandard frame that does not decode");
    let mut content = Vec::new();
    StreamingDecoder::new(frame)
        .map_err(|_| damaged())?
        .read_to_end(&mut content)
        .map_err(|_| damaged())?;
    Ok(content)
}

/// The PTX for a device of an image whose length only its header tells.
///
/// # Safety
/// `image` points at a fatbin, at nvcc's wrapper of one, at an ELF image or at text that ends with
/// a zero byte.
pub unsafe fn ptx_of_image(image: *const c_void, architecture: u32) -> Result<String, FatbinError> {
    // SAFETY: each of the four kinds has at least four bytes, if the text is not shorter; a
    // shorter text ends within them.
    let first = unsafe {
        let bytes = image.cast::<u8>();
        let mut magic = [0_u8; 4];
        for (at, byte) in magic.iter_mut().enumerate() {
            *byte = bytes.add(at).read();
            if *byte == 0 {
                break;
            }
        }
        u32::from_le_bytes(magic)
    };
    match first {
        FATBIN_MAGIC => {
            // SAFETY: a fatbin's header has 16 bytes and gives the size of what follows.
            let bytes = unsafe {
                let size = image.cast::<u8>().add(8).cast::<u64>().read_unaligned() as usize;
                let header = image.cast::<u8>().add(6).cast::<u16>().read_unaligned();
                std::slice::from_raw_parts(image.cast::<u8>(), usize::from(header) + size)
            };
            ptx_for(bytes, architecture)
        }
        WRAPPER_MAGIC => {
            // SAFETY: the wrapper is two words and a pointer to a fatbin.
            unsafe {
                let inner = image.cast::<u8>().add(8).cast::<*const c_void>().read_unaligned();
                ptx_of_image(inner, architecture)
            }
        }
        ELF_MAGIC => Err(FatbinError::MachineCode),
        _ => {
            // SAFETY: what is left is text that ends with a zero byte.
            let text = unsafe { CStr::from_ptr(image.cast::<c_char>()) };
            text.to_str().map(str::to_string).map_err(|_| FatbinError::Unknown)
        }
    }
}
