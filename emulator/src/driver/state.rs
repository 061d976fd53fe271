//! What the process has made: contexts, modules, functions, streams, events, graphs, pinned memory.

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Handle, Result};
use crate::capture::CaptureMode;
use crate::context::{self, Context};
use crate::device::COUNT;
use crate::error::Error;
use crate::graph::{Executable, Graph};
use crate::ptx::PtxError;
use crate::ptx::ir::Kernel;
use crate::settings::Settings;
use crate::stream::{self, Blocking, Scheduler};

/// A kernel as `cuModuleGetFunction` gives it.
#[derive(Debug)]
pub struct Function {
    pub name: CString,
    pub module: Handle,
    pub context: Arc<Context>,
    /// Or why it cannot be executed.
    pub kernel: Result<Arc<Kernel>, PtxError>,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
    pub max_dynamic_shared_bytes: AtomicU64,
    /// Blocks that a cluster may have: `CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED` raises it.
    pub max_cluster_blocks: AtomicU32,
}

#[derive(Debug)]
pub struct Module {
    pub context: Arc<Context>,
    pub loaded: context::Module,
}

#[derive(Debug, Clone)]
pub struct Stream {
    pub stream: Arc<stream::Stream>,
    pub flags: u32,
    pub priority: i32,
}

#[derive(Debug, Clone)]
pub struct Event {
    pub event: Arc<stream::Event>,
    pub context: Arc<Context>,
    pub timed: bool,
}

/// Pinned host memory.
#[derive(Debug, Clone, Copy)]
pub struct Pinned {
    pub bytes: usize,
    /// How the emulator allocated it; nothing if the program did and registered it.
    pub layout: Option<Layout>,
    pub flags: u32,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Primary {
    pub handle: Handle,
    pub retained: u32,
    pub flags: u32,
}

#[derive(Debug, Clone)]
pub struct ContextEntry {
    pub context: Arc<Context>,
    pub device: i32,
    /// Its null stream.
    pub legacy: Arc<stream::Stream>,
    /// Contexts whose memory it may use.
    pub peers: Vec<Handle>,
}

/// Everything by handle.
#[derive(Debug, Default)]
pub struct Objects {
    next: Handle,
    pub contexts: HashMap<Handle, ContextEntry>,
    pub modules: HashMap<Handle, Module>,
    pub functions: HashMap<Handle, Arc<Function>>,
    pub streams: HashMap<Handle, Stream>,
    pub events: HashMap<Handle, Event>,
    pub graphs: HashMap<Handle, Arc<Mutex<Graph>>>,
    pub executables: HashMap<Handle, Arc<Executable>>,
    /// Graph and number of a node.
    pub nodes: HashMap<Handle, (Handle, usize)>,
    pub libraries: HashMap<Handle, Handle>,
    /// By their first address.
    pub pinned: BTreeMap<usize, Pinned>,
    /// Device memory from `cuMemAllocAsync`.
    pub stream_ordered: HashSet<u64>,
    pub primary: [Primary; COUNT as usize],
}

impl Objects {
    /// A handle that was never used.
    pub fn fresh(&mut self) -> Handle {
        // Above the handles that CUDA gives a meaning: null, legacy and per-thread stream.
        self.next = self.next.max(0x1000) + 16;
        self.next
    }

    pub fn new_context(&mut self, device: i32) -> Result<Handle> {
        let handle = self.fresh();
        let context = Arc::new(Context::new(settings()?.clone()));
        let legacy = Arc::new(scheduler()?.stream(&context, Blocking::Legacy));
        self.contexts.insert(handle, ContextEntry { context, device, legacy, peers: Vec::new() });
        Ok(handle)
    }

    /// Forgets a context that has ended, and all that belongs to it.
    fn remove_context(&mut self, handle: Handle) {
        let Some(entry) = self.contexts.remove(&handle) else {
            return;
        };
        let id = entry.context.id();
        self.modules.retain(|_, module| module.context.id() != id);
        self.functions.retain(|_, function| function.context.id() != id);
        self.libraries.retain(|_, module| self.modules.contains_key(module));
        self.streams.retain(|_, stream| stream.stream.context().id() != id);
        self.events.retain(|_, event| event.context.id() != id);
        self.stream_ordered.retain(|&address| Context::id_of_address(address) != id);
    }

