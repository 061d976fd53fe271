"""flash-attn's Triton cross-entropy."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path

import torch

from ..cases import IGNORE_INDEX, Case
from ..data import Data
from .base import Implementation, Prepared, by_autograd, version_of


class FlashAttn(Implementation):
    name = "flash_attn"
    packages = ("flash_attn",)
    install = "FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE pip install --no-deps --no-build-isolation flash-attn"
    compiles = True

    def load(self, device: torch.device) -> None:
        package = util.find_spec("flash_attn")
        if package is None or not package.submodule_search_locations:
            raise ModuleNotFoundError("No module named 'flash_attn'", name="flash_attn")
        # By itself: the package as a whole wants its compiled attention, which this file does not use.
        file = Path(package.submodule_search_locations[0], "ops", "triton", "cross_entropy.py")
        spec = util.spec_from_file_location("flash_attn_triton_cross_entropy", file)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot load {file}")
        module = util.module_from_spec(spec)
        # Triton looks functions up in their modules.
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        self._cross_entropy = module.cross_entropy_loss
        self.version = version_of("flash-attn")

    def lacks(self, case: Case) -> str:
        return "no class weights" if case.weighted else ""

    def prepare(self, case: Case, data: Data) -> Prepared:
        in_place = case.place == "in_place"

        def loss_of(logits: torch.Tensor, number: int) -> torch.Tensor:
            targets = data.targets[number]
            losses, _ = self._cross_entropy(
                logits,
                targets,
                label_smoothing=case.label_smoothing,
                ignore_index=IGNORE_INDEX,
                inplace_backward=in_place,
            )
            # As its own module divides.
            return losses.sum() / (targets != IGNORE_INDEX).sum()

        return by_autograd(case, data, loss_of)
