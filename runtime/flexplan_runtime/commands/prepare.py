"""A request made ready: everything that can be refused is refused here, before weights are loaded."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from flexplan.errors import FlexplanError, InfeasiblePlan, ModelFilesError, PolicyError, PromptError, UsageError
from flexplan.hardware import Hardware, hardware_from
from flexplan.job import RunRequest
from flexplan.model import ModelConstants, ModelShape
from flexplan.model.checkpoint import verify_lock
from flexplan.model.places import directory_of
from flexplan.plan import Plan, refuse_endless, refuse_over_budget
from flexplan.policy import Policy
from flexplan.problem import Expectation, Problem, Workload
from flexplan.problem.prompts import Lengths, Prompt, Wishes
from flexplan.sandbox import schedule_of
from flexplan.simulation import peak_bytes
from flexplan.units import format_size
from flexplan_runtime.commands.refused import Refused
from flexplan_runtime.commands.requests import Requests
from flexplan_runtime.execute import ExecutionEnv, Sampling
from flexplan_runtime.generate import Tokenizer, wrong_with
from flexplan_runtime.measure import fingerprint
from flexplan_runtime.memory import Ledger, refuse_beyond, room
from flexplan_runtime.weights import DUMMY, OpenedModel, dtype_of, open_model, refuse_other_model, resolve_model

_UNLIMITED = 1 << 60
_AT_ONCE = 1000  # prompts that are in memory as text


@dataclass(frozen=True)
class Ready:
    """A request with its model found, its prompts in token ids, and its environment."""

    request: RunRequest
    policy: Policy
    schedule: str
    sampling: Sampling
    weights: str | Path
    opened: OpenedModel
    dtype: torch.dtype
    tokenizer: Tokenizer
    requests: Requests
    env: ExecutionEnv
    places: Sequence[int]  # of each request in the input, rising
    most: int  # new tokens of any of them
    refused: Refused = field(default_factory=Refused)  # prompts that cannot be run

    @property
    def shape(self) -> ModelShape:
        """Of the model in this dtype."""
        return self.opened.shape.with_dtype(self.dtype.itemsize)

    @property
    def new_tokens(self) -> list[int]:
        """The most of each request."""
        usual = self.request.max_new_tokens
        return [self.requests.wishes(at).max_new_tokens or usual for at in range(len(self.requests))]

    @property
    def stops(self) -> tuple[int, ...]:
        """Ids that end a row."""
        return tuple(self.opened.math.eos_token_ids) if self.request.stop_at_end_token else ()

    @property
    def expected(self) -> Expectation:
        """How long the plan expects answers to be; nothing where policy fields came without a problem."""
        given = self.request.policy
        return given.problem.workload.expected if isinstance(given, Plan) else Expectation()

    def problem(self, hardware: Hardware | None = None) -> Problem:
        """The problem of these very prompts, under the budgets of the request."""
        lens, most = list[int](), list[int]()
        for at, length in enumerate(self.requests.ids.lens):
            wishes = self.requests.wishes(at)
            lens += [length] * wishes.n
            most += [wishes.max_new_tokens or self.request.max_new_tokens] * wishes.n
        workload = Workload(
            prompt_lens=tuple(lens),
            gen_lens=tuple(most),
            expected_lens=self.expected.lens,
            expected_prompts=self.expected.prompts,
        )
        sizes = {tier: _UNLIMITED if size is None else size for tier, size in self.env.ledger.budgets.items()}
        machine = hardware or hardware_from()
        if self.env.device.type == "cpu":  # no device keeps memory for itself
            machine = machine.model_copy(update={"gpu_overhead_bytes": 0})
        return Problem(model=self.shape, hardware=machine.with_budget(**sizes), workload=workload)

    def plan(self, hardware: Hardware | None = None) -> Plan:
        """The plan of these very prompts on ``hardware``, else on the plan's machine."""
        given = self.request.policy if isinstance(self.request.policy, Plan) else None
        problem = self.problem(hardware or (given.problem.hardware if given else None))
        return Plan.of(problem, self.policy, schedule=self.schedule, planner=given.planner if given else "manual")


def make_ready(request: RunRequest, *, runs_here: bool = True) -> Ready:
    """Check a request: command line and policy, then model files, then prompts against the model, then budgets.

    Prompts that cannot be run are put aside, unless that leaves none or the request is strict.  A request that other
    machines will run is not held against the memory of this one.
    """
    plan = request.policy if isinstance(request.policy, Plan) else None
    policy = plan.policy if plan else request.policy
    assert isinstance(policy, Policy)
    if request.block:
        policy = _of_block(policy, *request.block)
    env = environment(request)
    weights, directory = _find(request)
    opened = _open(request, weights)
    refuse_endless(opened.shape, policy, request.max_new_tokens)
    sampling = _sampling(request, opened.math)
    if plan:
        refuse_other_model(plan.problem.model, opened.shape)
        _warn_of_other_machine(plan, env.device)
    dtype = dtype_of(request.dtype, opened.math)
    shape = opened.shape.with_dtype(dtype.itemsize)
    tokenizer = Tokenizer(directory)
    schedule = plan.schedule if plan else "zigzag"
    prompts = request.prompts or random_prompts(request, _rows_of(policy, plan), shape)
    taken = _take_prompts(request, Requests(request, prompts, opened.math.rules), tokenizer, shape)
    ready = Ready(
        request,
        policy,
        schedule,
        sampling,
        weights,
        opened,
        dtype,
        tokenizer,
        taken.requests,
        env,
        taken.places,
        taken.most,
        taken.refused,
    )
    if ready.requests and runs_here:
        _refuse_over_budget(ready, plan.problem.hardware if plan else None)
    return ready


