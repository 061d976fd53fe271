"""The command line."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

from . import ahead, cases, record, summary
from .budget import Budget, Progress, duration
from .record import WRONG, Record, Writer

# In this order: speed takes all the time that there is.
MEASUREMENTS = ("accuracy", "head", "speed")

# Of the whole budget: what comes after needs some, too.
COMPILING_SHARE = 0.3
ACCURACY_SHARE = 0.5
HEAD_SECONDS = 40.0

# Everything a newcomer without a device needs to know, on one line.
NO_TORCH = "peers.py measures on a GPU through PyTorch, which is not there ({error}): pip install -r {file}"
NO_GPU = "peers.py measures on a GPU, and torch {version} finds none here; --rehearse runs what needs none"


# Of a program that somebody stopped, as a shell reports it.
STOPPED = 128 + signal.SIGINT


def main(arguments: Optional[Sequence[str]] = None) -> int:
    begun = time.monotonic()
    options = _parser().parse_args(arguments)
    if (options.head or options.head_csv) and "head" not in options.measure:
        options.measure = [*options.measure, "head"]
    try:
        import torch
    except (ImportError, OSError) as error:
        file = Path(__file__).with_name("requirements.txt")
        print(NO_TORCH.format(error=record.one_line(error), file=file), file=sys.stderr)
        return 1
    if not options.rehearse and not torch.cuda.is_available():
        print(NO_GPU.format(version=torch.__version__), file=sys.stderr)
        return 1
    try:
        # Now, not after minutes of measuring.
        writers = _writers(options)
    except OSError as error:
        print(f"peers.py cannot write what it measures: {error}", file=sys.stderr)
        return 1
    with ahead.own_caches(), _stopped_alike():
        if options.rehearse:
            return Session(options, writers, begun).run()
        torch.cuda.set_device(0)
        # Not the default one, which cannot be captured.
        with torch.cuda.stream(torch.cuda.Stream()):
            return Session(options, writers, begun).run()


def _writers(options: argparse.Namespace) -> Dict[str, Writer]:
    """A file for each measurement that was asked for."""
    of = {
        "accuracy": (options.accuracy_csv, record.ACCURACY_COLUMNS),
        "head": (options.head_csv, record.HEAD_COLUMNS),
        "speed": (options.csv, record.SPEED_COLUMNS),
    }
    return {name: Writer(*of[name]) for name in MEASUREMENTS if name in options.measure}


@contextmanager
def _stopped_alike() -> Iterator[None]:
    """`timeout` and others stop a program by SIGTERM: as Ctrl-C does, with what is known by then."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Session:
    """One run: what is measured, in which order, and what is said of it."""

    def __init__(self, options: argparse.Namespace, writers: Dict[str, Writer], begun: float) -> None:
        # Only now is torch known to be there.
        from . import contenders, machine, speed

        self._options, self._writers = options, writers
        self._machine = machine.Machine(options.rehearse)
        self._loaded = contenders.load(options.peers, self._machine)
        self._contenders = contenders
        self._repeats = speed.QUICK_REPEATS if options.quick else speed.REPEATS
        self._budget = Budget(options.budget_seconds, begun)
        self._left_out: List[object] = []
        self._failed: List[str] = []
        self._all: List[Record] = []
        self._summary: List[str] = []

    def run(self) -> int:
        machine = self._machine
        print(f"{machine.name}, driver {machine.driver or 'none'}, torch {machine.torch}", flush=True)
        for implementation in self._loaded.present:
            print(f"    {implementation.label} {implementation.version}".rstrip())
        for label, why in self._loaded.absent.items():
            print(f"    {label}: not measured: {why}")
        for line in machine.company():
            print(f"    {line}")
            self._summary.append(line)
        run_of = {"accuracy": self._accuracy, "speed": self._speed, "head": self._head}
        wanted = [name for name in MEASUREMENTS if name in self._options.measure]
        status = 0
        try:
            self._compile_ahead()
            while wanted:
                run_of[wanted.pop(0)]()
        except KeyboardInterrupt:
            self._summary.append("ended early: stopped; what was measured until then is in the files")
            status = STOPPED
        except self._contenders.ContextLost as lost:
            print(f"the device was lost, nothing more can be measured: {lost}", flush=True)
            self._summary.append(f"ended early, the device was lost: {lost}")
            self._summary.append("the rest can be measured without that one: --peers, --shapes")
            status = 1
        self._left_out += [f"{name}: all of it" for name in wanted]
        print("--- summary")
        lines = [
            *self._summary,
            *summary.wrong_lines(self._all),
            *summary.failed_lines(self._failed),
            *summary.absent_lines(self._all),
        ]
        print("\n".join([*lines, *summary.left_out_lines(self._left_out)]), flush=True)
        wrong = any(each.implementation == summary.OWN and each.verdict == WRONG for each in self._all)
        nothing = bool(self._failed) and not self._all
        return 1 if wrong or nothing else status

    def _compile_ahead(self) -> None:
        options = self._options
        chosen = []
        if "accuracy" in options.measure:
            chosen += self._accuracy_cases()
        if "speed" in options.measure:
            chosen += self._speed_cases()
        compilers = [each for each in self._loaded.present if each.compiles]
        chosen = [
            case
            for case in ahead.distinct(chosen)
            if any(not implementation.lacks(case) for implementation in compilers)
        ]
        processes = options.compile_processes
        if processes is None:
            processes = ahead.processes_for(chosen, self._machine.memory_bytes)
        # One would take as long as the process that measures.
        if processes < 2 or len(chosen) < 2:
            return
        progress, begun = Progress("compile", len(chosen)), time.monotonic()

        def done(case: cases.Case, outcome: str) -> None:
            seconds = time.monotonic() - begun - progress.spent
            print(progress.line(case, outcome, seconds), flush=True)

        print(f"compiling for {len(chosen)} cases in {processes} processes", flush=True)
        left = self._budget.left()
        ahead.compile_ahead(
            chosen,
            options.peers,
            options.rehearse,
            processes,
            None if left is None else left * COMPILING_SHARE,
            done,
        )

    def _speed_cases(self) -> List[cases.Case]:
        options = self._options
        passes = options.passes or (cases.STEP_PASSES if options.quick else tuple(cases.PASSES))
        return cases.speed_cases(self._sizes(), passes, options.variants, options.smoothing)

    def _accuracy_cases(self) -> List[cases.Case]:
        options = self._options
        chosen = cases.accuracy_cases(sorted(options.smoothing), 300 if options.rehearse else None)
        return [case for case in chosen if case.dtype == "bf16"] if options.quick else chosen

    def _speed(self) -> None:
        from .speed import SpeedRun

        run = SpeedRun(self._machine, self._loaded, self._repeats)
        chosen = self._speed_cases()
        records: List[Any] = []
        try:
            self._each("speed", chosen, run.measure, records, _times, 1.0)
        finally:
            self._summary += summary.speed_lines(records) if records else []

    def _accuracy(self) -> None:
        from .accuracy import AccuracyRun

        run = AccuracyRun(self._machine, self._loaded)
        chosen = self._accuracy_cases()
        records: List[Any] = []
        try:
            self._each("accuracy", chosen, run.measure, records, _verdicts, ACCURACY_SHARE)
        finally:
            self._summary.append(
                "worst relative errors; gapN: the target N nats above all others together; ! is wrong:"
            )
            self._summary += summary.accuracy_lines(records)

    def _head(self) -> None:
        from .head import REHEARSAL_SIZE, HeadRun, HeadSize

        options = self._options
        size = HeadSize(options.head_tokens, options.head_hidden, options.head_classes)
        size = REHEARSAL_SIZE if options.rehearse else size
        self._budget.forget()
        self._budget.took(HEAD_SECONDS)
        run = HeadRun(self._machine, self._loaded, size, self._repeats)
        records: List[Any] = []
        try:
            self._each("head", [size], lambda _: run.measure(), records, _verdicts, 1.0)
        finally:
            self._summary += summary.head_lines(records) if records else []

    def _each(
        self,
        what: str,
        chosen: Sequence[Any],
        measure: Callable[[Any], List[Any]],
        records: List[Any],
        outcome: Callable[[Sequence[Any]], str],
        share: float,
    ) -> None:
        progress, left = Progress(what, len(chosen)), list(chosen)
        try:
            with self._writers[what] as writer:
                while left and self._budget.allows(share):
                    begun = time.monotonic()
                    found = self._measured(what, left[0], measure)
                    seconds = time.monotonic() - begun
                    self._budget.took(seconds)
                    for each in found:
                        writer.write(each)
                    records += found
                    self._all += found
                    line = progress.line(left.pop(0), outcome(found), seconds)
                    print(f"{line} ({duration(seconds)})", flush=True)
        finally:
            self._left_out += [f"{what}: {case}" for case in left]
        self._budget.forget()

    def _measured(self, what: str, case: Any, measure: Callable[[Any], List[Any]]) -> List[Any]:
        """What came of a case; nothing where it could not even begin: no memory for what all read, say."""
        try:
            return measure(case)
        except self._contenders.ContextLost:
            raise
        except Exception as error:
            self._failed.append(f"{what}: {case}: {self._contenders.reason(error)}")
            self._contenders.survives(self._machine, f"{what}: {case}", error)
        # Only now is what the failure held given back.
        self._machine.free()
        return []

    def _sizes(self) -> List[cases.Size]:
        options = self._options
        if options.shapes:
            return options.shapes
        if options.like:
            return cases.read_shapes(options.like)
        if options.rehearse:
            return cases.REHEARSAL_GRID
        if options.quick:
            return cases.QUICK_GRID
        return cases.SHORT_GRID if options.grid == "short" else cases.full_grid()


