"""What sets the two kinds of blocks of EDM's reference apart (Karras et al. 2022, appendix F.2)."""

from collections.abc import Callable
from dataclasses import dataclass

from flax.linen import initializers

TINY = 1e-5  # initial scale of DDPM++'s layers that close a residual branch


def scaled_xavier(scale: float = 1.0) -> Callable:
    """Xavier-uniform initialiser times `scale`."""
    return initializers.variance_scaling(scale**2, "fan_avg", "uniform")


def scaled_kaiming(scale: float = 1.0) -> Callable:
    """Uniform initialiser within +-`scale` / sqrt(fan in)."""
    return initializers.variance_scaling(scale**2 / 3, "fan_in", "uniform")


@dataclass(frozen=True)
class Flavour:
    """How blocks take in the noise level, close their branches and start.

    Attributes:
        adaptive: the embedding scales and shifts what the second norm gives; else it is added
            before that norm.
        skip_scale: factor on the sum of a branch and its skip.
        closing: initial scale of the layers that close a branch: a block starts as its skip.
        query: initial scale of attention's queries, keys and values.
        initial: initialiser of kernels, by scale.
        always_project: a skip that is resampled has a 1^3 convolution even at the same width.
        attend_decoder: every decoder block of an attending level attends; else the last.
        head_channels: channels of one attention head; None for one head of all.
        epsilon: of the group norms.
    """

    adaptive: bool = False
    skip_scale: float = 0.5**0.5
    closing: float = TINY
    query: float = 0.2**0.5
    initial: Callable = scaled_xavier
    always_project: bool = True
    attend_decoder: bool = False
    head_channels: int | None = None
    epsilon: float = 1e-6

    def heads(self, channels: int) -> int:
        """Number of attention heads, the nearest below that divides `channels`."""
        most = max(channels // self.head_channels, 1) if self.head_channels else 1
        return next(n for n in range(most, 0, -1) if channels % n == 0)


DDPMPP = Flavour()
ADM = Flavour(
    adaptive=True,
    skip_scale=1.0,
    closing=0.0,
    query=1.0,
    initial=scaled_kaiming,
    always_project=False,
    attend_decoder=True,
    head_channels=64,
    epsilon=1e-5,
)
