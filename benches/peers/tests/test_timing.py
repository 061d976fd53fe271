from __future__ import annotations

import unittest
from unittest import mock

from .needs import needs_torch, torch

if torch is not None:
    from peers import timing

    from . import stand_in


@needs_torch
class Samples(unittest.TestCase):
    def work(self, sets=3, **options):
        return timing.Work(lambda number: number, sets, **{"capturable": True, **options})

    def test_results_are_kept_until_their_buffers_are_used_again(self):
        for capturable, kept in ((True, [1, 2]), (False, [])):
            work = self.work(capturable=capturable)
            for _ in range(5):
                work.step()
            self.assertEqual(list(work._kept), kept)

    def test_the_device_is_kept_busy_for_as_long_as_the_host_needs(self):
        slept = []
        clock = iter(range(100))
        with stand_in.device(), mock.patch.object(torch.cuda, "_sleep", slept.append):
            with mock.patch("time.perf_counter", lambda: next(clock) * 0.01):
                work = self.work()
                # Enqueueing takes one reading of the clock after another: 10 ms.
                with mock.patch.object(stand_in.Event, "query", lambda event: not slept):
                    work._sample(1)
                    work._sample(1)
        self.assertEqual(slept, [int(0.01 * timing.LEAD * timing.CYCLES_A_SECOND)])
        self.assertEqual(work._waited, [True, False])

    def test_few_samples_in_which_the_device_waited_are_none(self):
        for waits, method in ((5, timing.STREAM), (6, timing.HOST)):
            waited = iter([True] * waits + [False] * (25 - waits))
            with stand_in.device(), mock.patch.object(stand_in.Event, "query", lambda _, of=waited: next(of)):
                work = self.work()
                for _ in range(25):
                    work.take_turn()
                work.finish()
            self.assertEqual(work.method, method)

    def test_a_call_that_compiles_makes_no_long_lead(self):
        slept, now, calls = [], [0.0], [0]

        def call(number):
            calls[0] += 1
            # The first two: the one that is not timed, and the first that is.
            now[0] += 9.0 if calls[0] <= 2 else 0.001

        with stand_in.device(), mock.patch.object(torch.cuda, "_sleep", slept.append):
            with mock.patch("time.perf_counter", lambda: now[0]):
                with mock.patch.object(stand_in.Event, "query", lambda event: not slept):
                    timing.Work(call, 3, capturable=True).estimate()
        self.assertEqual(len(slept), 1)
        self.assertAlmostEqual(slept[0] / timing.CYCLES_A_SECOND, 6 * 0.001 * timing.LEAD, places=6)

    def test_who_waits_for_the_device_is_not_made_to_wait_longer_and_longer(self):
        slept = []
        with stand_in.device(), mock.patch.object(torch.cuda, "_sleep", slept.append):
            work = self.work()
            took = lambda: (slept[-1] / timing.CYCLES_A_SECOND if slept else 0.0) + 0.001  # noqa: E731
            now = [0.0]

            def clock():
                now[0] += took()
                return now[0]

            with mock.patch("time.perf_counter", clock), mock.patch.object(
                stand_in.Event, "query", lambda _: True
            ):
                for _ in range(10):
                    work._sample(1)
        self.assertEqual(len(slept), timing.MAX_LEADS)
        self.assertEqual(work._lead_seconds, 0.0)


if __name__ == "__main__":
    unittest.main()
