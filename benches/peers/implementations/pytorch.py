"""PyTorch's own loss: eager, and compiled."""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch
import torch._functorch.config
import torch.nn.functional as F

from ..cases import IGNORE_INDEX, Case
from ..data import Data
from ..machine import release
from .base import Implementation, Prepared, Result, by_autograd

# By their names since torch 2.7, and before.
_RECOMPILE_LIMITS = (
    "recompile_limit",
    "accumulated_recompile_limit",
    "cache_size_limit",
    "accumulated_cache_size_limit",
)
_FAILS_AT_LIMIT = ("fail_on_recompile_limit_hit", "fail_on_cache_limit_hit")

CUDA_GRAPHS = "max-autotune"
NO_CUDA_GRAPHS = "max-autotune-no-cudagraphs"


def weights_like_logits(data: Data) -> Optional[torch.Tensor]:
    """PyTorch wants class weights in the logits' dtype."""
    return None if data.weights is None else data.weights.to(data.dtype)


def _set_if_known(config: Any, name: str, value: object) -> None:
    """Sets an option of a torch that has it: an unknown one raises."""
    if hasattr(config, name):
        setattr(config, name, value)


class TorchEager(Implementation):
    name = "torch_eager"
    install = "pip install torch"

    def load(self, device: torch.device) -> None:
        self.version = release(torch.__version__)

    def lacks(self, case: Case) -> str:
        return "no gradient in place" if case.place == "in_place" else ""

    def prepare(self, case: Case, data: Data) -> Prepared:
        weights = weights_like_logits(data)

        def loss_of(logits: torch.Tensor, number: int) -> torch.Tensor:
            return F.cross_entropy(
                logits,
                data.targets[number],
                weight=weights,
                ignore_index=IGNORE_INDEX,
                label_smoothing=case.label_smoothing,
            )

        return by_autograd(case, data, loss_of)


class TorchCompile(Implementation):
    name = "torch_compile"
    install = "pip install torch"
    compiles = True

    def __init__(self, mode: str) -> None:
        self.mode = mode
        # With graphs of its own it is replayed as it is.
        self.capturable = mode == NO_CUDA_GRAPHS
        self._key: object = None

    def load(self, device: torch.device) -> None:
        self.version = release(torch.__version__)

    def lacks(self, case: Case) -> str:
        if case.place == "in_place":
            return "no gradient in place"
        if self.mode == CUDA_GRAPHS and case.computes == "backward":
            return "its graphs overwrite what a repeated backward pass needs"
        return ""

    def prepare(self, case: Case, data: Data) -> Prepared:
        compiled, weights = self._compiled(case), weights_like_logits(data)

        def loss_of(logits: torch.Tensor, number: int) -> torch.Tensor:
            return compiled(logits, data.targets[number], weights)

        prepared = by_autograd(case, data, loss_of)
        if self.mode == CUDA_GRAPHS:
            by_stream = prepared.call

            def call(number: int) -> Result:
                torch.compiler.cudagraph_mark_step_begin()
                return by_stream(number)

            prepared.call = call
            # They keep it in a pool of their own, where a call allocates nothing.
            prepared.peak_bytes = lambda: None
        return prepared

    def _compiled(self, case: Case) -> Callable[..., torch.Tensor]:
        """Compiled anew where the case is another than the last one."""
        key = (case.rows, case.classes, case.dtype, case.computes, case.variant, case.label_smoothing)
        if key == self._key:
            return self._loss
        smoothing = case.label_smoothing

        def loss(
            logits: torch.Tensor, targets: torch.Tensor, weights: Optional[torch.Tensor]
        ) -> torch.Tensor:
            return F.cross_entropy(
                logits, targets, weight=weights, ignore_index=IGNORE_INDEX, label_smoothing=smoothing
            )

        # A backward pass that is repeated must not use up what the forward pass saved; before 2.6 none did.
        _set_if_known(torch._functorch.config, "donated_buffer", case.computes != "backward")
        # Recompilations are counted for the code above, which all cases share. Beyond eight of them it would
        # run eagerly, without a word.
        for name in _RECOMPILE_LIMITS:
            _set_if_known(torch._dynamo.config, name, 1000)
        for name in _FAILS_AT_LIMIT:
            _set_if_known(torch._dynamo.config, name, True)
        self._key, self._loss = key, torch.compile(loss, dynamic=False, mode=self.mode)
        return self._loss
