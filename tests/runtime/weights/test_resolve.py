"""Where a model is found by its name, and how it gets there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from flexplan_runtime.weights import open_model, resolve_model

from flexplan.errors import ModelFilesError

NAME = "facebook/opt-125m"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home, a cache and a working directory of the test's own."""
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


class Hub:
    """Stands in for the hub: writes a model's files, or breaks off after the first."""

    def __init__(self, *files: str, error: Exception | None = None) -> None:
        self.files = files or ("config.json", "model.safetensors")
        self.error = error
        self.calls: list[str] = []

    def snapshot_download(self, name: str, *, local_dir: Path, **_: Any) -> str:
        self.calls.append(name)
        (local_dir / ".cache").mkdir(exist_ok=True)
        for file in self.files[: 1 if self.error else None]:
            (local_dir / file).touch()
        if self.error:
            raise self.error
        return str(local_dir)


def use(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return use(Hub(), monkeypatch)


def model_at(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").touch()
    return path


def refusal(name: str, parent: Path | None = None) -> str:
    with pytest.raises(ModelFilesError) as error:
        resolve_model(name, parent)
    assert error.value.exit_code == 4
    assert error.value.fix
    return str(error.value)


@pytest.mark.parametrize("place", ["", "opt-125m", "facebook/opt-125m", "opt-125m-np", "facebook/opt-125m-np"])
def test_a_model_is_found_in_its_parent(place: str, tmp_path: Path, hub: Hub) -> None:
    there = model_at(tmp_path / "weights" / place)
    assert resolve_model(NAME, tmp_path / "weights") == there
    assert resolve_model("opt-125m", tmp_path / "weights") == there
    assert not hub.calls


def test_the_reference_s_directory_has_no_config(tmp_path: Path, hub: Hub) -> None:
    there = tmp_path / "weights" / "opt-125m-np"
    there.mkdir(parents=True)
    (there / "decoder.embed_tokens.weight").touch()
    assert resolve_model(NAME, tmp_path / "weights") == there


def test_a_path_is_itself(tmp_path: Path) -> None:
    there = model_at(tmp_path / "my-model")
    assert resolve_model(there) == there
    assert resolve_model(str(there), tmp_path) == there


def test_the_path_of_a_config_is_that_of_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = model_at(tmp_path / "my-model")
    assert resolve_model(there / "config.json") == there
    monkeypatch.chdir(tmp_path)
    assert resolve_model("my-model/config.json") == Path("my-model")  # which might be a name on the hub


def test_home_is_expanded(tmp_path: Path, hub: Hub) -> None:
    there = model_at(tmp_path / "HOME" / "weights" / "opt-125m")
    assert resolve_model("~/weights/opt-125m") == there
    assert resolve_model(NAME, Path("~/weights")) == there


def test_a_bad_directory_is_left_to_open_checkpoint_to_describe(tmp_path: Path) -> None:
    assert resolve_model(tmp_path / "cwd") == tmp_path / "cwd"


@pytest.mark.parametrize("name", ["./opt-125m", "/no/where", "~/nowhere", "my-model", "a/b/c", "../up", "x" * 300])
def test_a_path_that_is_not_there_is_never_downloaded(name: str, hub: Hub) -> None:
    assert "no such model directory" in refusal(name)
    assert not hub.calls


def test_a_name_is_downloaded_once(tmp_path: Path, hub: Hub) -> None:
    there = resolve_model(NAME, tmp_path / "weights")
    assert there == tmp_path / "weights" / "opt-125m"
    assert sorted(f.name for f in there.iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in there.parent.iterdir()] == ["opt-125m"]
    assert resolve_model(NAME, tmp_path / "weights") == there
    assert hub.calls == [NAME]


def test_a_bare_opt_name_is_facebook_s(tmp_path: Path, hub: Hub) -> None:
    resolve_model("opt-1.3b", tmp_path)
    assert hub.calls == ["facebook/opt-1.3b"]


def test_a_parent_that_bears_the_name_takes_the_files_itself(tmp_path: Path, hub: Hub) -> None:
    assert resolve_model(NAME, tmp_path / "opt-125m") == tmp_path / "opt-125m"


def test_without_a_parent_downloads_go_to_the_cache(tmp_path: Path, hub: Hub) -> None:
    there = resolve_model(NAME)
    assert there == tmp_path / "XDG_CACHE_HOME" / "flexplan" / "models" / "facebook" / "opt-125m"
    assert resolve_model(NAME) == there
    assert hub.calls == [NAME]


def test_a_failed_download_names_the_model_and_is_never_taken_for_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Hub(error=ConnectionError("no route to host")), monkeypatch)
    text = refusal(NAME, tmp_path)
    assert NAME in text
    assert "no route to host" in text
    assert not (tmp_path / "opt-125m").exists()
    hub = use(Hub(), monkeypatch)
    assert resolve_model(NAME, tmp_path) == tmp_path / "opt-125m"
    assert hub.calls == [NAME]


def test_offline_is_said(tmp_path: Path) -> None:
    assert NAME in refusal(NAME, tmp_path)  # conftest.py sets HF_HUB_OFFLINE


def test_a_repository_without_safetensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(Hub("config.json"), monkeypatch)
    assert "has no safetensors files on the hub" in refusal(NAME, tmp_path)
    assert not list(tmp_path.glob("*opt*")) + list(tmp_path.glob(".*partial"))


def test_files_in_the_way_are_not_overwritten(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "opt-125m").mkdir()
    (tmp_path / "opt-125m" / "notes.md").touch()
    assert "holds no model" in refusal(NAME, tmp_path)
    assert not hub.calls


def test_when_another_process_was_first_its_model_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()

    def both(name: str, **options: Any) -> str:
        model_at(tmp_path / "opt-125m")
        return hub.snapshot_download(name, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", both)
    assert resolve_model(NAME, tmp_path) == tmp_path / "opt-125m"
    assert not list(tmp_path.glob(".*partial"))


def in_hub_cache(tiny_opt: Path, tmp_path: Path, *without: str) -> Path:
    """The embedded model in the cache of the hub, under another's name; its snapshot."""
    place = tmp_path / "XDG_CACHE_HOME" / "huggingface" / "hub" / "models--facebook--opt-125m"
    shutil.copytree(
        tiny_opt, place / "snapshots" / "abc", copy_function=shutil.copyfile, ignore=shutil.ignore_patterns(*without)
    )
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    return place / "snapshots" / "abc"


@pytest.mark.parametrize("name", [NAME, "opt-125m"])
def test_a_model_in_the_hub_s_cache_is_not_downloaded(name: str, tiny_opt: Path, tmp_path: Path, hub: Hub) -> None:
    there = in_hub_cache(tiny_opt, tmp_path)
    assert resolve_model(name) == there
    assert resolve_model(name, tmp_path / "weights") == there
    assert not hub.calls


def test_a_directory_of_the_hub_s_cache_is_its_main_snapshot(tiny_opt: Path, tmp_path: Path) -> None:
    there = in_hub_cache(tiny_opt, tmp_path)
    assert resolve_model(there.parents[1]) == there
    assert open_model(str(there.parents[1]), resolve_model(there.parents[1]), 0)[0].name == NAME


def test_a_part_of_a_model_in_the_hub_s_cache_is_not_taken_for_it(tiny_opt: Path, tmp_path: Path, hub: Hub) -> None:
    in_hub_cache(tiny_opt, tmp_path, "*.safetensors")
    resolve_model(NAME)
    assert hub.calls == [NAME]


def test_a_part_of_a_model_in_the_hub_s_cache_is_told_when_offline(tiny_opt: Path, tmp_path: Path) -> None:
    there = in_hub_cache(tiny_opt, tmp_path, "*.safetensors")
    assert f"nor whole in {there.parents[2]}" in refusal(NAME)


def test_a_gguf_file_or_directory_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "m.gguf").write_bytes(b"GGUF")
    for place in ("gguf", "gguf/m.gguf"):
        assert "GGUF" in refusal(str(tmp_path / place))
