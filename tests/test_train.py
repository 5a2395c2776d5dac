"""A run: it writes what it should, goes on where it stopped, bit for bit, and refuses bad input."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from edm3d import experiment, run_folder
from edm3d import train as command
from edm3d.errors import InputError
from edm3d.training.checkpoint import Checkpoints
from edm3d.training.feed import Feed
from edm3d.training.lock import held_alone
from edm3d.training.restore import read_ema
from edm3d.training.stop import stop_on_signal
from edm3d.warm_start import warm_started
from tests.configurations import ROOT, tiny_config


def _abstract(config):
    """Shapes and shardings of the config's state."""
    info = command.read_dataset_info(config.records)
    objective = experiment.objective_of(config, info)
    return command.build_trainer(config, objective).abstract


def _final_state(config, steps):
    """The checkpoint after `steps` updates as arrays."""
    checkpoints = Checkpoints(Path(config.run) / "checkpoints")
    state = checkpoints.restore(steps, _abstract(config))
    checkpoints.close()
    return jax.device_get(state)


def test_a_run_folder_holds_what_sampling_needs(tiny_run, tiny_records):
    assert json.loads((tiny_run / "config.json").read_text())["patch"] == 8
    assert command.read_dataset_info(tiny_run) == command.read_dataset_info(tiny_records)
    assert sorted(p.name for p in (tiny_run / "checkpoints").iterdir()) == ["2", "4"]
    assert list((tiny_run / "tensorboard").iterdir())
    rows = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(row["loss"]) and row["patches_per_s"] > 0 for row in rows)
    assert ["validation_loss" in row for row in rows] == [False, True, False, True]


