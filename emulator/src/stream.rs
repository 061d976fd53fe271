//! Streams: what was submitted, what has to come before it, and when it runs.
//!
//! A [`Scheduler`] holds the work of all streams as items that name the items before them. By
//! [`Streams`] it runs an item when it is submitted, when something waits for it, or at any time that
//! the order allows. While a stream is captured its work goes into a [`Graph`](crate::graph::Graph)
//! instead; `capture.rs` has that half of the scheduler.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crate::capture::{Capture, CaptureError, CaptureId};
use crate::context::{Context, LastLaunch};
use crate::error::Error;
use crate::settings::{Streams, split_mix};

/// Items that may wait before a submission runs the oldest: a GPU's queues end somewhere, too.
const MOST_PENDING: usize = 4096;
/// The same where a submission runs items anyway.
const MOST_PENDING_SHUFFLED: usize = 128;

/// What kind of work, as graphs number their nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A kernel.
    Kernel,
    /// A copy.
    Copy,
    /// A memset.
    Fill,
    /// A function of the host.
    Host,
    /// Nothing but order.
    Empty,
    /// Memory that exists from here on.
    Allocate,
    /// Memory that exists up to here.
    Free,
}

/// Something that a stream does, once or, in a graph, many times.
#[derive(Clone)]
pub struct Work {
    kind: Kind,
    context: Arc<Context>,
    allocation: Option<u64>,
    action: Arc<dyn Fn() -> Result<(), Error> + Send + Sync>,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in context {}", self.kind, self.context.id())
    }
}

impl Work {
    /// Work on a context. The action must not wait for the scheduler.
    pub fn new(
        kind: Kind,
        context: &Arc<Context>,
        action: impl Fn() -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        Self { kind, context: context.clone(), allocation: None, action: Arc::new(action) }
    }

    /// Makes a reserved address usable.
    pub fn allocate(context: &Arc<Context>, address: u64, bytes: u64) -> Self {
        let on = context.clone();
        let work = Self::new(Kind::Allocate, context, move || on.place(address, bytes));
        Self { allocation: Some(address), ..work }
    }

    /// Frees an allocation.
    pub fn free(context: &Arc<Context>, address: u64) -> Self {
        let on = context.clone();
        Self::new(Kind::Free, context, move || on.free(address))
    }

    /// Only takes its place in the order.
    pub fn nothing(context: &Arc<Context>) -> Self {
        Self::new(Kind::Empty, context, || Ok(()))
    }

    /// What kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address that it makes usable.
    pub fn allocation(&self) -> Option<u64> {
        self.allocation
    }

    /// The context that it works on.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn run(&self) -> Result<(), Error> {
        self.context.check()?;
        (self.action)()
    }

    /// Runs it where no call is left that could return its error: the context keeps that.
    fn run_detached(&self) {
        let result = catch_unwind(AssertUnwindSafe(|| self.run()))
            .unwrap_or_else(|_| Err(Error::Panic("in work that a stream had put off".into())));
        match result {
            Ok(()) | Err(Error::Sticky(_)) => {}
            Err(Error::Fault(report)) => eprintln!("cuda-emulator: {report}"),
            Err(error) => {
                eprintln!("cuda-emulator: {:?} work of a stream: {error}", self.kind);
                // What was in order when it was submitted is an illegal address by now.
                let code = if matches!(error, Error::InvalidValue(_)) { 700 } else { error.code() };
                self.context.fail(code);
            }
        }
    }
}

/// How a stream stands to the legacy null stream of its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// It is the null stream.
    Legacy,
    /// It waits for the null stream, and the null stream for it.
    WithLegacy,
    /// They ignore each other.
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ItemId(u64);

/// A stream of a context.
#[derive(Debug)]
pub struct Stream {
    pub(crate) id: StreamId,
    context: Arc<Context>,
    blocking: Blocking,
    /// Of the work submitted last, if that is a kernel.
    last_launch: Mutex<Arc<LastLaunch>>,
}

impl Stream {
    /// A launch takes the place of the stream's last work: its own entry, and the one before.
    pub fn next_launch(&self) -> (Arc<LastLaunch>, Arc<LastLaunch>) {
        let this = Arc::new(LastLaunch::default());
        let mut last = self.last_launch.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *last, this.clone());
        (this, before)
    }

    /// Its context.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// How it stands to the null stream.
    pub fn blocking(&self) -> Blocking {
        self.blocking
    }
}

/// A place in a stream's work that others can wait for.
#[derive(Debug, Default)]
pub struct Event {
    pub(crate) recorded: Mutex<Recorded>,
}

