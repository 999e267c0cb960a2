"""The model of tests that need any: two layers of OPT-125m."""

from __future__ import annotations

from flexplan.testing import shallow

TINY = shallow("facebook/opt-125m")
