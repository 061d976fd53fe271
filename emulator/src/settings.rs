//! What environment variables choose.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::{MODELS, Model, named};

/// Order in which blocks start, and warps within a block have their turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// By index.
    #[default]
    Forward,
    /// By index, last first.
    Reverse,
    /// By a seed.
    Shuffle(u64),
}

/// An order of so many things.
#[derive(Debug)]
pub struct Permutation {
    count: u64,
    order: Order,
    shuffled: Vec<u32>,
}

impl Order {
    /// `forward`, `reverse` or `shuffle:SEED`
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "forward" => Some(Self::Forward),
            "reverse" => Some(Self::Reverse),
            _ => text.strip_prefix("shuffle:")?.parse().ok().map(Self::Shuffle),
        }
    }

    /// This order of `count` things.
    pub fn permutation(self, count: u64) -> Permutation {
        let mut shuffled = Vec::new();
        if let Self::Shuffle(seed) = self {
            shuffled = (0..count as u32).collect();
            let mut state = seed;
            for last in (1..shuffled.len()).rev() {
                shuffled.swap(last, (split_mix(&mut state) % (last as u64 + 1)) as usize);
            }
        }
        Permutation { count, order: self, shuffled }
    }
}

/// The next number of the generator SplitMix64 (Steele, Lea, Flood 2014).
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

impl Permutation {
    /// What comes at a place.
    pub fn at(&self, place: u64) -> u64 {
        match self.order {
            Order::Forward => place,
            Order::Reverse => self.count - 1 - place,
            Order::Shuffle(_) => u64::from(self.shuffled[place as usize]),
        }
    }
}

/// Calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injectable {
    /// Allocations
    Alloc,
    /// Kernel launches
    Launch,
    /// Copies between host and device, and within a device
    Copy,
    /// Memsets
    Memset,
    /// Loading of modules
    Load,
    /// Creation and recording of events, and waiting for them on a stream
    Event,
}

impl Injectable {
    const NAMES: [(&'static str, Self); 6] = [
        ("alloc", Self::Alloc),
        ("launch", Self::Launch),
        ("copy", Self::Copy),
        ("memset", Self::Memset),
        ("load", Self::Load),
        ("event", Self::Event),
    ];
}

/// Makes one call fail.
#[derive(Debug)]
pub struct Injection {
    kind: Injectable,
    number: u64,
    seen: AtomicU64,
}

impl Injection {
    /// Fails the call of this kind and number, from 1.
    pub fn new(kind: Injectable, number: u64) -> Self {
        Self { kind, number, seen: AtomicU64::new(0) }
    }

    /// A kind and a number, as in `alloc:3`.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, number) = text.split_once(':')?;
        let (_, kind) = Injectable::NAMES.into_iter().find(|(name, _)| *name == kind)?;
        number.parse().ok().map(|number| Self::new(kind, number))
    }

    /// Several, with commas between.
    pub fn parse_list(text: &str) -> Option<Vec<Arc<Self>>> {
        text.split(',').map(|one| Self::parse(one.trim()).map(Arc::new)).collect()
    }

    /// Counts from here.
    pub fn restart(&self) {
        self.seen.store(0, Ordering::Relaxed);
    }

    /// Counts a call; whether it is the one to fail.
    pub fn strikes(&self, kind: Injectable) -> bool {
        kind == self.kind && self.seen.fetch_add(1, Ordering::Relaxed) + 1 == self.number
    }
}

/// What `.approx` instructions give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Approximation {
    /// The true value, rounded.
    #[default]
    Exact,
    /// Values within the documented error.
    Perturbed(Choice),
}

/// Which of the results that a documented error allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// One that a seed chooses for each operand.
    Seed(u64),
    /// The least, always: errors of one sign add up where others cancel.
    Least,
    /// The greatest, always.
    Greatest,
}

impl Approximation {
    /// `exact`, `perturb:SEED`, `perturb:least` or `perturb:greatest`
    pub fn parse(text: &str) -> Option<Self> {
        let choice = match (text, text.strip_prefix("perturb:")) {
            ("exact", _) => return Some(Self::Exact),
            (_, Some("least")) => Choice::Least,
            (_, Some("greatest")) => Choice::Greatest,
            (_, Some(seed)) => Choice::Seed(seed.parse().ok()?),
            (_, None) => return None,
        };
        Some(Self::Perturbed(choice))
    }
}

/// When the work of streams runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Streams {
    /// In the call that submits it.
    #[default]
    InOrder,
    /// When something waits for it.
    Late,
    /// At any time that its order allows, by a seed.
    Shuffle(u64),
}

impl Streams {
    /// `in-order`, `late` or `shuffle:SEED`
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "in-order" => Some(Self::InOrder),
            "late" => Some(Self::Late),
            _ => text.strip_prefix("shuffle:")?.parse().ok().map(Self::Shuffle),
        }
    }
}

/// What is done about things that were not given back when the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leaks {
    /// Nothing: the system takes them back.
    #[default]
    Ignored,
    /// They are listed, and the process fails.
    Fail,
}

impl Leaks {
    /// `0` or `1`
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Self::Ignored),
            "1" => Some(Self::Fail),
            _ => None,
        }
    }
}

