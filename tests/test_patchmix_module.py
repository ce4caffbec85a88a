"""PatchMix is an nn.Module that goes where CutMix goes, and follows no global state but torch's seed."""

import copy
import functools
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from evo.bank import PatternBank
from training.mixes import PatchMix
from training.probe import probe

IMAGES, LABELS = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 4])


def seeded(**options):
    return PatchMix(num_classes=5, generator=torch.Generator().manual_seed(1), **options)


def equal(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def with_bank():
    bank = PatternBank(4, 5)
    bank.collect(np.random.default_rng(0).random((9, 4, 4)) < 0.5, np.arange(9) % 5, np.arange(1, 10) % 5)
    return seeded(bank=bank)


def test_it_is_a_module_without_parameters():
    mix = seeded()
    assert isinstance(mix, nn.Module) and not list(mix.parameters()) and not mix.state_dict()
    mix.load_state_dict(nn.Sequential().state_dict())
    assert equal(mix.to("cpu").half().requires_grad_()(IMAGES, LABELS), seeded()(IMAGES, LABELS))
    assert "num_classes=5, grid=4" in repr(nn.Sequential(mix))
    assert equal(nn.Sequential(seeded(), nn.Identity())((IMAGES, LABELS)), seeded()(IMAGES, LABELS))


def test_in_evaluation_it_does_not_mix_and_draws_nothing():
    mix = PatchMix(num_classes=5, label_smoothing=0.1)
    model = nn.Sequential(mix).eval()
    before = torch.get_rng_state()
    images, targets, masks, pairing = mix(IMAGES, LABELS, return_composition=True)
    assert images is IMAGES and torch.equal(targets, torch.eye(5))
    assert masks.all() and torch.equal(pairing, torch.arange(5))
    assert torch.equal(torch.get_rng_state(), before)
    model.train()
    assert not torch.equal(mix(IMAGES, LABELS)[0], IMAGES)


@pytest.mark.parametrize("make", [seeded, with_bank], ids=["random", "bank"])
def test_copies_go_on_the_same(make):
    mix = make()
    mix(IMAGES, LABELS)
    copies = [copy.deepcopy(mix), pickle.loads(pickle.dumps(mix)), copy.deepcopy(nn.Sequential(mix))[0]]
    expected = mix(IMAGES, LABELS)
    for other in copies:
        assert equal(other(IMAGES, LABELS), expected)
    mix.generator = torch.Generator().manual_seed(1)
    assert equal(mix(IMAGES, LABELS), make()(IMAGES, LABELS))


@pytest.mark.parametrize("generator", [None, "rank", 3])
def test_a_loaders_collate_function_can_be_pickled(generator):
    """As workers that are spawned, or come from a server of forks, need it."""
    generator = torch.Generator().manual_seed(generator) if isinstance(generator, int) else generator
    mix = PatchMix(num_classes=5, generator=generator)
    data = TensorDataset(IMAGES, LABELS, torch.arange(5))
    samples = [data[row] for row in range(5)]
    sent = pickle.loads(pickle.dumps(mix.collate))
    torch.manual_seed(0)
    expected = mix.collate(samples)
    torch.manual_seed(0)
    assert equal(sent(samples), expected) and torch.equal(expected[2], torch.arange(5))
    torch.manual_seed(0)
    (batch,) = DataLoader(data, 5, collate_fn=functools.partial(mix.collate, return_composition=True))
    assert len(batch) == 5 and batch[3].shape == (5, 4, 4)


def test_it_stands_among_torchvisions_transforms_in_and_out():
    from torchvision.transforms import v2

    cutmix, batch = v2.CutMix(num_classes=5), (IMAGES, LABELS, ["a"] * 5)
    for transform in (
        v2.Compose([seeded(), cutmix]),
        v2.Compose([cutmix, seeded()]),
        v2.RandomChoice([seeded(), cutmix]),
        v2.RandomApply([seeded()], p=1),
        v2.RandomApply(nn.ModuleList([seeded()]), p=1),
        v2.RandomOrder([seeded(), v2.RandomHorizontalFlip()]),
        nn.Sequential(v2.RandomHorizontalFlip(), seeded()),
    ):
        images, targets, names = transform(batch)
        assert images.shape == IMAGES.shape and targets.shape == (5, 5) and names == ["a"] * 5
        torch.testing.assert_close(targets.sum(1), torch.ones(5))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.head = seeded(label_smoothing=0.1), nn.Linear(192, 5)
        nn.init.constant_(self.head.weight, 0.01), nn.init.zeros_(self.head.bias)

    def forward(self, images, labels):
        mixed, targets = self.mix(images, labels)
        return self.head(mixed.flatten(1)), targets


def test_compiled_it_does_the_same():
    torch.compiler.reset()
    mix, compiled = seeded(), torch.compile(seeded(), backend="eager")
    for _ in range(2):
        assert equal(compiled(IMAGES, LABELS), mix(IMAGES, LABELS))
    for one, other in zip(
        torch.compile(Model(), backend="eager")(IMAGES, LABELS), Model()(IMAGES, LABELS), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore")  # of tracing by jit, which is old
def test_a_model_that_would_keep_one_composition_for_good_is_not_written_down():
    words = "PatchMix draws anew at each call, which a traced or exported model cannot; leave it out"
    with pytest.raises(ValueError, match=words):
        torch.jit.trace(Model(), (IMAGES, LABELS))
    with pytest.raises(ValueError, match=words):
        torch.export.export(Model(), (IMAGES, LABELS))


@pytest.fixture
def as_by_default():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)


SETTINGS = {
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "float16": lambda: torch.set_default_dtype(torch.float16),
    "bfloat16": lambda: torch.set_default_dtype(torch.bfloat16),
    "another device": lambda: torch.set_default_device("meta"),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "seeds": lambda: (torch.manual_seed(5), np.random.seed(5), random.seed(5)),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.usefixtures("as_by_default")
def test_global_settings_change_nothing(setting):
    makers = (functools.partial(seeded, probability=0.7, label_smoothing=0.1), with_bank, lambda: seeded().eval())
    soft = torch.eye(5)
    expected = [[mix(IMAGES, LABELS, return_composition=True) for _ in range(6)] for mix in (make() for make in makers)]
    rows = seeded()(IMAGES, soft)
    with torch.random.fork_rng([]):
        SETTINGS[setting]()
        for make, found in zip(makers, expected, strict=True):
            mix = make()
            for given in found:
                now = mix(IMAGES, LABELS, return_composition=True)
                assert equal(now, given) and now[1].dtype == torch.float32
        assert equal(seeded()(IMAGES, soft), rows)


def test_it_leaves_global_generators_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for mix in (seeded(), with_bank(), seeded(sampler="connected")):
        mix(IMAGES, LABELS)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1]) and random.getstate() == states[2]


AUTOCAST = functools.partial(torch.autocast, "cpu", torch.bfloat16)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad, AUTOCAST])
def test_in_every_mode_of_autograd_it_does_the_same(mode):
    expected = seeded()(IMAGES, LABELS)
    with mode():
        assert equal(seeded()(IMAGES.clone(), LABELS), expected)
    leaf = IMAGES.clone().requires_grad_()
    with mode():
        assert torch.equal(seeded()(leaf, LABELS)[0].detach(), seeded()(IMAGES, LABELS)[0])


@pytest.mark.usefixtures("as_by_default")
def test_losses_of_rows_are_float32_whatever_torchs_default_is():
    from evo.search import Rows

    def model(images):
        return images.mean((2, 3)).float(), images.float().mean((1, 2, 3)).view(-1, 1, 1, 1).expand(-1, 2, 2, 3)

    network = nn.Module()
    network.forward = model
    torch.set_default_dtype(torch.float64)
    rows = Rows(np.arange(3, dtype=np.int32), np.ones((3, 2, 2), bool), np.arange(3, dtype=np.int32))
    losses = probe(network, IMAGES[:3], LABELS[:3], rows)
    assert losses.cells.dtype == losses.images.dtype == np.float32
