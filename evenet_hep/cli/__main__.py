"""``python -m evenet_hep.cli``."""

from __future__ import annotations

from evenet_hep.cli import main

main()
