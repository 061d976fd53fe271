#!/usr/bin/env python3
"""Writes golden/torch_more.safetensors: losses and gradients at full precision, beside what PyTorch
itself gives for the same inputs in the case's own dtype on the CPU (one thread).

Needs torch 2.x, numpy, safetensors and mpmath, no network and no GPU; takes about 20 seconds.

    python3 tests/data/generate_torch_more.py            # writes, reads back, prints a summary
    python3 tests/data/generate_torch_more.py --report   # prints the summary of what is there

Inputs follow from the cases' names alone (each seeds its own generator), so a case can be added
without moving another. torch_* may change with PyTorch's version, which each case names, and in
its last places with the CPU's vector width.

The truth is each definition as it is written, in 1200 bits: more than an f64 has range, so nothing
that an f64 can hold cancels, and each expected value is the exact one rounded to f64. Where 0 meets
an infinity it counts for nothing: a masked logit (-inf) under a target of 0 leaves the loss finite,
where PyTorch's is NaN. The script stops if PyTorch's own float64 autograd is further from the truth
than 1e-12 relative, or 1e-15 of the tensor's largest value (a gradient p - c may happen to be near
0); for kinds `confident` and `extreme`, where float64 cancels as well, 1e-12 absolute.

Format: that of golden/README.md, with

  system               the function                              tensors beside logits and grad
  torch_index          cross_entropy, class indices              target (I64), weight, loss, lse
  torch_probabilities  cross_entropy, target probabilities       target, weight, loss, lse
  torch_log_softmax    log_softmax over classes, its backward    grad_output_matrix, log_softmax,
                                                                 lse
  torch_binary         binary_cross_entropy_with_logits,         target, weight, pos_weight, loss
                       sum or mean over all elements

grad_output is [rows], F64, for reduction none; grad_output_matrix is [rows, classes] in the case's
dtype. torch_grad and torch_loss (for torch_log_softmax: torch_log_softmax) are PyTorch's results as
F64. Targets and weights are F32, grad_output F64, but their values are exact in the case's dtype.
Keys of a case beside the common ones: kind (random, confident, masked, offset, extreme), gaps (how
far the target is ahead, row by row; for torch_binary the logits' sizes; null elsewhere),
pos_weighted, torch (the version).
"""

import argparse
import json
import sys
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mpmath import mp, mpf
from safetensors import safe_open
from safetensors.torch import save_file

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
OUTPUT = Path(__file__).parent / "golden" / "torch_more.safetensors"
GAPS = (5, 10, 20, 50)
PRECISION = 1200  # bits; the least f64 is 2^-1074
TOLERANCE = 1e-12
ROUNDINGS = 1e-15  # a few of float64's
CANCELS = ("confident", "extreme")  # kinds for which float64 autograd is no judge of small values


@dataclass
class Case:
    name: str
    system: str
    dtype: str
    logits: torch.Tensor  # in dtype, like all that follow but an index target
    target: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    pos_weight: torch.Tensor | None = None
    upstream: torch.Tensor | None = None  # [rows] or [rows, classes]
    smoothing: float = 0.0
    reduction: str = "none"
    ignore_index: int | None = None
    kind: str = "random"
    gaps: list | None = None

    def description(self):
        rows, classes = self.logits.shape
        target = "none" if self.target is None else "probabilities"
        return {
            "name": self.name, "system": self.system, "rows": rows, "classes": classes,
            "dtype": self.dtype, "smoothing": self.smoothing, "reduction": self.reduction,
            "ignore_index": self.ignore_index, "weighted": self.weight is not None,
            "target": "index" if self.system == "torch_index" else target,
            "kind": self.kind, "gaps": self.gaps, "pos_weighted": self.pos_weight is not None,
            "torch": torch.__version__,
        }  # fmt: skip


# What PyTorch gives.


