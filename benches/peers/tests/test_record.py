from __future__ import annotations

import csv
import tempfile
import unittest
from pathlib import Path

from peers import record, summary
from peers.budget import Budget, Progress
from peers.record import Accuracy, Head, Quantiles, Speed, Writer


def speed(implementation, p50, verdict=record.RIGHT, **others):
    made = Speed(
        implementation,
        verdict=verdict,
        rows=8,
        classes=10,
        dtype="bf16",
        pass_="fused",
        place="apart",
        variant="plain",
        label_smoothing=0.1,
        bytes=1000,
        copy_bytes=900,
        **others,
    )
    if p50 is not None:
        made.set_times(Quantiles(p50 - 1, p50, p50 + 1), Quantiles(1, 2, 3))
    return made


class Statistics(unittest.TestCase):
    def test_quantiles_are_those_of_the_rust_benchmark(self):
        self.assertEqual(Quantiles.of([7, 1, 3, 5, 9, 2, 8]), Quantiles(2, 5, 7))
        self.assertEqual(Quantiles.of([4.0]), Quantiles(4, 4, 4))
        self.assertEqual(Quantiles.of(range(25)), Quantiles(4, 12, 19))

    def test_speed_and_share(self):
        made = speed("a", 4.0)
        self.assertAlmostEqual(made.gb_per_s, 0.25)
        self.assertAlmostEqual(made.share_of_copy, 0.25 / 0.45)


class Files(unittest.TestCase):
    def lines(self, columns, *records):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.csv")
            with Writer(str(path), columns) as writer:
                for each in records:
                    writer.write(each)
            with open(path, newline="") as file:
                return list(csv.DictReader(file))

    def test_speed(self):
        measured = speed("smoothxent", 4.0, note='a, "b"', sm_mhz=1980, throttle="0x0", peak_bytes=5)
        timed, untimed = self.lines(record.SPEED_COLUMNS, measured, speed("liger", None, record.NOT_MEASURED))
        self.assertEqual(list(timed), record.SPEED_COLUMNS)
        self.assertEqual(timed["pass"], "fused")
        self.assertEqual(timed["note"], 'a, "b"')
        self.assertEqual((timed["p20_us"], timed["p50_us"]), ("3.000", "4.000"))
        self.assertEqual(timed["label_smoothing"], "0.1")
        for column in ("p50_us", "gb_per_s", "share_of_copy", "peak_bytes", "sm_mhz", "copy_p50_us"):
            self.assertEqual(untimed[column], "")

    def test_others_have_their_columns(self):
        (line,) = self.lines(record.ACCURACY_COLUMNS, Accuracy("jax", loss_rel=1.23456e-7, inputs="gap5"))
        self.assertEqual(line["loss_rel"], "1.235e-07")
        (line,) = self.lines(record.HEAD_COLUMNS, Head("jax", tokens=3, p50_us=1.5))
        self.assertEqual((line["tokens"], line["p50_us"], line["verdict"]), ("3", "1.500", "not_measured"))

    def test_no_path_no_file(self):
        Writer(None, ["a"]).write(speed("a", 1.0))

    def test_errors_take_one_short_line(self):
        self.assertEqual(record.one_line(ValueError("\n a \n b")), "ValueError: a")
        self.assertEqual(record.one_line(ValueError()), "ValueError")
        self.assertEqual(record.one_line(ValueError("\x1b[91m\x1b[1mno\x1b[0m IR")), "ValueError: no IR")
        self.assertLessEqual(len(record.one_line(ValueError("x" * 999))), 160)


