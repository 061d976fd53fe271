"""Time and memory of every implementation on one case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional

import torch

from . import reference, timing
from .cases import Case
from .contenders import Loaded, cannot, reason, survives
from .data import Data, sets_of
from .implementations import COPY, Implementation
from .implementations.base import Prepared
from .machine import Clocks, Machine, release
from .record import DISAGREES, NOT_MEASURED, REHEARSAL, RIGHT, WRONG, Quantiles, Speed
from .timing import Work

REPEATS = 25
QUICK_REPEATS = 7

# Sets of buffers where nothing is timed.
REHEARSED_SETS = 2


@dataclass
class Contender:
    implementation: Implementation
    record: Speed
    # Held as long as calls are made: it keeps what they know by address alone.
    prepared: Optional[Prepared] = None
    work: Optional[Work] = None

    def add_note(self, note: str) -> None:
        self.record.note = "; ".join(filter(None, (self.record.note, note)))

    def fail(self, note: str) -> None:
        self.record.verdict, self.record.note = NOT_MEASURED, note
        self.work = self.prepared = None


class SpeedRun:
    def __init__(self, machine: Machine, loaded: Loaded, repeats: int) -> None:
        self._machine, self._loaded, self._repeats = machine, loaded, repeats

    def measure(self, case: Case) -> List[Speed]:
        """One record for each implementation, of the fastest of its modes."""
        machine = self._machine
        contenders = [Contender(each, self._record(case, each)) for each in self._loaded.implementations]
        try:
            data = self._data(case)
        except torch.cuda.OutOfMemoryError:
            for contender in contenders:
                contender.fail("out of memory: logits and gradient alone")
            machine.free()
            return fastest_modes(contenders)
        for contender in contenders:
            label = contender.implementation.label
            lacking = self._loaded.absent.get(label) or cannot(contender.implementation, case)
            if lacking:
                contender.fail(lacking)
            else:
                self._prepare(contender, case, data)
        if not machine.rehearsal:
            self._time(contenders, case)
        records = fastest_modes(contenders)
        del contenders, data
        machine.free()
        return records

    def _data(self, case: Case) -> Data:
        sets = REHEARSED_SETS if self._machine.rehearsal else sets_of(case, self._machine.l2_bytes)
        return Data(case, self._machine.device, sets)

    def _record(self, case: Case, implementation: Implementation) -> Speed:
        copy_bytes = 2 * case.copied_elements * case.element_bytes
        return Speed(
            implementation.name,
            implementation.version,
            device=self._machine.name,
            driver=self._machine.driver,
            torch=release(self._machine.torch),
            rows=case.rows,
            classes=case.classes,
            dtype=case.dtype,
            pass_=case.computes,
            place=case.place,
            variant=case.variant,
            label_smoothing=case.label_smoothing,
            # A copy moves no targets, no losses.
            bytes=copy_bytes if implementation.name == COPY else case.bytes,
            copy_bytes=copy_bytes,
        )

    def _prepare(self, contender: Contender, case: Case, data: Data) -> None:
        """Runs it once, compares what it computes, and makes ready to time it."""
        implementation, machine = contender.implementation, self._machine
        overwrites = case.place == "in_place" and implementation.name != COPY
        try:
            prepared = implementation.prepare(case, data)
            contender.add_note(prepared.note)
            self._compare(contender, prepared, data)
            if not overwrites and not data.is_fresh(0):
                contender.add_note("writes over its logits")
                overwrites = True
            data.refill(0)
            if machine.rehearsal:
                return
            contender.prepared = prepared
            contender.record.peak_bytes = _peak_bytes(prepared)
            contender.work = Work(
                prepared.call,
                data.sets,
                capturable=implementation.capturable,
                wait=prepared.wait,
                restore=data.refill if overwrites else None,
            )
            if prepared.check is not None:
                prepared.check()
        except Exception as error:
            survives(machine, implementation.label, error)
            contender.fail(reason(error, beside_others=True))
            machine.free()
        if overwrites:
            data.refill()

    def _compare(self, contender: Contender, prepared: Prepared, data: Data) -> None:
        record = contender.record
        record.verdict = REHEARSAL if self._machine.rehearsal else RIGHT
        data.poison_gradient(0)
        result = prepared.call(0)
        self._machine.synchronize()
        if contender.implementation.name == COPY:
            count = data.case.copied_elements
            if not torch.equal(data.flat_gradients[0][:count], data.flat[0][:count]):
                self._complain(contender, "the copy is another")
            return
        distance = reference.compare(data, 0, *prepared.finish(result), divided=prepared.divided)
        if not distance.right:
            self._complain(contender, distance.complaint())

    def _complain(self, contender: Contender, complaint: str) -> None:
        if self._machine.rehearsal:
            complaint = DISAGREES + complaint
        else:
            contender.record.verdict = WRONG
        contender.add_note(complaint)

    def _time(self, contenders: List[Contender], case: Case) -> None:
        racing = [contender for contender in contenders if contender.work is not None]
        estimates = []
        for contender in racing:
            self._guarded(contender, lambda work: estimates.append(work.estimate()))
        small = min(estimates, default=0.0) < timing.GRAPH_BELOW_MICROSECONDS
        for contender in racing:
            self._guarded(contender, lambda work: work.choose_batch(small))
        before = self._machine.clocks()
        with timing.without_collector():
            for _ in range(self._repeats):
                timing.collect_young()
                for contender in racing:
                    self._guarded(contender, lambda work: work.take_turn())
        after = self._machine.clocks()
        copy = next(
            (each.work.quantiles() for each in racing if each.work and each.implementation.name == COPY), None
        )
        for contender in racing:
            if contender.work is not None:
                self._finish(contender, contender.work, case.touched_bytes, copy, before, after)

    def _finish(
        self,
        contender: Contender,
        work: Work,
        touched_bytes: int,
        copy: Optional[Quantiles],
        before: Clocks,
        after: Clocks,
    ) -> None:
        record, clocks = contender.record, before.until(after)
        work.finish()
        record.method = work.method
        # Whether logits come from memory.
        used_bytes = work.sets_used * touched_bytes
        record.l2 = "cold" if used_bytes >= 2 * self._machine.l2_bytes else "warm"
        record.set_times(work.quantiles(), copy)
        record.sm_mhz, record.memory_mhz = clocks.sm_mhz, clocks.memory_mhz
        record.throttle = "" if clocks.throttle is None else f"0x{clocks.throttle:016x}"
        contender.add_note(work.note)
        contender.add_note(before.change(after))

    def _guarded(self, contender: Contender, action) -> None:
        if contender.work is None:
            return
        try:
            action(contender.work)
        except Exception as error:
            contender.fail(reason(error, beside_others=True))
            survives(self._machine, contender.implementation.label, error)
            self._machine.free()


def _peak_bytes(prepared: Prepared) -> Optional[int]:
    """Beyond logits and targets."""
    if prepared.peak_bytes is not None:
        return prepared.peak_bytes()
    return prepared.given_bytes + timing.peak_bytes(lambda: prepared.call(0))


def fastest_modes(contenders: List[Contender]) -> List[Speed]:
    """One record of each name; its note says what came of the other modes."""
    by_name: Dict[str, List[Contender]] = {}
    for contender in contenders:
        by_name.setdefault(contender.implementation.name, []).append(contender)
    return [_fastest_mode(modes) for modes in by_name.values()]


def _fastest_mode(modes: List[Contender]) -> Speed:
    def rank(contender: Contender):
        record = contender.record
        time = record.p50_us if record.p50_us is not None else float("inf")
        order = (RIGHT, REHEARSAL, WRONG, NOT_MEASURED)
        return order.index(record.verdict), time

    best, *others = sorted(modes, key=rank)
    record = best.record
    if not others:
        return record
    if record.verdict == NOT_MEASURED:
        record.note = " / ".join(dict.fromkeys(mode.record.note for mode in modes))
        return record
    notes = [best.implementation.mode, record.note]
    for other in others:
        p50 = other.record.p50_us
        outcome = other.record.note if p50 is None else f"{p50:.3f} us {other.record.note}".rstrip()
        notes.append(f"{other.implementation.mode}: {outcome}")
    record.note = "; ".join(filter(None, notes))
    return record
