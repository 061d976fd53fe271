"""A copy on the device that moves as many bytes: what nothing that does so can be much faster than."""

from __future__ import annotations

from ..cases import Case
from ..data import Data
from .base import Implementation, Prepared, Result


class Copy(Implementation):
    name = "copy"
    version = ""

    def prepare(self, case: Case, data: Data) -> Prepared:
        count = case.copied_elements
        sources = [flat[:count] for flat in data.flat]
        copies = [flat[:count] for flat in data.flat_gradients]

        def call(number: int) -> Result:
            copies[number].copy_(sources[number], non_blocking=True)
            return None, None

        return Prepared(call)
