"""Body and classification head as one program without Python: ``torch.export`` and ONNX.

The program takes what :meth:`~evenet_hep.model.evenet.EveNet.forward` takes, raw values in GeV and radians with their
mask, for any number of events and of slots, and gives the logits of the classes. Trimming and sorting are left to the
caller, as all slots are computed.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from evenet_hep.errors import EveNetError, FileError

if TYPE_CHECKING:
    from evenet_hep.model.evenet import EveNet

INPUTS = ("objects", "mask", "event_features")
OUTPUT = "classification"

# Giles, "Approximating the erfinv function" (GPU Computing Gems, 2011), single precision: coefficients of powers of
# w - 2.5 for w < 5 and of sqrt(w) - 3 beyond, highest first, with w = -log(1 - x^2).
CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


class ExportError(EveNetError):
    """A network that cannot be exported as asked for."""


class Classifier(nn.Module):
    """Body and classification head of a network, in evaluation mode.

    Parameters
    ----------
    model : EveNet
        Needs a classification head.
    """

    def __init__(self, model: EveNet) -> None:
        super().__init__()
        if model.classification is None:
            msg = "model must have a classification head to be exported; found none"
            raise ExportError(msg)
        self.model = model
        self.head = model.classification
        self.eval()

    def forward(self, objects: Tensor, mask: Tensor, event_features: Tensor) -> Tensor:
        """Logits (B, C); arguments as in :meth:`EveNet.forward`."""
        encoding = self.model.encode(objects, mask, event_features)
        logits: Tensor = self.head(encoding.objects, mask, encoding.event)
        return logits


def export_program(model: EveNet) -> torch.export.ExportedProgram:
    """Body and classification head for ``torch.export``, with any number of events and slots.

    Parameters
    ----------
    model : EveNet
        Stays as it is, apart from its being in evaluation mode.

    Returns
    -------
    ExportedProgram
        Takes objects (B, N, F), mask (B, N) and event features (B, G), gives logits (B, C). B is at least 1, and N at
        least ``least_slots(model)``: events with fewer objects are padded, which changes nothing.

    Raises
    ------
    ExportError
        If the network has no classification head.

    Examples
    --------
    >>> from evenet_hep.model.evenet import EveNet, EveNetConfig
    >>> from evenet_hep.schema import EventSchema
    >>> model = EveNet(EveNetConfig.tiny(), EventSchema.standard(classes=("signal", "background")))
    >>> program = export_program(model).module()
    >>> program(torch.rand(5, 9, 7), torch.ones(5, 9, dtype=torch.bool), torch.rand(5, 10)).shape
    torch.Size([5, 2])
    """
    classifier = Classifier(model.eval())
    device = next(model.parameters()).device
    slots = max(least_slots(model) + 1, model.schema.capacity)
    example = (
        torch.ones(3, slots, len(model.schema.object_names), device=device),
        torch.ones(3, slots, dtype=torch.bool, device=device),
        torch.ones(3, len(model.schema.event_names), device=device),
    )
    b, n = torch.export.Dim("events", min=1), torch.export.Dim("slots", min=least_slots(model))
    with torch.no_grad():
        return torch.export.export(classifier, example, dynamic_shapes=({0: b, 1: n}, {0: b, 1: n}, {0: b}))


def least_slots(model: EveNet) -> int:
    """Slots that an exported network needs: with fewer, the search for neighbours would be another program."""
    return 2 * model.config.pet.neighbours + 1


def export_onnx(model: EveNet, path: str | Path) -> Path:
    """Write body and classification head as an ONNX file.

    Inputs are named ``objects``, ``mask`` and ``event_features``, the output ``classification``; shapes as in
    :func:`export_program`. The names of features and classes go into the metadata of the file.

    Parameters
    ----------
    model : EveNet
        Stays as it is, apart from its being in evaluation mode.
    path : path
        Of the file, which must end in ``.onnx``; replaced if it is there.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ExportError
        If the network has no classification head, or the extra ``onnx`` is not installed.
    FileError
        If the name has another ending.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        msg = f"path must end in .onnx; found {str(path)!r}"
        raise FileError(msg)
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        msg = f"ONNX export needs {' and '.join(missing)}: pip install 'evenet-hep[onnx]'"
        raise ExportError(msg)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)  # torch about itself
        program = export_program(model).run_decompositions({torch.ops.aten.erfinv.default: _erfinv})
        exported = torch.onnx.export(
            program, input_names=INPUTS, output_names=[OUTPUT], dynamo=True, verbose=False
        )
    content = cast("torch.onnx.ONNXProgram", exported)
    content.model.metadata_props.update(
        {
            "schema": model.schema.to_json(),
            "object_features": json.dumps(model.schema.object_names),
            "event_features": json.dumps(model.schema.event_names),
            "classes": json.dumps(model.schema.classes),
        }
    )
    content.save(path)
    return path


def _erfinv(x: Tensor) -> Tensor:
    # ONNX has no such function.
    w = -torch.log((1 - x) * (1 + x))
    return x * torch.where(w < 5, _polynomial(CENTRE, w - 2.5), _polynomial(TAIL, torch.sqrt(w) - 3))


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
