"""Eight fake CPU devices, a compilation cache that lasts, and the small sizes that tests share."""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests compile much and compute little.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    )
)

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


@pytest.fixture(scope="session")
def tiny_records(tmp_path_factory) -> Path:
    """Records of four subjects of three 4 mm scans, at 8 mm: two train, one val, one test."""
    from edm3d.data.manifest import read_manifest
    from edm3d.data.records import write_records
    from tests.data.phantoms import settings, write_cohort

    folder = tmp_path_factory.mktemp("tiny")
    splits = {"pig1": "train", "pig2": "train", "pig3": "val", "pig4": "test"}
    manifest = write_cohort(folder, splits)
    write_records(read_manifest(manifest), folder / "records", settings(spacing_mm=8.0), seed=0)
    return folder / "records"


@pytest.fixture(scope="session")
def tiny_run(tiny_records, widths, tmp_path_factory) -> Path:
    """A run folder after four updates."""
    from edm3d.train import train
    from tests.configurations import tiny_config

    run = tmp_path_factory.mktemp("run") / "run"
    train(tiny_config(widths, tiny_records, run))
    return run
