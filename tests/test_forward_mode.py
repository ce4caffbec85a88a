"""compose under forward-mode derivatives, torch.func's transforms and tracers: right, and no tangent is lost."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from training.compose import cell_targets, compose, image_targets
from training.mixes import PatchMix

G = torch.Generator().manual_seed(0)
MASKS, PAIRINGS = torch.rand(2, 4, 4, 4, generator=G) < 0.5, torch.tensor([[1, 0, 3, 2], [3, 2, 1, 0]])
ROWS = torch.tensor([[0, 0, 1, 2], [3, 3, 2, 1]])
LABELS = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])


@pytest.fixture(params=[(8, False), (8, True), (9, False), (9, True)], ids=["8", "8 last", "9", "9 last"])
def images(request):
    """(2,4,3,S,S): images and other images, or their tangents; sides that the grid divides, and others."""
    size, channels_last = request.param
    found = torch.rand(2, 4, 3, size, size, generator=torch.Generator().manual_seed(1))
    return [part.contiguous(memory_format=torch.channels_last) for part in found] if channels_last else list(found)


def mixed(images, which=0):
    return compose(images, MASKS[which], PAIRINGS[which])


@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("into_out", [True, False])
def test_a_tangent_goes_where_its_pixel_goes(images, recording, into_out):
    primal, tangent = images
    out = torch.zeros_like(primal) if into_out else None
    with forward_ad.dual_level(), torch.set_grad_enabled(recording):
        found = compose(forward_ad.make_dual(primal, tangent), MASKS[0], PAIRINGS[0], out=out)
        assert out is None or found is out
        value, derivative = forward_ad.unpack_dual(found)
        assert torch.equal(value, mixed(primal)) and torch.equal(derivative, mixed(tangent))


def test_images_without_a_tangent_leave_none_in_out(images):
    with forward_ad.dual_level():
        out = forward_ad.make_dual(torch.zeros_like(images[0]), torch.ones_like(images[0]))
        left = forward_ad.unpack_dual(compose(images[0], MASKS[0], PAIRINGS[0], out=out)).tangent
        assert left is None or not left.any()


def test_torchs_transforms_derive_it(images):
    primal, tangent = images
    assert torch.equal(torch.func.jvp(mixed, (primal,), (tangent,))[1], mixed(tangent))
    (back,) = torch.func.vjp(mixed, primal)[1](tangent)
    torch.testing.assert_close((back * primal).sum(), (tangent * mixed(primal)).sum())
    small = primal[:, :1]
    assert torch.equal(torch.func.jacfwd(mixed)(small), torch.func.jacrev(mixed)(small))


def test_it_is_mapped_as_in_a_loop(images):
    both = torch.stack(images)
    each = [mixed(batch, which) for which, batch in enumerate(images)]
    assert torch.equal(torch.vmap(compose)(both, MASKS, PAIRINGS), torch.stack(each))
    assert torch.equal(torch.vmap(compose, (4, 0, 0))(both.movedim(0, 4), MASKS, PAIRINGS), torch.stack(each))
    one, masks, pairing = images[0], MASKS[0], PAIRINGS[0]
    for function, values in (
        (lambda found: compose(one, found, pairing), MASKS),
        (lambda found: compose(one, masks, found), PAIRINGS),
        (lambda found: compose(one, masks, pairing, rows=found), ROWS),
    ):
        assert torch.equal(torch.vmap(function)(values), torch.stack([function(value) for value in values]))
    gradients = torch.vmap(torch.func.grad(lambda x, m, p: (compose(x, m, p) ** 2).sum()))(both, MASKS, PAIRINGS)
    for found, batch, m, p in zip(gradients, images, MASKS, PAIRINGS, strict=True):
        leaf = batch.clone().requires_grad_()
        torch.testing.assert_close(found, torch.autograd.grad((compose(leaf, m, p) ** 2).sum(), leaf)[0])


TRACERS = {"jit": torch.jit.trace, "fx": lambda function, images: make_fx(lambda given: function(given))(images)}


@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.filterwarnings("ignore")  # of tracing by jit, which is old
def test_what_a_tracer_wrote_down_does_the_same(images, tracer):
    assert torch.equal(TRACERS[tracer](mixed, images[0])(images[1]), mixed(images[1]))


def test_targets_are_mapped_and_derived_too():
    for function in (lambda *given: image_targets(*given, 3), cell_targets):
        expected = torch.stack([function(*given) for given in zip(LABELS, MASKS, PAIRINGS, strict=True)])
        assert torch.equal(torch.vmap(function)(LABELS, MASKS, PAIRINGS), expected)
    soft, tangent = torch.rand(2, 4, 3, generator=G)
    derivative = torch.func.jvp(lambda rows: image_targets(rows, MASKS[0], PAIRINGS[0], 3), (soft,), (tangent,))[1]
    torch.testing.assert_close(derivative, image_targets(tangent, MASKS[0], PAIRINGS[0], 3))


def test_patchmix_is_derived_and_refuses_to_be_mapped(images):
    def mix(given, labels=LABELS[0]):
        return PatchMix(num_classes=3, generator=torch.Generator().manual_seed(2))(given, labels)[0]

    primal, tangent = images
    assert torch.equal(torch.func.jvp(mix, (primal,), (tangent,))[1], mix(tangent))
    assert torch.func.grad(lambda given: (mix(given) ** 2).sum())(primal).shape == primal.shape
    for randomness in ("different", "same", "error"):
        with pytest.raises(ValueError, match=r"draws one composition for a whole batch, which torch.vmap cannot map"):
            torch.vmap(mix, randomness=randomness)(torch.stack(images))
    with pytest.raises(ValueError, match="which torch.vmap cannot map"):
        torch.vmap(lambda factor: factor * mix(primal), randomness="different")(torch.ones(2))
