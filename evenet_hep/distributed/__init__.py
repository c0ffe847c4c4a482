"""Predictions and training on the workers of a Dask cluster.

================================  ==================================================================================
what you have                     what to use
================================  ==================================================================================
a coffea processor                ``Runner`` with ``DaskExecutor`` inside :func:`ready_workers`
files, and you want tables        :func:`predict_files`, then :class:`~evenet_hep.events.scores.Scores` to join them
dask-awkward arrays               the Predictor itself, or :func:`predict_dask`
a network to train                :func:`fit`
================================  ==================================================================================
"""

from __future__ import annotations

from evenet_hep.distributed.fit import fit as fit
from evenet_hep.distributed.manifest import Manifest as Manifest
from evenet_hep.distributed.manifest import read_manifest as read_manifest
from evenet_hep.distributed.manifest import verify_scores as verify_scores
from evenet_hep.distributed.predict import predict_files as predict_files
from evenet_hep.distributed.workers import ready_workers as ready_workers
from evenet_hep.distributed.workers import require_resources as require_resources
from evenet_hep.distributed.workers import suggest_chunk_size as suggest_chunk_size
from evenet_hep.lazy import predict_dask as predict_dask
