"""cuDNN's log-softmax and its gradient, with the rest of the loss by PyTorch.

PyTorch itself calls no cuDNN softmax, and nvidia-cudnn-frontend's graphs have none outside of attention.
The library that torch brings still has cudnnSoftmaxForward and cudnnSoftmaxBackward; they are called here
on the tensors' own pointers.
"""

from __future__ import annotations

import ctypes
from typing import Any, Dict, Tuple

import torch
import torch.nn.functional as F

from ..cases import IGNORE_INDEX, Case
from ..data import Data
from .base import Implementation, Prepared, by_autograd
from .pytorch import weights_like_logits

# cudnn_graph.h and cudnn_ops.h, cuDNN 8 and 9.
_DATA_TYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 9}
_SOFTMAX_LOG = 2
_MODE_INSTANCE = 0


class _Library:
    def __init__(self) -> None:
        self._cudnn = _open()
        self._cudnn.cudnnGetErrorString.restype = ctypes.c_char_p
        self._cudnn.cudnnGetVersion.restype = ctypes.c_size_t
        self._handle = ctypes.c_void_p()
        self._call("cudnnCreate", ctypes.byref(self._handle))
        self._descriptors: Dict[Tuple[Any, ...], ctypes.c_void_p] = {}
        self._one, self._zero = ctypes.c_float(1.0), ctypes.c_float(0.0)

    def version(self) -> str:
        version = self._cudnn.cudnnGetVersion()
        # 8907 is 8.9.7, 91002 is 9.10.2.
        major = version // (10_000 if version >= 90_000 else 1000)
        rest = version % (10_000 if version >= 90_000 else 1000)
        return f"{major}.{rest // 100}.{rest % 100}"

    def log_softmax(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        self._softmax(
            "cudnnSoftmaxForward",
            ctypes.byref(self._one),
            *self._tensor(x),
            ctypes.byref(self._zero),
            *self._tensor(y),
        )
        return y

    def log_softmax_backward(self, y: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        dx = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        self._softmax(
            "cudnnSoftmaxBackward",
            ctypes.byref(self._one),
            *self._tensor(y),
            *self._tensor(dy.contiguous()),
            ctypes.byref(self._zero),
            *self._tensor(dx),
        )
        return dx

    def _softmax(self, function: str, *arguments: Any) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        self._call("cudnnSetStream", self._handle, ctypes.c_void_p(stream))
        self._call(function, self._handle, _SOFTMAX_LOG, _MODE_INSTANCE, *arguments)

    def _tensor(self, tensor: torch.Tensor) -> Tuple[ctypes.c_void_p, ctypes.c_void_p]:
        """A descriptor, of which each shape needs one, and the address."""
        rows, classes = tensor.shape
        stride = tensor.stride(0)
        key = (tensor.dtype, rows, classes, stride)
        if key not in self._descriptors:
            descriptor = ctypes.c_void_p()
            self._call("cudnnCreateTensorDescriptor", ctypes.byref(descriptor))
            shape_and_strides = (rows, classes, 1, 1, stride, 1, 1, 1)
            self._call(
                "cudnnSetTensor4dDescriptorEx", descriptor, _DATA_TYPES[tensor.dtype], *shape_and_strides
            )
            self._descriptors[key] = descriptor
        return self._descriptors[key], ctypes.c_void_p(tensor.data_ptr())

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._cudnn, function)(*arguments)
        if status != 0:
            text = self._cudnn.cudnnGetErrorString(status).decode()
            raise RuntimeError(f"{function}: {text}")


def _open() -> ctypes.CDLL:
    # Loads it, if torch has one, from wherever torch has it.
    torch.backends.cudnn.version()
    for name in ("libcudnn.so.9", "libcudnn.so.8"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise ImportError("neither libcudnn.so.9 nor libcudnn.so.8 was found")


class Cudnn(Implementation):
    name = "cudnn"
    install = "pip install torch, which brings cuDNN"

    def load(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise RuntimeError("needs a GPU")
        library = _Library()
        self.version = library.version()

        class LogSoftmax(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                y = library.log_softmax(x)
                ctx.save_for_backward(y)
                return y

            @staticmethod
            def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
                (y,) = ctx.saved_tensors
                return library.log_softmax_backward(y, dy)

        self._log_softmax = LogSoftmax.apply

    def lacks(self, case: Case) -> str:
        return "no gradient in place" if case.place == "in_place" else ""

    def prepare(self, case: Case, data: Data) -> Prepared:
        weights = weights_like_logits(data)
        smoothing = case.label_smoothing

        def loss_of(logits: torch.Tensor, number: int) -> torch.Tensor:
            targets = data.targets[number]
            log_p = self._log_softmax(logits)
            nll = F.nll_loss(log_p, targets, weight=weights, ignore_index=IGNORE_INDEX)
            return nll if smoothing == 0 else smoothed(nll, log_p, targets, weights, smoothing)

        return by_autograd(case, data, loss_of)


def smoothed(
    nll: torch.Tensor,
    log_p: torch.Tensor,
    targets: torch.Tensor,
    weights: Any,
    smoothing: float,
) -> torch.Tensor:
    """A mean with label smoothing from one without, as PyTorch composes it."""
    ignored = targets == IGNORE_INDEX
    weighted = log_p if weights is None else log_p * weights
    of_rows = weighted.sum(1).masked_fill(ignored, 0)
    if weights is None:
        divisor = (~ignored).sum()
    else:
        divisor = weights[targets.masked_fill(ignored, 0)].masked_fill(ignored, 0).sum()
    return (1 - smoothing) * nll - smoothing / log_p.shape[1] * of_rows.sum() / divisor
