"""Whole runs: without torch, without a device, rehearsed, and on something that stands in for one."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from peers import cases, record
from peers.command import PEERS, main

from .needs import needs_torch, torch

PROGRAM = Path(__file__).resolve().parents[2] / "peers.py"

if torch is not None:
    from peers import contenders, implementations, speed, timing
    from peers.implementations.base import Implementation, Prepared

    from . import stand_in


def lines_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments):
    """Status, output, and the lines of the three files."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder, name)) for name in ("csv", "accuracy-csv", "head-csv")}
        # A file for the head asks for it.
        wanted = [name for name in files if name != "head-csv" or any("head" in each for each in arguments)]
        options = [part for name in wanted for part in (f"--{name}", files[name])]
        output = io.StringIO()
        with redirect_stdout(output):
            status = main([*arguments, *options])
        found = {name: lines_of(path) if Path(path).exists() else [] for name, path in files.items()}
    return status, output.getvalue(), found


class CommandLine(unittest.TestCase):
    def program(self, *arguments):
        return subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True)

    def test_help_needs_nothing(self):
        answer = self.program("--help")
        self.assertEqual(answer.returncode, 0)
        self.assertIn("--budget-seconds", answer.stdout)

    def test_nonsense_is_refused(self):
        for arguments in (
            ["--peers", "x"],
            ["--shapes", "8"],
            ["--passes", "x"],
            ["--smoothing", "2"],
            ["--compile-processes", "-1"],
        ):
            answer = self.program(*arguments)
            self.assertEqual(answer.returncode, 2, answer.stderr)
            self.assertNotIn("Traceback", answer.stderr)

    def test_without_a_device_one_line_says_what_to_do(self):
        if torch is not None and torch.cuda.is_available():
            self.skipTest("there is a GPU")
        answer = self.program()
        self.assertEqual(answer.returncode, 1)
        self.assertEqual(len(answer.stderr.strip().splitlines()), 1, answer.stderr)
        self.assertIn("pip install" if torch is None else "--rehearse", answer.stderr)
        self.assertEqual(answer.stdout, "")


@needs_torch
class Rehearsal(unittest.TestCase):
    def test_everything_that_needs_no_device(self):
        status, output, found = run(
            "--rehearse",
            "--head",
            "--peers",
            "torch_eager,smoothxent,apex",
            "--passes",
            "all",
            "--variants",
            "all",
        )
        self.assertEqual(status, 0, output)
        lines = found["csv"]
        names = {line["implementation"] for line in lines}
        self.assertEqual(names, {"torch_eager", "smoothxent", "apex", "copy"})
        number = len(cases.REHEARSAL_GRID) * len(cases.PASSES) * len(cases.VARIANTS) * 2
        self.assertEqual(len(lines), 4 * number)
        for line in lines:
            self.assertIn(line["verdict"], (record.REHEARSAL, record.NOT_MEASURED))
            self.assertEqual((line["p50_us"], line["gb_per_s"], line["copy_p50_us"]), ("", "", ""))
            # PyTorch's smoothing term overflows in f16.
            if record.DISAGREES in line["note"]:
                self.assertEqual((line["dtype"], line["label_smoothing"]), ("f16", "0.1"), line["note"])
        eager = [line for line in lines if line["implementation"] == "torch_eager"]
        self.assertIn("cannot: no gradient in place", {line["note"] for line in eager})
        self.assertEqual(
            {line["verdict"] for line in found["head-csv"] if line["implementation"] == "torch_eager"},
            {record.REHEARSAL},
        )
        self.assertEqual({line["inputs"] for line in found["accuracy-csv"]}, set(cases.INPUTS))
        self.assertIn("nothing was timed", output)


