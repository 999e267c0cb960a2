"""What containers and ulimits leave of host memory: read off a tree of files, and kept before weights are loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flexplan_runtime.commands import prepare
from flexplan_runtime.execute import env
from flexplan_runtime.measure import machine
from flexplan_runtime.memory import Arenas, Ledger, arenas, host_limits, in_memory, room
from flexplan_runtime.memory.host_limits import Room
from policies import THREE_TIERS
from typer.testing import CliRunner, Result

from flexplan.cli.app import app
from flexplan.errors import InfeasiblePlan, MemoryExhausted, UsageError
from flexplan.units import GiB, MiB


class Kernel:
    """A /proc and a tree of cgroups, as directories."""

    def __init__(self, place: Path) -> None:
        self.proc, self.groups = place / "proc", place / "cg roup"
        (self.proc / "self").mkdir(parents=True)
        self.groups.mkdir()

    def mounted(self, kind: str, root: str = "/", options: str = "rw", group: str = "/") -> None:
        where = str(self.groups).replace(" ", "\\040")
        (self.proc / "self" / "mountinfo").write_text(
            f"30 23 0:26 {root} {where} rw,nosuid shared:9 - {kind} {kind} {options}\n"
        )
        number = "0::" if kind == "cgroup2" else "4:memory:"
        (self.proc / "self" / "cgroup").write_text(f"9:name=systemd:/else\n{number}{group}\n")

    def write(self, path: str, **files: object) -> None:
        directory = self.groups / path
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def left(kernel: Kernel) -> int | None:
    found = room(kernel.proc)
    return None if found is None else found.left_bytes


# -- reading -----------------------------------------------------------------------------------------------------
def test_the_tightest_group_of_version_2_up_the_tree_counts(kernel: Kernel) -> None:
    kernel.mounted("cgroup2", group="/a/b/c")
    kernel.write("a", memory__max=900 * MiB, memory__current=100 * MiB)
    kernel.write("a/b", memory__max="max", memory__current=0)
    kernel.write("a/b/c", memory__max=GiB, memory__current=50 * MiB)
    assert left(kernel) == 800 * MiB
    found = room(kernel.proc)
    assert found is not None and found.whose.endswith("a/memory.max") and found.limit_bytes == 900 * MiB


def test_a_soft_limit_of_version_2_counts_as_one(kernel: Kernel) -> None:
    kernel.mounted("cgroup2", group="/a")
    kernel.write("a", memory__max=GiB, memory__high=300 * MiB, memory__current=100 * MiB)
    assert left(kernel) == 200 * MiB


def test_what_the_kernel_takes_back_is_not_used(kernel: Kernel) -> None:
    kernel.mounted("cgroup2", group="/a")
    stat = f"anon 5\ninactive_file {60 * MiB}\nactive_file {30 * MiB}"
    kernel.write("a", memory__max=GiB, memory__current=100 * MiB, memory__stat=stat)
    assert left(kernel) == GiB - 10 * MiB


def test_version_1_has_a_limit_in_bytes_and_a_huge_number_for_none(kernel: Kernel) -> None:
    kernel.mounted("cgroup", options="rw,memory", group="/a/b")
    kernel.write("", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=7)
    assert room(kernel.proc) is None
    stat = f"total_cache 3\ntotal_inactive_file {MiB}\ntotal_active_file {MiB}"
    kernel.write("a", memory__limit_in_bytes=GiB, memory__usage_in_bytes=10 * MiB, memory__stat=stat)
    assert left(kernel) == GiB - 8 * MiB


def test_a_container_that_sees_its_own_group_as_the_root_has_its_limit(kernel: Kernel) -> None:
    kernel.mounted("cgroup", root="/docker/f00", options="rw,memory", group="/docker/f00")
    kernel.write("", memory__limit_in_bytes=GiB, memory__usage_in_bytes=0)
    assert left(kernel) == GiB
    kernel.mounted("cgroup", root="/docker/f00", options="rw,memory", group="/elsewhere")
    assert left(kernel) == GiB


def test_another_controller_and_a_bare_machine_limit_nothing(kernel: Kernel) -> None:
    assert room(kernel.proc) is None
    kernel.mounted("cgroup", options="rw,cpu", group="/a")
    kernel.write("a", memory__limit_in_bytes=GiB, memory__usage_in_bytes=0)
    assert room(kernel.proc) is None


def test_a_directory_in_memory_is_known_by_the_deepest_mount(kernel: Kernel) -> None:
    (kernel.proc / "self" / "mountinfo").write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / /mem\\040ory rw - tmpfs tmpfs rw\n"
        "3 2 8:2 / /mem\\040ory/disk rw - xfs /dev/sdb rw\n"
        "4 1 0:6 / /late rw - tmpfs t rw\n5 1 8:3 / /late rw - ext4 d rw\n"
    )
    known = {"/mem ory/off": True, "/mem ory": True, "/mem ory/disk/x": False, "/home": False, "/late": False}
    assert {name: in_memory(Path(name), kernel.proc) for name in known} == known


# -- keeping -----------------------------------------------------------------------------------------------------
def limited(monkeypatch: pytest.MonkeyPatch, left_bytes: int) -> None:
    found = Room(left_bytes, 2 * left_bytes, "the cgroup limit /sys/fs/cgroup/box/memory.max")
    for module in (host_limits, prepare, machine):
        monkeypatch.setattr(module, "room", lambda *_: found)


def run(model: Path, place: Path, *more: str) -> Result:
    policy = place / "policy.json"
    policy.write_text(json.dumps(THREE_TIERS | {"cpu_cache_compute": True}))
    base = ["run", str(policy), "--model", str(model), "--dummy", "--prompt-len", "8", "--max-new-tokens", "2"]
    where = ["-o", str(place / "out"), "--offload-dir", str(place / "off"), "--device", "cpu"]
    return CliRunner().invoke(app, [*base, *where, *more])


def test_a_plan_beyond_a_containers_limit_is_refused_before_weights_are_loaded(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 65 * MiB)
    result = run(tiny_opt, tmp_path)
    assert result.exit_code == 7, result.output
    for word in ("FP710", "memory.max", "1.00 MiB", "130.00 MiB", "--cpu-mem"):
        assert word in result.stderr, word
    assert "loading weights" not in result.stderr and not (tmp_path / "out").exists()
    limited(monkeypatch, GiB)
    assert run(tiny_opt, tmp_path).exit_code == 0


def test_arenas_beyond_a_limit_are_refused_before_any_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 39 * MiB)
    monkeypatch.setattr(arenas, "aligned_bytes", lambda *_: pytest.fail("allocated"))
    ledger = Ledger({})
    with pytest.raises(MemoryExhausted, match=r"gpu\.work"):
        Arenas({"host.work": 20 * MiB, "gpu.work": 20 * MiB}, ledger, torch.device("cpu"), tmp_path)
    assert not ledger.held


def test_capacities_are_within_the_limit_and_count_no_memory_as_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 100 * MiB)
    monkeypatch.setattr(machine, "in_memory", lambda _: True)
    found = machine.capacities(torch.device("cpu"), tmp_path)
    assert found == {"gpu_bytes": 25 * MiB, "cpu_bytes": 50 * MiB, "disk_bytes": 0}


def test_a_disk_tier_in_memory_is_said_and_charged_to_it(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "host memory" not in run(tiny_opt, tmp_path).stderr
    monkeypatch.setattr(env, "in_memory", lambda _: True)
    result = run(tiny_opt, tmp_path, "--overwrite")
    assert result.exit_code == 0 and result.stderr.count("lies in host memory") == 1
    result = run(tiny_opt, tmp_path, "--overwrite", "--cpu-mem", "1500K", "--disk-mem", "1G", "--gpu-mem", "1G")
    assert result.exit_code == 3 and "FP409" in result.stderr and "loading weights" not in result.stderr


def test_a_ledger_charges_a_disk_in_memory_to_both(tmp_path: Path) -> None:
    ledger = Ledger({"cpu": 10, "disk": 100}, tmp_path)
    ledger.take("disk.work", 6)
    with pytest.raises(InfeasiblePlan, match="cpu has 4 B of 10 B"):
        ledger.take("host.work", 5)
    ledger.give_back("disk.work", 6)
    ledger.take("host.work", 10)


def test_a_limit_of_the_process_itself_is_refused_with_its_name(tiny_opt: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"gpu_batch_size": 64, "num_gpu_batches": 64}))
    program = (
        "import resource, torch, transformers, flexplan_runtime.commands.entry as e\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)\n"
        "from flexplan.cli.app import main\nmain()\n"
    )
    asked = ["run", str(policy), "--model", str(tiny_opt), "--dummy", "--prompt-len", "256", "--device", "cpu"]
    found = subprocess.run(
        [sys.executable, "-c", program, *asked, "-o", str(tmp_path / "out"), "--offload-dir", str(tmp_path / "off")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.returncode == 7 and "ulimit -v" in found.stderr, found.stderr


# -- devices and dtypes ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["mps", "meta", "xpu", "cuda:99", "cuda:-1", "cpu:7", "nonsense", "hip", "tpu"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"device '{name}'") as found:
        env.ExecutionEnv.create(tmp_path, device=name)
    assert "cpu" in found.value.fix and not list(tmp_path.iterdir())


def test_a_device_beyond_the_last_is_refused_with_all_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("cuda:2", "cuda:99", "mps"):
        with pytest.raises(UsageError, match=f"device '{name}'.* here are cuda:0, cuda:1, cpu"):
            env.ExecutionEnv.create(tmp_path, device=name)


@pytest.mark.parametrize(
    ("spelt", "meant"),
    [("fp16", "float16"), ("half", "float16"), ("FP32", "float32"), ("float", "float32"), ("bf16", "bfloat16")],
)
def test_a_dtype_may_be_spelt_as_elsewhere(spelt: str, meant: str, tiny_opt: Path) -> None:
    from flexplan_runtime.weights import DUMMY, dtype_of, open_model

    _, math, _ = open_model(str(tiny_opt), DUMMY, 0)
    assert dtype_of(spelt, math) == getattr(torch, meant)
