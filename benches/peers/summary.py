"""The tables that come last: what a reader should know without the CSV files."""

from __future__ import annotations

from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from .record import DISAGREES, HOST, NOT_MEASURED, REHEARSAL, RIGHT, WRONG, Accuracy, Head, Record, Speed

OWN = "smoothxent"
COPY = "copy"
EAGER = "torch_eager"

# Names of cases that a list shows before it only counts.
SHOWN = 12

Key = Tuple[object, ...]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> List[str]:
    """Lines in columns, the first ones aligned on the left."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def aligned(line: List[str]) -> str:
        cells = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        )
        return "  ".join(cells).rstrip()

    return [aligned(line) for line in lines]


def number(value: Optional[float], decimals: int = 2) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def shape_of(record: Speed) -> str:
    computes = "in place" if record.place == "in_place" else record.pass_
    text = f"{record.rows} x {record.classes} {record.dtype} {computes} {record.label_smoothing:g}"
    return text if record.variant == "plain" else f"{text} {record.variant}"


def speed_lines(records: Sequence[Speed]) -> List[str]:
    by_case: Dict[str, Dict[str, Speed]] = {}
    for record in records:
        by_case.setdefault(shape_of(record), {})[record.implementation] = record
    if any(record.verdict == REHEARSAL for record in records):
        return rehearsal_lines("results", records)
    rows, slower, compared = [], [], 0
    for shape, of in by_case.items():
        own = of.get(OWN)
        peer = fastest_peer(of.values())
        ratio = None
        if own and own.p50_us and own.verdict == RIGHT and peer and peer.p50_us:
            ratio = peer.p50_us / own.p50_us
            compared += 1
            if ratio < 1:
                slower.append(f"{shape}: {peer.implementation} takes {ratio:.3f} of its time")
        eager = of.get(EAGER)
        own_time = own.p50_us if own else None
        rows.append(
            [
                shape,
                number(own_time) + ("" if own is None or own.verdict != WRONG else " WRONG"),
                number(own.gb_per_s if own else None, 0),
                number(own.share_of_copy if own else None, 3),
                "-" if peer is None else peer.implementation + (" WRONG" if peer.verdict == WRONG else ""),
                number(peer.p50_us if peer else None),
                number(ratio),
                number(eager.p50_us / own_time if eager and eager.p50_us and own_time else None),
            ]
        )
    header = [
        "rows x classes type pass smoothing",
        "smoothxent us",
        "GB/s",
        "of copy",
        "fastest peer",
        "us",
        "speed-up",
        "over eager",
    ]
    lines = table(header, rows)
    lines.append(f"slower than a peer in {len(slower)} of {compared} cases{':' if slower else ''}")
    return lines + [f"    {line}" for line in slower]


def fastest_peer(records: Iterable[Speed]) -> Optional[Speed]:
    """Of those whose results are right, if any are, and of which the device was timed."""
    timed = [
        record
        for record in records
        if record.implementation not in (OWN, COPY) and record.p50_us is not None and record.method != HOST
    ]
    right = [record for record in timed if record.verdict == RIGHT]
    return min(right or timed, key=lambda record: record.p50_us or 0.0, default=None)


def rehearsal_lines(what: str, records: Sequence[Record]) -> List[str]:
    rehearsed = [record for record in records if record.verdict == REHEARSAL]
    wrong = [record for record in rehearsed if DISAGREES in record.note]
    agreeing = len(rehearsed) - len(wrong)
    lines = [f"rehearsal: {agreeing} {what} agree with the reference, {len(wrong)} do not; nothing was timed"]
    return lines + _shortened([_complaint("", record) for record in wrong])


def wrong_lines(records: Sequence[Record]) -> List[str]:
    """Results that are not what they should be, by implementation and complaint."""
    return _shortened([_complaint("WRONG: ", record) for record in records if record.verdict == WRONG])


def failed_lines(failed: List[str]) -> List[str]:
    """Cases that could not begin, each with its reason."""
    return _shortened([f"could not be measured: {each}" for each in failed])


def _complaint(prefix: str, record: Record) -> str:
    return f"{prefix}{record.implementation}: {_case_of(record)}: {record.note}"


def _shortened(lines: List[str]) -> List[str]:
    return (
        lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more, see the CSV file"]
    )


def _case_of(record: Record) -> str:
    if isinstance(record, Speed):
        return shape_of(record)
    if isinstance(record, Accuracy):
        return f"{record.inputs} {record.dtype} {record.label_smoothing:g}"
    return "head"


def absent_lines(records: Sequence[Record]) -> List[str]:
    """What was not measured, each reason once."""
    counts: Dict[Tuple[str, str], int] = {}
    of_name: Dict[str, int] = {}
    for record in records:
        of_name[record.implementation] = of_name.get(record.implementation, 0) + 1
        if record.verdict == NOT_MEASURED:
            key = (record.implementation, record.note)
            counts[key] = counts.get(key, 0) + 1
    lines = []
    for (name, note), count in counts.items():
        where = "" if count == of_name[name] else f" in {count} of {of_name[name]} cases"
        lines.append(f"not measured{where}: {name}: {note}")
    return lines


def left_out_lines(cases: Sequence[object]) -> List[str]:
    if not cases:
        return ["left out for time: nothing"]
    lines = [f"left out for time, {len(cases)} cases:", *(f"    {case}" for case in cases[:SHOWN])]
    if len(cases) > SHOWN:
        lines.append(f"    and {len(cases) - SHOWN} more")
    return lines


_ACCURACY_COLUMNS = [
    ("loss random", "random", "loss_rel"),
    ("gap10", "gap10", "loss_rel"),
    ("gap20", "gap20", "loss_rel"),
    ("gap50", "gap50", "loss_rel"),
    ("gradient random", "random", "gradient_rel"),
    ("at target gap5", "gap5", "target_gradient_rel"),
    ("gap10", "gap10", "target_gradient_rel"),
    ("gap20", "gap20", "target_gradient_rel"),
    ("gap50", "gap50", "target_gradient_rel"),
]


def accuracy_lines(records: Sequence[Accuracy]) -> List[str]:
    """Worst relative errors: a line for each dtype and implementation."""
    by_row: Dict[Key, Dict[str, Accuracy]] = {}
    for record in records:
        if record.verdict != NOT_MEASURED:
            key = (record.label_smoothing, record.dtype, record.implementation)
            by_row.setdefault(key, {})[record.inputs] = record
    rows = []
    for (smoothing, dtype, name), of in by_row.items():
        cells = []
        for _, inputs, column in _ACCURACY_COLUMNS:
            value = getattr(of[inputs], column) if inputs in of else None
            wrong = inputs in of and of[inputs].verdict == WRONG
            cells.append(("-" if value is None else f"{value:.0e}") + ("!" if wrong else ""))
        rows.append([f"{dtype} {smoothing:g}", str(name), *cells])
    header = ["type smoothing", "implementation", *(title for title, _, _ in _ACCURACY_COLUMNS)]
    return table(header, rows, left=2)


def head_lines(records: Sequence[Head]) -> List[str]:
    if any(record.verdict == REHEARSAL for record in records):
        return rehearsal_lines("steps", records)
    measured = [record for record in records if record.p50_us is not None]
    eager = next((record.p50_us for record in measured if record.implementation == EAGER), None)
    rows = [
        [
            record.implementation + (" WRONG" if record.verdict == WRONG else ""),
            number((record.p50_us or 0.0) / 1000, 3),
            number(eager / record.p50_us if eager and record.p50_us else None),
            number(None if record.peak_bytes is None else record.peak_bytes / 1e9),
        ]
        for record in measured
    ]
    return table(["step of a head", "ms", "over eager", "peak GB"], rows)
