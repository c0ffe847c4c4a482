"""Selected objects for a network: isolated leptons, and jets away from them.

Training files and predictions use the same selection, so that a network sees what it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping

import awkward as ak

from evenet_hep.events.observables import remove_overlap

# Fields of each collection that the selection looks at, besides those of the cloud.
SELECTION_FIELDS: Mapping[str, tuple[str, ...]] = {
    "Electron": ("pt", "eta", "phi", "pfRelIso03_all"),
    "Muon": ("pt", "eta", "phi", "pfRelIso04_all"),
    "Jet": ("pt", "eta", "phi"),
}


def select_objects(events: ak.Array | Mapping[str, ak.Array]) -> dict[str, ak.Array]:
    """Isolated leptons above 15 GeV, and jets above 25 GeV away from them, by collection name.

    Parameters
    ----------
    events : ak.Array or mapping
        NanoEvents, or the three collections by name.

    Returns
    -------
    dict of str to ak.Array
        ``Electron``, ``Muon`` and ``Jet``, to be passed to a Predictor as ``collections``.
    """
    electrons, muons, jets = events["Electron"], events["Muon"], events["Jet"]
    electrons = electrons[
        (electrons["pt"] > 15) & (abs(electrons["eta"]) < 2.5) & (electrons["pfRelIso03_all"] < 0.15)
    ]
    muons = muons[(muons["pt"] > 15) & (abs(muons["eta"]) < 2.4) & (muons["pfRelIso04_all"] < 0.15)]
    jets = jets[(jets["pt"] > 25) & (abs(jets["eta"]) < 2.5)]
    return {"Electron": electrons, "Muon": muons, "Jet": remove_overlap(jets, electrons, muons)}
