"""optax's losses under jax.jit, on the same buffers through DLPack, on a stream of its own."""

from __future__ import annotations

import os
from typing import Any, Callable, Optional

import torch

from ..cases import IGNORE_INDEX, Case
from ..data import Data
from .base import Implementation, Prepared, Result, version_of


class Jax(Implementation):
    name = "jax"
    packages = ("jax", "optax")
    install = "pip install 'jax[cuda13]' optax, cuda12 for torch's wheels of CUDA 12"
    capturable = False

    def load(self, device: torch.device) -> None:
        # It would take three quarters of the device's memory for itself.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        import jax
        import optax

        self._jax, self._optax = jax, optax
        if device.type == "cuda" and jax.default_backend() != "gpu":
            raise RuntimeError("this jax has no GPU backend")
        self.version = f"{version_of('jax')} optax {version_of('optax')}"

    def lacks(self, case: Case) -> str:
        if case.place == "in_place":
            return "no gradient in place of another library's buffer"
        if case.computes == "backward":
            return "no passes apart under one jit"
        if case.weighted:
            return "no class weights"
        return ""

    def _mean(self, case: Case) -> Callable[[Any, Any], Any]:
        jax, optax = self._jax, self._optax
        jnp = jax.numpy

        def mean(logits: Any, targets: Any) -> Any:
            # XLA fuses the cast; without it sums would be in the logits' dtype.
            x = logits.astype(jnp.float32)
            counted = targets != IGNORE_INDEX
            safe = jnp.where(counted, targets, 0)
            if case.label_smoothing == 0:
                losses = optax.softmax_cross_entropy_with_integer_labels(x, safe)
            else:
                one_hot = jax.nn.one_hot(safe, case.classes, dtype=jnp.float32)
                losses = optax.softmax_cross_entropy(x, optax.smooth_labels(one_hot, case.label_smoothing))
            return jnp.where(counted, losses, 0.0).sum() / counted.sum()

        return mean

    def prepare(self, case: Case, data: Data) -> Prepared:
        jax = self._jax
        mean = self._mean(case)
        forward = case.computes == "forward"
        step = jax.jit(mean if forward else jax.value_and_grad(mean))
        logits = [jax.dlpack.from_dlpack(of_set) for of_set in data.logits]
        if logits[0].unsafe_buffer_pointer() != data.logits[0].data_ptr():
            raise RuntimeError("jax copied the logits instead of sharing them")
        # Without x64 it has no i64.
        targets = [jax.dlpack.from_dlpack(of_set.to(torch.int32)) for of_set in data.targets]
        compiled = step.lower(logits[0], targets[0]).compile()

        def finish(result: Any) -> Result:
            jax.block_until_ready(result)
            loss, gradient = (result, None) if forward else result
            return torch.from_dlpack(loss), None if gradient is None else torch.from_dlpack(gradient)

        def peak() -> Optional[int]:
            memory = compiled.memory_analysis()
            return None if memory is None else memory.temp_size_in_bytes + memory.output_size_in_bytes

        return Prepared(
            lambda number: compiled(logits[number], targets[number]),
            finish,
            wait=jax.block_until_ready,
            peak_bytes=peak,
            note="on its own stream by the host's clock; memory as its compiler plans it",
        )