#[derive(Debug, Default, Clone)]
pub(crate) enum Recorded {
    #[default]
    Never,
    /// Behind this item, which sets the time; without one it is done.
    At { item: Option<ItemId>, time: Arc<OnceLock<Instant>> },
    /// Behind these nodes of a captured graph.
    Captured { capture: CaptureId, after: Vec<usize> },
}

impl Event {
    pub(crate) fn recorded(&self) -> Recorded {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, recorded: Recorded) {
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = recorded;
    }

    /// When it was reached; nothing before that, or if it was never recorded.
    pub fn time(&self) -> Option<Instant> {
        match self.recorded() {
            Recorded::At { time, .. } => time.get().copied(),
            _ => None,
        }
    }

    /// Whether it was recorded outside of captures.
    pub fn is_recorded(&self) -> bool {
        matches!(self.recorded(), Recorded::At { .. })
    }
}

/// What a query finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left to wait for.
    Done,
    /// Something was left; the query ran a piece of it.
    Pending,
}

#[derive(Debug)]
struct Item {
    work: Work,
    after: Vec<ItemId>,
}

#[derive(Debug)]
pub(crate) struct StreamState {
    pub context: u64,
    pub blocking: Blocking,
    last: Option<ItemId>,
    /// The capture that takes its work, and the nodes that the next one follows.
    pub capture: Option<(CaptureId, Vec<usize>)>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    items: u64,
    pending: BTreeMap<ItemId, Item>,
    running: BTreeMap<ItemId, u64>,
    next_stream: u64,
    pub streams: HashMap<StreamId, StreamState>,
    pub next_capture: u64,
    pub captures: BTreeMap<CaptureId, Capture>,
    random: u64,
}

impl State {
    fn is_done(&self, item: ItemId) -> bool {
        !self.pending.contains_key(&item) && !self.running.contains_key(&item)
    }

    fn is_ready(&self, item: ItemId) -> bool {
        let found = self.pending.get(&item);
        found.is_some_and(|item| item.after.iter().all(|&before| self.is_done(before)))
    }

    /// Those of the items that are not done, with all that has to be done for them.
    fn needed(&self, items: &[ItemId]) -> BTreeSet<ItemId> {
        let mut needed = BTreeSet::new();
        let mut open: Vec<ItemId> = items.to_vec();
        while let Some(item) = open.pop() {
            if !self.is_done(item)
                && needed.insert(item)
                && let Some(found) = self.pending.get(&item)
            {
                open.extend(&found.after);
            }
        }
        needed
    }

    fn random_ready(&mut self) -> Option<ItemId> {
        let ready: Vec<ItemId> =
            self.pending.keys().copied().filter(|&item| self.is_ready(item)).collect();
        let at = split_mix(&mut self.random).checked_rem(ready.len() as u64)?;
        ready.get(at as usize).copied()
    }

    /// The last items of the streams that an operation on this one follows.
    fn before(&self, stream: &Stream) -> Vec<ItemId> {
        let context = stream.context.id();
        let follows = |id: &StreamId, other: &StreamState| {
            *id == stream.id
                || other.context == context
                    && match stream.blocking {
                        Blocking::Legacy => other.blocking != Blocking::No,
                        Blocking::WithLegacy => other.blocking == Blocking::Legacy,
                        Blocking::No => false,
                    }
        };
        let streams = self.streams.iter().filter(|(id, other)| follows(id, other));
        let last = streams.filter_map(|(_, other)| other.last);
        last.filter(|&item| !self.is_done(item)).collect()
    }

    fn push(&mut self, work: Work, after: Vec<ItemId>) -> ItemId {
        self.items += 1;
        let id = ItemId(self.items);
        self.pending.insert(id, Item { work, after });
        id
    }

    fn of_context(&self, context: u64) -> Vec<ItemId> {
        let pending = self.pending.iter().filter(|(_, item)| item.work.context.id() == context);
        let running = self.running.iter().filter(|(_, on)| **on == context);
        pending.map(|(id, _)| *id).chain(running.map(|(id, _)| *id)).collect()
    }
}

/// Orders and runs the work of streams.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) mode: Streams,
    state: Mutex<State>,
    changed: Condvar,
}

