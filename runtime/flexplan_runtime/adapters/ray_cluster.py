"""A Ray cluster: found or started, and held against what a fixed pool of workers needs before anything waits for it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

from flexplan.errors import UsageError

RESTARTS = 2  # of a worker that died: a batch that kills it three times kills it always
START_S = 300.0  # until workers are there: their resources free, their libraries imported
ANSWER_S = 10.0  # for the first machine of a cluster to be heard
HERE = "local"
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what is wrong comes as an exception, and is said once
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that is left behind makes no cluster of its own
}


@dataclass(frozen=True)
class Pool:
    """So many workers, and what each has for itself."""

    size: int
    cpus: int
    gpus: int


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster: to this address, to RAY_ADDRESS, or to one of this machine alone, made for it.

    One that the program has already is used and left.  Raises UsageError where there is none.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or HERE
    _refuse_silent(address)
    _connect(address)
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_silent(address: str) -> None:
    """Raise UsageError where nobody answers: Ray itself would try for a quarter of an hour, and say nothing."""
    if address in (HERE, "auto"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UsageError:
    message = f"no Ray cluster answers at {address}: {str(error).strip().partition(chr(10))[0]}"
    return UsageError("FP154", message, fix="give --ray-address HOST:PORT of a running one, or leave it out")


def _connect(address: str) -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    mine = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == HERE else {}
    main = threading.current_thread() is threading.main_thread()
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **mine)
    except Exception as error:
        raise _no_cluster(address, error) from error
    finally:
        for number, handler in heard.items():  # Ray's own would end the job before its lines are safe
            signal.signal(number, handler)


def nodes() -> list[Mapping[str, float]]:
    """The resources of each machine of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def pool_of(machines: Sequence[Mapping[str, float]], workers: int | None, device: str | None) -> Pool:
    """A worker a GPU, without GPUs one a machine, or as many as are asked for; each with as many CPUs as all can have.

    Raises UsageError where they do not fit: Ray would wait for machines that never come.

    >>> pool_of([{"CPU": 8.0}, {"CPU": 4.0}], None, None)
    Pool(size=2, cpus=4, gpus=0)
    >>> pool_of([{"CPU": 8.0, "GPU": 2.0}], None, None)
    Pool(size=2, cpus=4, gpus=1)
    """
    num_gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    gpus = int(device != "cpu" and (num_gpus > 0 or device is not None))
    size = workers or (num_gpus if gpus else sum(machine.get("CPU", 0) >= 1 for machine in machines))
    most = int(max((machine.get("CPU", 0) for machine in machines), default=0))
    for cpus in range(most, 0, -1):
        if size and sum(_room(machine, cpus, gpus) for machine in machines) >= size:
            return Pool(size, cpus, gpus)
    have = f"{int(sum(machine.get('CPU', 0) for machine in machines))} CPUs and {num_gpus} GPUs"
    each = "a CPU and a GPU" if gpus else "a CPU"
    raise UsageError(
        "FP155",
        f"{size or 'some'} workers need {each} each, the cluster has {have} on {len(machines)} machines",
        fix="lower --workers, add machines, or start Ray with more (ray start --num-cpus)",
    )


def without(machines: Sequence[Mapping[str, float]], cpus: int) -> list[Mapping[str, float]]:
    """The machines with CPUs kept free for other tasks, one after the other of whichever has most.

    >>> without([{"CPU": 4.0}, {"CPU": 2.0}], 2)
    [{'CPU': 2.0}, {'CPU': 2.0}]
    """
    left = [dict(machine) for machine in machines]
    for _ in range(cpus if left else 0):
        most = max(left, key=lambda machine: machine.get("CPU", 0))
        most["CPU"] = max(0.0, most.get("CPU", 0) - 1)
    return list(left)


def _room(machine: Mapping[str, float], cpus: int, gpus: int) -> int:
    """Workers of this size that one machine has room for."""
    by_cpus = int(machine.get("CPU", 0) // cpus)
    return min(by_cpus, int(machine.get("GPU", 0))) if gpus else by_cpus


def mapped(dataset: Any, worker: type, given: tuple[Any, ...], pool: Pool, rows: int) -> Any:
    """A Dataset of what the workers of a pool make of batches of so many rows."""
    dataset.context.wait_for_min_actors_s = int(START_S)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args")  # until 2.64 nothing else bounds restarts
        return dataset.map_batches(
            worker,
            batch_size=rows,
            compute=ray.data.ActorPoolStrategy(size=pool.size),
            fn_constructor_args=given,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            ray_remote_args_fn=_restarts,
        )


def _restarts() -> dict[str, Any]:
    return {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}


def taken_by_others(pool: Pool) -> str:
    """What other jobs of the cluster have, where that leaves too little for the pool now; else nothing."""
    free = ray.available_resources()
    needed = {"CPU": pool.size * pool.cpus, "GPU": pool.size * pool.gpus}
    lacking = [
        f"{free.get(what, 0):g} of {count} {what}s" for what, count in needed.items() if free.get(what, 0) < count
    ]
    return " and ".join(lacking)
