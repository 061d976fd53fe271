//! What the process has made: contexts, modules, functions, streams, events, pinned memory.

use std::alloc::Layout;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::{Handle, Result};
use crate::context::{self, Context};
use crate::device::COUNT;
use crate::error::Error;
use crate::ptx::PtxError;
use crate::ptx::ir::Kernel;
use crate::settings::Settings;

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
}

#[derive(Debug)]
pub struct Module {
    pub context: Arc<Context>,
    pub loaded: context::Module,
}

#[derive(Debug, Clone)]
pub struct Stream {
    pub context: Arc<Context>,
    pub flags: u32,
    pub priority: i32,
}

#[derive(Debug, Clone)]
pub struct Event {
    pub context: Arc<Context>,
    pub timed: bool,
    pub recorded: Option<Instant>,
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
    pub pinned: HashMap<usize, Layout>,
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
        self.contexts.insert(handle, ContextEntry { context, device });
        Ok(handle)
    }

    /// Ends a context and all that belongs to it.
    pub fn end_context(&mut self, handle: Handle) -> Result {
        let Some(entry) = self.contexts.remove(&handle) else {
            return Err(Error::InvalidContext);
        };
        let id = entry.context.id();
        self.modules.retain(|_, module| module.context.id() != id);
        self.functions.retain(|_, function| function.context.id() != id);
        self.streams.retain(|_, stream| stream.context.id() != id);
        self.events.retain(|_, event| event.context.id() != id);
        Ok(())
    }

    /// The context that an address belongs to.
    pub fn context_of(&self, address: u64) -> Option<Arc<Context>> {
        let id = Context::id_of_address(address);
        self.contexts.values().find(|e| e.context.id() == id).map(|e| e.context.clone())
    }
}

static OBJECTS: OnceLock<Mutex<Objects>> = OnceLock::new();
static SETTINGS: OnceLock<Result<Settings, String>> = OnceLock::new();

thread_local! {
    /// Contexts of this thread, the current one last; 0 for none.
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
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

/// The context of a stream; null and CUDA's two special handles mean the current one.
pub fn stream_context(stream: Handle) -> Result<Arc<Context>> {
    if stream <= 2 {
        return current();
    }
    let objects = objects();
    objects.streams.get(&stream).map(|s| s.context.clone()).ok_or(Error::InvalidHandle("stream"))
}

/// The context that holds an address, else the current one, whose error says what is wrong.
pub fn address_context(address: u64) -> Result<Arc<Context>> {
    let found = objects().context_of(address);
    found.map_or_else(current, Ok)
}