class Tables(unittest.TestCase):
    def test_fastest_peer_is_right(self):
        records = [
            speed("copy", 1.0),
            speed("smoothxent", 4.0),
            speed("liger", 2.0, record.WRONG),
            speed("jax", 8.0),
        ]
        self.assertEqual(summary.fastest_peer(records).implementation, "jax")
        self.assertEqual(summary.fastest_peer(records[:3]).implementation, "liger")
        self.assertIsNone(summary.fastest_peer(records[:2]))

    def test_speed_lines(self):
        lines = summary.speed_lines([speed("smoothxent", 4.0), speed("jax", 8.0), speed("torch_eager", 40.0)])
        self.assertIn("8 x 10 bf16 fused 0.1", lines[1])
        self.assertEqual(lines[1].split()[-3:], ["8.00", "2.00", "10.00"])
        self.assertEqual(lines[2], "slower than a peer in 0 of 1 cases")
        lines = summary.speed_lines([speed("smoothxent", 4.0), speed("jax", 3.0)])
        self.assertEqual(
            lines[2:],
            [
                "slower than a peer in 1 of 1 cases:",
                "    8 x 10 bf16 fused 0.1: jax takes 0.750 of its time",
            ],
        )

    def test_without_smoothxent_nothing_is_compared(self):
        lines = summary.speed_lines([speed("smoothxent", None, record.NOT_MEASURED), speed("jax", 3.0)])
        self.assertIn("jax", lines[1])
        self.assertEqual(lines[2], "slower than a peer in 0 of 0 cases")

    def test_a_rehearsal_is_never_shown_as_measured(self):
        lines = summary.speed_lines(
            [
                speed("torch_eager", None, record.REHEARSAL),
                speed("jax", None, record.REHEARSAL, note=record.DISAGREES + "loss off by 3"),
            ]
        )
        self.assertEqual(
            lines[0], "rehearsal: 1 results agree with the reference, 1 do not; nothing was timed"
        )
        self.assertIn("loss off by 3", lines[1])

    def test_reasons_come_once(self):
        missing = [speed("apex", None, record.NOT_MEASURED, note="not installed") for _ in range(3)]
        partly = [speed("jax", 2.0), speed("jax", None, record.NOT_MEASURED, note="cannot: no x")]
        self.assertEqual(
            summary.absent_lines([*missing, *partly]),
            [
                "not measured: apex: not installed",
                "not measured in 1 of 2 cases: jax: cannot: no x",
            ],
        )

    def test_long_lists_are_cut(self):
        lines = summary.left_out_lines(list(range(100)))
        self.assertEqual(len(lines), summary.SHOWN + 2)
        self.assertEqual(lines[-1], "    and 88 more")
        self.assertEqual(summary.left_out_lines([]), ["left out for time: nothing"])

    def test_accuracy_lines_mark_what_is_wrong(self):
        records = [
            Accuracy("jax", verdict=record.WRONG, dtype="f16", inputs="random", loss_rel=float("inf")),
            Accuracy("jax", verdict=record.RIGHT, dtype="f16", inputs="gap20", target_gradient_rel=0.5),
        ]
        lines = summary.accuracy_lines(records)
        self.assertEqual(len(lines), 2)
        self.assertIn("inf!", lines[1])
        self.assertIn("5e-01", lines[1])

    def test_head_lines(self):
        lines = summary.head_lines(
            [
                Head("smoothxent", verdict=record.RIGHT, p50_us=2000.0, peak_bytes=2_000_000_000),
                Head("torch_eager", verdict=record.RIGHT, p50_us=3000.0),
            ]
        )
        self.assertEqual(lines[1].split(), ["smoothxent", "2.000", "1.50", "2.00"])
        self.assertEqual(lines[2].split(), ["torch_eager", "3.000", "1.00", "-"])


class Time(unittest.TestCase):
    def test_no_case_begins_that_may_not_end(self):
        budget = Budget(100.0)
        self.assertTrue(budget.allows())
        budget.took(99.0)
        self.assertTrue(budget.allows())
        self.assertFalse(budget.allows(0.5))
        budget.took(101.0)
        self.assertFalse(budget.allows())
        budget.forget()
        self.assertTrue(budget.allows())
        self.assertTrue(Budget(None).allows())

    def test_progress_says_how_far_and_how_long(self):
        progress = Progress("speed", 3)
        self.assertEqual(progress.line("a", "fine", 10.0), "[speed 1/3, about 20 s left] a: fine")
        self.assertEqual(progress.line("b", "fine", 600.0), "[speed 2/3, about 5 min left] b: fine")
        self.assertEqual(progress.line("c", "fine", 5.0), "[speed 3/3, last] c: fine")


if __name__ == "__main__":
    unittest.main()
