"""Coffea processors of the analyses."""

from __future__ import annotations
