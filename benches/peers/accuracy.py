"""How many digits each implementation keeps, for ordinary rows and for confident ones."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Dict, List

from . import reference
from .cases import Case
from .contenders import Loaded, cannot, reason, survives
from .data import Data
from .implementations import COPY, Implementation
from .machine import Machine
from .record import DISAGREES, NOT_MEASURED, REHEARSAL, RIGHT, WRONG, Accuracy

# Batches whose worst error counts.
BATCHES = 8

_ERRORS = ("loss_abs", "loss_rel", "gradient_abs", "gradient_rel", "target_gradient_rel")


class AccuracyRun:
    def __init__(self, machine: Machine, loaded: Loaded) -> None:
        self._machine, self._loaded = machine, loaded
        # Modes compute the same: the first of each name that is there, else the first, which says why.
        self._by_name: Dict[str, Implementation] = {}
        for implementation in [*loaded.present, *loaded.implementations]:
            if implementation.name != COPY:
                self._by_name.setdefault(implementation.name, implementation)

    def measure(self, case: Case) -> List[Accuracy]:
        data = Data(case, self._machine.device, BATCHES)
        records = [self._measure(case, data, each) for each in self._by_name.values()]
        del data
        self._machine.free()
        return records

    def _measure(self, case: Case, data: Data, implementation: Implementation) -> Accuracy:
        record = Accuracy(
            implementation.name,
            implementation.version,
            device=self._machine.name,
            rows=case.rows,
            classes=case.classes,
            dtype=case.dtype,
            inputs=case.inputs,
            label_smoothing=case.label_smoothing,
        )
        if implementation.label in self._loaded.absent:
            record.note = self._loaded.absent[implementation.label]
            return record
        if cannot(implementation, case):
            # Wherever the gradient goes, it is the same.
            case = replace(case, place="in_place")
        record.note = cannot(implementation, case)
        if record.note:
            return record
        try:
            prepared = implementation.prepare(case, data)
            record.verdict = REHEARSAL if self._machine.rehearsal else RIGHT
            for batch in range(BATCHES):
                data.poison_gradient(batch)
                result = prepared.call(batch)
                self._machine.synchronize()
                distance = reference.compare(data, batch, *prepared.finish(result), divided=prepared.divided)
                _keep_worst(record, distance)
                if distance.right:
                    continue
                if self._machine.rehearsal:
                    record.note = DISAGREES + distance.complaint()
                else:
                    record.verdict, record.note = WRONG, distance.complaint()
        except Exception as error:
            survives(self._machine, implementation.label, error)
            record.verdict, record.note = NOT_MEASURED, reason(error)
        # Also where nobody was to write over them: the next one reads the same logits.
        data.refill()
        return record


def _keep_worst(record: Accuracy, distance: reference.Distance) -> None:
    assert set(_ERRORS) <= {field.name for field in fields(record)}
    for name in _ERRORS:
        known, value = getattr(record, name), getattr(distance, name)
        # NaN is worse than anything.
        if value is not None and (known is None or not value <= known):
            setattr(record, name, value)
