"""`watch` on two machines: real processes that talk over loopback."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tests.entry import watched_worker
from tests.fitting import marked

ROOT = pathlib.Path(__file__).parents[2]


def free_ports(number):
    """Returns ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def train(folder):
    """Trains on two machines; returns what each has written."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for rank in range(2):
        config = {
            "cluster": {"worker": workers},
            "task": {"type": "worker", "index": rank},
        }
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    watched_worker.__file__,
                    str(folder / str(rank)),
                ],
                env={
                    **os.environ,
                    "TF_CONFIG": json.dumps(config),
                    "PYTHONPATH": str(ROOT),
                    "CUDA_VISIBLE_DEVICES": "-1",
                },
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        for process in processes:
            _, said = process.communicate(timeout=240)
            assert 0 == process.returncode, said
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"{n}.json").read_text()) for n in range(2)]


def test_two_machines(tmp_path):
    """Bare, watched and with a cut, each on both machines."""
    found = train(tmp_path)
    for machine in found:
        bare, watched = machine["bare"], machine["watched"]
        assert bare["weights"] == watched["weights"]
        assert watched["error"] is None
        assert [] == [w for w in watched["warnings"] if "GG" in w]
        assert [] == watched["report"]["diagnoses"]
    # The chief alone measures and writes.
    watched = found[0]["watched"]
    norms = [row["norm"] for row in watched["report"]["variables"]]
    assert pytest.approx(watched["norms"], rel=1e-5) == norms
    assert 4 == watched["report"]["step"]
    assert found[0]["watched"]["weights"] == found[1]["watched"]["weights"]
    assert list((tmp_path / "0_logs").rglob("events*"))
    assert not (tmp_path / "1_logs").exists()

    _, line = marked(watched_worker.rounded)
    for machine in found:
        error = machine["cut"]["error"]
        assert error.startswith("GradientBreakError")
        assert "GG105" in error
        assert f"watched_worker.py:{line}" in error
    assert list((tmp_path / "0_cut").rglob("events*"))
    assert not (tmp_path / "1_cut").exists()
