"""Processes that train together and are seeded alike: they draw alike, and with generator="rank" each for itself."""

import copy
import json
import multiprocessing
import pickle

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from training.mixes import PatchMix
from training.mixes.draws import RANKS

LABELS = torch.zeros(6, dtype=torch.int64)
DATA = TensorDataset(torch.arange(12.0).view(12, 1, 1, 1).expand(12, 1, 4, 4), torch.arange(12))


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*RANKS, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def drawn(mix, calls=3):
    torch.manual_seed(0)
    return [[part.tolist() for part in mix.draw(LABELS)] for _ in range(calls)]


def loaded(mix):
    torch.manual_seed(0)
    loader = DataLoader(DATA, 6, num_workers=1, collate_fn=mix.collate, multiprocessing_context="fork")
    return [[part.tolist() for part in batch] for batch in loader]


def of_rank(rank, folder):
    """One of two processes: what it draws itself, and in a loader's worker."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mixes = {str(generator): PatchMix(num_classes=12, generator=generator) for generator in ("rank", None)}
    found = {name: [drawn(mix), loaded(mix)] for name, mix in mixes.items()}
    # A worker that is spawned gets a copy, and knows of no process group.
    sent = pickle.dumps(mixes["rank"])
    dist.destroy_process_group()
    found["spawned"] = [drawn(pickle.loads(sent))]
    (folder / f"{rank}.json").write_text(json.dumps(found))


def test_two_processes_draw_alike_unless_their_ranks_decide(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=of_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["None"] == second["None"]
    for one, other in zip(first["rank"] + first["spawned"], second["rank"] + second["spawned"], strict=True):
        assert all(mine != theirs for mine, theirs in zip(one, other, strict=True))
    assert first["spawned"][0] == first["rank"][0] and second["spawned"][0] == second["rank"][0]


@pytest.mark.parametrize("name", RANKS)
def test_a_launchers_number_decides_beside_torchs_seed(name, monkeypatch):
    mix = PatchMix(num_classes=12, generator="rank")
    here = drawn(mix)
    assert drawn(mix) == here == drawn(copy.deepcopy(mix))
    monkeypatch.setenv(name, "0")
    assert drawn(mix) == here
    monkeypatch.setenv(name, "1")
    other = drawn(mix)
    assert other != here and drawn(mix) == other
    assert mix.generator == "rank"


def test_whether_a_batch_is_mixed_is_each_ranks_own_chance(monkeypatch):
    def chosen(rank):
        monkeypatch.setenv("RANK", str(rank))
        torch.manual_seed(0)
        mix = PatchMix(num_classes=2, grid=1, probability=0.5, generator="rank")
        images = torch.zeros(6, 1, 4, 4)
        return [mix(images, LABELS)[0] is not images for _ in range(400)]

    zero, one = chosen(0), chosen(1)
    assert 150 < sum(zero) < 250 and 150 < sum(one) < 250
    assert 150 < sum(a != b for a, b in zip(zero, one, strict=True)) < 250


def test_a_rank_that_nobody_knows_is_asked_for(monkeypatch):
    mix = PatchMix(num_classes=12, generator="rank")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE is 2, and neither RANK nor torch.distributed says which process"):
        mix.draw(LABELS)
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ValueError, match="RANK must be a process's number, got 'one'"):
        mix.draw(LABELS)
    with pytest.raises(ValueError, match="got 'ranks'; or \"rank\", or None"):
        PatchMix(generator="ranks")
