"""This project's kernels, through the C ABI on the tensors' own pointers."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, Dict

import torch

from ..cases import IGNORE_INDEX, Case
from ..data import Data
from .base import Implementation, Prepared, Result


class Smoothxent(Implementation):
    name = "smoothxent"
    packages = ("smoothxent",)
    install = "build it with `cargo build --release -p smoothxent-capi`, or use a bundle"

    def load(self, device: torch.device) -> None:
        _find_module()
        import smoothxent

        self._library = smoothxent.Library()
        self._kernels = self._library.load(device=device.index or 0)
        version = getattr(self._library, "version", "")
        self.version = str(version() if callable(version) else version)

    def config(self, label_smoothing: float) -> Any:
        return self._library.config(
            preset="pytorch",
            label_smoothing=label_smoothing,
            ignore_index=IGNORE_INDEX,
            reduction="mean",
        )

    def prepare(self, case: Case, data: Data) -> Prepared:
        kernels, config = self._kernels, self.config(case.label_smoothing)
        # One for all calls, which must not end before they do.
        stream = torch.cuda.current_stream().cuda_stream
        workspace = self.workspace(case.rows, data.device)
        loss = torch.zeros(1, dtype=torch.float32, device=data.device)
        common: Dict[str, Any] = {
            "rows": case.rows,
            "classes": case.classes,
            "dtype": case.dtype,
            "target_type": "i64",
            "class_weights": None if data.weights is None else data.weights.data_ptr(),
        }
        to_loss = {"loss": loss.data_ptr(), **_workspace(workspace)}
        needs_saved = case.computes != "fused"
        saved_bytes = kernels.saved_bytes(case.rows) if needs_saved else 0
        # Each by itself: slices of one would not all begin where they have to.
        saved = [torch.zeros(saved_bytes, dtype=torch.uint8, device=data.device) for _ in range(data.sets)]

        # In place both are the same.
        in_place_strides = {"logits_row_stride": case.row_stride, "gradient_row_stride": case.row_stride}

        def logits_of(number: int) -> Dict[str, Any]:
            return {"logits": data.logits[number].data_ptr(), "logits_row_stride": case.row_stride}

        def gradient_of(number: int) -> Dict[str, Any]:
            return {"gradient": data.gradients[number].data_ptr(), "gradient_row_stride": case.classes}

        def call_of(number: int) -> Any:
            options = {**common, "targets": data.targets[number].data_ptr()}
            if case.place == "in_place":
                over = {"gradient": data.logits[number].data_ptr(), **in_place_strides}
                in_place = partial(kernels.forward_backward, in_place=True, **options, **to_loss, **over)
                return partial(in_place, stream, config)
            if case.computes == "fused":
                options.update(logits_of(number), **gradient_of(number))
                return partial(kernels.forward_backward, stream, config, **options, **to_loss)
            options.update(logits_of(number), saved=saved[number].data_ptr())
            if case.computes == "forward":
                return partial(kernels.forward, stream, config, **options, **to_loss)
            return partial(kernels.backward, stream, config, **options, **gradient_of(number))

        if case.computes == "backward":
            for number in range(data.sets):
                options = {**common, "targets": data.targets[number].data_ptr(), **logits_of(number)}
                options["saved"] = saved[number].data_ptr()
                kernels.forward(stream, config, **options, **to_loss)
        calls = [call_of(number) for number in range(data.sets)]

        def call(number: int) -> int:
            calls[number]()
            return number

        def finish(number: int) -> Result:
            gradients = data.logits if case.place == "in_place" else data.gradients
            return (
                None if case.computes == "backward" else loss[0],
                None if case.computes == "forward" else gradients[number],
            )

        gradient_bytes = case.matrix_bytes if case.computes != "forward" and case.place == "apart" else 0
        return Prepared(
            call,
            finish,
            given_bytes=gradient_bytes + workspace.numel() + saved_bytes + loss.element_size(),
            keeps=(saved, workspace, loss, data),
            check=lambda: kernels.take_status(stream, workspace.data_ptr()),
        )

    def workspace(self, rows: int, device: torch.device) -> torch.Tensor:
        """Zeroed, as it has to be before its first use."""
        return torch.zeros(self._kernels.workspace_bytes(rows), dtype=torch.uint8, device=device)

    def in_place(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        config: Any,
        loss: torch.Tensor,
        workspace: torch.Tensor,
        dtype: str,
    ) -> None:
        """Writes the gradient over logits."""
        rows, classes = logits.shape
        self._kernels.forward_backward(
            torch.cuda.current_stream().cuda_stream,
            config,
            rows=rows,
            classes=classes,
            dtype=dtype,
            targets=targets.data_ptr(),
            target_type="i64",
            gradient=logits.data_ptr(),
            in_place=True,
            logits_row_stride=logits.stride(0),
            gradient_row_stride=logits.stride(0),
            loss=loss.data_ptr(),
            **_workspace(workspace),
        )


def _workspace(workspace: torch.Tensor) -> Dict[str, int]:
    return {"workspace": workspace.data_ptr(), "workspace_bytes": workspace.numel()}


def _find_module() -> None:
    """smoothxent.py lies beside the package in a bundle, and in capi/python in a checkout."""
    beside = Path(__file__).resolve().parents[2]
    for folder in (beside, beside.parent / "capi" / "python"):
        if (folder / "smoothxent.py").exists() and str(folder) not in sys.path:
            sys.path.append(str(folder))
