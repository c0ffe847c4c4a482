"""One file per task: head and loss together."""

from __future__ import annotations
