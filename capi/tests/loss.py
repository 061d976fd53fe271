"""What loss.c does, in Python: the cases of one file, their results to another, and mistakes.

    loss.py MODULE_FOLDER HEADER CASES RESULTS
"""

import ctypes
import re
import struct
import sys
from pathlib import Path

HEADER = struct.Struct("<15Q2d32s")
NAMES = ["operation", "rows", "classes", "logits_row_stride", "gradient_row_stride", "targets_row_stride",
         "dtype", "target_type", "in_place", "upstream_per_row", "logits_bytes", "targets_bytes",
         "weights_bytes", "upstream_bytes", "gradient_bytes", "label_smoothing", "z_loss", "preset"]

module_folder, header, cases, results = map(Path, sys.argv[1:])
sys.path.insert(0, str(module_folder))
import smoothxent  # noqa: E402

C_TYPES = {"double": ctypes.c_double, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64,
           "size_t": ctypes.c_size_t, "uint32_t": ctypes.c_uint32, "int32_t": ctypes.c_int32}


def check_header(text):
    """The loader's structs, numbers and functions are those of the header, and none is missing."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    types = dict(C_TYPES)
    for of, name in re.findall(r"typedef (\w+) (\w+);", text):
        types[name] = types[of]
    structs = re.findall(r"typedef struct (\w+) \{(.*?)\} \w+;", text, flags=re.DOTALL)
    for name, body in structs:
        fields = [(field, types.get(kind) or getattr(smoothxent, kind))
                  for kind, field in re.findall(r"(?:struct )?(\w+) (\w+);", body)]
        found = getattr(smoothxent, name)._fields_
        assert found == fields, f"{name} is {found} here and {fields} in the header"
    declared = set(re.findall(r"sx_status (sx_\w+)\(", text))
    assert declared == set(smoothxent.FUNCTIONS), declared ^ set(smoothxent.FUNCTIONS)
    for name in declared:
        arguments = re.search(name + r"\((.*?)\);", text, flags=re.DOTALL)[1].split(",")
        assert len(arguments) == len(smoothxent.FUNCTIONS[name]) + 2, f"{name} takes {arguments}"
    number = {name: int(value) for name, value in re.findall(r"#define SX_(\w+) (\d+)", text)}
    here = {
        "OK": smoothxent.OK, "NULL_POINTER": smoothxent.NULL_POINTER,
        "INVALID_ARGUMENT": smoothxent.INVALID_ARGUMENT, "NO_DRIVER": smoothxent.NO_DRIVER,
        "NO_DEVICE": smoothxent.NO_DEVICE, "NO_KERNELS": smoothxent.NO_KERNELS,
        "DRIVER_ERROR": smoothxent.DRIVER_ERROR, "BAD_TARGETS": smoothxent.BAD_TARGETS,
        "PANIC": smoothxent.PANIC, "GIVEN": smoothxent.GIVEN,
        "LOG_PROBABILITIES": smoothxent.LOG_PROBABILITIES, "PROBABILITIES": smoothxent.PROBABILITIES,
        "LOGITS": smoothxent.LOGITS,
        "NLL_ALONE": smoothxent.WEIGHTED_TERMS["nll"],
        "SMOOTHING_ALONE": smoothxent.WEIGHTED_TERMS["smoothing"],
        "NLL_AND_SMOOTHING": smoothxent.WEIGHTED_TERMS["nll_and_smoothing"],
    }
    for prefix, suffix, names in [
            ("", "", smoothxent.DTYPES), ("TARGET_", "", smoothxent.TARGET_TYPES),
            ("", "", smoothxent.PASSES), ("", "", smoothxent.REDUCTIONS), ("", "", smoothxent.SMOOTHINGS),
            ("", "", smoothxent.DIVISORS), ("EMPTY_IS_", "", smoothxent.EMPTY_MEANS),
            ("SMOOTH_BY_", "", smoothxent.BINARY_SMOOTHINGS), ("", "_OF_CLASSES", smoothxent.OVER_CLASSES),
            ("", "", smoothxent.SELECTIONS)]:
        here.update({prefix + name.upper() + suffix: value for name, value in names.items()})
    assert here == number, set(here.items()) ^ set(number.items())
    print(f"header: {len(structs)} structs, {len(declared)} functions, {len(number)} numbers")


class Driver:
    """As much of libcuda as memory takes."""

    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        context = ctypes.c_void_p()
        self("cuInit", 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self("cuCtxSetCurrent", context)

    def __call__(self, name, *arguments):
        code = getattr(self.cuda, name)(*arguments)
        assert code == 0, f"{name}: {code}"

    def zeroed(self, count):
        memory = ctypes.c_uint64()
        self("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(count + 1))
        self("cuMemsetD8_v2", memory, ctypes.c_ubyte(0), ctypes.c_size_t(count + 1))
        return memory.value

    def upload(self, data):
        """None for no bytes."""
        if not data:
            return None
        memory = self.zeroed(len(data))
        self("cuMemcpyHtoD_v2", ctypes.c_uint64(memory), data, ctypes.c_size_t(len(data)))
        return memory

    def download(self, memory, count):
        data = ctypes.create_string_buffer(count + 1)
        if count:
            self("cuMemcpyDtoH_v2", data, ctypes.c_uint64(memory), ctypes.c_size_t(count))
        return data.raw[:count]


def name_of(number, names):
    return next(name for name, value in names.items() if value == number)


def run(driver, kernels, case, data, workspace, workspace_bytes):
    """The results of a case, in the order in which loss.c writes them."""
    memory = {name: driver.upload(data[name]) for name in data}
    rows, in_place = case["rows"], bool(case["in_place"])
    gradient = memory["logits"] if in_place else driver.zeroed(case["gradient_bytes"])
    room = {"workspace": workspace, "workspace_bytes": workspace_bytes}
    both = {"rows": rows, "classes": case["classes"], "dtype": name_of(case["dtype"], smoothxent.DTYPES)}
    preset = case["preset"].rstrip(b"\0").decode()

    def output(count):
        return driver.zeroed(count), count

    if case["operation"] == 2:
        strides = {"logits_row_stride": case["logits_row_stride"],
                   "gradient_row_stride": case["gradient_row_stride"],
                   "output_row_stride": case["gradient_row_stride"]}
        log_probs, row_lse = output(case["gradient_bytes"]), output(4 * rows)
        saved = driver.zeroed(kernels.saved_bytes(rows))
        kernels.log_softmax_forward(0, logits=memory["logits"], output=log_probs[0], row_lse=row_lse[0],
                                    saved=saved, **both, **strides)
        kernels.log_softmax_backward(0, logits=memory["logits"], saved=saved, upstream=memory["upstream"],
                                     gradient=gradient, **both, **strides)
        found = [log_probs, row_lse, (gradient, case["gradient_bytes"])]
        return b"".join(driver.download(*one) for one in found)

    inputs = {
        **both, "targets": memory["targets"], "logits": None if in_place else memory["logits"],
        "in_place": in_place,
        "target_type": name_of(case["target_type"], smoothxent.TARGET_TYPES),
        "logits_row_stride": case["logits_row_stride"], "gradient_row_stride": case["gradient_row_stride"],
        "targets_row_stride": case["targets_row_stride"]}
    to = {"gradient": gradient, "upstream": memory["upstream"],
          "upstream_per_row": bool(case["upstream_per_row"])}
    loss, row_losses = output(4), output(4 * rows)
    if case["operation"] == 3:
        config = kernels.library.binary_config(preset, label_smoothing=case["label_smoothing"])
        inputs["positive_weights"] = memory["weights"]
        outputs = {"loss": loss[0], "row_losses": row_losses[0]}
        kernels.binary_forward(0, config, **outputs, **room, **inputs)
        kernels.binary_backward(0, config, **to, **room, **inputs)
        found = [(gradient, case["gradient_bytes"]), loss, row_losses]
        # Both passes at once, into memory of their own.
        at_once = [output(count) for _, count in found]
        to["gradient"], outputs["loss"], outputs["row_losses"] = (memory for memory, _ in at_once)
        kernels.binary_forward_backward(0, config, **outputs, **to, **room, **inputs)
        return b"".join(driver.download(*one) for one in found + at_once)

    config = kernels.library.config(preset, label_smoothing=case["label_smoothing"], z_loss=case["z_loss"])
    inputs["class_weights"] = memory["weights"]
    row_lse, row_argmax = output(4 * rows), output(8 * rows)
    correct = output(8) if inputs["target_type"] in ("i32", "u32", "i64") else None
    outputs = {"loss": loss[0], "row_losses": row_losses[0], "row_lse": row_lse[0],
               "row_argmax": row_argmax[0], "correct": correct and correct[0]}
    if case["operation"] == 0:
        kernels.forward_backward(0, config, **outputs, **to, **room, **inputs)
    else:
        saved = driver.zeroed(kernels.saved_bytes(rows))
        apart = {**inputs, "logits": memory["logits"], "in_place": False}
        kernels.forward(0, config, saved=saved, **outputs, **room, **apart)
        kernels.backward(0, config, saved=saved, **to, **inputs)
    found = [(gradient, case["gradient_bytes"]), loss, row_losses, row_lse, row_argmax, correct]
    return b"".join(driver.download(*one) for one in found if one)


def mistakes(driver, library, kernels):
    def say(what, call):
        try:
            call()
            print(f"{what}: {smoothxent.OK}: ")
        except smoothxent.Error as error:
            print(f"{what}: {error.code}: {error.message}")
            return error

    say("preset", lambda: library.config("tensorflow"))
    say("reduction", lambda: library.config(reduction="median"))
    say("device", lambda: library.load(99))
    say("library", lambda: smoothxent.Library("/nowhere.so"))
    config = library.config("pytorch", label_smoothing=1.5)
    workspace_bytes = kernels.workspace_bytes(2)
    workspace = driver.zeroed(workspace_bytes)
    targets = driver.upload(struct.pack("<2q", 1, 7))
    logits = driver.zeroed(24)
    inputs = dict(rows=2, classes=3, dtype="f32", targets=targets, target_type="i64", logits=logits,
                  loss=driver.zeroed(4), workspace=workspace)
    say("smoothing", lambda: kernels.forward(0, config, workspace_bytes=workspace_bytes, **inputs))
    config = library.config("pytorch", logit_softcap=30.0, divisor=2.0, empty_mean="zero")
    say("workspace", lambda: kernels.forward(0, config, workspace_bytes=64, **inputs))
    forgotten = {**inputs, "logits": None, "workspace_bytes": workspace_bytes}
    say("no logits", lambda: kernels.forward_backward(0, config, gradient=logits, **forgotten))
    say("call", lambda: kernels.forward(0, config, workspace_bytes=workspace_bytes, **inputs))
    bad = say("status", lambda: kernels.take_status(0, workspace))
    print(f"bad targets: {bad.count}, row {bad.row}, target {bad.target} of {bad.classes}")
    say("status again", lambda: kernels.take_status(0, workspace))
    pinned = kernels.select("pinned", "block")
    plan = pinned.plan(config, rows=2, classes=3, dtype="f32")
    print(f"plan: {plan.splitlines()[0]}")
    pinned.close()
    say("closed", lambda: pinned.plan(config, rows=2, classes=3, dtype="f32"))


def main():
    check_header(header.read_text())
    driver = Driver()
    library = smoothxent.Library()
    with library.load(device=0) as kernels:
        workspace_bytes = kernels.workspace_bytes(4096)
        workspace = driver.zeroed(workspace_bytes)
        with cases.open("rb") as given, results.open("wb") as found:
            while head := given.read(HEADER.size):
                case = dict(zip(NAMES, HEADER.unpack(head)))
                data = {name: given.read(case[f"{name}_bytes"])
                        for name in ("logits", "targets", "weights", "upstream")}
                found.write(run(driver, kernels, case, data, workspace, workspace_bytes))
        kernels.take_status(0, workspace)
        mistakes(driver, library, kernels)


main()
