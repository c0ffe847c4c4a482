"""Tests on worker processes; a package, so that they share files and checks."""

from __future__ import annotations
