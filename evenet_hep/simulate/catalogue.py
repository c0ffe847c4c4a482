"""The processes that can be simulated.

Subprocesses carry the names they have in the pretraining topology (``evenet_hep/share/topologies/pretraining.yaml``);
their leptons are electrons and muons. The other names are inclusive and contain taus. Everything is leading order with
parton shower; reference cross-sections are those usually quoted for 13 TeV.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from evenet_hep.simulate.jet_processes import JET_PROCESSES
from evenet_hep.simulate.processes import Parameter, Process, Settings

Values = Mapping[str, float]

_LEPTONS = "11 13"
_QUARKS = "1 2 3 4 5"
_B_HADRONS = (511, 521, 531, 541, 5122, 5132, 5232, 5332)  # those that decay weakly

_TOP_PAIRS = ["Top:gg2ttbar = on", "Top:qqbar2ttbar = on"]
_ONLY_Z = ["WeakZ0:gmZmode = 2"]
_W_ANY = ["24:onMode = off", f"24:onIfAny = {_LEPTONS} {_QUARKS}"]
_W_LEPTONS = ["24:onMode = off", f"24:onIfAny = {_LEPTONS}"]
_W_QUARKS = ["24:onMode = off", f"24:onIfAny = {_QUARKS}"]
_Z_ANY = ["23:onMode = off", f"23:onIfAny = {_LEPTONS} {_QUARKS}"]
_Z_LEPTONS = ["23:onMode = off", f"23:onIfAny = {_LEPTONS}"]
_Z_QUARKS = ["23:onMode = off", f"23:onIfAny = {_QUARKS}"]
_H_TO_WW = ["25:m0 = 125.0", "25:onMode = off", "25:onIfMatch = 24 -24"]

_W_TO_LEPTONS, _W_TO_QUARKS = 0.2166, 0.674  # branching fractions to electrons and muons, to quarks
_TT = (833.9, "NNLO+NNLL, m_t = 172.5 GeV")
_HIGGS = "LHC Higgs cross-section working group, m_H = 125 GeV"


def _w(positive: str, negative: str) -> Settings:
    return ["24:onMode = off", f"24:onPosIfAny = {positive}", f"24:onNegIfAny = {negative}"]


def _pt_min(default: float) -> dict[str, Parameter]:
    return {"pt_min": Parameter("smallest pT of the hard process in GeV", default, 5.0, 3000.0)}


def _fixed(settings: Sequence[str], values: Values) -> Settings:
    """Settings that depend on no parameter but, perhaps, the smallest pT."""
    return [*settings, *([f"PhaseSpace:pTHatMin = {values['pt_min']}"] if "pt_min" in values else [])]


def _make(
    name: str,
    process_class: str,
    description: str,
    settings: Settings,
    *,
    pt_min: float | None = None,
    charged_leptons: int | None = None,
    skim: str = "none",
    reference: tuple[float | None, str] = (None, ""),
    has_top_pair: bool = False,
    needs_lhe: bool = False,
) -> Process:
    """A process without parameters but, perhaps, the smallest pT."""
    return Process(
        name=name,
        process_class=process_class,
        description=description,
        settings=partial(_fixed, tuple(settings)),  # unlike a closure, it can be sent to another process
        parameters={} if pt_min is None else _pt_min(pt_min),
        charged_leptons=charged_leptons,
        skim=skim,
        reference_pb=reference[0],
        reference=reference[1],
        has_top_pair=has_top_pair,
        needs_lhe=needs_lhe,
    )


def _qcd() -> list[Process]:
    heavy = ["HardQCD:gg2bbbar = on", "HardQCD:qqbar2bbbar = on"]
    return [
        _make("QCD", "QCD", "two jets of any flavour", ["HardQCD:all = on"], pt_min=50.0),
        _make("QCD_bb", "QCD", "a pair of b quarks", heavy, pt_min=40.0),
        _make(
            "QCD_4b",
            "QCD",
            "b jets, further ones from the shower; skim 4j2b",
            heavy,
            pt_min=60.0,
            skim="4j2b",
        ),
    ]


def _top_pairs() -> list[Process]:
    total, source = _TT
    lepton, quark = _W_TO_LEPTONS, _W_TO_QUARKS

    def entry(
        name: str, description: str, decays: Settings, share: float, leptons: int | None = None
    ) -> Process:
        return _make(
            name, "TT", description, [*_TOP_PAIRS, *decays], charged_leptons=leptons,
            reference=(round(total * share, 1), f"{source}, times branching fractions"), has_top_pair=True,
        )  # fmt: skip

    return [
        entry("TT", "top pairs, all decays", [], 1.0),
        entry("TT1L", "top pairs, one leptonic W", _W_ANY, 2.0 * lepton * quark, leptons=1),
        entry("TT2L", "top pairs, two leptonic W", _W_LEPTONS, lepton**2),
        entry("TTHadronics", "top pairs, two hadronic W", _W_QUARKS, quark**2),
    ]


def _associated_top() -> list[Process]:
    missing = "Pythia lacks it; give Les Houches events with --lhe"
    higgs = ["HiggsSM:gg2Httbar = on", "HiggsSM:qqbar2Httbar = on", "25:m0 = 125.0"]
    return [
        _make("ttW", "ttW", missing, [], reference=(0.601, "NLO QCD + EW"), needs_lhe=True),
        _make("ttZ", "ttZ", missing, [], reference=(0.863, "NLO QCD + EW"), needs_lhe=True),
        _make("ttH", "ttH", "top pair and Higgs, all decays", higgs, reference=(0.507, _HIGGS)),
        _make("ST_t", "ST", "single top, t channel", ["Top:qq2tq(t:W) = on"], reference=(217.0, "NLO, both charges")),
        _make("ST_s", "ST", "single top, s channel", ["Top:ffbar2tqbar(s:W) = on"], reference=(10.3, "NLO, both charges")),
    ]  # fmt: skip


def _single_bosons() -> list[Process]:
    w = ["WeakBosonAndParton:qqbar2Wg = on", "WeakBosonAndParton:qg2Wq = on"]
    z = ["WeakBosonAndParton:qqbar2gmZg = on", "WeakBosonAndParton:qg2gmZq = on", "23:mMin = 50."]
    return [
        _make("WJets", "WJets", "W and a parton, all decays", w, pt_min=20.0),
        _make("WJetsToLNu", "WJets", "leptonic W and a parton", w + _W_LEPTONS, pt_min=20.0),
        _make("WJetsToQQ", "WJets", "hadronic W and a parton", w + _W_QUARKS, pt_min=20.0),
        _make("ZJets", "ZJets", "Z and a parton, all decays", z + _ONLY_Z, pt_min=20.0),
        _make(
            "ZJetsToLL", "ZJets", "leptonic Z/gamma* above 50 GeV and a parton", z + _Z_LEPTONS, pt_min=20.0
        ),
        _make("ZJetsToQQ", "ZJets", "hadronic Z and a parton", z + _ONLY_Z + _Z_QUARKS, pt_min=20.0),
    ]


def _boson_pairs() -> list[Process]:
    ww, wz, zz = (["WeakDoubleBoson:ffbar2" + name + " = on"] for name in ("WW", "ZW", "gmZgmZ"))
    zz = zz + _ONLY_Z
    return [
        _make("WW", "WW", "W pairs, all decays", ww, reference=(118.7, "NNLO")),
        _make("WW_1L", "WW", "one leptonic W", ww + _W_ANY, charged_leptons=1),
        _make("WW_2L", "WW", "two leptonic W", ww + _W_LEPTONS),
        _make("WZ", "WZ", "W and Z, all decays", wz, reference=(51.1, "NNLO")),
        _make("WZ_1L", "WZ", "leptonic W, hadronic Z", wz + _W_LEPTONS + _Z_QUARKS),
        _make("WZ_2L", "WZ", "hadronic W, leptonic Z", wz + _W_QUARKS + _Z_LEPTONS),
        _make("WZ_3L", "WZ", "leptonic W and Z", wz + _W_LEPTONS + _Z_LEPTONS),
        _make("ZZ", "ZZ", "Z pairs, all decays", zz, reference=(16.9, "NNLO")),
        _make("ZZ_2L", "ZZ", "one leptonic and one hadronic Z", zz + _Z_ANY, charged_leptons=2),
        _make("ZZ_4L", "ZZ", "two leptonic Z", zz + _Z_LEPTONS),
    ]


def _higgs() -> list[Process]:
    gluons = ["HiggsSM:gg2H = on", *_H_TO_WW]
    sigma = (48.58, f"{_HIGGS}; all decays")
    mass = ["25:m0 = 125.0"]
    vbf = ["HiggsSM:ff2Hff(t:ZZ) = on", "HiggsSM:ff2Hff(t:WW) = on"]
    return [
        _make("ggH", "ggH", "Higgs from gluons, all decays", ["HiggsSM:gg2H = on", *mass], reference=sigma),
        _make("VBF", "VBF", "Higgs from weak bosons, all decays", vbf + mass, reference=(3.782, _HIGGS)),
        _make(
            "WH", "WH", "Higgs and W, all decays", ["HiggsSM:ffbar2HW = on", *mass], reference=(1.373, _HIGGS)
        ),
        _make(
            "ZH", "ZH", "Higgs and Z, all decays", ["HiggsSM:ffbar2HZ = on", *mass], reference=(0.884, _HIGGS)
        ),
        _make("HWW", "HWW", "Higgs to WW*, all decays of W", gluons, reference=(10.4, _HIGGS)),
        _make("HWW_WpHadWmHad", "HWW", "W+ and W- hadronic", gluons + _W_QUARKS),
        _make("HWW_WpHadWmLep", "HWW", "W+ hadronic, W- leptonic", gluons + _w(_QUARKS, _LEPTONS)),
        _make("HWW_WpLepWmHad", "HWW", "W+ leptonic, W- hadronic", gluons + _w(_LEPTONS, _QUARKS)),
        _make("HWW_WpLepWmLep", "HWW", "W+ and W- leptonic", gluons + _W_LEPTONS),
    ]


def _signals() -> list[Process]:
    m_a = Parameter("mass of a in GeV", None, 10.5, 62.0)
    m_x = Parameter("mass of X in GeV", None, 150.0, 5000.0)
    m_y = Parameter("mass of Y in GeV", None, 15.0, 4800.0)
    by_hand = "production of a signal: its cross-section is yours to set"

    return [
        Process(
            "haa4b", "haa4b", "Higgs to two pseudoscalars to four b quarks", _haa4b, {"m_a": m_a},
            reference_pb=48.58, reference=f"{_HIGGS}; to be multiplied by the branching fraction to 4b",
        ),
        Process(
            "xyh", "xyh", "X to Y to bb, H to WW*, one leptonic W", _xyh, {"m_x": m_x, "m_y": m_y},
            charged_leptons=1, reference=by_hand, check=_too_light,
        ),
    ]  # fmt: skip


def _too_light(values: Values) -> str:
    if values["m_x"] > values["m_y"] + 127.0:
        return ""
    return f"m_x must be above m_y + 127 GeV; found {values['m_x']:g} and {values['m_y']:g}"


def _haa4b(values: Values) -> Settings:
    mass = values["m_a"]
    # The standard decays stay in the table: the rate of gg -> H is computed from its width to gluons.
    return [
        "HiggsSM:gg2H = on", "25:m0 = 125.0", "25:addChannel = 1 1.0 100 36 36", "25:onMode = off",
        "25:onIfMatch = 36 36", *_narrow(36, mass, 0.01, 0.4), "36:oneChannel = 1 1.0 100 5 -5",
    ]  # fmt: skip


def _xyh(values: Values) -> Settings:
    return [
        "Higgs:useBSM = on", "HiggsBSM:gg2H2 = on", *_narrow(35, values["m_x"], 1.0, 20.0),
        "35:addChannel = 1 1.0 100 25 36", "35:onMode = off", "35:onIfMatch = 25 36", *_H_TO_WW, *_W_ANY,
        *_narrow(36, values["m_y"], 0.01, 0.4), "36:oneChannel = 1 1.0 100 5 -5",
    ]  # fmt: skip


def _narrow(code: int, mass: float, width: float, reach: float) -> Settings:
    """A particle of given mass and width in GeV, produced within ``reach`` of its mass."""
    return [
        f"{code}:m0 = {mass}", f"{code}:mWidth = {width}", f"{code}:doForceWidth = on",
        f"{code}:mMin = {mass - reach}", f"{code}:mMax = {mass + reach}",
    ]  # fmt: skip


def _drell_yan(values: Values) -> Settings:
    mass = [f"PhaseSpace:mHatMin = {values['m_min']}", f"23:mMin = {values['m_min']}"]
    upper = [f"PhaseSpace:mHatMax = {values['m_max']}", f"23:mMax = {values['m_max']}"]
    hard = ["WeakSingleBoson:ffbar2gmZ = on", *(upper if values["m_max"] else [])]
    if values["pt_min"]:
        hard = ["WeakBosonAndParton:qqbar2gmZg = on", "WeakBosonAndParton:qg2gmZq = on"]
        hard += [f"PhaseSpace:pTHatMin = {values['pt_min']}", *(upper[1:] if values["m_max"] else [])]
    return [*hard, "23:onMode = off", "23:onIfAny = 13", *mass]


def _swapped(values: Values) -> str:
    found = f"found {values['m_max']:g} and {values['m_min']:g}"
    return f"m_max must be above m_min; {found}" if 0.0 < values["m_max"] <= values["m_min"] else ""


def _dimuons() -> list[Process]:
    masses = {
        "m_min": Parameter("smallest mass of the pair in GeV", 5.0, 1.0, 5000.0),
        "m_max": Parameter("largest mass of the pair in GeV, 0 for none", 0.0, 0.0, 13000.0),
        "pt_min": Parameter(
            "smallest pT of the pair in GeV, 0 for none; above it, a parton recoils", 0.0, 0.0, 3000.0
        ),
    }

    upsilon = ["Bottomonium:all = on"]
    for code in (553, 100553, 200553):
        upsilon += [f"{code}:onMode = off", f"{code}:onIfMatch = 13 -13"]
    heavy = ["HardQCD:hardbbbar = on"]
    for code in _B_HADRONS:
        heavy += [f"{code}:onMode = off", f"{code}:onIfAny = 13"]
    forced = "every b hadron decays to a muon: multiply by the square of that branching fraction, about 0.012"
    return [
        Process("DY", "DY", "Drell-Yan pairs of muons", _drell_yan, masses, check=_swapped),
        _make("Upsilon", "Upsilon", "Upsilon(1S, 2S, 3S) to muons; skim 2mu", upsilon, pt_min=10.0, skim="2mu"),
        _make("HF", "HF", "muon pairs of b hadrons; skim 2mu", heavy, pt_min=20.0, skim="2mu", reference=(None, forced)),
    ]  # fmt: skip


def _jets() -> list[Process]:
    return list(JET_PROCESSES)


def _given() -> list[Process]:
    return [_make("lhe", "lhe", "Les Houches events of any process, with --lhe", [], needs_lhe=True)]


PROCESSES: dict[str, Process] = {
    process.name: process
    for group in (
        _qcd, _top_pairs, _associated_top, _single_bosons, _boson_pairs, _higgs, _signals, _dimuons, _jets, _given
    )
    for process in group()
}  # fmt: skip
