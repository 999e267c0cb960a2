"""flexplan as a step of a Ray Data pipeline: rows of requests in, rows of answers out, on a fixed pool of workers.

::

    requests = read_requests("s3://bucket/requests.parquet", num_blocks=64)
    keep_checkpoint("s3://bucket/done")
    answers = complete(requests, RunRequest(load_policy("policy.json"), "facebook/opt-30b"))
    answers.write_json("s3://bucket/answers")

A block is the unit in which Ray hands out work, writes and resumes.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
from ray.data.checkpoint import CheckpointConfig

from flexplan.errors import FlexplanError, PromptError, UsageError
from flexplan.job import RunRequest
from flexplan.plan import Plan
from flexplan.problem.prompts import Prompt, Prompts, read_prompts
from flexplan_runtime.adapters.ray_cluster import mapped, nodes, pool_of, without
from flexplan_runtime.adapters.ray_worker import Told, Worker

ID = "id"
_OF_RAY = 1  # CPUs for tasks that read and write
_OF_RESUMING = 1  # and for the actor that leaves out what is done
_DIES_ON_RESUME = "PandasJSON"  # the reader of read_json(lines=True)


def read_requests(paths: str | list[str], num_blocks: int) -> Any:
    """A Dataset of Parquet files or JSON lines, cut into so many blocks, however small the files are.

    Left to itself Ray makes one block of small files, and one worker runs it whole.
    """
    first = paths if isinstance(paths, str) else paths[0]
    reads = ray.data.read_json if ".json" in first else ray.data.read_parquet
    return reads(paths, override_num_blocks=num_blocks)


def keep_checkpoint(path: str, id_column: str = ID) -> None:
    """Leave out, by their ids, the rows that an earlier run has written; for all datasets that this process makes next.

    ``path`` is one that every machine of the cluster reaches.
    """
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column=id_column, checkpoint_path=path, delete_checkpoint_on_success=False
    )


def complete(dataset: Any, request: RunRequest, *, workers: int | None = None, id_column: str = ID) -> Any:
    """A Dataset of answers: the id, ``text``, ``token_ids``, ``finish_reason``, ``num_prompt_tokens`` and ``error``.

    A row of requests is what a JSON line is to ``flexplan run``: an id, one of ``prompt``, ``prompt_ids`` and
    ``messages``, and what it asks for beside.  A bad row ends nothing: its ``error`` says why, which is "" elsewhere.
    ``request`` says of the policy, model and settings what the command line does; it has no prompts.  Raises
    UsageError where Ray would wait for ever: a pool that leaves it no CPU; or die: a reader that cannot be resumed.
    """
    _refuse(dataset, request)
    policy = request.policy.policy if isinstance(request.policy, Plan) else request.policy
    resumes = dataset.context.checkpoint_config is not None
    pool = pool_of(without(nodes(), _OF_RAY + _OF_RESUMING * resumes), workers, request.device)
    return mapped(dataset, RowWorker, (request, id_column), pool, policy.block_size)


def _refuse(dataset: Any, request: RunRequest) -> None:
    if request.prompts:
        raise UsageError("FP158", "a request with prompts for a pipeline", fix="give them as rows of the dataset")
    if dataset.context.checkpoint_config is None:
        return
    for step in _steps(dataset._logical_plan.dag):
        if _DIES_ON_RESUME in getattr(step, "name", ""):
            message = "a dataset of read_json(lines=True) with a checkpoint: Ray fails when it is resumed"
            raise UsageError("FP159", message, fix="leave lines=True out, or read Parquet: read_requests does")


def _steps(last: Any) -> Iterator[Any]:
    yield last
    for before in last.input_dependencies:
        yield from _steps(before)


class RowWorker(Worker):
    """Called by Ray Data with batches of rows; raises what is not one row's fault."""

    def __init__(self, request: RunRequest, id_column: str) -> None:
        super().__init__(request)
        self._id_column = id_column

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        prompts = _prompts_of(rows, self._id_column)
        answers = [_answer(None, None)] * len(rows)
        for line in prompts.bad:
            answers[line.place] = _answer(None, line.error)
        part = list[tuple[int, Prompt]]()
        for place, prompt in zip(prompts.places, prompts, strict=True):
            error = _refusal(prompt)
            if error is None:
                part.append((place, prompt))
            else:
                answers[place] = _answer(None, error)
        for place, completion, failure in self._told(part):
            answers[place] = _answer(completion, failure)
        ids = np.array([row.get(self._id_column, n) for n, row in enumerate(rows)])
        return {self._id_column: ids, **{name: [one[name] for one in answers] for name in answers[0]}}

    def _told(self, part: Sequence[tuple[int, Prompt]]) -> Iterator[tuple[int, Any, FlexplanError | None]]:
        told = self.complete(part) if part else Told().all
        if len(part) > 1 and any(what == "broken" and isinstance(words[0], PromptError) for what, words in told):
            for one in part:  # all of them are bad, each in its own way
                yield from self._told([one])
            return
        for what, words in told:
            if what == "broken" and not isinstance(words[0], PromptError):
                raise words[0]
            if what == "broken":
                yield part[0][0], None, words[0]
            elif what == "warned":
                warnings.warn(words[0], stacklevel=2)
            elif what in ("ended", "failed"):
                yield words[0], words[1], words[2] if what == "failed" else None


def _refusal(prompt: Prompt) -> PromptError | None:
    """Why a row has no place for what it asks for, if so."""
    asked = {"n": prompt.wishes.n > 1, "logprobs": prompt.wishes.logprobs is not None}
    wrong = [name for name, given in asked.items() if given]
    if not wrong:
        return None
    message = f"{' and '.join(wrong)} cannot be honoured in a pipeline, whose rows have one answer each"
    return PromptError("FP326", message, fix="leave it out, or give the requests to flexplan run --ray")


def _prompts_of(rows: Sequence[Mapping[str, Any]], id_column: str) -> Prompts:
    """By the door that a file of prompts goes through."""
    with tempfile.TemporaryDirectory(prefix="flexplan-") as place:
        file = Path(place, "rows.jsonl")
        file.write_text("".join(json.dumps(_plain(row, id_column)) + "\n" for row in rows))
        return read_prompts(str(file), "jsonl", strict=False)


def _plain(row: Mapping[str, Any], id_column: str) -> dict[str, Any]:
    """Without what a column has no value for, which a row of a table cannot leave out.

    Nor with a proper id: another of the dataset may well have the same, and they meet in a batch by chance.
    """
    named = {
        ("id" if name == id_column else name): getattr(value, "tolist", lambda v=value: v)()
        for name, value in row.items()
    }
    if isinstance(named.get("id"), str | int) and not isinstance(named["id"], bool):
        del named["id"]
    return {name: value for name, value in named.items() if value is not None}


def _answer(completion: Any, error: FlexplanError | None) -> dict[str, Any]:
    said = "" if error is None else f"{error.code}: {error.message}"
    if completion is None:
        return {"text": None, "token_ids": [], "finish_reason": "error", "num_prompt_tokens": 0, "error": said}
    return {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.choices[0].finish_reason if completion.choices else "error",
        "num_prompt_tokens": completion.num_prompt_tokens,
        "error": said,
    }
