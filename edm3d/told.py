"""What a sample's network is told of its conditions, and how far it is guided by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edm3d.diffusion.absence import GROUPS
from edm3d.diffusion.conditioning import Conditioning
from edm3d.errors import InputError


@dataclass(frozen=True)
class Told:
    """Groups of conditions that a sample goes without, and the strength of its guidance.

    `guidance` 1 is the network as it is; above it, what the conditions change counts for more.
    """

    without: tuple[str, ...] = ()
    guidance: float = 1.0

    def given(self, rows: int) -> np.ndarray:
        """`[rows, g]` bool: what is there, in the order of `GROUPS`."""
        return np.tile([group not in self.without for group in GROUPS], (rows, 1))

    def record(self) -> dict[str, Any]:
        """What case.json says of it."""
        return {"without": sorted(self.without), "guidance": self.guidance}


def told_of(conditioning: Conditioning, without: Sequence[str], guidance: float) -> Told:
    """What is asked for, for a network of this conditioning.

    Raises:
        InputError: a group is unknown, or one that the network was not trained to do without.
    """
    for group in without:
        if group not in GROUPS:
            raise InputError(f"--without is {group}; choose of {', '.join(GROUPS)}")
        if group not in conditioning.droppable:
            raise InputError(
                f"--without is {group}, but the network was trained to do without "
                f"{', '.join(conditioning.droppable) or 'nothing'}; train one with "
                f"condition_dropout.{group} above 0"
            )
    if guidance < 0:
        raise InputError(f"--guidance is {guidance:g}; give 0 or more, 1 for none")
    if guidance != 1 and not set(conditioning.droppable) - set(without):
        raise InputError(
            f"--guidance is {guidance:g}, but there is nothing that the network is told and can do "
            f"without; train it with condition_dropout above 0, or use --guidance=1"
        )
    return Told(tuple(without), float(guidance))
