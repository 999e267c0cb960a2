"""A machine measured: every rate of a `Hardware`.

fixed_costs   The fixed seconds of decoding, told apart by three trial models.
in_model      Attention on the host as it is in a running model, and copies beside it.
machine       This machine's name, fingerprint and capacities.
microbench    What copies, products, attention and the disk do by themselves.
profile       `flexplan profile`: every rate of a `Hardware`, of the four files above.
prompts       Rates of prompts in running models.
timing        Medians with their spread.
trial_models  Small models that are run only to be timed.
"""

from flexplan_runtime.measure.machine import cores, cpu_model, fingerprint, memory_bytes
from flexplan_runtime.measure.microbench import SHORT_ON_CPU, SHORT_ON_CUDA
from flexplan_runtime.measure.profile import measure

__all__ = [
    "SHORT_ON_CPU",
    "SHORT_ON_CUDA",
    "cores",
    "cpu_model",
    "fingerprint",
    "measure",
    "memory_bytes",
]