def _times(records: Sequence[Any]) -> str:
    timed = [each for each in records if each.p50_us is not None]
    if not timed:
        return _verdicts(records)
    texts = [
        f"{each.implementation} {each.p50_us:.1f}{' WRONG' if each.verdict == WRONG else ''}"
        for each in timed
    ]
    return "us: " + ", ".join(texts)


def _verdicts(records: Sequence[Any]) -> str:
    if not records:
        return "failed"
    counts = {verdict: 0 for verdict in (record.RIGHT, record.REHEARSAL, record.WRONG, record.NOT_MEASURED)}
    for each in records:
        counts[each.verdict] += 1
    return ", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in counts.items() if count)


def _argument(parse: Callable[..., Any], *rest: Any) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return parse(text, *rest)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


# Of implementations.NAMES, which cannot be read without torch.
PEERS = (
    "smoothxent",
    "torch_eager",
    "torch_compile",
    "cudnn",
    "liger",
    "quack",
    "flash_attn",
    "apex",
    "transformer_engine",
    "jax",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="peers.py",
        description="Speed, memory and accuracy of smoothxent beside PyTorch and the other fused losses, in "
        "one process, on the same buffers, by the same clock, and beside a copy of the same bytes. What is "
        "not installed is named, and every result is checked against f64 first.",
        epilog="Lists take commas, and `all`. A short look: peers.py --quick. What a peer needs: "
        "peers/requirements.txt.",
    )
    names = {
        "peers": (PEERS, "implementation", "all"),
        "passes": (tuple(cases.PASSES), "pass", "all; with --quick fused,in_place"),
        "variants": (cases.VARIANTS, "variant", "plain"),
        "measure": (MEASUREMENTS, "measurement", "accuracy,speed"),
    }

    def add_list(option: str, text: str) -> None:
        allowed, what, default = names[option]
        parser.add_argument(
            f"--{option}",
            type=_argument(cases.parse_names, allowed, what),
            default=None if option == "passes" else cases.parse_names(default, allowed, what),
            metavar="LIST",
            help=f"{text}: {', '.join(allowed)} (default: {default})",
        )

    parser.add_argument(
        "--quick", action="store_true", help="three shapes, one dtype's accuracy, few repeats"
    )
    parser.add_argument("--grid", choices=("short", "full"), default="short", help="which shapes")
    parser.add_argument(
        "--shapes",
        type=_argument(cases.parse_shapes),
        metavar="LIST",
        help="instead of a grid, such as 8192x32000,64x128256:bf16",
    )
    parser.add_argument("--like", metavar="CSV", help="instead of a grid, the shapes of a file of `fused`")
    add_list("passes", "what is timed")
    add_list("variants", "of the inputs")
    parser.add_argument(
        "--smoothing",
        type=_argument(cases.parse_smoothings),
        default=[0.1, 0.0],
        metavar="LIST",
        help="label smoothing (default: 0.1,0)",
    )
    add_list("peers", "who is compared")
    add_list("measure", "what is measured")
    parser.add_argument(
        "--head",
        action="store_true",
        help="also a training step of a classifier head: linear layer, loss, both gradients",
    )
    parser.add_argument("--head-tokens", type=int, default=4096, metavar="N", help="(default: 4096)")
    parser.add_argument("--head-hidden", type=int, default=4096, metavar="N", help="(default: 4096)")
    parser.add_argument("--head-classes", type=int, default=128_256, metavar="N", help="(default: 128256)")
    parser.add_argument("--csv", metavar="FILE", help="write times and memory here, each as soon as known")
    parser.add_argument("--accuracy-csv", metavar="FILE", help="write errors here")
    parser.add_argument("--head-csv", metavar="FILE", help="write the head's steps here")
    parser.add_argument(
        "--budget-seconds",
        type=float,
        metavar="N",
        help="begin nothing that may not end in time; what was left out is named",
    )
    parser.add_argument(
        "--compile-processes",
        type=_argument(cases.parse_count),
        metavar="N",
        help="that compile for all cases before anything is timed; 0: each case when its turn comes "
        "(default: half the processors, twelve at most, fewer where memory is short)",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="without a GPU: runs and checks what can run on the CPU, on small shapes, and times nothing",
    )
    return parser
