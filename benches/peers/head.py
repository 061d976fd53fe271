"""A training step of a classifier head: linear layer, loss, and the gradients of both.

Everybody's matrix products are torch's; the loss step between them differs. The reference takes the
logits as they are, rounded to the dtype, computes the gradient in f64, and the products with it in f32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F

from . import reference, timing, tolerance
from .cases import IGNORE_INDEX
from .contenders import Loaded, reason, survives
from .data import DTYPES
from .implementations import Liger, Smoothxent
from .implementations.pytorch import NO_CUDA_GRAPHS
from .machine import Machine
from .record import DISAGREES, NOT_MEASURED, REHEARSAL, RIGHT, WRONG, Head
from .timing import Work

DTYPE = "bf16"
LABEL_SMOOTHING = 0.1
NAMES = ("smoothxent", "torch_eager", "torch_compile", "liger")

CHUNK_ROWS = 128

# The loss, and the gradients of hidden states and weights.
Step = Callable[[], Tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class HeadSize:
    tokens: int = 4096
    hidden: int = 4096
    classes: int = 128_256

    def __str__(self) -> str:
        return f"{self.tokens} tokens, hidden {self.hidden}, {self.classes} classes {DTYPE}"


REHEARSAL_SIZE = HeadSize(tokens=48, hidden=32, classes=1000)


class HeadRun:
    def __init__(self, machine: Machine, loaded: Loaded, size: HeadSize, repeats: int) -> None:
        self._machine, self._loaded, self._size, self._repeats = machine, loaded, size, repeats

    def measure(self) -> List[Head]:
        size, device = self._size, self._machine.device
        generator = torch.Generator(device).manual_seed(1)

        def normal(rows: int, scale: float) -> torch.Tensor:
            values = torch.randn(rows, size.hidden, generator=generator, device=device)
            return (values * scale).to(DTYPES[DTYPE])

        # Logits of some units, as a trained head has.
        self._hidden, self._weight = normal(size.tokens, 1.0), normal(size.classes, 2 * size.hidden**-0.5)
        self._targets = torch.arange(size.tokens, device=device) * 7919 % size.classes
        self._expected = self._reference()
        records, works = {}, {}
        for implementation in self._loaded.implementations:
            name = implementation.name
            if name not in NAMES or name in records:
                continue
            record = Head(
                name,
                implementation.version,
                device=self._machine.name,
                tokens=size.tokens,
                hidden=size.hidden,
                classes=size.classes,
                dtype=DTYPE,
            )
            records[name] = record
            if implementation.label in self._loaded.absent:
                record.note = self._loaded.absent[implementation.label]
                continue
            try:
                works[name] = self._prepare(record, implementation)
            except Exception as error:
                works.pop(name, None)
                survives(self._machine, name, error)
                record.verdict, record.note = NOT_MEASURED, reason(error)
                self._machine.free()
        if not self._machine.rehearsal:
            self._time(records, works)
        self._machine.free()
        return list(records.values())

    def _prepare(self, record: Head, implementation: Any) -> Work:
        step, given_bytes = self._step(record.implementation, implementation)
        self._compare(record, *step())
        if not self._machine.rehearsal:
            record.peak_bytes = given_bytes + timing.peak_bytes(step)
        return Work(lambda _: step(), 1, capturable=False)

    def _step(self, name: str, implementation: Any) -> Tuple[Step, int]:
        if name == Smoothxent.name:
            return self._own(implementation)
        hidden, weight = self._hidden.requires_grad_(), self._weight.requires_grad_()
        targets = self._targets
        losses: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}

        def eager(logits: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(
                logits, targets, ignore_index=IGNORE_INDEX, label_smoothing=LABEL_SMOOTHING
            )

        losses["torch_eager"] = losses["torch_compile"] = eager
        if name == Liger.name:
            liger = implementation.loss(LABEL_SMOOTHING)
            losses[name] = lambda logits: liger(logits, targets)
        loss_of = losses[name]

        def forward(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return loss_of(F.linear(hidden, weight))

        if name == "torch_compile":
            torch.compiler.reset()
            # All of it: the products may be fused with what is around them.
            forward = torch.compile(forward, dynamic=False, mode=NO_CUDA_GRAPHS)

        def step() -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            loss = forward(hidden, weight)
            return (loss.detach(), *torch.autograd.grad(loss, (hidden, weight)))

        return step, 0

    def _own(self, implementation: Smoothxent) -> Tuple[Step, int]:
        hidden, weight = self._hidden.detach(), self._weight.detach()
        targets, config = self._targets, implementation.config(LABEL_SMOOTHING)
        workspace = implementation.workspace(self._size.tokens, hidden.device)
        loss = torch.zeros(1, dtype=torch.float32, device=hidden.device)

        def step() -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            logits = F.linear(hidden, weight)
            implementation.in_place(logits, targets, config, loss, workspace, DTYPE)
            return loss[0], logits @ weight, logits.T @ hidden

        return step, workspace.numel() + loss.element_size()

    def _reference(self) -> Tuple[float, float, torch.Tensor, torch.Tensor]:
        """Loss, its budget, and the gradients of hidden states and weights."""
        hidden, weight, size = self._hidden.detach(), self._weight.detach(), self._size
        by_hidden = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device)
        by_weight = torch.zeros(weight.shape, dtype=torch.float32, device=hidden.device)
        loss_sum = size_sum = 0.0
        for start in range(0, size.tokens, CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            logits = F.linear(hidden[chunk], weight)
            rows = reference.rows(logits, self._targets[chunk], None, LABEL_SMOOTHING)
            loss_sum += rows.losses.sum().item()
            size_sum += rows.sizes.sum().item()
            gradient = (rows.gradient / size.tokens).float()
            by_hidden[chunk] = gradient @ weight.float()
            by_weight += gradient.T @ hidden[chunk].float()
        loss = loss_sum / size.tokens
        budget = tolerance.loss_budget(DTYPE, size.classes, size.tokens, loss, size_sum / size.tokens)
        return loss, budget, by_hidden, by_weight

    def _compare(self, record: Head, loss: torch.Tensor, *gradients: torch.Tensor) -> None:
        self._machine.synchronize()
        expected_loss, loss_budget, *expected = self._expected
        record.verdict = REHEARSAL if self._machine.rehearsal else RIGHT
        complaints = []
        off = abs(loss.double().item() - expected_loss)
        if not off <= loss_budget:
            complaints.append(f"loss off by {off:.3g}")
        for what, gradient, wanted in zip(("hidden states", "weights"), gradients, expected):
            relative = ((gradient.float() - wanted).norm() / wanted.norm()).item()
            if not relative <= tolerance.head_budget(DTYPE):
                complaints.append(f"gradient of {what} off by {relative:.3g} relative")
        record.note = "; ".join(complaints)
        if complaints and self._machine.rehearsal:
            record.note = DISAGREES + record.note
        elif complaints:
            record.verdict = WRONG

    def _time(self, records: Dict[str, Head], works: Dict[str, Work]) -> None:
        def guarded(action: Callable[[Work], Optional[object]]) -> None:
            for name in list(works):
                try:
                    action(works[name])
                except Exception as error:
                    del works[name]
                    records[name].verdict, records[name].note = NOT_MEASURED, reason(error)
                    survives(self._machine, name, error)
                    self._machine.free()

        guarded(lambda work: work.choose_batch(small=False))
        before = self._machine.clocks()
        with timing.without_collector():
            for _ in range(self._repeats):
                timing.collect_young()
                guarded(lambda work: work.take_turn())
        change = before.change(self._machine.clocks())
        for name, work in works.items():
            work.finish()
            record, times = records[name], work.quantiles()
            record.p20_us, record.p50_us, record.p80_us = times.p20, times.p50, times.p80
            record.note = "; ".join(filter(None, (record.note, work.note, change)))
