"""Small problems that plan in a blink."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # problems.py, reference_model.py
