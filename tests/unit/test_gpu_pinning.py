"""Which process takes which GPU, with cards that are made up: no machine with several was at hand."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evenet_hep import Predictor
from evenet_hep.distributed import workers
from evenet_hep.errors import DistributedError
from evenet_hep.inference import pin_device

HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Identifiers of the GPUs that torch sees in this process."""
    found = ["card-a", "card-b"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=found[i]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(workers, "_GPU_LOCK", [])
    threads = torch.get_num_threads()
    yield found
    monkeypatch.undo()
    pin_device("")
    torch.set_num_threads(threads)


def as_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # Locks of the system belong to open files: one that was opened again counts as somebody else's.
    monkeypatch.setattr(workers, "_GPU_LOCK", [])


def test_every_process_has_a_card_of_its_own(cards: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers.take_gpu() == "cuda:0"
    assert workers.take_gpu() == "cuda:0"  # once per process, however many networks
    first = workers._GPU_LOCK[0][1]
    as_another_process(monkeypatch)
    assert workers.take_gpu() == "cuda:1"
    second = workers._GPU_LOCK[0][1]
    as_another_process(monkeypatch)
    with pytest.raises(DistributedError, match="all 2 GPUs of this host are taken by other workers"):
        workers.take_gpu()
    first.close()
    cards.reverse()  # CUDA_VISIBLE_DEVICES=1,0: card a is number 1 here
    assert workers.take_gpu() == "cuda:1"
    second.close()
    workers._GPU_LOCK[0][1].close()


def test_the_card_of_a_killed_process_is_free(
    cards: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert workers.take_gpu() == "cuda:0"
    lock = workers._GPU_LOCK[0][1]
    name = lock.name
    lock.close()
    as_another_process(monkeypatch)
    with subprocess.Popen([sys.executable, "-c", HOLD, name], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            assert workers.take_gpu() == "cuda:1"
            workers._GPU_LOCK[0][1].close()
        finally:
            holder.send_signal(signal.SIGKILL)
    as_another_process(monkeypatch)
    assert workers.take_gpu() == "cuda:0"
    workers._GPU_LOCK[0][1].close()


def test_a_worker_is_made_ready_on_its_card(cards: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[str] = []
    monkeypatch.setattr(workers, "_warm_up", lambda predictor: warmed.append(predictor.chosen_device))
    state = workers._make_ready(Predictor("demo"), 2)
    assert (state.device, state.slots, state.threads, state.problem) == ("cuda:0", 2, 1, "")
    lock = workers._GPU_LOCK[0][1]
    as_another_process(monkeypatch)
    cards.pop()
    full = workers._make_ready(Predictor("demo"), 2)
    assert full.slots == 0
    assert "all 1 GPUs of this host are taken" in full.problem
    pin_device("")
    plain = workers._make_ready(Predictor("demo", device="cpu"), 2)  # asks for no card
    assert (plain.device, plain.slots, plain.threads) == ("cpu", 1, 2)
    assert warmed == ["cuda:0", "cpu"]
    lock.close()
