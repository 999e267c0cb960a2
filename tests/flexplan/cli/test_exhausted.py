"""A machine at its limits is told apart from a bug: exit code 7, and the limit by name."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from flexplan import plan as planning
from flexplan.cli.app import app
from flexplan.cli.exhausted import exhausted
from flexplan.errors import PluginError

SMALL = ("solve", "--model", "facebook/opt-125m", "--prompt-len", "16", "--gen-len", "4", "--gpu-batch-size", "2")


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "FP711"),
        (system(errno.ENOMEM), "FP711"),
        (ImportError("libx.so: failed to map segment from shared object"), "FP711"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "FP711"),
        (RuntimeError("can't start new thread"), "FP712"),
        (RuntimeError("Resource temporarily unavailable"), "FP712"),
        (BlockingIOError(errno.EAGAIN, "in any language"), "FP712"),
        (system(errno.EMFILE), "FP713"),
    ],
)
def test_a_limit_is_named_whoever_ran_into_it(error: Exception, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(planning, "solve", fail)
    result = CliRunner().invoke(app, SMALL)
    assert result.exit_code == 7 and f"error[{code}]" in result.stderr and "fix: " in result.stderr


def test_a_plug_in_that_does_not_load_for_want_of_memory_is_not_blamed() -> None:
    try:
        try:
            raise ImportError("libtorch.so: failed to map segment from shared object")
        except ImportError as cause:
            raise PluginError("FP901", "torch does not load") from cause
    except PluginError as error:
        found = exhausted(error)
    assert found is not None and found.code == "FP711"


@pytest.mark.parametrize("error", [ValueError("out of memory of what was"), OSError(errno.ENOENT, "x"), KeyError("x")])
def test_what_is_no_limit_stays_a_bug(error: Exception) -> None:
    assert exhausted(error) is None


def test_too_few_addresses_are_refused_in_words() -> None:
    program = "from flexplan.cli.app import main; main()"
    line = 'ulimit -v 140000; exec "$@"'
    found = subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "-c", program, *SMALL],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert found.returncode == 7 and "ulimit -v" in found.stderr, found.stderr