def pytorch(case, dtype):
    """The function's value and the gradient, computed in dtype, as float64."""

    def given(tensor):
        return tensor.to(dtype) if tensor is not None and tensor.is_floating_point() else tensor

    logits = given(case.logits).clone().requires_grad_()
    if case.system == "torch_log_softmax":
        value = F.log_softmax(logits, dim=-1)
    elif case.system == "torch_binary":
        value = F.binary_cross_entropy_with_logits(
            logits, given(case.target), given(case.weight),
            pos_weight=given(case.pos_weight), reduction=case.reduction,
        )  # fmt: skip
    else:
        ignore = {} if case.ignore_index is None else {"ignore_index": case.ignore_index}
        value = F.cross_entropy(
            logits, given(case.target), given(case.weight),
            reduction=case.reduction, label_smoothing=case.smoothing, **ignore,
        )  # fmt: skip
    value.backward(given(case.upstream))
    assert value.dtype == dtype and logits.grad.dtype == dtype
    return value.detach().double(), logits.grad.double()


# The truth.


def exact(tensor):
    """Nested lists of mpf."""
    if tensor.dim() == 2:
        return [exact(row) for row in tensor]
    return [mpf(v) for v in tensor.double().tolist()]


def times(a, b):
    return a * b if a and b else mpf(0)


def softmax(row):
    """lse and the probabilities."""
    top = max(row)
    exps = [mp.exp(x - top) for x in row]
    total = mp.fsum(exps)
    return top + mp.log(total), [e / total for e in exps]


def coefficients(case):
    """c of loss_i = sum_k c_ik (lse_i - x_ik), and what the mean divides by."""
    rows, classes = case.logits.shape
    weight = [mpf(1)] * classes if case.weight is None else exact(case.weight)
    e = mpf(case.smoothing)
    smooth = [w * e / classes for w in weight]
    if case.system == "torch_probabilities":
        target = exact(case.target)
        spread = [[w * q * (1 - e) + s for w, q, s in zip(weight, row, smooth)] for row in target]
        return spread, mpf(rows)
    result, divisor = [], mpf(0)
    for y in case.target.tolist():
        if y == case.ignore_index:
            result.append([mpf(0)] * classes)
            continue
        divisor += weight[y]
        result.append([s + (weight[y] * (1 - e) if k == y else 0) for k, s in enumerate(smooth)])
    return result, divisor


def cross_entropy(case):
    cs, divisor = coefficients(case)
    divisor = divisor if case.reduction == "mean" else mpf(1)
    upstream = [mpf(1)] * len(cs) if case.upstream is None else exact(case.upstream)
    losses, lses, grad = [], [], []
    for x, c, g in zip(exact(case.logits), cs, upstream):
        lse, p = softmax(x)
        mass = mp.fsum(c)
        lses.append(lse)
        losses.append(mp.fsum(times(c_k, lse - x_k) for c_k, x_k in zip(c, x)))
        grad.append([g * (mass * p_k - c_k) / divisor for p_k, c_k in zip(p, c)])
    loss = losses if case.reduction == "none" else [mp.fsum(losses) / divisor]
    return {"loss": loss, "grad": grad, "lse": lses}


def log_softmax(case):
    lses, value, grad = [], [], []
    for x, g in zip(exact(case.logits), exact(case.upstream)):
        lse, p = softmax(x)
        total = mp.fsum(g)
        lses.append(lse)
        value.append([x_k - lse for x_k in x])
        grad.append([g_k - p_k * total for g_k, p_k in zip(g, p)])
    return {"log_softmax": value, "grad": grad, "lse": lses}


def binary(case):
    rows, classes = case.logits.shape
    weight = [mpf(1)] * classes if case.weight is None else exact(case.weight)
    positive = [mpf(1)] * classes if case.pos_weight is None else exact(case.pos_weight)
    divisor = mpf(rows * classes if case.reduction == "mean" else 1)
    losses, grad = [], []
    for x, t in zip(exact(case.logits), exact(case.target)):
        grad.append([])
        for x_k, t_k, w, v in zip(x, t, weight, positive):
            on, off = 1 / (1 + mp.exp(-x_k)), 1 / (1 + mp.exp(x_k))
            losses.append(-w * (v * t_k * mp.log(on) + (1 - t_k) * mp.log(off)))
            grad[-1].append(w * ((1 - t_k) * on - v * t_k * off) / divisor)
    return {"loss": [mp.fsum(losses) / divisor], "grad": grad}


