r"""The paper's run: 64 channels, 128^3 patches at 2 mm, batch 24, 200 000 updates.

    python data_prep/build_records.py --manifest=scans.csv --out=data/records \
        --config=configs/ards.py
    python -m edm3d.train --config=configs/ards.py
    python -m edm3d.sample --run=runs/ards --records=data/records --out=runs/ards/samples

Hardware: the paper names 8 NVIDIA A100 of 40 GB and 5 days. Expected numbers: the paper reports a
lung-volume bias of 3 ml [-67, 73] at end-inspiration and 30 ml [-38, 100] at end-expiration.
Not yet run with edm3d. Where the paper is silent or contradicts itself, BUILD_NOTES.md says what
stands here and why; `paper_literal` gives the other reading of the learning-rate ramp.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.records = "data/records"
    config.run = "runs/ards"
    config.warm_start = ""  # "RUN" or "RUN@STEP": start from another run's weights
    config.patch = 128
    config.patch_sizes = ()  # or ((96, 0.5), (128, 0.5)): sides and their shares of the steps
    config.paper_literal = False

    # How scans become records. Windows and scales are stored with the records.
    config.data = ConfigDict()
    config.data.spacing_mm = 2.0
    config.data.window_hu = (-1024.0, 1024.0)
    config.data.block = 160
    config.data.antialias = False
    config.data.residual_scale = "measured"  # "none": sigma_data as it is, the paper's silence
    config.data.mu_water_per_mm = 0.0206
    config.data.xray = "clean"  # "bedside": noise, scatter, unknown gain and offset, pose
    config.data.geometry = "parallel"  # "cone": of a mobile unit, as follows
    config.data.cone = ConfigDict(
        {"source_to_detector_mm": 1400.0, "source_to_isocentre_mm": 1200.0}
        | {"detector_size_mm": (430.0, 430.0), "detector_pitch_mm": 2.0}
    )
    config.data.scalar_ranges = ConfigDict(
        {"peep_cmh2o": (3.0, 15.0), "tidal_volume_ml_kg": (6.0, 12.0)}
    )
    # Of the subjects, where the manifest has no split column: 50 pigs give 38, 2 and 10.
    config.data.split_fractions = ConfigDict({"train": 0.76, "val": 0.04, "test": 0.2})

    config.conditioning = ConfigDict()
    config.conditioning.prior_ventilation = True
    config.conditioning.xray_difference = False

    # Shares of samples that go without, so that one network serves incomplete inputs and guidance.
    config.condition_dropout = ConfigDict(
        {"xrays": 0.0, "ventilation": 0.0, "prior_ventilation": 0.0}
        | {"null": "zero"}  # what stands in a missing channel; or "learned"
    )

    config.model = ConfigDict()
    config.model.flavour = "ddpmpp"  # or blocks as in "adm"
    config.model.channels = 64
    config.model.channel_mult = (1, 2, 2, 2)
    config.model.blocks = 4
    config.model.attention_levels = (3,)  # 16^3 of a 128^3 patch
    config.model.dropout = 0.13
    config.model.dtype = "bfloat16"
    config.model.remat = "blocks"  # or all but their "convolutions", or "none"

    config.edm = ConfigDict({"sigma_data": 0.5, "p_mean": -1.2, "p_std": 1.2})
    config.edm.loss_weight = "edm"  # or "min_snr", or "uniform"
    config.edm.min_snr_gamma = 5.0  # of "min_snr" alone

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 5e-4
    config.optimizer.ramp_updates = 5_000
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8

    config.ema = ConfigDict({"half_life_samples": 500_000, "ramp": 0.05})
    config.ema_lengths = ConfigDict()  # further averages by name, each of these two numbers

    config.train = ConfigDict()
    config.train.batch = 24
    config.train.patches_per_device = 3  # at once; a device with more of the batch takes turns
    config.train.identity_share = 0.0  # of samples whose target becomes their prior
    config.train.steps = 200_000
    config.train.log_every = 100
    config.train.validate_every = 1_000
    config.train.validation_patches = 16
    config.train.checkpoint_every = 1_000
    config.train.keep_checkpoints = 3  # newest; the best and the last good one stay as well
    config.train.keep_every = 0  # updates: one checkpoint of each so many stays for good; 0: none
    config.train.stop_after_skipped = 10
    config.train.workers = 8
    config.train.skip_bad_records = 0  # so many damaged ones are replaced before the run ends
    config.train.peak_tflops = 0.0  # of a device, for its utilisation; 0: by its kind
    config.train.sheet_every = 5_000  # updates between sample sheets; 0: none
    config.train.sheet_patches = 4
    config.train.sheet_steps = 18  # Heun steps, no churn

    config.mesh = ConfigDict({"data": -1, "space": 1, "fsdp": False})

    # 100 Heun steps are 199 denoiser calls, the paper's "200".
    config.schedule = ConfigDict({"steps": 100, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0})
    config.churn = ConfigDict({"s_churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003})
    return config
