"""Build the wheel, look inside, and plan with it in a clean environment that has no torch.

python .ci/check_wheel.py WORK_DIRECTORY
"""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

PACKAGES = {"flexplan", "flexplan_planners", "flexplan_runtime"}
MUST_CONTAIN = {
    *(f"{package}/py.typed" for package in PACKAGES),
    *(f"flexplan/report/html/{name}" for name in ("template.html", "report.css", "report.js", "echarts.min.js")),
    "flexplan_runtime/data/tiny-opt/config.json",
    "flexplan_runtime/data/tiny-opt/model.safetensors",
    "flexplan_runtime/data/tiny-opt/tokenizer.json",
    "flexplan_runtime/data/tiny-opt/prompts.txt",
    "flexplan_runtime/kernels/host/attention.cpp",
    "flexplan_runtime/kernels/host/arithmetic/tiles.hpp",
}
TENSOR_LIBRARIES = ("torch", "transformers", "safetensors")


def run(*command: str | Path) -> str:
    print("+", *command, flush=True)
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def build_wheel(into: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", into)
    (wheel,) = into.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Three packages, one dist-info, the licences and the data; nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names}
    (dist_info,) = top - PACKAGES
    assert dist_info.endswith(".dist-info"), f"unexpected in the wheel: {dist_info}"
    assert top >= PACKAGES, f"missing in the wheel: {PACKAGES - top}"
    wanted = MUST_CONTAIN | {f"{dist_info}/licenses/LICENSE", f"{dist_info}/licenses/NOTICE"}
    assert names >= wanted, f"missing in the wheel: {sorted(wanted - names)}"
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB, packages {sorted(PACKAGES)}")


def check_planning_without_torch(wheel: Path, environment: Path) -> None:
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-c", "constraints.txt", wheel)
    found = run(python, "-c", f"from importlib.util import find_spec; print(*filter(find_spec, {TENSOR_LIBRARIES!r}))")
    assert not found.strip(), f"the core dependencies brought {found}"
    print(run(environment / "bin" / "flexplan", "solve", "--gpu-mem", "16G", "--cpu-mem", "200G"))


def main() -> None:
    work = Path(sys.argv[1]).resolve()
    wheel = build_wheel(work / "dist")
    check_contents(wheel)
    check_planning_without_torch(wheel, work / "clean")


if __name__ == "__main__":
    main()