/// How the emulator behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The devices.
    pub model: &'static Model,
    /// Order of blocks and warps.
    pub order: Order,
    /// Where each launch is reported.
    pub report: Option<PathBuf>,
    /// The folder that says where the instructions of each kernel are.
    pub profile: Option<PathBuf>,
    /// The calls that fail.
    pub injections: Vec<Arc<Injection>>,
    /// When the work of streams runs.
    pub streams: Streams,
    /// What is done about leaks.
    pub leaks: Leaks,
    /// Instructions that a warp may execute.
    pub step_limit: u64,
    /// Host threads of a launch.
    pub workers: usize,
    /// Blocks that a grid can have in its first dimension.
    pub max_grid: i32,
    /// What `.approx` instructions give.
    pub approximation: Approximation,
    /// The newest architecture, times ten, whose code is taken from images.
    pub newest_code: u32,
    /// Whether accesses are checked for races.
    pub races: Races,
    /// Whether a kernel may read device memory that nobody wrote.
    pub uninitialised: Uninitialised,
}

/// Whether accesses are checked for races.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Races {
    /// They are, which takes a third to three quarters more time.
    #[default]
    Checked,
    /// They are not.
    Unchecked,
}

/// What a read of device memory that nobody wrote is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Uninitialised {
    /// A fault.
    #[default]
    Refused,
    /// A read of 0xFF bytes.
    Allowed,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: &MODELS[MODELS.len() - 1],
            order: Order::Forward,
            report: None,
            profile: None,
            injections: Vec::new(),
            streams: Streams::InOrder,
            leaks: Leaks::Ignored,
            step_limit: 1_000_000_000,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            max_grid: i32::MAX,
            approximation: Approximation::Exact,
            newest_code: u32::MAX,
            races: Races::default(),
            uninitialised: Uninitialised::default(),
        }
    }
}

impl Settings {
    /// From `CUDA_EMULATOR_*`; the error names the variable and what it may hold.
    pub fn from_environment() -> Result<Self, String> {
        fn read<T>(
            name: &str,
            may_hold: &str,
            parse: impl Fn(&str) -> Option<T>,
        ) -> Result<Option<T>, String> {
            match std::env::var(name) {
                Ok(text) if text.is_empty() => Ok(None),
                Ok(text) => match parse(&text) {
                    Some(value) => Ok(Some(value)),
                    None => Err(format!("{name}={text}: {may_hold} expected")),
                },
                Err(_) => Ok(None),
            }
        }
        let mut settings = Self::default();
        if let Some(model) = read("CUDA_EMULATOR_DEVICE", "sm_70, sm_75, sm_80 or sm_90", named)? {
            settings.model = model;
        }
        let architecture = |text: &str| text.strip_prefix("sm_")?.parse().ok();
        let newest = read("CUDA_EMULATOR_NEWEST_CODE", "sm_75, sm_80, ...", architecture)?;
        settings.newest_code = newest.unwrap_or(settings.newest_code);
        let orders = "forward, reverse or shuffle:SEED";
        if let Some(order) = read("CUDA_EMULATOR_ORDER", orders, Order::parse)? {
            settings.order = order;
        }
        let results = "exact, perturb:SEED, perturb:least or perturb:greatest";
        if let Some(found) = read("CUDA_EMULATOR_APPROX", results, Approximation::parse)? {
            settings.approximation = found;
        }
        let calls = "alloc:N, launch:N, copy:N, memset:N, load:N, event:N, or several with commas";
        let injections = read("CUDA_EMULATOR_FAIL", calls, Injection::parse_list)?;
        settings.injections = injections.unwrap_or_default();
        let streams = "in-order, late or shuffle:SEED";
        if let Some(streams) = read("CUDA_EMULATOR_STREAMS", streams, Streams::parse)? {
            settings.streams = streams;
        }
        if let Some(leaks) = read("CUDA_EMULATOR_LEAKS", "0 or 1", Leaks::parse)? {
            settings.leaks = leaks;
        }
        if let Some(limit) = read("CUDA_EMULATOR_STEPS", "a number", |t| t.parse().ok())? {
            settings.step_limit = limit;
        }
        if let Some(workers) = read("CUDA_EMULATOR_THREADS", "a number", |t| t.parse().ok())? {
            settings.workers = workers;
        }
        let positive = |text: &str| text.parse().ok().filter(|&number| number > 0);
        if let Some(blocks) = read("CUDA_EMULATOR_MAX_GRID", "a number above 0", positive)? {
            settings.max_grid = blocks;
        }
        let races = |text: &str| match text {
            "1" => Some(Races::Checked),
            "0" => Some(Races::Unchecked),
            _ => None,
        };
        if let Some(races) = read("CUDA_EMULATOR_RACES", "0 or 1", races)? {
            settings.races = races;
        }
        let uninitialised = |text: &str| match text {
            "refuse" => Some(Uninitialised::Refused),
            "allow" => Some(Uninitialised::Allowed),
            _ => None,
        };
        let choices = "refuse or allow";
        if let Some(chosen) = read("CUDA_EMULATOR_UNINITIALISED", choices, uninitialised)? {
            settings.uninitialised = chosen;
        }
        settings.report = read("CUDA_EMULATOR_REPORT", "a path", |t| Some(PathBuf::from(t)))?;
        let folder = |text: &str| Some(PathBuf::from(text)).filter(|folder| folder.is_dir());
        settings.profile = read("CUDA_EMULATOR_PROFILE", "a folder", folder)?;
        Ok(settings)
    }
}
