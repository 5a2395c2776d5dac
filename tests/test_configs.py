"""Every config loads, is locked against typos, and its network is the one it says."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from ml_collections import config_flags  # noqa: F401 - a missing package fails here by name

from edm3d import experiment
from edm3d.data.cases import DatasetInfo, ScalarRanges
from edm3d.diffusion.conv import conv3d_lax
from edm3d.trainer import build_trainer, run_key
from edm3d.training.collectives import collective_bytes
from edm3d.training.mesh import abstract_batch
from edm3d.training.objective import abstract_params
from edm3d.training.state import parameter_count
from tests.configurations import ROOT, load_config

CONFIGS = sorted(p.name for p in (ROOT / "configs").glob("*.py"))


def _info(config) -> DatasetInfo:
    fields = {name: None for name in DatasetInfo.__dataclass_fields__}
    ranges = {k: tuple(v) for k, v in config.data.scalar_ranges.items()}
    return DatasetInfo(
        **fields
        | dict(window_hu=tuple(config.data.window_hu), spacing_mm=config.data.spacing_mm)
        | dict(residual_std=0.1, scalar_ranges=ScalarRanges(**ranges))
    )


def _batch(config):
    b, n = config.train.batch, config.patch
    shapes = {
        **{name: ((b, n, n, n), np.int16) for name in ("prior_hu", "target_hu")},
        **{f"{p}xray_{v}": ((b, n, n), np.float32) for p in ("", "prior_") for v in ("pa", "lat")},
        "ventilation": ((b, 6), np.float32),
        "start": ((b, 3), np.float32),
        "volume_shape": ((b, 3), np.float32),
    }
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_gives_a_network_of_its_patch(name):
    config = load_config(name)
    experiment.check_patch(config.patch, len(config.model.channel_mult))
    objective = experiment.objective_of(config, _info(config))
    batch = _batch(config)
    losses = jax.eval_shape(
        partial(objective.losses, train=True),
        abstract_params(objective),
        batch,
        jax.ShapeDtypeStruct((config.train.batch,), np.float32),
        jax.random.split(jax.random.key(0), config.train.batch),
    )
    assert losses.shape == (config.train.batch,)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_typo_in_a_config_field_is_refused(name):
    config = load_config(name)
    config.lock()
    with pytest.raises(AttributeError, match="steps"):
        config.train.step = 7


def test_ards_is_the_paper_s_run():
    config = load_config("ards.py")
    objective = experiment.objective_of(config, _info(config))
    shapes = abstract_params(objective)
    # science notes: about 42 M parameters, about 12 input channels
    assert parameter_count(shapes) == pytest.approx(42e6, rel=0.02)
    assert 1 + len(objective.conditioning.channel_names) == 13
    assert shapes["conv_in"]["kernel"].shape == (3, 3, 3, 13, 64)
    paper = (config.patch, config.train.batch, config.train.steps, config.optimizer.learning_rate)
    assert paper == (128, 24, 200_000, 5e-4)
    assert (config.data.spacing_mm, config.schedule.steps) == (2.0, 100)
    assert objective.conditioning.residual_scale == pytest.approx(5)


def test_the_optimizer_is_adam_with_the_config_s_numbers():
    """A first step of Adam is rate * g / (|g| + eps), and the rate is ramped."""
    config = load_config("ards.py")
    config.optimizer.eps, config.optimizer.ramp_updates = 3.0, 10
    optimizer, schedule = experiment.optimizer_of(config)
    gradient = np.array([1.0, -5.0], np.float32)
    update, _ = optimizer.update(gradient, optimizer.init(gradient))
    np.testing.assert_allclose(update, -5e-5 * gradient / (np.abs(gradient) + 3), rtol=1e-4)
    assert float(schedule(9)) == pytest.approx(5e-4)
    config.paper_literal = True
    _, literal = experiment.optimizer_of(config)
    assert float(literal(9)) == pytest.approx(5e-4 * 240 / 10e6)


def test_the_residual_can_be_left_unscaled():
    config = load_config("ards.py")
    config.data.residual_scale = "none"
    assert experiment.objective_of(config, _info(config)).conditioning.residual_scale == 1


def test_ards_compiles_for_eight_devices_with_one_reduction_of_its_gradient():
    config = load_config("ards.py")
    objective = experiment.objective_of(config, _info(config))
    model = objective.model.clone(conv3=conv3d_lax)  # as on the accelerators it is meant for
    trainer = build_trainer(config, dataclasses.replace(objective, model=model))
    assert dict(trainer.mesh.shape) == {"data": 8, "space": 1}
    batch = abstract_batch(trainer.mesh, _batch(config))
    lowered = trainer.step.lower(trainer.abstract, batch, run_key(trainer.mesh, 0))
    compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0}).as_text()
    gradient_bytes = 4 * parameter_count(trainer.abstract.params)
    sent = collective_bytes(compiled)
    # Less biases before a norm, whose gradient is 0; beside the gradient only the losses and noise
    # levels of the batch, a number a patch.
    assert sent.pop("all-reduce") == pytest.approx(gradient_bytes, rel=1e-3)
    assert sent.pop("all-gather", 0) <= 2 * 4 * config.train.batch
    assert not sent
