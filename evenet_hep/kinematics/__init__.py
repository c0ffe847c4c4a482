"""Four-vectors, angles and the kinematics of the analyses, on flat arrays and offsets."""

from __future__ import annotations
