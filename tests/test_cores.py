"""A process computes with the cores it has, and leaves them to others while it waits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.config import load_config
from training.cores import cpu_quota, usable_cores
from training.devices import pick_device

ROOT = Path(__file__).parent.parent


def groups(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu_max": "150000 100000\n"}, 1.5),
        ({"cpu_max": "50000 100000\n"}, 0.5),
        ({"cpu__cfs_quota_us": "400000\n", "cpu__cfs_period_us": "100000\n"}, 4),
    ],
)
def test_a_container_has_the_time_of_so_many_cores(files, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert cpu_quota(groups(tmp_path, **files)) == cores
    assert usable_cores(tmp_path) == max(1, int(cores))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu_max": "max 100000\n"},
        {"cpu_max": ""},
        {"cpu_max": "rubbish\n"},
        {"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"},
        {"cpu__cfs_quota_us": "100000\n"},
        {"cpu__cfs_quota_us": "1\n", "cpu__cfs_period_us": "0\n"},
    ],
)
def test_where_no_group_limits_it_a_process_has_the_cores_of_its_affinity(files, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert usable_cores(groups(tmp_path, **files)) == 64


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.get_num_threads
    torch.set_num_threads(before)


def test_threads_are_those_of_the_options_else_of_the_environment_else_the_cores(threads, monkeypatch):
    def told(*overrides):
        torch.set_num_threads(4)
        pick_device("cpu", load_config("digits", overrides).run.threads)
        return threads()

    monkeypatch.setattr("training.devices.usable_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert (told("run.threads=2"), told("run.threads=null")) == (2, 4)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert (told("run.threads=2"), told("run.threads=null")) == (2, 3)


@pytest.mark.parametrize(("own", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(own, used):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    code = "import json, os, sys, runs; print(json.dumps([os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules]))"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout) == [used, False]  # before torch is loaded, which reads it once
