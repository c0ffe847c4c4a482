"""Which samples, and how many events of each: from words on the command line, or from a YAML plan.

A plan names samples and their shares; the shares are scaled to the number of events asked for::

    samples:
      TT1L: 20000
      haa4b:m_a=30,skim=4j2b: 5000
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.share import simulation_plan
from evenet_hep.simulate.catalogue import PROCESSES
from evenet_hep.simulate.processes import parse_request
from evenet_hep.simulate.run import SampleRequest


def requests_from_words(words: Sequence[str], events: int | None) -> list[SampleRequest]:
    """Samples from words such as ``TT1L`` or ``xyh:m_x=500,m_y=90,events=2000``.

    Parameters
    ----------
    words : sequence of str
        One per sample.
    events : int or None
        For words without a number of their own.

    Returns
    -------
    list of SampleRequest
        In the order of the words.

    Raises
    ------
    ConfigError
        For a word that is no process, and without a number of events.

    Examples
    --------
    >>> [(r.sample.label, r.n_events) for r in requests_from_words(["TT1L", "TT2L:events=50"], 100)]
    [('TT1L', 100), ('TT2L', 50)]
    """
    requests = []
    for word in words:
        sample = parse_request(word, PROCESSES)
        n_events = sample.events if sample.events is not None else events
        if n_events is None:
            msg = f"how many events of {sample.label}? give --events, or {word}{',' if ':' in word else ':'}events=..."
            raise ConfigError(msg)
        requests.append(SampleRequest(sample, n_events))
    return requests


def requests_from_plan(plan: str | Path, events: int | None) -> list[SampleRequest]:
    """Samples of a plan, by the name of one that comes with the package or from a YAML file.

    Parameters
    ----------
    plan : str or Path
        ``all``, ``pretraining``, the name of an analysis (``bbww_resonance``, ``higgs_to_4b``, ``ttbar_spin``), or the path of a file.
    events : int or None
        Total number of events to which the shares of the plan are scaled; None takes them as numbers of events.

    Returns
    -------
    list of SampleRequest
        In the order of the plan.

    Raises
    ------
    FileError, ConfigError
        For a file that is missing or no plan.

    Examples
    --------
    >>> requests = requests_from_plan("pretraining", 1000)
    >>> len(requests), 990 < sum(request.n_events for request in requests) < 1010
    (20, True)
    """
    path = simulation_plan(str(plan)) if not Path(plan).suffix else Path(plan)
    shares = _read_plan(path)
    total = sum(shares.values())
    requests = []
    for word, share in shares.items():
        sample = parse_request(word, PROCESSES)
        if sample.events is not None:
            msg = f"{path}: {word} has a number of events; in a plan it is the value behind the colon"
            raise ConfigError(msg)
        n_events = share if events is None else max(round(events * share / total), 1)
        requests.append(SampleRequest(sample, n_events))
    return requests


def _read_plan(path: Path) -> dict[str, int]:
    if not path.is_file():
        msg = f"there is no plan {path}"
        raise FileError(msg)
    try:
        content: Any = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        msg = f"{path} is not a YAML file: {str(error).splitlines()[0]}"
        raise FileError(msg) from error
    if (
        not isinstance(content, dict)
        or set(content) != {"samples"}
        or not isinstance(content["samples"], dict)
    ):
        msg = f"{path} must hold one mapping, samples: {{sample: number of events}}"
        raise ConfigError(msg)
    shares = content["samples"]
    for word, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int) or share <= 0:
            msg = f"{path}: {word} needs a positive whole number of events; found {share!r}"
            raise ConfigError(msg)
    return shares
