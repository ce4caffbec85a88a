"""Transfer: probes against scikit-learn and slow loops, fine-tuning, kept outcomes, intervals, mistakes."""

import csv
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.run_folder import find_run
from evo.errors import UserError
from runs import transfer_command as command
from runs.folders import recorded_config
from tests.conftest import TINY
from training import transfer, transfer_results
from training.config import make_config
from training.data.image_set import ImageSet

CPU = torch.device("cpu")


def clouds(count, dimensions, num_classes, seed=0, spread=1.5):
    """Features (M,D) of overlapping classes, badly scaled, and labels (M,)."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_classes, dimensions, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(num_classes, (count,), generator=generator)
    noise = spread * torch.randn(count, dimensions, generator=generator)
    return (centres[labels] + noise) * torch.linspace(0.1, 5, dimensions) + 3, labels


def penalised(classifier, features, labels, decay):
    weight, bias = classifier
    return float(F.cross_entropy(features @ weight.T + bias, labels) + 0.5 * decay * weight.square().sum())


def standardised(features):
    return (features - features.mean(0)) / features.std(0)


# Linear probe


@pytest.mark.parametrize("decay", [1e-1, 1e-3])
def test_softmax_regression_is_that_of_scikit_learn(decay):
    from sklearn.linear_model import LogisticRegression

    features, labels = clouds(400, 12, 5)
    features = standardised(features)
    peer = LogisticRegression(C=1 / (decay * len(labels)), tol=1e-8, max_iter=2000).fit(
        features.numpy(), labels.numpy()
    )
    theirs = torch.tensor(peer.coef_).float(), torch.tensor(peer.intercept_).float()
    optimum = penalised(theirs, features, labels, decay)
    everything = torch.arange(len(labels))
    generator = torch.Generator().manual_seed(0)
    (by_sgd,) = transfer.fit_sgd(features, labels, everything, 5, (decay,), generator)
    for ours, slack in ((transfer.fit_lbfgs(features, labels, 5, decay), 1e-4), (by_sgd, 1e-2)):
        assert penalised(ours, features, labels, decay) == pytest.approx(optimum, abs=slack)
        assert transfer.accuracy(ours, features, labels) == pytest.approx(
            100 * peer.score(features.numpy(), labels.numpy()), abs=1
        )


def test_sgd_fits_decays_side_by_side_as_alone():
    features, labels = clouds(300, 6, 3)
    features, rows = standardised(features), torch.arange(200)
    both = transfer.fit_sgd(features, labels, rows, 3, (0.5, 1e-3), torch.Generator().manual_seed(1))
    for decay, (weight, bias) in zip((0.5, 1e-3), both, strict=True):
        ((alone, its_bias),) = transfer.fit_sgd(features, labels, rows, 3, (decay,), torch.Generator().manual_seed(1))
        torch.testing.assert_close(weight, alone, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(bias, its_bias, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_linear_probe_chooses_on_training_images_and_fits_all_of_them(solver):
    training, test = clouds(500, 10, 4), clouds(400, 10, 4, seed=1)
    probed = transfer.linear_probe(training, test, 4, solver=solver)
    other_labels = test[0], (test[1] + 1) % 4
    assert transfer.linear_probe(training, other_labels, 4, solver=solver).chosen == probed.chosen

    from sklearn.linear_model import LogisticRegression

    mean, std = training[0].mean(0), training[0].std(0)
    peer = LogisticRegression(C=1 / (probed.chosen["weight_decay"] * len(training[1])), max_iter=2000)
    peer.fit(((training[0] - mean) / std).numpy(), training[1].numpy())
    theirs = 100 * peer.score(((test[0] - mean) / std).numpy(), test[1].numpy())
    assert probed.accuracy == pytest.approx(theirs, abs=1)
    assert probed.test_images == 400


def test_linear_probe_takes_a_strong_decay_where_a_weak_one_fits_noise():
    training, test = clouds(60, 200, 3, spread=6), clouds(300, 200, 3, seed=1, spread=6)
    assert transfer.linear_probe(training, test, 3).chosen["weight_decay"] >= 1e-2


def test_large_sets_are_fitted_by_sgd(monkeypatch):
    training, test = clouds(100, 5, 3), clouds(100, 5, 3, seed=1)
    monkeypatch.setattr(transfer, "LBFGS_LIMIT", 100 * 5 + 2 * 100 * 3 - 1)
    monkeypatch.setattr(transfer, "fit_lbfgs", None)
    assert transfer.linear_probe(training, test, 3).accuracy > 50


@given(st.lists(st.integers(1, 23), min_size=1, max_size=6), st.integers(0, 100))
def test_held_out_is_a_fifth_of_each_class(counts, seed):
    if sum(counts) < transfer.HELD_OUT:
        return
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    held, kept = transfer.held_out(labels, torch.Generator().manual_seed(seed))
    assert sorted(torch.cat([held, kept]).tolist()) == list(range(len(labels)))
    assert len(held) > 0 and len(kept) > 0
    if max(counts) > 1:
        assert labels[held].bincount(minlength=len(counts)).tolist() == [
            max(1, count // 5) if count > 1 else 0 for count in counts
        ]
    again, _ = transfer.held_out(labels, torch.Generator().manual_seed(seed))
    assert torch.equal(held, again)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_the_last_fit_is_on_all_training_images(monkeypatch, solver):
    fit, rows = getattr(transfer, f"fit_{solver}"), []

    def spy(*arguments):
        rows.append(len(arguments[1] if solver == "lbfgs" else arguments[2]))
        return fit(*arguments)

    monkeypatch.setattr(transfer, f"fit_{solver}", spy)
    transfer.linear_probe(clouds(100, 5, 3), clouds(50, 5, 3, seed=1), 3, solver=solver)
    assert rows[-1] == 100 and set(rows[:-1]) == {
        100 - sum(count // 5 for count in clouds(100, 5, 3)[1].bincount().tolist())
    }


# Nearest neighbours


@settings(max_examples=30)
@given(
    st.integers(5, 40),
    st.integers(1, 12),
    st.integers(2, 6),
    st.integers(1, 25),
    st.integers(1, 200),
    st.integers(0, 9),
)
def test_nearest_neighbours_vote_as_in_a_slow_loop(count, queries, num_classes, neighbours, chunk, seed):
    rng = np.random.default_rng(seed)
    features, asked = rng.normal(size=(count, 7)), rng.normal(size=(queries, 7))
    labels, wanted = rng.integers(num_classes, size=count), rng.integers(num_classes, size=queries)
    hits = 0
    for query, label in zip(asked, wanted, strict=True):
        similarity = features @ query / np.linalg.norm(features, axis=1) / np.linalg.norm(query)
        votes = np.zeros(num_classes)
        for index in np.argsort(-similarity)[:neighbours]:
            votes[labels[index]] += np.exp(similarity[index] / 0.07)
        hits += votes.argmax() == label
    training = torch.tensor(features), torch.tensor(labels)
    test = torch.tensor(asked), torch.tensor(wanted)
    outcome = transfer.nearest_neighbours(training, test, num_classes, neighbours, chunk=chunk)
    assert outcome.accuracy == pytest.approx(100 * hits / queries)


def test_nearest_neighbours_with_even_votes_are_those_of_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    training, test = clouds(300, 8, 2), clouds(200, 8, 2, seed=1)  # of 9 votes for two classes none are equal
    peer = KNeighborsClassifier(9, metric="cosine", algorithm="brute").fit(training[0].numpy(), training[1].numpy())
    ours = transfer.nearest_neighbours(training, test, 2, neighbours=9, temperature=1e4)
    assert ours.accuracy == pytest.approx(100 * peer.score(test[0].numpy(), test[1].numpy()), abs=0.5)


# Images and features


def test_fitted_repeats_grey_averages_colours_and_resizes():
    grey = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    repeated = transfer.fitted(grey, (3, 8, 8))
    assert torch.equal(repeated, grey.float().expand(-1, 3, -1, -1))
    colour = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(transfer.fitted(colour, (1, 8, 8))[:, 0], colour.float().mean(1))
    assert torch.equal(transfer.fitted(colour, (3, 8, 8)), colour.float())
    flat = torch.full((1, 1, 8, 8), 7, dtype=torch.uint8)
    assert transfer.fitted(flat, (3, 32, 20)).shape == (1, 3, 32, 20)
    torch.testing.assert_close(transfer.fitted(flat, (3, 32, 20)), torch.full((1, 3, 32, 20), 7.0))


@pytest.fixture
def tiny(trained, out):
    """The tiny run under the name `group/tiny-s0`."""
    shutil.copytree(trained, out / "group" / "tiny-s0")
    return out / "group" / "tiny-s0"


@pytest.fixture
def backbone(tiny):
    source = transfer.Source(recorded_config(find_run("group/tiny-s0")), tiny, "model")
    return transfer.open_source(source, make_config({}), CPU)


@pytest.fixture
def digits():
    return transfer.open_target("digits", make_config({}, ["data.subset=30"]).data)


def test_results_do_not_depend_on_batch_sizes(backbone, digits):
    features, labels = transfer.backbone_features(backbone, digits.training, 500)
    assert torch.equal(labels, digits.training.labels) and features.shape == (
        300,
        backbone.model.image_head.in_features,
    )
    for batch in (7, 150):
        some, its_labels = transfer.backbone_features(backbone, digits.training, batch)
        torch.testing.assert_close(some, features, atol=1e-4, rtol=1e-4)
        assert torch.equal(its_labels, labels)
    one = transfer.image_accuracy(backbone, backbone.model, digits.test, 13)
    assert one == pytest.approx(transfer.image_accuracy(backbone, backbone.model, digits.test, 360), abs=0.3)


def test_features_that_are_not_finite_are_refused(backbone, digits):
    with torch.no_grad():
        next(backbone.model.backbone.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        transfer.backbone_features(backbone, digits.test)


def test_untrained_is_the_network_the_run_began_with(tiny):
    from training.run import set_up

    config = recorded_config(find_run("group/tiny-s0"))
    fresh = set_up(config, tiny / "elsewhere").model.state_dict()
    untrained = transfer.open_source(
        transfer.Source(config, tiny, "untrained"), make_config({}), CPU
    ).model.state_dict()
    for name in ("backbone", "image_head"):
        mine = {key: tensor for key, tensor in untrained.items() if key.startswith(name)}
        assert mine and all(torch.equal(fresh[key], tensor) for key, tensor in mine.items())


# Fine-tuning


def options(*overrides):
    return make_config({"train": command.DEFAULTS}, [f"train.{override}" for override in overrides]).train


def test_fine_tuning_learns_and_leaves_the_backbone_as_it_was(backbone, digits):
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    said = []
    tuned = transfer.fine_tune(backbone, digits, options("epochs=4", "batch=32"), 0, said.append)
    again = transfer.fine_tune(backbone, digits, options("epochs=4", "batch=32", "eval_batch_size=77"), 0)
    assert tuned == again
    assert tuned.accuracy > 70  # chance is 10
    assert tuned.chosen["lr"] in transfer.TUNE_RATES and tuned.chosen["weight_decay"] in transfer.TUNE_DECAYS
    assert said[0].startswith("trial 1/4, lr 0.01, weight decay 0.0005: step 1/")
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.model.state_dict().items())


def test_a_rate_and_a_decay_that_are_set_are_not_chosen(backbone, digits):
    said = []
    tuned = transfer.fine_tune(backbone, digits, options("epochs=1", "lr=0.05", "weight_decay=0.001"), 0, said.append)
    assert tuned.chosen == {"lr": 0.05, "weight_decay": 0.001}
    assert len(said) == 300 // 64 and not any(line.startswith("trial") for line in said)


def test_trials_are_bounded(backbone, digits, monkeypatch):
    monkeypatch.setattr(transfer, "TRIAL_STEPS", 2)
    said = []
    transfer.fine_tune(backbone, digits, options("epochs=3", "weight_decay=0"), 0, said.append)
    assert sum(line.startswith("trial") for line in said) == 2 * len(transfer.TUNE_RATES)


def test_fine_tuning_trains_the_backbone_with_augmented_images(backbone, digits, monkeypatch):
    seen = []

    def spy(images, crop, flip, cutout, generator):
        seen.append((len(images), crop, flip, cutout))
        return images

    monkeypatch.setattr(transfer, "augment", spy)
    part = ImageSet(digits.training.images, digits.training.labels, digits.training.class_names, 1, True, 3)
    model, loss = transfer._train(backbone, part, torch.arange(300), 0.05, 0.0, 9, options("batch=64"), 0, print)
    assert seen == [(64, 1, True, 3)] * 9 and loss > 0
    assert not torch.equal(
        next(model.backbone.parameters()).detach(), next(backbone.model.backbone.parameters()).detach()
    )


def test_a_loss_that_is_not_finite_is_an_error(backbone, digits):
    with pytest.raises(UserError, match=r"set a lower -s train.lr, it was 100"):
        transfer.fine_tune(backbone, digits, options("epochs=4", "lr=100", "weight_decay=1"), 0)


# The command

SMALL = ["data.subset=20", "run.threads=1", "train.epochs=2", "train.lr=0.05", "train.weight_decay=0"]


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_fine_tuning_beats_no_training_and_touches_only_transfer(tiny, capsys):
    before = contents(tiny)
    command.run_transfer(["group/tiny-s0"], ["digits"], SMALL, methods="finetune,linear,knn")
    after = contents(tiny)
    assert {name: after[name] for name in before} == before
    assert (
        all(name.startswith("transfer/digits-") for name in set(after) - set(before)) and len(after) == len(before) + 6
    )
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["data", "set", "method"] and len(lines) == 6
    assert [line.split()[1] for line in lines] == ["finetune"] * 2 + ["linear"] * 2 + ["knn"] * 2
    assert "group/tiny-s0" in lines[0] and "untrained resnet-small-s0" in lines[1] and "360 test images" in lines[0]
    accuracy = [float(line.split("%")[0].split()[-1]) for line in lines]
    assert accuracy[0] > accuracy[1]


def test_a_repeated_call_reuses_and_prints_the_same(tiny, capsys, monkeypatch):
    arguments = ["group/tiny-s0"], ["digits"], SMALL
    command.run_transfer(*arguments, methods="linear,knn")
    first = capsys.readouterr()
    assert "earlier calls" not in first.err
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "measure", None)
        command.run_transfer(*arguments, methods="knn,linear")
    second = capsys.readouterr()
    assert sorted(second.out.splitlines()) == sorted(first.out.splitlines())
    assert "4 of 4 outcomes are of earlier calls" in second.err

    files = sorted((tiny / "transfer").iterdir())
    files[0].write_text("{torn")  # a damaged file is no file
    kept = json.loads(files[1].read_text())
    kept["outcome"]["accuracy"] = 1.0
    files[1].write_text(json.dumps(kept))
    command.run_transfer(*arguments, methods="linear,knn")
    third = capsys.readouterr()
    assert "3 of 4 outcomes" in third.err and " 1.00 %" in third.out
    command.run_transfer(*arguments, methods="linear,knn", fresh=True)
    fourth = capsys.readouterr()
    assert fourth.out == first.out and "earlier calls" not in fourth.err


def test_what_identifies_an_outcome(tiny, digits):
    def file(overrides=(), seed=0, method="finetune", subject=None, training=digits.training):
        config = command.target_config("digits", ["data.subset=30", *overrides])
        target = transfer.Target("digits", config.data, training, digits.test)
        return transfer_results.kept_file(
            tiny, "digits", transfer_results.identity(subject or about, target, method, seed, config)
        )

    source = transfer.Source(recorded_config(find_run("group/tiny-s0")), tiny, "model")
    about = transfer_results.about_backbone(source, make_config({}), CPU)
    first = file()
    assert first == file(["run.threads=2", "train.eval_batch_size=9", "data.download=false"])
    assert first == file(["data.root=/moved"])
    others = [
        file(["train.epochs=9"]),
        file(["train.batch_size=8"]),
        file(["train.lr=0.5"]),
        file(["data.subset_start=1"]),
        file(training=digits.training.select(torch.arange(len(digits.training)).flip(0))),
        file(["data.cutout=2"]),
        file(seed=1),
        file(method="linear"),
        file(method="knn"),
        file(subject={**about, "checkpoint": "another"}),
        file(subject={**about, "precision": "bfloat16"}),
    ]
    assert len({first, *others}) == len(others) + 1
    assert file(method="knn", seed=3) == file(method="knn", seed=4)
    transfer_results.keep(first, {"of": "another"}, transfer.Outcome(1.0, 10))
    assert transfer_results.kept(first, {"of": "another"}) == transfer.Outcome(1.0, 10)
    assert transfer_results.kept(first, {"of": "this"}) is None
    precise = transfer_results.about_backbone(source, make_config({}, ["train.precision=bfloat16"]), CPU)
    assert (about["precision"], precise["precision"]) == ("float32", "bfloat16")


def copied(tiny, name, *, change=None, seed=None):
    """A copy of the tiny run with other weights and perhaps another config."""
    from safetensors.torch import load_file, save_file

    folder = tiny.parent / name
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("transfer"))
    index = json.loads((folder / "checkpoint" / "latest.json").read_text())
    file = folder / "checkpoint" / index["files"]["tensors"]
    tensors = load_file(file)
    generator = torch.Generator().manual_seed(len(name) + (seed or 0))
    changed = {
        key: tensor + 0.2 * torch.randn(tensor.shape, generator=generator)
        if key.startswith("model.backbone") and key.endswith("weight")
        else tensor
        for key, tensor in tensors.items()
    }
    save_file(changed, file)
    index["sha256"]["tensors"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "checkpoint" / "latest.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    config["run"]["seed"] = seed or 0
    config["train"] |= change or {}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_seeds_of_a_variant_are_one_row_with_a_t_interval(tiny, tmp_path, capsys):
    from scipy import stats

    copied(tiny, "tiny-s1", seed=1)
    copied(tiny, "odd-s0")  # another variant of the same seed: it shares the untrained network
    copied(tiny, "tiny-s2", seed=2, change={"label_smoothing": 0.1})  # not a seed of that variant
    names = ["group/tiny-s0", "group/tiny-s1", "group/odd-s0", "group/tiny-s2", str(tiny)]
    file = tmp_path / "table.csv"
    command.run_transfer(names, ["digits"], SMALL, methods="knn", csv=file)
    captured = capsys.readouterr()
    rows = list(csv.DictReader(file.open()))
    assert [row["backbone"] for row in rows] == [
        "group/tiny-s{0,1}",
        "group/odd-s0",
        "group/tiny-s2",
        "untrained resnet-small-s{0,1,2}",
    ]
    assert "[7/7]" in captured.err  # 4 runs, 3 untrained networks
    assert [row["interval_over"] for row in rows] == ["2 runs", "360 test images", "360 test images", "3 runs"]
    for row in (rows[0], rows[3]):
        values = [float(value) for value in row["accuracies"].split()]
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert float(row["accuracy"]) == pytest.approx(np.mean(values), abs=1e-3)
        assert float(row["low"]) == pytest.approx(max(0, low), abs=1e-2)
        assert float(row["high"]) == pytest.approx(min(100, high), abs=1e-2)
    assert len(list((tiny.parent / "odd-s0" / "transfer").glob("*untrained*"))) == 1

    command.run_transfer(names, ["digits"], SMALL, methods="knn", group=False)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1 + 7 and "7 of 7 outcomes" in captured.err


def test_untrained_networks_are_one_row_whatever_their_images_are_scaled_by(tiny):
    def floor(seed, mean):
        config = make_config({}, [f"run.seed={seed}"])
        about = {"untrained": "small", "input": [mean, [1.0]], "seed": seed}
        return command.Subject(transfer.Source(config, tiny, "untrained"), about, [tiny])

    own = [floor(seed, [seed / 10]) for seed in (0, 1, 2)]  # of seeds that have images of their own
    other = floor(0, [0.9])  # of another data set
    assert command.groups([*own, other], together=True) == [own, [other]]
    assert command.groups(own, together=False) == [[subject] for subject in own]


def test_several_fine_tunings_of_one_run_have_an_interval_of_their_own(tiny, tmp_path):
    file = tmp_path / "table.csv"
    command.run_transfer(["group/tiny-s0"], ["digits"], SMALL, methods="knn,finetune", seeds=2, csv=file)
    rows = {(row["method"], row["backbone"][:4]): row for row in csv.DictReader(file.open())}
    assert rows["finetune", "grou"]["interval_over"] == "2 fine-tunings"
    assert rows["knn", "grou"]["interval_over"] == "360 test images"
    kept = [json.loads(path.read_text()) for path in sorted((tiny / "transfer").glob("digits-finetune-[!u]*"))]
    assert sorted(data["identity"]["method"]["seed"] for data in kept) == [0, 1]
    mean = np.mean([data["outcome"]["accuracy"] for data in kept])
    assert float(rows["finetune", "grou"]["accuracy"]) == pytest.approx(mean, abs=1e-3)


@given(st.integers(0, 200), st.integers(0, 200))
def test_wilson_interval_is_that_of_scipy(hits, misses):
    from scipy.stats import binomtest

    count = hits + misses
    if not count:
        return
    low, high = command.wilson_interval(100 * hits / count, count)
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert low == pytest.approx(100 * expected.low, abs=1e-4) and high == pytest.approx(100 * expected.high, abs=1e-4)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=9))
def test_t_interval_is_that_of_scipy(values):
    from scipy import stats

    low, high = command.within_percent(command.t_interval(values))
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    assert low == pytest.approx(max(0, np.mean(values) - half), abs=1e-6)
    assert high == pytest.approx(min(100, np.mean(values) + half), abs=1e-6)


def picture_tree(root, classes=("a", "b", "c"), per_class=8):
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for index, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for number in range(per_class):
                pixels = rng.integers(0, 60, (20, 24, 3)) + 60 * index
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{number}.png")
    return root


@pytest.mark.parametrize("limit", [None, 0])
def test_folders_of_pictures_beside_named_sets(tiny, tmp_path, capsys, monkeypatch, limit):
    if limit is not None:  # as a set larger than memory
        monkeypatch.setattr("training.data.folder.MEMORY_LIMIT", limit)
    root = picture_tree(tmp_path / "pictures")
    overrides = ["data.subset=8", "run.threads=1", "train.epochs=1", "train.batch_size=8"]
    command.run_transfer(["group/tiny-s0"], [f"folder:{root}", "digits"], overrides, methods="knn,finetune")
    lines = capsys.readouterr().out.splitlines()
    assert (
        sum(f"folder:{root}" in line for line in lines) == 4 and sum(line.startswith("digits") for line in lines) == 4
    )
    assert float(lines[1].split("%")[0].split()[-1]) > 60


def test_the_weights_are_the_average_where_the_run_was_tested_with_one(out):
    from training.checkpoint import load_checkpoint
    from training.config import load_config
    from training.train import train

    folder = out / "averaged-s0"
    train(load_config("digits", [*TINY, "mix.name=plain", "train.epochs=1", "train.ema=0.9"]), folder)
    run = find_run("averaged-s0")
    assert command.chosen_weights(run, None) == "ema" and command.chosen_weights(run, "model") == "model"
    saved, first = load_checkpoint(folder / "checkpoint", "latest").tensors, {}
    for weights in ("model", "ema"):
        source = transfer.Source(recorded_config(run), folder, weights)
        state = transfer.open_source(source, make_config({}), CPU).model.state_dict()
        assert all(torch.equal(saved[f"{weights}.{name}"], tensor) for name, tensor in state.items())
        first[weights] = state["image_head.weight"], transfer_results.about_backbone(source, make_config({}), CPU)
    assert not torch.equal(first["model"][0], first["ema"][0]) and first["model"][1] != first["ema"][1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ["none"]}, "no run 'none'"),
        ({"datasets": ["cifar01"]}, "data.name: there is no 'cifar01'; did you mean 'cifar10'?"),
        ({"datasets": ["folder:/nowhere"]}, "looked for /nowhere/train/CLASS"),
        ({"datasets": ["digits", "folder"], "overrides": ["data.root=/nowhere"]}, "looked for /nowhere/train/CLASS"),
        ({"overrides": ["data.subset=1000"]}, "images 0..999 of it were asked for"),
        ({"overrides": ["data.name=digits"]}, "name the data set with --dataset"),
        (
            {"overrides": ["search.batch_size=3"]},
            "transfer has no use for search.batch_size; it takes data.*, train.{batch_size,",
        ),
        ({"overrides": ["train.ema=0.9"]}, "transfer has no use for train.ema"),
        ({"overrides": ["train.epohcs=3"]}, "train.epohcs"),
        ({"overrides": ["run.device=cuda:7"]}, "run.device=cuda:7"),
        ({"methods": "linear,knm"}, "--method: there is no 'knm'; did you mean 'knn'?"),
        ({"seeds": 3}, "--seeds=3 repeats fine-tuning"),
        ({"weights": "emma"}, "--weights: expected model or ema, got 'emma'"),
        ({"weights": "ema"}, "was trained without train.ema"),
        ({"weights": "model", "csv": "/nowhere/table.csv"}, "expected a file in a folder that exists"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(tiny, monkeypatch, change, words):
    from pathlib import Path

    from analysis.run_format import RunFolderError

    monkeypatch.setattr(transfer, "measure", None)
    arguments = {"names": ["group/tiny-s0"], "datasets": ["digits"], "overrides": [], **change}
    if "csv" in arguments:
        arguments["csv"] = Path(arguments["csv"])
    with pytest.raises((UserError, RunFolderError)) as error:
        command.run_transfer(**arguments)
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1
    assert not (tiny / "transfer").exists()


def test_every_checkpoint_is_checked_before_the_first_probe(tiny, monkeypatch):
    monkeypatch.setattr(transfer, "measure", None)
    broken = copied(tiny, "broken-s0")
    index = json.loads((broken / "checkpoint" / "latest.json").read_text())
    file = broken / "checkpoint" / index["files"]["tensors"]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"broken-s0.* is missing or altered"):
        command.run_transfer(["group/tiny-s0", str(broken)], ["digits"], [])
    (broken / "checkpoint" / "latest.json").unlink()
    with pytest.raises(UserError, match="run group/broken-s0 has no checkpoint to transfer"):
        command.run_transfer(["group/tiny-s0", str(broken)], ["digits"], [])


@pytest.mark.parametrize(
    ("training", "test", "words"),
    [
        ([0, 1, 0, 1], [0], "at least 5 training images, got 4"),
        ([0, 1, 0, 1, 2], [], "at least 1 test images, got 0"),
        ([0, 1, 0, 1, 1], [0, 1], "classes without a training image: two"),
        ([0, 1, 0, 1, 1], [0, 2], "classes with test images but no training image: two"),
    ],
)
def test_sets_that_cannot_be_learnt_are_refused(monkeypatch, training, test, words):
    def loaded(_):
        names = ["zero", "one", "two"]
        return tuple(
            ImageSet(
                torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), torch.tensor(labels, dtype=torch.int64), names
            )
            for labels in (training, test)
        )

    monkeypatch.setattr(transfer, "load_data", loaded)
    with pytest.raises(UserError, match=words):
        transfer.open_target("mine", make_config({}).data)


def test_a_stopped_call_goes_on_where_it_was(tiny, capsys, monkeypatch):
    measure = transfer.measure

    def stops_after_one(*arguments):
        yield next(measure(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "measure", stops_after_one)
    with pytest.raises(SystemExit) as leaving:
        command.run_transfer(["group/tiny-s0"], ["digits"], SMALL, methods="knn,linear")
    assert leaving.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(transfer, "measure", measure)
    command.run_transfer(["group/tiny-s0"], ["digits"], SMALL, methods="knn,linear")
    assert "1 of 4 outcomes are of earlier calls" in capsys.readouterr().err
