"""The whole job in minutes on two CPU cores: coarse voxels, a small network, the virtual cohort.

    bash launch/quickstart.sh

Derived from `configs/ards.py`; only what differs stands here.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict


def _paper_config() -> ConfigDict:
    path = Path(__file__).with_name("ards.py")
    spec = importlib.util.spec_from_file_location("edm3d_config_ards", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def get_config() -> ConfigDict:
    config = _paper_config()
    config.records = "runs/quickstart/records"
    config.run = "runs/quickstart/run"
    config.patch = 32

    config.data.spacing_mm = 8.0
    config.data.block = 40
    config.data.antialias = True
    config.conditioning.xray_difference = True

    config.model.channels = 16
    config.model.channel_mult = (1, 2, 3)
    config.model.blocks = 1
    config.model.attention_levels = ()
    config.model.dropout = 0.0
    config.model.dtype = "float32"
    config.model.remat = False

    config.optimizer.learning_rate = 2e-3
    config.optimizer.ramp_updates = 50
    config.train.batch = 4
    config.train.steps = 400
    config.train.log_every = 20
    config.train.validate_every = 100
    config.train.checkpoint_every = 200
    config.train.workers = 0

    config.schedule.steps = 12
    config.churn.s_churn = 0.0
    return config
