"""Memory that gives out in a pass: the block's rows step back, and the job goes on in smaller blocks.

A row that had not ended begins again; draws depend on a prompt's number and the step, so it gets the same tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

import torch

from flexplan.errors import MemoryExhausted
from flexplan.graph import Timeline
from flexplan.policy import Policy
from flexplan_runtime.execute import forget_frames
from flexplan_runtime.generate.loop import Done

MOST_STEPS = 4  # to a sixteenth of the rows: what does not run then lacks something else
_SAID = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # by torch's and the device's libraries, untyped
_FIX = "lower gpu_batch_size or num_gpu_batches, solve again with smaller budgets, or end other programs there"

Attempt = Callable[[Sequence[int]], Iterator[Done | Timeline]]


def ran_out(error: BaseException) -> bool:
    """Was it memory that could not be had?"""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | MemoryExhausted):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _SAID)


def smaller(policy: Policy) -> Policy | None:
    """Half the rows of a micro-batch, which all of a block's memory depends on; else half the micro-batches.

    >>> [smaller(Policy(rows, batches)) for rows, batches in ((5, 3), (1, 3), (1, 1))] == [
    ...     Policy(2, 3), Policy(1, 1), None]
    True
    """
    if policy.gpu_batch_size > 1:
        return replace(policy, gpu_batch_size=policy.gpu_batch_size // 2)
    if policy.num_gpu_batches > 1:
        return replace(policy, num_gpu_batches=policy.num_gpu_batches // 2)
    return None


def stepping_back(
    attempt: Attempt, num_prompts: int, step_back: Callable[[int, str], None]
) -> Iterator[Done | Timeline]:
    """All prompts; those that have not ended are attempted anew after each ``step_back(how many before, why)``."""
    left: Sequence[int] = range(num_prompts)
    steps = 0
    while True:
        ended = bytearray(num_prompts)
        why = yield from _until_it_gives_out(attempt(left), ended)
        if why is None:
            return
        left = [n for n in left if not ended[n]]
        step_back(steps, why)  # outside of the handler, whose exception knows frames that know the memory
        steps += 1


def next_policy(policy: Policy, steps: int, why: str) -> Policy:
    """The policy to go on with, which is said; raises MemoryExhausted where there is none, or enough was tried."""
    found = smaller(policy)
    if found is None or steps >= MOST_STEPS:
        tried = f", also after {steps} times fewer" if steps else ""
        message = f"no memory for blocks of {_block(policy)}{tried}: {why}"
        raise MemoryExhausted("FP704", message, fix=_FIX)
    message = f"memory ran out ({why}); blocks are {_block(found)} from here on, no longer {_block(policy)}"
    warnings.warn(message, stacklevel=2)
    return found


def _block(policy: Policy) -> str:
    return f"{policy.gpu_batch_size} rows x {policy.num_gpu_batches}"


def _until_it_gives_out(
    run: Iterator[Done | Timeline], ended: bytearray
) -> Generator[Done | Timeline, None, str | None]:
    """A run, as far as memory reaches; returns what was lacking, in a line."""
    try:
        for one in run:
            if isinstance(one, Done):
                ended[one.index] = True
            yield one
    except Exception as error:
        if not ran_out(error):
            raise
        forget_frames(error)
        return str(error).strip().partition("\n")[0][:300] or type(error).__name__
    return None
