//! Streams and graphs through the safe layer: what may happen in which order, and what may not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cuda_emulator::capture::{CaptureError, CaptureMode, CaptureStatus};
use cuda_emulator::context::Context;
use cuda_emulator::error::Error;
use cuda_emulator::graph::{Allocations, Executable, Graph};
use cuda_emulator::settings::{Settings, Streams};
use cuda_emulator::stream::{Blocking, Event, Kind, Progress, Scheduler, Stream, Work};

/// A scheduler, a context on it, and what ran.
struct Gpu {
    scheduler: Scheduler,
    context: Arc<Context>,
    log: Arc<Mutex<String>>,
}

impl Gpu {
    fn new(mode: Streams) -> Self {
        Self {
            scheduler: Scheduler::new(mode),
            context: Arc::new(Context::new(Settings::default())),
            log: Arc::default(),
        }
    }

    fn stream(&self, blocking: Blocking) -> Stream {
        self.scheduler.stream(&self.context, blocking)
    }

    /// Work that writes a letter.
    fn letter(&self, letter: char) -> Work {
        let log = self.log.clone();
        Work::new(Kind::Host, &self.context, move || {
            log.lock().unwrap().push(letter);
            Ok(())
        })
    }

    fn submit(&self, stream: &Stream, letters: &str) {
        for letter in letters.chars() {
            self.scheduler.submit(stream, self.letter(letter)).expect("a sound stream");
        }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn graph_of(&self, stream: &Stream, allocations: Allocations) -> Executable {
        let graph = self.scheduler.end_capture(stream).expect("a captured stream");
        let graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
        Executable::new(&graph, allocations)
    }
}

/// What all seeds together make of a program.
fn outcomes(program: impl Fn(&Gpu)) -> BTreeSet<String> {
    (0..40)
        .map(|seed| {
            let gpu = Gpu::new(Streams::Shuffle(seed));
            program(&gpu);
            gpu.scheduler.wait_all();
            gpu.log()
        })
        .collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_string()).collect()
}

fn captured<T: std::fmt::Debug>(result: Result<T, Error>) -> CaptureError {
    match result {
        Err(Error::Capture(error)) => error,
        other => panic!("an error of a capture expected, got {other:?}"),
    }
}

#[test]
fn in_order_work_is_done_when_it_is_submitted() {
    let gpu = Gpu::new(Streams::InOrder);
    let stream = gpu.stream(Blocking::No);
    gpu.submit(&stream, "ab");
    assert_eq!(gpu.log(), "ab");
    assert_eq!(gpu.scheduler.query_stream(&stream), Ok(Progress::Done));
}

#[test]
fn late_work_runs_when_it_is_waited_for_and_nothing_else_does() {
    let gpu = Gpu::new(Streams::Late);
    let (a, b) = (gpu.stream(Blocking::No), gpu.stream(Blocking::No));
    gpu.submit(&a, "a");
    let event = Event::default();
    gpu.scheduler.record(&event, &a).unwrap();
    gpu.submit(&a, "A");
    gpu.submit(&b, "b");
    assert_eq!(gpu.log(), "");
    gpu.scheduler.wait_event(&event).unwrap();
    assert_eq!(gpu.log(), "a", "neither what came after the event nor the other stream");
    gpu.scheduler.wait_stream(&b).unwrap();
    assert_eq!(gpu.log(), "ab");
    gpu.scheduler.wait_context(gpu.context.id());
    assert_eq!(gpu.log(), "abA");
}

#[test]
fn independent_streams_run_in_any_order_and_each_in_its_own() {
    let found = outcomes(|gpu| {
        let (a, b) = (gpu.stream(Blocking::No), gpu.stream(Blocking::No));
        gpu.submit(&a, "ab");
        gpu.submit(&b, "x");
    });
    assert_eq!(found, set(&["abx", "axb", "xab"]));
}

