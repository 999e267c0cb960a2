"""A plan as arguments of llama.cpp: ``--n-gpu-layers`` and ``--override-tensor`` over the names of a GGUF file.

All layers are given to the GPU (whether N layers count the output differs between versions, all of them is the
same in each); then matrices are taken back by name, whole ones: first those of the feed-forward, which need no
cache, then those of attention, from the first layer on, and the output last.
"""

from __future__ import annotations

from collections.abc import Mapping

from flexplan.export.base import DENSE, Export, asked_percents, no_counterpart, percents, refuse
from flexplan.export.module_names import LLAMA_LIKE, gguf_group
from flexplan.model import weight_tensors
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Problem

SYSTEM = "llama.cpp"
MOST_SEQUENCES = 256  # that llama.cpp is compiled for; 64 in older ones

Unit = tuple[str, int]  # a group of matrices and their layer

_NO_DISK = {"w_disk_percent": 0.0, "cache_disk_percent": 0.0}
_NAMES = {"ffn": r"ffn_(gate|up|down)(_exps)?\.weight", "attn": r"attn_(q|k|v|output)\.weight"}


def llama_cpp_arguments(plan: Plan) -> Export:
    """Arguments of llama-server, llama-cli and their like; the shares are those of a file with one type of matrix.

    ``free_bytes`` is what the plan leaves of each budget.  Raises PolicyError for what has no counterpart.
    """
    problem, policy, free_bytes = plan.problem, plan.policy, plan.free_bytes
    family = problem.model.family
    if family not in LLAMA_LIKE:
        raise no_counterpart(SYSTEM, f"the family {family}", f"it reads {', '.join(LLAMA_LIKE)}")
    refuse(SYSTEM, policy, _NO_DISK, "plan with --disk-mem 0")
    refuse(SYSTEM, policy, DENSE)
    sizes = _unit_bytes(problem)
    whole = sum(sizes.values())
    due = {"gpu": policy.shares("w")[0] * whole, "cpu": policy.shares("w")[1] * whole}
    taken = _taken_back(sizes, due["gpu"], due["gpu"] + free_bytes["gpu"])
    on_host = sum(sizes[unit] for unit in taken)
    home = "gpu" if policy.cache_gpu_percent >= 50 else "cpu"
    spare = free_bytes[home] + due[home] - (whole - on_host if home == "gpu" else on_host)
    running = _sequences(problem, policy, home, spare)
    tokens = running * (problem.workload.prompt_len + problem.workload.gen_len)
    words = ["--n-gpu-layers", str(problem.model.num_layers + 1 if on_host < whole else 0)]
    for pattern in _patterns(taken) if on_host < whole else ():
        words += ["--override-tensor", f"{pattern}=CPU"]
    words += [] if home == "gpu" else ["--no-kv-offload"]
    words += ["--parallel", str(running), "--ctx-size", str(tokens)]
    given = {"w": percents((whole - on_host, on_host, 0)), "cache": percents((home == "gpu", home == "cpu", 0))}
    return Export(SYSTEM, words, asked_percents(policy), given, _differences(policy, running))


def _unit_bytes(problem: Problem) -> dict[Unit, int]:
    """Bytes of everything that is moved as one, in the order of moving; vectors and routers go last."""
    sizes: dict[Unit, int] = {}
    for group in ("token_embd", "ffn", "attn", "output", "small"):
        for tensor in weight_tensors(problem.model):
            if gguf_group(tensor) == group:
                layer = problem.model.num_layers if group == "small" else tensor.layer
                sizes[group, layer] = sizes.get((group, layer), 0) + tensor.nbytes
    return sizes


def _taken_back(sizes: Mapping[Unit, int], due: float, most: float) -> list[Unit]:
    """The units that stay on the host, the token table always: what is left comes nearest to what is due on the GPU."""
    on_gpu, taken = sum(sizes.values()), list[Unit]()
    for unit, nbytes in sizes.items():
        if unit[0] != "token_embd" and on_gpu <= most and abs(on_gpu - due) <= abs(on_gpu - nbytes - due):
            break
        taken.append(unit)
        on_gpu -= nbytes
    return taken


def _patterns(taken: list[Unit]) -> list[str]:
    r"""One expression a group: ``blk\.(0|1)\.ffn_(gate|up|down)(_exps)?\.weight``."""
    layers = {group: "|".join(str(layer) for unit, layer in taken if unit == group) for group in _NAMES}
    found = [rf"blk\.({layers[group]})\.{name}" for group, name in _NAMES.items() if layers[group]]
    return [*found, r"^output\.weight"] if any(unit == "output" for unit, _ in taken) else found


def _sequences(problem: Problem, policy: Policy, home: str, spare: float) -> int:
    """How many sequences have room for their whole cache on one tier, where the plan leaves ``spare`` bytes of it."""
    tokens, model = problem.workload.prompt_len + problem.workload.gen_len, problem.model
    each = tokens * model.kv_bytes_per_token  # of a window, too, llama.cpp's Llama keeps all
    there = policy.shares("cache")[home == "cpu"] * policy.block_size * model.cache_bytes(tokens)
    running = min(policy.block_size, MOST_SEQUENCES, int((spare + there) / each + 1e-9))
    if running < 1:
        raise no_counterpart(SYSTEM, "a KV cache on two tiers", f"raise --{home}-mem: it needs all of a sequence there")
    return running


def _differences(policy: Policy, running: int) -> tuple[str, ...]:
    said = []
    if running < policy.block_size:
        said.append(f"llama.cpp runs {running} sequences at a time, the plan {policy.block_size}")
    if policy.w_gpu_percent < 100:
        said.append("llama.cpp computes with host weights where they are, the plan streams them to the GPU")
    if policy.cache_gpu_percent < 50 and not policy.cpu_cache_compute:
        said.append("llama.cpp attends on the host over a cache in host memory, the plan streams it")
    if policy.act_gpu_percent < 100:
        said.append("llama.cpp keeps activations where it computes")
    return tuple(said)
