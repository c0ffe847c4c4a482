"""The event grammar under the name it has in the network's room; it lives in :mod:`evenet_hep.topology`, without torch."""

from __future__ import annotations

from evenet_hep.topology import (
    MAX_DAUGHTERS,
    PROPERTIES,
    Process,
    Resonance,
    Topology,
    TopologyError,
)

__all__ = ["MAX_DAUGHTERS", "PROPERTIES", "Process", "Resonance", "Topology", "TopologyError"]
