"""Configurations from YAML files, with single values replaced on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from evenet_hep.errors import ConfigError


def load_yaml(text: str) -> dict[str, Any]:
    """The mapping that YAML text holds.

    Raises
    ------
    ConfigError
        For text that is no YAML, or no mapping.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        msg = f"the configuration is not valid YAML: {error}"
        raise ConfigError(msg) from error
    if not isinstance(content, Mapping):
        msg = f"the configuration must be a mapping; found {content!r}"
        raise ConfigError(msg)
    return dict(content)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping of a YAML file; errors name the file."""
    try:
        return load_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read the configuration {path}: {error}"
        raise ConfigError(msg) from error
    except ConfigError as error:
        msg = f"{path}: {error}"
        raise ConfigError(msg) from error


def override(content: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A mapping with some values replaced.

    Parameters
    ----------
    content : mapping
        Nested mappings and lists.
    settings : iterable of str
        ``key=value``; a dot goes one level down, a number into a list: ``training.stages.0.share=0.5``. Values are YAML.

    Raises
    ------
    ConfigError
        For a setting without ``=``, or a path through something that is neither a mapping nor a list.

    Examples
    --------
    >>> override({"training": {"epochs": 5}}, ["training.epochs=7", "training.lr=1e-3"])
    {'training': {'epochs': 7, 'lr': 0.001}}
    """
    result: dict[str, Any] = _copied(content)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            msg = f"a setting must read key=value; found {setting!r}"
            raise ConfigError(msg)
        *above, last = path.strip().split(".")
        place: Any = result
        for key in above:
            place = _below(place, key, setting)
        value = _number(yaml.safe_load(text))
        if isinstance(place, list):
            place[_index(place, last, setting)] = value
        else:
            place[last] = value
    return result


def _copied(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _copied(value) for key, value in content.items()}
    return [_copied(item) for item in content] if isinstance(content, list | tuple) else content


def _below(place: Any, key: str, setting: str) -> Any:
    below = place[_index(place, key, setting)] if isinstance(place, list) else place.setdefault(key, {})
    if not isinstance(below, dict | list):
        msg = f"setting {setting!r}: {key} is {below!r} and has nothing below it"
        raise ConfigError(msg)
    return below


def _index(place: list[Any], key: str, setting: str) -> int:
    if not key.isdigit() or int(key) >= len(place):
        msg = f"setting {setting!r}: a list of {len(place)} is counted from 0; found {key!r}"
        raise ConfigError(msg)
    return int(key)


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-3, without a dot, as text.
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