def _of_block(policy: Policy, rows: int, batches: int) -> Policy:
    message = f"blocks are {rows} rows x {batches}, no longer {policy.gpu_batch_size} x {policy.num_gpu_batches}:"
    warnings.warn(f"{message} memory ran out in an earlier run; another policy begins anew", stacklevel=2)
    return replace(policy, gpu_batch_size=rows, num_gpu_batches=batches)


class Taken(NamedTuple):
    """The requests that are to be run, and the prompts that cannot be."""

    requests: Requests
    places: Sequence[int]
    most: int
    refused: Refused


def _take_prompts(job: RunRequest, requests: Requests, tokenizer: Tokenizer, shape: ModelShape) -> Taken:
    """A thousand at a time: of a million only what is small is kept."""
    prompts = requests.prompts
    places = job.places or range(len(prompts))
    left = array("Q", (n for n in range(len(prompts)) if places[n] not in job.skip))
    good, refused, most = array("Q"), Refused(), 1
    for first in range(0, len(left), _AT_ONCE):
        few = left[first : first + _AT_ONCE]
        some = [prompts[n] for n in few]
        for n, prompt, ids in zip(few, some, tokenizer.tried(some), strict=True):
            new_tokens = prompt.max_new_tokens or job.max_new_tokens
            error = _refusal(requests, prompt, ids, new_tokens, shape, tokenizer.tells)
            if error is not None:
                refused.add(n, places[n], error)
                continue
            assert not isinstance(ids, FlexplanError)
            requests.add(n, prompt, ids)
            good.append(places[n])
            most = max(most, new_tokens)
        if refused.first and (job.strict or len(refused) == len(prompts)):
            raise refused.first
    tokenizer.close()
    return Taken(requests, good, most, refused)


def _refusal(
    requests: Requests, prompt: Prompt, ids: list[int] | FlexplanError, new_tokens: int, shape: ModelShape, tells: bool
) -> FlexplanError | None:
    """Why a prompt cannot be run, if so; ``tells``: there is a tokenizer, and answers will have text."""
    if isinstance(ids, FlexplanError):
        return ids
    if prompt.content == "":  # a tokenizer may put a token before it: an answer to nothing that was asked
        fix = "leave it out; for an answer from the first token on, give that one in prompt_ids"
        return PromptError("FP328", f"line {prompt.line}: the prompt is empty", fix=fix)
    if prompt.wishes.stop and not tells:
        message = f"line {prompt.line}: stop texts {prompt.wishes.stop!r:.60} need a tokenizer, and there is none"
        return PromptError("FP325", message, fix="give stop_token_ids, or a directory with its tokenizer")
    try:
        return wrong_with(requests.made(ids, prompt.wishes), f"line {prompt.line}: the prompt", new_tokens, shape)
    except UsageError as error:
        return error


def _sampling(request: RunRequest, math: ModelConstants) -> Sampling:
    """Of lines that do not say; those that draw by themselves take what the flags say of draws, too."""
    asked = request.temperature, request.top_k, request.top_p
    if request.do_sample:
        return Sampling.of(math.rules, True, *asked, request.seed)
    Sampling(True, *asked)  # or is refused here
    return Sampling.of(math.rules, None, seed=request.seed)


def environment(request: RunRequest) -> ExecutionEnv:
    """The tiers that a request asks for."""
    budgets: Mapping[str, int | None] = request.budgets
    return ExecutionEnv.create(
        request.offload_dir,
        gpu_mem=budgets.get("gpu"),
        cpu_mem=budgets.get("cpu"),
        disk_mem=budgets.get("disk"),
        device=request.device,
    )


def _rows_of(policy: Policy, plan: Plan | None) -> int:
    """A block's; of a rolling plan no more than it was made for, as all that have a seat come in at once."""
    planned = plan.problem.workload.num_prompts if plan and plan.schedule == "rolling" else None
    return min(policy.block_size, planned or policy.block_size)


