from __future__ import annotations

import math
import unittest
from unittest import mock

from .needs import needs_torch, torch

if torch is not None:
    import torch.nn.functional as F

    from peers import reference
    from peers.cases import IGNORE_INDEX, INPUTS, VARIANTS, Case
    from peers.data import Data, sets_of
    from peers.machine import Clocks

    CPU = torch.device("cpu")


@needs_torch
class ClosedForms(unittest.TestCase):
    def rows(self, logits, targets, smoothing=0.0, weights=None):
        weights = None if weights is None else torch.tensor(weights)
        return reference.rows(torch.tensor(logits), torch.tensor(targets), weights, smoothing)

    def test_two_classes(self):
        found = self.rows([[0.0, math.log(3.0)]], [0])
        self.assertAlmostEqual(found.losses.item(), math.log(4.0), places=6)
        self.assertAlmostEqual(found.gradient[0, 0].item(), -0.75, places=6)
        self.assertAlmostEqual(found.gradient[0, 1].item(), 0.75, places=6)

    def test_even_logits(self):
        for smoothing in (0.0, 0.1, 1.0):
            found = self.rows([[2.0] * 5], [3], smoothing)
            self.assertAlmostEqual(found.losses.item(), math.log(5.0), places=12)
            expected = [0.2 - smoothing / 5 - (1 - smoothing) * (k == 3) for k in range(5)]
            for value, wanted in zip(found.gradient[0].tolist(), expected):
                self.assertAlmostEqual(value, wanted, places=12)

    def test_confident_rows_keep_every_digit(self):
        for gap in (5.0, 20.0, 50.0, 300.0):
            found = self.rows([[gap, 0.0]], [0])
            rest = math.exp(-gap) / (1 + math.exp(-gap))
            self.assertAlmostEqual(found.gradient[0, 0].item() / -rest, 1.0, places=12)
            self.assertAlmostEqual(found.losses.item() / math.log1p(math.exp(-gap)), 1.0, places=12)

    def test_one_class(self):
        found = self.rows([[3.0]], [0], 0.1)
        self.assertEqual((found.losses.item(), found.gradient.item()), (0.0, 0.0))

    def test_ignored_rows_are_zero(self):
        found = self.rows([[1.0, 2.0], [float("nan"), 0.0]], [0, IGNORE_INDEX], 0.1)
        self.assertEqual(found.losses[1].item(), 0.0)
        self.assertEqual(found.gradient[1].tolist(), [0.0, 0.0])

    def test_weights(self):
        found = self.rows([[0.0, 0.0]], [1], 0.5, [1.0, 3.0])
        # 0.5 * 3 * ln 2 + 0.25 * (1 + 3) * ln 2
        self.assertAlmostEqual(found.losses.item(), 2.5 * math.log(2.0), places=12)
        self.assertAlmostEqual(found.gradient[0, 0].item(), 2.5 / 2 - 0.25, places=12)
        self.assertAlmostEqual(found.gradient[0, 1].item(), 2.5 / 2 - 1.5 - 0.75, places=12)

    def test_gradient_is_that_of_the_loss(self):
        """Against autograd in f64."""
        generator = torch.Generator().manual_seed(2)
        logits = torch.randn(7, 13, generator=generator, dtype=torch.float64).requires_grad_()
        targets = torch.tensor([0, 12, IGNORE_INDEX, 3, 3, 7, 1])
        for weights in (None, torch.rand(13, generator=generator, dtype=torch.float64)):
            for smoothing in (0.0, 0.3):
                loss = F.cross_entropy(
                    logits, targets, weight=weights, label_smoothing=smoothing, reduction="sum"
                )
                (gradient,) = torch.autograd.grad(loss, logits)
                found = reference.rows(logits.detach(), targets, weights, smoothing)
                self.assertAlmostEqual(found.losses.sum().item(), loss.item(), places=10)
                self.assertLess((found.gradient - gradient).abs().max().item(), 1e-13)


