"""`watch` on two machines: real processes that talk over loopback."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tests import watched_worker
from tests.fitting import marked

ROOT = pathlib.Path(__file__).parents[1]


def free_ports(number):
    """Returns ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def train(folder, kind, loss="mse"):
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
                    str(folder / f"{kind}_{rank}"),
                    kind,
                    loss,
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
            _, said = process.communicate(timeout=120)
            assert 0 == process.returncode, said
    finally:
        for process in processes:
            process.kill()
    return [
        json.loads((folder / f"{kind}_{rank}.json").read_text())
        for rank in range(2)
    ]


def test_two_machines(tmp_path):
    """The weights are those of the bare loop; the chief alone writes."""
    bare, watched = train(tmp_path, "bare"), train(tmp_path, "watched")
    for one, other in zip(bare, watched, strict=True):
        assert one["weights"] == other["weights"]
        assert other["error"] is None
        assert [] == [w for w in other["warnings"] if "GG" in w]
        assert [] == other["report"]["diagnoses"]
        assert 4 == len(other["report"]["variables"])
    assert watched[0]["weights"] == watched[1]["weights"]
    norms = [row["norm"] for row in watched[0]["report"]["variables"]]
    assert pytest.approx(watched[0]["norms"], rel=1e-5) == norms
    assert list((tmp_path / "watched_0_logs").rglob("events*"))
    assert not (tmp_path / "watched_1_logs").exists()


def test_two_machines_and_a_cut(tmp_path):
    """Each machine raises; the line is that of the op."""
    found = train(tmp_path, "watched", "rounded")
    _, line = marked(watched_worker.rounded)
    for one in found:
        assert one["error"].startswith("GradientBreakError")
        assert "GG105" in one["error"]
        assert f"watched_worker.py:{line}" in one["error"]
    assert not (tmp_path / "watched_1_logs").exists()
