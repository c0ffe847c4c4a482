from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from evenet_hep.errors import CheckpointError
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.schema import EventSchema

SCHEMA = EventSchema.standard(classes=("a", "b"))
FILES = {"model.safetensors", "config.json", "schema.json"}


def build(seed: int = 0) -> EveNet:
    torch.manual_seed(seed)
    return EveNet(EveNetConfig.tiny(), SCHEMA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build().save_pretrained(tmp_path / "network")
    return tmp_path / "network"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, *, drop: str = "", **add: torch.Tensor) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {name: value for name, value in weights.items() if name != drop} | add
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    model = build().train()
    mask = torch.ones(4, 3, dtype=torch.bool)
    model(torch.rand(4, 3, 7), mask, torch.rand(4, 10))  # moves the running statistics
    model.save_pretrained(tmp_path / "a" / "b" / "network")
    again = EveNet.from_pretrained(tmp_path / "a" / "b" / "network")
    assert (again.config, again.schema) == (model.config, model.schema)
    expected, found = model.state_dict(), again.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not again.training
    batch = (torch.rand(4, 3, 7), mask, torch.rand(4, 10))
    assert torch.equal(again(*batch)["classification"], model.eval()(*batch)["classification"])


def test_folder_is_complete_and_readable(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["network"]  # nothing is left beside it
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    assert json.loads((folder / "config.json").read_text())["width"] == 48
    assert (folder / "model.safetensors").stat().st_size < 1_000_000


def test_card_is_written_for_readers(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "network", card="# A network\n")
    assert (tmp_path / "network" / "README.md").read_text() == "# A network\n"
    EveNet.from_pretrained(tmp_path / "network")


def test_a_checkpoint_is_replaced(folder: Path) -> None:
    other = build(seed=1)
    other.save_pretrained(folder)
    again = EveNet.from_pretrained(str(folder))
    assert torch.equal(again.object_encoder.event_token, other.object_encoder.event_token)
    assert [path.name for path in folder.parent.iterdir()] == ["network"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "network").mkdir()
    build().save_pretrained(tmp_path / "network")
    EveNet.from_pretrained(tmp_path / "network")


def test_other_folders_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"is not overwritten: it holds thesis.tex"):
        build(seed=1).save_pretrained(folder)
    assert (folder / "thesis.tex").read_text() == "years of work"
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        build().save_pretrained(file)


def test_a_failure_while_writing_leaves_the_old_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        msg = "no space left"
        raise OSError(msg)

    monkeypatch.setattr(safetensors.torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        build(seed=1).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["network"]


def test_missing_folder_and_files(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint folder .*nowhere"):
        EveNet.from_pretrained(folder.parent / "nowhere")
    (folder / "schema.json").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it lacks config.json, schema.json"):
        EveNet.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 7, 5000])
def test_damaged_weights(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cannot read the weights .*model.safetensors"):
        EveNet.from_pretrained(folder)


def test_weights_are_read_strictly(folder: Path) -> None:
    edit_weights(
        folder, drop="pet.film.weight", extra=torch.zeros(1), **{"object_encoder.event_token": torch.zeros(3)}
    )
    with pytest.raises(CheckpointError) as error:
        EveNet.from_pretrained(folder)
    number = len(build().state_dict())
    assert f"{number} weights for a network that has {number}" in str(error.value)
    assert "1 missing (pet.film.weight)" in str(error.value)
    assert "1 unexpected (extra)" in str(error.value)
    assert "1 of another shape (object_encoder.event_token is (3,) instead of (48,))" in str(error.value)


def test_configuration_that_does_not_fit(folder: Path) -> None:
    edit_json(folder / "config.json", colour="red")
    with pytest.raises(CheckpointError, match="unknown key 'colour'"):
        EveNet.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read the configuration .*config.json"):
        EveNet.from_pretrained(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="format must be 1; found"):
        EveNet.from_pretrained(folder)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (EventSchema.standard(classes=("a", "b", "c")), r"it has 3 classes, a, b, c; the weights are for 2"),
        (
            EventSchema.published(classes=("a", "b")),
            "it has 7 columns for the object features energy, .* for 8",
        ),
        (EventSchema(SCHEMA.objects, SCHEMA.event_features[1:], classes=("a", "b")), "10 columns .* for 11"),
        (EventSchema.standard(), r"schema.classes must be names for the classification head"),
    ],
)
def test_schema_that_does_not_fit(folder: Path, schema: EventSchema, message: str) -> None:
    (folder / "schema.json").write_text(schema.to_json())
    with pytest.raises(CheckpointError, match=message):
        EveNet.from_pretrained(folder)


def test_schema_that_is_no_schema(folder: Path) -> None:
    (folder / "schema.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match=r"schema.json: schema lacks 'objects'"):
        EveNet.from_pretrained(folder)


def test_reading_leaves_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    EveNet.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)
