"""smoothxent on raw device pointers: cross-entropy with label smoothing and its gradient, and its relatives.

    import smoothxent
    library = smoothxent.Library()
    kernels = library.load(device=0)
    config = library.config("pytorch", label_smoothing=0.1)
    kernels.forward_backward(stream, config, rows=8192, classes=128256, dtype="bf16", logits=logits,
                             targets=targets, target_type="i64", gradient=gradient, loss=loss,
                             workspace=workspace, workspace_bytes=kernels.workspace_bytes(8192))

Pointers are integers, as `tensor.data_ptr()` gives them, and so is a stream (`torch.cuda.current_stream()
.cuda_stream`; 0 is the legacy default one). Calls enqueue and return; memory has to live until they have run.
A workspace is zero before its first use (`torch.zeros`), and goes with the same pointer and length into every
call. What the options and outputs mean, and which memory may overlap, is in smoothxent.h.

Needs nothing but the standard library and libsmoothxent_c.so. A call that fails raises an `Error`.
"""

import ctypes
import os
from pathlib import Path

NAME = "libsmoothxent_c.so"
VERSION = "0.1.0"

OK = 0
NULL_POINTER = 1
INVALID_ARGUMENT = 2
NO_DRIVER = 3
NO_DEVICE = 4
NO_KERNELS = 5
DRIVER_ERROR = 6
BAD_TARGETS = 7
PANIC = 8

DTYPES = {"f32": 1, "f16": 2, "bf16": 3}
TARGET_TYPES = {"i32": 1, "u32": 2, "i64": 3, "f32": 4, "f16": 5, "bf16": 6}
PASSES = {"forward": 1, "backward": 2, "forward_backward": 3}
REDUCTIONS = {"none": 1, "sum": 2, "mean": 3}
SMOOTHINGS = {"all_classes": 1, "other_classes": 2}
WEIGHTED_TERMS = {"nll_and_smoothing": 1, "nll": 2, "smoothing": 3}
DIVISORS = {"target_weights": 1, "counted_rows": 2, "all_rows": 3}
GIVEN = 4
EMPTY_MEANS = {"nan": 1, "zero": 2}
BINARY_SMOOTHINGS = {"half": 1, "classes": 2}
OVER_CLASSES = {"mean": 1, "sum": 2}
SELECTIONS = {"fastest": 1, "pinned": 2, "preferred": 3}
LOG_PROBABILITIES, PROBABILITIES, LOGITS = 1, 2, 3


