"""Just the numbers: how fast would this model be on that machine, and what would help?  Cells of a notebook.

Nothing is downloaded, nothing runs on a GPU; the machines are guesses until `flexplan profile` measures yours.
"""

# %% one question
from flexplan import InfeasiblePlan, Plan, Policy, Problem, solve
from flexplan.export import device_map

problem = Problem.of("facebook/opt-13b", hardware="rtx3090", gpu_mem="12G", cpu_mem="40G", prompt_len=256, gen_len=16)
plan = solve(problem)
print(f"{plan.prediction.tokens_per_s:.0f} tokens/s in blocks of {plan.policy.block_size}")
print(f"weights on the GPU: {plan.policy.w_gpu_percent:.0f} %, KV cache: {plan.policy.cache_gpu_percent:.0f} %")

# %% a sweep over GPU memory
for gpu_mem in ("6G", "12G", "24G"):
    found = solve(
        Problem.of("facebook/opt-13b", hardware="rtx3090", gpu_mem=gpu_mem, cpu_mem="40G", prompt_len=256, gen_len=16),
        planner="lp",
    )
    print(f"{gpu_mem:>4}: {found.prediction.tokens_per_s:6.0f} tokens/s")

# %% a policy of your own, on the same machine
mine = Plan.of(
    problem,
    Policy(
        8,
        4,
        w_gpu_percent=20,
        w_cpu_percent=80,
        cache_gpu_percent=0,
        cache_cpu_percent=100,
        act_gpu_percent=100,
        act_cpu_percent=0,
        cpu_cache_compute=True,
    ),
).prediction
print(f"by hand: {mine.tokens_per_s:.0f} tokens/s, busiest in decoding: {mine.busiest_lane['decode']}")

# %% what does not fit says what would
try:
    solve(Problem.of("facebook/opt-66b", hardware="rtx3090", gpu_mem="2G", cpu_mem="16G", disk_mem=0))
except InfeasiblePlan as refusal:
    sizes = {tier: f"{n / 2**30:.1f} GiB" for tier, n in refusal.smallest_budget_bytes.items() if n}
    print(f"too small: {', '.join(refusal.binding)}; enough: {sizes or 'no budget alone'}")

# %% as settings of other systems
mapped = device_map(plan)
print(f"{len(mapped)} modules for accelerate, {mapped.export.given['w'][0]:.0f} % of the weights on the GPU")
