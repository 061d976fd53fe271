"""What an implementation has to say of itself."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any, Callable, Optional, Tuple

import torch

from ..cases import Case
from ..data import Data

# A loss and a gradient, or only one of them.
Result = Tuple[Optional[torch.Tensor], Optional[torch.Tensor]]


def _as_it_is(result: Any) -> Result:
    return result


@dataclass
class Prepared:
    """A case, ready to be called on one set of buffers after another."""

    call: Callable[[int], Any]
    # Turns what a call returned into a loss and its gradient, where it is something else.
    finish: Callable[[Any], Result] = _as_it_is
    # Whether that is a mean, or a sum whose division is left to the caller.
    divided: bool = True
    # For what runs on streams of its own: waits for what a call returned.
    wait: Optional[Callable[[Any], None]] = None
    # Memory that was allocated beforehand and a call needs beside logits and targets.
    given_bytes: int = 0
    # Where torch's allocator does not know: bytes at most, if anybody knows.
    peak_bytes: Optional[Callable[[], Optional[int]]] = None
    # What a call knows by its address alone: whoever calls holds this object.
    keeps: object = None
    # Raises if something went wrong on the device.
    check: Optional[Callable[[], None]] = None
    note: str = ""


class Implementation:
    name: str
    # The modules without which it is not installed.
    packages: Tuple[str, ...] = ()
    # What tells it from others of the same name.
    mode: str = ""
    install: str = ""
    # Whether a call can be captured into a CUDA graph.
    capturable: bool = True
    # Whether its first call compiles, and keeps what came of it in a cache on disk.
    compiles: bool = False
    version: str = ""
    # Whether the gradient always goes over the logits.
    overwrites: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} ({self.mode})" if self.mode else self.name

    def load(self, device: torch.device) -> None:
        """Imports what it needs; raises if that is not there."""

    def lacks(self, case: Case) -> str:
        """The feature that this case needs and it does not have, if there is one."""
        return ""

    def prepare(self, case: Case, data: Data) -> Prepared:
        raise NotImplementedError


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _allocated(data: Data) -> int:
    return 0 if data.device.type == "cpu" else torch.cuda.memory_allocated()


def by_autograd(case: Case, data: Data, loss_of: Callable[[torch.Tensor, int], torch.Tensor]) -> Prepared:
    """A loss that autograd differentiates, of logits and the number of a set."""
    leaves = data.leaves()
    if case.computes == "forward":
        return Prepared(lambda number: (loss_of(leaves[number], number), None))
    if case.computes == "backward":
        before = _allocated(data)
        losses = [loss_of(leaf, number) for number, leaf in enumerate(leaves)]
        # What each of them saves for its gradient.
        given_bytes = (_allocated(data) - before) // len(losses)

        def backward(number: int) -> Result:
            return None, torch.autograd.grad(losses[number], leaves[number], retain_graph=True)[0]

        return Prepared(backward, given_bytes=given_bytes)

    def fused(number: int) -> Result:
        loss = loss_of(leaves[number], number)
        return loss.detach(), torch.autograd.grad(loss, leaves[number])[0]

    return Prepared(fused)
