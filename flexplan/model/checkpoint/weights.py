"""The weights of a model directory, checked whole by their headers: one check for who plans and for who runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from flexplan.errors import ModelFilesError
from flexplan.limits import shown
from flexplan.model.checkpoint.codes import StoredCodes, companions, plain_name
from flexplan.model.checkpoint.files import StoredTensor, read_safetensors
from flexplan.model.checkpoint.layouts import parameter_sources
from flexplan.model.checkpoint.lock import refuse_unlike
from flexplan.model.checkpoint.source import Source
from flexplan.model.coding import StoredFormat
from flexplan.model.places import has_config
from flexplan.model.shape import ModelShape
from flexplan.model.stored import INDEX, SINGLE, read_index
from flexplan.model.tensors import weight_tensors

Parts = dict[tuple[int, str], list[tuple[Source, StoredTensor | StoredCodes]]]
"""(layer, name) of a weight -> the stored tensors whose rows it is made of."""
ReadNpy = Callable[[Path], StoredTensor]

_CODE_BEARING = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MOST_LISTED = 100
_MOST_SAID = 500  # characters of one: a name in an index may be as long as the file


def find_weights(directory: Path, shape: ModelShape, read_npy: ReadNpy | None) -> Parts:
    """Where the weights of a model directory are: in safetensors, single or sharded, or one .npy file a tensor.

    Everything that is wrong with the files is listed in one ModelFilesError, before any weight is read.  Without
    `read_npy`, which needs more than planning has, .npy files are looked for, and not into.
    """
    refuse_unlike(directory)
    problems: list[str] = []
    found = _stored(directory, _entries(directory), problems, read_npy)
    coded = {(t.layer, t.name) for t in weight_tensors(shape) if t.packing}
    parts: Parts = {}
    for source in parameter_sources(shape, found):
        at = source.layer, source.name
        stored = _codes(source, shape.stored, found, problems) if at in coded else _plain(source, found, problems)
        if stored is not None:
            parts.setdefault(at, []).append((source, stored))
    if problems:
        raise _all_problems(directory, list(dict.fromkeys(problems)))
    return parts


def refuse_unusable_weights(directory: Path, shape: ModelShape) -> None:
    """Raise what running a model directory would, as far as headers say; one without weights is left to its sizes."""
    if any(name.endswith((*_CODE_BEARING, ".safetensors", INDEX)) or _is_npy(name) for name in _entries(directory)):
        find_weights(directory, shape, None)


def _entries(directory: Path) -> list[str]:
    """The names in a model directory, which must have some."""
    fix = "give the directory that holds config.json and model*.safetensors"
    if not directory.exists():
        raise ModelFilesError("FP520", f"{directory}: there is no such model directory", fix=fix)
    if not directory.is_dir():
        raise ModelFilesError("FP520", f"{directory}: is not a directory", fix=fix)
    try:
        with os.scandir(directory) as entries:
            found = sorted((entry.name, _is_ordinary(entry)) for entry in entries)
    except OSError as error:
        raise ModelFilesError("FP520", f"{directory}: cannot be read: {error.strerror}", fix=fix) from error
    if not found:
        raise ModelFilesError("FP520", f"{directory}: is empty", fix=fix)
    if odd := [name for name, ordinary in found if not ordinary]:
        message = f"{directory}: {', '.join(map(shown, odd[:3]))} is a pipe, a socket or a device, not a regular file"
        raise ModelFilesError("FP526", message, fix="take it out of the directory")
    return [name for name, _ in found]


def _is_ordinary(entry: os.DirEntry[str]) -> bool:
    """Whether it may be opened: what is neither file nor directory might never answer."""
    # of a link to nowhere whoever needs it says so
    return entry.is_file() or entry.is_dir() or (entry.is_symlink() and not Path(entry.path).exists())


@dataclass
class _Found:
    """The tensors of a directory by Hugging Face name; the header of a .npy file is read when asked for."""

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    npy_paths: dict[str, Path] = field(default_factory=dict)
    read_npy: ReadNpy | None = None
    in_bad_files: set[str] = field(default_factory=set)  # their file is among the problems already
    misplaced: dict[str, str] = field(default_factory=dict)  # their shard does not have them; fine if nobody asks

    @cached_property
    def plain(self) -> frozenset[str]:
        """The matrices whose codes are there."""
        return frozenset(plain_name(name) for name in self.tensors) - self.tensors.keys()

    def __contains__(self, name: object) -> bool:
        return name in self.plain or any(
            name in known for known in (self.tensors, self.npy_paths, self.in_bad_files, self.misplaced)
        )

    def get(self, name: str, problems: list[str]) -> StoredTensor | None:
        """The tensor `name`, None where there is none; a new problem is added to `problems`."""
        unread = name in self.npy_paths and name not in self.tensors and name not in self.in_bad_files
        if unread and self.read_npy is not None:
            try:
                self.tensors[name] = self.read_npy(self.npy_paths[name])
            except ValueError as error:
                self.in_bad_files.add(name)
                problems.append(f"{self.npy_paths[name].name}: {error}")
        if name in self.misplaced and name not in self.tensors:
            problems.append(f"{name}: the index says it is in {self.misplaced[name]}, which does not have it")
        if name not in self or (name in self.plain and name not in self.tensors):
            problems.append(f"{name}: is missing")
        return self.tensors.get(name)


def _stored(directory: Path, names: list[str], problems: list[str], read_npy: ReadNpy | None) -> _Found:
    if SINGLE in names:
        return _single(directory / SINGLE, problems)
    if INDEX in names:
        return _sharded(directory, problems)
    npy = {n.removesuffix(".npy"): directory / n for n in names if _is_npy(n)}
    if any(name.endswith("embed_tokens.weight") for name in npy):
        return _Found(npy_paths=npy, read_npy=read_npy)
    code = [name for name in names if name.endswith(_CODE_BEARING)]
    if code and not any(name.endswith(".safetensors") for name in names):
        raise ModelFilesError(
            "FP521",
            f"{directory}: has only {', '.join(code[:3])}; code-bearing files are not read",
            fix="convert it to safetensors (model.save_pretrained writes them), or download a safetensors revision",
        )
    raise ModelFilesError(
        "FP523",
        f"{directory}: holds no weights that flexplan reads: no {SINGLE}, no {INDEX}, no one-tensor .npy files",
        fix="give the directory of a safetensors checkpoint; a sharded one needs its index",
    )


def _is_npy(name: str) -> bool:
    """Whether a file is one tensor: the reference's have no ending."""
    return name.endswith((".weight", ".bias", ".npy"))