@pytest.mark.parametrize("stop", [1, 3])  # before the first checkpoint, between two
def test_resume_is_bit_exact(tiny_run, tiny_records, widths, tmp_path, monkeypatch, stop):
    """A SIGTERM after `stop` updates, then the same command again."""
    config = tiny_config(widths, tiny_records, tmp_path / "run")
    line = command.progress_line

    def killing_line(step, *rest):
        if step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return line(step, *rest)

    monkeypatch.setattr(command, "progress_line", killing_line)
    command.train(config)
    rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert len(rows) == stop
    monkeypatch.setattr(command, "progress_line", line)
    command.train(config)

    interrupted = _final_state(config, 4)
    undisturbed = _final_state(tiny_config(widths, tiny_records, tiny_run), 4)
    jax.tree.map(np.testing.assert_array_equal, interrupted, undisturbed)
    rows = [json.loads(r) for r in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    whole = [json.loads(r) for r in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert [r["loss"] for r in rows] == [r["loss"] for r in whole]


def test_a_run_that_dies_goes_on_from_its_newest_checkpoint(
    tiny_run, tiny_records, widths, tmp_path, monkeypatch
):
    """It dies after update 3, with a save at 2 and a torn last row of measurements."""
    config = tiny_config(widths, tiny_records, tmp_path / "run")
    line = command.progress_line

    def dying_line(step, *rest):
        if step == 3:
            raise RuntimeError("power cut")
        return line(step, *rest)

    monkeypatch.setattr(command, "progress_line", dying_line)
    with pytest.raises(RuntimeError, match="power cut"):
        command.train(config)
    path = tmp_path / "run/metrics.jsonl"
    assert len(path.read_text().splitlines()) == 3
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    monkeypatch.setattr(command, "progress_line", line)
    command.train(config)

    died = _final_state(config, 4)
    undisturbed = _final_state(tiny_config(widths, tiny_records, tiny_run), 4)
    jax.tree.map(np.testing.assert_array_equal, died, undisturbed)
    rows = [json.loads(r) for r in path.read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3, 4]


KILLED = """
import os
from edm3d import train as command
from tests.conftest import Widths
from tests.configurations import tiny_config
from pathlib import Path

def dying_line(step, *rest):
    if step == 3:
        os._exit(9)  # as by SIGKILL: nothing is closed, nothing waited for
    return ""

command.progress_line = dying_line
command.train(tiny_config(Widths(), Path({records!r}), Path({run!r})))
"""


def test_a_killed_process_leaves_a_run_that_ends_with_the_same_weights(
    tiny_run, tiny_records, widths, tmp_path
):
    run = tmp_path / "run"
    code = KILLED.format(records=str(tiny_records), run=str(run))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 9, done.stderr.decode()
    command.train(tiny_config(widths, tiny_records, run))
    killed = _final_state(tiny_config(widths, tiny_records, run), 4)
    undisturbed = _final_state(tiny_config(widths, tiny_records, tiny_run), 4)
    jax.tree.map(np.testing.assert_array_equal, killed, undisturbed)


def test_a_run_folder_in_use_is_refused_and_left_alone(tiny_records, widths, tmp_path):
    run = tmp_path / "run"
    unfinished = run / "checkpoints/2.orbax-checkpoint-tmp"
    with held_alone(run):
        unfinished.mkdir(parents=True)  # what the other process is writing
        with pytest.raises(InputError, match=r"in use by another edm3d\.train"):
            command.train(tiny_config(widths, tiny_records, run))
    assert unfinished.is_dir() and not (run / "config.json").exists()
    with held_alone(run):  # free again
        pass


def test_a_stop_before_the_first_update_leaves_the_folder_free(
    tiny_records, widths, tmp_path, monkeypatch
):
    def stop_first(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(command, "_announce", stop_first)
    command.train(tiny_config(widths, tiny_records, tmp_path / "run"))
    assert not list((tmp_path / "run/checkpoints").iterdir())


@pytest.fixture
def interruptible():
    """Python's own answer to SIGINT, which a shell's background jobs are started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_ends_the_process():
    with pytest.raises(KeyboardInterrupt), stop_on_signal() as stop:
        assert not stop.asked()
        signal.raise_signal(signal.SIGINT)  # to this thread, which is then sure to have run it
        assert stop.asked()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


DEAF = """
import ctypes
from edm3d.training.stop import stop_on_signal

with stop_on_signal() as stop, stop.at_once("nothing is lost"):
    print("started", flush=True)
    for _ in range(60):
        ctypes.CDLL(None).sleep(60)  # as a compiler: no Python instruction for minutes
"""


def test_a_signal_while_python_cannot_hear_ends_a_run_that_has_nothing_to_save():
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stdout.readline() == "started\n"
        run.send_signal(signal.SIGTERM)
        assert run.stdout.read() == "nothing is lost\n"
    assert run.returncode == 0


def test_batches_are_brought_in_order_and_a_stop_is_heard_while_data_stalls():
    stalled, asked = threading.Event(), threading.Event()

    def batches():
        yield from range(3)
        stalled.set()
        threading.Event().wait()

    feed = Feed(batches(), lambda n: n * 10)
    assert [feed.take() for _ in range(3)] == [0, 10, 20]
    assert stalled.wait(10)
    threading.Timer(0.3, asked.set).start()
    assert feed.take(asked.is_set) is None
    assert feed.waited_s > 0.2
    feed.close()


def test_what_reading_raises_is_raised_where_the_batch_is_wanted():
    def batches():
        yield 1
        raise InputError("record 7 is damaged")

    feed = Feed(batches(), lambda n: n)
    assert feed.take() == 1
    with pytest.raises(InputError, match="record 7"):
        feed.take()
    feed.close()


def test_a_run_that_has_more_updates_than_asked_is_finished(tiny_run, tiny_records, widths, capsys):
    config = tiny_config(widths, tiny_records, tiny_run)
    config.train.steps = 3
    config.warm_start = "runs/nowhere"
    command.train(config)
    told = capsys.readouterr().out
    assert "finished after 4 updates" in told
    assert "after 4 updates; warm_start=runs/nowhere is ignored" in told


def test_a_stop_during_validation_saves_and_skips_the_rest_of_it(
    tiny_run, tiny_records, widths, tmp_path, monkeypatch
):
    score = command.Validator.losses
    scored = []

    def stopped(validator, params, stop_asked):
        os.kill(os.getpid(), signal.SIGINT)
        scored.append(score(validator, params, stop_asked))
        return scored[-1]

    monkeypatch.setattr(command.Validator, "losses", stopped)
    config = tiny_config(widths, tiny_records, tmp_path / "run")
    command.train(config)
    assert scored == [None]
    stopped_state = _final_state(config, 2)
    undisturbed = _final_state(tiny_config(widths, tiny_records, tiny_run), 2)
    jax.tree.map(np.testing.assert_array_equal, stopped_state, undisturbed)


def test_a_checkpoint_keeps_what_retention_asks_for(tiny_run):
    checkpoints = Checkpoints(tiny_run / "checkpoints")
    rows = [json.loads(row) for row in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    for saved, (before, at) in zip(checkpoints.saved(), (rows[:2], rows[2:]), strict=True):
        assert saved.loss == pytest.approx((before["loss"] + at["loss"]) / 2)
        assert saved.validation_loss == at["validation_loss"]
        assert saved.skipped == 0 and saved.lowest_loss <= saved.loss
    checkpoints.close()


def test_a_warm_start_takes_the_weights_and_nothing_else(tiny_run, tiny_records, widths, tmp_path):
    config = tiny_config(widths, tiny_records, tmp_path / "run")
    config.warm_start = f"{tiny_run}@2"
    info = command.read_dataset_info(tiny_records)
    trainer = command.build_trainer(config, experiment.objective_of(config, info))
    state = command._start(trainer, None, None, config)
    source = _final_state(tiny_config(widths, tiny_records, tiny_run), 2)
    for name in ("params", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(source, name))
    fresh = trainer.init(jax.random.key(config.seed))
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh.opt_state)
    assert int(state.step) == 0
    kernel = state.params["conv_in"]["kernel"]
    assert kernel.sharding == trainer.abstract.params["conv_in"]["kernel"].sharding


def test_a_warm_start_from_another_network_names_parameters_and_fields(
    tiny_run, tiny_records, widths, tmp_path
):
    config = tiny_config(widths, tiny_records, tmp_path / "run")
    config.model.channels = 8
    fresh = _abstract(config)

    def refused(source, match):
        with pytest.raises(InputError, match=match) as caught:
            warm_started(fresh, source, config.to_dict())
        assert "\n" not in str(caught.value)

    refused(str(tiny_run), r"conv_in/bias is \(4,\) there and \(8,\) here, .* and \d+ more")
    refused(str(tiny_run), r"differ in model\.channels \(4 there, 8 here\); make them agree")
    refused(f"{tiny_run}@3", r"checkpoint step 3 is not in .*; choose one of \[2, 4\]")
    refused(f"{tiny_run}@last", "warm_start is .*; give RUN or RUN@STEP")
    refused(str(tmp_path / "nowhere"), "is no run folder")


def test_sampling_reads_the_averaged_weights(tiny_run, tiny_records, widths):
    config = tiny_config(widths, tiny_records, tiny_run)
    state = _final_state(config, 4)
    step, ema = read_ema(tiny_run, _abstract(config).ema["main"])
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ema), state.ema["main"])
    kernels = [p["conv_in"]["kernel"] for p in (ema, state.params)]
    assert np.abs(np.subtract(*kernels)).max() > 0


def test_a_run_that_lost_its_way_stops_with_its_checkpoint_unharmed(tiny_records, widths, tmp_path):
    config = tiny_config(widths, tiny_records, tmp_path / "run")
    config.optimizer.learning_rate = float("nan")
    config.train.steps = 20
    config.train.checkpoint_every = 1
    config.train.stop_after_skipped = 3
    with pytest.raises(InputError, match="not finite in 3 steps in a row up to step 3") as caught:
        command.train(config)
    assert "every loss was finite, but the gradient or the update was not" in str(caught.value)
    assert "no checkpoint is good" in str(caught.value)
    state = _final_state(config, 2)  # the last one saved before the third step was counted
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.ema))
    rows = [json.loads(r) for r in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["skipped_steps"] for row in rows] == [1, 2]


def test_a_run_that_failed_before_its_first_checkpoint_does_not_lock_its_folder(
    tiny_records, widths, tmp_path
):
    run = tmp_path / "run"
    config, other = (tiny_config(widths, tiny_records, run) for _ in range(2))
    other.seed = 5
    for each in (other, config):
        run_folder.prepare(run, each.to_dict(), tiny_records, _abstract(config))[0].close()
    assert json.loads((run / "config.json").read_text())["seed"] == config.seed


def _refused(config, match):
    with pytest.raises(InputError, match=match) as caught:
        command.train(config)
    assert "\n" not in str(caught.value)
    assert not Path(config.run).exists()


def test_bad_configs_are_refused_before_anything_is_written(tiny_records, widths, tmp_path):
    def config():
        return tiny_config(widths, tiny_records, tmp_path / "refused")

    odd = config()
    odd.patch = 9
    _refused(odd, r"patch 9 is not divisible by 2 \(= 2\*\*\(levels - 1\)\); use 8 or 10")
    coarse = config()
    coarse.data.spacing_mm = 4.0
    _refused(coarse, r"records were built with data.spacing_mm=8\.0, the config says 4\.0")
    smooth = config()
    smooth.data.antialias = True
    _refused(smooth, "data.antialias=False, the config says True")
    unscaled = config()
    unscaled.data.residual_scale = "measurd"
    _refused(unscaled, "data.residual_scale is 'measurd'; use")
    uneven = config()
    uneven.train.batch = 12
    _refused(uneven, "not divisible by the 8 devices")
    numbers = config()
    numbers.seed, numbers.train.log_every, numbers.train.keep_every = -1, 0, -1
    with pytest.raises(InputError, match="seed is -1; give 0 or more") as caught:
        command.train(numbers)
    assert "train.log_every is 0; give a whole number of at least 1" in str(caught.value)
    assert "train.keep_every is -1; give a whole number, 0 for none" in str(caught.value)
    unknown = config()
    unknown.model.dtype = "float17"
    _refused(unknown, "model.dtype is 'float17'; use one of float32")
    unseen = config()
    unseen.train.log_every = 3
    _refused(unseen, "train.validate_every is 2, no multiple of train.log_every 3")
    nowhere = config()
    nowhere.records = str(tmp_path / "nowhere")
    _refused(nowhere, "does not exist")


def test_a_patch_above_the_block_of_cut_volumes_is_refused(tiny_records, widths, tmp_path):
    records = tmp_path / "records"
    records.mkdir()
    info = json.loads((tiny_records / "dataset.json").read_text())
    info["largest_volume_zyx"]["train"] = [300, 200, 200]
    (records / "dataset.json").write_text(json.dumps(info))
    config = tiny_config(widths, records, tmp_path / "refused")
    config.patch = 162
    _refused(config, "patch 162 is larger than the records' block 160")


def test_records_of_another_schema_are_refused(tiny_records, widths, tmp_path):
    records = tmp_path / "records"
    records.mkdir()
    info = json.loads((tiny_records / "dataset.json").read_text())
    (records / "dataset.json").write_text(json.dumps({**info, "schema_version": 99}))
    _refused(tiny_config(widths, records, tmp_path / "refused"), "schema of .* is 99")


def test_a_run_folder_of_another_config_is_refused(tiny_run, tiny_records, widths):
    config = tiny_config(widths, tiny_records, tiny_run)
    config.model.channels = 8
    before = (tiny_run / "config.json").read_bytes()
    with pytest.raises(InputError, match="was trained with model"):
        command.train(config)
    assert (tiny_run / "config.json").read_bytes() == before
