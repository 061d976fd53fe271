"""What is measured: shapes, dtypes, passes and variants."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any, Iterable, List, Optional, Sequence, Tuple

ELEMENT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}

# PyTorch's and nearly everybody's.
IGNORE_INDEX = -100

# As --passes names them: what is computed, and whether the gradient goes over the logits.
PASSES = {
    "fused": ("fused", "apart"),
    "in_place": ("fused", "in_place"),
    "forward": ("forward", "apart"),
    "backward": ("backward", "apart"),
}

# Those in which a training step's gradient comes along with its loss.
STEP_PASSES = ("fused", "in_place")

VARIANTS = ("plain", "ignored30", "ignored90", "weighted", "misaligned", "padded")

# Tenths of the rows.
IGNORED_TENTHS = {"ignored30": 3, "ignored90": 9}

# What the logits are: even between -8 and 8, or between -1 and 1 with a target so many nats above
# the log-sum-exp of the others, so that 1 - p is about exp(-gap) for any number of classes.
GAPS = {"gap5": 5.0, "gap10": 10.0, "gap20": 20.0, "gap50": 50.0}
INPUTS = ("random", *GAPS)

PADDED_TO = 64


@dataclass(frozen=True)
class Size:
    rows: int
    classes: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.rows} x {self.classes} {self.dtype}"


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    rows: int
    classes: int
    dtype: str
    computes: str = "fused"
    place: str = "apart"
    variant: str = "plain"
    label_smoothing: float = 0.1
    inputs: str = "random"

    def __str__(self) -> str:
        computes = "in place" if self.place == "in_place" else self.computes
        text = f"{self.rows} x {self.classes} {self.dtype} {computes} smoothing {self.label_smoothing:g}"
        special = [
            name for name, usual in ((self.variant, "plain"), (self.inputs, "random")) if name != usual
        ]
        return " ".join([text, *special])

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def matrix_bytes(self) -> int:
        return self.rows * self.classes * self.element_bytes

    @property
    def row_stride(self) -> int:
        if self.variant != "padded":
            return self.classes
        return (self.classes // PADDED_TO + 1) * PADDED_TO

    @property
    def offset(self) -> int:
        """Elements before the first logit in an allocation."""
        return 1 if self.variant == "misaligned" else 0

    @property
    def weighted(self) -> bool:
        return self.variant == "weighted"

    def is_ignored(self, row: Any) -> Any:
        """Of a row's number, or of many in a tensor."""
        return row * 7 % 10 >= 10 - IGNORED_TENTHS.get(self.variant, 0)

    def target(self, row: Any) -> Any:
        """Of a row that is not ignored."""
        return row * 7919 % self.classes

    @property
    def counted_rows(self) -> int:
        tens, rest = divmod(self.rows, 10)
        counted = 10 - IGNORED_TENTHS.get(self.variant, 0)
        return tens * counted + sum(not self.is_ignored(row) for row in range(rest))

    @property
    def _moved_rows(self) -> int:
        """Rows of logits that have to be read and rows of the gradient that have to be written."""
        written = 0 if self.computes == "forward" else self.rows
        return self.counted_rows + written

    @property
    def bytes(self) -> int:
        """The least that has to be read and written, each once.

        Between a forward and a backward pass at least a log-sum-exp of each row is kept.
        """
        target, log_sum_exp = 8, 4
        of_row = target if self.computes == "fused" else target + log_sum_exp
        weights = 4 * self.classes if self.weighted else 0
        matrices = self._moved_rows * self.classes * self.element_bytes
        return matrices + self.rows * of_row + weights

    @property
    def touched_bytes(self) -> int:
        """Of the logits and of a gradient beside them, if there is one."""
        has_gradient = self.computes != "forward" and self.place == "apart"
        return self.matrix_bytes * (2 if has_gradient else 1)

    @property
    def copied_elements(self) -> int:
        """Elements that a copy has to take so that it moves as much as the matrices."""
        return max(1, self._moved_rows * self.classes // 2)


def _sizes(shapes: Iterable[Tuple[int, int, str]]) -> List[Size]:
    return [Size(*shape) for shape in shapes]


# The grid of benches/fused/cases.rs, most important first, since time may run out.
SHORT_GRID = _sizes(
    [
        (8192, 32_000, "bf16"),
        (4096, 128_256, "bf16"),
        (4096, 1000, "bf16"),
        (65_536, 10, "f16"),
        (64, 128_256, "bf16"),
        (8192, 50_257, "bf16"),
        (8192, 32_000, "f32"),
        (4096, 1000, "f32"),
        (2048, 128_256, "f32"),
        (65_536, 10, "f32"),
        (64, 128_256, "f32"),
        (8192, 32_000, "f16"),
        (4096, 128_256, "f16"),
        (8192, 50_257, "f16"),
    ]
)

QUICK_GRID = _sizes([(8192, 32_000, "bf16"), (4096, 1000, "bf16"), (65_536, 10, "f16")])

# In place of any grid where no times are taken.
REHEARSAL_GRID = _sizes(
    [
        (70, 10, "f32"),
        (50, 300, "bf16"),
        (30, 2500, "f16"),
        (1, 9001, "f32"),
        (3, 1, "bf16"),
    ]
)

_FULL = [
    ((2, 3, 10, 16, 32), (1 << 16, 1 << 20, 1 << 23)),
    ((100, 365, 1000, 10_450, 21_841), (256, 4096, 65_536)),
    (
        (
            30_522,
            32_000,
            32_001,
            50_257,
            50_304,
            65_536,
            102_400,
            128_256,
            151_936,
            201_088,
            256_000,
            262_144,
        ),
        (1, 64, 1024, 8192, 32_768),
    ),
    # Powers of two, which benchmarks of fused kernels like.
    ((256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768), (32_768,)),
    ((131_072,), (16_384,)),
]

# What is compared on every machine has to fit one of 24 GB with its gradient.
FULL_GRID_BYTES = 9 << 30


def full_grid() -> List[Size]:
    shapes = [
        Size(rows, classes, dtype)
        for dtype in ("bf16", "f32", "f16")
        for all_classes, all_rows in _FULL
        for classes in all_classes
        for rows in all_rows
    ]
    fitting = (
        size for size in shapes if size.rows * size.classes * ELEMENT_BYTES[size.dtype] <= FULL_GRID_BYTES
    )
    return list(dict.fromkeys(fitting))


def parse_shapes(text: str) -> List[Size]:
    """`8192x32000`, of every dtype, or `8192x32000:bf16`; commas between several."""
    sizes = []
    for named in text.split(","):
        size, colon, dtype = named.partition(":")
        rows, _, classes = size.partition("x")
        numbers = rows.isdecimal() and classes.isdecimal() and int(rows) > 0 and int(classes) > 0
        if not numbers or (colon and dtype not in ELEMENT_BYTES):
            raise ValueError(f"{named!r}: ROWSxCLASSES or ROWSxCLASSES:DTYPE, such as 8192x32000:bf16")
        dtypes = [dtype] if colon else ["bf16", "f32", "f16"]
        sizes += [Size(int(rows), int(classes), dtype) for dtype in dtypes]
    return sizes


def read_shapes(path: str) -> List[Size]:
    """The shapes of a CSV file with columns `rows`, `classes` and `dtype`, each once."""
    with open(path, newline="") as file:
        sizes = [Size(int(row["rows"]), int(row["classes"]), row["dtype"]) for row in csv.DictReader(file)]
    return list(dict.fromkeys(sizes))


def parse_names(text: str, names: Sequence[str], what: str) -> List[str]:
    """Names with commas between them, or `all`."""
    if text == "all":
        return list(names)
    chosen = text.split(",")
    for name in chosen:
        if name not in names:
            raise ValueError(f"no {what} {name!r}: all, or some of {','.join(names)}")
    return chosen


def parse_count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r}: a number, such as 8")
    return int(text)


