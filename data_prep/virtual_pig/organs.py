"""What heart and abdomen weigh on the lung below them, by position.

The abdomen, heavier than the lung, pushes the dependent diaphragm up (Froese & Bryan 1974): supine
it loads dorsal caudal lung, which is where prone reinflates HCl-injured pigs (Xin 2020). Its size
is a choice.
"""

import numpy as np

from .lattice import smooth_step

ABDOMEN_CMH2O = 2.5
ABDOMEN_PRONE_CMH2O = 0.2  # it hangs free


def heart_weight(scale: float, at, prone: bool) -> np.ndarray:
    """Pressure of the heart's weight on the lung below it at points `at`, cmH2O."""
    z, y, x = at
    footprint = np.exp(
        -(((x - 11 * scale) / (30 * scale)) ** 2) - ((z - 40 * scale) / (38 * scale)) ** 2
    )
    if prone:
        return 0.5 * footprint * smooth_step((-50 * scale - y) / (15 * scale))
    return 2.6 * footprint * smooth_step((y + 15 * scale) / (25 * scale))


def abdomen_weight(scale: float, at, prone: bool) -> np.ndarray:
    """Pressure of the abdomen on the lung over the dependent diaphragm at points `at`, cmH2O."""
    z, y, _ = at
    caudal = smooth_step((40 * scale - z) / (110 * scale))
    if prone:
        return ABDOMEN_PRONE_CMH2O * caudal * smooth_step((-10 * scale - y) / (60 * scale))
    return ABDOMEN_CMH2O * caudal * smooth_step((y + 20 * scale) / (70 * scale))


def organ_weight(scale: float, at, prone: bool) -> np.ndarray:
    """What heart and abdomen add to the superimposed pressure at points `at`, cmH2O."""
    return heart_weight(scale, at, prone) + abdomen_weight(scale, at, prone)
