"""Hardware files are read strictly; presets say that they are guesses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from flexplan.errors import UsageError
from flexplan.hardware import DEFAULT_PRESET, Hardware, hardware_from
from flexplan.hardware.machine import preset_names
from flexplan.units import GiB

RATES = [name for name, f in Hardware.model_fields.items() if f.annotation is float]


def write(path: Path, **changes: object) -> Path:
    """A hardware file with some fields changed; None removes one."""
    fields = hardware_from().model_dump() | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    return path


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_says_that_it_is_one(name: str) -> None:
    hardware = hardware_from(name)
    assert hardware.preset
    assert (hardware.name, hardware.fingerprint) == (name, f"preset:{name}")


@pytest.mark.parametrize("name", preset_names())
def test_both_ways_at_once_are_never_slower_than_one_way_nor_faster_than_two(name: str) -> None:
    h = hardware_from(name)
    one_way = max(h.link_up_bytes_per_s, h.link_down_bytes_per_s)
    assert one_way <= h.link_duplex_bytes_per_s <= h.link_up_bytes_per_s + h.link_down_bytes_per_s


@pytest.mark.parametrize("name", preset_names())
def test_no_part_of_the_host_is_above_its_roof(name: str) -> None:
    h = hardware_from(name)
    parts = h.host_attention_bytes_per_s, h.link_duplex_bytes_per_s, h.pageable_up_bytes_per_s
    assert max(parts) <= h.host_bytes_per_s


@pytest.mark.parametrize("name", preset_names())
def test_a_saved_file_loads_as_it_was(name: str, tmp_path: Path) -> None:
    hardware_from(name).save(tmp_path / "hardware.json")
    assert Hardware.load(tmp_path / "hardware.json") == hardware_from(name)


def test_saving_leaves_no_other_file(tmp_path: Path) -> None:
    for _ in range(2):
        hardware_from().save(tmp_path / "hardware.json")
    assert [p.name for p in tmp_path.iterdir()] == ["hardware.json"]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hardware.json"
    hardware_from("t4-gcp").save(path)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        hardware_from().save(path)
    assert Hardware.load(path).name == "t4-gcp"
    assert [p.name for p in tmp_path.iterdir()] == ["hardware.json"]


@pytest.mark.parametrize("field", RATES)
@pytest.mark.parametrize("value", [0, -1.0, True, "12e9", [1.0]])
def test_a_rate_that_is_no_positive_number_is_refused_by_name(field: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        Hardware.load(write(tmp_path / "h.json", **{field: value}))
    assert refused.value.code == "FP122"
    assert field in refused.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [("gpu_bytes", -1), ("gpu_bytes", 1.5), ("gpu_bytes", True), ("gpu_bytes", "16G"), ("cores", 0), ("preset", 1)],
)
def test_a_capacity_that_is_no_count_is_refused_by_name(field: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=field):
        Hardware.load(write(tmp_path / "h.json", **{field: value}))


def test_a_number_too_large_for_a_float_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "h.json", copy_s=0.5)
    path.write_text(path.read_text().replace("0.5", "1e999"))
    with pytest.raises(UsageError, match="copy_s"):
        Hardware.load(path)


def test_an_unknown_field_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gpu_flops"):
        Hardware.load(write(tmp_path / "h.json", gpu_flops=1.0))


@pytest.mark.parametrize("field", ["copy_s", "gpu_bytes", "fingerprint"])
def test_a_missing_field_is_refused_by_name(field: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{field}: Field required"):
        Hardware.load(write(tmp_path / "h.json", **{field: None}))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"cores": 1, "cores": 2}', "cores"),
        ('{"copy_s": NaN}', "NaN"),
        ('{"copy_s": Infinity}', "Infinity"),
        ("[", "JSON"),
        ("[" * 200_000, "JSON"),
        ("\x00", "JSON"),
        ("[]", "Hardware"),
    ],
)
def test_a_file_that_is_no_hardware_is_refused(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=named):
        Hardware.load(path)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "binary"):
        with pytest.raises(UsageError, match="FP121"):
            Hardware.load(path)


def test_budgets_are_sizes_or_bytes_and_leave_the_rest() -> None:
    asked = hardware_from().with_budget(gpu="16G", disk=0)
    assert (asked.gpu_bytes, asked.disk_bytes) == (16 * GiB, 0)
    assert asked.cpu_bytes == hardware_from().cpu_bytes
    with pytest.raises(UsageError):
        asked.with_budget(cpu=-1)


def test_a_file_comes_before_a_preset_and_a_hardware_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("t4-gcp"), name="mine")
    assert hardware_from("t4-gcp").name == "mine"
    assert hardware_from(hardware_from()) is hardware_from(DEFAULT_PRESET)


@pytest.mark.parametrize("name", ["", "zz", "a" * 1000, "\x00"])
def test_a_name_like_no_preset_is_answered_with_all(name: str) -> None:
    with pytest.raises(UsageError, match="t4-gcp"):
        hardware_from(name)


def test_a_misspelt_preset_is_answered_with_a_near_one() -> None:
    with pytest.raises(UsageError) as refused:
        hardware_from("h100-pcie")
    assert refused.value.code == "FP123"
    assert "h100-pcie5" in refused.value.fix


def test_hardware_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        hardware_from().cores = 1  # type: ignore[misc]
