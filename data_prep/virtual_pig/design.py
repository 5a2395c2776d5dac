"""Which scans are made of which pig, and which pig is in which split.

Every block (one stage and position) starts with PEEP 3, 8 and 13 at one tidal volume and both
phases, so that the paper's two protocols exist for every pig: the opposite phase, and PEEP 3 to 8
and 3 to 13 at the same phase and tidal volume. Other PEEP levels may take their place.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from .traits import generator

PHASES = ("expiration", "inspiration")
BLOCKS = tuple(product(("early", "stabilised"), ("supine", "prone")))
CORE_PEEP = (3, 8, 13)
MORE_PEEP = (5, 10, 15)
TIDAL_VOLUMES = (6, 8, 10, 12)
_DESIGN, _SPLIT, _ROTATION = 4, 5, 6


@dataclass(frozen=True, order=True)
class Setting:
    """One ventilator setting of a pig; both phases of it share one mechanics solution."""

    stage: str
    position: str
    peep_cmh2o: int
    tidal_volume_ml_kg: int

    @property
    def session(self) -> str:
        """Stage and position: what is scanned without moving the pig."""
        return f"{self.stage}-{self.position}"

    @property
    def name(self) -> str:
        return f"{self.session}-peep{self.peep_cmh2o:02d}-vt{self.tidal_volume_ml_kg:02d}"


@dataclass(frozen=True)
class PlannedScan:
    setting: Setting
    phase: str

    @property
    def name(self) -> str:
        return f"{self.setting.name}-{'ei' if self.phase == 'inspiration' else 'ee'}"


def core_scans(core_peep: tuple[int, ...] = CORE_PEEP) -> int:
    """Scans of a block's start, the fewest a pig can have."""
    return len(core_peep) * len(PHASES)


def more_peep(core_peep: tuple[int, ...] = CORE_PEEP) -> tuple[int, ...]:
    """The usual PEEP levels that are not in the core."""
    return tuple(p for p in sorted(CORE_PEEP + MORE_PEEP) if p not in core_peep)


def most_scans(core_peep: tuple[int, ...] = CORE_PEEP) -> int:
    """Scans of a pig at every setting."""
    levels = len(core_peep) + len(more_peep(core_peep))
    return len(BLOCKS) * levels * len(TIDAL_VOLUMES) * len(PHASES)


def plan_scans(
    seed: int, index: int, count: int, core_peep: tuple[int, ...] = CORE_PEEP
) -> list[PlannedScan]:
    """The `count` scans of pig `index` (at least `core_scans`), grouped by setting."""
    rng = generator(seed, index, _DESIGN)
    blocks = _blocks(seed, index, min(len(BLOCKS), count // core_scans(core_peep)))
    core: list[PlannedScan] = []
    queues: list[list[PlannedScan]] = []
    for stage, position in blocks:
        volume = int(rng.choice(TIDAL_VOLUMES))
        core += _both_phases([Setting(stage, position, p, volume) for p in core_peep])
        queues.append(_both_phases(_more_settings(stage, position, volume, core_peep, rng)))
    extra = [
        scan for turn in zip(*map(_pairs, queues), strict=True) for pair in turn for scan in pair
    ]
    return _grouped(core + extra[: count - len(core)])


def _blocks(seed: int, index: int, count: int) -> list[tuple[str, str]]:
    """Stage and position blocks; neighbours in a cohort start with different ones.

    The second is the first's opposite in both, so that two show a pig in every stage and position.
    """
    order = generator(seed, 0, _ROTATION).permutation(len(BLOCKS))
    first, *others = (BLOCKS[order[(index + k) % len(BLOCKS)]] for k in range(len(BLOCKS)))
    others.sort(key=lambda block: block[0] == first[0] or block[1] == first[1])
    return [first, *others][:count]


def _more_settings(
    stage: str, position: str, volume: int, core_peep: tuple[int, ...], rng: np.random.Generator
) -> list[Setting]:
    """Every other setting of a block in random order, those of the core's tidal volume first."""
    others = [v for v in TIDAL_VOLUMES if v != volume]
    more = more_peep(core_peep)
    near = [(p, volume) for p in more] + [(p, v) for p in core_peep for v in others]
    far = [(p, v) for p in more for v in others]
    order = [group[i] for group in (near, far) for i in rng.permutation(len(group))]
    return [Setting(stage, position, p, v) for p, v in order]


def _both_phases(settings: list[Setting]) -> list[PlannedScan]:
    return [PlannedScan(s, phase) for s in settings for phase in PHASES]


def _pairs(scans: list[PlannedScan]) -> list[list[PlannedScan]]:
    return [scans[i : i + 2] for i in range(0, len(scans), 2)]


def _grouped(scans: list[PlannedScan]) -> list[PlannedScan]:
    """Sorted by setting, so that a pair's mechanics are solved once."""
    return sorted(scans, key=lambda scan: (scan.setting, scan.phase))


def split_of_pigs(seed: int, pigs: int, val_share: float = 0.1) -> list[str]:
    """Split of every pig: a fifth test, `val_share` validation, at least one pig each."""
    test, val = max(1, round(0.2 * pigs)), max(1, round(val_share * pigs))
    order = generator(seed, 0, _SPLIT).permutation(pigs)
    split = ["train"] * pigs
    for rank, index in enumerate(order):
        split[index] = "test" if rank < test else "val" if rank < test + val else "train"
    return split


def scans_of_pigs(split: list[str], mean: float, test_mean: float) -> list[int]:
    """Number of scans of every pig; `mean` over training and validation pigs, `test_mean` over test
    pigs, so that 40 pigs with a mean of 17.525 have 701."""
    counts, seen = [], {True: 0, False: 0}
    for name in split:
        test = name == "test"
        each, before = (test_mean if test else mean), seen[test]
        counts.append(math.floor(each * (before + 1) + 1e-9) - math.floor(each * before + 1e-9))
        seen[test] += 1
    return counts
