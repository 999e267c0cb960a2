"""The runtime as the command line sees it (entry point ``torch`` of ``flexplan.runtimes``)."""

from __future__ import annotations

from pathlib import Path

from flexplan.hardware import Hardware
from flexplan.job import BenchReport, DemoReport, Finding, JobListener, JobReport, Listener, RunRequest, Say
from flexplan_runtime.commands.job import run_job
from flexplan_runtime.commands.prepare import make_ready
from flexplan_runtime.commands.run import bench_ready


class TorchRuntime:
    """Runs, benchmarks and measures with torch."""

    def run(self, request: RunRequest, listener: JobListener) -> JobReport:
        """Every prompt's completion to the listener, the moment it has ended."""
        return run_job(make_ready(request), listener)

    def bench(self, request: RunRequest, hardware: Hardware | None, listener: Listener) -> BenchReport:
        """All blocks, against what the simulator says of them on ``hardware``, else on the plan's."""
        ready = make_ready(request)
        return bench_ready(ready, ready.plan(hardware), listener)

    def profile(self, device: str | None, scratch: Path, say: Say) -> Hardware:
        """This machine, measured."""
        from flexplan_runtime.measure import measure  # only this command needs it

        return measure(device, scratch, say)

    def demo(self, say: Say, listener: Listener) -> DemoReport:
        """Plan, run and compare the embedded model."""
        from flexplan_runtime.commands.demo import show_demo  # likewise

        return show_demo(say, listener)

    def convert(self, source: Path) -> Path:
        """A GGUF file as a model directory."""
        from flexplan_runtime.weights.gguf import converted  # likewise

        return converted(source)

    def examine(self) -> tuple[Finding, ...]:
        """Devices and compilers."""
        from flexplan_runtime.commands.examine import examine  # likewise

        return tuple(examine())
