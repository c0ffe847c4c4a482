"""Processes that make jets of a kind, for networks that read constituents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from evenet_hep.simulate.processes import Parameter, Process, Settings

Values = Mapping[str, float]

_QUARKS = "1 2 3 4 5"
_PT_MIN = Parameter("smallest pT of the hard process in GeV", 500.0, 20.0, 3000.0)
_PT_MAX = Parameter("largest pT of the hard process in GeV, 0 for none", 0.0, 0.0, 6000.0)
_M_MIN = Parameter("smallest mass of the two partons in GeV, 0 for none", 0.0, 0.0, 10_000.0)

_W_QUARKS = ["24:onMode = off", f"24:onIfAny = {_QUARKS}"]
_Z_QUARKS = ["WeakZ0:gmZmode = 2", "23:onMode = off", f"23:onIfAny = {_QUARKS}"]
_Z_NEUTRINOS = ["23:onMode = off", "23:onIfAny = 12 14 16"]


def _in_window(settings: Sequence[str], values: Values) -> Settings:
    found = [*settings, f"PhaseSpace:pTHatMin = {values['pt_min']}"]
    if values["pt_max"]:
        found.append(f"PhaseSpace:pTHatMax = {values['pt_max']}")
    if values.get("m_min"):
        found.append(f"PhaseSpace:mHatMin = {values['m_min']}")
    return found


def _empty_window(values: Values) -> str:
    found = f"found {values['pt_max']:g} and {values['pt_min']:g}"
    return f"pt_max must be above pt_min; {found}" if 0.0 < values["pt_max"] <= values["pt_min"] else ""


def _jets(name: str, kind: str, description: str, settings: Settings, **more: Parameter) -> Process:
    return Process(
        name=name,
        process_class=kind,
        description=description,
        settings=partial(_in_window, tuple(settings)),
        parameters={"pt_min": _PT_MIN, "pt_max": _PT_MAX, **more},
        check=_empty_window,
    )


def _abc(values: Values) -> Settings:
    found = ["Higgs:useBSM = on", "HiggsBSM:gg2H2 = on"]
    for code, key in ((35, "m_a"), (25, "m_b"), (36, "m_c")):
        mass = values[key]
        width, reach = 0.002 * mass, 0.01 * mass  # narrower than any detector sees
        found += [
            f"{code}:m0 = {mass}", f"{code}:mWidth = {width}", f"{code}:doForceWidth = on",
            f"{code}:mMin = {mass - reach}", f"{code}:mMax = {mass + reach}",
        ]  # fmt: skip
    # The standard decays of A stay in the table: its rate is computed from the width to gluons.
    found += ["35:addChannel = 1 1.0 100 25 36", "35:onMode = off", "35:onIfMatch = 25 36"]
    for code in (25, 36):
        found += [f"{code}:oneChannel = 1 0.25 100 1 -1"]
        found += [f"{code}:addChannel = 1 0.25 100 {quark} -{quark}" for quark in (2, 3, 4)]
    return found


def _too_heavy(values: Values) -> str:
    if values["m_a"] > 1.02 * (values["m_b"] + values["m_c"]):
        return ""
    return f"m_a must be above the sum of m_b and m_c; found {values['m_a']:g}, {values['m_b']:g} and {values['m_c']:g}"


JET_PROCESSES = (
    _jets(
        "jet_quark", "quark", "two jets of quarks",
        ["HardQCD:gg2qqbar = on", "HardQCD:qq2qq = on", "HardQCD:qqbar2qqbarNew = on"],
    ),
    _jets("jet_gluon", "gluon", "two jets of gluons", ["HardQCD:gg2gg = on", "HardQCD:qqbar2gg = on"]),
    _jets("jet_top", "top", "two hadronic tops", ["Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *_W_QUARKS]),
    _jets("jet_W", "W", "two hadronic W", ["WeakDoubleBoson:ffbar2WW = on", *_W_QUARKS]),
    _jets("jet_Z", "Z", "two hadronic Z", ["WeakDoubleBoson:ffbar2gmZgmZ = on", *_Z_QUARKS]),
    _jets(
        "jet_H", "H", "a Higgs to b quarks, and a Z to neutrinos",
        ["HiggsSM:ffbar2HZ = on", "25:m0 = 125.0", "25:onMode = off", "25:onIfAny = 5", *_Z_NEUTRINOS],
    ),
    _jets("dijets", "QCD", "two jets of any flavour, with a mass", ["HardQCD:all = on"], m_min=_M_MIN),
    Process(
        "abc", "abc", "A to B C, each to two light quarks", _abc,
        {
            "m_a": Parameter("mass of A in GeV", 3500.0, 100.0, 10_000.0),
            "m_b": Parameter("mass of B in GeV", 500.0, 15.0, 5000.0),
            "m_c": Parameter("mass of C in GeV", 100.0, 15.0, 5000.0),
        },
        reference="production of a signal: its cross-section is yours to set", check=_too_heavy,
    ),
)  # fmt: skip
