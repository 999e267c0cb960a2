"""The command that takes batches over HTTP."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flexplan.cli import options as opt

# the command line in a process that is told to end (by prctl's PR_SET_PDEATHSIG) when its server has
_JOB = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() == int(sys.argv.pop(1)):
    sys.argv[0] = "flexplan"
    from flexplan.cli.app import main
    main()
"""


def serve(
    policy: opt.PolicyFile,
    model: opt.RunModel = None,
    gpu_mem: opt.GpuMem = None,
    cpu_mem: opt.CpuMem = None,
    disk_mem: opt.DiskMem = None,
    offload_dir: opt.OffloadDir = Path("offload"),
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    packed_cache: opt.PackedCache = None,
    max_new_tokens: opt.MaxNewTokens = None,
    seed: opt.Seed = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 is any that is free.")] = 8000,
    state: Annotated[
        Path, typer.Option(metavar="DIR", help="Where files and batches are kept, through restarts.")
    ] = Path("batches"),
) -> None:
    """Take batches as OpenAI's API does: /v1/files and /v1/batches, on this machine only."""
    from flexplan.job import budget_bytes, request_of
    from flexplan.plan import load_policy
    from flexplan.serve.server import serve as take_batches

    budgets = {"gpu_mem": gpu_mem, "cpu_mem": cpu_mem, "disk_mem": disk_mem}
    sizes = budget_bytes({name.removesuffix("_mem"): size for name, size in budgets.items()})
    chosen, tokens = load_policy(policy), max_new_tokens
    request_of(chosen, model, sizes, max_new_tokens=tokens, dummy_prompt_len=None, packed_cache=packed_cache)
    given = {
        "model": model,
        **budgets,
        "offload_dir": offload_dir,
        "device": device,
        "dtype": dtype,
        "packed_cache": packed_cache,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
    program = (sys.executable, "-c", _JOB, str(os.getpid()), "run", policy, *flags)
    take_batches(program, state, port)
