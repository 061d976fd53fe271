//! Capture: streams whose work goes into a graph. The half of the [`Scheduler`] that keeps the rules.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use crate::error::Error;
use crate::graph::Graph;
use crate::stream::{Blocking, Scheduler, State, Stream, StreamId, Work};

/// What a capture, or what is done near one, can fail with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// A stream that is, or is not, captured already.
    #[error("the stream's capture is in another state")]
    IllegalState,
    /// A call that has no place in a graph.
    #[error("not permitted while a stream is captured")]
    Unsupported,
    /// The capture went wrong before.
    #[error("the capture was invalidated by an earlier error")]
    Invalidated,
    /// Two captures would become one.
    #[error("an event would merge two captures")]
    Merge,
    /// Ended on a stream that it did not begin on.
    #[error("the capture did not begin on this stream")]
    Unmatched,
    /// A stream that joined was not waited for.
    #[error("a stream that joined the capture was not joined back to its first stream")]
    Unjoined,
    /// An event from outside of the capture.
    #[error("a captured stream would depend on an event from outside of the capture")]
    Isolation,
    /// The legacy stream beside a captured blocking one.
    #[error("the legacy stream would wait for a captured stream")]
    Implicit,
    /// An event that stands for a place in a graph.
    #[error("the event was last recorded in a captured stream")]
    CapturedEvent,
    /// Ended by another thread.
    #[error("the capture was begun by another thread")]
    WrongThread,
}

impl CaptureError {
    /// The `CUresult`.
    pub fn code(self) -> u32 {
        match self {
            Self::IllegalState => 401,
            Self::Unsupported => 900,
            Self::Invalidated => 901,
            Self::Merge => 902,
            Self::Unmatched => 903,
            Self::Unjoined => 904,
            Self::Isolation => 905,
            Self::Implicit => 906,
            Self::CapturedEvent => 907,
            Self::WrongThread => 908,
        }
    }
}

/// Whose calls a capture restricts, and whose captures restrict a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CaptureMode {
    /// All threads.
    #[default]
    Global,
    /// The capturing thread.
    ThreadLocal,
    /// Nobody.
    Relaxed,
}

/// Whether a stream is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureStatus {
    /// It is not.
    None,
    /// It is.
    Active {
        /// The capture's number.
        id: u64,
        /// The nodes that the next one follows.
        after: Vec<usize>,
    },
    /// It was, until something went wrong.
    Invalidated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CaptureId(u64);