def random_prompts(request: RunRequest, rows: int, shape: ModelShape) -> tuple[Prompt, ...]:
    """Distinct prompts of random tokens, as many as rows, or as lengths were given."""
    if request.dummy_lengths is not None:
        return _random_of(request.dummy_lengths, request.seed, shape)
    longest = shape.max_positions - request.max_new_tokens
    length = request.dummy_prompt_len or max(1, min(512, longest))
    if length > max(1, longest):
        asked = f"--prompt-len {length} + {request.max_new_tokens} new tokens"
        message = f"{asked}, {shape.name} reads {shape.max_positions}"
        raise UsageError("FP173", message, fix="lower --prompt-len or --max-new-tokens")
    generator = torch.Generator().manual_seed(request.seed % (1 << 63))
    found = torch.randint(shape.vocab_size, (rows, length), generator=generator).tolist()
    return tuple(Prompt(n, tuple(ids), n + 1) for n, ids in enumerate(found))


def _random_of(lengths: Lengths, seed: int, shape: ModelShape) -> tuple[Prompt, ...]:
    generator = torch.Generator().manual_seed(seed % (1 << 63))
    found = []
    for n, (length, most) in enumerate(zip(lengths.prompt_lens, lengths.gen_lens, strict=True)):
        ids = torch.randint(shape.vocab_size, (length,), generator=generator).tolist()
        found.append(Prompt(n, tuple(ids), n + 1, Wishes(max_new_tokens=most)))
    return tuple(found)


def _find(request: RunRequest) -> tuple[str | Path, Path | None]:
    """Where the weights are, and where a tokenizer may be."""
    if request.dummy:
        if request.locked:
            fix = "leave --locked or --dummy out"
            raise UsageError("FP181", "--locked with --dummy: random weights have no files", fix=fix)
        given = directory_of(Path(request.model).expanduser())
        return DUMMY, given if given.is_dir() else None
    directory = resolve_model(request.model)
    if request.locked:
        verify_lock(directory)
    return directory, directory


def _open(request: RunRequest, weights: str | Path) -> OpenedModel:
    try:
        return open_model(request.model, weights, request.seed)
    except PolicyError:
        raise
    except UsageError as error:  # a name nobody knows: a bad model here, where solve would call it a bad question
        raise ModelFilesError("FP533", error.message, fix=f"give --model: {error.fix}") from error


def _refuse_over_budget(ready: Ready, planned: Hardware | None) -> None:
    """By the budgets that were asked for, and by what containers and the process itself are limited to.

    What a device keeps for itself is what it is on the machine that was planned for.
    """
    ledger = ready.env.ledger
    if all(size is None for size in ledger.budgets.values()) and room() is None:
        return
    problem = ready.problem(planned)
    schedule = schedule_of(ready.schedule)
    need = peak_bytes(problem, ready.policy, schedule)
    refuse_over_budget(need, problem, blamed=lambda: _longest(ready))
    host = need["cpu"] + (need["disk"] if ledger.disk_in_memory else 0)
    _refuse_disk_in_memory(need, host, ledger)
    refuse_beyond(host + (need["gpu"] if ready.env.device.type == "cpu" else 0), "the plan")


def _longest(ready: Ready) -> tuple[str, str]:
    """The longest request and how it is made shorter, where it is longer than what was planned for, or than others."""
    lens, most = ready.requests.ids.lens, ready.new_tokens
    if ready.request.prompts is None:
        return "", ""
    at = max(range(len(lens)), key=lambda n: lens[n] + most[n])
    given = ready.request.policy
    if isinstance(given, Plan):
        work = given.problem.workload
        usual, others = work.prompt_len + work.gen_len, f"the plan is for {work.prompt_len} + {work.gen_len}"
    else:
        usual = min(length + new for length, new in zip(lens, most, strict=True))
        others = f"the shortest has {usual} together"
    if lens[at] + most[at] <= usual:
        return "", ""
    prompt = ready.requests.prompt(at)
    why = f"; the longest request, line {prompt.line} (id {prompt.id!r:.60}), has {lens[at]} tokens + {most[at]} new"
    knob = "--max-new-tokens" if prompt.max_new_tokens is None else f"the max_tokens of line {prompt.line}"
    return f"{why}, {others}", f"; or lower {knob}, shorten line {prompt.line} or leave it out"


def _refuse_disk_in_memory(need: Mapping[str, int], host_bytes: int, ledger: Ledger) -> None:
    budget = ledger.budgets.get("cpu")
    if ledger.disk_in_memory is None or budget is None or host_bytes <= budget:
        return
    what = f"the disk tier's {format_size(need['disk'])} beside {format_size(need['cpu'])} of the host's"
    raise InfeasiblePlan(
        "FP409",
        f"--offload-dir {ledger.disk_in_memory} lies in host memory (tmpfs): {what}, --cpu-mem {format_size(budget)}",
        fix="give an --offload-dir on a disk, or raise --cpu-mem",
        binding=("cpu",),
    )


def _warn_of_other_machine(plan: Plan, device: torch.device) -> None:
    made_for, here = plan.problem.hardware, fingerprint(device)
    if not made_for.preset and made_for.fingerprint != here:
        warnings.warn(f"the plan was made for {made_for.fingerprint}, this is {here}", stacklevel=2)
