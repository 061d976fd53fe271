//! `cuStream*`, `cuEvent*`: handles for what `stream.rs` and `capture.rs` do.

use std::ffi::c_void;
use std::sync::Arc;

use super::graph::graph_handle;
use super::launch::{callback, settle};
use super::state::{
    self, Event, Stream, current, current_handle, exchange_capture_mode, objects, scheduler,
    uncaptured,
};
use super::{Handle, Out, Result, api};
use crate::capture::{CaptureMode, CaptureStatus};
use crate::error::Error;
use crate::stream::{Blocking, Kind, Progress, Work};

/// `CU_STREAM_NON_BLOCKING`
const NON_BLOCKING: u32 = 1;
/// `CU_EVENT_DISABLE_TIMING`
const UNTIMED: u32 = 2;

fn event(handle: Handle) -> Result<Event> {
    objects().events.get(&handle).cloned().ok_or(Error::InvalidHandle("event"))
}

fn create(stream: &Out<Handle>, flags: u32, priority: i32) -> Result {
    let context = current()?;
    context.check()?;
    if flags > NON_BLOCKING {
        return Err(Error::InvalidValue(format!("stream flags {flags}")));
    }
    let blocking = if flags == NON_BLOCKING { Blocking::No } else { Blocking::WithLegacy };
    let made = Arc::new(scheduler()?.stream(&context, blocking));
    let mut objects = objects();
    let handle = objects.fresh();
    // Beyond the range that cuCtxGetStreamPriorityRange gives, a priority is the nearest in it.
    let priority = priority.clamp(-5, 0);
    objects.streams.insert(handle, Stream { stream: made, flags, priority });
    stream.set(handle)
}

fn elapsed(milliseconds: &Out<f32>, start: Handle, end: Handle) -> Result {
    let (start, end) = (event(start)?, event(end)?);
    for event in [&start, &end] {
        event.context.check()?;
        if !event.timed || !event.event.is_recorded() {
            return Err(Error::InvalidHandle("timed and recorded event"));
        }
    }
    match (start.event.time(), end.event.time()) {
        (Some(from), Some(to)) => {
            milliseconds.set(to.saturating_duration_since(from).as_secs_f32() * 1e3)
        }
        _ => Err(Error::NotReady),
    }
}

fn record(handle: Handle, stream: Handle, flags: u32) -> Result {
    if flags != 0 {
        return Err(Error::NotSupported(format!("recording an event with flags {flags}")));
    }
    let stream = state::stream(stream)?;
    let event = event(handle)?;
    if event.context.id() != stream.context().id() {
        return Err(Error::InvalidHandle("event of this context"));
    }
    stream.context().admit_event()?;
    scheduler()?.record(&event.event, &stream)
}

fn ready(progress: Progress) -> Result {
    match progress {
        Progress::Done => Ok(()),
        Progress::Pending => Err(Error::NotReady),
    }
}

fn mode(number: i32) -> Result<CaptureMode> {
    match number {
        0 => Ok(CaptureMode::Global),
        1 => Ok(CaptureMode::ThreadLocal),
        2 => Ok(CaptureMode::Relaxed),
        _ => Err(Error::InvalidValue(format!("stream capture mode {number}"))),
    }
}

/// What a capture's caller wants to know of its graph.
struct Place {
    graph: Out<Handle>,
    dependencies: Out<*const Handle>,
    edges: Out<*const c_void>,
    count: Out<usize>,
}

fn capture_info(handle: Handle, status: &Out<i32>, id: &Out<u64>, place: Option<&Place>) -> Result {
    let stream = state::stream(handle)?;
    match scheduler()?.capture_status(&stream)? {
        CaptureStatus::None => status.set(0),
        CaptureStatus::Invalidated => status.set(2),
        CaptureStatus::Active { id: number, after } => {
            status.set(1)?;
            id.set_if_wanted(number)?;
            let Some(place) = place else {
                return Ok(());
            };
            place.edges.set_if_wanted(std::ptr::null())?;
            place.count.set_if_wanted(after.len())?;
            if place.graph.is_null() && place.dependencies.is_null() {
                return Ok(());
            }
            let graph = scheduler()?.captured_graph(&stream);
            let graph = graph_handle(&graph.ok_or(Error::InvalidHandle("captured graph"))?);
            place.graph.set_if_wanted(graph)?;
            if !place.dependencies.is_null() {
                let mut objects = objects();
                let nodes = after.iter().map(|&node| objects.node(graph, node)).collect();
                // It belongs to the driver; nobody tells when the caller is done with it.
                place.dependencies.set(Vec::leak(nodes).as_ptr())?;
            }
            Ok(())
        }
    }
}

/// `CUstreamCallback`
type Callback = unsafe extern "C" fn(Handle, u32, *mut c_void);

