"""Plan a model that does not fit the GPU, see how fast that will be, and keep the plan for `flexplan run`."""

from flexplan import Problem, simulate, solve

problem = Problem.of(model="facebook/opt-6.7b", gpu_mem="6G", cpu_mem="24G", prompt_len=256, gen_len=8)
plan = solve(problem)
print(f"{plan.policy.w_gpu_percent:.0f} % of the weights on the GPU, blocks of {plan.policy.block_size} prompts")
print(f"{plan.prediction.tokens_per_s:.1f} tokens/s, {plan.prediction.peak_bytes['gpu'] / 2**30:.1f} GiB of GPU memory")
print(f"busiest in decoding: {plan.prediction.busiest_lane['decode']}")
plan.save("policy.json")
simulate(plan).to_chrome_trace("trace.json")  # open it at ui.perfetto.dev