class Error(Exception):
    """What went wrong: `code` is one of the numbers above, `message` says why.

    Nothing was enqueued, but for two codes: `DRIVER_ERROR` may come from earlier work, and `BAD_TARGETS` reports, and
    forgets, what earlier calls met; its `count`, `row`, `target` and `classes` say which targets named no class.
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message


u32, u64, i64, f64, size = (
    ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64, ctypes.c_double, ctypes.c_size_t)


class sx_divisor(ctypes.Structure):
    _fields_ = [("kind", u32), ("number", f64)]


class sx_loss_config(ctypes.Structure):
    _fields_ = [
        ("label_smoothing", f64), ("smoothing", u32), ("excluded_classes", size),
        ("weighted_terms", u32), ("has_ignore_index", u32), ("ignore_index", i64),
        ("reduction", u32), ("nll_divisor", sx_divisor), ("smoothing_divisor", sx_divisor),
        ("z_loss_divisor", sx_divisor), ("empty_mean", u32), ("z_loss", f64),
        ("logit_scale", f64), ("logit_softcap", f64)]


class sx_binary_config(ctypes.Structure):
    _fields_ = [
        ("label_smoothing", f64), ("smoothing", u32), ("has_ignore_index", u32),
        ("ignore_index", i64), ("over_classes", u32), ("reduction", u32),
        ("divisor", sx_divisor), ("empty_mean", u32)]


class sx_shape(ctypes.Structure):
    _fields_ = [
        ("rows", size), ("classes", size), ("logits_row_stride", size),
        ("gradient_row_stride", size), ("targets_row_stride", size)]


class sx_log_softmax_shape(ctypes.Structure):
    _fields_ = [
        ("rows", size), ("classes", size), ("logits_row_stride", size),
        ("output_row_stride", size), ("upstream_row_stride", size), ("gradient_row_stride", size)]


class sx_memory(ctypes.Structure):
    _fields_ = [("address", u64), ("bytes", size)]


class sx_gradient(ctypes.Structure):
    _fields_ = [("matrix", u64), ("upstream", u64), ("upstream_per_row", u32)]


class sx_loss_inputs(ctypes.Structure):
    _fields_ = [
        ("dtype", u32), ("target_type", u32), ("shape", sx_shape), ("in_place", u32),
        ("logits", u64), ("targets", u64), ("class_weights", u64)]


class sx_loss_outputs(ctypes.Structure):
    _fields_ = [
        ("loss", u64), ("row_losses", u64), ("row_lse", u64), ("row_argmax", u64),
        ("correct", u64), ("saved", sx_memory)]


class sx_binary_inputs(ctypes.Structure):
    _fields_ = [
        ("dtype", u32), ("target_type", u32), ("shape", sx_shape), ("in_place", u32),
        ("logits", u64), ("targets", u64), ("class_weights", u64), ("positive_weights", u64)]


class sx_binary_outputs(ctypes.Structure):
    _fields_ = [("loss", u64), ("row_losses", u64)]


class sx_log_softmax(ctypes.Structure):
    _fields_ = [
        ("dtype", u32), ("shape", sx_log_softmax_shape), ("logits", u64), ("what", u32),
        ("output", u64), ("row_lse", u64), ("saved", sx_memory)]


class sx_log_softmax_gradient(ctypes.Structure):
    _fields_ = [
        ("dtype", u32), ("shape", sx_log_softmax_shape), ("what", u32), ("values", u64),
        ("saved", sx_memory), ("upstream", u64), ("gradient", u64)]


class sx_bad_targets(ctypes.Structure):
    _fields_ = [("count", u64), ("row", u64), ("target", i64), ("classes", u64)]


# Arguments before the message of each function that returns a status; None is any pointer to a struct.
HANDLE, STREAM, TEXT, STRUCT = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
PLAN = (HANDLE, STRUCT, STRUCT, u32, TEXT, size, ctypes.POINTER(size))
FUNCTIONS = {
    "sx_loss_config_init": (STRUCT, TEXT),
    "sx_binary_config_init": (STRUCT, TEXT),
    "sx_kernels_load": (size, ctypes.POINTER(HANDLE)),
    "sx_kernels_select": (HANDLE, u32, TEXT, ctypes.POINTER(HANDLE)),
    "sx_workspace_bytes": (size, ctypes.POINTER(size)),
    "sx_saved_bytes": (size, ctypes.POINTER(size)),
    "sx_take_status": (HANDLE, STREAM, sx_memory, STRUCT),
    "sx_loss_forward": (HANDLE, STREAM, STRUCT, STRUCT, STRUCT, sx_memory),
    "sx_loss_forward_backward": (HANDLE, STREAM, STRUCT, STRUCT, STRUCT, STRUCT, sx_memory),
    "sx_loss_backward": (HANDLE, STREAM, STRUCT, STRUCT, sx_memory, STRUCT),
    "sx_loss_plan": PLAN,
    "sx_binary_forward": (HANDLE, STREAM, STRUCT, STRUCT, STRUCT, sx_memory),
    "sx_binary_forward_backward": (HANDLE, STREAM, STRUCT, STRUCT, STRUCT, STRUCT, sx_memory),
    "sx_binary_backward": (HANDLE, STREAM, STRUCT, STRUCT, STRUCT, sx_memory),
    "sx_binary_plan": PLAN,
    "sx_log_softmax_forward": (HANDLE, STREAM, STRUCT),
    "sx_log_softmax_backward": (HANDLE, STREAM, STRUCT),
    "sx_log_softmax_plan": (HANDLE, u32, STRUCT, u32, TEXT, size, ctypes.POINTER(size)),
}
MESSAGE_BYTES = 1024

# An option that stays as its preset has it; None means something else for some.
KEEP = object()


def _number(name, value, known):
    if value not in known:
        raise Error(INVALID_ARGUMENT, f"{name} is {value!r}, which is none of {', '.join(known)}")
    return known[value]


def _divisor(value):
    if isinstance(value, str):
        return sx_divisor(_number("divisor", value, DIVISORS), 0.0)
    return sx_divisor(GIVEN, value)


def _candidates():
    here = Path(__file__).resolve().parent
    named = os.environ.get("SMOOTHXENT_LIBRARY")
    if named:
        yield Path(named)
    yield here / NAME
    yield here.parent.parent / "target" / "release" / NAME


class Library:
    """libsmoothxent_c.so: at `path`, where SMOOTHXENT_LIBRARY says, beside this file, in target/release."""

    def __init__(self, path=None):
        tried = [Path(path)] if path is not None else list(_candidates())
        found = next((candidate for candidate in tried if candidate.is_file()), None)
        if found is None:
            raise Error(INVALID_ARGUMENT, f"there is no {' and no '.join(map(str, tried))}; build it with "
                        "`cargo build --release --package smoothxent-capi`")
        self.path = found
        self._c = ctypes.CDLL(str(found))
        self._c.sx_version.restype = ctypes.c_char_p
        self._c.sx_kernels_free.argtypes = [HANDLE]
        self._c.sx_kernels_free.restype = None
        self.version = self._c.sx_version().decode()
        if self.version != VERSION:
            raise Error(INVALID_ARGUMENT, f"{found} is version {self.version}, this file {VERSION}")
        for name, arguments in FUNCTIONS.items():
            function = getattr(self._c, name)
            function.argtypes = [*arguments, ctypes.c_char_p, size]
            function.restype = ctypes.c_int32

    def call(self, name, *arguments):
        """Calls a function of the C interface; arguments but the message."""
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        code = getattr(self._c, name)(*arguments, message, MESSAGE_BYTES)
        if code != OK:
            raise Error(code, message.value.decode(errors="replace"))

    def load(self, device=0):
        """The kernels on a device; once for each device."""
        handle = HANDLE()
        self.call("sx_kernels_load", device, ctypes.byref(handle))
        return Kernels(self, handle)

    def config(self, preset="default", *, label_smoothing=KEEP, smoothing=KEEP, excluded_classes=KEEP,
               weighted_terms=KEEP, ignore_index=KEEP, reduction=KEEP, divisor=KEEP, nll_divisor=KEEP,
               smoothing_divisor=KEEP, z_loss_divisor=KEEP, empty_mean=KEEP, z_loss=KEEP,
               logit_scale=KEEP, logit_softcap=KEEP):
        """A preset ("pytorch", "liger", ...: `sx_loss_config_init`) with some options changed.

        `ignore_index` None ignores nothing, `logit_softcap` None caps nothing. Divisors are "target_weights",
        "counted_rows", "all_rows" or a number; `divisor` is for all three.
        """
        config = sx_loss_config()
        self.call("sx_loss_config_init", ctypes.byref(config), preset.encode())
        _set_plain(config, label_smoothing=label_smoothing, excluded_classes=excluded_classes,
                   z_loss=z_loss, logit_scale=logit_scale)
        _set_named(config, smoothing=(smoothing, SMOOTHINGS), reduction=(reduction, REDUCTIONS),
                   weighted_terms=(weighted_terms, WEIGHTED_TERMS), empty_mean=(empty_mean, EMPTY_MEANS))
        _set_ignore_index(config, ignore_index)
        if logit_softcap is not KEEP:
            config.logit_softcap = 0.0 if logit_softcap is None else logit_softcap
        for name, own in [("nll_divisor", nll_divisor), ("smoothing_divisor", smoothing_divisor),
                          ("z_loss_divisor", z_loss_divisor)]:
            chosen = divisor if own is KEEP else own
            if chosen is not KEEP:
                setattr(config, name, _divisor(chosen))
        return config

    def binary_config(self, preset="default", *, label_smoothing=KEEP, smoothing=KEEP, ignore_index=KEEP,
                      over_classes=KEEP, reduction=KEEP, divisor=KEEP, empty_mean=KEEP):
        """A preset ("pytorch", "keras", "timm") with some options changed, as `config`."""
        config = sx_binary_config()
        self.call("sx_binary_config_init", ctypes.byref(config), preset.encode())
        _set_plain(config, label_smoothing=label_smoothing)
        _set_named(config, smoothing=(smoothing, BINARY_SMOOTHINGS), reduction=(reduction, REDUCTIONS),
                   over_classes=(over_classes, OVER_CLASSES), empty_mean=(empty_mean, EMPTY_MEANS))
        _set_ignore_index(config, ignore_index)
        if divisor is not KEEP:
            config.divisor = _divisor(divisor)
        return config


def _set_plain(config, **options):
    for name, value in options.items():
        if value is not KEEP:
            setattr(config, name, value)


def _set_named(config, **options):
    for name, (value, known) in options.items():
        if value is not KEEP:
            setattr(config, name, _number(name, value, known))


def _set_ignore_index(config, ignore_index):
    if ignore_index is not KEEP:
        config.has_ignore_index = ignore_index is not None
        config.ignore_index = 0 if ignore_index is None else ignore_index


class Kernels:
    """The kernels on one device. Threads may share it."""

    def __init__(self, library, handle):
        self.library = library
        self._handle = handle

    def close(self):
        """Frees them, waiting for the device; nothing may be in use, no graph be replayed later."""
        if self._handle:
            self.library._c.sx_kernels_free(self._handle)
            self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _call(self, name, *arguments):
        if not self._handle:
            raise Error(NULL_POINTER, "the kernels are closed")
        self.library.call(name, self._handle, *arguments)

    def select(self, selection, strategy=None):
        """The same kernels with a strategy that is "pinned" or "preferred", or "fastest" again."""
        handle = HANDLE()
        number = _number("selection", selection, SELECTIONS)
        name = None if strategy is None else strategy.encode()
        self._call("sx_kernels_select", number, name, ctypes.byref(handle))
        return Kernels(self.library, handle)

    def workspace_bytes(self, rows):
        """Of a workspace for problems of up to so many rows; all zero before its first use."""
        return self._bytes("sx_workspace_bytes", rows)

    def saved_bytes(self, rows):
        """Of what a forward pass of up to so many rows saves."""
        return self._bytes("sx_saved_bytes", rows)

    def _bytes(self, name, rows):
        found = size()
        self.library.call(name, rows, ctypes.byref(found))
        return found.value

    def take_status(self, stream, workspace):
        """Waits for `stream`, that of the calls; an `Error` with the code `BAD_TARGETS` if a target named no class."""
        found = sx_bad_targets()
        memory = sx_memory(workspace, self.workspace_bytes(0))
        try:
            self._call("sx_take_status", stream, memory, ctypes.byref(found))
        except Error as error:
            for name, _ in sx_bad_targets._fields_:
                setattr(error, name, getattr(found, name))
            raise

    def forward_backward(self, stream, config, *, gradient, upstream=None, upstream_per_row=False,
                         workspace, workspace_bytes, loss=None, row_losses=None, row_lse=None,
                         row_argmax=None, correct=None, **inputs):
        """Loss and gradient. `inputs` are those of `loss_inputs`; with `in_place=True` logits are in the gradient's
        memory."""
        inputs = loss_inputs(**inputs)
        outputs = _outputs(sx_loss_outputs, loss=loss, row_losses=row_losses, row_lse=row_lse,
                           row_argmax=row_argmax, correct=correct)
        to = sx_gradient(gradient, upstream or 0, bool(upstream_per_row))
        self._call("sx_loss_forward_backward", stream, ctypes.byref(config), ctypes.byref(inputs),
                   ctypes.byref(outputs), ctypes.byref(to), sx_memory(workspace, workspace_bytes))

    def forward(self, stream, config, *, workspace, workspace_bytes, saved=None, saved_bytes=None,
                loss=None, row_losses=None, row_lse=None, row_argmax=None, correct=None, **inputs):
        """The loss, and what `backward` needs where `saved` says."""
        inputs = loss_inputs(**inputs)
        outputs = _outputs(sx_loss_outputs, loss=loss, row_losses=row_losses, row_lse=row_lse,
                           row_argmax=row_argmax, correct=correct)
        outputs.saved = self._saved(saved, saved_bytes, inputs.shape.rows)
        self._call("sx_loss_forward", stream, ctypes.byref(config), ctypes.byref(inputs),
                   ctypes.byref(outputs), sx_memory(workspace, workspace_bytes))

    def backward(self, stream, config, *, gradient, saved, saved_bytes=None, upstream=None,
                 upstream_per_row=False, **inputs):
        """The gradient, from what `forward` saved of the same problem."""
        inputs = loss_inputs(**inputs)
        to = sx_gradient(gradient, upstream or 0, bool(upstream_per_row))
        memory = self._saved(saved, saved_bytes, inputs.shape.rows)
        self._call("sx_loss_backward", stream, ctypes.byref(config), ctypes.byref(inputs), memory,
                   ctypes.byref(to))

    def _saved(self, saved, given, rows):
        if saved is None:
            return sx_memory()
        return sx_memory(saved, self.saved_bytes(rows) if given is None else given)

    def plan(self, config, *, which="forward_backward", **inputs):
        """How a call is launched, and why, as text. Pointers are not looked at; `target_type` is "i64" if not given."""
        inputs = loss_inputs(**_for_a_plan(inputs))
        return self._plan("sx_loss_plan", ctypes.byref(config), ctypes.byref(inputs),
                          _number("which", which, PASSES))

    def _plan(self, name, *arguments):
        needed = size()
        self._call(name, *arguments, None, 0, ctypes.byref(needed))
        text = ctypes.create_string_buffer(needed.value)
        self._call(name, *arguments, text, needed, None)
        return text.value.decode()

    def binary_forward_backward(self, stream, config, *, gradient, upstream=None, upstream_per_row=False,
                                workspace, workspace_bytes, loss=None, row_losses=None, **inputs):
        """Binary cross-entropy and its gradient; `inputs` as for `forward_backward`, and positive_weights."""
        inputs = binary_inputs(**inputs)
        outputs = _outputs(sx_binary_outputs, loss=loss, row_losses=row_losses)
        to = sx_gradient(gradient, upstream or 0, bool(upstream_per_row))
        self._call("sx_binary_forward_backward", stream, ctypes.byref(config), ctypes.byref(inputs),
                   ctypes.byref(outputs), ctypes.byref(to), sx_memory(workspace, workspace_bytes))

    def binary_forward(self, stream, config, *, workspace, workspace_bytes, loss=None, row_losses=None,
                       **inputs):
        """The loss."""
        inputs = binary_inputs(**inputs)
        outputs = _outputs(sx_binary_outputs, loss=loss, row_losses=row_losses)
        self._call("sx_binary_forward", stream, ctypes.byref(config), ctypes.byref(inputs),
                   ctypes.byref(outputs), sx_memory(workspace, workspace_bytes))

    def binary_backward(self, stream, config, *, gradient, upstream=None, upstream_per_row=False,
                        workspace, workspace_bytes, **inputs):
        """The gradient."""
        inputs = binary_inputs(**inputs)
        to = sx_gradient(gradient, upstream or 0, bool(upstream_per_row))
        self._call("sx_binary_backward", stream, ctypes.byref(config), ctypes.byref(inputs),
                   ctypes.byref(to), sx_memory(workspace, workspace_bytes))

    def binary_plan(self, config, *, which="forward_backward", **inputs):
        """As `plan`."""
        inputs = binary_inputs(**_for_a_plan(inputs))
        return self._plan("sx_binary_plan", ctypes.byref(config), ctypes.byref(inputs),
                          _number("which", which, PASSES))

    def log_softmax_forward(self, stream, *, rows, classes, dtype, logits, output, probabilities=False,
                            row_lse=None, saved=None, saved_bytes=None, **strides):
        """Log-softmax, or softmax, of rows; strides are those of `sx_log_softmax_shape`."""
        call = sx_log_softmax(
            dtype=_number("dtype", dtype, DTYPES), shape=_softmax_shape(rows, classes, strides),
            logits=logits, what=PROBABILITIES if probabilities else LOG_PROBABILITIES, output=output,
            row_lse=row_lse or 0, saved=self._saved(saved, saved_bytes, rows))
        self._call("sx_log_softmax_forward", stream, ctypes.byref(call))

    def log_softmax_backward(self, stream, *, rows, classes, dtype, upstream, gradient, log_probs=None,
                             logits=None, saved=None, saved_bytes=None, **strides):
        """The gradient, from `log_probs`, or from `logits` and what was `saved` of them."""
        if (log_probs is None) == (logits is None):
            raise Error(INVALID_ARGUMENT, "the gradient is taken from log_probs, or from logits and saved")
        call = sx_log_softmax_gradient(
            dtype=_number("dtype", dtype, DTYPES), shape=_softmax_shape(rows, classes, strides),
            what=LOGITS if log_probs is None else LOG_PROBABILITIES,
            values=logits if log_probs is None else log_probs,
            saved=self._saved(saved, saved_bytes, rows), upstream=upstream, gradient=gradient)
        self._call("sx_log_softmax_backward", stream, ctypes.byref(call))

    def log_softmax_plan(self, *, rows, classes, dtype, which="forward", **strides):
        """As `plan`."""
        shape = _softmax_shape(rows, classes, strides)
        return self._plan("sx_log_softmax_plan", _number("dtype", dtype, DTYPES), ctypes.byref(shape),
                          _number("which", which, PASSES))


def loss_inputs(*, rows, classes, dtype, targets, target_type, logits=None, in_place=False,
                logits_row_stride=None, gradient_row_stride=None, targets_row_stride=None, class_weights=None):
    """Shape, logits, targets and class weights of a loss: `logits`, or `in_place=True` where they are in the gradient's
    memory. Strides default to classes."""
    return _inputs(sx_loss_inputs, locals())


def binary_inputs(*, rows, classes, dtype, targets, target_type, logits=None, in_place=False,
                  logits_row_stride=None, gradient_row_stride=None, targets_row_stride=None, class_weights=None,
                  positive_weights=None):
    """Inputs of a binary cross-entropy, as `loss_inputs`."""
    return _inputs(sx_binary_inputs, locals())


def _for_a_plan(inputs):
    logits = None if inputs.get("in_place") else 0
    return {"targets": 0, "target_type": "i64", "logits": logits, **inputs}


def _inputs(kind, given):
    if (given["logits"] is None) != bool(given["in_place"]):
        raise Error(INVALID_ARGUMENT, "either logits are given, or in_place=True says that the gradient's memory has them")
    shape = sx_shape(*(given[name] or 0 for name, _ in sx_shape._fields_))
    inputs = kind(
        dtype=_number("dtype", given["dtype"], DTYPES),
        target_type=_number("target_type", given["target_type"], TARGET_TYPES),
        shape=shape, in_place=bool(given["in_place"]), logits=given["logits"] or 0,
        targets=given["targets"], class_weights=given["class_weights"] or 0)
    if "positive_weights" in given:
        inputs.positive_weights = given["positive_weights"] or 0
    return inputs


def _softmax_shape(rows, classes, strides):
    known = [name for name, _ in sx_log_softmax_shape._fields_]
    for name in strides:
        if name not in known:
            raise Error(INVALID_ARGUMENT, f"there is no {name}, only {', '.join(known[2:])}")
    return sx_log_softmax_shape(rows, classes, *(strides.get(name) or 0 for name in known[2:]))


def _outputs(kind, **pointers):
    return kind(**{name: pointer or 0 for name, pointer in pointers.items()})