#[test]
fn an_event_orders_two_streams_by_its_state_at_the_call() {
    let found = outcomes(|gpu| {
        let (a, b) = (gpu.stream(Blocking::No), gpu.stream(Blocking::No));
        let event = Event::default();
        gpu.submit(&a, "a");
        gpu.scheduler.record(&event, &a).unwrap();
        gpu.scheduler.wait_for_event(&b, &event).unwrap();
        gpu.submit(&b, "x");
        // Recorded again, behind more work: no matter for who waits already.
        gpu.submit(&a, "b");
        gpu.scheduler.record(&event, &a).unwrap();
    });
    assert_eq!(found, set(&["abx", "axb"]));
}

#[test]
fn the_null_stream_orders_blocking_streams_and_no_others() {
    let blocking = outcomes(|gpu| {
        let (null, a) = (gpu.stream(Blocking::Legacy), gpu.stream(Blocking::WithLegacy));
        gpu.submit(&a, "a");
        gpu.submit(&null, "n");
        gpu.submit(&a, "b");
    });
    assert_eq!(blocking, set(&["anb"]));
    let free = outcomes(|gpu| {
        let (null, a) = (gpu.stream(Blocking::Legacy), gpu.stream(Blocking::No));
        gpu.submit(&a, "a");
        gpu.submit(&null, "n");
    });
    assert_eq!(free, set(&["an", "na"]));
    // Two blocking streams do not order each other, and a destroyed one still counts.
    let destroyed = outcomes(|gpu| {
        let null = gpu.stream(Blocking::Legacy);
        let (a, b) = (gpu.stream(Blocking::WithLegacy), gpu.stream(Blocking::WithLegacy));
        gpu.submit(&a, "a");
        gpu.submit(&b, "b");
        gpu.scheduler.forget(&a);
        gpu.submit(&null, "n");
    });
    assert_eq!(destroyed, set(&["abn", "ban"]));
}

#[test]
fn polling_makes_progress() {
    for mode in [Streams::Late, Streams::Shuffle(3)] {
        let gpu = Gpu::new(mode);
        let stream = gpu.stream(Blocking::No);
        gpu.submit(&stream, "abcdef");
        let event = Event::default();
        gpu.scheduler.record(&event, &stream).unwrap();
        let mut polls = 0;
        while gpu.scheduler.query_event(&event).unwrap() == Progress::Pending {
            polls += 1;
            assert!(polls < 100, "{mode:?}");
        }
        assert_eq!(gpu.log(), "abcdef");
        assert!(event.time().is_some());
    }
    let gpu = Gpu::new(Streams::Late);
    let stream = gpu.stream(Blocking::No);
    gpu.submit(&stream, "a");
    assert_eq!(gpu.scheduler.query_stream(&stream), Ok(Progress::Pending), "late is not at once");
}

#[test]
fn threads_share_the_work() {
    let gpu = Gpu::new(Streams::Shuffle(5));
    thread::scope(|scope| {
        for letter in ['a', 'b', 'c', 'd'] {
            let gpu = &gpu;
            scope.spawn(move || {
                let stream = gpu.stream(Blocking::No);
                for _ in 0..200 {
                    gpu.scheduler.submit(&stream, gpu.letter(letter)).unwrap();
                }
                gpu.scheduler.wait_stream(&stream).unwrap();
                let mine = gpu.log().chars().filter(|other| *other == letter).count();
                assert_eq!(mine, 200);
            });
        }
    });
    assert_eq!(gpu.log().len(), 800);
}

#[test]
fn a_failure_surfaces_where_something_waits_and_ends_the_context() {
    let gpu = Gpu::new(Streams::Late);
    let stream = gpu.stream(Blocking::No);
    let bad = Work::new(Kind::Fill, &gpu.context, || Err(Error::InvalidValue("gone".into())));
    gpu.scheduler.submit(&stream, bad).expect("nobody knows yet");
    gpu.submit(&stream, "a");
    assert_eq!(gpu.scheduler.wait_stream(&stream), Err(Error::Sticky(700)));
    assert_eq!(gpu.log(), "", "nothing runs behind it");
    assert_eq!(gpu.scheduler.submit(&stream, gpu.letter('b')), Err(Error::Sticky(700)));
}

