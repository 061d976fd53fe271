"""Time that is left, for a run that has to end in time."""

from __future__ import annotations

import time
from typing import Optional

# A first case, of which nothing is known.
FIRST_SECONDS = 10.0


class Budget:
    def __init__(self, seconds: Optional[float], begun: Optional[float] = None) -> None:
        """`begun` is when the seconds began to run out, if not now."""
        self._begun = time.monotonic() if begun is None else begun
        self._seconds = seconds
        self._slowest = FIRST_SECONDS

    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    def left(self) -> Optional[float]:
        return None if self._seconds is None else self._seconds - self.elapsed()

    def allows(self, share: float = 1.0) -> bool:
        """Whether a case may begin that may take as long as the slowest so far."""
        return self._seconds is None or self.elapsed() + self._slowest <= self._seconds * share

    def took(self, seconds: float) -> None:
        self._slowest = max(self._slowest, seconds)

    def forget(self) -> None:
        """Before cases of another kind, which take another time."""
        self._slowest = FIRST_SECONDS


class Progress:
    """Lines that say what is done and when the rest may be."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done, self.spent = 0, 0.0

    def line(self, case: object, outcome: str, seconds: float) -> str:
        self._done += 1
        self.spent += seconds
        rest = (self._total - self._done) * self.spent / self._done
        left = f"about {duration(rest)} left" if self._done < self._total else "last"
        return f"[{self._what} {self._done}/{self._total}, {left}] {case}: {outcome}"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