@needs_torch
class OnAStandIn(unittest.TestCase):
    def run_on_stand_in(self, *arguments, small=True):
        shortly = mock.patch("peers.timing.BATCH_MICROSECONDS", 1.0)
        below = mock.patch("peers.timing.GRAPH_BELOW_MICROSECONDS", 1e9 if small else 0.0)
        with stand_in.device(), stand_in.module(), shortly, below:
            return run("--quick", "--peers", "smoothxent,torch_eager", *arguments)

    def run_shapes(self, shapes, *arguments, small=True):
        """Times of both passes together, without label smoothing."""
        options = ("--measure", "speed", "--shapes", shapes, "--passes", "fused", "--smoothing", "0")
        return self.run_on_stand_in(*options, *arguments, small=small)

    def test_speed(self):
        shapes = "43x30:bf16,3x250:f32"
        with mock.patch.object(stand_in.Library.kernels, "statuses", 0):
            status, output, found = self.run_on_stand_in(
                "--measure",
                "speed",
                "--shapes",
                shapes,
                "--passes",
                "all",
                "--variants",
                "all",
                "--smoothing",
                "0.1",
            )
            statuses = stand_in.Library.kernels.statuses
        self.assertEqual(status, 0, output)
        lines = found["csv"]
        self.assertEqual(len(lines), 3 * 2 * 4 * 6)
        own = [line for line in lines if line["implementation"] == "smoothxent"]
        self.assertEqual(statuses, len(own))
        for line in own:
            self.assertEqual((line["verdict"], line["note"]), (record.RIGHT, ""), line)
            self.assertEqual(
                (line["method"], line["version"], line["device"]), ("graph", "0.0.0", "Stand-in")
            )
            self.assertGreater(float(line["p50_us"]), 0)
            self.assertGreaterEqual(float(line["p80_us"]), float(line["p20_us"]))
            self.assertGreater(float(line["share_of_copy"]), 0)
            self.assertGreater(int(line["peak_bytes"]), 2000)
            self.assertEqual(line["l2"], "cold")
        copies = [line for line in lines if line["implementation"] == "copy"]
        self.assertEqual({line["verdict"] for line in copies}, {"right"})
        self.assertEqual({line["share_of_copy"] for line in copies}, {"1.0000"}, "of itself")
        self.assertIn("slower than a peer in", output)

    def test_accuracy_and_head(self):
        with mock.patch("peers.cases.ACCURACY_CLASSES", 100):
            status, output, found = self.run_on_stand_in(
                "--measure",
                "accuracy,head",
                "--head-tokens",
                "30",
                "--head-hidden",
                "16",
                "--head-classes",
                "50",
            )
        self.assertEqual(status, 0, output)
        own = [line for line in found["accuracy-csv"] if line["implementation"] == "smoothxent"]
        self.assertEqual({line["verdict"] for line in own}, {record.RIGHT})
        # Half an ulp of bf16, but for the f32 loss.
        self.assertTrue(all(float(line["target_gradient_rel"]) <= 2.0**-8 for line in own), own)
        self.assertTrue(all(float(line["loss_rel"]) <= 2.0**-24 for line in own), own)
        heads = {line["implementation"]: line for line in found["head-csv"]}
        for name in ("smoothxent", "torch_eager"):
            self.assertEqual(heads[name]["verdict"], record.RIGHT, heads[name])
            self.assertGreater(float(heads[name]["p50_us"]), 0)

    def test_what_was_left_out_is_named(self):
        status, output, found = self.run_on_stand_in("--measure", "speed", "--budget-seconds", "0")
        self.assertEqual((status, found["csv"]), (0, []))
        self.assertIn("left out for time, 12 cases:", output)

    def test_who_makes_the_device_wait_is_not_compared(self):
        for waits, method in ((False, timing.STREAM), (True, record.HOST)):
            with mock.patch.object(stand_in.Event, "query", lambda event, waits=waits: waits):
                status, output, found = self.run_shapes("9x7:f32", small=False)
            self.assertEqual(status, 0, output)
            self.assertEqual({line["method"] for line in found["csv"]}, {method})
            for line in found["csv"]:
                self.assertEqual("waited for the host" in line["note"], waits, line)
            self.assertIn(f" of {0 if waits else 1} cases", output)

    def test_a_stopped_run_keeps_what_is_known(self):
        class Stops(Implementation):
            name = "apex"

            def prepare(self, case, data):
                if case.classes == 8:
                    raise KeyboardInterrupt
                return Prepared(lambda number: (torch.tensor(3.0), data.gradients[number]))

        with mock.patch.object(contenders, "every", lambda: [*implementations.every()[:1], Stops()]):
            status, output, found = self.run_shapes("9x7:f32,9x8:f32,9x9:f32", "--peers", "smoothxent,apex")
        self.assertEqual(status, 130)
        self.assertEqual({line["classes"] for line in found["csv"]}, {"7"})
        self.assertIn("ended early: stopped", output)
        self.assertIn("left out for time, 2 cases:\n    speed: 9 x 8 f32 fused smoothing 0\n", output)

    def test_a_case_that_cannot_begin_stops_nothing_else(self):
        real = speed.SpeedRun._data

        def data(run, case):
            if case.classes == 8:
                raise RuntimeError("no room")
            return real(run, case)

        with mock.patch.object(speed.SpeedRun, "_data", data):
            status, output, found = self.run_shapes("9x8:f32,9x9:f32")
        self.assertEqual(status, 0, output)
        self.assertEqual({line["classes"] for line in found["csv"]}, {"9"})
        self.assertIn(
            "could not be measured: speed: 9 x 8 f32 fused smoothing 0: RuntimeError: no room", output
        )

    def test_files_that_cannot_be_written_are_named_before_anything_is_measured(self):
        errors = io.StringIO()
        with stand_in.device(), stand_in.module(), redirect_stderr(errors):
            status = main(["--quick", "--csv", "/no/such/folder/peers.csv"])
        self.assertEqual(status, 1)
        self.assertEqual(len(errors.getvalue().strip().splitlines()), 1)
        self.assertIn("/no/such/folder/peers.csv", errors.getvalue())

    def test_only_what_is_not_there_is_not_installed(self):
        def found(error):
            class Absent(Implementation):
                name, install, packages = "apex", "pip install it", ("apex",)

                def load(self, device):
                    raise error

            with mock.patch.object(contenders, "every", lambda: [Absent()]):
                machine = contenders.Machine(rehearsal=True)
                return contenders.load(["apex"], machine).absent["apex"]

        missing = ModuleNotFoundError("No module named 'apex'", name="apex")
        self.assertTrue(found(missing).startswith("not installed: "))
        for error in (
            ModuleNotFoundError("No module named 'xentropy_cuda'", name="xentropy_cuda"),
            ImportError("cannot import name 'x'", name="apex"),
            OSError("undefined symbol"),
        ):
            self.assertTrue(found(error).startswith("cannot be loaded: "), error)

    def test_faults_are_named_and_nothing_else_stops(self):
        class Faulty(Implementation):
            name = "apex"

            def prepare(self, case, data):
                if case.classes == 7:
                    raise RuntimeError("first line\nsecond line")
                if case.classes == 8:
                    return Prepared(lambda number: (torch.tensor(3.0), data.gradients[number]))
                calls = iter(range(4))
                return Prepared(lambda number: (next(calls), torch.tensor(3.0), data.gradients[number])[1:])

        with mock.patch.object(contenders, "every", lambda: [*implementations.every()[:2], Faulty()]):
            status, output, found = self.run_shapes(
                "9x7:f32,9x8:f32,9x9:f32", "--peers", "smoothxent,torch_eager,apex"
            )
        self.assertEqual(status, 0, output)
        raised, wrong, stopped = [line for line in found["csv"] if line["implementation"] == "apex"]
        self.assertEqual((raised["verdict"], raised["note"]), ("not_measured", "RuntimeError: first line"))
        self.assertEqual(wrong["verdict"], "wrong")
        self.assertIn("loss off by", wrong["note"])
        self.assertNotEqual(wrong["p50_us"], "")
        self.assertEqual((stopped["verdict"], stopped["p50_us"]), ("not_measured", ""))
        others = [line for line in found["csv"] if line["implementation"] == "smoothxent"]
        self.assertEqual([line["verdict"] for line in others], ["right"] * 3)
        self.assertIn("WRONG: apex: 9 x 8 f32 fused 0", output)

    def test_a_wrong_result_of_smoothxents_fails(self):
        with mock.patch.object(stand_in.Kernels, "_run", lambda *arguments, **options: None):
            status, output, found = self.run_on_stand_in("--measure", "speed", "--shapes", "9x7:f32")
        self.assertEqual(status, 1)
        own = [line["verdict"] for line in found["csv"] if line["implementation"] == "smoothxent"]
        self.assertEqual(set(own), {record.WRONG})
        self.assertIn("WRONG: smoothxent: 9 x 7 f32", output)

    def test_a_lost_device_ends_the_run_with_what_is_known(self):
        synchronize = mock.Mock(side_effect=[None] * 3 + [RuntimeError("context lost")] * 99)
        with stand_in.device(), stand_in.module(), mock.patch.object(torch.cuda, "synchronize", synchronize):
            status, output, found = run(
                "--quick", "--measure", "speed", "--shapes", "9x7:f32", "--peers", "smoothxent,torch_eager"
            )
        self.assertEqual(status, 1)
        self.assertIn("the device was lost", output)
        self.assertIn("--- summary", output)

    def test_the_fastest_mode_counts(self):
        def contender(mode, p50, verdict=record.RIGHT, note=""):
            implementation = Implementation()
            implementation.name, implementation.mode = "quack", mode
            made = speed.Contender(implementation, record.Speed("quack", verdict=verdict, note=note))
            made.record.p50_us = p50
            return made

        (best,) = speed.fastest_modes([contender("a", 5.0), contender("b", 4.0)])
        self.assertEqual((best.p50_us, best.note), (4.0, "b; a: 5.000 us"))
        (best,) = speed.fastest_modes([contender("a", 5.0), contender("b", 4.0, record.WRONG, "off")])
        self.assertEqual((best.p50_us, best.note), (5.0, "a; b: 4.000 us off"))
        missing = [contender(mode, None, record.NOT_MEASURED, "not installed") for mode in "ab"]
        (best,) = speed.fastest_modes(missing)
        self.assertEqual(best.note, "not installed")


@needs_torch
class Names(unittest.TestCase):
    def test_the_command_line_knows_every_implementation(self):
        self.assertEqual([*PEERS, "copy"], implementations.NAMES)


if __name__ == "__main__":
    unittest.main()
