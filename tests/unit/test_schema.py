from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenet_hep import EventSchema, Feature
from evenet_hep.errors import SchemaError


def test_published_schema_has_the_published_order() -> None:
    schema = EventSchema.published()
    assert schema.object_names == ("energy", "pt", "eta", "phi", "btag", "is_lepton", "charge")
    assert schema.event_names == (
        "met", "met_phi", "n_lepton", "n_bjet", "n_jet", "ht", "ht_lep", "m_all", "m_lep", "m_bjet",
    )  # fmt: skip
    assert schema.capacity == 18
    transforms = {f.name: f.transform for f in (*schema.objects, *schema.event_features)}
    assert transforms["energy"] == transforms["pt"] == transforms["met"] == transforms["m_bjet"] == "log"
    assert transforms["eta"] == transforms["met_phi"] == "standard"
    assert transforms["phi"] == "uniform"
    assert transforms["btag"] == transforms["charge"] == transforms["n_jet"] == "none"


def test_published_weights_expect_a_lepton_count() -> None:
    published = {f.name: f for f in EventSchema.published().event_features}["ht_lep"]
    own = {f.name: f for f in EventSchema.standard().event_features}["ht_lep"]
    assert (published.definition, own.definition) == ("lepton_count", "sum_pt")
    # The published mean lies between log(1 + 1) and log(1 + 2).
    assert 0.693 < published.mean < 1.0987


def test_own_networks_read_a_periodic_phi() -> None:
    schema = EventSchema.standard(classes=("a", "b"), capacity=30)
    features = {f.name: f for f in (*schema.objects, *schema.event_features)}
    assert features["phi"].transform == features["met_phi"].transform == "periodic"
    assert features["phi"].width == 2
    assert (schema.capacity, schema.classes) == (30, ("a", "b"))


@pytest.mark.parametrize(
    "schema", [EventSchema.published(), EventSchema.standard(classes=("x",), capacity=5)]
)
def test_json_gives_the_schema_back(schema: EventSchema, tmp_path: Path) -> None:
    assert EventSchema.from_json(schema.to_json()) == schema
    (tmp_path / "schema.json").write_text(schema.to_json())
    assert EventSchema.from_file(tmp_path / "schema.json") == schema


def test_user_defined_schema() -> None:
    schema = EventSchema(
        objects=[Feature("pt", "GeV", "log"), Feature("ip3d", "cm", default=0.0)],  # type: ignore[arg-type]
        event_features=[Feature("rho")],  # type: ignore[arg-type]
        capacity=64,
        classes=["signal", "background"],  # type: ignore[arg-type]
    )
    assert schema.objects[1].default == 0.0
    assert EventSchema.from_json(schema.to_json()) == schema


def change(**changes: object) -> str:
    return json.dumps({**json.loads(EventSchema.published().to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be a JSON object"),
        (change(colour="red"), "unknown key 'colour'"),
        (change(format=7), "format must be 1; found 7"),
        (change(capacity=0), "at least 1; found 0"),
        (change(capacity=1.5), "found 1.5"),
        (change(capacity=True), "found True"),
        (change(classes=["a", "a"]), "classes repeats a"),
        (change(classes="TT"), "classes must be a list"),
        (change(classes=[1]), "must be names; found 1"),
        (change(objects=[]), "objects is empty"),
        (change(objects=[{"name": "pt"}, {"name": "pt"}]), "objects repeats pt"),
        (change(objects=[{"name": "pt", "units": "GeV"}]), r"objects\[0\] has unknown key 'units'"),
        (change(objects=[{"unit": "GeV"}]), r"objects\[0\] lacks 'name'"),
        (change(objects=["pt"]), "must be a JSON object"),
        (change(objects=[{"name": "p t"}]), "identifier"),
        (change(objects=[{"name": "pt", "unit": "MeV"}]), "unit must be"),
        (change(objects=[{"name": "pt", "transform": "logg"}]), "transform must be"),
        (change(objects=[{"name": "pt", "std": 0}]), "std must be positive"),
        (change(objects=[{"name": "pt", "mean": "0"}]), "mean must be a finite number"),
        (change(objects=[{"name": "pt", "definition": "flag"}]), "definition must be"),
        (change(objects=[{"name": "btag", "definition": "tight"}]), "'flag' or 'score'"),
    ],
)
def test_wrong_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        EventSchema.from_json(text)


def test_nan_statistics_are_refused() -> None:
    with pytest.raises(SchemaError, match="finite"):
        Feature("pt", mean=float("nan"))
    with pytest.raises(SchemaError, match="lacks"):
        EventSchema.published().with_statistics({"pT": (0, 1)})


def test_statistics_reach_every_feature() -> None:
    schema = EventSchema.standard().with_statistics(
        {"met": (3.0, 0.5)},
        objects={"pt": (4.0, 0.6)},
        event_features={"ht": (5.5, 1.0)},
        invisible={"pt": (3.2, 0.9)},
        n_objects=(5.0, 2.0),
    )
    assert (schema.objects[1].name, schema.objects[1].mean, schema.objects[1].std) == ("pt", 4.0, 0.6)
    assert (schema.invisible[0].name, schema.invisible[0].mean, schema.invisible[0].std) == ("pt", 3.2, 0.9)
    assert (schema.event_features[0].mean, schema.event_features[5].mean) == (3.0, 5.5)
    assert (schema.n_objects.mean, schema.n_objects.std) == (5.0, 2.0)
    unchanged = EventSchema.standard()
    assert schema.objects[2:] == unchanged.objects[2:]
    assert schema.invisible[1:] == unchanged.invisible[1:]
    assert unchanged.with_statistics() == unchanged


def test_statistics_by_name_leave_invisible_particles_alone() -> None:
    """``pt`` is a name in two lists: plain statistics mean that of the objects."""
    schema = EventSchema.standard().with_statistics({"pt": (4.0, 0.6)})
    assert schema.objects[1].mean == 4.0
    assert schema.invisible == EventSchema.standard().invisible


def test_statistics_of_a_name_with_two_meanings_are_refused() -> None:
    schema = EventSchema(objects=(Feature("pt"),), event_features=(Feature("pt"),))
    with pytest.raises(SchemaError, match="'pt' is both an object and an event feature"):
        schema.with_statistics({"pt": (1.0, 2.0)})
    both = schema.with_statistics(objects={"pt": (1.0, 2.0)}, event_features={"pt": (3.0, 4.0)})
    assert (both.objects[0].mean, both.event_features[0].mean) == (1.0, 3.0)
    with pytest.raises(
        SchemaError, match="statistics of invisible name pz, which the schema lacks; it has pt, eta, phi"
    ):
        EventSchema.standard().with_statistics(invisible={"pz": (0.0, 1.0)})


def test_schema_file_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"absent\.json"):
        EventSchema.from_file(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(SchemaError, match=r"bad\.json.*lacks"):
        EventSchema.from_file(tmp_path / "bad.json")
