"""pyhf workspaces (HistFactory models as JSON) from histograms: normalisation, shape and simulation statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evenet_hep.errors import InputError
from evenet_hep.stats.contents import Contents, read_contents

POI = "mu"
VERSION = "1.0.0"  # of the HistFactory JSON schema

Channels = Mapping[str, Mapping[str, Any]]


def make_workspace(
    channels: Channels,
    *,
    signal: str,
    observed: Mapping[str, Any] | None = None,
    normalizations: Mapping[str, Mapping[str, float | tuple[float, float]]] | None = None,
    shapes: Mapping[str, Mapping[str, Mapping[str, tuple[Any, Any]]]] | None = None,
    mc_statistics: bool = True,
) -> dict[str, Any]:
    """Workspace for pyhf, cabinetry and this module's fits; plain JSON, made without pyhf.

    Parameters
    ----------
    channels : mapping of str to mapping of str to histogram
        Channel -> sample -> expected events: hist.Hist, or tuple (values, edges[, variances]).
    signal : str
        Sample whose normalisation ``mu`` is the parameter of interest, in every channel that has it.
    observed : mapping of str to histogram, optional
        Channel -> data. Without it: the sum of all samples but the signal (Asimov data).
    normalizations : mapping, optional
        Nuisance parameter -> sample -> relative uncertainty, or factors (down, up); applied in every channel.
    shapes : mapping, optional
        Nuisance parameter -> channel -> sample -> histograms (down, up) at -1 and +1 standard deviation. Their change
        of normalisation is part of the effect.
    mc_statistics : bool
        Nuisance parameters for the statistics of simulation: one per bin from the variances of all backgrounds together,
        and one from those of the signal, which is so many times as large at every strength. Samples without variances
        (zeros) have none.

    Returns
    -------
    dict
        Of version 1.0.0 of the HistFactory schema; ``json.dump`` writes it.

    Raises
    ------
    InputError
        For a signal that no channel has or that is empty, negative contents, data or variations with other bins,
        unknown names, or uncertainties that are not numbers above -1.

    Examples
    --------
    >>> edges = [0.0, 1.0, 2.0]
    >>> spec = make_workspace(
    ...     {"SR": {"signal": ([2, 5], edges), "background": ([50, 40], edges)}},
    ...     signal="signal",
    ...     normalizations={"luminosity": {"signal": 0.02, "background": 0.02}},
    ... )
    >>> spec["observations"]
    [{'name': 'SR', 'data': [50.0, 40.0]}]
    >>> [modifier["name"] for modifier in spec["channels"][0]["samples"][0]["modifiers"]]
    ['mu', 'luminosity', 'signal_mc_SR']
    """
    contents = {
        channel: {sample: _read(histogram, f"{sample} in {channel}") for sample, histogram in samples.items()}
        for channel, samples in channels.items()
    }
    _check_signal(contents, signal)
    _check_names(contents, normalizations or {}, shapes or {})
    specs = []
    for channel, samples in contents.items():
        first = next(iter(samples.values()))
        entries = []
        for sample, expected in samples.items():
            _same_bins(expected, first, f"{sample} in {channel}")
            modifiers = [{"name": POI, "type": "normfactor", "data": None}] if sample == signal else []
            modifiers += _normalizations(sample, normalizations or {})
            modifiers += _shapes(channel, sample, expected, shapes or {})
            if mc_statistics and expected.variances.any():
                sigma = np.sqrt(expected.variances).tolist()
                # Together with the backgrounds the signal's would be relative to a sum at strength one, which is arbitrary.
                name = f"signal_mc_{channel}" if sample == signal else f"mc_{channel}"
                modifiers.append({"name": name, "type": "staterror", "data": sigma})
            entries.append({"name": sample, "data": expected.values.tolist(), "modifiers": modifiers})
        specs.append({"name": channel, "samples": entries})
    measurement = {"name": "measurement", "config": {"poi": POI, "parameters": []}}
    return {
        "version": VERSION,
        "channels": specs,
        "observations": _observations(contents, signal, observed),
        "measurements": [measurement],
    }


def _normalizations(
    sample: str, normalizations: Mapping[str, Mapping[str, float | tuple[float, float]]]
) -> list[dict[str, Any]]:
    modifiers = []
    for name, effects in normalizations.items():
        if sample not in effects:
            continue
        effect = effects[sample]
        low, high = effect if isinstance(effect, tuple) else (1 - effect, 1 + effect)
        if not (np.isfinite([low, high]).all() and low > 0 and high > 0):
            msg = f"{name} of {sample} must be an uncertainty below 1 or two positive factors; found {effect}"
            raise InputError(msg)
        modifiers.append({"name": name, "type": "normsys", "data": {"lo": float(low), "hi": float(high)}})
    return modifiers


def _shapes(
    channel: str,
    sample: str,
    expected: Contents,
    shapes: Mapping[str, Mapping[str, Mapping[str, tuple[Any, Any]]]],
) -> list[dict[str, Any]]:
    modifiers = []
    for name, by_channel in shapes.items():
        pair = by_channel.get(channel, {}).get(sample)
        if pair is None:
            continue
        down, up = (_read(x, f"{name} of {sample} in {channel}") for x in pair)
        for varied in (down, up):
            _same_bins(varied, expected, f"{name} of {sample} in {channel}")
        effect = {"lo_data": down.values.tolist(), "hi_data": up.values.tolist()}
        modifiers.append({"name": name, "type": "histosys", "data": effect})
    return modifiers


def _observations(
    contents: Mapping[str, Mapping[str, Contents]], signal: str, observed: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    observations = []
    for channel, samples in contents.items():
        first = next(iter(samples.values()))
        if observed is None:
            total = np.zeros_like(first.values)
            for name, sample in samples.items():
                total += sample.values if name != signal else 0.0
        elif channel in observed:
            data = _read(observed[channel], f"data in {channel}")
            _same_bins(data, first, f"data in {channel}")
            total = data.values
        else:
            msg = f"observed must have every channel; it lacks {channel} and has {', '.join(observed)}"
            raise InputError(msg)
        observations.append({"name": channel, "data": total.tolist()})
    return observations


def _check_signal(contents: Mapping[str, Mapping[str, Contents]], signal: str) -> None:
    found = [samples[signal] for samples in contents.values() if signal in samples]
    if not found:
        names = sorted({name for samples in contents.values() for name in samples})
        msg = f"signal must be one of the samples {', '.join(names)}; found {signal!r}"
        raise InputError(msg)
    if sum(x.values.sum() for x in found) <= 0:
        msg = f"{signal} must have a positive sum, or its strength means nothing; found 0"
        raise InputError(msg)


def _check_names(
    contents: Mapping[str, Mapping[str, Contents]],
    normalizations: Mapping[str, Mapping[str, Any]],
    shapes: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> None:
    samples = {name for channel in contents.values() for name in channel}
    for name, effects in normalizations.items():
        if set(effects) - samples:
            msg = f"{name} acts on {', '.join(sorted(set(effects) - samples))}; the samples are {', '.join(sorted(samples))}"
            raise InputError(msg)
    for name, by_channel in shapes.items():
        for channel, pairs in by_channel.items():
            unknown = set(pairs) - set(contents.get(channel, {}))
            if channel not in contents or unknown:
                msg = f"{name} acts on {', '.join(sorted(unknown)) or 'nothing'} in {channel}, which no channel has"
                raise InputError(msg)


def _read(histogram: Any, name: str) -> Contents:
    contents = read_contents(histogram, name=name)
    if (contents.values < 0).any():
        msg = f"{name} must not be negative: merge bins; found {contents.values.min():g}"
        raise InputError(msg)
    return contents


def _same_bins(contents: Contents, expected: Contents, name: str) -> None:
    if contents.edges.shape != expected.edges.shape or not np.allclose(contents.edges, expected.edges):
        msg = f"{name} must have the bins {expected.edges} of its channel; found {contents.edges}"
        raise InputError(msg)
