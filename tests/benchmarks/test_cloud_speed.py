"""Cloud building against the usual awkward chain, alternating in one run."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import awkward as ak
import numpy as np
import pytest
import vector

from evenet_hep import EventCloud, EventSchema

CAPACITY = 18
OBJECTS_ONLY = EventSchema(objects=EventSchema.published().objects)


def nano_like(n_events: int, seed: int = 1) -> ak.Array:
    """Electrons, muons and jets as a NanoAOD file has them: float32, sorted by pT in each collection."""
    rng = np.random.default_rng(seed)
    tables = {}
    for name, mean, mass in (("Electron", 0.8, 0.0005), ("Muon", 0.8, 0.1057), ("Jet", 4.6, 8.0)):
        counts = rng.poisson(mean, n_events)
        total = int(counts.sum())
        columns = {
            "pt": 15 + rng.exponential(40, total),
            "eta": rng.normal(0, 1.5, total),
            "phi": rng.uniform(-np.pi, np.pi, total),
            "mass": np.full(total, mass),
            "btagDeepFlavB": rng.uniform(0, 1, total),
            "charge": rng.choice([-1, 1], total),
        }
        records = ak.zip({k: ak.unflatten(v.astype(np.float32), counts) for k, v in columns.items()})
        tables[name] = ak.to_packed(records[ak.argsort(records["pt"], ascending=False)])
    met = ak.zip(
        {"pt": rng.exponential(40, n_events).astype("f4"), "phi": rng.uniform(-3, 3, n_events).astype("f4")}
    )
    return ak.zip({**tables, "MET": met}, depth_limit=1)


def chain(events: ak.Array) -> tuple[np.ndarray, np.ndarray]:
    """The same objects the way analyses write it: concatenate, argsort, pad_none, fill_none, to_numpy, stack."""
    parts = []
    for name in ("Electron", "Muon", "Jet"):
        table = events[name]
        energy = np.sqrt((table["pt"] * np.cosh(table["eta"])) ** 2 + table["mass"] ** 2)
        is_jet = name == "Jet"
        parts.append(
            ak.zip(
                {
                    "energy": energy,
                    "pt": table["pt"],
                    "eta": table["eta"],
                    "phi": table["phi"],
                    "btag": ak.values_astype(table["btagDeepFlavB"] > 0.2489, np.float32) * is_jet,
                    "is_lepton": ak.ones_like(table["pt"]) * (not is_jet),
                    "charge": table["charge"] * (not is_jet),
                }
            )
        )
    objects = ak.concatenate(parts, axis=1)
    objects = objects[ak.argsort(objects["pt"], ascending=False)]
    padded = ak.pad_none(objects, CAPACITY, clip=True)
    columns = [ak.to_numpy(ak.fill_none(padded[name], 0.0)) for name in ak.fields(objects)]
    mask = np.arange(CAPACITY) < ak.to_numpy(ak.num(objects))[:, None]
    return np.stack(columns, axis=-1).astype(np.float32), mask


def chain_with_features(events: ak.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chain, and the ten event features with awkward and vector."""
    objects, mask = chain(events)
    leptons = ak.concatenate([events["Electron"], events["Muon"]], axis=1)
    jets = events["Jet"]
    tagged = jets[jets["btagDeepFlavB"] > 0.2489]

    def total(table: ak.Array) -> tuple[ak.Array, ...]:
        p4 = vector.zip({k: table[k] for k in ("pt", "eta", "phi", "mass")})
        return tuple(ak.sum(component, axis=1) for component in (p4.E, p4.px, p4.py, p4.pz))

    def mass(*sums: tuple[ak.Array, ...]) -> np.ndarray:
        e, px, py, pz = (sum(parts) for parts in zip(*sums, strict=True))
        squared: np.ndarray = ak.to_numpy(e * e - px * px - py * py - pz * pz)
        masses: np.ndarray = np.sqrt(np.maximum(squared, 0))
        return masses

    lepton_sum, jet_sum = total(leptons), total(jets)
    features = [
        events["MET"]["pt"],
        events["MET"]["phi"],
        ak.num(leptons),
        ak.num(tagged),
        ak.num(jets),
        ak.sum(jets["pt"], axis=1),
        ak.num(leptons),
        mass(lepton_sum, jet_sum),
        mass(lepton_sum),
        mass(total(tagged)),
    ]
    return objects, mask, np.stack([ak.to_numpy(x) for x in features], axis=1).astype(np.float32)


def medians(functions: list[Callable[[], object]], repeats: int = 7) -> list[float]:
    """Median seconds per call, the functions taking turns."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, times in zip(functions, seconds, strict=True):
            start = time.process_time()  # one core: what others do on the machine does not count
            function()
            times.append(time.process_time() - start)
    return [float(np.median(times)) for times in seconds]


@pytest.mark.benchmark
def test_speed_against_the_chain() -> None:
    n = 200_000
    events = nano_like(n)
    published = EventSchema.published()
    cloud = EventCloud.from_awkward(events, published)
    objects, mask, features = chain_with_features(events)
    assert np.array_equal(mask, cloud.mask)
    np.testing.assert_allclose(objects[..., 1:], cloud.objects[..., 1:])
    np.testing.assert_allclose(objects, cloud.objects, rtol=1e-5)
    whole = cloud.n_dropped == 0  # sums run over the objects that fit
    np.testing.assert_allclose(features[whole, :7], cloud.event_features[whole, :7], rtol=1e-5)
    runs = medians(
        [
            lambda: chain(events),
            lambda: EventCloud.from_awkward(events, OBJECTS_ONLY),
            lambda: chain_with_features(events),
            lambda: EventCloud.from_awkward(events, published),
        ]
    )
    print()
    for name, slow, fast in (("objects", runs[0], runs[1]), ("objects and event features", runs[2], runs[3])):
        print(
            f"{name}: chain {n / slow / 1e6:.2f}M, cloud {n / fast / 1e6:.2f}M events/s: {slow / fast:.1f} times"
        )
    assert runs[0] > runs[1]
    assert runs[2] > runs[3]


@pytest.mark.benchmark
def test_time_is_linear_and_memory_small() -> None:
    per_event = []
    for n in (25_000, 100_000, 400_000):
        events = nano_like(n)
        EventCloud.from_awkward(events[:10], EventSchema.published())
        (seconds,) = medians([lambda events=events: EventCloud.from_awkward(events, EventSchema.published())])  # type: ignore[misc]
        per_event.append(seconds / n * 1e9)
    print(f"\nns per event at 25k, 100k, 400k events: {', '.join(f'{x:.0f}' for x in per_event)}")
    tracemalloc.start()
    cloud = EventCloud.from_awkward(events, EventSchema.published())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    arrays = (cloud.objects, cloud.mask, cloud.event_features, cloud.index, cloud.sizes)
    output = sum(array.nbytes for array in arrays)
    print(
        f"peak memory: {peak / output:.2f} times the output, {peak / sum(a.nbytes for a in arrays[:3]):.2f} times its tensors"
    )
    assert peak < 3 * output
