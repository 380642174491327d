"""Two gloo processes that rank their own users measure what one does, and no user's row travels."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from metrics_worker import CASES, measure

WORKER = Path(__file__).with_name("helpers") / "metrics_worker.py"


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> list[dict]:
    """What each of two processes measured; the second has no batch in one case."""
    folder = tmp_path_factory.mktemp("metrics")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(2):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in names.items()}}
        started.append(subprocess.Popen([sys.executable, WORKER, folder], env=environment, stderr=subprocess.PIPE))
    told = [process.communicate(timeout=300)[1] for process in started]
    assert all(process.returncode == 0 for process in started), told[0][-2000:].decode()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_measure_what_one_does(several, name):
    expected = measure(*CASES[name])
    for found in several:
        for kind in ("all", "filtered"):
            assert list(found[name][kind]) == list(expected[kind])
            assert found[name][kind] == pytest.approx(expected[kind], rel=1e-9, abs=1e-9)
    assert len(expected["all"]) > 20


def test_rows_travel_only_where_a_metric_or_a_file_needs_them(several):
    for rank, found in enumerate(several):
        for name in ("sums", "several targets", "one batch"):
            assert found[name]["travelled"] == 0
        assert found["rows too"]["travelled"] == found["sums"]["rows"] * 10  # the lists
        assert found["kept"]["rows"] == 17 and found["sums"]["rows"] == (10, 7)[rank]
        assert found["one batch"]["rows"] == (4, 0)[rank]
