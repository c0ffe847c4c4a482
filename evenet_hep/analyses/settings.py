"""Settings of an analysis: its defaults, a YAML file over them, single values over both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from evenet_hep.model.layers import read_config
from evenet_hep.training.config import to_dict
from evenet_hep.training.settings import override, read_yaml

Config = TypeVar("Config")


def read_analysis_config(
    kind: type[Config], path: str | Path | None = None, settings: Iterable[str] = ()
) -> Config:
    """Settings from a YAML file, with some of them replaced.

    Parameters
    ----------
    kind : type
        Dataclass of the settings, such as :class:`~evenet_hep.analyses.bbww_resonance.BbwwConfig`.
    path : path, optional
        What it leaves out, at any level, takes the default; without it everything does.
    settings : iterable of str
        ``key=value``, with dots between levels: ``xgboost.max_trees=500``.

    Raises
    ------
    ConfigError
        For unknown keys and values of another kind, by name.

    Examples
    --------
    >>> from evenet_hep.analyses.bbww_resonance import BbwwConfig
    >>> read_analysis_config(BbwwConfig, settings=["systematics.energy_scale=20", "seeds=[1]"]).seeds
    (1,)
    """
    given = read_yaml(path) if path is not None else {}
    content = override(_merged(to_dict(kind()), given), settings)
    return read_config(kind, content, where=Path(path).name if path is not None else "settings")


def _merged(usual: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Level by level: a learning rate in a file leaves the batch size as it was."""
    merged = dict(usual)
    for key, value in given.items():
        below = merged.get(key)
        is_level = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(dict(below or {}), value) if is_level else value
    return merged
