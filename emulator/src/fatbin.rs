//! Finds the PTX in what `cuModuleLoadData` is given: a fatbin that nvcc wrote, or PTX itself. Of
//! machine code beside it only the number of registers of each kernel is read.
//!
//! A fatbin is a 16-byte header (magic, version, header size, size of what follows) and entries,
//! each with a header of its own that gives kind, architecture and payload size. A payload is stored as
//! it is, or as a Zstandard frame with padding behind it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::io::Read;
use std::ops::Range;

use ruzstd::decoding::StreamingDecoder;

const FATBIN_MAGIC: u32 = 0xBA55_ED50;
/// What `nvcc --fatbin` embeds in host objects: a struct that points at the fatbin.
const WRAPPER_MAGIC: u32 = 0x4662_43B1;
const ELF_MAGIC: u32 = 0x464C_457F;
const KIND_PTX: u16 = 1;
const KIND_ELF: u16 = 2;

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

/// What an image has for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What is executed.
    pub ptx: String,
    /// Registers of a thread by kernel, from machine code for the device.
    pub registers: HashMap<String, u32>,
}

/// The entry's payload, unpacked.
fn payload<'a>(image: &'a [u8], entry: &Entry) -> Result<Cow<'a, [u8]>, FatbinError> {
    let content = image.get(entry.payload.clone()).ok_or(DAMAGED)?;
    if entry.uncompressed == 0 {
        return Ok(content.into());
    }
    decompress(content.get(..entry.frame).ok_or(DAMAGED)?).map(Cow::Owned)
}

const DAMAGED: FatbinError = FatbinError::Damaged("a header that does not fit");

/// One entry of a fatbin.
#[derive(Debug)]
struct Entry {
    kind: u16,
    /// Times ten.
    architecture: u32,
    payload: Range<usize>,
    /// Bytes of the Zstandard frame, if `uncompressed` is not 0.
    frame: usize,
    uncompressed: u64,
}

/// Bytes of an entry's header that are read below.
const ENTRY_HEADER: usize = 64;

fn entries(image: &[u8]) -> Result<Vec<Entry>, FatbinError> {
    let mut at = usize::from(u16_at(image, 6).ok_or(DAMAGED)?);
    let mut found = Vec::new();
    while at < image.len() {
        let header = u32_at(image, at + 4).ok_or(DAMAGED)? as usize;
        if header < ENTRY_HEADER {
            return Err(DAMAGED);
        }
        let bytes = u64_at(image, at + 8).ok_or(DAMAGED)? as usize;
        let end = (at + header).checked_add(bytes).filter(|end| *end <= image.len());
        let end = end.ok_or(DAMAGED)?;
        found.push(Entry {
            kind: u16_at(image, at).ok_or(DAMAGED)?,
            architecture: u32_at(image, at + 28).ok_or(DAMAGED)?,
            payload: at + header..end,
            frame: u32_at(image, at + 16).ok_or(DAMAGED)? as usize,
            uncompressed: u64_at(image, at + 56).ok_or(DAMAGED)?,
        });
        at = end;
    }
    Ok(found)
}

/// Which code a device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Of the device, times ten.
    pub architecture: u32,
    /// The newest that is taken: as if what is run had been built before there were newer ones.
    pub newest: u32,
}

impl From<u32> for Code {
    /// All that a device of this architecture can run.
    fn from(architecture: u32) -> Self {
        Self { architecture, newest: u32::MAX }
    }
}

/// The PTX of a fatbin with the highest architecture that the device can run.
pub fn ptx_for(image: &[u8], code: impl Into<Code>) -> Result<String, FatbinError> {
    image_for(image, code).map(|image| image.ptx)
}

/// What an image has for a device: itself if it is text; of a fatbin the PTX with the highest architecture that
/// the device can run, and registers from machine code of its generation, the nearest.
pub fn image_for(image: &[u8], code: impl Into<Code>) -> Result<Image, FatbinError> {
    let Code { architecture, newest } = code.into();
    if u32_at(image, 0) != Some(FATBIN_MAGIC) {
        let ptx = std::str::from_utf8(image).map_err(|_| FatbinError::Unknown)?;
        return Ok(Image { ptx: ptx.to_string(), registers: HashMap::new() });
    }
    let entries = entries(image)?;
    let fits = |entry: &&Entry| entry.architecture <= architecture.min(newest);
    let ptx: Vec<&Entry> = entries.iter().filter(|entry| entry.kind == KIND_PTX).collect();
    // The first of the highest: the others may be for a family or a single architecture.
    let best = ptx.iter().copied().filter(fits).rev().max_by_key(|entry| entry.architecture);
    let Some(best) = best else {
        return Err(if ptx.is_empty() {
            FatbinError::MachineCode
        } else {
            let found = ptx.iter().map(|entry| entry.architecture).collect();
            FatbinError::NoneForDevice { architecture, found }
        });
    };
    let content = payload(image, best)?;
    let end = content.iter().position(|&b| b == 0).unwrap_or(content.len());
    let text = std::str::from_utf8(&content[..end])
        .map_err(|_| FatbinError::Damaged("PTX that is not text"))?;
    let same_generation = |entry: &&Entry| entry.architecture / 10 == architecture / 10;
    let machine_code = entries
        .iter()
        .filter(|entry| entry.kind == KIND_ELF)
        .filter(same_generation)
        .filter(fits)
        .rev()
        .max_by_key(|entry| entry.architecture);
    // Machine code is not executed here: where it cannot be read, registers are unknown.
    let registers = machine_code
        .and_then(|entry| payload(image, entry).ok())
        .and_then(|cubin| registers_of(&cubin))
        .unwrap_or_default();
    Ok(Image { ptx: text.to_string(), registers })
}