api! {
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) {
        create(&stream, flags, 0)
    }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) {
        create(&stream, flags, priority)
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        let removed = objects().streams.remove(&stream).ok_or(Error::InvalidHandle("stream"))?;
        scheduler()?.forget(&removed.stream);
        Ok(())
    }

    fn cuStreamSynchronize(stream: Handle) {
        let stream = state::stream(stream)?;
        scheduler()?.refuse_captured(&stream)?;
        uncaptured()?;
        scheduler()?.wait_stream(&stream)
    }

    fn cuStreamQuery(stream: Handle) {
        let stream = state::stream(stream)?;
        scheduler()?.refuse_captured(&stream)?;
        uncaptured()?;
        ready(scheduler()?.query_stream(&stream)?)
    }

    fn cuStreamWaitEvent(stream: Handle, handle: Handle, flags: u32) {
        if flags != 0 {
            return Err(Error::NotSupported(format!("waiting for an event with flags {flags}")));
        }
        let event = event(handle)?;
        let stream = state::stream(stream)?;
        stream.context().admit_event()?;
        scheduler()?.wait_for_event(&stream, &event.event)
    }

    fn cuStreamAddCallback(
        handle: Handle,
        function: Option<Callback>,
        data: usize,
        flags: u32,
    ) {
        let stream = state::stream(handle)?;
        let Some(function) = function.filter(|_| flags == 0) else {
            return Err(Error::InvalidValue(format!("no callback, or flags {flags}")));
        };
        scheduler()?.refuse_captured(&stream)?;
        let work = Work::new(Kind::Host, stream.context(), move || {
            // SAFETY: the caller gives a function that may be called once with `data`, when the
            // stream comes to it.
            callback(|| unsafe { function(handle, 0, data as *mut c_void) });
            Ok(())
        });
        settle(scheduler()?.submit(&stream, work))
    }

    fn cuStreamGetFlags(stream: Handle, flags: Out<u32>) {
        state::stream(stream)?;
        let found = objects().streams.get(&stream).map_or(0, |stream| stream.flags);
        flags.set(found)
    }

    fn cuStreamGetPriority(stream: Handle, priority: Out<i32>) {
        state::stream(stream)?;
        let found = objects().streams.get(&stream).map_or(0, |stream| stream.priority);
        priority.set(found)
    }

    fn cuStreamGetId(stream: Handle, id: Out<u64>) {
        state::stream(stream)?;
        id.set(stream as u64)
    }

    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        let id = state::stream(stream)?.context().id();
        let objects = objects();
        let found = objects.contexts.iter().find(|(_, entry)| entry.context.id() == id);
        context.set(found.map_or_else(current_handle, |(handle, _)| *handle))
    }

    fn cuStreamGetDevice(stream: Handle, device: Out<i32>) {
        let id = state::stream(stream)?.context().id();
        let objects = objects();
        let found = objects.contexts.values().find(|entry| entry.context.id() == id);
        device.set(found.ok_or(Error::InvalidContext)?.device)
    }

    fn cuStreamBeginCapture_v2(stream: Handle, number: i32) {
        let mode = mode(number)?;
        scheduler()?.begin_capture(&*state::stream(stream)?, mode)
    }

    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        graph.set(0)?;
        let ended = scheduler()?.end_capture(&*state::stream(stream)?)?;
        graph.set(graph_handle(&ended))
    }

    fn cuStreamIsCapturing(stream: Handle, status: Out<i32>) {
        capture_info(stream, &status, &Out::NOWHERE, None)
    }

    fn cuStreamGetCaptureInfo(stream: Handle, status: Out<i32>, id: Out<u64>) {
        capture_info(stream, &status, &id, None)
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: Handle,
        status: Out<i32>,
        id: Out<u64>,
        graph: Out<Handle>,
        dependencies: Out<*const Handle>,
        count: Out<usize>,
    ) {
        let place = Place { graph, dependencies, edges: Out::NOWHERE, count };
        capture_info(stream, &status, &id, Some(&place))
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: Handle,
        status: Out<i32>,
        id: Out<u64>,
        graph: Out<Handle>,
        dependencies: Out<*const Handle>,
        edges: Out<*const c_void>,
        count: Out<usize>,
    ) {
        let place = Place { graph, dependencies, edges, count };
        capture_info(stream, &status, &id, Some(&place))
    }

    fn cuThreadExchangeStreamCaptureMode(number: *mut i32) {
        if number.is_null() {
            return Err(Error::InvalidValue("no capture mode".into()));
        }
        // SAFETY: the caller gives a mode to be exchanged, checked not to be null.
        let wanted = mode(unsafe { number.read() })?;
        Out(number).set(exchange_capture_mode(wanted) as i32)
    }

    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        let context = current()?;
        context.admit_event()?;
        // BLOCKING_SYNC, DISABLE_TIMING; INTERPROCESS is another matter.
        if flags > 3 {
            return Err(Error::NotSupported(format!("an event with flags {flags}")));
        }
        let mut objects = objects();
        let handle = objects.fresh();
        let timed = flags & UNTIMED == 0;
        objects.events.insert(handle, Event { event: Arc::default(), context, timed });
        event.set(handle)
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        record(event, stream, 0)
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) {
        record(event, stream, flags)
    }

    fn cuEventQuery(handle: Handle) {
        let event = event(handle)?;
        let progress = scheduler()?.query_event(&event.event)?;
        uncaptured()?;
        event.context.check()?;
        ready(progress)
    }

    fn cuEventSynchronize(handle: Handle) {
        let event = event(handle)?;
        scheduler()?.wait_event(&event.event)?;
        uncaptured()?;
        event.context.check()
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(&milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(&milliseconds, start, end)
    }

    fn cuEventDestroy_v2(event: Handle) {
        let removed = objects().events.remove(&event);
        removed.map(|_| ()).ok_or(Error::InvalidHandle("event"))
    }
}