def truth(case):
    functions = {"torch_log_softmax": log_softmax, "torch_binary": binary}
    with mp.workprec(PRECISION):
        result = functions.get(case.system, cross_entropy)(case)
        return {name: as_f64(values) for name, values in result.items()}


def as_f64(values):
    if isinstance(values[0], list):
        return torch.stack([as_f64(row) for row in values])
    return torch.tensor([float(v) for v in values], dtype=torch.float64)


# The inputs.


def generator(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def rounded(values, dtype):
    return torch.from_numpy(np.asarray(values, dtype=np.float64)).to(DTYPES[dtype])


def class_weights(rng, classes, dtype, wanted=True):
    return rounded(rng.uniform(0.25, 2.0, classes), dtype) if wanted else None


def row_upstream(rng, rows, dtype, reduction):
    return rounded(rng.uniform(0.5, 2.0, rows), dtype) if reduction == "none" else None


def ahead(rng, classes, gaps, dtype):
    """Logits whose targets are ahead of the others' greatest by the gaps, and these targets."""
    x = rng.normal(0.0, 0.25, (len(gaps), classes))
    y = rng.integers(classes, size=len(gaps))
    for row, k, gap in zip(x, y, gaps):
        row[k] = np.delete(row, k).max() + gap
    return rounded(x, dtype), torch.from_numpy(y)


def index_random(dtype, classes, rows, smoothing, reduction, weighted, ignore_index):
    weights = "-weighted" if weighted else ""
    ignored = "" if ignore_index is None else "-ignore"
    name = f"index-{classes}-{dtype}-{smoothing}-{reduction}{weights}{ignored}"
    rng = generator(name)
    target = torch.from_numpy(rng.integers(classes, size=rows))
    if ignore_index is not None:
        target[torch.from_numpy(rng.permutation(rows)[: max(1, rows // 3)])] = ignore_index
    return Case(
        name, "torch_index", dtype, rounded(rng.normal(0.0, 3.0, (rows, classes)), dtype), target,
        weight=class_weights(rng, classes, dtype, weighted),
        upstream=row_upstream(rng, rows, dtype, reduction),
        smoothing=smoothing, reduction=reduction, ignore_index=ignore_index,
    )  # fmt: skip


def index_confident(dtype, classes, gaps, smoothing, weighted, reduction="none"):
    weights = "-weighted" if weighted else ""
    shown = "_".join(map(str, gaps))
    name = f"index-confident-{classes}-{dtype}-{shown}-{smoothing}-{reduction}{weights}"
    rng = generator(name)
    logits, target = ahead(rng, classes, gaps, dtype)
    return Case(
        name, "torch_index", dtype, logits, target,
        weight=class_weights(rng, classes, dtype, weighted),
        upstream=row_upstream(rng, len(gaps), dtype, reduction),
        smoothing=smoothing, reduction=reduction, kind="confident", gaps=list(gaps),
    )  # fmt: skip


def index_cases():
    for dtype in DTYPES:
        for classes in (2, 10, 33):
            yield index_random(dtype, classes, 6, 0.0, "none", False, -100)
            yield index_random(dtype, classes, 6, 0.0, "mean", True, None)
            yield index_random(dtype, classes, 6, 0.1, "mean", True, -100)
            yield index_random(dtype, classes, 6, 1.0, "sum", classes == 10, None)
        yield index_random(dtype, 257, 3, 0.0, "mean", False, -100)
        yield index_random(dtype, 257, 3, 0.1, "none", True, None)
        yield index_random(dtype, 1000, 2, 0.1, "sum", False, None)
        yield index_random(dtype, 4097, 2, 0.1, "mean", True, None)
        for classes, smoothing, weighted in product((2, 33), (0.0, 0.1), (False, True)):
            yield index_confident(dtype, classes, GAPS, smoothing, weighted)
        yield index_confident(dtype, 33, [20] * 3, 0.0, False, "sum")
        yield index_confident(dtype, 33, [50] * 3, 0.0, True, "mean")
    # Wide rows are large: two gaps a case, not all combinations.
    yield index_confident("f32", 4097, (10, 50), 0.0, False)
    yield index_confident("f32", 4097, (5, 20), 0.0, True)
    yield index_confident("f32", 4097, (10, 50), 0.1, True)
    yield index_confident("f16", 4097, (10, 50), 0.0, False)
    yield index_confident("f16", 4097, (5, 20), 0.1, True)
    yield index_confident("bf16", 4097, (5, 20), 0.0, True)


def shares(rng, rows, classes):
    """Rows in turn: a distribution, one-hot, a sparse distribution, one that does not sum to 1."""
    q = rng.dirichlet(np.full(classes, 0.5), rows)
    for i, row in enumerate(q):
        if i % 4 == 1:
            row[:] = np.eye(classes)[rng.integers(classes)]
        elif i % 4 == 2:
            row[rng.permutation(classes)[: classes // 2]] = 0.0
            row /= row.sum()
        elif i % 4 == 3:
            row *= rng.uniform(0.3, 1.8)
    return q


def probabilities_random(dtype, classes, rows, smoothing, reduction, weighted, masked=False):
    weights, mask = "-weighted" if weighted else "", "-masked" if masked else ""
    name = f"probabilities-{classes}-{dtype}-{smoothing}-{reduction}{weights}{mask}"
    rng = generator(name)
    x, q = rng.normal(0.0, 3.0, (rows, classes)), shares(rng, rows, classes)
    if masked:
        mask = (rng.uniform(size=q.shape) < 0.4) & (q < q.max(axis=1, keepdims=True))
        x[mask], q[mask] = -np.inf, 0.0
    return Case(
        name, "torch_probabilities", dtype, rounded(x, dtype), rounded(q, dtype),
        weight=class_weights(rng, classes, dtype, weighted),
        upstream=row_upstream(rng, rows, dtype, reduction),
        smoothing=smoothing, reduction=reduction, kind="masked" if masked else "random",
    )  # fmt: skip


def probabilities_confident(dtype, classes, gaps, smoothing, weighted, reduction="none"):
    case = index_confident(dtype, classes, gaps, smoothing, weighted, reduction)
    case.name = case.name.replace("index", "probabilities")
    case.system = "torch_probabilities"
    case.target = F.one_hot(case.target, classes).to(DTYPES[dtype])
    return case


def probabilities_cases():
    for dtype in DTYPES:
        for classes, reduction in product((2, 33), ("none", "sum", "mean")):
            smoothing, weighted = (0.0, False) if reduction == "sum" else (0.1, True)
            yield probabilities_random(dtype, classes, 4, smoothing, reduction, weighted)
        yield probabilities_random(dtype, 10, 4, 0.0, "mean", True)
        yield probabilities_random(dtype, 10, 4, 0.1, "none", False)
        yield probabilities_random(dtype, 257, 2, 0.1, "mean", True)
        yield probabilities_random(dtype, 10, 4, 0.0, "none", False, masked=True)
        yield probabilities_random(dtype, 33, 4, 0.0, "mean", True, masked=True)
        for classes, smoothing in product((2, 33), (0.0, 0.1)):
            yield probabilities_confident(dtype, classes, GAPS, smoothing, smoothing > 0.0)
        yield probabilities_confident(dtype, 257, (10, 20), 0.0, True)
        yield probabilities_confident(dtype, 33, [20] * 3, 0.0, False, "sum")


def log_softmax_case(dtype, classes, x, rng, name, kind, gaps=None):
    upstream = rounded(rng.normal(0.0, 1.0, (len(x), classes)), dtype)
    return Case(
        name, "torch_log_softmax", dtype, rounded(x, dtype), upstream=upstream, kind=kind, gaps=gaps
    )


def log_softmax_cases():
    for dtype in DTYPES:
        for classes, rows in ((2, 4), (10, 4), (33, 4), (257, 2), (1000, 2)):
            if classes == 1000 and dtype != "f32":
                continue  # for the file's size
            name = f"log_softmax-{classes}-{dtype}"
            rng = generator(name)
            x = rng.normal(0.0, 3.0, (rows, classes))
            yield log_softmax_case(dtype, classes, x, rng, name, "random")
        for classes in (2, 33):
            name = f"log_softmax-confident-{classes}-{dtype}"
            rng = generator(name)
            x = ahead(rng, classes, GAPS, dtype)[0].double()
            yield log_softmax_case(dtype, classes, x, rng, name, "confident", list(GAPS))
        name = f"log_softmax-masked-33-{dtype}"
        rng = generator(name)
        x = rng.normal(0.0, 3.0, (4, 33))
        x[:, ::3] = -np.inf
        yield log_softmax_case(dtype, 33, x, rng, name, "masked")
        for offset in (1000.0, -1000.0) if dtype == "f32" else (1000.0,):
            name = f"log_softmax-offset-33-{dtype}-{offset:+.0f}"
            rng = generator(name)
            x = rng.normal(offset, 4.0 if dtype == "bf16" else 3.0, (4, 33))
            yield log_softmax_case(dtype, 33, x, rng, name, "offset")
        # All at 60000, all at -60000, both in a row: in steps of 32, f16's distance there.
        name = f"log_softmax-extreme-10-{dtype}"
        rng = generator(name)
        sign = np.array([np.ones(10), -np.ones(10), rng.choice([-1.0, 1.0], 10)])
        x = sign * 60000.0 + 32.0 * rng.integers(-3, 4, (3, 10))
        yield log_softmax_case(dtype, 10, x, rng, name, "extreme")


def binary_case(name, dtype, x, t, rng, weighted, positive, reduction, kind="random", gaps=None):
    classes = x.shape[1]
    name += f"-{reduction}" + "-weighted" * weighted + "-positive" * positive
    return Case(
        name, "torch_binary", dtype, rounded(x, dtype), rounded(t, dtype),
        weight=class_weights(rng, classes, dtype, weighted),
        pos_weight=rounded(rng.uniform(0.5, 4.0, classes), dtype) if positive else None,
        reduction=reduction, kind=kind, gaps=gaps,
    )  # fmt: skip


def binary_cases():
    for dtype in DTYPES:
        for classes, weighted, positive, reduction in (
            (1, False, False, "sum"), (10, True, False, "mean"), (33, False, True, "sum"),
            (33, True, True, "mean"), (129, True, True, "sum"),
        ):  # fmt: skip
            name = f"binary-{classes}-{dtype}"
            rng = generator(name + reduction)
            x, t = rng.normal(0.0, 3.0, (4, classes)), rng.uniform(0.0, 1.0, (4, classes))
            t[0], t[1] = rng.integers(0, 2, classes), np.round(t[1], 1)
            yield binary_case(name, dtype, x, t, rng, weighted, positive, reduction)
        for size, reduction in ((5, "mean"), (20, "sum"), (50, "sum"), (100, "mean")):
            # Every logit is on its target's side, so that the loss is small.
            name = f"binary-right-{dtype}-{size}"
            rng = generator(name)
            t = rng.integers(0, 2, (3, 7)).astype(float)
            x = (2.0 * t - 1.0) * (size + rng.choice([0.0, 0.25, 0.5], (3, 7)))
            both = size != 50
            yield binary_case(
                name, dtype, x, t, rng, both, both, reduction, "confident", [size] * 3
            )
        name = f"binary-sizes-{dtype}"
        rng = generator(name)
        sizes = np.array([5.0, -5.0, 20.0, -20.0, 50.0, -50.0, 100.0, -100.0])
        x, t = np.tile(sizes, (4, 1)), np.array([0.0, 1.0, 0.5, 0.25])[:, None] * np.ones(8)
        yield binary_case(name, dtype, x, t, rng, False, False, "sum", "confident")
        yield binary_case(name, dtype, x, t, rng, True, True, "mean", "confident")


# Checking and writing.


def check(case, expected):
    """The truth against float64 autograd."""
    judged = case
    if case.kind == "masked" and case.system == "torch_probabilities":
        # Autograd's 0 * -inf is NaN; from -1e5 on, probabilities are 0 all the same.
        logits = case.logits.double().clamp(min=-1e5)
        judged = Case(**{**vars(case), "logits": logits})
    value, grad = pytorch(judged, torch.float64)
    known = expected.get("loss", expected.get("log_softmax"))
    for what, found, true in (("value", value.reshape(known.shape), known),
                              ("grad", grad, expected["grad"])):  # fmt: skip
        size = true.abs()
        if case.kind in CANCELS:
            allowed = TOLERANCE * size.clamp(min=1.0)
        else:
            allowed = (TOLERANCE * size).clamp(min=ROUNDINGS * size[size.isfinite()].max())
        wrong = ~((found == true) | ((found - true).abs() <= allowed))
        if wrong.any():
            at = tuple(wrong.nonzero()[0].tolist())
            sys.exit(f"{case.name}: {what} {at} is {true[at]:e}, autograd's {found[at]:e}")


def tensors_of(case):
    expected = truth(case)
    check(case, expected)
    value, grad = pytorch(case, DTYPES[case.dtype])
    name = "torch_loss" if "loss" in expected else "torch_log_softmax"
    result = {"logits": case.logits, **expected, "torch_grad": grad}
    result[name] = value if value.dim() else value.reshape(1)
    if case.target is not None:
        index = case.target.dtype == torch.int64
        result["target"] = case.target if index else case.target.float()
    for key, tensor in (("weight", case.weight), ("pos_weight", case.pos_weight)):
        if tensor is not None:
            result[key] = tensor.float()
    if case.upstream is not None:
        matrix = case.upstream.dim() == 2
        key = "grad_output_matrix" if matrix else "grad_output"
        result[key] = case.upstream if matrix else case.upstream.double()
    return {f"{case.name}/{key}": tensor.contiguous() for key, tensor in result.items()}


def write(path):
    cases, tensors = [], {}
    for source in (index_cases, probabilities_cases, log_softmax_cases, binary_cases):
        for case in source():
            assert all(case.name != other["name"] for other in cases), case.name
            cases.append(case.description())
            tensors.update(tensors_of(case))
    save_file(tensors, path, {"cases": json.dumps(cases)})
    path.chmod(0o644)  # save_file's own is for the owner alone


def half_unit(dtype, values):
    """Half the distance between neighbours in dtype: the most that one rounding costs."""
    bits, least = {"f32": (24, -150), "f16": (11, -25), "bf16": (8, -134)}[dtype]
    exponent = torch.frexp(values)[1] - bits - 1
    return torch.ldexp(torch.ones_like(values), exponent).clamp(min=2.0**least)


def report(path):
    """How far PyTorch's results in the case's dtype are from the truth."""
    worst = {}
    with safe_open(path, "pt") as file:
        for case in json.loads(file.metadata()["cases"]):
            for what in ("loss", "log_softmax", "grad"):
                name = f"{case['name']}/{what}"
                if name not in file.keys():
                    continue
                true = file.get_tensor(name)
                found = file.get_tensor(f"{case['name']}/torch_{what}")
                key = (case["system"], case["dtype"], what, case["kind"] in CANCELS)
                row = worst.setdefault(key, [0, 0, 0, 0.0, 0.0])
                finite = true.isfinite() & found.isfinite()
                error = (found - true).abs()
                row[0] += true.numel()
                row[1] += int((true.isfinite() & ~finite).sum())
                row[2] += int((finite & (error > half_unit(case["dtype"], true))).sum())
                relative = finite & (true != 0.0)
                if relative.any():
                    row[3] = max(row[3], float((error / true.abs())[relative].max()))
                if finite.any():
                    units = error / half_unit(case["dtype"], true)
                    row[4] = max(row[4], float(units[finite].max()))
    print(f"{path}: {path.stat().st_size} bytes")
    print("PyTorch's results against the truth. Half units are of the case's dtype, the most that")
    print("one rounding costs; `far` elements are off by more, `lost` ones are not finite where")
    print(f"the truth is. Cancelling kinds: {', '.join(CANCELS)}.")
    columns = "{:<20}{:<5}{:<12}{:<11}{:>8}{:>6}{:>7}{:>12}{:>18}"
    print(columns.format("system", "type", "what", "kinds", "elements", "lost", "far",
                         "most, rel.", "most, half units"))  # fmt: skip
    for (system, dtype, what, cancels), (count, lost, far, relative, units) in worst.items():
        kinds = "cancelling" if cancels else "other"
        print(columns.format(system, dtype, what, kinds, count, lost, far, f"{relative:.3g}",
                             f"{units:.3g}"))  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--report", action="store_true", help="only report on the file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.report:
        write(arguments.output)
    report(arguments.output)


if __name__ == "__main__":
    main()
