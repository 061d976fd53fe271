"""Loss and gradient in f64, and how far a result is from them.

    loss_i = (1 - e) w_y (lse - x_y) + e/C sum_k w_k (lse - x_k)        divided by the sum of w_y
    gradient_k = S p_k - (1 - e) w_y [k = y] - e/C w_k,   S = (1 - e) w_y + e/C sum_k w_k

as `torch.nn.CrossEntropyLoss` states it; w is 1 without class weights. The target is kept out of the sum
over classes, so that 1 - p and -log p have all their digits as p -> 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch

from . import tolerance
from .cases import IGNORE_INDEX
from .data import Data


@dataclass
class Rows:
    """Some rows, undivided."""

    losses: torch.Tensor
    gradient: torch.Tensor
    # What budgets are made of.
    probability: torch.Tensor
    pulled: torch.Tensor
    sizes: torch.Tensor


def rows(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: Optional[torch.Tensor],
    label_smoothing: float,
) -> Rows:
    x = logits.double()
    classes = x.shape[1]
    weights = torch.ones(classes, dtype=x.dtype, device=x.device) if weights is None else weights.double()
    counted = targets != IGNORE_INDEX
    safe = targets.where(counted, torch.zeros_like(targets)).unsqueeze(1)
    x_y = x.gather(1, safe)
    lse_of_others = x.scatter(1, safe, float("-inf")).logsumexp(1, keepdim=True)
    gap = x_y - lse_of_others
    zero = torch.zeros_like(gap)
    lse = torch.logaddexp(lse_of_others, x_y)
    minus_log = (lse - x).scatter(1, safe, torch.logaddexp(zero, -gap))
    p = (-minus_log).exp()
    rest = torch.sigmoid(-gap)

    on_target = (1 - label_smoothing) * weights[safe]
    on_class = label_smoothing / classes * weights
    total = on_target + on_class.sum()
    losses = on_target * minus_log.gather(1, safe) + (on_class * minus_log).sum(1, keepdim=True)
    gradient = total * p - on_class
    at_target = -on_target * rest + on_class.sum() * p.gather(1, safe) - on_class[safe]
    gradient = gradient.scatter(1, safe, at_target)
    pulled = on_class.expand_as(p).scatter_add(1, safe, on_target)
    counts = counted.unsqueeze(1)
    return Rows(
        losses=losses.where(counts, zero).squeeze(1),
        gradient=gradient.where(counts, torch.zeros_like(gradient)),
        probability=(total * p).where(counts, torch.zeros_like(p)),
        pulled=pulled.where(counts, torch.zeros_like(pulled)),
        sizes=(lse.abs() + x.abs().amax(1, keepdim=True)).squeeze(1),
    )


@dataclass
class Distance:
    """How far a result is from the reference; empty where there was nothing to compare."""

    loss_abs: Optional[float] = None
    loss_rel: Optional[float] = None
    gradient_abs: Optional[float] = None
    # The largest error of a row relative to its largest element.
    gradient_rel: Optional[float] = None
    # Relative, at the target.
    target_gradient_rel: Optional[float] = None
    # In multiples of the budget.
    loss_budgets: float = 0.0
    gradient_budgets: float = 0.0

    @property
    def right(self) -> bool:
        # A comparison with NaN is false.
        return self.loss_budgets <= 1 and self.gradient_budgets <= 1

    def complaint(self) -> str:
        parts = []
        if not self.loss_budgets <= 1:
            parts.append(f"loss off by {self.loss_abs:.3g}: {self.loss_budgets:.3g} times its budget")
        if not self.gradient_budgets <= 1:
            parts.append(
                f"gradient off by {self.gradient_abs:.3g}: {self.gradient_budgets:.3g} times its budget"
            )
        return "; ".join(parts)


def compare(
    data: Data,
    number: int,
    loss: Optional[torch.Tensor],
    gradient: Optional[torch.Tensor],
    divided: bool = True,
) -> Distance:
    """Measures the result of one set; its logits may be overwritten by now.

    A result that is not divided is the sum of losses and its gradient.
    """
    case, divisor, distance = data.case, data.divisor(), Distance()
    smoothing_share = case.label_smoothing * (1.0 if data.weights is None else data.weights.mean().item())
    scale = 1.0 if divided else 1.0 / divisor
    loss_sum = size_sum = 0.0
    worst = dict.fromkeys(("abs", "rel", "target", "budgets"), 0.0)

    def larger(name: str, values: torch.Tensor) -> None:
        value = values.max().item() if values.numel() else 0.0
        # NaN is larger than anything, and stays.
        if worst[name] == worst[name] and not value <= worst[name]:
            worst[name] = value

    for start, end in data.chunks():
        targets = data.targets[number][start:end]
        expected = rows(data.fresh(number, start, end), targets, data.weights, case.label_smoothing)
        loss_sum += expected.losses.sum().item()
        size_sum += expected.sizes.sum().item()
        if gradient is None:
            continue
        wanted = expected.gradient / divisor
        off = (gradient[start:end].double() * scale - wanted).abs()
        budget = tolerance.gradient_budget(
            case.dtype,
            case.classes,
            probability=expected.probability,
            pulled=expected.pulled,
            smoothing_share=smoothing_share,
            size=expected.sizes.unsqueeze(1),
            divisor=divisor,
        )
        smallest = tolerance.SMALLEST[case.dtype]
        larger("abs", off)
        larger("budgets", off / budget)
        counted = targets != IGNORE_INDEX
        largest = wanted.abs().amax(1).clamp(min=smallest)
        larger("rel", (off.amax(1) / largest)[counted])
        at = targets[counted].unsqueeze(1)
        of_target = wanted[counted].gather(1, at).abs().clamp(min=smallest)
        larger("target", off[counted].gather(1, at) / of_target)

    if loss is not None:
        wanted_loss = loss_sum / divisor
        distance.loss_abs = abs(loss.double().item() * scale - wanted_loss)
        distance.loss_rel = distance.loss_abs / tolerance.representable("f32", wanted_loss)
        budget = tolerance.loss_budget(case.dtype, case.classes, case.rows, wanted_loss, size_sum / case.rows)
        distance.loss_budgets = distance.loss_abs / budget
    if gradient is not None:
        distance.gradient_abs, distance.gradient_rel = worst["abs"], worst["rel"]
        distance.target_gradient_rel, distance.gradient_budgets = worst["target"], worst["budgets"]
    return distance
