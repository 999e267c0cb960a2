"""Prompts as people have them: files of requests, each read when it is wanted, and their lengths in tokens.

chat_renderer   The process that renders chat templates.
chat_template   Chat templates: messages made into text, by a stranger's program in bounds.
index           `Prompts`: the requests of an input, each read again when it is looked at; `BadLine`: what is none.
lengths         How long prompts are, in tokens.
lengths_file    Lengths of requests from a CSV table, without their text.
lines           Lines of an input: streamed once, then found again where they stand.
names           Names of requests, of which no two may be alike.
reading         Files of requests: text, JSON Lines, an OpenAI batch or a JSON array.
request_line    A line as a request.
tokenizer_file  A tokenizer's file looked at before it is believed, and its work bounded in time.
wishes          What a request asks for beside its prompt.
"""

from flexplan.problem.prompts.index import BadLine, Prompts
from flexplan.problem.prompts.lengths_file import Lengths, read_lengths
from flexplan.problem.prompts.reading import new_tokens_of, read_prompts
from flexplan.problem.prompts.request_line import Chat, Prompt
from flexplan.problem.prompts.wishes import Wishes

__all__ = [
    "BadLine",
    "Chat",
    "Lengths",
    "Prompt",
    "Prompts",
    "Wishes",
    "new_tokens_of",
    "read_lengths",
    "read_prompts",
]
