"""What one would run without EveNet, with the same events and features: boosted trees, TabPFN, a flow, SPANet."""

from __future__ import annotations
