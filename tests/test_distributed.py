"""Two processes do what one does: shares, sums, and a run from torchrun's environment."""

import copy
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import traceback
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch._dynamo  # here, once: every forked process would import it

import runs.launch
from analysis.log_lines import read_lines
from analysis.run_folder import RunFolder
from evo.errors import LostProcessError, UserError
from tests.conftest import TINY
from tests.test_resume import At
from training.checkpoint import load_checkpoint
from training.config import load_config
from training.data import folder
from training.data.image_set import FileSet
from training.distributed import World, has_own_statistics, lost_processes_explained, share_batch_norm, start, stop
from training.stopping import Interruption
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
        assert world.any(rank == 1, False, True) == (True, False, True)
        check_batch_norm(world)
        result = train(load_config("digits", [*TINY, *options]), folder / "two")
        (folder / f"{rank}.json").write_text(json.dumps(result))
    except BaseException:
        errors.put(f"rank {rank}: {traceback.format_exc()}")
        raise
    finally:
        stop()
        assert not torch.distributed.is_initialized()


def check_batch_norm(world):
    """A network with shared batch norm under DDP: outputs, gradients and statistics of the whole batch."""
    cpu = torch.device("cpu")
    kinds = [(torch.nn.BatchNorm2d, torch.contiguous_format), (torch.nn.BatchNorm2d, torch.channels_last)]
    if find_spec("timm") is not None:
        from timm.layers import BatchNormAct2d

        kinds.append((BatchNormAct2d, torch.channels_last))
    for kind, layout in kinds:
        torch.manual_seed(0)
        alone = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), kind(3), torch.nn.Conv2d(3, 1, 2)).to(
            memory_format=layout
        )
        torch.nn.init.normal_(alone[1].weight), torch.nn.init.normal_(alone[1].bias)
        together = copy.deepcopy(alone)
        inputs, targets = 3 * torch.rand(7, 2, 5, 5).to(memory_format=layout) + 2, torch.rand(7, 1, 2, 2)
        outputs = alone(inputs)
        torch.nn.functional.mse_loss(outputs, targets).backward()
        mine = world.share(7)
        assert has_own_statistics(together)
        parallel = world.wrap(share_batch_norm(together, cpu))
        assert not has_own_statistics(together)
        part = parallel(inputs[mine])
        assert together[1](together[0](inputs[mine])).is_contiguous(memory_format=layout)
        torch.testing.assert_close(part, outputs[mine])
        (world.size * len(part) / 7 * torch.nn.functional.mse_loss(part, targets[mine])).backward()
        for one, two in zip(alone.parameters(), together.parameters(), strict=True):
            torch.testing.assert_close(two.grad, one.grad)
        alone(inputs)  # as often as the other
        for one, two in zip(alone.buffers(), together.buffers(), strict=True):
            torch.testing.assert_close(two, one)
        torch.testing.assert_close(copy.deepcopy(together).eval()(inputs), alone.eval()(inputs))
    check_other_norms(world, cpu)


