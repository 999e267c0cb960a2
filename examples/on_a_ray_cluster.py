"""A pipeline on a Ray cluster: requests from a file, answers of a fixed pool of workers, resumed by their ids.

    python examples/on_a_ray_cluster.py                          # two workers on this machine
    python examples/on_a_ray_cluster.py HOST:6379 DIRECTORY      # on a running cluster, of which all reach DIRECTORY

The model is the embedded one.  Run again with the same DIRECTORY it answers only what is not answered there.  Needs
flexplan's extra `ray`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import ray
from flexplan_runtime.adapters.ray_data import complete, keep_checkpoint, read_requests
from flexplan_runtime.embedded import tiny_opt_path

from flexplan import Policy
from flexplan.job import RunRequest

TEXT = "The with statement is used to wrap a block of code . An exception is raised when a value is missing"
NUM_REQUESTS, WORKERS = 32, 2
BLOCKS = 8  # of Ray: parts that the requests are read in, which no plan knows of
POLICY = Policy(gpu_batch_size=2, num_gpu_batches=2, w_gpu_percent=50, w_cpu_percent=50)


def write_requests(file: Path) -> None:
    """What would come from elsewhere: JSON lines, each with an id."""
    words = TEXT.split()
    prompts = (" ".join(words[n % 12 : n % 12 + 3 + n % 4]) for n in range(NUM_REQUESTS))
    file.write_text("".join(json.dumps({"id": f"r{n}", "prompt": text}) + "\n" for n, text in enumerate(prompts)))


def main(address: str | None = None, directory: str | None = None) -> None:
    """Read, complete, write."""
    place = Path(directory or tempfile.mkdtemp(prefix="flexplan-example-"))
    if not (place / "requests.jsonl").exists():
        write_requests(place / "requests.jsonl")
    ray.init(address=address or "local", **({} if address else {"num_cpus": WORKERS + 2, "include_dashboard": False}))
    keep_checkpoint(str(place / "done"))
    request = RunRequest(POLICY, str(tiny_opt_path()), max_new_tokens=8, offload_dir=place / "offload", device="cpu")
    answers = complete(read_requests(str(place / "requests.jsonl"), BLOCKS), request, workers=WORKERS)
    answers.write_json(str(place / "answers"))
    lines = [line for file in sorted((place / "answers").glob("*.json")) for line in file.read_text().splitlines()]
    print(json.loads(lines[0]))
    print(f"{len(lines)} answers in {place / 'answers'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
