"""`./run demo`: the main job on real digits, with a plain and a random run of the same budget beside it."""

from __future__ import annotations

import sys

from analysis.run_folder import RunFolder, first_to_last
from runs.folders import numbered, shown
from runs.train import call_train, train_in
from training.config import load_config

MIXES = ("plain", "patchmix", "evolved")


def run_demo() -> None:
    root = numbered("demo")
    print("Evomix on scikit-learn's handwritten digits: no mixing, random PatchMix, evolved PatchMix", file=sys.stderr)
    runs = {}
    for mix in MIXES:
        config = load_config("digits", [f"mix.name={mix}"])
        folder = root / mix
        train_in(folder, lambda config=config, folder=folder: call_train(config, folder))
        runs[mix] = RunFolder(folder)
    print(summary(runs))


def summary(runs: dict[str, RunFolder]) -> str:
    """The figures of the three runs, and where everything lies; draws what it names."""
    from analysis.curves import draw_curves
    from analysis.patterns import draw_patterns, export_bank
    from analysis.report import write_report
    from evo.bank import PatternBank

    evolved = runs["evolved"]
    curve = draw_curves([evolved], evolved.figures() / "curves.png")
    bank = PatternBank.load(evolved.bank_file())
    json_file, picture = export_bank(evolved, bank)[0], draw_patterns(evolved, bank)
    report = write_report([evolved])
    first, last = first_to_last(evolved)

    lines = [
        "",
        f"{'mix':<10}{'accuracy':>10}{'median of last 10':>19}{'steps':>7}{'image forwards':>16}{'seconds':>9}",
    ]
    for mix, run in runs.items():
        result = run.result
        assert result is not None
        lines.append(
            f"{mix:<10}{result['last_accuracy']:>8.2f} %{result['median10_accuracy']:>17.2f} %{result['steps']:>7,}"
            f"{result['image_forwards']:>16,}{result['seconds']:>9.1f}"
        )
    result = evolved.result
    assert result is not None
    one_image = 100 / result["test_images"]
    lines += [
        f"on {result['test_images']} test images (one image is {one_image:.2f} points) and one seed: too few to rank the three",
        "",
        f"fitness ({evolved.config['search']['objective']}: mean cell loss, nats): {first:.3f} in the first generation, "
        f"{last:.3f} in the last",
        f"run folder       {shown(evolved.path)}",
        f"fitness curve    {shown(curve)}",
        f"patterns         {shown(picture)}",
        f"patterns (json)  {shown(json_file)}",
        f"report           {shown(report)}",
    ]
    return "\n".join(lines)
