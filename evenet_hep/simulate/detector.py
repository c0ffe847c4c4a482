"""The detector card: resolutions, efficiencies and tag rates of a parametric detector.

A card is a frozen dataclass and, one to one, a YAML file. Two come with the package: ``cms`` (the defaults) and
``atlas``. They describe the size of the effects in these experiments, not the experiments: response is Gaussian, there
is no pile-up beyond a term in the isolation and in the missing momentum, and no objects are made of noise.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from evenet_hep.errors import ConfigError, FileError


@dataclass(frozen=True)
class JetCard:
    """Jets: anti-kT clusters of all visible particles, smeared by sigma/pT = noise/pT + stochastic/sqrt(pT) + constant.

    The three terms are added in quadrature; the leptons of a jet keep their own, better resolution.

    Parameters
    ----------
    radius : float
        Of the clustering.
    min_pt, max_abs_eta : float
        Jets that are kept, after smearing; GeV.
    noise : float
        GeV.
    stochastic, constant : float
        Within abs(eta) < 2.5; in square roots of GeV and relative.
    stochastic_forward, constant_forward : float
        Beyond.
    angle, angle_soft : float
        Resolution in eta and phi: angle + angle_soft / pT, radians and radians GeV.
    """

    radius: float = 0.4
    min_pt: float = 15.0
    max_abs_eta: float = 4.7
    noise: float = 2.5
    stochastic: float = 0.85
    constant: float = 0.04
    stochastic_forward: float = 1.05
    constant_forward: float = 0.07
    angle: float = 0.01
    angle_soft: float = 0.25


@dataclass(frozen=True)
class BTagCard:
    """The b-tag score: a number from 0 to 1 with given efficiencies above three thresholds.

    Parameters
    ----------
    branch : str
        Field of the jets that holds it.
    thresholds : tuple of 3 floats
        Loose, medium and tight working point.
    b, c, light : tuple of 3 floats
        Efficiencies at these working points for jets with a b hadron, with a c hadron but no b hadron, and without.
    """

    branch: str = "btagDeepFlavB"
    thresholds: tuple[float, ...] = (0.0480, 0.2489, 0.6377)
    b: tuple[float, ...] = (0.86, 0.70, 0.50)
    c: tuple[float, ...] = (0.40, 0.10, 0.025)
    light: tuple[float, ...] = (0.10, 0.010, 0.0010)


@dataclass(frozen=True)
class MuonCard:
    """Muons: the relative resolution is that of the region in eta, and ``curvature`` times pT, in quadrature.

    Parameters
    ----------
    min_pt, max_abs_eta : float
        Muons that can be seen; GeV.
    eta_edges : tuple of floats
        Upper ends in abs(eta) of the regions but the last.
    resolution : tuple of floats
        One per region.
    curvature : float
        1/GeV.
    efficiency, efficiency_soft : float
        Reconstruction above and below 5 GeV.
    loose, medium, tight : float
        Fractions of reconstructed muons that pass the identifications; each contains the next.
    """

    min_pt: float = 3.0
    max_abs_eta: float = 2.4
    eta_edges: tuple[float, ...] = (0.9, 1.6)
    resolution: tuple[float, ...] = (0.010, 0.014, 0.021)
    curvature: float = 1e-4
    efficiency: float = 0.96
    efficiency_soft: float = 0.80
    loose: float = 0.995
    medium: float = 0.985
    tight: float = 0.965


@dataclass(frozen=True)
class ElectronCard:
    """Electrons: sigma/pT = resolution of the region + noise/pT in quadrature.

    Parameters
    ----------
    min_pt, max_abs_eta : float
        Electrons that can be seen; GeV.
    eta_edges, resolution, efficiency : tuple of floats
        Upper ends in abs(eta) of the regions but the last; relative resolution and reconstruction per region.
    noise : float
        GeV.
    in_jet : float
        Factor on the efficiency for electrons of hadron decays, most of which are not reconstructed.
    cut_based : tuple of 3 floats
        Fractions that pass the tight, medium and loose identification; the rest passes the veto identification.
    mva90, mva80 : float
        Fractions, among isolated electrons, that pass the MVA identification at 90 and 80 % efficiency.
    """

    min_pt: float = 7.0
    max_abs_eta: float = 2.5
    eta_edges: tuple[float, ...] = (1.479,)
    resolution: tuple[float, ...] = (0.017, 0.030)
    efficiency: tuple[float, ...] = (0.88, 0.78)
    noise: float = 0.4
    in_jet: float = 0.3
    cut_based: tuple[float, ...] = (0.75, 0.88, 0.95)
    mva90: float = 0.92
    mva80: float = 0.83


@dataclass(frozen=True)
class TauCard:
    """Hadronic taus: visible decay products of taus, and jets that look like one.

    Parameters
    ----------
    min_pt, max_abs_eta : float
        Taus that can be seen, after smearing; GeV.
    resolution : float
        Relative.
    efficiency : float
        Of reconstruction with a known decay mode.
    medium, tight : float
        Fractions of reconstructed taus at these working points against jets.
    jet_fake, jet_fake_medium : float
        Probability that a jet is reconstructed as a tau, and fraction of those that pass the medium working point.
    """

    min_pt: float = 18.0
    max_abs_eta: float = 2.3
    resolution: float = 0.10
    efficiency: float = 0.75
    medium: float = 0.80
    tight: float = 0.70
    jet_fake: float = 0.02
    jet_fake_medium: float = 0.20


@dataclass(frozen=True)
class MetCard:
    """Missing transverse momentum: neutrinos, what smearing did to jets and leptons, and soft noise.

    Parameters
    ----------
    noise : float
        Per axis, GeV: pile-up and unclustered energy.
    stochastic : float
        Per axis and square root of the scalar sum of pT in GeV; added in quadrature.
    """

    noise: float = 12.0
    stochastic: float = 0.0


@dataclass(frozen=True)
class IsolationCard:
    """Relative isolation: hadrons and photons in a cone, and what pile-up leaves in it.

    Parameters
    ----------
    min_pt : float
        Of the particles that count, GeV.
    pile_up : float
        Mean of an exponential in a cone of 0.4, GeV; smaller cones get less, by area.
    limit : float
        Isolated leptons are below it; only the triggers and the electron MVA use it.
    """

    min_pt: float = 0.5
    pile_up: float = 1.2
    limit: float = 0.15


@dataclass(frozen=True)
class TrackCard:
    """Impact parameters: sigma = core * (1 + soft / pT).

    Parameters
    ----------
    dxy, dz : float
        Core resolutions in centimetres.
    soft : float
        GeV.
    """

    dxy: float = 0.0013
    dz: float = 0.0027
    soft: float = 10.0


@dataclass(frozen=True)
class TriggerCard:
    """Efficiencies of the triggers above their thresholds.

    Parameters
    ----------
    muon, electron, dimuon : float
        HLT_IsoMu24, HLT_Ele27_WPTight_Gsf, HLT_TrkMu15_DoubleTrkMu5NoFiltersNoVtx.
    """

    muon: float = 0.92
    electron: float = 0.88
    dimuon: float = 0.90


@dataclass(frozen=True)
class DetectorCard:
    """All that is between generated particles and reconstructed objects.

    Parameters
    ----------
    name : str
        Of the card; written beside the events.
    jets, btag, muons, electrons, taus, met, isolation, tracks, triggers
        One part per kind of object.
    mean_vertices : float
        Mean of the number of primary vertices, a Poisson number without influence on anything else.

    Examples
    --------
    >>> DetectorCard().jets.noise, CARDS["atlas"].muons.max_abs_eta
    (2.5, 2.7)
    """

    name: str = "cms"
    jets: JetCard = field(default_factory=JetCard)
    btag: BTagCard = field(default_factory=BTagCard)
    muons: MuonCard = field(default_factory=MuonCard)
    electrons: ElectronCard = field(default_factory=ElectronCard)
    taus: TauCard = field(default_factory=TauCard)
    met: MetCard = field(default_factory=MetCard)
    isolation: IsolationCard = field(default_factory=IsolationCard)
    tracks: TrackCard = field(default_factory=TrackCard)
    triggers: TriggerCard = field(default_factory=TriggerCard)
    mean_vertices: float = 24.0

    def __post_init__(self) -> None:
        _check_btag(self.btag)
        for name in ("muons", "electrons"):
            part = getattr(self, name)
            if len(part.resolution) != len(part.eta_edges) + 1:
                msg = (
                    f"card.{name}.resolution needs one entry more than eta_edges; "
                    f"found {len(part.resolution)} and {len(part.eta_edges)}"
                )
                raise ConfigError(msg)
        if len(self.electrons.efficiency) != len(self.electrons.resolution):
            msg = "card.electrons.efficiency and resolution must have one entry per region in eta"
            raise ConfigError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings, as in the YAML file."""
        plain: dict[str, Any] = to_plain(dataclasses.asdict(self))
        return plain

    def to_yaml(self) -> str:
        """The card as the text of a YAML file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, content: object) -> DetectorCard:
        """Card from plain dictionaries; what is left out keeps the default.

        Raises
        ------
        ConfigError
            For an unknown key or a value of the wrong kind.
        """
        card: DetectorCard = read_part(cls, content, "card")
        return card


def _check_btag(card: BTagCard) -> None:
    for name in ("thresholds", "b", "c", "light"):
        values = getattr(card, name)
        if len(values) != 3 or not all(0.0 < value < 1.0 for value in values):
            msg = f"card.btag.{name} must be three numbers between 0 and 1; found {list(values)}"
            raise ConfigError(msg)
        falling = values[::-1] if name != "thresholds" else values
        if list(falling) != sorted(set(falling)):
            order = "rise" if name == "thresholds" else "fall"
            msg = f"card.btag.{name} must {order} from loose to tight; found {list(values)}"
            raise ConfigError(msg)


def to_plain(value: Any) -> Any:
    """Tuples as lists, also inside of dictionaries: what JSON and YAML hold."""
    if isinstance(value, dict):
        return {key: to_plain(inner) for key, inner in value.items()}
    return [to_plain(inner) for inner in value] if isinstance(value, tuple) else value


def read_part(kind: type[Any], content: object, where: str) -> Any:
    """A part of a card from plain dictionaries; unknown keys and values of the wrong kind are errors."""
    if not isinstance(content, Mapping):
        msg = f"{where} must be a mapping of keys to values; found {content!r}"
        raise ConfigError(msg)
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(map(str, content)) - set(hints)):
        msg = f"{where} has unknown key {', '.join(map(repr, unknown))}; allowed are {', '.join(hints)}"
        raise ConfigError(msg)
    return kind(**{key: _read_value(hints[key], value, f"{where}.{key}") for key, value in content.items()})


def _read_value(hint: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return read_part(typing.cast("type[Any]", hint), value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            msg = f"{where} must be a list of numbers; found {value!r}"
            raise ConfigError(msg)
        return tuple(_read_value(float, entry, where) for entry in value)
    if hint is str:
        if not isinstance(value, str):
            msg = f"{where} must be a name; found {value!r}"
            raise ConfigError(msg)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0.0:
        msg = f"{where} must be a number that is not negative; found {value!r}"
        raise ConfigError(msg)
    return float(value)


CARDS = {
    "cms": DetectorCard(),
    "atlas": DetectorCard(
        name="atlas",
        jets=JetCard(
            min_pt=20.0, max_abs_eta=4.5, noise=3.5, stochastic=0.65, constant=0.035,
            stochastic_forward=0.90, constant_forward=0.06,
        ),
        btag=BTagCard(
            thresholds=(0.0480, 0.2489, 0.6377), b=(0.85, 0.77, 0.60), c=(0.35, 0.18, 0.025),
            light=(0.030, 0.0060, 0.0007),
        ),
        muons=MuonCard(
            max_abs_eta=2.7, eta_edges=(1.05, 2.0), resolution=(0.017, 0.020, 0.028), curvature=2e-4, efficiency=0.97
        ),
        electrons=ElectronCard(
            max_abs_eta=2.47, eta_edges=(1.37, 1.52), resolution=(0.014, 0.050, 0.022), efficiency=(0.90, 0.60, 0.82)
        ),
        taus=TauCard(max_abs_eta=2.5, resolution=0.12, efficiency=0.75),
        met=MetCard(noise=8.0, stochastic=0.5),
    ),
}  # fmt: skip


def load_card(name: str | Path) -> DetectorCard:
    """A card by name, or from a YAML file.

    Parameters
    ----------
    name : str or Path
        ``cms``, ``atlas``, or the path of a file with the keys of :class:`DetectorCard`.

    Returns
    -------
    DetectorCard
        As checked by its own rules.

    Raises
    ------
    FileError, ConfigError
        For a name that is neither, and for a file with unknown keys or wrong values.

    Examples
    --------
    >>> load_card("cms").met.noise
    12.0
    """
    if str(name) in CARDS:
        return CARDS[str(name)]
    path = Path(name)
    if not path.is_file():
        msg = f"--card must be {', '.join(CARDS)} or a YAML file; found {str(name)!r}"
        raise FileError(msg)
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        msg = f"{path} is not a YAML file: {str(error).splitlines()[0]}"
        raise FileError(msg) from error
    return DetectorCard.from_dict(content if content is not None else {})
