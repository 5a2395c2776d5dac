"""Which checkpoints of a run stay; pure functions of their steps and of what was measured.

Four rules, of which one is enough: the newest few, one of every so many updates, the best by
validation loss, and the newest *good* one. `edm3d.training.checkpoint` deletes the others.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

LOST = 2.0  # times the lowest loss, from which on a run counts as diverging


@dataclass(frozen=True)
class Saved:
    """A checkpoint as the rules see it.

    Attributes:
        loss: mean training loss of the finite steps since the checkpoint before; None without.
        lowest_loss: the lowest such mean of the run, this one included.
        skipped: steps left out since the checkpoint before, because they were not finite.
        validation_loss: taken at this very step; None where none was.
    """

    step: int
    loss: float | None = None
    lowest_loss: float | None = None
    skipped: int = 0
    validation_loss: float | None = None

    def metrics(self) -> dict[str, Any]:
        """What is stored beside the weights."""
        return {name: value for name, value in asdict(self).items() if name != "step"}


def is_good(saved: Saved) -> bool:
    """No step skipped since the save before, and a loss near the lowest of the run.

    A run that diverges either skips steps or has a rising loss. The lowest loss is that of the
    whole run, handed on from save to save: against those kept alone, a loss that doubles from
    save to save would always look good beside its predecessor. Noise of a mean over the steps
    between two saves stays far below the factor `LOST`.
    """
    if saved.skipped or saved.loss is None or saved.lowest_loss is None:
        return False
    return saved.loss <= LOST * saved.lowest_loss


def last_good(saved: Sequence[Saved]) -> Saved | None:
    """The newest good checkpoint."""
    return max(filter(is_good, saved), key=lambda s: s.step, default=None)


def best(saved: Sequence[Saved]) -> Saved | None:
    """The checkpoint of the lowest validation loss; of equal ones the newest."""
    scored = [(s.validation_loss, -s.step, s) for s in saved if s.validation_loss is not None]
    return min(scored)[2] if scored else None


def kept(saved: Sequence[Saved], *, newest: int, every: int = 0) -> set[int]:
    """The steps that stay: the `newest`, the first of each `every` updates (0: none), best, good.

    The first save at or after each multiple of `every` stands for it, so that saves need not fall
    on the multiples. Once kept it stays the first: the answer does not change with later saves.
    """
    steps = sorted(s.step for s in saved)
    stay = set(steps[-newest:])
    if every:
        firsts = {step // every: step for step in reversed(steps) if step >= every}
        stay |= set(firsts.values())
    return stay | {s.step for s in (best(saved), last_good(saved)) if s is not None}
