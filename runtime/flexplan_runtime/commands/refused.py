"""Prompts of a job that cannot be run: of a million there are only places in memory, what is wrong lies in a file."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterator

from flexplan.errors import FlexplanError, PromptError, StorageError

_MOST_IN_MEMORY = 8 << 20  # bytes: what is more goes to a file without a name


class Refused:
    """Each with its number among the prompts, its place in the input, and why."""

    def __init__(self) -> None:
        self._numbers, self._places = array("Q"), array("Q")
        self.first: FlexplanError | None = None
        self._why = tempfile.SpooledTemporaryFile(_MOST_IN_MEMORY)  # noqa: SIM115 - gone with this

    def add(self, number: int, place: int, error: FlexplanError) -> None:
        """One more."""
        why = json.dumps([error.code, error.message, error.fix]).encode()
        try:
            self._why.seek(0, 2)
            self._why.write(why + b"\n")
        except OSError as failure:
            where = tempfile.gettempdir()
            message = f"prompts that cannot be run are not put aside in {where}: {failure.strerror}"
            fix = "make room there, or set TMPDIR to where there is some"
            raise StorageError("FP631", message, fix=fix) from failure
        self.first = self.first or error
        self._numbers.append(number)
        self._places.append(place)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[int, int, FlexplanError]]:
        self._why.seek(0)
        for number, place, why in zip(self._numbers, self._places, self._why, strict=True):
            code, message, fix = json.loads(why)
            yield number, place, PromptError(code, message, fix=fix)
