"""What a network reads: object and event features, their order, units and transforms, capacity and classes.

An :class:`EventSchema` travels with every cloud and every checkpoint. Clouds hold raw values in GeV and
radians; the transforms named here are applied inside the network (``model/normalize.py``), nowhere else.

=============  ===============================================================  ===============
transform      what the network sees for a raw value x                          columns it uses
=============  ===============================================================  ===============
``none``       x                                                                1
``standard``   (x - mean) / std                                                 1
``log``        (log(1 + x) - mean) / std                                        1
``uniform``    standard normal quantile of u = (z + sqrt 3) / (2 sqrt 3), with  1
               z = (x - mean) / std and u cut to [1e-6, 1 - 1e-6]
``periodic``   cos x and sin x                                                  2
=============  ===============================================================  ===============

``uniform`` is how the published EveNet weights read phi. It tears the circle open at pi; ``periodic`` does not
and is what networks trained here use.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evenet_hep.errors import SchemaError

TRANSFORMS = ("none", "standard", "log", "uniform", "periodic")

# Definitions of the features that mean different things in different places.
DEFINITIONS: Mapping[str, tuple[str, ...]] = {
    "btag": ("flag", "score"),
    "ht_lep": ("sum_pt", "lepton_count"),
}

FORMAT = 1  # of schema.json; raised when an old file would be read wrongly

PUBLISHED_CLASSES = ("QCD", "TT", "ttW", "ttZ", "WJets", "ZJets", "WW", "ZZ", "WZ", "HWW")


@dataclasses.dataclass(frozen=True)
class Feature:
    """One number per object or per event.

    Parameters
    ----------
    name : str
        Field name, as in ``pt`` or ``met_phi``.
    unit : str
        ``"GeV"``, ``"rad"``, ``"cm"`` or empty for a pure number.
    transform : str
        One of the transforms in the table of :mod:`evenet_hep.schema`.
    mean, std : float
        Of the training sample, after the logarithm where there is one. Used by ``standard``, ``log`` and
        ``uniform``.
    definition : str
        Which of several meanings a name has: ``btag`` is a ``"flag"`` (0 or 1, above a working point) or a
        ``"score"``; ``ht_lep`` is a ``"sum_pt"`` (scalar sum of the lepton pT in GeV) or, as the published
        weights expect, a ``"lepton_count"``. Empty for every other name.
    default : float or None
        Value for a collection that lacks the field (jets have no ``ip3d``); None makes that an error.

    Raises
    ------
    SchemaError
        For an unknown transform, unit or definition, and for statistics that are not finite and positive.

    Examples
    --------
    >>> Feature("ip3d", unit="cm", transform="standard", mean=0.01, std=0.02, default=0.0).width
    1
    >>> Feature("phi", unit="rad", transform="periodic").width
    2
    """

    name: str
    unit: str = ""
    transform: str = "none"
    mean: float = 0.0
    std: float = 1.0
    definition: str = ""
    default: float | None = None

    def __post_init__(self) -> None:
        name: object = self.name
        if not isinstance(name, str) or not name.isidentifier():
            msg = f"feature name must be an identifier such as 'pt'; found {self.name!r}"
            raise SchemaError(msg)
        _one_of(self.name, "unit", self.unit, ("", "GeV", "rad", "cm"))
        _one_of(self.name, "transform", self.transform, TRANSFORMS)
        _one_of(self.name, "definition", self.definition, DEFINITIONS.get(self.name, ("",)))
        for key in ("mean", "std", "default"):
            value = getattr(self, key)
            if key == "default" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                msg = f"feature {self.name!r}: {key} must be a finite number; found {value!r}"
                raise SchemaError(msg)
            object.__setattr__(self, key, float(value))
        if self.std <= 0:
            msg = f"feature {self.name!r}: std must be positive; found {self.std}"
            raise SchemaError(msg)

    @property
    def width(self) -> int:
        """Number of columns this feature has inside the network."""
        return 2 if self.transform == "periodic" else 1


@dataclasses.dataclass(frozen=True)
class EventSchema:
    """Names, order, units and transforms of everything a network reads, and the classes it separates.

    Parameters
    ----------
    objects : sequence of Feature
        One per column of a cloud's ``objects``.
    event_features : sequence of Feature
        One per column of a cloud's ``event_features``; may be empty.
    capacity : int
        Largest number of objects per event; softer ones are dropped and counted.
    classes : sequence of str
        Names of the classes, in the order of the classification head; may be empty.
    invisible : sequence of Feature
        Of invisible particles, such as neutrinos, that a network can generate; may be empty.
    n_objects : Feature
        How the number of objects is normalised where it is generated or told.

    Raises
    ------
    SchemaError
        For duplicate names, no object features, or a capacity below one.

    Examples
    --------
    >>> schema = EventSchema.published()
    >>> schema.object_names
    ('energy', 'pt', 'eta', 'phi', 'btag', 'is_lepton', 'charge')
    >>> len(schema.event_features), schema.capacity, len(schema.classes)
    (10, 18, 10)
    >>> EventSchema.from_json(schema.to_json()) == schema
    True
    """

    objects: tuple[Feature, ...]
    event_features: tuple[Feature, ...] = ()
    capacity: int = 18
    classes: tuple[str, ...] = ()
    invisible: tuple[Feature, ...] = ()
    n_objects: Feature = dataclasses.field(
        default_factory=lambda: Feature("n_objects", "", "standard", 6.108, 2.849)
    )

    def __post_init__(self) -> None:
        for key in ("objects", "event_features", "classes", "invisible"):
            object.__setattr__(self, key, _as_tuple(key, getattr(self, key)))
        n_objects: object = self.n_objects
        if not isinstance(n_objects, Feature) or n_objects.width != 1:
            msg = f"schema n_objects must be a Feature of one column; found {self.n_objects!r}"
            raise SchemaError(msg)
        for key in ("objects", "event_features", "invisible"):
            for feature in getattr(self, key):
                if not isinstance(feature, Feature):
                    msg = f"schema {key} must hold Feature entries; found {feature!r}"
                    raise SchemaError(msg)
            _no_duplicates(key, [feature.name for feature in getattr(self, key)])
        classes: tuple[object, ...] = self.classes
        for name in classes:
            if not isinstance(name, str) or not name:
                msg = f"schema classes must be names; found {name!r}"
                raise SchemaError(msg)
        _no_duplicates("classes", self.classes)
        if not self.objects:
            msg = "schema objects is empty; a cloud needs at least one object feature"
            raise SchemaError(msg)
        capacity: object = self.capacity
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            msg = f"schema capacity must be a whole number of at least 1; found {self.capacity!r}"
            raise SchemaError(msg)

    @classmethod
    def published(cls, *, classes: Sequence[str] = PUBLISHED_CLASSES) -> EventSchema:
        """The schema of the published EveNet weights: 7 object and 10 event features, 18 objects.

        Means and standard deviations are those of the published pretraining sample. ``btag`` is a flag, and
        ``ht_lep`` the number of leptons: the published mean and width of its logarithm, 0.955 +- 0.277, are those
        of log(1 + 1) and log(1 + 2), not of a sum of transverse momenta. Use :meth:`standard` for networks of your
        own.

        Parameters
        ----------
        classes : sequence of str
            Class names; the ten of the pretraining by default.
        """
        return cls(
            objects=(
                Feature("energy", "GeV", "log", 4.5133, 0.9645),
                Feature("pt", "GeV", "log", 3.7119, 0.7156),
                Feature("eta", "", "standard", 0.00093, 1.6589),
                Feature("phi", "rad", "uniform", -2.2e-5, 1.8137),
                Feature("btag", definition="flag"),
                Feature("is_lepton"),
                Feature("charge"),
            ),
            event_features=(
                Feature("met", "GeV", "log", 3.3357, 0.9138),
                Feature("met_phi", "rad", "standard", -0.0007, 1.8135),
                Feature("n_lepton", "", "none"),
                Feature("n_bjet", "", "none"),
                Feature("n_jet", "", "none"),
                Feature("ht", "GeV", "log", 5.4721, 0.8141),
                Feature("ht_lep", "", "log", 0.9548, 0.2768, definition="lepton_count"),
                Feature("m_all", "GeV", "log", 6.0167, 1.0004),
                Feature("m_lep", "GeV", "log", 2.8328, 2.2792),
                Feature("m_bjet", "GeV", "log", 4.6364, 1.2196),
            ),
            classes=tuple(classes),
            invisible=(
                Feature("pt", "GeV", "log", 3.6572, 0.7525),
                Feature("eta", "", "standard", 0.0003, 1.5793),
                Feature("phi", "rad", "uniform", -0.0004, 1.8141),
            ),
        )

    @classmethod
    def standard(cls, *, classes: Sequence[str] = (), capacity: int = 18) -> EventSchema:
        """The same features for networks trained here: phi is periodic and ``ht_lep`` is a sum of pT in GeV.

        Means and widths are round values in the middle of LHC samples; set those of your sample with
        :meth:`with_statistics`.
        """
        published = {feature.name: feature for feature in cls.published().event_features}
        replaced = {
            "met_phi": Feature("met_phi", "rad", "periodic"),
            "n_lepton": Feature("n_lepton", "", "standard", 1.0, 1.0),
            "n_bjet": Feature("n_bjet", "", "standard", 1.0, 1.0),
            "n_jet": Feature("n_jet", "", "standard", 4.0, 2.0),
            "ht_lep": Feature("ht_lep", "GeV", "log", 3.0, 2.0, definition="sum_pt"),
        }
        objects, invisible = (
            tuple(Feature("phi", "rad", "periodic") if each.name == "phi" else each for each in features)
            for features in (cls.published().objects, cls.published().invisible)
        )
        event_features = tuple(replaced.get(name, feature) for name, feature in published.items())
        return cls(objects, event_features, capacity, tuple(classes), invisible)

    @property
    def object_names(self) -> tuple[str, ...]:
        """Names of the object features, in order."""
        return tuple(feature.name for feature in self.objects)

    @property
    def invisible_names(self) -> tuple[str, ...]:
        """Names of the features of invisible particles, in order."""
        return tuple(feature.name for feature in self.invisible)

    @property
    def event_names(self) -> tuple[str, ...]:
        """Names of the event features, in order."""
        return tuple(feature.name for feature in self.event_features)

    def with_statistics(
        self,
        statistics: Mapping[str, tuple[float, float]] | None = None,
        *,
        objects: Mapping[str, tuple[float, float]] | None = None,
        event_features: Mapping[str, tuple[float, float]] | None = None,
        invisible: Mapping[str, tuple[float, float]] | None = None,
        n_objects: tuple[float, float] | None = None,
    ) -> EventSchema:
        """The same schema with other means and standard deviations.

        All are pairs of mean and standard deviation, after the logarithm where the transform has one.

        Parameters
        ----------
        statistics : mapping of str to (float, float), optional
            By name of an object or event feature. Names of invisible particles' features are not looked up here, as
            ``pt`` would mean two things.
        objects, event_features, invisible : mapping of str to (float, float), optional
            By name within that list.
        n_objects : (float, float), optional
            Of the number of objects.

        Raises
        ------
        SchemaError
            If a name is not in the schema, or stands for both an object and an event feature.

        Examples
        --------
        >>> schema = EventSchema.standard().with_statistics({"eta": (0.0, 1.2)}, invisible={"pt": (3.5, 0.8)})
        >>> schema.objects[2].std, schema.invisible[0].mean
        (1.2, 3.5)
        """
        lists = {
            "objects": dict(objects or {}),
            "event_features": dict(event_features or {}),
            "invisible": dict(invisible or {}),
        }
        for name, pair in (statistics or {}).items():
            places = [key for key in ("objects", "event_features") if name in _names(getattr(self, key))]
            if not places:
                known = ", ".join(sorted({*self.object_names, *self.event_names}))
                msg = f"statistics name {name}, which the schema lacks; it has {known}"
                raise SchemaError(msg)
            if len(places) > 1:
                msg = f"{name!r} is both an object and an event feature; give its statistics as objects or event_features"
                raise SchemaError(msg)
            lists[places[0]][name] = pair
        changed: dict[str, Any] = {
            key: _with_statistics(key, getattr(self, key), pairs) for key, pairs in lists.items()
        }
        if n_objects is not None:
            changed["n_objects"] = _with_statistics(
                "n_objects", [self.n_objects], {self.n_objects.name: n_objects}
            )[0]
        return dataclasses.replace(self, **changed)

    def to_json(self) -> str:
        """The schema as JSON text; :meth:`from_json` gives it back unchanged."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> EventSchema:
        """Read a schema from JSON text.

        Raises
        ------
        SchemaError
            For text that is not JSON, unknown or missing keys, and values of the wrong kind.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            msg = f"schema is not valid JSON: {error}"
            raise SchemaError(msg) from error
        content = _checked_keys("schema", content, {"format", *_fields(cls)}, {"format", "objects"})
        if content.pop("format") != FORMAT:
            msg = f"schema format must be {FORMAT}; found {json.loads(text)['format']!r}"
            raise SchemaError(msg)
        for key in ("objects", "event_features", "invisible"):
            entries = _as_tuple(key, content.get(key, ()))
            content[key] = tuple(_feature(f"{key}[{i}]", entry) for i, entry in enumerate(entries))
        if "n_objects" in content:
            content["n_objects"] = _feature("n_objects", content["n_objects"])
        return cls(**content)

    @classmethod
    def from_file(cls, path: str | Path) -> EventSchema:
        """Read a schema from a JSON file; errors name the file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"cannot read the schema file {path}: {error}"
            raise SchemaError(msg) from error
        try:
            return cls.from_json(text)
        except SchemaError as error:
            msg = f"{path}: {error}"
            raise SchemaError(msg) from error


