"""A batch's job: the command `run` in a process of its own, which stops after its pass when the server is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PARENT_DEATH = 1  # of prctl


def main() -> None:
    """``python -m flexplan.serve.child PID_OF_THE_SERVER run ...``."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(sys.argv.pop(1)):
        raise SystemExit(128 + signal.SIGTERM)
    sys.argv[0] = "flexplan"  # a program that hears signals
    from flexplan.cli.app import main as program

    program()


if __name__ == "__main__":
    main()
