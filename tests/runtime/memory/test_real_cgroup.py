"""A limit of a real container below the plan: numbers and exit code 7, not the kernel's bare kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexplan.units import MiB

VERSION_1, VERSION_2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
PROGRAM = "import sys; sys.argv[0] = 'flexplan'; from flexplan.cli.app import main; main()"


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of this machine's with 900 MiB, where this user may make one."""
    parent, limit = (VERSION_1, "memory.limit_in_bytes") if VERSION_1.is_dir() else (VERSION_2, "memory.max")
    made = parent / f"flexplan-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError:
        pytest.skip("may not make a cgroup here")
    try:
        try:
            (made / limit).write_text(str(900 * MiB))
        except OSError:
            pytest.skip("may not limit the memory of a cgroup here")
        yield made
    finally:
        made.rmdir()


def test_a_real_limit_below_the_plan_is_refused_with_numbers(group: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"gpu_batch_size": 1}))
    args = ["run", policy, "--model", "facebook/opt-1.3b", "--dummy", "--device", "cpu", "-o", tmp_path / "out.jsonl"]
    args += ["--prompt-len", 8, "--max-new-tokens", 2, "--offload-dir", tmp_path / "off"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    inside = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
    command = ["bash", "-c", inside, "-", sys.executable, "-c", PROGRAM, *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    if "write error" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("may not put a process into a cgroup here")
    assert done.returncode == 7, (done.returncode, done.stderr)
    for word in ("FP710", group.name, "900.00 MiB", "GiB", "--cpu-mem"):
        assert word in done.stderr, done.stderr
    assert "loading weights" not in done.stderr and not (tmp_path / "out.jsonl").exists()