#[test]
fn memory_exists_from_its_place_in_the_stream_to_its_free() {
    let program = |gpu: &Gpu, join: bool| {
        let scheduler = &gpu.scheduler;
        let (a, b) = (gpu.stream(Blocking::No), gpu.stream(Blocking::No));
        let address = gpu.context.reserve(64)?;
        scheduler.submit(&a, Work::allocate(&gpu.context, address, 64))?;
        let context = gpu.context.clone();
        let fill = Work::new(Kind::Fill, &gpu.context, move || context.repeat(address, &[1], 64));
        let (ready, used) = (Event::default(), Event::default());
        scheduler.record(&ready, &a)?;
        if join {
            scheduler.wait_for_event(&b, &ready)?;
        }
        scheduler.submit(&b, fill)?;
        scheduler.record(&used, &b)?;
        if join {
            scheduler.wait_for_event(&a, &used)?;
        }
        scheduler.submit(&a, Work::free(&gpu.context, address))?;
        scheduler.wait_all();
        gpu.context.check()
    };
    let sound = |join| {
        let seeds = 0..40;
        seeds.filter(|&seed| program(&Gpu::new(Streams::Shuffle(seed)), join).is_ok()).count()
    };
    assert_eq!(sound(true), 40);
    let unjoined = sound(false);
    assert!((1..40).contains(&unjoined), "use before and after its life shows: {unjoined}");
}

#[test]
fn a_graph_replays_in_dependency_order_across_streams() {
    let found = outcomes(|gpu| {
        let (a, b) = (gpu.stream(Blocking::No), gpu.stream(Blocking::No));
        gpu.scheduler.begin_capture(&a, CaptureMode::Global).unwrap();
        gpu.submit(&a, "f");
        let (fork, join) = (Event::default(), Event::default());
        gpu.scheduler.record(&fork, &a).unwrap();
        gpu.scheduler.wait_for_event(&b, &fork).unwrap();
        gpu.submit(&a, "a");
        gpu.submit(&b, "b");
        gpu.scheduler.record(&join, &b).unwrap();
        gpu.scheduler.wait_for_event(&a, &join).unwrap();
        gpu.submit(&a, "j");
        let graph = gpu.graph_of(&a, Allocations::Kept);
        assert_eq!(gpu.log(), "", "a capture runs nothing");
        graph.launch(&gpu.scheduler, &a).unwrap();
        // The other stream is free again; the next launch follows the first on any stream.
        graph.launch(&gpu.scheduler, &b).unwrap();
        gpu.submit(&b, "e");
    });
    let both = ["fabj", "fbaj"];
    let expected = both.iter().flat_map(|x| both.iter().map(move |y| format!("{x}{y}e"))).collect();
    assert_eq!(found, expected);
}

#[test]
fn captured_graphs_can_be_captured() {
    let gpu = Gpu::new(Streams::InOrder);
    let stream = gpu.stream(Blocking::No);
    gpu.scheduler.begin_capture(&stream, CaptureMode::Relaxed).unwrap();
    gpu.submit(&stream, "ab");
    let inner = gpu.graph_of(&stream, Allocations::Kept);
    gpu.scheduler.begin_capture(&stream, CaptureMode::Relaxed).unwrap();
    gpu.submit(&stream, "x");
    inner.launch(&gpu.scheduler, &stream).unwrap();
    inner.launch(&gpu.scheduler, &stream).unwrap();
    let graph = gpu.scheduler.end_capture(&stream).unwrap();
    let graph: &Graph = &graph.lock().unwrap();
    assert_eq!(graph.kinds().len(), 5);
    let before: Vec<&[usize]> = (0..5).map(|node| graph.before(node)).collect();
    assert_eq!(before, [&[][..], &[0], &[1], &[2], &[3]]);
    Executable::new(graph, Allocations::Kept).launch(&gpu.scheduler, &stream).unwrap();
    assert_eq!(gpu.log(), "xabab");
}

