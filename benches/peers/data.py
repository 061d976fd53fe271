"""The buffers that every implementation gets: logits, targets, class weights, room for gradients."""

from __future__ import annotations

from functools import lru_cache
from typing import Iterator, List, Tuple

import torch

from .cases import GAPS, IGNORE_INDEX, Case

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

# Enough sets of buffers that none is still in the L2 cache when its turn comes again.
L2_SIZES = 4
L2_BYTES_IF_UNKNOWN = 50 << 20

# With which the smallest problems stay in the cache; their latency is what is looked at.
MAX_SETS = 256

# Logits repeat after a prime, so that no two rows of a shape are alike.
PERIOD = 1_048_573

# So that every matrix starts at a multiple of 256 bytes, but for those that shall not.
ALIGNMENT = 128

CHUNK_ELEMENTS = 1 << 24


@lru_cache(maxsize=2)
def _even(device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(PERIOD, generator=generator) * 16 - 8).to(device)


def sets_of(case: Case, l2_bytes: int) -> int:
    """As if there were a gradient beside the logits: else these alone are still twice the cache."""
    return max(1, min(MAX_SETS, -(-L2_SIZES * l2_bytes // (2 * case.matrix_bytes))))


class Data:
    """Sets of buffers of one case; successive calls use successive sets."""

    def __init__(self, case: Case, device: torch.device, sets: int) -> None:
        self.case, self.device, self.sets = case, device, sets
        self.dtype = DTYPES[case.dtype]
        self._period = _even(device)
        stride = case.row_stride
        self._set_elements = -(-(case.offset + case.rows * stride) // ALIGNMENT) * ALIGNMENT
        storage = torch.zeros(sets * self._set_elements, dtype=self.dtype, device=device)
        self.flat: List[torch.Tensor] = list(storage.split(self._set_elements))
        shape = (case.rows, case.classes)
        self.logits = [
            flat.as_strided(shape, (stride, 1), flat.storage_offset() + case.offset) for flat in self.flat
        ]
        elements = -(-case.rows * case.classes // ALIGNMENT) * ALIGNMENT
        gradients = torch.zeros(sets * elements, dtype=self.dtype, device=device).split(elements)
        self.flat_gradients: List[torch.Tensor] = list(gradients)
        self.gradients = [flat[: case.rows * case.classes].view(shape) for flat in gradients]
        row = torch.arange(case.rows, device=device)
        targets = torch.where(case.is_ignored(row), IGNORE_INDEX, case.target(row))
        # Copies, as slices of one tensor would begin where some kernels do not like it.
        self.targets = [targets.clone() for _ in range(sets)]
        self.weights = None
        if case.weighted:
            # Multiples of 1/64 from 1/2 to 2, which every dtype has.
            classes = torch.arange(case.classes, device=device)
            self.weights = ((classes * 37 % 97 + 32).float() / 64).contiguous()
        self.refill()

    def chunks(self) -> Iterator[Tuple[int, int]]:
        """Ranges of rows that are small in f64, too."""
        step = max(1, CHUNK_ELEMENTS // self.case.classes)
        for start in range(0, self.case.rows, step):
            yield start, min(start + step, self.case.rows)

    def fresh(self, number: int, start: int, end: int) -> torch.Tensor:
        """What the logits of these rows were at first, in the case's dtype."""
        case = self.case
        first = start * case.classes + number * 7919
        index = torch.arange(first, first + (end - start) * case.classes, device=self.device) % PERIOD
        values = self._period[index].view(end - start, case.classes)
        if case.inputs == "random":
            return values.to(self.dtype)
        values = (values / 8).to(self.dtype)
        targets = self.targets[number][start:end].unsqueeze(1)
        others = values.double().scatter(1, targets, float("-inf")).logsumexp(1, keepdim=True)
        return values.scatter(1, targets, (others + GAPS[case.inputs]).to(self.dtype))

    def refill(self, number: int = -1) -> None:
        """Puts back logits that gradients were written over, of one set or of all."""
        for of in range(self.sets) if number < 0 else [number]:
            for start, end in self.chunks():
                self.logits[of][start:end] = self.fresh(of, start, end)

    def poison_gradient(self, number: int) -> None:
        """So that nobody is taken for right who wrote nothing where another had."""
        self.flat_gradients[number].fill_(float("nan"))

    def is_fresh(self, number: int) -> bool:
        """Whether nothing was written over the logits of a set."""
        logits = self.logits[number]
        return all(
            torch.equal(logits[start:end], self.fresh(number, start, end)) for start, end in self.chunks()
        )

    def leaves(self) -> List[torch.Tensor]:
        """The logits as autograd wants them: the same memory."""
        return [logits.detach().requires_grad_() for logits in self.logits]

    def divisor(self) -> float:
        """What a mean divides by: rows that count, or the weights of their targets."""
        targets = self.targets[0]
        counted = targets[targets != IGNORE_INDEX]
        if self.weights is None:
            return float(counted.numel())
        return self.weights.double()[counted].sum().item()