@needs_torch
class Comparison(unittest.TestCase):
    def case(self, **changes):
        return Data(Case(20, 30, **{"dtype": "f32", **changes}), CPU, 2)

    def exact(self, data, number=1):
        rows = reference.rows(
            data.logits[number], data.targets[number], data.weights, data.case.label_smoothing
        )
        return rows.losses.sum() / data.divisor(), rows.gradient / data.divisor()

    def test_the_reference_is_right_in_every_variant(self):
        for variant in VARIANTS:
            data = self.case(variant=variant)
            distance = reference.compare(data, 1, *self.exact(data))
            with self.subTest(variant):
                self.assertTrue(distance.right)
                self.assertLess(distance.gradient_abs, 1e-15)

    def test_faults_are_wrong(self):
        for dtype in ("f32", "bf16", "f16"):
            data = self.case(dtype=dtype, variant="ignored30")
            loss, gradient = self.exact(data)
            shifted = gradient.roll(1, dims=1)
            poisoned = gradient.clone()
            poisoned[3, 7] = float("nan")
            faults = {
                "normaliser": (loss * 0.7, gradient * 0.7),
                "loss": (loss * 0.9, gradient),
                "target": (loss, shifted),
                "NaN": (loss, poisoned),
                "infinite": (loss * float("inf"), gradient),
                "zero": (loss, gradient * 0),
            }
            for what, result in faults.items():
                with self.subTest(f"{dtype} {what}"):
                    distance = reference.compare(data, 1, *result)
                    self.assertFalse(distance.right)
                    self.assertTrue(distance.complaint())

    def test_parts_and_sums(self):
        data = self.case()
        loss, gradient = self.exact(data)
        alone = reference.compare(data, 1, loss, None)
        self.assertTrue(alone.right and alone.gradient_abs is None)
        alone = reference.compare(data, 1, None, gradient)
        self.assertTrue(alone.right and alone.loss_abs is None)
        rows = data.divisor()
        self.assertTrue(reference.compare(data, 1, loss * rows, gradient * rows, divided=False).right)

    def test_nan_stays_the_worst(self):
        data = self.case()
        gradient = torch.zeros(20, 30)
        gradient[0, 0] = float("nan")
        with mock.patch("peers.data.CHUNK_ELEMENTS", 60):
            distance = reference.compare(data, 0, None, gradient)
        self.assertTrue(math.isnan(distance.gradient_abs))


@needs_torch
class Buffers(unittest.TestCase):
    def test_what_was_written_over_comes_back(self):
        for variant in VARIANTS:
            data = Data(Case(20, 30, "bf16", variant=variant), CPU, 2)
            before = [logits.clone() for logits in data.logits]
            data.logits[1].zero_()
            self.assertTrue(data.is_fresh(0))
            self.assertFalse(data.is_fresh(1))
            data.refill()
            for logits, was in zip(data.logits, before):
                self.assertTrue(torch.equal(logits, was))

    def test_layout(self):
        data = Data(Case(20, 30, "bf16", variant="misaligned"), CPU, 3)
        for logits, flat in zip(data.logits, data.flat):
            self.assertEqual(logits.data_ptr(), flat.data_ptr() + 2)
        data = Data(Case(20, 30, "bf16", variant="padded"), CPU, 3)
        self.assertEqual(data.logits[0].stride(), (64, 1))
        addresses = {data.flat[0].data_ptr() - flat.data_ptr() for flat in data.flat}
        self.assertTrue(all(address % 256 == 0 for address in addresses))

    def test_gaps_are_what_they_are_called(self):
        for inputs in INPUTS[1:]:
            case = Case(20, 300, "f32", inputs=inputs, label_smoothing=0.0)
            data = Data(case, CPU, 1)
            losses = reference.rows(data.logits[0], data.targets[0], None, 0.0).losses
            gap = float(inputs[3:])
            for loss in losses.tolist():
                self.assertAlmostEqual(loss / math.log1p(math.exp(-gap)), 1.0, places=3)

    def test_sets_are_four_caches_in_all(self):
        case = Case(1024, 1024, "f32")
        self.assertEqual(sets_of(case, 50 << 20), 25)
        self.assertEqual(sets_of(Case(1, 1, "f32"), 50 << 20), 256)
        self.assertEqual(sets_of(Case(8192, 128_256, "f32"), 50 << 20), 1)


@needs_torch
class ClocksOfNvidiaSmi(unittest.TestCase):
    def test_parse(self):
        self.assertEqual(Clocks.parse("1980, 2619, 0x0000000000000005"), Clocks(1980, 2619, 4))
        for line in ("", "[N/A], 1, 0x0", "1980, 2619", "error"):
            self.assertEqual(Clocks.parse(line), Clocks())

    def test_reasons_before_and_after_count(self):
        before, after = Clocks(1980, 2619, 4), Clocks(1500, 2619, 8)
        self.assertEqual(before.until(after), Clocks(1500, 2619, 12))
        self.assertEqual(before.change(after), "SM clock 1980 MHz before and 1500 MHz after")
        self.assertEqual(before.change(before), "")
        self.assertEqual(Clocks().change(after), "")


if __name__ == "__main__":
    unittest.main()
