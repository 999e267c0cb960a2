"""Products of a prompt over time: in bursts as a profile runs them, and without a pause as a long prompt does.

python benchmarks/products_slow_down.py [--seconds 6]

For each width, of the four products of an OPT layer over 8,192 tokens: TFLOP/s in the first and the last second, with
the clock and the power that the driver reports then.  Prompts of 4 to 15 s were foretold 3 to 4 % too quick where
models are 4,096 wide and 9 % where they are 5,120 or 7,168, by the rate of short prompts of a model of 4,096.  If the
power limit is why, the clock falls with the seconds and with the width, and in bursts it does not.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import common
import torch

WIDTHS = (4096, 5120, 7168)
TOKENS = 8192
BURST_S, PAUSE_S = 0.07, 0.07


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=6.0)
    seconds = parser.parse_args().seconds
    for width in WIDTHS:
        layer, flops = products(width)
        for name, pause_s in (("bursts", PAUSE_S), ("no pause", 0.0)):
            time.sleep(3)  # cool again
            print(f"{width} wide, {name:8}", *over_time(layer, flops, seconds, pause_s), sep="   ", flush=True)


def products(width: int) -> tuple[Callable[[], None], float]:
    """A layer's four, and their operations."""
    shapes = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
    of_cuda = {"dtype": torch.bfloat16, "device": "cuda"}
    pairs = [(torch.randn(TOKENS, k, **of_cuda), torch.randn(n, k, **of_cuda) * k**-0.5) for k, n in shapes]

    def layer() -> None:
        for x_TK, w_NK in pairs:
            torch.nn.functional.linear(x_TK, w_NK)

    layer()
    torch.cuda.synchronize()
    return layer, sum(2.0 * TOKENS * k * n for k, n in shapes)


def over_time(layer: Callable[[], None], flops: float, seconds: float, pause_s: float) -> list[str]:
    """The first and the last second."""
    asked = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader", "-i", "0", "--loop-ms=100"]
    rates, start = list[tuple[float, float]](), time.perf_counter()
    with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as watch:
        while (now := time.perf_counter() - start) < seconds:
            layers, begin = 0, time.perf_counter()
            while time.perf_counter() - begin < BURST_S:
                layer()
                layer()
                torch.cuda.synchronize()
                layers += 2
            rates.append((now, layers * flops / (time.perf_counter() - begin) / 1e12))
            time.sleep(pause_s)
        watch.terminate()
        says = (watch.stdout.read() if watch.stdout else "").splitlines()
    first, last = ([rate for at, rate in rates if low <= at < low + 1] for low in (0.0, seconds - 1))
    tenth = len(says) // 10
    return [
        f"{sum(found) / len(found):4.0f} TFLOP/s at {says[at] if says else 'an unknown clock'}"
        for found, at in ((first, tenth), (last, -1 - tenth))
    ]


if __name__ == "__main__":
    main()
