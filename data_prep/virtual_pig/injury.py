"""Where the acid injury sits: fields fixed to the tissue, so turning the pig does not move them.

Injury leans to dorsal, caudal and peribronchial lung and is patchy at 22 and 8 mm. `stabilised`
(24 h) is the same pattern, larger and wetter, with a consolidated core that no pressure opens.
Early injury is unstable: it closes easily, opens at moderate pressure, and so follows position; at
24 h it opens hard. That prone then reinflates less (18.9 to 7.3 % of mass, Xin 2021) is the source
of the stages' thresholds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from .lattice import Lattice, random_field
from .shape import Chest
from .traits import Traits, field_generator


@dataclass(frozen=True)
class Stage:
    """How a stage of the disease differs; pressures in cmH2O."""

    injured: float  # mean injury of the lung at severity 1
    injured_range: tuple[float, float]
    edge: float  # logistic width of the injury's border
    core: float  # share of the lung that is flooded and never opens, at severity 1
    core_range: tuple[float, float]
    oedema: float  # extra tissue per gram of fully injured tissue
    opening: float  # rise of the opening pressure with injury
    opening_spread: float
    closing: float  # rise of the closing pressure with injury
    stiffening: float  # shift of the sigmoid in the whole injured lung


STAGES = {
    "healthy": Stage(0.0, (0, 0), 1.0, 0.0, (0, 0), 0.0, 0.0, 0.0, 0.0, 0.0),
    "early": Stage(
        injured=0.56,
        injured_range=(0.20, 0.76),
        edge=0.35,
        core=0.06,
        core_range=(0.01, 0.12),
        oedema=0.45,
        opening=21.0,
        opening_spread=3.5,
        closing=10.0,
        stiffening=2.0,
    ),
    "stabilised": Stage(
        injured=0.73,
        injured_range=(0.35, 0.88),
        edge=0.38,
        core=0.31,
        core_range=(0.06, 0.45),
        oedema=0.68,
        opening=33.0,
        opening_spread=13.0,
        closing=10.0,
        stiffening=2.0,
    ),
}

# One number a field: adding a field leaves the others as they were.
_COARSE, _PATCHY, _CORE, _OPENING, _ELASTIC_COARSE, _ELASTIC_FINE = range(10, 16)
_TISSUE_COARSE, _TISSUE_FINE, _GRAIN = range(16, 19)


@dataclass(frozen=True)
class InjuryFields:
    """Fields `[z, y, x]` on the 4 mm material grid."""

    injury: dict[str, np.ndarray]  # I in 0..1 by stage
    core: dict[str, np.ndarray]  # flooded share 0..1 by stage
    opening: np.ndarray  # unit field n(X) of opening and closing pressures
    elastic: np.ndarray  # local compliance differs
    tissue: np.ndarray  # healthy tissue density, relative
    grain: np.ndarray  # fine texture of density, relative


def draw_injury(
    chest: Chest, traits: Traits, lattice: Lattice, lung: np.ndarray, *, seed: int, index: int
) -> InjuryFields:
    """The fields of one pig; `lung` `[z, y, x]` bool says where means are taken."""

    def field(which: int, correlation_mm: float) -> np.ndarray:
        return random_field(lattice, correlation_mm, field_generator(seed, index, which))

    patches = 0.75 * field(_COARSE, 22) + 0.55 * field(_PATCHY, 8)
    lean = _lean(chest, lattice, traits.side_bias) + 0.85 * patches
    dorsal = _dorsal(chest, lattice)
    flooded = lean + 0.8 * dorsal + 0.35 * field(_CORE, 6)
    tissue = 0.10 * field(_TISSUE_COARSE, 9) + 0.06 * field(_TISSUE_FINE, 3.2)
    return InjuryFields(
        injury={n: _injury(s, lean, lung, traits.severity) for n, s in STAGES.items()},
        core={n: _core(s, flooded, lung, traits.severity) for n, s in STAGES.items()},
        opening=field(_OPENING, 7),
        elastic=0.8 * field(_ELASTIC_COARSE, 16) + 0.6 * field(_ELASTIC_FINE, 6),
        tissue=np.exp(tissue),
        grain=np.exp(0.07 * field(_GRAIN, 2.2)),
    )


def _dorsal(chest: Chest, lattice: Lattice) -> np.ndarray:
    _, y, _ = lattice.open_mesh()
    return (y - chest.apex_y) / (chest.depth_dorsal - chest.apex_y)


def _lean(chest: Chest, lattice: Lattice, side_bias: float) -> np.ndarray:
    """Preference of the injury: dorsal, caudal, perihilar, and one side."""
    z, y, x = lattice.open_mesh()
    s = chest.scale
    caudal = np.clip((60 * s - z) / (120 * s), -1, 1)
    from_hilum = np.sqrt(
        ((z - 60 * s) / (70 * s)) ** 2
        + (y / (70 * s)) ** 2
        + ((np.abs(x) - 25 * s) / (50 * s)) ** 2
    )
    side = side_bias * np.tanh(x / 10)
    return 1.15 * _dorsal(chest, lattice) + 0.55 * caudal - 0.45 * from_hilum + side


def _injury(stage: Stage, lean: np.ndarray, lung: np.ndarray, severity: float) -> np.ndarray:
    """Logistic in `lean`, with the threshold that gives the stage's mean over the lung."""
    if stage.injured == 0:
        return np.zeros_like(lean)
    mean = float(np.clip(stage.injured * severity, *stage.injured_range))
    inside = lean[lung]

    def excess(threshold: float) -> float:
        return float(expit((inside - threshold) / stage.edge).mean()) - mean

    return expit((lean - brentq(excess, -12.0, 12.0, xtol=1e-4)) / stage.edge)


def _core(stage: Stage, flooded: np.ndarray, lung: np.ndarray, severity: float) -> np.ndarray:
    """The most flooded share of the lung, with a soft border."""
    if stage.core == 0:
        return np.zeros_like(flooded)
    share = float(np.clip(stage.core * severity, *stage.core_range))
    threshold = np.quantile(flooded[lung], 1 - share)
    return np.clip(0.5 + (flooded - threshold) / 0.5, 0, 1)
