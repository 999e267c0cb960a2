"""A process that has imported everything and forks a command line a job: a start takes milliseconds, not seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SERVER = """
import ctypes, json, os, sys
import flexplan_runtime.commands.entry, flexplan.cli.launch, flexplan.cli.run
from flexplan.cli.app import main
from flexplan.job import find_runtime
from flexplan.plugins import SCHEDULES
find_runtime()
print("ready", flush=True)
while line := sys.stdin.readline():
    given = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = os.open(given["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1), os.dup2(log, 2)
            sys.argv = ["flexplan", *given["args"]]
            if given["fault"]:
                below, at, error, for_ever = given["fault"]
                faults = ctypes.CDLL(None)
                faults.fault_arm(below.encode(), ctypes.c_long(at), error, for_ever)
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            if given["fault"]:
                os.write(2, b"calls %d" % faults.fault_count())
            os._exit(code)
    print("child", child, flush=True)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # a signal may still be on its way: its number is kept
    print("ended", flush=True)
    sys.stdin.readline()
    print("code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class JobServer:
    """Starts one job at a time; with `faults` preloaded, one whose system calls fail."""

    def __init__(self, faults: Path | None = None) -> None:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        env |= {"LD_PRELOAD": str(faults)} if faults else {}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=pipe, stdout=pipe, text=True, env=env, preexec_fn=_hears_ctrl_c
        )
        self.child = 0  # at work
        self._answer("ready")

    def start(self, args: Sequence[Any], log: Path, fault: tuple[str, int, int, bool] | None = None) -> int:
        """The process that runs this command line; a fault is as `io_faults.c` says."""
        if self.child:  # a test has failed, and left it
            self.kill()
        self._say(json.dumps({"args": [*map(str, args)], "log": str(log), "fault": fault}))
        self.child = int(self._answer("child"))
        return self.child

    def kill(self) -> int:
        """End it at once."""
        os.kill(self.child, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """How it ended."""
        self._answer("ended")
        self._say("reap")
        code = int(self._answer("code"))
        self.child = 0
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _answer(self, kind: str) -> str:
        assert self.process.stdout
        said, _, value = self.process.stdout.readline().strip().partition(" ")
        assert said == kind, (said, value)
        return value


def _hears_ctrl_c() -> None:
    """Whoever runs the tests in the background has it ignored, and a child inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
