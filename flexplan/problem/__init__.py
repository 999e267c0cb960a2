"""Problems: a model, a machine, and the prompts.

objective       `Objective`: tokens a second, a bound of latency, or the smallest memory.
problem         `Workload` and `Problem`: a model on a machine for some prompts, and what the answer is to be best at.
prompt_lengths  How long prompts are, in tokens.
prompts         Prompts from text lines or JSONL.
ragged          Prompts of many lengths: a typical block, and a few that stand for all.
tokenizer_file  A tokenizer's file looked at before it is believed, and its work bounded in time.
"""

from flexplan.problem.objective import Objective
from flexplan.problem.problem import Problem, Workload
from flexplan.problem.prompt_lengths import prompt_lens
from flexplan.problem.prompts import Prompt, read_prompts
from flexplan.problem.ragged import Lens, envelope, padded_mean, representatives, typical_lens

__all__ = [
    "Lens",
    "Objective",
    "Problem",
    "Prompt",
    "Workload",
    "envelope",
    "padded_mean",
    "prompt_lens",
    "read_prompts",
    "representatives",
    "typical_lens",
]
