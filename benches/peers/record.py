"""Measurements as lines of CSV files. Empty is what is not known."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, fields
from typing import Any, Dict, List, Optional, Sequence, TextIO

RIGHT = "right"
WRONG = "wrong"
NOT_MEASURED = "not_measured"
REHEARSAL = "rehearsal"

# How a small problem was timed of what cannot be captured: the host may be what was timed.
HOST = "host"

# How the note of a rehearsed result begins that would be wrong.
DISAGREES = "disagrees with the reference: "

SPEED_COLUMNS = (
    "implementation,version,device,driver,torch,sm_mhz,memory_mhz,throttle,rows,classes,dtype,pass,place,"
    "variant,label_smoothing,method,l2,bytes,p20_us,p50_us,p80_us,gb_per_s,copy_bytes,copy_p50_us,"
    "share_of_copy,peak_bytes,verdict,note"
).split(",")

ACCURACY_COLUMNS = (
    "implementation,version,device,rows,classes,dtype,inputs,label_smoothing,loss_abs,loss_rel,"
    "gradient_abs,gradient_rel,target_gradient_rel,verdict,note"
).split(",")

HEAD_COLUMNS = (
    "implementation,version,device,tokens,hidden,classes,dtype,p20_us,p50_us,p80_us,peak_bytes,verdict,note"
).split(",")


@dataclass(frozen=True)
class Quantiles:
    """Microseconds of one call."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Quantiles:
        ordered = sorted(times)
        return cls(*(ordered[(len(ordered) - 1) * percent // 100] for percent in (20, 50, 80)))


@dataclass
class Record:
    """What came of one implementation in one case; the names are those of the columns."""

    implementation: str
    version: str = ""
    verdict: str = NOT_MEASURED
    note: str = ""

    def cells(self) -> Dict[str, Any]:
        # `pass` is a word of Python.
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name.rstrip("_"): value for name, value in named.items()}


@dataclass
class Speed(Record):
    device: str = ""
    driver: str = ""
    torch: str = ""
    sm_mhz: Optional[int] = None
    memory_mhz: Optional[int] = None
    throttle: str = ""
    rows: int = 0
    classes: int = 0
    dtype: str = ""
    pass_: str = ""
    place: str = ""
    variant: str = ""
    label_smoothing: float = 0.0
    method: str = ""
    l2: str = ""
    bytes: int = 0
    p20_us: Optional[float] = None
    p50_us: Optional[float] = None
    p80_us: Optional[float] = None
    gb_per_s: Optional[float] = None
    copy_bytes: int = 0
    copy_p50_us: Optional[float] = None
    share_of_copy: Optional[float] = None
    peak_bytes: Optional[int] = None

    def set_times(self, times: Quantiles, copy: Optional[Quantiles]) -> None:
        self.p20_us, self.p50_us, self.p80_us = times.p20, times.p50, times.p80
        self.gb_per_s = self.bytes / times.p50 / 1000
        if copy is not None:
            self.copy_p50_us = copy.p50
            self.share_of_copy = self.gb_per_s / (self.copy_bytes / copy.p50 / 1000)


@dataclass
class Accuracy(Record):
    device: str = ""
    rows: int = 0
    classes: int = 0
    dtype: str = ""
    inputs: str = ""
    label_smoothing: float = 0.0
    loss_abs: Optional[float] = None
    loss_rel: Optional[float] = None
    gradient_abs: Optional[float] = None
    gradient_rel: Optional[float] = None
    target_gradient_rel: Optional[float] = None


@dataclass
class Head(Record):
    device: str = ""
    tokens: int = 0
    hidden: int = 0
    classes: int = 0
    dtype: str = ""
    p20_us: Optional[float] = None
    p50_us: Optional[float] = None
    p80_us: Optional[float] = None
    peak_bytes: Optional[int] = None


_DECIMALS = {"gb_per_s": 1, "share_of_copy": 4}


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float) or column == "label_smoothing":
        return f"{value:g}" if isinstance(value, float) else str(value)
    if column.endswith("_us"):
        return f"{value:.3f}"
    return f"{value:.{_DECIMALS[column]}f}" if column in _DECIMALS else f"{value:.4g}"


class Writer:
    """A file that has every line as soon as it is known; none without a path."""

    def __init__(self, path: Optional[str], columns: List[str]) -> None:
        self._columns = columns
        self._file: Optional[TextIO] = None
        if path is not None:
            self._file = open(path, "w", newline="", encoding="utf-8")
            self._csv = csv.writer(self._file, lineterminator="\n")
            self._csv.writerow(columns)
            self._file.flush()

    def write(self, record: Record) -> None:
        if self._file is None:
            return
        cells = record.cells()
        self._csv.writerow([_cell(column, cells[column]) for column in self._columns])
        self._file.flush()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def one_line(error: BaseException) -> str:
    """What an exception says, short enough for a table."""
    # Some compilers colour what they say.
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
    return text if len(text) <= 160 else text[:157] + "..."
