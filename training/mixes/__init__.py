"""Ways to mix batches, which training/registry.py lists, and PatchMix for other people's training loops."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.mixes.patchmix import PatchMix as PatchMix


def __getattr__(name: str) -> Any:
    # `from training.mixes import PatchMix` imports torch; importing a module beside it need not.
    if name == "PatchMix":
        from training.mixes.patchmix import PatchMix

        return PatchMix
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
