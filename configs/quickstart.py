"""The whole job in minutes on two CPU cores: coarse voxels, a small network, the virtual cohort.

    bash launch/quickstart.sh

Hardware: two CPU cores and under 6 GB; README.md says how long and what came out.
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
    config.patch = 24

    # Half the lung's detail is gone at 10 mm; its volume and aeration are not.
    config.data.spacing_mm = 10.0
    config.data.block = 40
    config.data.antialias = True
    config.conditioning.xray_difference = True

    # Full-resolution channels are what a CPU pays for: few there, more at the coarsest level.
    config.model.channels = 16
    config.model.channel_mult = (1, 1, 4)
    config.model.blocks = 1
    config.model.attention_levels = ()
    config.model.dropout = 0.0
    config.model.dtype = "float32"
    config.model.remat = "none"

    # So short a training must first learn where the lung grows: more weight on high noise levels
    # than the paper's p_mean of -1.2. It denoises low levels badly, so the schedule ends at 0.6,
    # from where the last step goes to the denoiser's own output.
    config.edm.p_mean = 0.0
    config.schedule.steps = 4
    config.schedule.sigma_max = 20.0
    config.schedule.sigma_min = 0.6
    config.churn.s_churn = 0.0

    config.optimizer.learning_rate = 2e-3
    config.optimizer.ramp_updates = 50
    config.train.batch = 8
    config.train.patches_per_device = 0  # its whole share
    config.train.steps = 180
    config.train.log_every = 10
    config.train.validate_every = 60
    config.train.checkpoint_every = 60
    config.train.workers = 0
    config.train.sheet_every = 180  # the last update
    return config
