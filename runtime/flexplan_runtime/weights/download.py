"""Finding a model's directory by its name, and downloading it once where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from flexplan.errors import ModelFilesError
from flexplan.files import is_directory, is_file
from flexplan.model.places import (
    cached,
    directory_of,
    downloads,
    has_config,
    hub_cache,
    hub_name,
    is_gguf,
    refuse_other_formats,
    snapshot_within,
)
from flexplan.model.stored import weight_files
from flexplan_runtime.weights.gguf import converted

_SIGNS = ("config.json", "*.safetensors", "*.safetensors.index.json", "*embed_tokens.weight*", "pytorch_model*.bin")
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "tokenizer*", "LICENSE*"]
_UNWANTED = ["*/*", "consolidated*"]


def resolve_model(path_or_name: str | Path, parent: Path | None = None) -> Path:
    """The directory of a model.

    With a `parent`: in it the last part of the name, the whole name, or either with the "-np" of FlexLLMGen's
    format, else that directory itself.  Without one: `path_or_name` as a path, its own or that of its
    ``config.json``, then flexplan's downloads;  Then the cache of the Hugging Face hub, where it has all the weights.
    A name on the hub that is nowhere is downloaded to `parent` (else to flexplan's downloads); ModelFilesError if
    that fails.  A GGUF file stands for the directory that it is converted to.
    """
    name = str(path_or_name)
    given = directory_of(Path(name).expanduser())
    hub_id = hub_name(name)
    root = (parent or downloads()).expanduser()
    if is_gguf(given):
        return converted(given)
    if parent is None and (is_directory(given) or is_file(given)) and (hub_id is None or is_model(given)):
        place = snapshot_within(given)
        refuse_other_formats(place)
        return place
    found = next(filter(is_model, _places(root, hub_id or given.name, itself=parent is not None)), None)
    if found is not None:
        return found
    if is_model(given):
        return given
    if hub_id is None:
        raise ModelFilesError(
            "FP520",
            f"{name}: there is no such model directory" + (f", nor one in {root}" if parent else ""),
            fix="give a model directory, or a Hugging Face name such as facebook/opt-125m",
        )
    whole = next(filter(_has_weights, cached(hub_id)), None)
    if whole is not None:
        return whole
    target = _target(root, hub_id, itself=parent is not None)
    if target.exists() and not _is_empty(target):
        message = f"{target}: holds no model, and {hub_id} cannot be downloaded over it"
        raise ModelFilesError("FP534", message, fix="give another directory, or move what is there away")
    return _download(hub_id, target)


def is_model(directory: Path) -> bool:
    """Whether a directory holds anything of a model; whether it is complete is for `open_checkpoint` to say."""
    try:
        return directory.is_dir() and any(next(directory.glob(sign), None) for sign in _SIGNS)
    except OSError:
        return False


def _has_weights(directory: Path) -> bool:
    files = weight_files(directory)
    return has_config(directory) and bool(files) and all(file.is_file() for file in files)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _places(root: Path, name: str, *, itself: bool) -> Iterator[Path]:
    for stem in (name.rpartition("/")[2], name) if itself else (name,):
        yield root / stem
        yield root / f"{stem}-np"
    if itself:
        yield root


def _target(root: Path, hub_id: str, *, itself: bool) -> Path:
    """Where a download goes; the cache keeps the organisation, so that two models of one name stay apart."""
    if not itself:
        return root / hub_id
    last = hub_id.rpartition("/")[2]
    return root if root.name == last else root / last


def _download(name: str, target: Path) -> Path:
    """Download into a directory beside `target`, renamed when complete; a broken-off download is taken up again."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        import huggingface_hub  # heavy, and needed only here

        partial.mkdir(parents=True, exist_ok=True)
        huggingface_hub.snapshot_download(name, local_dir=partial, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    except Exception as error:  # whatever the network, the hub or the disk came up with
        if is_model(target):
            return target
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ModelFilesError(
            "FP530",
            f"{name}: is not in {target.parent}, nor whole in {hub_cache()}, and cannot be downloaded: {reason}",
            fix=f"check the name and the network, or put the model's files in {target}",
        ) from error
    return _finish(name, partial, target)


def _finish(name: str, partial: Path, target: Path) -> Path:
    if not any(partial.glob("*.safetensors")):
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelFilesError(
            "FP531",
            f"{name}: has no safetensors files on the hub; code-bearing files are not read",
            fix=f"convert it to safetensors (model.save_pretrained writes them) into {target}",
        )
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # the downloader's notes
    try:
        partial.rename(target)
    except OSError as error:
        if is_model(target):  # another process was first
            shutil.rmtree(partial, ignore_errors=True)
            return target
        raise ModelFilesError(
            "FP532", f"{target}: cannot take the finished download: {error.strerror}", fix=f"move {partial} there"
        ) from error
    return target
