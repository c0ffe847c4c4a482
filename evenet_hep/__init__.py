"""Event-level foundation models for columnar analysis.

The public names are loaded on first use, so that ``import evenet_hep`` needs neither torch nor coffea:

>>> import evenet_hep
>>> evenet_hep.EventSchema.__name__
'EventSchema'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evenet_hep.evaluation.evaluate import evaluate as evaluate
    from evenet_hep.events.cloud import EventCloud as EventCloud
    from evenet_hep.inference import Predictor as Predictor
    from evenet_hep.model.evenet import EveNet as EveNet
    from evenet_hep.model.evenet import EveNetConfig as EveNetConfig
    from evenet_hep.schema import EventSchema as EventSchema
    from evenet_hep.schema import Feature as Feature
    from evenet_hep.training.config import FinetuneConfig as FinetuneConfig
    from evenet_hep.training.config import PretrainConfig as PretrainConfig
    from evenet_hep.training.run import finetune as finetune
    from evenet_hep.training.run import pretrain as pretrain

__version__ = "0.1.0"

_HOME = {
    "EveNet": "evenet_hep.model.evenet",
    "EveNetConfig": "evenet_hep.model.evenet",
    "EventCloud": "evenet_hep.events.cloud",
    "EventSchema": "evenet_hep.schema",
    "Feature": "evenet_hep.schema",
    "FinetuneConfig": "evenet_hep.training.config",
    "Predictor": "evenet_hep.inference",
    "PretrainConfig": "evenet_hep.training.config",
    "evaluate": "evenet_hep.evaluation.evaluate",
    "finetune": "evenet_hep.training.run",
    "pretrain": "evenet_hep.training.run",
}

__all__ = [
    "EveNet",
    "EveNetConfig",
    "EventCloud",
    "EventSchema",
    "Feature",
    "FinetuneConfig",
    "Predictor",
    "PretrainConfig",
    "__version__",
    "evaluate",
    "finetune",
    "pretrain",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    if name not in _HOME:
        msg = f"evenet_hep has no {name!r}; it has {', '.join(__all__)}"
        raise AttributeError(msg)
    return getattr(import_module(_HOME[name]), name)
