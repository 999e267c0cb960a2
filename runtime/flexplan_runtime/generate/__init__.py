"""From prompts to tokens: the model as a library offers it.

arguments    Arguments of a call, refused by name where they are of a wrong kind.
blocks       Blocks of prompts: planned to their lengths, given state and memory.
calls        What a call does, whatever it asks for: its turn, its blocks, smaller ones where memory gives out.
lm           `OffloadedLM`: the model as a user calls it.
loop         The engine's loop, whole: blocks, sweeps, tasks, tokens.
pieces       A token alone as text and as bytes.
placed       A model whose weights lie in their places.
prompts      Prompts and outputs in the shapes that transformers uses.
requests     Requests: a prompt and how it is to be completed.
retreat      Memory that gives out in a pass: rows step back, blocks become smaller.
rolling_run  One rolling job: requests in as seats become free, tokens out.
scores       How likely given tokens are.
stops        Texts at which an answer ends.
tokenizer    Text to token ids and back.
"""

from flexplan_runtime.generate.lm import OffloadedLM
from flexplan_runtime.generate.loop import Done, Generation
from flexplan_runtime.generate.prompts import refuse_broken, wrong_with
from flexplan_runtime.generate.requests import Request
from flexplan_runtime.generate.scores import Score
from flexplan_runtime.generate.stops import cut
from flexplan_runtime.generate.tokenizer import Tokenizer

__all__ = [
    "Done",
    "Generation",
    "OffloadedLM",
    "Request",
    "Score",
    "Tokenizer",
    "cut",
    "refuse_broken",
    "wrong_with",
]