#[derive(Debug)]
pub(crate) struct Capture {
    pub context: u64,
    origin: StreamId,
    mode: CaptureMode,
    thread: ThreadId,
    graph: Arc<Mutex<Graph>>,
    validity: Validity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Validity {
    Valid,
    Invalid,
}

impl State {
    pub(crate) fn invalidate(&mut self, capture: CaptureId) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.validity = Validity::Invalid;
        }
    }

    fn capture_of(&self, stream: StreamId) -> Option<CaptureId> {
        self.streams.get(&stream)?.capture.as_ref().map(|(capture, _)| *capture)
    }

    pub(crate) fn invalidate_capture_of(&mut self, stream: StreamId) {
        if let Some(capture) = self.capture_of(stream) {
            self.invalidate(capture);
        }
    }

    fn is_valid(&self, capture: CaptureId) -> bool {
        self.captures.get(&capture).is_some_and(|c| c.validity == Validity::Valid)
    }

    /// Invalidates a stream's capture, which the error is about.
    fn refuse<T>(&mut self, stream: &Stream, error: CaptureError) -> Result<T, Error> {
        self.invalidate_capture_of(stream.id);
        Err(error.into())
    }

    /// The capture of a stream and the nodes that its next one follows. An error where the stream is
    /// the legacy one and would wait for a captured one.
    pub(crate) fn captured_place(
        &mut self,
        stream: &Stream,
    ) -> Result<Option<(CaptureId, Vec<usize>)>, Error> {
        let place = self.streams.get(&stream.id).and_then(|entry| entry.capture.clone());
        if let Some((capture, _)) = &place
            && !self.is_valid(*capture)
        {
            return Err(CaptureError::Invalidated.into());
        }
        let beside = self.captures_beside(stream);
        if !beside.is_empty() {
            beside.into_iter().for_each(|capture| self.invalidate(capture));
            return Err(CaptureError::Implicit.into());
        }
        Ok(place)
    }

    /// Captures of streams that the legacy one waits for, if it is that one.
    fn captures_beside(&self, stream: &Stream) -> Vec<CaptureId> {
        if stream.blocking() != Blocking::Legacy || self.captures.is_empty() {
            return Vec::new();
        }
        let beside = self.streams.values().filter(|other| {
            other.context == stream.context().id() && other.blocking == Blocking::WithLegacy
        });
        beside.filter_map(|other| Some(other.capture.as_ref()?.0)).collect()
    }

    /// Takes work into the graph of a captured stream.
    pub(crate) fn capture_work(
        &mut self,
        stream: &Stream,
        work: &Work,
    ) -> Result<Option<()>, Error> {
        self.capture_nodes(stream, &[(work.clone(), Vec::new())])
    }

    /// Takes a graph's nodes into the graph of a captured stream.
    pub(crate) fn capture_nodes(
        &mut self,
        stream: &Stream,
        nodes: &[(Work, Vec<usize>)],
    ) -> Result<Option<()>, Error> {
        let Some((capture, after)) = self.captured_place(stream)? else {
            return Ok(None);
        };
        let entry = &self.captures[&capture];
        let mut graph = entry.graph.lock().unwrap_or_else(PoisonError::into_inner);
        let added = graph.append(nodes, &after);
        drop(graph);
        // An empty graph changes nothing.
        if !added.is_empty()
            && let Some(stream) = self.streams.get_mut(&stream.id)
        {
            stream.capture = Some((capture, added));
        }
        Ok(Some(()))
    }

    /// Waiting for a captured stream, which will do nothing.
    pub(crate) fn forbid_captured(&mut self, stream: &Stream) -> Result<(), Error> {
        match self.captured_place(stream)? {
            Some(_) => self.refuse(stream, CaptureError::Unsupported),
            None => Ok(()),
        }
    }

    /// Letting a captured stream wait for something outside of its graph.
    pub(crate) fn forbid_dependency(&mut self, stream: &Stream) -> Result<(), Error> {
        match self.captured_place(stream)? {
            Some(_) => self.refuse(stream, CaptureError::Isolation),
            None => Ok(()),
        }
    }

    /// Lets a stream go on behind nodes of a capture.
    pub(crate) fn join(
        &mut self,
        stream: &Stream,
        capture: CaptureId,
        nodes: &[usize],
    ) -> Result<(), Error> {
        match self.captures.get(&capture) {
            None => return Err(CaptureError::CapturedEvent.into()),
            Some(found) if found.validity == Validity::Invalid => {
                return Err(CaptureError::Invalidated.into());
            }
            Some(_) => {}
        }
        if stream.blocking() == Blocking::Legacy {
            self.invalidate(capture);
            return Err(CaptureError::Implicit.into());
        }
        let mut after = match self.captured_place(stream)? {
            Some((other, _)) if other != capture => {
                self.invalidate(capture);
                return self.refuse(stream, CaptureError::Merge);
            }
            Some((_, after)) => after,
            None => Vec::new(),
        };
        after.extend(nodes);
        after.sort_unstable();
        after.dedup();
        if let Some(entry) = self.streams.get_mut(&stream.id) {
            entry.capture = Some((capture, after));
        }
        Ok(())
    }

    /// Takes a capture away from its streams.
    fn end(&mut self, id: CaptureId) -> Option<Capture> {
        for stream in self.streams.values_mut() {
            if stream.capture.as_ref().is_some_and(|(capture, _)| *capture == id) {
                stream.capture = None;
            }
        }
        self.captures.remove(&id)
    }
}

impl Scheduler {
    /// From here on a stream's work goes into a new graph.
    pub fn begin_capture(&self, stream: &Stream, mode: CaptureMode) -> Result<(), Error> {
        stream.context().check()?;
        if stream.blocking() == Blocking::Legacy {
            return Err(CaptureError::Unsupported.into());
        }
        let mut state = self.lock();
        if state.capture_of(stream.id).is_some() {
            return Err(CaptureError::IllegalState.into());
        }
        state.next_capture += 1;
        let id = CaptureId(state.next_capture);
        let capture = Capture {
            context: stream.context().id(),
            origin: stream.id,
            mode,
            thread: thread::current().id(),
            graph: Arc::default(),
            validity: Validity::Valid,
        };
        state.captures.insert(id, capture);
        if let Some(entry) = state.streams.get_mut(&stream.id) {
            entry.capture = Some((id, Vec::new()));
        }
        Ok(())
    }

