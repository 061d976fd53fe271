"""Times PyTorch eager's cross-entropy, forward and backward, over the shapes that `fused` measured.

    python3 torch_eager.py --like fused.csv --csv torch_eager.csv

The same method as benches/fused.rs: batches between device events, behind one call that is not
timed, median of repeats, inputs rotated over four times the L2 cache.
"""

import argparse
import csv
import sys

import torch
import torch.nn.functional as F

REPEATS = 25
QUICK_REPEATS = 7
BATCH_MILLISECONDS = 2.0
MAX_BATCH = 500
L2_SIZES = 4
L2_BYTES_IF_UNKNOWN = 50 << 20
COLUMNS = [
    "implementation", "device", "rows", "classes", "dtype", "label_smoothing", "bytes",
    "p20_us", "p50_us", "p80_us", "gb_per_s",
]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def sample(batch, call):
    """Microseconds of one call, averaged over a batch."""
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    call()
    start.record()
    for _ in range(batch):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000.0 / batch


def measure(rows, classes, dtype, smoothing, repeats):
    """Sorted times in microseconds."""
    device = torch.device("cuda", 0)
    element = torch.empty((), dtype=dtype).element_size()
    l2 = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", L2_BYTES_IF_UNKNOWN)
    sets = max(1, -(-L2_SIZES * l2 // (2 * rows * classes * element)))
    inputs = [
        (torch.rand(rows, classes, device=device) * 16 - 8).to(dtype).requires_grad_()
        for _ in range(sets)
    ]
    targets = torch.arange(rows, device=device) * 7919 % classes
    turn = 0

    def call():
        nonlocal turn
        turn = (turn + 1) % sets
        loss = F.cross_entropy(inputs[turn], targets, label_smoothing=smoothing)
        torch.autograd.grad(loss, inputs[turn])

    sample(3, call)
    batch = min(MAX_BATCH, max(1, int(BATCH_MILLISECONDS * 1000.0 / sample(10, call))))
    return sorted(sample(batch, call) for _ in range(repeats))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--like", required=True, help="CSV of benches/fused.rs: the shapes")
    parser.add_argument("--csv", required=True, help="file to write")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device")

    name = torch.cuda.get_device_name(0).replace(",", " ")
    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    print(f"{name}, torch {torch.__version__}", flush=True)
    with open(arguments.like, newline="") as like, open(arguments.csv, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for shape in csv.DictReader(like):
            rows, classes = int(shape["rows"]), int(shape["classes"])
            size = f"{rows} x {classes} {shape['dtype']}"
            smoothing = float(shape["label_smoothing"])
            try:
                times = measure(rows, classes, DTYPES[shape["dtype"]], smoothing, repeats)
            except torch.cuda.OutOfMemoryError:
                print(f"{size}: not measured: out of memory", flush=True)
                continue
            finally:
                torch.cuda.empty_cache()
            p20, p50, p80 = (times[(len(times) - 1) * percent // 100] for percent in (20, 50, 80))
            speed = int(shape["bytes"]) / p50 / 1000.0
            writer.writerow(
                ["torch_eager", name, rows, classes, shape["dtype"], smoothing, shape["bytes"],
                 f"{p20:.3f}", f"{p50:.3f}", f"{p80:.3f}", f"{speed:.1f}"]
            )
            out.flush()
            print(f"{size}: {p50:.2f} us", flush=True)


if __name__ == "__main__":
    main()
