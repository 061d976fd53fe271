"""Transformer Engine's parallel_cross_entropy, on one device."""

from __future__ import annotations

import inspect

import torch

from ..cases import IGNORE_INDEX, Case
from ..data import Data
from .base import Implementation, Prepared, by_autograd, version_of


class TransformerEngine(Implementation):
    name = "transformer_engine"
    packages = ("transformer_engine",)
    install = "pip install --no-build-isolation transformer-engine[pytorch]"
    compiles = True

    def load(self, device: torch.device) -> None:
        from transformer_engine.pytorch.cross_entropy import parallel_cross_entropy

        self._cross_entropy = parallel_cross_entropy
        self.version = version_of("transformer-engine")
        # Versions that let the caller choose also save for a backward pass; the others have the gradient
        # in the forward pass, and compare the upstream gradient with 1 on the host.
        self._has_choice = "overwrite_input" in inspect.signature(parallel_cross_entropy).parameters
        self.capturable = self._has_choice
        self.overwrites = not self._has_choice and self._writes_over_logits(device)

    def _writes_over_logits(self, device: torch.device) -> bool:
        logits = torch.arange(16.0, device=device).view(2, 8).requires_grad_()
        before = logits.detach().clone()
        loss = self._loss(logits, torch.zeros(2, dtype=torch.int64, device=device), 0.0, in_place=False)
        torch.autograd.grad(loss, logits)
        return not torch.equal(before, logits.detach())

    def _loss(
        self, logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float, in_place: bool
    ) -> torch.Tensor:
        choice = {"overwrite_input": in_place} if self._has_choice else {}
        # By position: the first argument's name has changed. It wants [batch, sequence, classes].
        return self._cross_entropy(
            logits.unsqueeze(0), targets.unsqueeze(0), label_smoothing, True, None, IGNORE_INDEX, **choice
        )

    def lacks(self, case: Case) -> str:
        if case.weighted:
            return "no class weights"
        if case.dtype == "f16" and self._has_choice:
            return "no f16"
        if case.computes == "backward":
            return "no backward pass that can be repeated"
        if case.computes == "forward" and not self._has_choice:
            return "no forward pass without the gradient"
        if self._has_choice or case.computes == "forward":
            return ""
        if case.place == "in_place" and not self.overwrites:
            return "no gradient in place"
        if case.place == "apart" and self.overwrites:
            return "no gradient beside the logits: always in place"
        return ""

    def prepare(self, case: Case, data: Data) -> Prepared:
        in_place = case.place == "in_place"

        def loss_of(logits: torch.Tensor, number: int) -> torch.Tensor:
            return self._loss(logits, data.targets[number], case.label_smoothing, in_place)

        return by_autograd(case, data, loss_of)
