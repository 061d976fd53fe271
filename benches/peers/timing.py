"""How calls are timed: buffers that keep the cache cold, samples that take turns.

The method of benches/fused/measure.rs. A sample is a batch of calls between two device events. While the host
enqueues it, the device is busy with something else, so that it never waits for the host, however long Python
and autograd take for a call: where it did wait all the same, as it must for an implementation that reads
something back in each call, the sample may be of the host, and the record says so. Problems so short that
launches would be most of their time are captured into a graph, whose replay is the sample, wherever an
implementation can be captured.

Successive calls use different buffers, four times the L2 cache in all, so that logits come from memory. What a
call returns is kept until its set of buffers is used again: what is allocated in a call is then as cold when it is
written as smoothxent's gradients and copies are, which have sets of buffers as logits do. What an implementation
allocates and gives back within a call may still be in the cache at the next, as in a training loop.

In place, logits are put back before each sample. A call that comes to a set again, as most of a sample do,
reads the gradient that is there by now: as many bytes, of other values, for everybody who works in place.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from contextlib import contextmanager
from typing import Any, Callable, Deque, Iterator, List, Optional

import torch

from .record import HOST, Quantiles, one_line

# A batch is as many calls as take about this long.
BATCH_MICROSECONDS = 2000.0
MAX_BATCH = 500
MAX_GRAPH_BATCH = 128

# A peer's call may be a dozen launches, of a few microseconds each.
GRAPH_BELOW_MICROSECONDS = 150.0

# How long the device is kept busy while the host enqueues a sample: longer than it needs by this factor, but not
# without end.
LEAD = 1.5
MAX_LEAD_SECONDS = 0.05
# Whoever takes longer than one and then than so many longer ones waits for the device.
MAX_LEADS = 3
# No GPU's clock is faster by much; under a slower one it is busy for longer.
CYCLES_A_SECOND = 3.2e9

# Of the samples of a record: more that the device waited in, and the median may be the host's.
HOST_SHARE = 0.2

STREAM, GRAPH, CLOCK = "stream", "graph", "clock"


class Work:
    """One of those that take turns: calls on successive sets of buffers."""

    def __init__(
        self,
        call: Callable[[int], Any],
        sets: int,
        *,
        capturable: bool,
        wait: Optional[Callable[[Any], None]] = None,
        restore: Optional[Callable[[], None]] = None,
    ) -> None:
        """`wait` is for what runs on streams of its own: the host's clock is what times it then.

        `restore` puts logits back before a sample of what writes over them.
        """
        self._call, self._sets, self._turn = call, sets, 0
        self.capturable, self._wait, self._restore = capturable, wait, restore
        self.method = CLOCK if wait else STREAM
        self.note = ""
        self._batch = 1
        self._graph: Optional[torch.cuda.CUDAGraph] = None
        self._lead_seconds, self._leads = 0.0, 0
        self._waited: List[bool] = []
        # What cannot be captured may have memory of its own, which results must not keep.
        self._kept: Deque[Any] = deque(maxlen=sets - 1 if capturable else 0)
        self.times: List[float] = []

    def step(self) -> Any:
        self._turn = (self._turn + 1) % self._sets
        result = self._call(self._turn)
        self._kept.append(result)
        return result

    def estimate(self) -> float:
        """Warms up; microseconds of a call, those of the host where the device has to wait for it."""
        self._sample(2)
        # A first call may have compiled for seconds: that says nothing of the others.
        self._lead_seconds, self._leads = 0.0, 0
        self._sample(6)
        return self._sample(6)

    def choose_batch(self, small: bool) -> None:
        calls = int(BATCH_MICROSECONDS / max(self.estimate(), 1e-3))
        self._batch = min(max(calls, 1), MAX_BATCH)
        if not small:
            # As many calls as will be timed say how long the host needs for them.
            self._sample(self._batch)
            self._waited.clear()
            return
        if not self.capturable:
            self.method = HOST
            self.note = "small and not captured: its host time may be what is timed"
            return
        # What the host needed says nothing of how long they take in a graph.
        self._batch = MAX_GRAPH_BATCH
        self._kept.clear()
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                for _ in range(self._batch):
                    self.step()
            # The first replay uploads it.
            graph.replay()
            torch.cuda.synchronize()
        except Exception as error:
            self._batch = min(max(calls, 1), MAX_BATCH)
            self.method = HOST
            self.note = f"not captured: {one_line(error)}"
            return
        self._graph, self.method = graph, GRAPH

    def take_turn(self) -> None:
        if self._restore is not None:
            self._restore()
        self.times.append(self._sample(self._batch))

    def finish(self) -> None:
        """After the last turn: whether it was the device that was timed."""
        if self.method == STREAM and sum(self._waited) > HOST_SHARE * len(self.times):
            self.method = HOST
            self.note = "the device waited for the host: its time may be what is timed"

    @property
    def sets_used(self) -> int:
        """Of the sets of buffers, those that a sample uses if it is long enough."""
        return min(self._sets, self._batch) if self._graph is not None else self._sets

    def quantiles(self) -> Quantiles:
        return Quantiles.of(self.times)

    def _sample(self, calls: int) -> float:
        if self._wait is not None:
            return self._sample_by_clock(calls, self._wait)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if self._graph is not None:
            self._graph.replay()
            start.record()
            self._graph.replay()
        else:
            self.step()
            _keep_busy(self._lead_seconds)
            start.record()
            begun = time.perf_counter()
            for _ in range(calls):
                self.step()
            took = time.perf_counter() - begun
            waited = start.query()
            self._waited.append(waited)
            if not waited:
                self._leads = 0
            elif took > self._lead_seconds:
                self._leads += 1
                longer = min(LEAD * took, MAX_LEAD_SECONDS)
                self._lead_seconds = longer if self._leads <= MAX_LEADS else 0.0
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1000.0 / calls

    def _sample_by_clock(self, calls: int, wait: Callable[[Any], None]) -> float:
        torch.cuda.synchronize()
        wait(self.step())
        start = time.perf_counter()
        for _ in range(calls):
            last = self.step()
        wait(last)
        return (time.perf_counter() - start) * 1e6 / calls


def _keep_busy(seconds: float) -> None:
    """Enqueues something that takes the device so long, or a little longer."""
    # It has been there for as long as streams have, for PyTorch's own tests; without it nothing is kept busy.
    sleep = getattr(torch.cuda, "_sleep", None)
    if sleep is not None and seconds > 0:
        sleep(int(seconds * CYCLES_A_SECOND))


def collect_young() -> None:
    """Between samples: results in cycles must not pile up on the device."""
    gc.collect(1)


@contextmanager
def without_collector() -> Iterator[None]:
    """Python's cycle collector would stop the host in the midst of a sample."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def peak_bytes(call: Callable[[], Any]) -> int:
    """Bytes that torch's allocator has at most during a call, beyond those before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return peak
