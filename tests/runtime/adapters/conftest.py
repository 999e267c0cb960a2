"""What runs on Ray is tested where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]
