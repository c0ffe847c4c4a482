"""Modules whose examples need an extra are left out of the tests where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec

NEEDS = {"evenet_hep/baselines/xgboost.py": "xgboost", "evenet_hep/baselines/cathode.py": "zuko"}

collect_ignore = [path for path, package in NEEDS.items() if find_spec(package) is None]
