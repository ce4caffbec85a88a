"""What a person reads while a run trains."""

from __future__ import annotations

from typing import Any

from evo.durations import duration
from training.divergence import check_finite
from training.mixes.scoring import probe_chunk
from training.progress import loss_text
from training.run import Run


def memory_hint(run: Run) -> str:
    """What to lower when a step does not fit."""
    options = run.config.train
    hint = f"lower train.batch_size={options.batch_size}, or raise train.accumulate={options.accumulate}"
    if run.config.searches:
        hint += f"; for the search lower search.forward_batch_size={probe_chunk(run.config, run.device)}"
    return hint


def step_line(run: Run, epoch: int) -> str:
    """Where an epoch stands. It waits for the device."""
    run.clock.tick()
    check_finite(run)
    step, means = run.state.step, run.state.sums.means
    left = run.clock.seconds / step * (run.total_steps - step)
    return (
        f"{run.config.mix.name}: epoch {epoch}/{run.config.train.epochs}  step {step}/{run.total_steps}  "
        f"loss {loss_text(means.image_loss)}  training accuracy {means.accuracy:.1f} %  "
        f"{run.images_per_second:,.0f} images/s  {duration(left)} left{_search_share(run.cost())}"
    )


def epoch_line(run: Run, record: dict[str, Any]) -> str:
    """How an epoch ended. record: the log's event."""
    tested = f"  test accuracy {record['accuracy']:.2f} %" if "accuracy" in record else ""
    return (
        f"{run.config.mix.name}: epoch {record['epoch']}/{run.config.train.epochs}  loss {loss_text(record['image_loss'])}  "
        f"training accuracy {record['training_accuracy']:.1f} %{tested}  {run.images_per_second:,.0f} images/s  "
        f"{record['seconds']:.1f} s{_search_share(record)}"
    )


def _search_share(cost: dict[str, Any]) -> str:
    share = 100 * cost["search_seconds"] / max(cost["seconds"], 1e-9)
    return f"  search {share:.0f} % of the time" if cost["search_seconds"] else ""
