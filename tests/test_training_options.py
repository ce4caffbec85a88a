"""What options of training change: precision of a step, averages, parts, compilation, devices, memory."""

import io

import pytest
import torch

from analysis.run_folder import RunFolder
from evo.durations import duration
from evo.errors import UserError
from tests.conftest import TINY
from training import devices
from training.checkpoint import load_checkpoint
from training.config import load_config
from training.cores import emulates_bfloat16
from training.devices import autocast_type, compile_explained, compiles, dtype_of, memory_explained, pick_device
from training.mixes.batch import leave_unmixed
from training.models.trained import load_trained
from training.progress import Progress
from training.run import set_up
from training.train import epoch_batches, train, training_step


def tiny(*overrides):
    return load_config("digits", [*TINY, *overrides])


def weights(folder, prefix="model."):
    saved = load_checkpoint(folder / "checkpoint", "latest").tensors
    return {name: tensor for name, tensor in saved.items() if name.startswith(prefix)}


def one_step(tmp_path, *options):
    """A run after one unmixed step, with what the step returned."""
    run = set_up(tiny("mix.name=patchmix", "train.warmup=0", *options), tmp_path / "run")
    run.model.train()
    batch = next(epoch_batches(run))
    return run, training_step(run, leave_unmixed(batch, 10, run.model.grid))


def test_a_step_returns_losses_hits_and_its_share(tmp_path):
    _, measured = one_step(tmp_path)
    image_loss, cell_loss, accuracy = measured.means
    assert measured.batches == 1 and 0 <= accuracy <= 100 and 1 < image_loss < 5 and 1 < cell_loss < 5


def test_parts_of_a_batch_add_up_to_the_whole(tmp_path):
    """Exactly so where batch norm does not see the parts: in evaluation mode."""

    def gradients(parts):
        run = set_up(tiny("mix.name=patchmix", f"train.accumulate={parts}", "train.lr=1e-9"), tmp_path / "run")
        run.model.eval()
        measured = training_step(run, leave_unmixed(next(epoch_batches(run)), 10, run.model.grid))
        return measured.values, [parameter.grad.clone() for parameter in run.model.parameters()]

    whole, parts = gradients(1), gradients(5)
    torch.testing.assert_close(parts[0], whole[0])
    for one, five in zip(whole[1], parts[1], strict=True):
        torch.testing.assert_close(five, one, rtol=1e-4, atol=1e-6)


def test_tests_use_the_weight_average(tmp_path):
    result = train(tiny("mix.name=plain", "train.ema=0.9", "train.lr=0.05", "train.epochs=3"), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    last = run.epochs.iloc[-1]
    assert last["accuracy"] == result["last_accuracy"] and last["live_accuracy"] != last["accuracy"]
    average, live = weights(tmp_path / "run", "ema."), weights(tmp_path / "run")
    assert {name.removeprefix("ema.") for name in average} == {name.removeprefix("model.") for name in live}
    config, cpu = tiny("train.ema=0.9"), torch.device("cpu")
    head = load_trained(config, tmp_path / "run", cpu).model.image_head.weight
    assert torch.equal(head, average["ema.image_head.weight"])
    head = load_trained(config, tmp_path / "run", cpu, "model").model.image_head.weight
    assert torch.equal(head, live["model.image_head.weight"])


def test_without_an_average_asking_for_one_says_what_to_do(trained):
    with pytest.raises(UserError, match="kept no weight average; take --weights model"):
        load_trained(tiny(), trained, torch.device("cpu"), "ema")


def test_a_cell_head_that_no_loss_reaches_is_left_alone(tmp_path):
    for mix, trains in (("plain", False), ("patchmix", True)):
        run = set_up(tiny(f"mix.name={mix}"), tmp_path / "run")
        assert run.model.cell_head.weight.requires_grad is trains


def test_compiled_training_is_training(tmp_path, monkeypatch):
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: compiled(call, backend="eager", **options))
    for name, choice in (("eager", "no"), ("compiled", "yes")):
        train(tiny("mix.name=patchmix", f"train.compile={choice}", "train.epochs=1"), tmp_path / name)
    for name, tensor in weights(tmp_path / "eager").items():
        torch.testing.assert_close(weights(tmp_path / "compiled")[name], tensor, rtol=1e-3, atol=1e-4)


def test_tests_go_through_the_compiled_model_in_whole_batches_and_see_the_same(tmp_path, monkeypatch):
    shapes = []

    def compiled(call, **options):
        def forward(images):
            if not call.training:
                shapes.append(len(images))
            return call(images)

        return forward if isinstance(call, torch.nn.Module) else call

    monkeypatch.setattr(torch, "compile", compiled)
    for choice in ("no", "yes"):
        train(tiny("mix.name=plain", f"train.compile={choice}", "train.eval_batch_size=100"), tmp_path / choice)
    assert shapes and set(shapes) == {100}  # of 360 images the last 60 are left to the model itself
    whole, found = (RunFolder(tmp_path / choice).result for choice in ("no", "yes"))
    assert [whole[key] for key in ("last_accuracy", "best_accuracy")] == [
        found[key] for key in ("last_accuracy", "best_accuracy")
    ]


