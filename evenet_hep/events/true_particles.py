"""Generated top quarks, W, Z and Higgs bosons as jagged records, for histograms and comparisons."""

from __future__ import annotations

from collections.abc import Iterable

import awkward as ak

from evenet_hep.events.decays import find_decays
from evenet_hep.events.gen_particles import MOMENTUM, read_gen_particles


def true_particles(events: ak.Array, *, heavy: Iterable[int] = ()) -> ak.Array:
    """The heavy particles of every event, each once: after recoil, before decay.

    Parameters
    ----------
    events : ak.Array
        NanoEvents (eager or virtual), records of the same structure or a flat table, with ``GenPart``.
    heavy : iterable of int
        PDG numbers to list besides t, W, Z, H and new bosons.

    Returns
    -------
    ak.Array of lists of records
        ``pt``, ``eta``, ``phi``, ``mass`` (GeV, radians) and ``pdgId``; ``particle`` is the position in GenPart, -1 for
        a boson that the generator left out; ``parent`` is the position in this list of the heavy particle above it, -1
        without. Particles stand before antiparticles.

    Raises
    ------
    InputError
        For a missing field, named with the near misses.

    Examples
    --------
    >>> import uproot
    >>> from evenet_hep.share import sample_files
    >>> events = uproot.open(sample_files()["ttbar MC"])["Events"].arrays(filter_name="GenPart_*")
    >>> particles = true_particles(events)
    >>> particles.pdgId[0].tolist(), particles.parent[0].tolist()
    ([6, 24, -6, -24], [-1, 0, -1, 2])
    """
    decays = find_decays(read_gen_particles(events), heavy=heavy)
    momentum = {name: decays.momentum[:, i] for i, name in enumerate(MOMENTUM)}
    links = {"pdgId": decays.pdg_id, "particle": decays.particle, "parent": decays.parent}
    counts = decays.offsets[1:] - decays.offsets[:-1]
    return ak.unflatten(ak.zip({**momentum, **links}, with_name="Momentum4D"), counts)
