"""What measuring tasks, and keeping a span of each, costs: OPT-6.7B resident, small steps, with and without, by turns.

    python benchmarks/timeline_costs_little.py [--rows 2] [--turns 9]

Wall seconds of a whole call.  Exit code 1 where the medians differ by more than 2 %.
"""

from __future__ import annotations

from statistics import median

import common
from flexplan_runtime import ExecutionEnv, OffloadedLM

from flexplan.policy import Policy

LIMIT_PERCENT = 2


def main() -> None:
    parser = common.parser(__doc__, model="facebook/opt-6.7b", dtype="float16")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--gen-len", type=int, default=64)
    given = parser.parse_args()
    env = ExecutionEnv.create(given.offload_dir)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with OffloadedLM(given.model, env, "_DUMMY_", Policy(given.rows, 1), dtype=given.dtype) as lm:
        prompts = common.prompts_of(lm.shape.vocab_size, given.rows)
        for _ in range(2):
            lm.complete(prompts, given.gen_len)  # warm, and captured
        for turn in range(2 * given.turns):
            env.timed = turn % 2 == 0
            seconds[env.timed].append(common.seconds(lambda: lm.complete(prompts, given.gen_len, trace=env.timed)))
    timed, plain = (sorted(seconds[kept]) for kept in (True, False))
    cost = 100 * (median(timed) / median(plain) - 1)
    for name, found in (("with", timed), ("without", plain)):
        print(f"{name} a timeline: {median(found):.4f} s ({found[0]:.4f} to {found[-1]:.4f})")
    print(f"a timeline costs {cost:+.2f} %; at most {LIMIT_PERCENT} % wanted")
    raise SystemExit(cost > LIMIT_PERCENT)


if __name__ == "__main__":
    main()
