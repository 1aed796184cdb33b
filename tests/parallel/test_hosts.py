"""Joining processes: what starts them is recognised, what contradicts itself refused, and two of them train as one."""

import os
import socket
import subprocess
import sys

import jax
import pytest

from vishwamai.errors import ConfigError
from vishwamai.monitor.metrics import read_jsonl
from vishwamai.parallel import hosts

pytestmark = pytest.mark.by_turns

VARIABLES = (
    "COORDINATOR_ADDRESS NUM_PROCESSES PROCESS_ID TPU_WORKER_HOSTNAMES TPU_PROCESS_ADDRESSES SLURM_STEP_NUM_TASKS "
    "OMPI_COMM_WORLD_SIZE"
).split()


@pytest.fixture
def joined(monkeypatch):
    """The arguments with which JAX was told to join, in place of joining."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    ("variables", "calls"),
    [
        ({}, []),
        ({"SLURM_STEP_NUM_TASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"}, []),
        ({"SLURM_STEP_NUM_TASKS": "4"}, [(None, None, None)]),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, [(None, None, None)]),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, [(None, None, None)]),
        ({"COORDINATOR_ADDRESS": "a:1", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}, [("a:1", 2, 1)]),
    ],
)
def test_several_processes_are_joined_and_one_is_left_alone(joined, monkeypatch, variables, calls):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hosts.initialize()
    assert joined == calls


def test_half_an_address_is_refused(joined, monkeypatch):
    with pytest.raises(ConfigError, match="needs the number of processes"):
        hosts.initialize("a:1")
    monkeypatch.setenv("NUM_PROCESSES", "two")
    with pytest.raises(ConfigError, match="NUM_PROCESSES is 'two'"):
        hosts.initialize()


def test_two_processes_train_as_one(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    changes = ["training.steps=3", "training.data.tokenizer=bytes", "logging.log_every=1", "tpu.data=2"]
    command = [sys.executable, "-m", "vishwamai", "train", "configs/train/smoke.json", *changes, "-o"]
    one = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    two = os.environ | {"XLA_FLAGS": "", "COORDINATOR_ADDRESS": address, "NUM_PROCESSES": "2"}
    runs = [(tmp_path / "one", one), *((tmp_path / "two", two | {"PROCESS_ID": str(i)}) for i in range(2))]
    started = [subprocess.Popen([*command, folder], env=env, stderr=subprocess.PIPE) for folder, env in runs]
    try:
        for process in started:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        for process in started:
            process.kill()
    losses = [
        [line["loss"] for line in read_jsonl(folder / "metrics.jsonl") if "loss" in line] for folder, _ in runs[:2]
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(losses[0]) == 3
    assert (tmp_path / "two" / "model" / "model.safetensors").exists()
