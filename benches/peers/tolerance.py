"""How far a result may be from the f64 reference before it is called wrong.

Wrong means that something else was computed: another normaliser, another smoothing, a row that should
have been ignored, a target misread, an overflow. How many digits a right result has is what the accuracy
table states. So the budget is what an implementation may lose that does everything in the dtype of the
logits except for sums: every row's log-sum-exp (apex), its log-probabilities, and the gradient with respect
to them (PyTorch's eager one), are rounded to the dtype and stored.

Notation: u is half an ulp of the dtype, relative; f that of f32, in which everybody sums.

* A stored log-sum-exp is off by u |lse|, and x - lse by u (|x| + |lse|), which is also the relative error of
  a probability from it; a stored log-probability is off by less. For f32, in which exponentials and
  logarithms are approximate, four times that.
* A sum of C exponentials adds at most f for each addition on its longest path: at least the lanes of a warp
  share a row, so that is C / 32 additions and those of lanes to each other, for which 64 is room.
* A loss passes through no more than eight roundings to the dtype: log-probability, sum over classes, its
  share, 1 - smoothing times the other share, their sum, sum over rows, divisor, quotient. All terms of a
  loss are of one sign, so each costs u of the loss. So does a gradient.
* Below the smallest positive number of the dtype nothing is left. A gradient loses one such number when
  it is stored. A row's share of the loss loses half of one for each row. The gradient with respect to
  log-probabilities has smoothing / C in each class; what rounding takes from them is summed over classes,
  but is no more than all of them, and reaches the gradient multiplied by p.

The arguments may be numbers or tensors.
"""

from __future__ import annotations

from typing import Any

HALF_ULP = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
SMALLEST = {"f32": 2.0**-149, "f16": 2.0**-24, "bf16": 2.0**-133}

_F32 = HALF_ULP["f32"]
_ROUNDINGS = 8


def _sum_path(classes: int) -> float:
    return _F32 * (64 + classes / 32)


def _of_size(dtype: str) -> float:
    return HALF_ULP[dtype] * (4 if dtype == "f32" else 1)


def loss_budget(dtype: str, classes: int, rows: int, loss: Any, size: Any) -> Any:
    """Of a mean over rows; `size` is the mean of |lse| + max |x|."""
    relative = _ROUNDINGS * HALF_ULP[dtype] + _sum_path(classes)
    return abs(loss) * relative + _of_size(dtype) * size + rows * SMALLEST[dtype] / 2


def gradient_budget(
    dtype: str,
    classes: int,
    *,
    probability: Any,
    pulled: Any,
    smoothing_share: Any,
    size: Any,
    divisor: float,
) -> Any:
    """Of one element: `probability` is S p, `pulled` the size of what is subtracted from it.

    `smoothing_share` is the whole smoothing term's part of S, `size` |lse| + max |x| of the row.
    """
    u, smallest = HALF_ULP[dtype], SMALLEST[dtype]
    parts = (probability + pulled) * (_ROUNDINGS * u + _sum_path(classes))
    exponent = probability * _of_size(dtype) * size
    # min() of numbers and tensors alike.
    lost = classes * smallest
    underflow = probability * (smoothing_share / divisor if smoothing_share / divisor < lost else lost)
    return (parts + exponent) / divisor + underflow + 2 * smallest


def representable(dtype: str, value: float) -> float:
    """The size of a value, or the smallest of the dtype: what a relative error is relative to."""
    return max(abs(value), SMALLEST[dtype])


def head_budget(dtype: str) -> float:
    """Of a product with the gradient, relative in the Euclidean norm.

    The gradient is rounded once, but eager computes it from a stored log-probability near 10, and the
    product is rounded once.
    """
    return 16 * HALF_ULP[dtype]
