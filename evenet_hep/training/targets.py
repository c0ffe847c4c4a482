"""From the labels of events to what the heads are compared with.

The processes of a data set and those that a head was built for need not be the same list in the same order: they are
matched by name, resonance by resonance and daughter by daughter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from evenet_hep.errors import ConfigError
from evenet_hep.model.evenet import EveNet
from evenet_hep.model.heads.assignment_loss import AssignmentTargets
from evenet_hep.model.heads.regression import RegressionTarget
from evenet_hep.model.heads.segmentation_loss import SegmentTargets
from evenet_hep.topology import Topology

QUANTITIES = ("pt", "px", "py", "pz", "eta", "energy", "mass")


class TargetMap(nn.Module):
    """Labels of one grammar in the terms of another.

    Parameters
    ----------
    source : Topology
        That of the labels.
    target : Topology
        That of the head.

    Raises
    ------
    ConfigError
        If a process of both has a resonance of the same name with other daughters.

    Examples
    --------
    >>> grammar = Topology.shipped("higgs_to_4b")
    >>> labels = TargetMap(grammar, grammar)
    >>> labels(torch.tensor([0, -1]), torch.zeros(2, 2, 2, dtype=torch.long)).process.tolist()
    [0, -1]
    """

    process: Tensor
    place: Tensor

    def __init__(self, source: Topology, target: Topology) -> None:
        super().__init__()
        slots = max((len(p.resonances) for p in target.processes), default=0)
        daughters = max((len(r.daughters) for r in target.resonances), default=0)
        width = max((len(r.daughters) for r in source.resonances), default=0)
        names = [process.name for process in target.processes]
        to_process = [names.index(p.name) if p.name in names else -1 for p in source.processes]
        # Where each entry of a target comes from, counted through resonances and daughters of the source.
        place = torch.full((len(source.processes), slots, daughters), -1)
        for p, process in enumerate(source.processes):
            if process.name not in names:
                continue
            own = dict(process.resonances)
            positions = {name: slot for slot, (name, _) in enumerate(process.resonances)}
            for s, (name, kind) in enumerate(target.process(process.name).resonances):
                if name not in own:
                    continue
                found = source.resonance(own[name]).daughters
                wanted = target.resonance(kind).daughters
                if set(found) != set(wanted):
                    msg = (
                        f"process {process.name!r}, resonance {name!r}: the data have the daughters "
                        f"{', '.join(found)}, the head {', '.join(wanted)}"
                    )
                    raise ConfigError(msg)
                for d, daughter in enumerate(wanted):
                    place[p, s, d] = positions[name] * width + found.index(daughter)
        self.width = width
        self.register_buffer("process", torch.tensor([*to_process, -1]), persistent=False)
        nothing = torch.full((1, slots, daughters), -1)
        self.register_buffer("place", torch.cat([place, nothing]), persistent=False)

    def forward(self, process: Tensor, indices: Tensor) -> AssignmentTargets:
        """Labels for the head.

        Parameters
        ----------
        process : int Tensor, shape (B,)
            In the grammar of the data; -1 for none.
        indices : int Tensor, shape (B, S, K)
            Objects of the daughters; -1 where there is none.
        """
        known = torch.where(
            (process >= 0) & (process < len(self.process) - 1), process, len(self.process) - 1
        )
        place = self.place[known]  # (B, slots, daughters)
        if indices.shape[1] == 0 or place.numel() == 0:
            return AssignmentTargets(self.process[known], torch.full_like(place, -1))
        full = indices.new_full((len(indices), indices.shape[1], self.width), -1)
        full[..., : indices.shape[2]] = indices[..., : self.width]
        flat = full.flatten(1)
        there = (place >= 0) & (place < flat.shape[1])
        found = flat.gather(1, torch.where(there, place, 0).flatten(1)).view_as(place)
        return AssignmentTargets(self.process[known], torch.where(there, found, -1))


class SegmentTable(nn.Module):
    """Segments of events: resonances whose kind has one, and of whose daughters at least one was found.

    The same as :func:`~evenet_hep.events.segments.segment_targets`, on the device of the network.

    Parameters
    ----------
    topology : Topology
        Grammar of the assignments.
    segments : tuple of str
        Names of the classes of the head; class 0, nothing, comes before them.
    queries : int
        Most segments per event.
    complete_only : bool
        Leave out resonances of which a daughter is missing.

    Raises
    ------
    ConfigError
        If a process has more segments than there are queries.
    """

    classes: Tensor
    lengths: Tensor

    def __init__(
        self, topology: Topology, segments: tuple[str, ...], queries: int, *, complete_only: bool = False
    ) -> None:
        super().__init__()
        self.queries = queries
        self.complete_only = complete_only
        slots = max((len(p.resonances) for p in topology.processes), default=0)
        table = torch.zeros(len(topology.processes) + 1, slots, dtype=torch.long)
        lengths = torch.zeros(len(topology.processes) + 1, slots, dtype=torch.long)
        for p, process in enumerate(topology.processes):
            for s, kind in enumerate(process.kinds):
                resonance = topology.resonance(kind)
                lengths[p, s] = len(resonance.daughters)
                if resonance.segment in segments:
                    table[p, s] = 1 + segments.index(resonance.segment)
            if (number := int((table[p] > 0).sum())) > queries:
                msg = (
                    f"process {process.name!r} has {number} segments; the segmentation has {queries} queries"
                )
                raise ConfigError(msg)
        self.register_buffer("classes", table, persistent=False)
        self.register_buffer("lengths", lengths, persistent=False)

    def forward(self, targets: AssignmentTargets, mask: Tensor) -> SegmentTargets:
        """Classes (B, Q) and masks (B, Q, N) of the segments of each event, those that are there first.

        Parameters
        ----------
        targets : AssignmentTargets
            Assignments in the grammar of the table.
        mask : bool Tensor, shape (B, N)
            True for a real object.
        """
        batch, slots = mask.shape
        process = torch.where(targets.process >= 0, targets.process, len(self.classes) - 1)
        classes, lengths = self.classes[process], self.lengths[process]  # (B, S)
        if classes.shape[1] == 0:
            empty = torch.zeros(batch, self.queries, dtype=torch.long, device=mask.device)
            return SegmentTargets(empty, mask.new_zeros(batch, self.queries, slots))
        indices = targets.indices  # (B, S, K)
        claimed = torch.zeros(*indices.shape[:2], slots + 1, dtype=torch.bool, device=mask.device)
        claimed.scatter_(2, torch.where(indices >= 0, indices, slots), True)
        claimed = claimed[..., :slots] & mask[:, None]
        found = (indices >= 0).sum(dim=2)
        is_segment = (found == lengths) if self.complete_only else (found > 0)
        classes = torch.where(is_segment, classes, 0)
        order = (classes == 0).long().argsort(dim=1, stable=True)
        classes = classes.gather(1, order)
        claimed = claimed.gather(1, order[..., None].expand(-1, -1, slots)) & (classes > 0)[..., None]
        missing = max(self.queries - classes.shape[1], 0)
        classes = torch.nn.functional.pad(classes, (0, missing))[:, : self.queries]
        claimed = torch.nn.functional.pad(claimed, (0, 0, 0, missing))[:, : self.queries]
        return SegmentTargets(classes, claimed)


class RegressionTargets(NamedTuple):
    """Truth of the regression.

    Attributes
    ----------
    values : Tensor, shape (B, targets)
        In GeV or pure numbers; anything where not known.
    known : bool Tensor, shape (B, targets)
        Whether the event is of that process and all daughters of the resonance are among its objects.
    """

    values: Tensor
    known: Tensor


class RegressionTable(nn.Module):
    """Momenta of resonances, summed over the objects they are assigned to.

    Parameters
    ----------
    topology : Topology
        Grammar of the labels.
    targets : sequence of RegressionTarget
        Named ``process/resonance/quantity`` with a quantity of ``pt``, ``px``, ``py``, ``pz``, ``eta``, ``energy`` and
        ``mass``; ``any/resonance/quantity`` for every process that has a resonance of this name.
    model : EveNet
        Its schema says where energy, pt, eta and phi are.

    Raises
    ------
    ConfigError
        For a name that is not of this form, or a schema without one of the four.
    """

    def __init__(self, topology: Topology, targets: tuple[RegressionTarget, ...], model: EveNet) -> None:
        super().__init__()
        names = model.schema.object_names
        if missing := sorted({"energy", "pt", "eta", "phi"} - set(names)):
            msg = f"the regression needs energy, pt, eta and phi of the objects; the schema lacks {', '.join(missing)}"
            raise ConfigError(msg)
        self.columns = [names.index(name) for name in ("energy", "pt", "eta", "phi")]
        self.sources: list[tuple[list[tuple[int, int, int]], str]] = [
            _source(target.name, topology) for target in targets
        ]

    def forward(self, objects: Tensor, process: Tensor, indices: Tensor) -> RegressionTargets:
        """Targets of events with raw objects (B, N, F), processes (B,) and assignments (B, S, K)."""
        energy, pt, eta, phi = (objects[..., column] for column in self.columns)
        momenta = torch.stack([energy, pt * phi.cos(), pt * phi.sin(), pt * eta.sinh()], dim=-1)  # (B, N, 4)
        values, known = [], []
        for places, quantity in self.sources:
            value = objects.new_zeros(len(objects))
            is_known = torch.zeros_like(process, dtype=torch.bool)
            for label, slot, daughters in places:
                chosen = indices[:, slot, :daughters]
                right = (process == label) & (chosen >= 0).all(dim=1)
                picked = momenta.gather(1, chosen.clamp(min=0)[..., None].expand(-1, -1, 4)).sum(dim=1)
                value = torch.where(right, _quantity(picked, quantity), value)
                is_known |= right
            values.append(value)
            known.append(is_known)
        return RegressionTargets(torch.stack(values, dim=1), torch.stack(known, dim=1))


def _source(name: str, topology: Topology) -> tuple[list[tuple[int, int, int]], str]:
    # Process label, slot and number of daughters of every place a target comes from; and the quantity.
    parts = name.split("/")
    if len(parts) != 3 or parts[2] not in QUANTITIES:
        msg = (
            f"a regression target must read process/resonance/quantity with one of {', '.join(QUANTITIES)}; "
            f"found {name!r}"
        )
        raise ConfigError(msg)
    wanted, resonance, quantity = parts
    places = [
        (label, slot, len(topology.resonance(kind).daughters))
        for label, process in enumerate(topology.processes)
        if wanted in ("any", process.name)
        for slot, (own, kind) in enumerate(process.resonances)
        if own == resonance
    ]
    if not places:
        msg = f"regression target {name!r}: the data have no such process with such a resonance"
        raise ConfigError(msg)
    return places, quantity


def _quantity(momentum: Tensor, name: str) -> Tensor:
    # Of four-vectors (B, 4): energy, px, py, pz.
    energy, px, py, pz = momentum.unbind(dim=-1)
    pt = torch.hypot(px, py)
    if name == "mass":
        return (energy**2 - px**2 - py**2 - pz**2).clamp(min=0).sqrt()
    if name == "eta":
        return torch.asinh(pz / pt.clamp(min=1e-6))
    return {"pt": pt, "px": px, "py": py, "pz": pz, "energy": energy}[name]
