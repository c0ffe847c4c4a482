"""From scores and histograms to numbers with uncertainties."""

from __future__ import annotations