    /// Pinned memory that holds all of a range, and where it starts.
    pub fn pinned_range(&self, start: usize, bytes: usize) -> Option<(usize, Pinned)> {
        let (&first, &pinned) = self.pinned.range(..=start).next_back()?;
        (start - first < pinned.bytes && bytes <= pinned.bytes - (start - first))
            .then_some((first, pinned))
    }

    /// The context that an address belongs to.
    pub fn context_of(&self, address: u64) -> Option<Arc<Context>> {
        let id = Context::id_of_address(address);
        self.contexts.values().find(|e| e.context.id() == id).map(|e| e.context.clone())
    }
}

/// Ends a context, after its work.
pub fn end_context(handle: Handle) -> Result {
    let id = {
        let objects = objects();
        objects.contexts.get(&handle).ok_or(Error::InvalidContext)?.context.id()
    };
    scheduler()?.forget_context(id);
    objects().remove_context(handle);
    Ok(())
}

static OBJECTS: OnceLock<Mutex<Objects>> = OnceLock::new();
static SCHEDULER: OnceLock<Scheduler> = OnceLock::new();
static SETTINGS: OnceLock<Result<Settings, String>> = OnceLock::new();

thread_local! {
    /// Contexts of this thread, the current one last; 0 for none.
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    /// This thread's own default stream in each context, by the context's number.
    static OWN_STREAMS: RefCell<HashMap<u64, Arc<stream::Stream>>> = RefCell::default();
    /// What captures may forbid this thread.
    static CAPTURE_MODE: Cell<CaptureMode> = const { Cell::new(CaptureMode::Global) };
}

pub fn objects() -> MutexGuard<'static, Objects> {
    // Every change is one insertion or removal: a panic leaves nothing half done.
    OBJECTS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Read once, at the first call.
pub fn settings() -> Result<&'static Settings> {
    match SETTINGS.get_or_init(Settings::from_environment) {
        Ok(settings) => Ok(settings),
        Err(text) => Err(Error::NotInitialised(text.clone())),
    }
}

/// Orders the work of all streams of the process.
pub fn scheduler() -> Result<&'static Scheduler> {
    let settings = settings()?;
    Ok(SCHEDULER.get_or_init(|| Scheduler::new(settings.streams)))
}

pub fn check_device(device: i32) -> Result<usize> {
    if (0..COUNT).contains(&device) {
        Ok(device as usize)
    } else {
        Err(Error::InvalidDevice(device))
    }
}

pub fn current_handle() -> Handle {
    STACK.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

pub fn set_current(handle: Handle) {
    STACK.with_borrow_mut(|stack| {
        stack.pop();
        if handle != 0 {
            stack.push(handle);
        }
    });
}

pub fn push_current(handle: Handle) {
    STACK.with_borrow_mut(|stack| stack.push(handle));
}

pub fn pop_current() -> Option<Handle> {
    STACK.with_borrow_mut(Vec::pop)
}

pub fn current_entry() -> Result<ContextEntry> {
    objects().contexts.get(&current_handle()).cloned().ok_or(Error::InvalidContext)
}

/// The current context.
pub fn current() -> Result<Arc<Context>> {
    current_entry().map(|entry| entry.context)
}

/// A stream by its handle. CUDA's special handles belong to the current context: 0 and 1 are its
/// legacy stream, 2 is the calling thread's own.
pub fn stream(handle: Handle) -> Result<Arc<stream::Stream>> {
    match handle {
        0 | 1 => Ok(current_entry()?.legacy),
        2 => {
            let context = current()?;
            let scheduler = scheduler()?;
            OWN_STREAMS.with_borrow_mut(|own| {
                let make = || Arc::new(scheduler.stream(&context, Blocking::WithLegacy));
                Ok(own.entry(context.id()).or_insert_with(make).clone())
            })
        }
        _ => {
            let objects = objects();
            let found = objects.streams.get(&handle).map(|stream| stream.stream.clone());
            found.ok_or(Error::InvalidHandle("stream"))
        }
    }
}

/// Keeps a call whose effect a graph would not have away from captures in progress.
pub fn uncaptured() -> Result {
    scheduler()?.permit_unsafe(CAPTURE_MODE.get())
}

pub fn exchange_capture_mode(mode: CaptureMode) -> CaptureMode {
    CAPTURE_MODE.replace(mode)
}

/// The context that holds an address, else the current one, whose error says what is wrong.
pub fn address_context(address: u64) -> Result<Arc<Context>> {
    let found = objects().context_of(address);
    found.map_or_else(current, Ok)
}
