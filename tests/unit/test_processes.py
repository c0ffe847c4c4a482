"""Processes of an analysis."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from evenet_hep.processes import process_pool

PROGRAM = """
import os, time
from evenet_hep.processes import process_pool
if __name__ == "__main__":
    with process_pool(1) as pool:
        print(pool.submit(os.getpid).result(timeout=60), flush=True)
        pool.submit(time.sleep, 60).result()
"""


def test_one_thread_each() -> None:
    import torch  # noqa: PLC0415

    with process_pool(1) as pool:
        assert pool.submit(torch.get_num_threads).result(timeout=60) == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_they_end_with_the_analysis(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        assert program.stdout is not None
        worker = psutil.Process(int(program.stdout.readline()))
        program.send_signal(how)
        program.wait(timeout=30)
        deadline = time.monotonic() + 30
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.1)
