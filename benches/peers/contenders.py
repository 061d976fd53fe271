"""Implementations that are there, and what came of those that are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence

import torch

from .cases import Case
from .implementations import COPY, Implementation, every
from .machine import Machine
from .record import one_line


class ContextLost(Exception):
    """The device does not answer any more: nothing else can be measured in this process."""


@dataclass
class Loaded:
    present: List[Implementation]
    # Why not, by label.
    absent: Dict[str, str]
    implementations: List[Implementation]


def load(names: Sequence[str], machine: Machine) -> Loaded:
    chosen = [each for each in every() if each.name in names or each.name == COPY]
    loaded = Loaded([], {}, chosen)
    for implementation in chosen:
        try:
            implementation.load(machine.device)
        except Exception as error:
            survives(machine, implementation.label, error)
            loaded.absent[implementation.label] = _absence(implementation, error)
        else:
            loaded.present.append(implementation)
    return loaded


def _absence(implementation: Implementation, error: Exception) -> str:
    # What is there and does not load, for the want of another package, say, is no reason to install it.
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    what = "not installed" if missing in implementation.packages else "cannot be loaded"
    return f"{what}: {one_line(error)} ({implementation.install})"


def survives(machine: Machine, label: str, error: Exception) -> None:
    """After a failure: whether the device can be used any more."""
    try:
        machine.synchronize()
    except Exception as lost:
        raise ContextLost(f"{label}: {one_line(error)}; then {one_line(lost)}") from error


def reason(error: Exception, beside_others: bool = False) -> str:
    """Why a contender could not be measured, for a table; whether others' memory was held meanwhile."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory, beside those before it" if beside_others else "out of memory"
    return one_line(error)


def cannot(implementation: Implementation, case: Case) -> str:
    lacking = implementation.lacks(case)
    return f"cannot: {lacking}" if lacking else ""