def test_auto_compiles_on_cuda_where_its_compiler_is(tmp_path, monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(devices, "find_spec", lambda name: object())
    monkeypatch.setattr(devices.shutil, "which", lambda name: "/usr/bin/gcc")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(devices.sysconfig, "get_path", lambda name: str(tmp_path))
    assert not compiles("auto", cuda)  # no headers of Python
    (tmp_path / "Python.h").touch()
    assert compiles("auto", cuda) and not compiles("auto", cpu)
    assert compiles("yes", cpu) and not compiles("no", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert not compiles("auto", cuda) and compiles("yes", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    assert not compiles("auto", cuda)


def test_auto_takes_bfloat16_where_the_gpu_has_it(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert autocast_type("auto", cuda) is (torch.bfloat16 if has else None)
        assert autocast_type("auto", cpu) is None
        assert autocast_type("bfloat16", cuda) == torch.bfloat16
        assert autocast_type("float32", cuda) is None


def test_cpus_that_emulate_bfloat16_are_told_by_their_features(tmp_path):
    def emulates(text):
        (tmp_path / "cpuinfo").write_text(text)
        return emulates_bfloat16(tmp_path / "cpuinfo")

    assert emulates("processor\t: 0\nflags\t\t: fpu fma avx avx2\n\nprocessor\t: 1\n")
    assert not emulates("flags\t\t: avx2 avx512f avx512dq avx512bw avx512vl\nvmx flags\t: vnmi\n")
    assert emulates("flags\t\t: avx2 avx512f avx512dq avx512bwx avx512vl\n")
    assert emulates("Features\t: fp asimd\n") and not emulates("Features\t: fp asimd bf16\n")
    assert not emulates("processor\t: 0\n")  # nothing is known
    assert not emulates_bfloat16(tmp_path / "absent")


def test_emulated_bfloat16_is_told_once(monkeypatch, capsys):
    cpu, wanted = torch.device("cpu"), "bfloat16"
    for emulated in (True, False):
        devices._tell_of_emulation.cache_clear()
        monkeypatch.setattr(devices, "emulates_bfloat16", lambda emulated=emulated: emulated)
        assert autocast_type("auto", cpu) is None and not capsys.readouterr().err
        assert autocast_type(wanted, cpu) == autocast_type(wanted, cpu) == torch.bfloat16
        told = capsys.readouterr().err
        assert told.count("\n") == emulated and ("set -s train.precision=float32" in told) == emulated
        assert dtype_of("bfloat16", cpu, "search.precision") == torch.bfloat16
        assert ("set -s search.precision=float32" in capsys.readouterr().err) == emulated
        assert dtype_of("float32", cpu, "search.precision") is None
    devices._tell_of_emulation.cache_clear()


def failing(error):
    def backend(graph, inputs):
        raise error

    return torch.compile(lambda x: x + 1, backend=backend)


def test_a_failed_compilation_says_what_to_set():
    words = r"torch.compile failed \(RuntimeError: no ptxas here\); set -s train.compile=no$"
    with pytest.raises(UserError, match=words), compile_explained():
        failing(RuntimeError("no ptxas here\nand much more"))(torch.ones(1))
    with pytest.raises(UserError, match="lower x"), memory_explained("lower x"), compile_explained():
        failing(torch.OutOfMemoryError("CUDA out of memory"))(torch.ones(1))
    for error in (RuntimeError("a bug"), ValueError("another")):
        with pytest.raises(type(error), match=str(error)), compile_explained():
            raise error


def test_each_process_takes_the_gpu_of_its_number(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    precision = torch.get_float32_matmul_precision()
    try:
        assert pick_device() == torch.device("cuda:0")
        assert pick_device("cuda:1") == torch.device("cuda:1")
        with pytest.raises(UserError, match=r"run.device=cuda:2 is not there \(2 GPUs found\)"):
            pick_device("cuda:2")
        monkeypatch.setenv("WORLD_SIZE", "3")
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert pick_device("cuda") == pick_device() == torch.device("cuda:1")
        with pytest.raises(UserError, match="is one GPU, but several processes run"):
            pick_device("cuda:0")
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(UserError, match=r"GPU 2, for process 2 .* \(2 GPUs found\)"):
            pick_device()
    finally:
        torch.set_float32_matmul_precision(precision)
    assert taken == [torch.device("cuda", index) for index in (0, 1, 1, 1)]


def test_too_little_memory_names_the_option_to_lower(tmp_path, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as patched:
        patched.setattr("training.train.image_losses", full)
        with pytest.raises(
            UserError, match=r"out of device memory .*; lower train.batch_size=16, or raise train.accumulate=1"
        ):
            train(tiny("mix.name=plain"), tmp_path / "steps")
    monkeypatch.setattr("training.evaluation.evaluate", full)
    with pytest.raises(UserError, match=r"out of device memory .*; lower train.eval_batch_size=500"):
        train(tiny("mix.name=plain"), tmp_path / "tests")
    with pytest.raises(RuntimeError, match="something else"), memory_explained("lower x"):
        raise RuntimeError("something else")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_draws_seldom_and_asks_only_then():
    stream, asked = Terminal(), []
    progress = Progress(stream)
    for number in range(50):
        progress.update(lambda number=number: asked.append(number) or f"step {number}")
    assert asked == [0] and stream.getvalue().endswith("step 0")
    progress.close()
    progress.close()
    assert stream.getvalue().endswith("step 0\n") and stream.getvalue().count("\n") == 1
    progress.update("done", final=True)
    progress.close()
    assert stream.getvalue().endswith("done\n")


def test_the_progress_line_tells_what_a_person_wants_to_know(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # it is cut at the terminal's width
    stream = Terminal()
    train(tiny("mix.name=evolved", "mix.probability=1.0"), tmp_path / "run", progress=Progress(stream))
    first, last = stream.getvalue().split("\r\x1b[2K")[1], stream.getvalue().splitlines()[-1]
    for word in ("evolved: epoch 1/2", "step ", "/20", "loss ", "training accuracy ", "images/s", " left"):
        assert word in first
    for word in ("evolved: epoch 2/2", "test accuracy", "training accuracy", "images/s", "search ", "% of the time"):
        assert word in last


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7630, "2 h 07 min")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