    /// Ends a stream's capture; the graph that it made.
    pub fn end_capture(&self, stream: &Stream) -> Result<Arc<Mutex<Graph>>, Error> {
        let mut state = self.lock();
        let Some(id) = state.capture_of(stream.id) else {
            return Err(CaptureError::IllegalState.into());
        };
        let Some(capture) = state.captures.get(&id) else {
            return Err(CaptureError::IllegalState.into());
        };
        if capture.origin != stream.id {
            return state.refuse(stream, CaptureError::Unmatched);
        }
        if capture.mode != CaptureMode::Relaxed && capture.thread != thread::current().id() {
            return Err(CaptureError::WrongThread.into());
        }
        let ends: Vec<(StreamId, Vec<usize>)> = state
            .streams
            .iter()
            .filter_map(|(id, entry)| Some((*id, entry.capture.clone()?)))
            .filter_map(|(stream, (capture, after))| (capture == id).then_some((stream, after)))
            .collect();
        let Some(capture) = state.end(id) else {
            return Err(CaptureError::IllegalState.into());
        };
        drop(state);
        if capture.validity == Validity::Invalid {
            return Err(CaptureError::Invalidated.into());
        }
        let graph = capture.graph.lock().unwrap_or_else(PoisonError::into_inner);
        let at_origin = ends.iter().find(|(id, _)| *id == stream.id);
        let joined: BTreeSet<usize> =
            graph.with_all_before(at_origin.map_or(&[][..], |(_, after)| after));
        drop(graph);
        if ends.iter().any(|(_, after)| after.iter().any(|node| !joined.contains(node))) {
            return Err(CaptureError::Unjoined.into());
        }
        Ok(capture.graph)
    }

    /// Whether a stream is captured. The legacy stream beside a captured one may not ask, but asking changes nothing.
    pub fn capture_status(&self, stream: &Stream) -> Result<CaptureStatus, Error> {
        let mut state = self.lock();
        if !state.captures_beside(stream).is_empty() {
            return Err(CaptureError::Implicit.into());
        }
        match state.captured_place(stream) {
            Ok(None) => Ok(CaptureStatus::None),
            Ok(Some((id, after))) => Ok(CaptureStatus::Active { id: id.0, after }),
            Err(Error::Capture(CaptureError::Invalidated)) => Ok(CaptureStatus::Invalidated),
            Err(error) => Err(error),
        }
    }

    /// Whether work that is about to be formed goes into a graph.
    pub fn takes_work(&self, stream: &Stream) -> Result<bool, Error> {
        match self.lock().captured_place(stream) {
            Ok(place) => Ok(place.is_some()),
            Err(Error::Capture(CaptureError::Invalidated)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The graph that a stream's work goes into.
    pub fn captured_graph(&self, stream: &Stream) -> Option<Arc<Mutex<Graph>>> {
        let state = self.lock();
        let id = state.capture_of(stream.id)?;
        state.captures.get(&id).map(|capture| capture.graph.clone())
    }

    /// For calls that cannot be captured: refused on a captured stream, whose capture is invalid then.
    pub fn refuse_captured(&self, stream: &Stream) -> Result<(), Error> {
        self.lock().forbid_captured(stream)
    }

    /// For calls that a capture would not see, such as an allocation: refused, and the captures that
    /// restrict this thread invalidated, if there are any. `mode` is the thread's.
    pub fn permit_unsafe(&self, mode: CaptureMode) -> Result<(), Error> {
        let mut state = self.lock();
        if state.captures.is_empty() || mode == CaptureMode::Relaxed {
            return Ok(());
        }
        let here = thread::current().id();
        let restricts = |capture: &Capture| match capture.mode {
            CaptureMode::Relaxed => false,
            _ if capture.thread == here => true,
            of_other => of_other == CaptureMode::Global && mode == CaptureMode::Global,
        };
        let mut refused = false;
        for capture in state.captures.values_mut().filter(|capture| restricts(capture)) {
            capture.validity = Validity::Invalid;
            refused = true;
        }
        if refused { Err(CaptureError::Unsupported.into()) } else { Ok(()) }
    }

    /// For waiting for a whole context, which a capture in it forbids to all.
    pub fn permit_wait(&self, context: u64) -> Result<(), Error> {
        let mut state = self.lock();
        let mut captures = state.captures.values_mut().filter(|c| c.context == context);
        match captures.next() {
            None => Ok(()),
            Some(first) => {
                first.validity = Validity::Invalid;
                captures.for_each(|capture| capture.validity = Validity::Invalid);
                Err(CaptureError::Unsupported.into())
            }
        }
    }
}
