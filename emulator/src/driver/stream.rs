//! `cuStream*`, `cuEvent*`. Work is done when a call returns, so waiting is only checking.

use std::time::Instant;

use super::state::{Event, Stream, current, current_handle, objects, stream_context};
use super::{Handle, Out, Result, api};
use crate::error::Error;

/// `CU_EVENT_DISABLE_TIMING`
const UNTIMED: u32 = 2;

fn event(handle: Handle) -> Result<Event> {
    objects().events.get(&handle).cloned().ok_or(Error::InvalidHandle("event"))
}

fn create(stream: &Out<Handle>, flags: u32, priority: i32) -> Result {
    let context = current()?;
    context.check()?;
    let mut objects = objects();
    let handle = objects.fresh();
    objects.streams.insert(handle, Stream { context, flags, priority });
    stream.set(handle)
}

fn elapsed(milliseconds: &Out<f32>, start: Handle, end: Handle) -> Result {
    let (start, end) = (event(start)?, event(end)?);
    match (start.recorded, end.recorded) {
        (Some(from), Some(to)) if start.timed && end.timed => {
            start.context.check()?;
            milliseconds.set(to.saturating_duration_since(from).as_secs_f32() * 1e3)
        }
        _ => Err(Error::InvalidHandle("timed and recorded event")),
    }
}

fn record(handle: Handle, stream: Handle) -> Result {
    let context = stream_context(stream)?;
    context.check()?;
    let mut objects = objects();
    let event = objects.events.get_mut(&handle).ok_or(Error::InvalidHandle("event"))?;
    if event.context.id() != context.id() {
        return Err(Error::InvalidHandle("event of this context"));
    }
    event.recorded = Some(Instant::now());
    Ok(())
}

api! {
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) {
        create(&stream, flags, 0)
    }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) {
        create(&stream, flags, priority)
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        let removed = objects().streams.remove(&stream);
        removed.map(|_| ()).ok_or(Error::InvalidHandle("stream"))
    }

    fn cuStreamSynchronize(stream: Handle) {
        stream_context(stream)?.check()
    }

    fn cuStreamQuery(stream: Handle) {
        stream_context(stream)?.check()
    }

    fn cuStreamWaitEvent(stream: Handle, handle: Handle, _flags: u32) {
        event(handle)?;
        stream_context(stream)?.check()
    }

    fn cuStreamGetFlags(stream: Handle, flags: Out<u32>) {
        let found = objects().streams.get(&stream).map_or(0, |stream| stream.flags);
        flags.set(found)
    }

    fn cuStreamGetPriority(stream: Handle, priority: Out<i32>) {
        let found = objects().streams.get(&stream).map_or(0, |stream| stream.priority);
        priority.set(found)
    }

    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        let id = stream_context(stream)?.id();
        let objects = objects();
        let found = objects.contexts.iter().find(|(_, entry)| entry.context.id() == id);
        context.set(found.map_or_else(current_handle, |(handle, _)| *handle))
    }

    // Nothing is ever captured: graphs are not emulated.
    fn cuStreamIsCapturing(stream: Handle, status: Out<i32>) {
        stream_context(stream)?;
        status.set(0)
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: Handle,
        status: Out<i32>,
        id: Out<u64>,
        _graph: usize,
        _dependencies: usize,
        _count: usize,
    ) {
        stream_context(stream)?;
        status.set(0)?;
        id.set_if_wanted(0)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<i32>) {
        mode.set(0)
    }

    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        let context = current()?;
        context.check()?;
        let mut objects = objects();
        let handle = objects.fresh();
        objects.events.insert(handle, Event { context, timed: flags & UNTIMED == 0, recorded: None });
        event.set(handle)
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        record(event, stream)
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, _flags: u32) {
        record(event, stream)
    }

    fn cuEventQuery(handle: Handle) {
        event(handle)?.context.check()
    }

    fn cuEventSynchronize(handle: Handle) {
        event(handle)?.context.check()
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
