"""Evaluations: the model ``flexplan`` of the LM Evaluation Harness.

Importing this registers it, for ``lm_eval.simple_evaluate("flexplan", "pretrained=...", tasks=[...])``;
``python -m flexplan_runtime.evaluate run --model flexplan ...`` is the harness's own command line with it.

__main__  The harness's command line, with the model.
drawing   What the harness asks of a generation, honoured or refused by name.
model     `FlexplanLM`: the harness's questions, each answered once.
opening   A model of the harness's arguments: planned, placed, with its tokenizer and its log of answers.
"""

from importlib.util import find_spec

from flexplan.errors import UsageError

if find_spec("lm_eval") is None:
    raise UsageError("FP195", "evaluations need the package lm-eval", fix="pip install '.[eval]' where flexplan is")

from flexplan_runtime.evaluate.model import FlexplanLM

__all__ = ["FlexplanLM"]
