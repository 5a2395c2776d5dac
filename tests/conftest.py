"""Eight fake CPU devices, a compilation cache that lasts, and the small sizes that tests share."""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax  # noqa: E402 - after the environment that it reads
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)


@dataclass(frozen=True)
class Widths:
    """The smallest network with every part: two levels, attention, concatenated skips."""

    channels: int = 4
    channel_mult: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention_levels: tuple[int, ...] = (1,)
    patch: int = 8


@pytest.fixture(scope="session")
def widths() -> Widths:
    return Widths()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real CT, named by EDM3D_REAL_DATA."""
    folder = os.environ.get("EDM3D_REAL_DATA")
    if not folder:
        pytest.skip("EDM3D_REAL_DATA is not set: no real CT to test with")
    return Path(folder)