/// Registers of a thread by kernel, from the section `.nv.info` of a cubin: pairs of a symbol and its
/// number of registers, among other attributes.
pub fn registers_of(cubin: &[u8]) -> Option<HashMap<String, u32>> {
    /// `SHT_SYMTAB`
    const SYMBOLS: u32 = 2;
    /// `EIATTR_REGCOUNT` with a value of its own length.
    const REGISTERS: [u8; 2] = [0x04, 0x2F];
    if u32_at(cubin, 0)? != ELF_MAGIC {
        return None;
    }
    let headers = word(cubin, 0x28)?;
    let size = usize::from(u16_at(cubin, 0x3A)?);
    let count = usize::from(u16_at(cubin, 0x3C)?);
    let header = |number: usize| headers.checked_add(number * size);
    let content = |at: usize| {
        let start = word(cubin, at + 0x18)?;
        cubin.get(start..start.checked_add(word(cubin, at + 0x20)?)?)
    };
    let section_names = content(header(usize::from(u16_at(cubin, 0x3E)?))?)?;
    let all: Vec<usize> = (0..count).map(header).collect::<Option<_>>()?;
    let symbols = *all.iter().find(|&&at| u32_at(cubin, at + 4) == Some(SYMBOLS))?;
    let symbol_names = content(header(u32_at(cubin, symbols + 0x28)? as usize)?)?;
    let symbols = content(symbols)?;
    let is_info = |at: &&usize| {
        let name = u32_at(cubin, **at).and_then(|name| text_at(section_names, name as usize));
        name == Some(".nv.info")
    };
    let info = content(*all.iter().find(is_info)?)?;
    let mut found = HashMap::new();
    let mut at = 0;
    while at + 4 <= info.len() {
        let of_own_length = info[at] == REGISTERS[0];
        if info[at..at + 2] == REGISTERS {
            let symbol = u32_at(info, at + 4)? as usize;
            let name = u32_at(symbols, symbol.checked_mul(24)?)?;
            let name = text_at(symbol_names, name as usize)?;
            found.insert(name.to_string(), u32_at(info, at + 8)?);
        }
        at += 4 + if of_own_length { usize::from(u16_at(info, at + 2)?) } else { 0 };
    }
    Some(found)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64_at(bytes, at)?).ok()
}

/// Text up to a zero byte.
fn text_at(bytes: &[u8], at: usize) -> Option<&str> {
    let bytes = bytes.get(at..)?;
    std::str::from_utf8(&bytes[..bytes.iter().position(|&b| b == 0)?]).ok()
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

/// An image whose length only its header, or its end, tells.
///
/// # Safety
/// `image` points at a fatbin, at nvcc's wrapper of one, at an ELF image or at text that ends with
/// a zero byte, and stays as it is for as long as what is returned is used.
pub unsafe fn bytes_at<'a>(image: *const c_void) -> Result<&'a [u8], FatbinError> {
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
        // SAFETY: a fatbin's header has 16 bytes and gives the size of what follows.
        FATBIN_MAGIC => unsafe {
            let size = image.cast::<u8>().add(8).cast::<u64>().read_unaligned() as usize;
            let header = image.cast::<u8>().add(6).cast::<u16>().read_unaligned();
            Ok(std::slice::from_raw_parts(image.cast::<u8>(), usize::from(header) + size))
        },
        // SAFETY: the wrapper is two words and a pointer to a fatbin.
        WRAPPER_MAGIC => unsafe {
            bytes_at(image.cast::<u8>().add(8).cast::<*const c_void>().read_unaligned())
        },
        ELF_MAGIC => Err(FatbinError::MachineCode),
        // SAFETY: what is left is text that ends with a zero byte.
        _ => Ok(unsafe { CStr::from_ptr(image.cast::<c_char>()) }.to_bytes()),
    }
}
