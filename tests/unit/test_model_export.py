from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evenet_hep.errors import FileError
from evenet_hep.model import export
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.export import ExportError, export_onnx, export_program, least_slots
from evenet_hep.schema import EventSchema


def build(*, published: bool) -> EveNet:
    torch.manual_seed(0)
    config = EveNetConfig.tiny()
    pet = dataclasses.replace(config.pet, layer_scale=0.5, phantom_neighbours=published)
    schema = EventSchema.published() if published else EventSchema.standard(classes=("a", "b", "c"))
    return EveNet(dataclasses.replace(config, pet=pet), schema).eval()


def sample(counts: list[int], slots: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(slots)
    mask = torch.arange(slots) < torch.tensor(counts)[:, None]
    objects = 3 * torch.rand(len(counts), slots, 7, generator=generator)
    return torch.where(mask[..., None], objects, 0.0), mask, torch.rand(len(counts), 10, generator=generator)


@pytest.mark.parametrize("published", [False, True])
def test_program_for_any_number_of_events_and_slots(published: bool) -> None:
    model = build(published=published)
    program = export_program(model).module()
    least = least_slots(model)
    for counts, slots in (([0, 1, 2, 7], least), ([5], 18), (list(range(31)), 30)):
        batch = sample(counts, slots)
        with torch.no_grad():
            expected = model(*batch)["classification"]
        torch.testing.assert_close(program(*batch), expected, rtol=1e-5, atol=1e-6)


def test_one_graph_for_the_whole_network() -> None:
    model = build(published=True)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for counts, slots in (([0, 3, 8], 8), ([1, 2, 9, 12], 12)):
        batch = sample(counts, slots)
        torch.testing.assert_close(
            compiled(*batch)["classification"], model(*batch)["classification"], rtol=1e-5, atol=1e-6
        )


def test_inverse_error_function() -> None:
    inside = 1 - 2e-6  # the transform of uniform features asks for no more
    x = torch.linspace(-inside, inside, 20001)
    torch.testing.assert_close(export._erfinv(x), torch.erfinv(x), rtol=1e-6, atol=1e-7)


def test_what_cannot_be_exported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, schema = EveNetConfig.tiny(), EventSchema.standard()
    headless = EveNet(dataclasses.replace(config, classification=None), schema)
    with pytest.raises(ExportError, match="model must have a classification head"):
        export_program(headless)
    model = build(published=False)
    with pytest.raises(FileError, match=r"path must end in \.onnx; found 'network\.pt'"):
        export_onnx(model, "network.pt")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(ExportError, match=r"needs onnx and onnxscript: pip install 'evenet-hep\[onnx\]'"):
        export_onnx(model, tmp_path / "network.onnx")
