"""apex's xentropy."""

from __future__ import annotations

import torch

from ..cases import IGNORE_INDEX, Case
from ..data import Data
from .base import Implementation, Prepared, by_autograd, version_of


class Apex(Implementation):
    name = "apex"
    packages = ("apex",)
    install = (
        "git clone https://github.com/NVIDIA/apex && APEX_XENTROPY=1 pip install --no-build-isolation ./apex"
    )

    def load(self, device: torch.device) -> None:
        from apex.contrib.xentropy import SoftmaxCrossEntropyLoss

        self._losses = SoftmaxCrossEntropyLoss.apply
        self.version = version_of("apex")

    def lacks(self, case: Case) -> str:
        if case.place == "in_place":
            return "no gradient in place"
        if case.weighted:
            return "no class weights"
        if case.counted_rows < case.rows:
            return "ignored rows have to name a class"
        return ""

    def prepare(self, case: Case, data: Data) -> Prepared:
        # Its losses are f32; a gradient of those it takes with f16 logits only if told so at once.
        half_to_float = case.dtype == "f16"

        def loss_of(logits: torch.Tensor, number: int) -> torch.Tensor:
            targets = data.targets[number]
            losses = self._losses(logits, targets, case.label_smoothing, IGNORE_INDEX, half_to_float)
            return losses.mean()

        return by_autograd(case, data, loss_of)
