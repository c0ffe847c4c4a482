"""The command of the search for H -> aa -> 4b."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evenet_hep.cli.analyse import Events, File, Out, Settings, analyse, tell
from evenet_hep.cli.app import console


@analyse.command(name="higgs-to-4b")
def higgs_to_4b_command(events: Events, out: Out, config: File = None, settings: Settings = None) -> None:
    """Search for H -> aa -> 4b: networks against baselines, pairing, limits, closure, energy scale.

    Run the same command again to go on where it was stopped.
    """
    with console.status("loading torch"):
        from evenet_hep.analyses.higgs_to_4b import HiggsTo4bConfig, analyse_higgs_to_4b  # noqa: PLC0415
        from evenet_hep.model.layers import read_config  # noqa: PLC0415
        from evenet_hep.training.config import to_dict  # noqa: PLC0415
        from evenet_hep.training.settings import override, read_yaml  # noqa: PLC0415

    content = _merged(to_dict(HiggsTo4bConfig()), {} if config is None else read_yaml(config))
    chosen = read_config(HiggsTo4bConfig, override(content, [*(settings or ()), f"events={events}"]))
    tell(analyse_higgs_to_4b(chosen, out, progress=console.is_terminal))


def _merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults with what a file replaces, level by level: a learning rate in it leaves the batch size as it was."""
    result = dict(defaults)
    for key, value in given.items():
        old = result.get(key)
        result[key] = (
            _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
        )
    return result
