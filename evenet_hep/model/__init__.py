"""The network: tensors in, tensors out."""

from __future__ import annotations
