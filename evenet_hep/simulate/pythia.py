"""Pythia 8 as a source of batches of events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.simulate.extra import import_pythia
from evenet_hep.simulate.particles import Particles, flatten_particles

COMMON_SETTINGS = (
    "Print:quiet = on",
    "Next:numberCount = 0",
    "6:m0 = 172.5",
    # As in CMS: what flies further than 10 mm decays in the detector, which is not simulated.
    "ParticleDecays:limitTau0 = on",
    "ParticleDecays:tau0Max = 10.",
    "Tune:preferLHAPDF = 0",
)
MAX_SEED = 900_000_000  # of Pythia


class HardProcess(NamedTuple):
    """What Pythia says about the hard process of each event.

    Parameters
    ----------
    id1, id2 : int32 array, shape (n_events,)
        Codes of the incoming partons.
    x1, x2 : float32 array
        Their momentum fractions.
    scale : float32 array
        Factorisation scale, GeV.
    weight : float64 array
        Weight of the event, 1 without Les Houches weights.
    """

    id1: npt.NDArray[np.int32]
    id2: npt.NDArray[np.int32]
    x1: npt.NDArray[np.float32]
    x2: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float64]


class GeneratedBatch(NamedTuple):
    """Particles and hard process of a batch of events."""

    particles: Particles
    hard: HardProcess


class CrossSection(NamedTuple):
    """Cross-section after the choice of decays, as Pythia integrates it.

    Parameters
    ----------
    value, error : float
        Picobarn.
    """

    value: float
    error: float


class Generator:
    """Pythia with the settings of one process, seeded.

    Parameters
    ----------
    settings : sequence of str
        Of the process, as Pythia reads them.
    seed : int
        From 1 to 900 000 000.
    energy : float
        Of the collisions in GeV.
    charged_leptons : int, optional
        Keep only events with this number of electrons, muons and taus from W and Z bosons.
    lhe : Path, optional
        Les Houches events to shower instead of a process of Pythia's own.
    skip : int
        Events of that file to pass over.

    Raises
    ------
    ConfigError
        For settings that Pythia refuses, and without the package pythia8mc.
    """

    def __init__(
        self,
        settings: Sequence[str],
        *,
        seed: int,
        energy: float = 13000.0,
        charged_leptons: int | None = None,
        lhe: Path | None = None,
        skip: int = 0,
    ) -> None:
        pythia8 = import_pythia()
        self._pythia = pythia8.Pythia("", False)
        beams = [f"Beams:eCM = {energy}"]
        if lhe is not None:
            beams = ["Beams:frameType = 4", f"Beams:nSkipLHEFatInit = {skip}"]
            self._pythia.settings.word("Beams:LHEF", str(lhe))  # readString would end the name at a blank
        random = ["Random:setSeed = on", f"Random:seed = {seed}"]
        for setting in (*COMMON_SETTINGS, *beams, *settings, *random):
            if not self._pythia.readString(setting):
                msg = f"Pythia does not know the setting {setting!r}"
                raise ConfigError(msg)
        if charged_leptons is not None:
            # Pythia keeps no reference of its own.
            self._choice = _decay_choice(pythia8, charged_leptons)
            self._pythia.setUserHooksPtr(self._choice)
        if not self._pythia.init():
            _complain(lhe)

    def next_batch(self, n_events: int) -> GeneratedBatch | None:
        """The next events; fewer than asked for at the end of a Les Houches file, None after it."""
        batch = self._pythia.nextBatch(n_events)
        if len(batch) == 0:
            return None
        return GeneratedBatch(flatten_particles(batch["prt"]), _hard_process(batch["info"]))

    def cross_section(self) -> CrossSection:
        """Cross-section of the events made so far."""
        account = self._pythia.infoPython()
        return CrossSection(account.sigmaGen() * 1e9, account.sigmaErr() * 1e9)


def pythia_version() -> str:
    """Version of Pythia, as in 8.317."""
    from importlib.metadata import version  # noqa: PLC0415

    return version("pythia8mc")


def _complain(lhe: Path | None) -> None:
    if lhe is not None:
        msg = f"Pythia cannot read Les Houches events from {lhe}"
        raise FileError(msg)
    msg = "Pythia could not start with these settings; its messages are above"
    raise ConfigError(msg)


def _hard_process(info: ak.Array) -> HardProcess:
    def column(name: str) -> npt.NDArray[Any]:
        return np.asarray(ak.to_numpy(info[name]))

    return HardProcess(
        id1=column("id1").astype(np.int32),
        id2=column("id2").astype(np.int32),
        x1=column("x1").astype(np.float32),
        x2=column("x2").astype(np.float32),
        scale=np.sqrt(column("Q2Fac")).astype(np.float32),
        weight=np.asarray(ak.to_numpy(info["weights"][:, 0]), np.float64),
    )


def _decay_choice(pythia8: Any, charged_leptons: int) -> Any:
    """A veto of hard processes with another number of charged leptons from W and Z bosons."""

    class DecayChoice(pythia8.UserHooks):  # type: ignore[misc]
        def canVetoProcessLevel(self) -> bool:
            return True

        def doVetoProcessLevel(self, process: Any) -> bool:
            found = 0
            for i in range(process.size()):
                particle = process[i]
                if particle.idAbs() in (11, 13, 15) and process[particle.mother1()].idAbs() in (23, 24):
                    found += 1
            return found != charged_leptons

    return DecayChoice()
