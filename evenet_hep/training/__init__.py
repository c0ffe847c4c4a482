"""Training: what joins events, networks and the loop that fits one to the other."""

from __future__ import annotations
