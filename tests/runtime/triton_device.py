"""Where kernels of Triton run in tests: on a GPU, or with TRITON_INTERPRET=1 on the host."""

from __future__ import annotations

import os

import pytest
import torch

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MARKS = [pytest.mark.skipif(not CUDA and not INTERPRETED, reason="no CUDA device"), *([pytest.mark.gpu] * CUDA)]
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if CUDA else [])]  # Triton's interpreter truncates to it
