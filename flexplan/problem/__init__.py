"""Problems: a model, a machine, and the prompts.

chat_renderer   The process that renders chat templates.
chat_template   Chat templates: messages made into text, by a stranger's program in bounds.
expected        Expected lengths: how long answers are likely to be, which nobody knows but for the most.
lengths_file    Lengths of requests from a CSV table, without their text.
objective       `Objective`: tokens a second, a bound of latency, or the smallest memory.
problem         `Workload` and `Problem`: a model on a machine for some prompts, and what the answer is to be best at.
prompt_lengths  How long prompts are, in tokens.
prompt_lines    Lines of an input: streamed once, then found again where they stand, by an index.
prompts         Prompts from text lines or JSONL.
ragged          Prompts of many lengths: a typical block, and a few that stand for all.
request_line    A line as a request.
tokenizer_file  A tokenizer's file looked at before it is believed, and its work bounded in time.
wishes          What a request asks for beside its prompt.
"""

from flexplan.problem.chat_template import Renderer
from flexplan.problem.expected import Expectation, Expected, expectation_of, read_gen_lens
from flexplan.problem.lengths_file import Lengths, read_lengths
from flexplan.problem.objective import Objective
from flexplan.problem.problem import Problem, Workload
from flexplan.problem.prompt_lengths import lengths, prompts_to_plan_for
from flexplan.problem.prompts import BadLine, BadLines, Prompts, digest_of, new_tokens_of, read_prompts
from flexplan.problem.ragged import Lens, envelope, padded_mean, representatives, typical_gen_len, typical_lens
from flexplan.problem.request_line import Api, Chat, Content, Prompt
from flexplan.problem.tokenizer_file import FILE, LOAD_PATIENCE_S, bounded, chunks, growth_of, lines_of, swollen
from flexplan.problem.wishes import NOTHING, Wishes

__all__ = [
    "FILE",
    "LOAD_PATIENCE_S",
    "NOTHING",
    "Api",
    "BadLine",
    "BadLines",
    "Chat",
    "Content",
    "Expectation",
    "Expected",
    "Lengths",
    "Lens",
    "Objective",
    "Problem",
    "Prompt",
    "Prompts",
    "Renderer",
    "Wishes",
    "Workload",
    "bounded",
    "chunks",
    "digest_of",
    "envelope",
    "expectation_of",
    "growth_of",
    "lengths",
    "lines_of",
    "new_tokens_of",
    "padded_mean",
    "prompts_to_plan_for",
    "read_gen_lens",
    "read_lengths",
    "read_prompts",
    "representatives",
    "swollen",
    "typical_gen_len",
    "typical_lens",
]