def check_other_norms(world, cpu):
    """bfloat16 in and out, no affine, cumulative statistics; a norm of another make is averaged."""

    class Own(torch.nn.BatchNorm2d):
        pass

    torch.manual_seed(1)
    inputs = torch.rand(6, 3, 4, 4) + 5
    alone = torch.nn.BatchNorm2d(3, momentum=None, affine=False)
    together = share_batch_norm(copy.deepcopy(alone), cpu)
    for factor in (1, 2):
        expected, part = alone(factor * inputs), together((factor * inputs)[world.share(6)].bfloat16())
        assert part.dtype == torch.bfloat16
        torch.testing.assert_close(part.float(), expected[world.share(6)], atol=0.1, rtol=0.05)
    torch.testing.assert_close(together.running_mean, alone.running_mean, rtol=1e-2, atol=0)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), Own(3))
    assert has_own_statistics(share_batch_norm(model, cpu)) and type(model[1]) is Own
    for norm in model:
        norm.running_mean.fill_(float(world.rank))
    world.average_statistics(model)
    assert torch.equal(model[1].running_mean, torch.full((3,), 0.5))
    assert torch.equal(model[0].running_mean, torch.full((3,), float(world.rank)))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def in_two(call, folder, *arguments):
    """Call it in two processes; return their exit statuses."""
    context = multiprocessing.get_context("fork")
    errors, port = context.SimpleQueue(), free_port()
    processes = [context.Process(target=call, args=(rank, port, folder, errors, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert errors.empty(), errors.get()
    return [process.exitcode for process in processes]


def in_two_processes(folder, options):
    assert in_two(work, folder, options) == [0, 0]


def assert_same_training(one, two):
    """Losses and weights, within rounding."""
    for name in ("image_loss", "cell_loss", "test_loss"):
        np.testing.assert_allclose(RunFolder(two).epochs[name], RunFolder(one).epochs[name], rtol=2e-3, err_msg=name)
    left, right = (load_checkpoint(folder / "checkpoint", "latest") for folder in (one, two))
    assert left.tensors.keys() == right.tensors.keys()
    for name, tensor in left.tensors.items():
        if name.startswith(("model.", "ema.")):
            torch.testing.assert_close(right.tensors[name], tensor, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        ("mix.name=cutmix", "train.accumulate=2", "train.clip=1.0"),
        ("mix.name=evolved", "train.ema=0.9"),
        ("mix.name=evolved", "search.objective=reducible", "search.consume=each"),
        ("mix.name=evolved", "search.objective=image_hard", "search.evaluation=full"),
    ],
    ids=["cutmix", "evolved", "reducible", "full"],
)
def test_two_processes_train_one_model(tmp_path, options):
    """Losses, accuracies and weights are those of one process, within rounding."""
    options = ("train.epochs=1", "mix.probability=1.0", "train.lr=0.01", *options)
    train(load_config("digits", [*TINY, *options]), tmp_path / "one")
    in_two_processes(tmp_path, options)

    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    clocks = {"seconds", "search_seconds"}
    assert {k: v for k, v in first.items() if k not in clocks} == {k: v for k, v in second.items() if k not in clocks}
    one, two = (RunFolder(tmp_path / name) for name in ("one", "two"))
    assert one.events[0]["processes"] == 1 and two.events[0]["processes"] == 2
    for name in ("image_loss", "training_accuracy", "test_loss", "accuracy"):
        np.testing.assert_allclose(two.epochs[name], one.epochs[name], rtol=1e-3, err_msg=name)
    left, right = (load_checkpoint(tmp_path / name / "checkpoint", "latest") for name in ("one", "two"))
    assert left.tensors.keys() == right.tensors.keys() and right.meta["step"] == 10
    if "accumulate" not in str(options):  # there the parts of a batch have statistics of their own
        for name, tensor in left.tensors.items():
            if name.startswith(("model.", "ema.")):
                torch.testing.assert_close(right.tensors[name], tensor, rtol=1e-3, atol=1e-4)
    if "evolved" in str(options):
        generations = [read_lines(tmp_path / name / "generations.jsonl") for name in ("one", "two")]
        assert len(generations[0]) == len(generations[1]) > 0  # written once, by rank 0
        for one_line, two_line in zip(*generations, strict=True):
            np.testing.assert_allclose(one_line["best"], two_line["best"], rtol=1e-2)


def test_two_processes_share_the_reading_of_files(tmp_path, colours, monkeypatch):
    """Each decodes its half of every batch, and both train on all of it."""
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 0)
    counted, decode = multiprocessing.get_context("fork").Value("i", 0), FileSet._batch

    def counting(images, indices, pool):
        with counted.get_lock():
            counted.value += len(indices)
        return decode(images, indices, pool)

    monkeypatch.setattr(FileSet, "_batch", counting)
    options = (*colours, "mix.name=patchmix", "train.epochs=1", "train.lr=0.01")
    train(load_config("digits", [*TINY, *options]), tmp_path / "one")
    alone = counted.value
    in_two_processes(tmp_path, options)
    assert counted.value == 2 * alone  # of one run, and of both processes of the other together
    one, two = (RunFolder(tmp_path / name).epochs for name in ("one", "two"))
    np.testing.assert_allclose(two["image_loss"], one["image_loss"], rtol=1e-4)


def trains(rank, port, folder, errors, config, resume, step):
    """One of two processes: to the end, or until a signal finds the first one, after so many steps."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    progress = At(step, lambda: os.kill(os.getpid(), signal.SIGTERM)) if step and rank == 0 else None
    try:
        train(config, folder, resume=resume, progress=progress)
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException:
        errors.put(f"rank {rank}: {traceback.format_exc()}")
        raise


def test_a_run_of_one_goes_on_as_two_and_as_one_again(tmp_path):
    """Each time in the middle of an epoch of ten steps."""
    options = ("mix.name=patchmix", "train.lr=0.01", "train.ema=0.9")
    config, cut = load_config("digits", [*TINY, *options]), tmp_path / "cut"
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, cut, progress=At(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert in_two(trains, cut, config, True, 9) == [130, 130]
    assert load_checkpoint(cut / "checkpoint", "latest").meta["step"] == 13
    train(config, cut, resume=True)
    events = RunFolder(cut).events
    assert [event["processes"] for event in events if event["event"] in ("start", "resume")] == [1, 2, 1]
    assert [event["step"] for event in events if event["event"] == "resume"] == [4, 13]
    assert_same_training(tmp_path / "whole", cut)


def test_a_run_of_two_goes_on_as_one_and_as_two_again(tmp_path):
    options = ("mix.name=patchmix", "train.lr=0.01", "train.ema=0.9")
    config, cut = load_config("digits", [*TINY, *options]), tmp_path / "cut"
    train(config, tmp_path / "whole")
    assert in_two(trains, cut, config, False, 3) == [130, 130]
    with pytest.raises(KeyboardInterrupt):
        train(config, cut, resume=True, progress=At(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert in_two(trains, cut, config, True, None) == [0, 0]
    events = RunFolder(cut).events
    assert [event["processes"] for event in events if event["event"] in ("start", "resume")] == [2, 1, 2]
    assert [event["step"] for event in events if event["event"] == "resume"] == [3, 7]
    assert_same_training(tmp_path / "whole", cut)


def test_a_batch_too_small_for_its_parts_is_refused(tmp_path):
    config = load_config("digits", [*TINY, "train.accumulate=9"])
    with pytest.raises(UserError, match="fewer than 2 images for each of 1 processes x train.accumulate=9 parts"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("NCCL error in: x.cpp:3, remote process exited or there was a network error, NCCL version 2.27", True),
        ("NCCL error in: x.cpp:3, unhandled cuda error (run with NCCL_DEBUG=INFO for details)", False),
        ("NCCL error in: x.cpp:3, invalid usage", False),
        ("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9", True),
        ("Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 0", False),
    ],
)
def test_only_what_tells_of_another_process_is_told_as_that(message, lost, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    with pytest.raises(LostProcessError if lost else RuntimeError) as caught, lost_processes_explained():
        raise RuntimeError(message)
    assert isinstance(caught.value, LostProcessError) is lost


SCRIPT = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
act = sys.argv[1].split(",")[rank]
if act == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif act == "wait":
    time.sleep(60)
elif act == "slow":
    time.sleep(1)
    open(sys.argv[2], "w").close()  # its checkpoint
    sys.exit(130)
elif act == "error":
    sys.exit("run: no such thing")
elif act.isdigit():
    print(f"run: {rank} says {act}", file=sys.stderr)
    sys.exit(int(act))
"""


@pytest.mark.parametrize(
    ("acts", "status", "words"),
    [
        ("fine,fine", 0, []),
        ("wait,die", 1, ["process 1 of 2 ended (killed by SIGKILL), and the run with it; it had no checkpoint yet"]),
        ("3,die", 1, ["killed by SIGKILL"]),
        ("die,3", 1, ["process 0 of 2 ended (killed by SIGKILL)"]),
        ("2,2", 2, []),
        ("3,2", 2, ["run: 1 says 2"]),
        ("3,error", 1, ["run: no such thing", "process 1 of 2 ended (exit status 1)"]),
        ("130,130", 130, []),
        ("slow,130", 130, []),  # longer than GRACE: the first is writing the checkpoint
        ("wait,130", 1, ["process 0 of 2 ended (killed by SIGKILL)"]),
    ],
)
def test_what_is_said_of_processes_that_end(acts, status, words, tmp_path, monkeypatch, capsys):
    """Of several processes; the statuses are those that they end with, in the order of their ranks."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(runs.launch, "GRACE", 0.3)
    monkeypatch.setattr(runs.launch, "STOPPING", 60.0 if "slow" in acts else 3.0)  # what a busy machine takes
    started = subprocess.Popen

    def popen(command, **options):
        return started([sys.executable, "-c", SCRIPT, acts, str(tmp_path / "written")], **options)

    monkeypatch.setattr(runs.launch.subprocess, "Popen", popen)
    assert runs.launch.launch(["train"], 2, tmp_path) == status
    said = capsys.readouterr().err
    for word in words:
        assert word in said
    assert said.count("\n") <= 2 and ("says 3" not in said)
    assert (tmp_path / "written").exists() is ("slow" in acts)


def test_processes_are_told_what_torchrun_tells_and_share_the_cores_they_may_use(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    told = runs.launch._environment(1, 3, 4000)
    assert {name: told[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")} == {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "OMP_NUM_THREADS": "2",
    }  # fmt: skip


def test_a_closed_terminal_stops_a_run_except_under_nohup():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interruption.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruption.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def dies(rank, port, folder, errors, config):
    """One of two processes, of which the second is killed at step 14."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    progress = At(14, lambda: os.kill(os.getpid(), signal.SIGKILL)) if rank else None
    try:
        train(config, folder, progress=progress)
    except UserError as error:
        errors.put(f"{type(error).__name__}: {error}")


def test_a_killed_process_ends_the_run_which_goes_on_alone(tmp_path):
    config = load_config("digits", [*TINY, "mix.name=patchmix", "train.save_minutes=1e-9"])
    context = multiprocessing.get_context("fork")
    errors, port = context.SimpleQueue(), free_port()
    processes = [context.Process(target=dies, args=(rank, port, tmp_path / "run", errors, config)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert processes[1].exitcode == -signal.SIGKILL
    assert errors.get().startswith("LostProcessError: rank 0: another process of this run has ended")
    assert load_checkpoint(tmp_path / "run" / "checkpoint", "latest").meta["step"] == 13
    assert train(config, tmp_path / "run", resume=True)["steps"] == 20
