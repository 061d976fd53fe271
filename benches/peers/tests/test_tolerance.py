from __future__ import annotations

import unittest

from peers import tolerance


def of_element(dtype, **changes):
    values = dict(probability=0.25, pulled=0.0, smoothing_share=0.0, size=10.0, divisor=1.0)
    values.update(changes)
    return tolerance.gradient_budget(dtype, 1000, **values)


class Budgets(unittest.TestCase):
    def test_dtypes_are_ordered(self):
        budgets = [of_element(dtype) for dtype in ("f32", "f16", "bf16")]
        self.assertEqual(budgets, sorted(budgets))
        losses = [tolerance.loss_budget(dtype, 1000, 64, 7.0, 15.0) for dtype in ("f32", "f16", "bf16")]
        self.assertEqual(losses, sorted(losses))

    def test_one_rounding_of_the_result_fits(self):
        for dtype in tolerance.HALF_ULP:
            for probability in (1.0, 1e-3, 1e-6, 0.0):
                rounding = max(probability * tolerance.HALF_ULP[dtype], tolerance.SMALLEST[dtype] / 2)
                self.assertGreater(of_element(dtype, probability=probability), rounding)

    def test_another_normaliser_does_not_fit(self):
        """Ignored rows that are counted make it 30 % less."""
        for dtype in tolerance.HALF_ULP:
            self.assertLess(of_element(dtype), 0.3 * 0.25)
            self.assertLess(of_element(dtype, probability=0.0, pulled=0.9), 0.3 * 0.9)
            self.assertLess(tolerance.loss_budget(dtype, 1000, 64, 7.0, 15.0), 0.3 * 7.0)

    def test_no_smoothing_does_not_fit(self):
        """The target is pulled by 1 instead of 0.9."""
        for dtype in tolerance.HALF_ULP:
            self.assertLess(of_element(dtype, probability=1e-3, pulled=0.9), 0.1)

    def test_budgets_are_divided(self):
        self.assertAlmostEqual(of_element("f32", divisor=8.0), of_element("f32") / 8)

    def test_underflow_is_no_more_than_the_whole_smoothing_term(self):
        plain = of_element("f16", divisor=8192.0)
        smoothed = of_element("f16", divisor=8192.0, smoothing_share=0.1)
        self.assertAlmostEqual(smoothed - plain, 0.25 * 0.1 / 8192)
        many = of_element("f16", divisor=1.0, smoothing_share=0.1) - of_element("f16")
        self.assertAlmostEqual(many, 0.25 * 1000 * tolerance.SMALLEST["f16"])

    def test_what_relative_errors_are_relative_to(self):
        self.assertEqual(tolerance.representable("f16", -3.0), 3.0)
        self.assertEqual(tolerance.representable("f16", 1e-9), 2.0**-24)


if __name__ == "__main__":
    unittest.main()