impl Scheduler {
    /// Without work.
    pub fn new(mode: Streams) -> Self {
        let seed = if let Streams::Shuffle(seed) = mode { seed } else { 0 };
        let state = State { random: seed, ..State::default() };
        Self { mode, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Whether work is done when the call that submits it returns.
    pub fn is_immediate(&self) -> bool {
        self.mode == Streams::InOrder
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Work runs outside of the lock; inside, nothing is half done where it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new stream.
    pub fn stream(&self, context: &Arc<Context>, blocking: Blocking) -> Stream {
        let mut state = self.lock();
        state.next_stream += 1;
        let id = StreamId(state.next_stream);
        let context_id = context.id();
        let entry = StreamState { context: context_id, blocking, last: None, capture: None };
        state.streams.insert(id, entry);
        Stream { id, context: context.clone(), blocking, last_launch: Mutex::default() }
    }

    /// Takes a stream away. What was submitted to it will still be done, and the null stream waits
    /// for it. A capture that it took part in is invalid.
    pub fn forget(&self, stream: &Stream) {
        let mut state = self.lock();
        state.invalidate_capture_of(stream.id);
        let Some(entry) = state.streams.remove(&stream.id) else {
            return;
        };
        if let Some(last) = entry.last.filter(|&last| !state.is_done(last)) {
            // An unnamed stream of the same kind keeps its place.
            state.next_stream += 1;
            let id = StreamId(state.next_stream);
            state.streams.insert(id, StreamState { last: Some(last), capture: None, ..entry });
        }
    }

    /// Forgets all streams of a context, after its last work.
    pub fn forget_context(&self, context: u64) {
        self.wait_context(context);
        let mut state = self.lock();
        state.streams.retain(|_, stream| stream.context != context);
        state.captures.retain(|_, capture| capture.context != context);
    }

    /// Adds work to a stream, or to the graph that the stream is captured into.
    pub fn submit(&self, stream: &Stream, work: Work) -> Result<(), Error> {
        self.submit_after(stream, work, None).map(|_| ())
    }

    /// The same, after one more item. The item is given if the work is not done yet.
    fn submit_after(
        &self,
        stream: &Stream,
        work: Work,
        also_after: Option<ItemId>,
    ) -> Result<Option<ItemId>, Error> {
        stream.context.check()?;
        if work.kind != Kind::Kernel {
            // Only a kernel can let the next one begin before its end.
            stream.next_launch();
        }
        let mut state = self.lock();
        if state.capture_work(stream, &work)?.is_some() {
            return Ok(None);
        }
        if self.is_immediate() {
            drop(state);
            return work.run().map(|()| None);
        }
        let mut after = state.before(stream);
        after.extend(also_after);
        let item = state.push(work, after);
        self.submitted(state, stream, item);
        Ok(Some(item))
    }

    /// Takes note of a stream's last item, and runs what may run at once.
    fn submitted<'a>(&'a self, mut state: MutexGuard<'a, State>, stream: &Stream, item: ItemId) {
        if let Some(entry) = state.streams.get_mut(&stream.id) {
            entry.last = Some(item);
        }
        let shuffled = matches!(self.mode, Streams::Shuffle(_));
        let mut runs = if shuffled { split_mix(&mut state.random) % 3 } else { 0 };
        let most = if shuffled { MOST_PENDING_SHUFFLED } else { MOST_PENDING };
        runs += state.pending.len().saturating_sub(most) as u64;
        for _ in 0..runs {
            let next = if shuffled {
                state.random_ready()
            } else {
                state.pending.keys().copied().find(|&item| state.is_ready(item))
            };
            match next {
                Some(item) => state = self.run(state, item),
                None => break,
            }
        }
    }

    /// Submits a graph's nodes in their order: `after[n]` are the nodes before node n. It follows the
    /// graph's launch before it, whose end is kept in `before`.
    pub(crate) fn submit_nodes(
        &self,
        stream: &Stream,
        nodes: &[(Work, Vec<usize>)],
        before: &Mutex<Option<ItemId>>,
    ) -> Result<(), Error> {
        stream.context.check()?;
        let mut state = self.lock();
        if state.capture_nodes(stream, nodes)?.is_some() {
            return Ok(());
        }
        if self.is_immediate() {
            drop(state);
            return nodes.iter().try_for_each(|(work, _)| work.run());
        }
        let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = state.before(stream);
        first.extend(before.filter(|&item| !state.is_done(item)));
        let mut items = Vec::with_capacity(nodes.len());
        for (work, after) in nodes {
            let mut after: Vec<ItemId> = after.iter().map(|&node| items[node]).collect();
            if after.is_empty() {
                after.clone_from(&first);
            }
            items.push(state.push(work.clone(), after));
        }
        first.extend(items);
        let end = state.push(Work::nothing(&stream.context), first);
        *before = Some(end);
        drop(before);
        self.submitted(state, stream, end);
        Ok(())
    }

    /// Runs a pending item outside of the lock.
    fn run<'a>(&'a self, mut state: MutexGuard<'a, State>, id: ItemId) -> MutexGuard<'a, State> {
        let Some(item) = state.pending.remove(&id) else {
            return state;
        };
        state.running.insert(id, item.work.context.id());
        drop(state);
        item.work.run_detached();
        let mut state = self.lock();
        state.running.remove(&id);
        self.changed.notify_all();
        state
    }

    fn run_until_done<'a>(&'a self, mut state: MutexGuard<'a, State>, items: &[ItemId]) {
        let mut needed = state.needed(items);
        loop {
            needed.retain(|&item| !state.is_done(item));
            if items.iter().all(|item| !needed.contains(item)) {
                return;
            }
            let next = match self.mode {
                Streams::Shuffle(_) => state.random_ready(),
                _ => needed.iter().copied().find(|&item| state.is_ready(item)),
            };
            state = match next {
                Some(item) => self.run(state, item),
                // Another thread runs what is needed.
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn progress<'a>(&'a self, state: MutexGuard<'a, State>, items: &[ItemId]) -> Progress {
        let needed = state.needed(items);
        if needed.is_empty() {
            return Progress::Done;
        }
        if let Some(&item) = needed.iter().find(|&&item| state.is_ready(item)) {
            drop(self.run(state, item));
        }
        Progress::Pending
    }

    /// Waits for all work of a stream.
    pub fn wait_stream(&self, stream: &Stream) -> Result<(), Error> {
        let mut state = self.lock();
        state.forbid_captured(stream)?;
        let items = state.before(stream);
        self.run_until_done(state, &items);
        stream.context.check()
    }

    /// Whether all work of a stream is done.
    pub fn query_stream(&self, stream: &Stream) -> Result<Progress, Error> {
        let mut state = self.lock();
        state.forbid_captured(stream)?;
        let items = state.before(stream);
        let progress = self.progress(state, &items);
        stream.context.check().map(|()| progress)
    }

    /// Waits for all work of a context.
    pub fn wait_context(&self, context: u64) {
        let state = self.lock();
        let items = state.of_context(context);
        self.run_until_done(state, &items);
    }

    /// Waits for all work.
    pub fn wait_all(&self) {
        let state = self.lock();
        let items: Vec<ItemId> =
            state.pending.keys().chain(state.running.keys()).copied().collect();
        self.run_until_done(state, &items);
    }

    /// Records an event behind what a stream has to do by now.
    pub fn record(&self, event: &Event, stream: &Stream) -> Result<(), Error> {
        let captured = self.lock().captured_place(stream)?;
        if let Some((capture, after)) = captured {
            event.set(Recorded::Captured { capture, after });
            return Ok(());
        }
        let time = Arc::new(OnceLock::new());
        let reached = time.clone();
        let work = Work::new(Kind::Empty, &stream.context, move || {
            let _ = reached.set(Instant::now());
            Ok(())
        });
        let item = self.submit_after(stream, work, None)?;
        event.set(Recorded::At { item, time });
        Ok(())
    }

    /// Lets a stream wait for what an event was recorded behind by now. Across a capture's border
    /// that joins the stream to the capture, or is an error.
    pub fn wait_for_event(&self, stream: &Stream, event: &Event) -> Result<(), Error> {
        stream.context.check()?;
        match event.recorded() {
            Recorded::Never => Ok(()),
            Recorded::Captured { capture, after } => self.lock().join(stream, capture, &after),
            Recorded::At { item, .. } => {
                self.lock().forbid_dependency(stream)?;
                let item = item.filter(|&item| !self.lock().is_done(item));
                self.submit_after(stream, Work::nothing(&stream.context), item).map(|_| ())
            }
        }
    }

    fn item_of(&self, event: &Event) -> Result<Vec<ItemId>, Error> {
        match event.recorded() {
            Recorded::Captured { capture, .. } => {
                self.lock().invalidate(capture);
                Err(CaptureError::CapturedEvent.into())
            }
            Recorded::At { item, .. } => Ok(item.into_iter().collect()),
            Recorded::Never => Ok(Vec::new()),
        }
    }

    /// Waits on the host for an event.
    pub fn wait_event(&self, event: &Event) -> Result<(), Error> {
        let items = self.item_of(event)?;
        self.run_until_done(self.lock(), &items);
        Ok(())
    }

    /// Whether an event was reached.
    pub fn query_event(&self, event: &Event) -> Result<Progress, Error> {
        let items = self.item_of(event)?;
        Ok(self.progress(self.lock(), &items))
    }
}
