"""What a task of each kind needs, and what it makes of it.

Written from the placement and from what the handlers of a runtime do, not from the verbs that write the accesses: of
the verbs nothing is believed.  Letters: i token, j layer of the schedule, k micro-batch, d transformer layer.

attention  Attention in two halves: around the host, or around the values that were chosen.
cache      Keys and values: at home, streamed, and on their way.
experts    Experts on demand: chosen by the router, then sent.
hidden     Hidden states between layers, and where they wait.
layers     `Meanings`: of a task of any kind; layers put it together.
part       `Part`: a range of bytes that a task declares, with the values in it; `Meaning`.
tokens     Token ids, and rows of the token table.
weights    Weights: to the gpu by chunks, unpacked there, and what a layer computes with.
"""

from flexplan.proof.meanings.layers import Meanings
from flexplan.proof.meanings.part import Meaning, Parts, Unmeant, matches

__all__ = ["Meaning", "Meanings", "Parts", "Unmeant", "matches"]
