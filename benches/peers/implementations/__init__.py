"""Every implementation that is compared; the names are those of the CSV files."""

from __future__ import annotations

from typing import List

from .apex import Apex
from .base import Implementation
from .copy import Copy
from .cudnn import Cudnn
from .flash_attn import FlashAttn
from .jax import Jax
from .liger import Liger
from .pytorch import CUDA_GRAPHS, NO_CUDA_GRAPHS, TorchCompile, TorchEager
from .quack import Quack, QuackUndivided
from .smoothxent import Smoothxent
from .transformer_engine import TransformerEngine

OWN = Smoothxent.name
COPY = Copy.name


def every() -> List[Implementation]:
    """In the order in which tables show them. Those of one name are modes: the fastest of them counts."""
    return [
        Smoothxent(),
        TorchEager(),
        TorchCompile(NO_CUDA_GRAPHS),
        TorchCompile(CUDA_GRAPHS),
        Cudnn(),
        Liger(),
        Quack(),
        QuackUndivided(),
        FlashAttn(),
        Apex(),
        TransformerEngine(),
        Jax(),
        Copy(),
    ]


NAMES = list(dict.fromkeys(implementation.name for implementation in every()))
