"""For another scheduler: numbers in, numbers out.  No model files, no torch, nothing on disk.

How many prompts of a queue should share a pass over the weights on each of these machines, and what is that worth?
"""

from flexplan import Hardware, InfeasiblePlan, Problem, solve
from flexplan.hardware import hardware_from


def throughput(machine: Hardware, prompt_lens: list[int], gen_len: int) -> tuple[int, float]:
    """(prompts a block, tokens a second) of Llama-2-13B for a queue of prompts; (0, 0.0) where nothing fits."""
    longest = max(prompt_lens)
    problem = Problem.of("meta-llama/Llama-2-13b-hf", hardware=machine, prompt_len=longest, gen_len=gen_len)
    try:
        plan = solve(problem, planner="lp")
    except InfeasiblePlan as refusal:
        print(f"  too small: {', '.join(refusal.binding)}; enough would be {refusal.smallest_budget_bytes}")
        return 0, 0.0
    return plan.policy.block_size, plan.prediction.tokens_per_s


def main() -> None:
    queue = [120, 250, 90, 256]
    for name, gpu, cpu in (("t4-gcp", "15G", "60G"), ("rtx4090", "23G", "50G"), ("rtx4090", "200M", "1G")):
        machine = hardware_from(name).with_budget(gpu=gpu, cpu=cpu, disk=0)
        block, tokens_per_s = throughput(machine, queue, gen_len=32)
        print(f"{name} with {gpu} and {cpu}: blocks of {block}, {tokens_per_s:.1f} tokens/s")


if __name__ == "__main__":
    main()
