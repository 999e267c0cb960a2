"""Predicted against measured: each row is a model, a budget and a policy (or the planner's), run with random weights.

    flexplan profile -o hardware.json
    python benchmarks/predicted_and_measured.py --hardware hardware.json --json rows.jsonl \\
        facebook/opt-30b:bfloat16:16G:search facebook/opt-6.7b:float16:40G:32x1:100,0,100,0,100,0

A row is ``model:dtype:gpu-mem:search[:switches]`` or ``model:dtype:gpu-mem:BxN:percents[:switches]`` with switches
among host (attention on the host; share40: 40 % of it streamed to the GPU), unpinned, inline (no overlap), sep,
rowwise, w4 and kv4 (4 bits; a search may), skewed (a mixture's n-th most wanted expert is wanted as often as 1/n),
demand (of experts in host memory a decoding pass sends those that routers chose; a search may unless it says ahead).
Prompts are distinct and every token is generated.  A first generate of the same block warms the libraries up; a
long one decodes a single prompt, and the block's prompts for their first tokens.

``bound``: for each phase the slowest resource's work at its rate alone on this machine, summed.

``--foretell FILE``: all rows are planned, and their predictions written to the file, before any of them runs; when all
have run, the errors are summed up: of tokens a second by model, and of what each lane was busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import common
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.weights.open import DUMMY, SKEWED

from flexplan.cost import Rates
from flexplan.errors import FlexplanError
from flexplan.graph import TaskGraph, Timeline, Work
from flexplan.plan import Plan, solve
from flexplan.problem import Problem
from flexplan.units import GiB, parse_size


def arguments() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--hardware", default="h200-pcie5")
    parser.add_argument("--cpu-mem", default="110G")
    parser.add_argument("--disk-mem", default="50G")
    parser.add_argument("--prompt-len", type=int, default=512)
    parser.add_argument("--gen-len", type=int, default=32)
    parser.add_argument("--num-prompts", type=int, help="that a search plans for; as many as are best by default")
    parser.add_argument("--offload-dir", default="offload")
    parser.add_argument("--device")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--foretell", type=Path, metavar="FILE")
    parser.add_argument("--cold", action="store_true", help="a long block is not warmed up by its prompts")
    parser.add_argument("--trace", type=Path, help="directory for a trace of each row, predicted and measured")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.foretell and args.json is None:
        sys.exit("--foretell compares what --json FILE keeps: give both")
    if len(args.rows) > 1:  # each in a process of its own: what one leaves in the allocator is not the next one's
        if args.foretell:
            foretell(args)
        for row in args.rows:
            subprocess.run([sys.executable, *(a for a in sys.argv if a not in args.rows), row], check=False)
        if args.foretell:
            sum_up(args.foretell, args.json)
        return
    warnings.filterwarnings("error", "memory ran out")  # smaller blocks are another row
    try:
        found = measure(args.rows[0], args)
    except (FlexplanError, torch.OutOfMemoryError, UserWarning) as error:
        found = {"row": args.rows[0], "error": str(error).splitlines()[0]}
    common.put(found, args.json)


def switches_of(row: str) -> set[str]:
    _, _, _, how, *rest = row.split(":")
    return set(rest[-1].split(",")) if len(rest) > (how != "search") else set()


def planned(row: str, args: argparse.Namespace) -> tuple[Plan, str]:
    model, dtype, gpu_mem, how, *rest = row.split(":")
    problem = Problem.of(
        model, gpu_mem=gpu_mem, cpu_mem=args.cpu_mem, disk_mem=args.disk_mem, hardware=args.hardware,
        prompt_len=args.prompt_len, gen_len=args.gen_len, num_prompts=args.num_prompts,
    )  # fmt: skip
    problem = problem.model_copy(update={"model": problem.model.with_dtype(4 if dtype == "float32" else 2)})
    switches = switches_of(row)
    if how == "search":
        names = (("w4", "compress_weight"), ("kv4", "compress_cache"))
        lossy = {field: True for name, field in names if name in switches}
        chosen = {"experts_on_demand": (False,)} if "ahead" in switches else {}
        return solve(problem, **({"lossy": lossy} if lossy else {}), **chosen), dtype
    rows, batches = map(int, how.split("x"))
    shared = next((float(name.removeprefix("share")) for name in switches if name.startswith("share")), 0.0)
    policy = common.policy_of(
        rows, batches, list(map(float, rest[0].split(","))), overlap="inline" not in switches,
        sep_layer="sep" in switches, pin_weight="unpinned" not in switches, cpu_cache_compute="host" in switches,
        compress_weight="w4" in switches, compress_cache="kv4" in switches, cache_stream_percent=shared,
        experts_on_demand="demand" in switches,
    )  # fmt: skip
    return Plan.of(problem, policy, schedule="rowwise" if "rowwise" in switches else "zigzag"), dtype


def foretell(args: argparse.Namespace) -> None:
    """A line a row, with the time at which it was written: before any of them runs."""
    with args.foretell.open("x") as out:
        for row in args.rows:
            try:
                plan, _ = planned(row, args)
            except FlexplanError as error:
                out.write(json.dumps({"row": row, "error": str(error).splitlines()[0]}) + "\n")
                continue
            written = datetime.now(UTC).isoformat(timespec="seconds")
            told = {"row": row, "written": written, "tokens_per_s": round(plan.prediction.tokens_per_s, 2)}
            out.write(json.dumps(told | {"busy_s": predicted_busy(plan)}) + "\n")


def predicted_busy(plan: Plan) -> dict[str, float]:
    """Seconds of each lane over both phases."""
    busy: Counter[str] = Counter()
    for lanes in plan.prediction.lane_busy_s.values():
        busy.update(lanes)
    return {lane: round(s, 2) for lane, s in sorted(busy.items())}


def sum_up(foretold: Path, measured: Path) -> None:
    """Median, 90th percentile and worst error, by model and by lane."""
    told = {line["row"]: line for line in map(json.loads, foretold.read_text().splitlines())}
    errors: dict[str, list[float]] = {}
    for found in map(json.loads, measured.read_text().splitlines()):
        line = told.get(found["row"], {"error": ""})
        if "error" in line or "error" in found:
            print(f"{found['row']}: {line.get('error') or found.get('error')}")
            continue
        error = 100 * (line["tokens_per_s"] / found["tokens_per_s"] - 1)
        for what in ("all rows", found["row"].partition(":")[0]):
            errors.setdefault(what, []).append(error)
        busiest = max(found["busy_s"].values())
        for lane, busy_s in found["busy_s"].items():
            if busy_s > busiest / 4:  # a lane that is hardly busy sets nobody's pace
                errors.setdefault(f"lane {lane}", []).append(100 * (line["busy_s"].get(lane, 0.0) / busy_s - 1))
    for what, found_errors in errors.items():
        sizes = sorted(map(abs, found_errors))
        ninth, worst = sizes[(9 * len(sizes)) // 10], max(found_errors, key=abs)
        spread = f"median {statistics.median(sizes):5.1f} % 90th {ninth:5.1f} % worst {worst:+6.1f} %"
        print(f"{what:40} {len(sizes):3} {spread}")


def warm_up(lm: OffloadedLM, plan: Plan, prompts: list[list[int]], args: argparse.Namespace) -> None:
    if plan.prediction.total_s < 6:
        lm.complete(prompts, args.gen_len)
        lm.complete(prompts, args.gen_len)
        return
    if not args.cold:
        lm.complete(prompts, args.gen_len, stops=range(lm.shape.vocab_size))
    lm.complete(prompts[:1], 2)


def measure(row: str, args: argparse.Namespace) -> dict[str, object]:
    (plan, dtype), solve_s = common.timed(lambda: planned(row, args))
    cuda = common.is_cuda(args.device)
    if cuda:
        torch.cuda.empty_cache()
        common.cap_gpu(parse_size(row.split(":")[2]))
    env = ExecutionEnv.create(
        args.offload_dir, gpu_mem=row.split(":")[2], cpu_mem=args.cpu_mem, disk_mem=args.disk_mem, device=args.device
    )
    weights = SKEWED if "skewed" in switches_of(row) else DUMMY
    lm, init_s = common.timed(lambda: OffloadedLM(plan.problem.model.name, env, weights, plan, dtype=dtype))
    with lm:
        prompts = common.prompts_of(lm.shape.vocab_size, plan.policy.block_size, args.prompt_len)
        warm_s = common.seconds(lambda: warm_up(lm, plan, prompts, args))
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        wall_s = common.seconds(lambda: lm.generate(prompts, max_new_tokens=args.gen_len, trace=True))
        attended = attention_rate(plan.graph, lm.timeline)  # a trace keeps two passes
        timeline, peak = lm.timeline, torch.cuda.max_memory_allocated() if cuda else 0
        if args.trace:
            predicted = plan.graph
            write_trace(args.trace / f"{len(list(args.trace.iterdir()))}.json", lm, predicted, plan)
    bound_s = bound(plan.graph, Rates(plan.problem.hardware), args.gen_len)
    tokens = plan.policy.block_size * args.gen_len
    p = plan.policy
    planned_bytes = plan.prediction.peak_bytes["gpu"] + plan.problem.hardware.gpu_overhead_bytes
    return {
        "row": row,
        "policy": f"{p.gpu_batch_size}x{p.num_gpu_batches} w {p.w_gpu_percent:g}/{p.w_cpu_percent:g} "
        f"c {p.cache_gpu_percent:g}/{p.cache_cpu_percent:g} a {p.act_gpu_percent:g}/{p.act_cpu_percent:g}"
        + (f" host {p.cache_stream_percent:g}" if p.cpu_cache_compute else "")
        + (" demand" if p.experts_on_demand else "")
        + (" w4" if p.compress_weight else "")
        + (" kv4" if p.compress_cache else ""),
        "tokens_per_s": round(tokens / timeline.end_s, 2),
        "predicted": round(plan.prediction.tokens_per_s, 2),
        "gap_percent": round(100 * (plan.prediction.tokens_per_s * timeline.end_s / tokens - 1), 1),
        "bound": round(tokens / bound_s, 2),
        "of_bound_percent": round(100 * bound_s / timeline.end_s, 1),
        "prefill_s": [round(plan.prediction.prefill_s, 3), round(timeline.prefill_s, 3)],
        "decode_s": [round(plan.prediction.decode_s, 3), round(timeline.decode_s, 3)],
        "decode_tokens_per_s": round((tokens - p.block_size) / timeline.decode_s, 2),
        "pass_s": spread(timeline.sweep_end_s),
        "first_passes_s": took(timeline.sweep_end_s)[:4],
        "attention_gb_per_s": attended,
        "peak_gib": [round(planned_bytes / GiB, 3), round(peak / GiB, 3)],
        "peak_percent": round(100 * peak / planned_bytes, 1),
        "predicted_busy_s": predicted_busy(plan),
        "busy_s": {lane: round(s, 2) for lane, s in sorted(timeline.lane_busy_s.items())},
        "solve_init_warm_wall_s": [round(s, 1) for s in (solve_s, init_s, warm_s, wall_s)],
    }


def spread(sweep_end_s: Mapping[int, float]) -> list[float]:
    """Shortest, median and longest decoding pass."""
    passes = sorted(took(sweep_end_s))
    return [passes[0], passes[len(passes) // 2], passes[-1]]


def took(sweep_end_s: Mapping[int, float]) -> list[float]:
    """Seconds of each decoding pass."""
    return [round(after - before, 4) for before, after in pairwise(sweep_end_s[i] for i in sorted(sweep_end_s))]


def attention_rate(graph: TaskGraph, timeline: Timeline) -> float | None:
    """1e9 bytes of keys and values a second that the host attended over while it did nothing else; None without."""
    attends = [s.end_s - s.start_s for s in timeline.spans if s.name.startswith("attend@")]
    tasks = (task.work for sweep in graph.sweeps() for task in sweep.tasks if task.kind == "attend")
    nbytes = sum(work.attended_bytes + work.attended_packed_bytes for work in tasks)
    return round(nbytes / sum(attends) / 1e9, 1) if attends else None


def bound(graph: TaskGraph, rates: Rates, gen_len: int) -> float:
    """Seconds that no schedule of this policy can beat: decoding's grows linearly with the keys and values."""
    work: dict[int, Work] = {}
    for sweep in graph.sweeps():
        if sweep.i in (0, 1, gen_len - 1):
            for task in sweep.tasks:
                work[sweep.i] = work.get(sweep.i, Work()).plus(task.work)
    seconds = {i: slowest(w, rates) for i, w in work.items()}
    return seconds[0] + (gen_len - 1) * (seconds.get(1, 0.0) + seconds.get(gen_len - 1, 0.0)) / 2


def slowest(work: Work, rates: Rates) -> float:
    h = rates.hardware
    attention_s = work.attended_bytes / h.host_attention_bytes_per_s
    attention_s += work.attended_packed_bytes / h.packed_attention_bytes_per_s
    return max(*rates.demands(work).values(), attention_s)


def write_trace(path: Path, lm: OffloadedLM, graph: TaskGraph, plan: Plan) -> None:
    from flexplan.simulation import simulate_graph

    last = max(s.i for s in lm.timeline.spans)
    measured, predicted = lm.timeline, simulate_graph(graph, Rates(plan.problem.hardware))
    for timeline in (measured, predicted):
        timeline.spans[:] = [s for s in timeline.spans if s.i in (last - 1, last)]
    measured.to_chrome_trace(path, ("predicted", predicted), name="measured")


if __name__ == "__main__":
    main()
