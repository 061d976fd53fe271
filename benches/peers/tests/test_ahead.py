"""Compiling ahead, without a compiler."""

from __future__ import annotations

import os
import sys
import unittest
from pathlib import Path
from unittest import mock

from peers import ahead
from peers.cases import Case, accuracy_cases

from .needs import needs_torch

CASES = [Case(7, 30, "bf16"), Case(7, 31, "bf16")]


def compile_all(names, processes=2, seconds=600.0):
    """What came of each case."""
    outcomes = {}
    with ahead.own_caches():
        ahead.compile_ahead(CASES, names, True, processes, seconds, outcomes.__setitem__)
    return outcomes


class Chosen(unittest.TestCase):
    def test_logits_that_differ_in_values_are_compiled_once(self):
        found = ahead.distinct(accuracy_cases([0.0, 0.1]))
        self.assertEqual(len(found), 2 * 3)
        self.assertEqual({case.inputs for case in found}, {"random"})

    def test_processes_have_processors_and_memory(self):
        case = Case(8192, 32_000, "bf16")
        for processors, cases, device_bytes, expected in (
            (16, 20, None, 8),
            (64, 20, None, ahead.MAX_PROCESSES),
            (16, 3, None, 3),
            (1, 20, None, 0),
            (16, 20, 24 << 30, 4),
            (16, 20, 1 << 30, 0),
        ):
            with mock.patch("os.cpu_count", return_value=processors):
                self.assertEqual(ahead.processes_for([case] * cases, device_bytes), expected)


class Caches(unittest.TestCase):
    def test_they_are_of_one_run(self):
        with mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": "/mine"}):
            os.environ.pop("QUACK_CACHE_DIR", None)
            with ahead.own_caches():
                folders = [Path(os.environ[name]) for name in ahead.CACHES]
                self.assertEqual(len(set(folders)), len(ahead.CACHES))
                folders[0].mkdir()
            self.assertEqual(os.environ["TRITON_CACHE_DIR"], "/mine")
            self.assertNotIn("QUACK_CACHE_DIR", os.environ)
            self.assertFalse(folders[0].parent.exists())

    def test_what_was_tuned_is_forgotten_and_what_was_compiled_is_not(self):
        with ahead.own_caches():
            folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "ab")
            folder.mkdir(parents=True)
            for name in ("kernel.py", "kernel.best_config"):
                (folder / name).touch()
            ahead.forget_what_was_tuned()
            self.assertEqual([file.name for file in folder.iterdir()], ["kernel.py"])


class Processes(unittest.TestCase):
    def test_a_process_that_cannot_begin_is_told_of_and_ends_nothing(self):
        # Processes get the path of the one that begins them, and torch.py there fails.
        with mock.patch.object(sys, "path", [str(Path(__file__).parent / "without_torch"), *sys.path]):
            outcomes = compile_all(["torch_eager"])
        self.assertEqual(set(outcomes), set(CASES))
        for outcome in outcomes.values():
            self.assertIn("BrokenProcessPool", outcome)

    def test_there_is_an_end_to_it(self):
        self.assertEqual(compile_all(["torch_eager"], seconds=0.0), {})

    @needs_torch
    def test_each_case_is_told_of(self):
        # Which compiles nothing.
        self.assertEqual(compile_all(["torch_eager"]), {case: "" for case in CASES})
