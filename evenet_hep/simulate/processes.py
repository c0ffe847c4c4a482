"""What a process is: Pythia settings, decays to choose, parameters; and how one is asked for by name.

A request is a name with parameters: ``TT1L``, ``haa4b:m_a=30``, ``xyh:m_x=500,m_y=90``. The catalogue itself is in
:mod:`evenet_hep.simulate.catalogue`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from evenet_hep.errors import ConfigError
from evenet_hep.simulate.skims import SKIMS

Settings = list[str]


@dataclass(frozen=True)
class Parameter:
    """A number that a process depends on.

    Parameters
    ----------
    description : str
        With its unit.
    default : float or None
        None: must be given.
    low, high : float
        Allowed range, ends included.
    """

    description: str
    default: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Process:
    """One entry of the catalogue.

    Parameters
    ----------
    name : str
        As it is asked for.
    process_class : str
        Name of the class it belongs to in a classification.
    description : str
        One line.
    settings : callable
        From the values of the parameters to Pythia's settings.
    parameters : dict of Parameter
        By name.
    charged_leptons : int, optional
        Keep only events with this number of electrons, muons and taus from W and Z bosons; chosen before the shower,
        so that others cost nothing.
    skim : str
        Choice of events after reconstruction, see :data:`evenet_hep.simulate.skims.SKIMS`.
    reference_pb : float, optional
        Best cross-section at 13 TeV, for comparison; see ``reference``.
    reference : str
        Where it comes from, or what to know about the cross-section.
    has_top_pair : bool
        Leading-order QCD top pairs, for which the spin weights are exact.
    needs_lhe : bool
        Pythia has no such hard process; Les Houches events must be given.
    check : callable, optional
        From the values of the parameters to a complaint, or an empty string.
    """

    name: str
    process_class: str
    description: str
    settings: Callable[[Mapping[str, float]], Settings]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    charged_leptons: int | None = None
    skim: str = "none"
    reference_pb: float | None = None
    reference: str = ""
    has_top_pair: bool = False
    needs_lhe: bool = False
    check: Callable[[Mapping[str, float]], str] | None = None


@dataclass(frozen=True)
class Sample:
    """A process with values for its parameters: what one folder of files holds.

    Parameters
    ----------
    process : Process
        From the catalogue.
    values : dict of str to float
        One per parameter.
    skim : str
        Choice of events after reconstruction.
    events : int, optional
        Number of events to write, if it was part of the request.
    label : str
        Name of the folder.
    """

    process: Process
    values: Mapping[str, float]
    skim: str
    events: int | None
    label: str

    @property
    def settings(self) -> Settings:
        """Pythia settings of the hard process and its decays."""
        return self.process.settings(self.values)


def parse_request(text: str, catalogue: Mapping[str, Process]) -> Sample:
    """A process with its parameters from a request such as ``haa4b:m_a=30,skim=4j2b,events=5000``.

    Parameters
    ----------
    text : str
        Name, colon, and parameters separated by commas. ``skim`` and ``events`` are understood by all processes.
    catalogue : dict of Process
        By name; upper and lower case are not told apart.

    Returns
    -------
    Sample
        All parameters have values.

    Raises
    ------
    ConfigError
        For an unknown process or parameter, a value that is no number or not allowed, and a parameter without value.

    Examples
    --------
    >>> from evenet_hep.simulate.catalogue import PROCESSES
    >>> sample = parse_request("xyh:m_x=500,m_y=90", PROCESSES)
    >>> sample.label, sample.values["m_y"]
    ('xyh_m_x500_m_y90', 90.0)
    """
    name, _, tail = text.partition(":")
    process = find_process(name.strip(), catalogue)
    given = _read_pairs(process.name, tail)
    skim = given.pop("skim", process.skim)
    if skim not in SKIMS:
        msg = f"{process.name}: skim must be one of {', '.join(SKIMS)}; found {skim!r}"
        raise ConfigError(msg)
    events = _read_count(process.name, given.pop("events")) if "events" in given else None
    values = _read_values(process, given)
    shown = [
        f"{key}{_short(values[key])}"
        for key in process.parameters
        if key in given or process.parameters[key].default is None
    ]
    if skim != process.skim:
        shown.append(skim if skim != "none" else "unskimmed")
    return Sample(process, values, skim, events, "_".join([process.name, *shown]))


def find_process(name: str, catalogue: Mapping[str, Process]) -> Process:
    """A process of the catalogue by name; a ConfigError with similar names if there is none."""
    by_name = {known.lower(): process for known, process in catalogue.items()}
    if name.lower() in by_name:
        return by_name[name.lower()]
    near = difflib.get_close_matches(name.lower(), by_name, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(by_name[entry].name for entry in near)}?" if near else "see --list"
    msg = f"there is no process {name!r}; {hint}"
    raise ConfigError(msg)


def _read_pairs(name: str, text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = word.partition("=")
        key = key.strip()
        if not equals or not value.strip():
            msg = f"{name}: parameters are written key=value; found {word!r}"
            raise ConfigError(msg)
        if key in pairs:
            msg = f"{name}: {key} is given twice, as {pairs[key]} and {value.strip()}"
            raise ConfigError(msg)
        pairs[key] = value.strip()
    return pairs


def _read_values(process: Process, given: Mapping[str, str]) -> dict[str, float]:
    if unknown := sorted(set(given) - set(process.parameters)):
        allowed = ", ".join([*process.parameters, "skim", "events"])
        msg = f"{process.name} has no parameter {unknown[0]!r}; it has {allowed}"
        raise ConfigError(msg)
    values = {}
    for key, parameter in process.parameters.items():
        if key not in given and parameter.default is None:
            msg = f"{process.name} needs a value for {key} ({parameter.description}), as in {process.name}:{key}=..."
            raise ConfigError(msg)
        value = (
            _read_number(process.name, key, given[key]) if key in given else float(parameter.default or 0.0)
        )
        if not parameter.low <= value <= parameter.high:
            msg = (
                f"{process.name}: {key} must be from {parameter.low:g} to {parameter.high:g}; found {value:g}"
            )
            raise ConfigError(msg)
        values[key] = value
    complaint = process.check(values) if process.check else ""
    if complaint:
        msg = f"{process.name}: {complaint}"
        raise ConfigError(msg)
    return values


def _read_number(name: str, key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        msg = f"{name}: {key} must be a number; found {text!r}"
        raise ConfigError(msg) from error


def _read_count(name: str, text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        msg = f"{name}: events must be a positive whole number; found {text!r}"
        raise ConfigError(msg)
    return int(text)


def _short(value: float) -> str:
    return f"{value:g}".replace(".", "p").replace("-", "m")
