"""The registry of mixes, and PatchMix for other people's training loops.

Contract: build(context: MixContext) -> a Mix, as batch.py describes them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.mixes.patchmix import PatchMix as PatchMix

MIXES = {
    "plain": "training.mixes.baselines:build_plain",
    "mixup": "training.mixes.baselines:build_mixup",
    "cutmix": "training.mixes.baselines:build_cutmix",
    "mixup-or-cutmix": "training.mixes.baselines:build_mixup_or_cutmix",
    "patchmix": "training.mixes.drawn:build_random",
    "evolved": "training.mixes.evolved:build",
    "bank": "training.mixes.drawn:build_bank",
    "best-of-k": "training.mixes.best_of:build",
}
WHOLE_IMAGE = frozenset({"plain", "mixup", "cutmix", "mixup-or-cutmix"})  # they train no cells
SCORED = frozenset({"evolved", "best-of-k"})  # the live model scores compositions before it trains on them


def __getattr__(name: str) -> Any:
    # `from training.mixes import PatchMix` imports torch; asking for the names above does not.
    if name == "PatchMix":
        from training.mixes.patchmix import PatchMix

        return PatchMix
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
