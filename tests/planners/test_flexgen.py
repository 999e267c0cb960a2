"""Our planner against the package flexgen 0.1.8 itself, which solves without a GPU: the extra ``oracle``.

    pip install ".[oracle]"        (Python 3.11: it needs a PuLP below 4)

It is also what shows that `reference_model.py` is the reference's model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from typing import Any

import pulp
import pytest
from reference_model import ReferenceModel
from test_reference_search import CASES, judged, ours, theirs

from flexplan.policy import Policy

if find_spec("flexgen") is None or find_spec("experimental") is None:
    pytest.skip('flexgen is not installed: pip install ".[oracle]"', allow_module_level=True)
if int(pulp.__version__.partition(".")[0]) > 3:
    pytest.skip("flexgen needs a PuLP below 4", allow_module_level=True)

SOLVER = 1e-6  # its solver writes eight digits to a file

# Solves as its command line does, and counts the processor time of the search, its solver processes with it.
DRIVER = """
import contextlib, io, json, os, sys
from experimental import cost_model as cm

size, prompt = sys.argv[1], int(sys.argv[2])
found, config = cm.get_opt_config("facebook/opt-" + size.lower()), cm.CostModelConfig()
config.l, config.h1, config.h2 = found.num_hidden_layers, found.hidden_size, found.ffn_embed_dim
config.nh, config.s, config.n = found.n_head, prompt, 32
config.gmem, config.cmem, config.nmem = (n * 2**30 for n in (16, 200, 1500))
free = dict.fromkeys(("wg", "wc", "cg", "cc", "hg", "hc", "percent", "gbs", "num_gb", "compress_w"))
began = sum(os.times()[:4])
with contextlib.redirect_stdout(io.StringIO()):
    policy, tokens_per_s = cm.solve(config, cm.solve_lp, free)
took = sum(os.times()[:4]) - began
fields = {name: getattr(policy, name) for name in vars(policy) if name.endswith(("percent", "size", "batches"))}
print(json.dumps({"policy": fields, "tokens_per_s": tokens_per_s, "seconds": took}))
"""


@cache
def flexgen(size: str, prompt: int) -> Any:
    """What the package answers."""
    command = [sys.executable, "-c", DRIVER, size, str(prompt)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(("size", "prompt"), CASES)
def test_our_policy_is_never_worse_than_the_package_s(size: str, prompt: int) -> None:
    answer, (optimum, _) = flexgen(size, prompt), ours(size, prompt)
    assert 32 / optimum.seconds_per_prompt >= answer["tokens_per_s"] * (1 - SOLVER)


@pytest.mark.parametrize(("size", "prompt"), CASES)
def test_ours_is_found_5_times_faster(size: str, prompt: int) -> None:
    """Case by case, in processor time; other work on the machine slows either, so the best of three pairs."""
    times = []
    while len(times) < 3 and max(times, default=0) < 5:
        theirs_s = flexgen.__wrapped__(size, prompt)["seconds"]
        times.append(theirs_s / min(ours.__wrapped__(size, prompt)[1] for _ in range(3)))
    print(f"{size}, prompt {prompt}: {times} times")
    assert max(times) >= 5


@pytest.mark.parametrize(("size", "prompt"), CASES)
def test_our_model_of_the_reference_is_the_reference(size: str, prompt: int) -> None:
    """Its policy takes as long by our model as by its own, and our version of its search finds as much."""
    answer = flexgen(size, prompt)
    given = answer["policy"]
    shares = {name: 100 * value for name, value in given.items() if name.endswith("percent")}  # it means fractions
    for what in ("w", "cache", "act"):  # its solver's 1 may be a little more
        shares[f"{what}_cpu_percent"] = min(shares[f"{what}_cpu_percent"], 100 - shares[f"{what}_gpu_percent"])
    policy = Policy(gpu_batch_size=given["gpu_batch_size"], num_gpu_batches=given["num_gpu_batches"], **shares)
    assert 32 / judged(ReferenceModel(size, s=prompt), policy) == pytest.approx(answer["tokens_per_s"], rel=1e-4)
    assert 32 / theirs(size, prompt)[0].seconds_per_prompt == pytest.approx(answer["tokens_per_s"], rel=1e-4)