def _names(features: Iterable[Feature]) -> list[str]:
    return [feature.name for feature in features]


def _with_statistics(
    key: str, features: Sequence[Feature], pairs: Mapping[str, tuple[float, float]]
) -> tuple[Feature, ...]:
    if unknown := sorted(set(pairs) - set(_names(features))):
        msg = f"statistics of {key} name {', '.join(unknown)}, which the schema lacks; it has {', '.join(_names(features))}"
        raise SchemaError(msg)
    return tuple(
        dataclasses.replace(feature, mean=float(pairs[feature.name][0]), std=float(pairs[feature.name][1]))
        if feature.name in pairs
        else feature
        for feature in features
    )


def _feature(where: str, content: object) -> Feature:
    return Feature(**_checked_keys(where, content, _fields(Feature), {"name"}))


def _fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _as_tuple(key: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        msg = f"schema {key} must be a list; found {value!r}"
        raise SchemaError(msg)
    return tuple(value)


def _no_duplicates(key: str, names: Sequence[str]) -> None:
    if repeated := sorted({name for name in names if list(names).count(name) > 1}):
        msg = f"schema {key} repeats {', '.join(repeated)}"
        raise SchemaError(msg)


def _one_of(name: str, key: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        choices = " or ".join(repr(choice) for choice in allowed)
        msg = f"feature {name!r}: {key} must be {choices}; found {value!r}"
        raise SchemaError(msg)


def _checked_keys(where: str, content: object, allowed: set[str], required: set[str]) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        msg = f"{where} must be a JSON object; found {content!r}"
        raise SchemaError(msg)
    if unknown := sorted(set(content) - allowed):
        msg = f"{where} has unknown key {', '.join(map(repr, unknown))}; allowed are {', '.join(sorted(allowed))}"
        raise SchemaError(msg)
    if missing := sorted(required - set(content)):
        msg = f"{where} lacks {', '.join(map(repr, missing))}"
        raise SchemaError(msg)
    return dict(content)
