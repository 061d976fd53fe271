"""QuACK: CuTe DSL kernels for even numbers of classes, without label smoothing."""

from __future__ import annotations

from typing import Any

import torch

from ..cases import IGNORE_INDEX, Case
from ..data import Data
from .base import Implementation, Prepared, Result, by_autograd, version_of


class Quack(Implementation):
    name = "quack"
    mode = "autograd"
    packages = ("quack",)
    install = "pip install quack-kernels"
    compiles = True

    def load(self, device: torch.device) -> None:
        from quack.cross_entropy import cross_entropy, cross_entropy_fwd

        self._cross_entropy, self._forward = cross_entropy, cross_entropy_fwd
        self.version = version_of("quack-kernels")

    def lacks(self, case: Case) -> str:
        return "no label smoothing" if case.label_smoothing else ""

    def prepare(self, case: Case, data: Data) -> Prepared:
        in_place = case.place == "in_place"

        def loss_of(logits: torch.Tensor, number: int) -> torch.Tensor:
            return self._cross_entropy(
                logits,
                data.targets[number],
                weight=data.weights,
                ignore_index=IGNORE_INDEX,
                reduction="mean",
                inplace_backward=in_place,
            )

        return by_autograd(case, data, loss_of)


class QuackUndivided(Quack):
    """Its one kernel for loss and gradient, which divides by nothing: the gradient of a sum."""

    mode = "one kernel, undivided"

    def lacks(self, case: Case) -> str:
        if case.computes != "fused":
            return "no passes apart in one kernel"
        return super().lacks(case)

    def prepare(self, case: Case, data: Data) -> Prepared:
        in_place = case.place == "in_place"

        def call(number: int) -> Any:
            return self._forward(
                data.logits[number],
                data.targets[number],
                weight=data.weights,
                ignore_index=IGNORE_INDEX,
                return_dx=True,
                inplace_backward=in_place,
            )

        def finish(result: Any) -> Result:
            losses, gradient = result
            return losses.double().sum(), gradient

        note = "losses of rows and the gradient of their sum"
        return Prepared(call, finish, divided=False, note=note)
