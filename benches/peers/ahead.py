"""Compiling ahead: what peers compile for a case, done for all cases by several processes at once.

torch.compile takes ten seconds and more for each case, CuTe's compiler a few. Processes that only compile
leave what they made in the compilers' caches on disk, where the process that measures finds it. What they
measured of it is thrown away: times that kernels are chosen by have to come from a quiet device, so that
whoever tunes itself does so again beside nobody else. What could not be compiled here is compiled, or said
to be impossible, when its turn comes.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures import TimeoutError as OutOfTime
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence

from .cases import Case
from .record import one_line

# The caches of Inductor, Triton and CuTe's compiler, as they name their folders.
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "QUACK_CACHE_DIR")

# How Inductor names the files that say which of several kernels was the fastest.
TUNED = "*.best_config"

# Beyond which they wait for each other's turn on the device more than they gain.
MAX_PROCESSES = 12

# Logits, a gradient, one more beside it, and what f32 copies of them take, at most.
MATRICES_OF_A_PROCESS = 10


@contextmanager
def own_caches() -> Iterator[None]:
    """Caches of this run alone: what is tuned was tuned in it. They are gone afterwards."""
    folder = tempfile.mkdtemp(prefix="peers-")
    before = {name: os.environ.get(name) for name in CACHES}
    os.environ.update({name: str(Path(folder, name.lower())) for name in CACHES})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def processes_for(cases: Sequence[Case], device_bytes: Optional[int]) -> int:
    """As many as there are processors and memory for, two processors for each."""
    processes = min(MAX_PROCESSES, (os.cpu_count() or 1) // 2, len(cases))
    if device_bytes is not None:
        largest = max((case.matrix_bytes for case in cases), default=1)
        processes = min(processes, device_bytes // (MATRICES_OF_A_PROCESS * largest))
    return processes


def distinct(cases: Sequence[Case]) -> List[Case]:
    """One of those that differ in the values of their logits alone, which are compiled alike."""
    return list(dict.fromkeys(replace(case, inputs="random") for case in cases))


def compile_ahead(
    cases: Sequence[Case],
    names: Sequence[str],
    rehearsal: bool,
    processes: int,
    seconds: Optional[float],
    done: Callable[[Case, str], None],
) -> None:
    """Compiles for these cases, for so many seconds at most; `done` is told what came of each."""
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        _begin,
        (list(names), rehearsal),
    )
    futures: Dict[Future, Case] = {pool.submit(_compile, case): case for case in cases}
    try:
        for future in as_completed(futures, seconds):
            error = future.exception()
            done(futures[future], future.result() if error is None else one_line(error))
    except OutOfTime:
        pass
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
            process.join()
    forget_what_was_tuned()


def forget_what_was_tuned() -> None:
    for file in Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob(TUNED):
        file.unlink()


class _Process:
    """What a process that compiles holds from its first case on."""

    def __init__(self, names: Sequence[str], rehearsal: bool) -> None:
        import torch

        from . import contenders, machine

        self.machine = machine.Machine(rehearsal)
        if not rehearsal:
            # Of this thread, until the process ends: the default one cannot be captured.
            torch.cuda.set_stream(torch.cuda.Stream())
        self.implementations = [
            each for each in contenders.load(names, self.machine).present if each.compiles
        ]
        self._survives = contenders.survives

    def compile(self, case: Case) -> str:
        from .data import Data

        outcomes = []
        for implementation in self.implementations:
            if implementation.lacks(case):
                continue
            try:
                # Its own: some write over their logits.
                implementation.prepare(case, Data(case, self.machine.device, 1)).call(0)
                self.machine.synchronize()
                outcomes.append(implementation.label)
            except Exception as error:
                self._survives(self.machine, implementation.label, error)
                outcomes.append(f"not {implementation.label}: {one_line(error)}")
            self.machine.free()
        return ", ".join(outcomes)


_process: Optional[_Process] = None


def _begin(names: Sequence[str], rehearsal: bool) -> None:
    global _process
    # Several of them compile at once already.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "2"
    # Compilers say a lot, and one process is heard.
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
    _process = _Process(names, rehearsal)


def _compile(case: Case) -> str:
    assert _process is not None, "a process begins before its first case"
    return _process.compile(case)
