//! A device with one module, through the emulator's Rust API.

use std::fmt;

use cuda_emulator::context::{Context, LaunchConfig, Module};
use cuda_emulator::error::Error;
use cuda_emulator::fault::FaultReport;
use cuda_emulator::settings::{Order, Races, Settings, Uninitialised};

/// Enough for every run, and soon reached by a thread that spins.
const STEP_LIMIT: u64 = 1_000_000;

/// Why a run did not end well.
#[derive(Debug)]
pub enum Failure {
    /// The emulator found it.
    Fault(Box<FaultReport>),
    /// The result differs from that of the CPU.
    Wrong(String),
    /// The run itself is at fault.
    Other(String),
}

impl Failure {
    /// A [`FaultKind`](cuda_emulator::fault::FaultKind), `WrongResult` or `Other`: the words of bugs.toml.
    pub fn kind(&self) -> String {
        match self {
            Self::Fault(report) => format!("{:?}", report.kind),
            Self::Wrong(_) => "WrongResult".into(),
            Self::Other(_) => "Other".into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(report) => report.fmt(f),
            Self::Wrong(text) => write!(f, "wrong result: {text}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Fault(report) => Self::Fault(report),
            other => Self::Other(other.to_string()),
        }
    }
}

/// A kernel's parameter.
#[derive(Debug, Clone, Copy)]
pub enum Parameter {
    Pointer(u64),
    Number(u32),
    Float(f32),
}

use Parameter::{Float, Number, Pointer};

impl From<u64> for Parameter {
    fn from(address: u64) -> Self {
        Pointer(address)
    }
}

impl From<u32> for Parameter {
    fn from(number: u32) -> Self {
        Number(number)
    }
}

impl From<f32> for Parameter {
    fn from(number: f32) -> Self {
        Float(number)
    }
}

/// 32-bit elements of a buffer.
pub trait Element: Copy + PartialEq + fmt::Debug {
    fn to_bytes(self) -> [u8; 4];
    fn from_bytes(bytes: [u8; 4]) -> Self;
}

macro_rules! element {
    ($($type:ty),*) => {$(
        impl Element for $type {
            fn to_bytes(self) -> [u8; 4] {
                self.to_le_bytes()
            }
            fn from_bytes(bytes: [u8; 4]) -> Self {
                Self::from_le_bytes(bytes)
            }
        }
    )*};
}
element!(f32, i32, u32);

/// A fresh device with one module.
#[derive(Debug)]
pub struct Rig {
    context: Context,
    module: Module,
}

impl Rig {
    /// With every check on.
    pub fn new(ptx: &str, order: Order, workers: usize) -> Result<Self, Failure> {
        let settings = Settings {
            order,
            workers,
            step_limit: STEP_LIMIT,
            races: Races::Checked,
            uninitialised: Uninitialised::Refused,
            ..Settings::default()
        };
        let context = Context::new(settings);
        let module = context.load(ptx)?;
        Ok(Self { context, module })
    }

    /// So many elements, none of them written.
    pub fn allocate(&self, elements: usize) -> Result<u64, Failure> {
        Ok(self.context.allocate(4 * elements as u64)?)
    }

    /// A buffer with these elements.
    pub fn upload<T: Element>(&self, elements: &[T]) -> Result<u64, Failure> {
        let address = self.allocate(elements.len())?;
        self.write(address, elements)?;
        Ok(address)
    }

    /// Overwrites elements.
    pub fn write<T: Element>(&self, address: u64, elements: &[T]) -> Result<(), Failure> {
        let bytes: Vec<u8> = elements.iter().flat_map(|e| e.to_bytes()).collect();
        Ok(self.context.write(address, &bytes)?)
    }

    /// Reads elements.
    pub fn download<T: Element>(&self, address: u64, elements: usize) -> Result<Vec<T>, Failure> {
        let mut bytes = vec![0; 4 * elements];
        self.context.read(address, &mut bytes)?;
        let each = bytes.chunks_exact(4).map(|b| T::from_bytes([b[0], b[1], b[2], b[3]]));
        Ok(each.collect())
    }

    /// Launches a kernel, and waits for its end unless the next launch is programmatic.
    pub fn launch(
        &self,
        kernel: &str,
        config: &LaunchConfig,
        parameters: &[Parameter],
    ) -> Result<(), Failure> {
        let found = self.module.kernel(kernel)?.map_err(Error::InvalidPtx)?;
        let mut bytes = Vec::new();
        for parameter in parameters {
            let value = match parameter {
                Pointer(address) => address.to_le_bytes().to_vec(),
                Number(number) => number.to_le_bytes().to_vec(),
                Float(number) => number.to_le_bytes().to_vec(),
            };
            // Each is aligned to its size.
            bytes.resize(bytes.len().next_multiple_of(value.len()), 0);
            bytes.extend(value);
        }
        self.context.launch(&found, config, &bytes)?;
        Ok(())
    }

    /// Compares a buffer with what should be there.
    pub fn expect<T: Element>(
        &self,
        what: &str,
        address: u64,
        expected: &[T],
    ) -> Result<(), Failure> {
        let found: Vec<T> = self.download(address, expected.len())?;
        match found.iter().zip(expected).position(|(found, expected)| found != expected) {
            None => Ok(()),
            Some(at) => Err(Failure::Wrong(format!(
                "{what}[{at}] is {:?} instead of {:?}",
                found[at], expected[at]
            ))),
        }
    }
}
