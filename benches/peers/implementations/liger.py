"""Liger: one Triton kernel that writes the gradient over the logits in the forward pass."""

from __future__ import annotations

import torch

from ..cases import IGNORE_INDEX, Case
from ..data import Data
from .base import Implementation, Prepared, Result, by_autograd, version_of


class Liger(Implementation):
    name = "liger"
    packages = ("liger_kernel",)
    install = "pip install liger-kernel"
    compiles = True
    # It reads the number of rows that count back to the host.
    capturable = False
    overwrites = True

    def load(self, device: torch.device) -> None:
        from liger_kernel.transformers.cross_entropy import LigerCrossEntropyLoss

        self._loss = LigerCrossEntropyLoss
        self.version = version_of("liger-kernel")

    def lacks(self, case: Case) -> str:
        if case.computes == "backward":
            return "no backward pass of its own: the forward pass has the gradient"
        if case.computes == "fused" and case.place == "apart":
            return "no gradient beside the logits: always in place"
        return ""

    def loss(self, label_smoothing: float, weights: object = None) -> torch.nn.Module:
        return self._loss(weight=weights, ignore_index=IGNORE_INDEX, label_smoothing=label_smoothing)

    def prepare(self, case: Case, data: Data) -> Prepared:
        loss = self.loss(case.label_smoothing, data.weights)
        if case.computes == "forward":

            def forward(number: int) -> Result:
                # Logits that want no gradient get none.
                return loss(data.logits[number], data.targets[number]), None

            return Prepared(forward, note="the loss alone: nothing is saved for a backward pass")
        return by_autograd(case, data, lambda logits, number: loss(logits, data.targets[number]))
