"""What a run tells while it trains, and that looking on changes nothing of it."""

import json
import struct
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from edm3d import train as command
from edm3d.data.cases import read_dataset_info
from edm3d.errors import InputError
from edm3d.experiment import objective_of
from edm3d.trainer import build_trainer
from edm3d.training.checkpoint import Checkpoints
from edm3d.training.gauges import peak_flops
from edm3d.training.noise_levels import sigma_bin_names
from edm3d.training.profile import parse_steps
from tests.configurations import tiny_config


def watched_config(widths, records, run):
    config = tiny_config(widths, records, run)
    config.train.sheet_every = 2
    config.train.sheet_patches = 3
    config.train.sheet_steps = 2
    return config


@pytest.fixture(scope="module")
def watched_run(tiny_records, widths, tmp_path_factory):
    """Four updates like those of `tiny_run`, resumed after two, with sheets and a profile."""
    config = watched_config(widths, tiny_records, tmp_path_factory.mktemp("watched") / "run")
    config.train.steps = 2
    command.train(config)
    config.train.steps = 4
    command.train(config, range(2, 4))
    return config


def _rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_weights_are_the_same_with_and_without_sheets_and_a_profile(
    watched_run, tiny_run, tiny_records
):
    objective = objective_of(watched_run, read_dataset_info(tiny_records))
    abstract = build_trainer(watched_run, objective).abstract
    states = []
    for run in (watched_run.run, tiny_run):
        checkpoints = Checkpoints(Path(run) / "checkpoints")
        states.append(jax.device_get(checkpoints.restore(4, abstract)))
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert [r["loss"] for r in _rows(Path(watched_run.run))] == [r["loss"] for r in _rows(tiny_run)]


def test_sheets_are_pictures_in_the_run_folder_and_in_tensorboard(watched_run, tiny_run):
    run = Path(watched_run.run)
    paths = sorted((run / "samples_while_training").iterdir())
    assert [p.name for p in paths] == ["step-00000002.png", "step-00000004.png"]
    first, second = (matplotlib.image.imread(p) for p in paths)
    assert first.shape == second.shape and not np.array_equal(first, second)
    events = [e for path in (run / "tensorboard").iterdir() for e in _events(path)]
    shown = {e.step for e in events for v in e.summary.value if v.HasField("image")}
    assert shown == {2, 4}
    named = {v.tag for e in events for v in e.summary.value if v.HasField("simple_value")}
    assert {"loss", "learning_rate", "input_wait_share", "host_memory_gb"} < named


def _events(path):
    """The events of a TensorBoard file: length, checksum, event, checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_a_profile_is_written_on_request(watched_run, tiny_run):
    run = Path(watched_run.run)
    (trace,) = (run / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 10_000
    assert not (tiny_run / "profile").exists()


@pytest.mark.parametrize("text", ["100", "3:3", "5:2", "a:b", "-1:2", "1:2:3", ""])
def test_a_wrong_profile_flag_is_refused(text):
    with pytest.raises(InputError, match=f"--profile_steps is '{text}'; give FIRST:END"):
        parse_steps(text)


def test_a_profile_of_updates_that_are_not_made_is_refused(watched_run):
    with pytest.raises(InputError, match="is 3:5, this run makes updates 0 to 3"):
        command.train(watched_run, range(3, 5))
    with pytest.raises(InputError, match="is 1:2, this run makes no more updates"):
        command.train(watched_run, range(1, 2))


def test_a_row_tells_what_a_run_is_judged_by(tiny_run):
    rows = _rows(tiny_run)
    row = rows[-1]
    names = "gradient_norm update_norm parameter_norm patches_per_s skipped_steps".split()
    assert all(row[name] >= 0 for name in names)
    assert [r["learning_rate"] for r in rows] == pytest.approx([1e-3, 2e-3, 2e-3, 2e-3])
    assert row["ema_half_life_samples"] == pytest.approx(0.05 * 4 * 8)
    assert all(0 <= r["input_wait_share"] <= 1 for r in rows)
    assert 0.1 < row["host_memory_gb"] < 100
    assert row["model_flop_utilisation"] is None and row["device_memory_gb"] is None  # CPUs
    assert row["damaged_records"] == row["replaced_examples"] == 0
    levels = [row[f"validation_loss_sigma/{n}"] for n in sigma_bin_names() if n != "0-0.05"]
    # eight quantiles of noise levels lie 0, 1, 2, 4 and 1 in the bins
    assert np.average(levels, weights=[1, 2, 4, 1]) == pytest.approx(row["validation_loss"])


def test_utilisation_is_of_the_peak_of_the_device():
    assert peak_flops("NVIDIA A100-SXM4-40GB") == 312e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5p") == 459e12
    assert peak_flops("cpu") is None
    assert peak_flops("cpu", 0.5) == 5e11