def parse_smoothings(text: str) -> List[float]:
    smoothings = [float(number) for number in text.split(",")]
    if not all(0 <= smoothing <= 1 for smoothing in smoothings):
        raise ValueError(f"{text!r}: label smoothing lies between 0 and 1")
    return smoothings


def speed_cases(
    sizes: Sequence[Size],
    passes: Sequence[str],
    variants: Sequence[str],
    smoothings: Sequence[float],
) -> List[Case]:
    """Pass by pass, so that what matters most is known first."""
    return [
        Case(size.rows, size.classes, size.dtype, *PASSES[name], variant, smoothing)
        for variant in variants
        for name in passes
        for size in sizes
        for smoothing in smoothings
    ]


# Enough rows to find an unlucky one, and a common vocabulary.
ACCURACY_ROWS, ACCURACY_CLASSES = 64, 32_000


def accuracy_cases(smoothings: Sequence[float], classes: Optional[int] = None) -> List[Case]:
    return [
        Case(ACCURACY_ROWS, classes or ACCURACY_CLASSES, dtype, label_smoothing=smoothing, inputs=inputs)
        for smoothing in smoothings
        for dtype in ("bf16", "f32", "f16")
        # A smoothed target pulls a confident row by so much that its own small part does not show.
        for inputs in (INPUTS if smoothing == 0 else ("random",))
    ]
