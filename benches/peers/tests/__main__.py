"""Runs the tests and reports as Rust's test programs do, so that `cargo xtask test` can count them."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


class Report(unittest.TestResult):
    def startTestRun(self) -> None:
        self.passed = 0

    def _line(self, test: unittest.TestCase, outcome: str) -> None:
        # peers.tests.test_cases.Shapes.test_parse
        print(f"test {'.'.join(test.id().split('.')[2:])} ... {outcome}", flush=True)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.passed += 1
        self._line(test, "ok")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._line(test, f"ignored, {reason}")

    def addFailure(self, test, error) -> None:
        super().addFailure(test, error)
        self._line(test, "FAILED")

    def addError(self, test, error) -> None:
        super().addError(test, error)
        self._line(test, "FAILED")


def main(filters: list) -> int:
    sys.path.insert(0, str(FOLDER.parents[1]))
    suite = unittest.TestLoader().discover(str(FOLDER), top_level_dir=str(FOLDER.parents[1]))
    chosen = unittest.TestSuite(test for test in _each(suite) if all(word in test.id() for word in filters))
    print(f"running {chosen.countTestCases()} tests")
    report = Report()
    chosen.run(_started(report))
    faults = report.failures + report.errors
    if faults:
        print("\nfailures:")
    for test, trace in faults:
        print(f"---- {test} ----\n{trace}")
    verdict = "FAILED" if faults else "ok"
    skipped = len(report.skipped)
    print(f"test result: {verdict}. {report.passed} passed; {len(faults)} failed; {skipped} ignored")
    return 1 if faults else 0


def _started(report: Report) -> Report:
    report.startTestRun()
    return report


def _each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _each(test)
        else:
            yield test


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
