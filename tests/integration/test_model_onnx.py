"""The ONNX file against the network it was made from, run by ONNX Runtime."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.export import export_onnx, least_slots
from evenet_hep.schema import EventSchema
from evenet_hep.share import find_checkpoint

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def compare(model: EveNet, path: Path) -> None:
    session = onnxruntime.InferenceSession(str(export_onnx(model, path)))
    generator = torch.Generator().manual_seed(3)
    for events, slots in ((1, least_slots(model)), (40, 18), (7, 25)):
        counts = torch.randint(0, slots + 1, (events,), generator=generator)
        mask = torch.arange(slots) < counts[:, None]
        objects = 3 * torch.rand(events, slots, len(model.schema.object_names), generator=generator)
        objects = torch.where(mask[..., None], objects, 0.0)
        event_features = torch.rand(events, len(model.schema.event_names), generator=generator)
        given = {"objects": objects, "mask": mask, "event_features": event_features}
        (logits,) = session.run(["classification"], {name: value.numpy() for name, value in given.items()})
        with torch.no_grad():
            expected = model(objects, mask, event_features)["classification"].numpy()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    content = session.get_modelmeta().custom_metadata_map
    assert EventSchema.from_json(content["schema"]) == model.schema
    assert tuple(json.loads(content["classes"])) == model.schema.classes


@pytest.mark.slow
def test_onnx_with_published_rules(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = EveNetConfig.tiny()
    pet = dataclasses.replace(config.pet, layer_scale=0.5, phantom_neighbours=True)
    schema = EventSchema.published()  # its azimuth takes the inverse error function
    compare(EveNet(dataclasses.replace(config, pet=pet), schema).eval(), tmp_path / "published.onnx")


@pytest.mark.slow
def test_onnx_of_the_demonstration_network(tmp_path: Path) -> None:
    compare(EveNet.from_pretrained(find_checkpoint("demo")), tmp_path / "demo.onnx")
