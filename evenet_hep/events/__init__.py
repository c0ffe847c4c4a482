"""From awkward collections to padded clouds and back."""

from __future__ import annotations