def _single(path: Path, problems: list[str]) -> _Found:
    try:
        return _Found(read_safetensors(path))
    except ValueError as error:
        raise _all_problems(path.parent, [*problems, f"{path.name}: {error}"]) from error


def _sharded(directory: Path, problems: list[str]) -> _Found:
    """The tensors of all shards that the index names; a name that could leave the directory is never opened."""
    found, holder, held = _Found(), dict[str, str](), dict[str, list[str]]()
    try:
        weight_map, _ = read_index(directory / INDEX)
    except ValueError as error:
        raise _all_problems(directory, [f"{INDEX}: {error}"]) from error
    for name, shard in weight_map.items():
        held.setdefault(shard, []).append(name)
    for shard, expected in held.items():
        for name, tensor in _shard(directory, shard, expected, found, problems):
            if holder.setdefault(name, shard) != shard:
                problems.append(f"{name}: is in two shards, {holder[name]} and {shard}")
            found.tensors[name] = tensor
    return found


def _shard(
    directory: Path, shard: object, expected: list[str], found: _Found, problems: list[str]
) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of one shard; those of a shard that cannot be read are noted as being in a bad file."""
    try:
        if not _is_plain(shard):
            raise ValueError("the index may only name .safetensors files beside it; it was not opened")
        tensors = read_safetensors(directory / str(shard))
    except ValueError as error:
        problems.append(f"{shard}: {error}")
        found.in_bad_files.update(expected)
        return
    found.misplaced |= {name: str(shard) for name in expected if name not in tensors}
    yield from tensors.items()


def _is_plain(shard: object) -> bool:
    """A file name of its own directory; Hugging Face's cache makes such files symbolic links, which is fine."""
    return (
        isinstance(shard, str)
        and shard.endswith(".safetensors")
        and not shard.startswith(".")
        and not set(shard) & set("/\\\0")
    )


def _plain(source: Source, found: _Found, problems: list[str]) -> StoredTensor | None:
    """The tensor of a source, None where it is not as the architecture wants it; `problems` then say why."""
    stored = found.get(source.hf_name, problems)
    if stored is None:
        return None
    wrong = []
    if stored.shape != source.hf_shape:
        wrong.append(f"{source.hf_name}: shape is {list(stored.shape)}, config.json wants {list(source.hf_shape)}")
    if stored.dtype is None:
        wrong.append(f"{source.hf_name}: dtype is {stored.dtype_name}, allowed are 16, 32 and 64-bit floats")
    problems.extend(wrong)
    return None if wrong else stored


def _codes(source: Source, stored: StoredFormat | None, found: _Found, problems: list[str]) -> StoredCodes | None:
    """The tensors that hold the codes of a source; None where one is not as the format wants it."""
    assert stored is not None, "a coded weight has a format"
    parts: dict[str, StoredTensor] = {}
    known, whole = len(problems), True
    for part, name, shapes, dtypes in companions(source, stored, found):
        tensor = found.get(name, problems)
        if tensor is None:
            whole = False
            continue
        parts[part] = tensor
        if tensor.shape not in shapes:
            problems.append(f"{name}: shape is {list(tensor.shape)}, {stored.name} wants {list(shapes[0])}")
        if tensor.dtype_name not in dtypes:
            problems.append(f"{name}: dtype is {tensor.dtype_name}, {stored.name} wants {' or '.join(dtypes)}")
    return StoredCodes(stored, **parts) if whole and len(problems) == known else None


def _all_problems(directory: Path, problems: list[str]) -> ModelFilesError:
    listed = problems[:_MOST_LISTED]
    if len(problems) > len(listed):
        listed.append(f"and {len(problems) - len(listed)} more")
    return ModelFilesError(
        "FP522",
        f"{directory}: the model files have {len(problems)} problem{'s' * (len(problems) > 1)}:"
        + "".join(f"\n  {problem:.{_MOST_SAID}}" for problem in listed),
        fix="download the model again, or "
        + ("check that config.json belongs to these weights" if has_config(directory) else "put its config.json there"),
    )