#[test]
fn memory_of_a_graph_comes_and_goes_with_its_launches() {
    let gpu = Gpu::new(Streams::InOrder);
    let stream = gpu.stream(Blocking::No);
    let capture = |allocations| {
        gpu.scheduler.begin_capture(&stream, CaptureMode::Relaxed).unwrap();
        let address = gpu.context.reserve(64).unwrap();
        gpu.scheduler.submit(&stream, Work::allocate(&gpu.context, address, 64)).unwrap();
        (gpu.graph_of(&stream, allocations), address)
    };
    let (kept, address) = capture(Allocations::Kept);
    kept.launch(&gpu.scheduler, &stream).unwrap();
    let again = kept.launch(&gpu.scheduler, &stream);
    assert!(matches!(again, Err(Error::InvalidValue(_))), "{again:?}");
    gpu.scheduler.submit(&stream, Work::free(&gpu.context, address)).unwrap();
    kept.launch(&gpu.scheduler, &stream).unwrap();
    let (freed, _) = capture(Allocations::FreedAtLaunch);
    freed.launch(&gpu.scheduler, &stream).unwrap();
    freed.launch(&gpu.scheduler, &stream).unwrap();
}

#[test]
fn waiting_invalidates_a_capture() {
    let gpu = Gpu::new(Streams::InOrder);
    let stream = gpu.stream(Blocking::No);
    type Refused = fn(&Gpu, &Stream) -> Result<(), Error>;
    let refusals: [Refused; 4] = [
        |gpu, stream| gpu.scheduler.wait_stream(stream),
        |gpu, stream| gpu.scheduler.query_stream(stream).map(|_| ()),
        |gpu, _| gpu.scheduler.permit_unsafe(CaptureMode::Global),
        |gpu, _| gpu.scheduler.permit_wait(gpu.context.id()),
    ];
    for refused in refusals {
        gpu.scheduler.begin_capture(&stream, CaptureMode::ThreadLocal).unwrap();
        assert_eq!(captured(refused(&gpu, &stream)), CaptureError::Unsupported);
        let after = gpu.scheduler.submit(&stream, gpu.letter('a'));
        assert_eq!(captured(after), CaptureError::Invalidated);
        assert_eq!(gpu.scheduler.capture_status(&stream), Ok(CaptureStatus::Invalidated));
        assert_eq!(captured(gpu.scheduler.end_capture(&stream)), CaptureError::Invalidated);
        // The stream is free again.
        assert_eq!(gpu.scheduler.capture_status(&stream), Ok(CaptureStatus::None));
    }
    assert_eq!(captured(gpu.scheduler.end_capture(&stream)), CaptureError::IllegalState);
}

#[test]
fn a_capture_restricts_threads_by_both_modes() {
    use CaptureMode::{Global, Relaxed, ThreadLocal};
    // The capture's mode, the calling thread's, whether it is the capturing one; what is refused.
    for (of_capture, of_thread, here, refused) in [
        (Global, Global, true, true),
        (Global, Global, false, true),
        (Global, ThreadLocal, true, true),
        (Global, ThreadLocal, false, false),
        (Global, Relaxed, true, false),
        (ThreadLocal, Global, true, true),
        (ThreadLocal, Global, false, false),
        (Relaxed, Global, true, false),
    ] {
        let gpu = Gpu::new(Streams::InOrder);
        let stream = gpu.stream(Blocking::No);
        gpu.scheduler.begin_capture(&stream, of_capture).unwrap();
        let ask = || gpu.scheduler.permit_unsafe(of_thread);
        let found =
            if here { ask() } else { thread::scope(|scope| scope.spawn(ask).join().unwrap()) };
        assert_eq!(found.is_err(), refused, "{of_capture:?} {of_thread:?} {here}");
        assert_eq!(gpu.scheduler.end_capture(&stream).is_err(), refused);
    }
}

/// The manual: asked of the legacy stream it is an error, and the other capture goes on.
#[test]
fn asking_beside_a_capture_does_not_end_it() {
    let gpu = Gpu::new(Streams::InOrder);
    let (legacy, blocking) = (gpu.stream(Blocking::Legacy), gpu.stream(Blocking::WithLegacy));
    gpu.scheduler.begin_capture(&blocking, CaptureMode::Relaxed).unwrap();
    assert_eq!(captured(gpu.scheduler.capture_status(&legacy)), CaptureError::Implicit);
    gpu.scheduler.end_capture(&blocking).unwrap();
    gpu.scheduler.begin_capture(&blocking, CaptureMode::Relaxed).unwrap();
    assert_eq!(captured(gpu.scheduler.takes_work(&legacy)), CaptureError::Implicit);
    assert_eq!(captured(gpu.scheduler.end_capture(&blocking)), CaptureError::Invalidated);
}

