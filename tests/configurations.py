"""Configs as the tests use them: the real files, and the quickstart's shrunk to test widths."""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parents[1]


def load_config(name: str) -> ConfigDict:
    path = ROOT / "configs" / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def tiny_config(widths, records: Path, run: Path) -> ConfigDict:
    """A run of a few seconds on eight fake devices."""
    config = load_config("quickstart.py")
    config.records, config.run = str(records), str(run)
    config.patch = widths.patch
    config.data.spacing_mm = 8.0
    config.data.antialias = False
    config.data.block = 160
    for name in ("channels", "channel_mult", "blocks", "attention_levels"):
        config.model[name] = getattr(widths, name)
    config.model.dropout = 0.1
    config.optimizer.ramp_updates = 2
    config.train.batch = 8
    config.train.steps = 4
    config.train.log_every = 1
    config.train.validate_every = 2
    config.train.validation_patches = 8
    config.train.checkpoint_every = 2
    config.train.sheet_every = 0
    config.schedule.steps = 3
    config.schedule.sigma_max = 80.0
    config.schedule.sigma_min = 0.002
    return config
