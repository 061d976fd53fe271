"""What stands in for a device and for smoothxent's library, so that everything around them can run.

The device is the CPU with the host's clock. The library has the interface of smoothxent.py and computes with
the reference on the memory that its pointers name, and objects to anything that it was not told to expect.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
import types
from unittest import mock

import torch

from peers import reference
from peers.data import DTYPES

L2_BYTES = 1 << 10
WORKSPACE_BYTES = 48
SAVED_BYTES_A_ROW = 16
SAVED_ALIGNMENT = 32


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream=None):
        self.time = time.perf_counter()

    def synchronize(self):
        pass

    def query(self):
        """That the device has not come so far."""
        return False

    def elapsed_time(self, end):
        return (end.time - self.time) * 1000


class Graph:
    """Replays nothing: what it costs means nothing here."""

    def replay(self):
        pass


class Stream:
    cuda_stream = 7


@contextlib.contextmanager
def device():
    """torch.cuda as far as the harness uses it; buffers are on the CPU."""
    properties = types.SimpleNamespace(
        name="Stand-in", total_memory=16 << 30, L2_cache_size=L2_BYTES, uuid=None
    )
    stand_ins = {
        "is_available": lambda: True,
        "set_device": lambda device: None,
        "Stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": lambda graph, stream: contextlib.nullcontext(),
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "mem_get_info": lambda device: (15 << 30, 16 << 30),
        "_sleep": lambda cycles: None,
        "memory_allocated": lambda: 1000,
        "max_memory_allocated": lambda: 3000,
        "get_device_properties": lambda device: properties,
    }
    with contextlib.ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        real = torch.device
        on_cpu = mock.MagicMock(side_effect=lambda *arguments: real("cpu"))
        machine = types.SimpleNamespace(**{**vars(torch), "device": on_cpu})
        stack.enter_context(mock.patch("peers.machine.torch", machine))
        yield


def _tensor(pointer, dtype, shape, strides):
    elements = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides))
    size = torch.empty(0, dtype=dtype).element_size()
    buffer = (ctypes.c_char * (elements * size)).from_address(pointer)
    return torch.frombuffer(buffer, dtype=dtype, count=elements).as_strided(shape, strides)


class Config:
    def __init__(self, preset, label_smoothing, ignore_index, reduction):
        assert (preset, ignore_index, reduction) == ("pytorch", -100, "mean")
        self.label_smoothing = label_smoothing


class Kernels:
    def __init__(self):
        self.statuses = 0

    def workspace_bytes(self, rows):
        return WORKSPACE_BYTES

    def saved_bytes(self, rows):
        return rows * SAVED_BYTES_A_ROW

    def forward_backward(self, stream, config, *, gradient, workspace, workspace_bytes, loss, **inputs):
        self._check_workspace(workspace, workspace_bytes)
        self._run(stream, config, gradient=gradient, loss=loss, **inputs)

    def forward(self, stream, config, *, saved, workspace, workspace_bytes, loss, **inputs):
        self._check_workspace(workspace, workspace_bytes)
        self._run(stream, config, loss=loss, **inputs)
        assert saved % SAVED_ALIGNMENT == 0
        _tensor(saved, torch.uint8, (SAVED_BYTES_A_ROW,), (1,)).fill_(77)

    def backward(self, stream, config, *, saved, gradient, **inputs):
        assert (_tensor(saved, torch.uint8, (SAVED_BYTES_A_ROW,), (1,)) == 77).all(), "no forward pass before"
        self._run(stream, config, gradient=gradient, **inputs)

    def take_status(self, stream, workspace):
        assert stream == Stream.cuda_stream
        self.statuses += 1

    def _check_workspace(self, workspace, workspace_bytes):
        assert workspace_bytes == WORKSPACE_BYTES
        assert not _tensor(workspace, torch.uint8, (WORKSPACE_BYTES,), (1,)).any(), "has to be zeroed"

    def _run(
        self,
        stream,
        config,
        *,
        rows,
        classes,
        dtype,
        targets,
        target_type,
        logits=None,
        in_place=False,
        logits_row_stride=None,
        gradient=None,
        gradient_row_stride=None,
        class_weights=None,
        loss=None,
    ):
        assert stream == Stream.cuda_stream and target_type == "i64"
        stored, shape = DTYPES[dtype], (rows, classes)
        assert in_place == (logits is None)
        if in_place:
            assert logits_row_stride == gradient_row_stride, "has to be the same in place"
        if gradient is not None:
            written = _tensor(gradient, stored, shape, (gradient_row_stride or classes, 1))
        read = (
            written if logits is None else _tensor(logits, stored, shape, (logits_row_stride or classes, 1))
        )
        of_rows = _tensor(targets, torch.int64, (rows,), (1,))
        weights = None
        if class_weights is not None:
            weights = _tensor(class_weights, torch.float32, (classes,), (1,))
        found = reference.rows(read, of_rows, weights, config.label_smoothing)
        counted = of_rows[of_rows != -100]
        divisor = counted.numel() if weights is None else weights.double()[counted].sum()
        if loss is not None:
            _tensor(loss, torch.float32, (1,), (1,)).fill_(found.losses.sum() / divisor)
        if gradient is not None:
            written.copy_(found.gradient / divisor)


class Library:
    version = "0.0.0"
    kernels = Kernels()

    def __init__(self, path=None):
        pass

    def load(self, device=0):
        assert device == 0
        return self.kernels

    def config(self, **options):
        return Config(**options)


def module():
    """In place of smoothxent.py."""
    return mock.patch.dict(sys.modules, {"smoothxent": types.SimpleNamespace(Library=Library)})
