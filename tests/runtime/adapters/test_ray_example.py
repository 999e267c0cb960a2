"""The example of a pipeline, as a newcomer runs it: two workers on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "on_a_ray_cluster.py"


def test_the_example_answers_every_request(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, EXAMPLE, "", tmp_path], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "'error': ''" in done.stdout and "32 answers in" in done.stdout, done.stdout
