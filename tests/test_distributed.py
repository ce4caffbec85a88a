"""Two processes do what one does: shares, sums, and a run from torchrun's environment."""

import json
import multiprocessing
import os
import socket
import traceback

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from training.checkpoint import load_checkpoint
from training.config import load_config
from training.distributed import World, start
from training.train import train


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 17])
def test_shares_cover_every_row_once(size, count):
    rows = [row for rank in range(size) for row in range(count)[World(rank, size).share(count)]]
    assert rows == list(range(count))


def test_a_process_alone_changes_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = start(torch.device("cpu"))
    part = torch.rand(3, 2)
    assert world == World(0, 1) and world.main
    assert world.gather(part, 3) is part and world.sum(part) is part


def work(rank, port, folder, errors, options):
    """One of two processes: the sums first, then a whole run."""
    try:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        torch.set_num_threads(1)
        world = start(torch.device("cpu"))
        whole = torch.arange(10.0).view(5, 2)
        assert torch.equal(world.gather(whole[world.share(5)], 5), whole)

        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3, track_running_stats=True))
        model[1].running_mean += rank
        inputs, targets = torch.rand(7, 4), torch.rand(7, 3)
        torch.nn.functional.mse_loss(model[0](inputs), targets).backward()
        expected = model[0].weight.grad.clone()
        model.zero_grad()
        mine = world.share(7)
        share = (mine.stop - mine.start) / 7
        (share * torch.nn.functional.mse_loss(model[0](inputs[mine]), targets[mine])).backward()
        world.sum_gradients(model)
        torch.testing.assert_close(model[0].weight.grad, expected)
        world.average_statistics(model)
        assert torch.equal(model[1].running_mean, torch.full((3,), 0.5))

        result = train(load_config("digits", [*TINY, *options]), folder / "two")
        (folder / f"{rank}.json").write_text(json.dumps(result))
    except BaseException:
        errors.put(f"rank {rank}: {traceback.format_exc()}")
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    "search", [(), ("search.objective=reducible",), ("search.objective=image_hard", "search.evaluation=full")]
)
def test_two_processes_train_one_model(tmp_path, search):
    options = ("train.epochs=1", "mix.probability=1.0", *search)
    train(load_config("digits", [*TINY, *options]), tmp_path / "one")
    context = multiprocessing.get_context("fork")
    errors, port = context.SimpleQueue(), free_port()
    processes = [context.Process(target=work, args=(rank, port, tmp_path, errors, options)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert errors.empty(), errors.get()
    assert [process.exitcode for process in processes] == [0, 0]

    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    clocks = {"seconds", "search_seconds"}
    assert {k: v for k, v in first.items() if k not in clocks} == {k: v for k, v in second.items() if k not in clocks}

    one, two = (
        [json.loads(line) for line in (tmp_path / name / "generations.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two)  # written once, by rank 0
    for left, right in zip(one[:2], two[:2], strict=True):  # before the first step: the same model, rows shared
        assert left["new_rows"] == right["new_rows"]
        np.testing.assert_allclose(left["best"], right["best"], rtol=1e-5)
    for record in one + two:
        assert np.isfinite(record["best"])
    assert load_checkpoint(tmp_path / "two" / "checkpoint", "latest").meta["step"] == 10