#[test]
fn captures_keep_to_themselves() {
    let gpu = Gpu::new(Streams::InOrder);
    let scheduler = &gpu.scheduler;
    let (a, b) = (gpu.stream(Blocking::No), gpu.stream(Blocking::No));
    let begin = |stream| scheduler.begin_capture(stream, CaptureMode::Relaxed).unwrap();
    let event = Event::default();

    begin(&a);
    assert_eq!(
        captured(scheduler.begin_capture(&a, CaptureMode::Relaxed)),
        CaptureError::IllegalState
    );
    scheduler.record(&event, &a).unwrap();
    assert_eq!(captured(scheduler.wait_event(&event)), CaptureError::CapturedEvent);
    assert_eq!(captured(scheduler.end_capture(&a)), CaptureError::Invalidated);
    assert_eq!(captured(scheduler.wait_for_event(&b, &event)), CaptureError::CapturedEvent);

    // From outside in.
    scheduler.record(&event, &b).unwrap();
    begin(&a);
    assert_eq!(captured(scheduler.wait_for_event(&a, &event)), CaptureError::Isolation);
    assert_eq!(captured(scheduler.end_capture(&a)), CaptureError::Invalidated);

    // Two captures.
    begin(&a);
    begin(&b);
    scheduler.record(&event, &a).unwrap();
    assert_eq!(captured(scheduler.wait_for_event(&b, &event)), CaptureError::Merge);
    assert_eq!(captured(scheduler.end_capture(&a)), CaptureError::Invalidated);
    assert_eq!(captured(scheduler.end_capture(&b)), CaptureError::Invalidated);

    // A stream that joined and was forgotten.
    begin(&a);
    scheduler.record(&event, &a).unwrap();
    scheduler.wait_for_event(&b, &event).unwrap();
    gpu.submit(&b, "b");
    assert_eq!(captured(scheduler.end_capture(&a)), CaptureError::Unjoined);
    assert_eq!(scheduler.capture_status(&b), Ok(CaptureStatus::None));

    // Ended on the stream that joined.
    begin(&a);
    scheduler.record(&event, &a).unwrap();
    scheduler.wait_for_event(&b, &event).unwrap();
    assert_eq!(captured(scheduler.end_capture(&b)), CaptureError::Unmatched);
    assert_eq!(captured(scheduler.end_capture(&a)), CaptureError::Invalidated);

    // Ended by another thread.
    scheduler.begin_capture(&a, CaptureMode::ThreadLocal).unwrap();
    let elsewhere =
        thread::scope(|scope| scope.spawn(|| scheduler.end_capture(&a)).join().unwrap());
    assert_eq!(captured(elsewhere), CaptureError::WrongThread);
    scheduler.end_capture(&a).unwrap();
}

#[test]
fn the_null_stream_stays_out_of_captures() {
    let gpu = Gpu::new(Streams::InOrder);
    let null = gpu.stream(Blocking::Legacy);
    let (blocking, free) = (gpu.stream(Blocking::WithLegacy), gpu.stream(Blocking::No));
    let begun = gpu.scheduler.begin_capture(&null, CaptureMode::Relaxed);
    assert_eq!(captured(begun), CaptureError::Unsupported);
    gpu.scheduler.begin_capture(&free, CaptureMode::Relaxed).unwrap();
    gpu.submit(&null, "n");
    gpu.scheduler.end_capture(&free).unwrap();
    gpu.scheduler.begin_capture(&blocking, CaptureMode::Relaxed).unwrap();
    let implicit = gpu.scheduler.submit(&null, gpu.letter('n'));
    assert_eq!(captured(implicit), CaptureError::Implicit);
    assert_eq!(captured(gpu.scheduler.end_capture(&blocking)), CaptureError::Invalidated);
}
