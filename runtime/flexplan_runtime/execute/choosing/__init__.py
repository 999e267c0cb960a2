"""From logits to the next token, each row in its own way.

limits     Probabilities that tokens are drawn by: temperature and what it leaves cut off, in transformers' order.
logprobs   Log-probabilities of chosen and likeliest tokens.
mixed      Rows that choose each in their own way.
penalties  Logits as the rules of a row change them before a token is chosen.
rows       A row: an answer that is asked for, and all that it asks for by itself.
sampling   How a row chooses: the likeliest token, or one that is drawn.
scoring    What a model makes of tokens that are given, found where the head is.
"""

from flexplan_runtime.execute.choosing.logprobs import Logprob, Logprobs
from flexplan_runtime.execute.choosing.mixed import Chooser, chooser_of
from flexplan_runtime.execute.choosing.penalties import Given, Penalties
from flexplan_runtime.execute.choosing.rows import Ends, Row, penalties_of
from flexplan_runtime.execute.choosing.sampling import NO_TOKEN, Sampling
from flexplan_runtime.execute.choosing.scoring import Likelihoods, Scoring, Wanted

__all__ = [
    "NO_TOKEN",
    "Chooser",
    "Ends",
    "Given",
    "Likelihoods",
    "Logprob",
    "Logprobs",
    "Penalties",
    "Row",
    "Sampling",
    "Scoring",
    "Wanted",
    "chooser_of",
    "penalties_of",
]
