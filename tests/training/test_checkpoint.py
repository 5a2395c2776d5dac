"""A run folder's checkpoints: torn ones are passed by, full disks leave the older ones whole."""

import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from edm3d.errors import InputError
from edm3d.training.checkpoint import Checkpoints, abstract_like, read_weights
from edm3d.training.restore import newest_whole, read_ema
from edm3d.training.retention import Saved
from edm3d.training.state import MAIN, TrainState

# What Orbax leaves behind when a read fails; `edm3d.training.quiet` says why it is no matter.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def a_state(step, size=5000):
    weights = np.random.default_rng(step).normal(size=size).astype(np.float32)
    params = {"conv": {"kernel": jnp.asarray(weights)}}
    count, moments = jnp.asarray(step), jax.tree.map(jnp.square, params)
    zero = jnp.asarray(0)
    return TrainState(jnp.asarray(step), params, {MAIN: params}, (count, moments), zero, zero)


def abstract(size=5000):
    state = a_state(0, size)
    return abstract_like(state, jax.tree.map(lambda a: a.sharding, state))


def save_all(folder, steps, **options):
    checkpoints = Checkpoints(folder, **options)
    for step, known in steps.items():
        checkpoints.save(a_state(step), known, wait=True)
    saved = checkpoints.saved()
    checkpoints.close()
    return saved


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three") / "checkpoints"
    save_all(folder, dict.fromkeys((1, 2, 3)), keep=3)
    return folder


@pytest.fixture
def run(three, tmp_path):
    shutil.copytree(three, tmp_path / "checkpoints")
    return tmp_path


def test_a_folder_keeps_newest_best_good_and_one_each_so_many(tmp_path):
    good = {s: Saved(s, 1.0, 1.0, validation_loss=1 / s) for s in range(1, 7)}
    lost = {s: Saved(s, 9.0, 1.0, skipped=2, validation_loss=9.0) for s in range(7, 12)}
    save_all(tmp_path, {**good, **lost}, keep=2, every=4)
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [4, 6, 8, 10, 11]
    again = save_all(tmp_path, {12: Saved(12, 9.0, 1.0, skipped=1)}, keep=2, every=4)
    assert [s.step for s in again] == [4, 6, 8, 11, 12]
    assert again[1] == good[6]


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_the_end(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


TORN = {
    "data cut": lambda c: cut(largest(c)),
    "data zeroed": lambda c: zero_the_end(largest(c)),
    "data missing": lambda c: largest(c).unlink(),
    "manifest empty": lambda c: (c / "training/manifest.ocdbt").write_bytes(b""),
    "weights missing": lambda c: shutil.rmtree(c / "ema"),
    "metadata zeroed": lambda c: zero_the_end(c / "ema/_METADATA"),
    "metrics cut": lambda c: cut(c / "metrics/metrics"),
    "metrics missing": lambda c: shutil.rmtree(c / "metrics"),
}


@pytest.mark.parametrize("tear", TORN)
def test_a_torn_checkpoint_is_moved_aside_and_the_next_older_taken(run, tear, capsys):
    folder = run / "checkpoints"
    TORN[tear](folder / "3")
    left = sorted(p.relative_to(folder / "3") for p in (folder / "3").rglob("*"))
    assert newest_whole(folder, abstract()) == 2
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "3 is torn (" in told and "moved to 3.torn" in told
    assert sorted(p.relative_to(folder / "3.torn") for p in (folder / "3.torn").rglob("*")) == left
    checkpoints = Checkpoints(folder, keep=3)
    restored = checkpoints.restore(2, abstract())
    jax.tree.map(np.testing.assert_array_equal, restored, a_state(2))
    checkpoints.save(a_state(3), wait=True)  # what was torn is made again beside it
    checkpoints.close()
    assert newest_whole(folder, abstract()) == 3


def test_an_older_checkpoint_whose_measurements_are_torn_does_not_shut_the_folder(run):
    cut(run / "checkpoints/1/metrics/metrics")
    assert newest_whole(run / "checkpoints", abstract()) == 3
    checkpoints = Checkpoints(run / "checkpoints")
    assert [s.step for s in checkpoints.saved()] == [2, 3]
    checkpoints.close()


def test_a_run_without_a_whole_checkpoint_never_starts_anew_in_silence(run):
    for step in "123":
        TORN["data cut"](run / "checkpoints" / step)
    for _ in range(2):
        with pytest.raises(InputError, match=r"no whole checkpoint, only 1\.torn, 2\.torn, 3\."):
            newest_whole(run / "checkpoints", abstract())


def test_a_folder_without_checkpoints_is_a_fresh_start(tmp_path):
    assert newest_whole(tmp_path / "checkpoints", abstract()) is None


def test_a_checkpoint_of_another_model_is_refused_and_stays(run):
    with pytest.raises(InputError, match=r"params/conv/kernel is \(5000,\) there and \(7,\) here"):
        newest_whole(run / "checkpoints", abstract(7))
    assert (run / "checkpoints/3").is_dir()


def test_sampling_reads_past_a_torn_checkpoint_and_moves_nothing(run):
    cut(largest(run / "checkpoints/3/ema"))
    step, ema = read_ema(run, abstract().ema[MAIN])
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, ema, a_state(2).ema[MAIN])
    with pytest.raises(InputError, match=r"none of the checkpoints \[3\]"):
        read_ema(run, abstract().ema[MAIN], 3)
    assert (run / "checkpoints/3").is_dir()


def test_weights_are_read_without_knowing_their_optimiser(run):
    weights = read_weights(run / "checkpoints/3")
    np.testing.assert_array_equal(
        weights["params"]["conv"]["kernel"], a_state(3).params["conv"]["kernel"]
    )


FULL = """
import resource, sys
from pathlib import Path
from edm3d.command import bad_input_exits_2
from edm3d.training.checkpoint import Checkpoints
from edm3d.training.disk import told_if_full
from edm3d.training.log import RunLog
from tests.training.test_checkpoint import a_state

run, limit, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with bad_input_exits_2():
    checkpoints, log = Checkpoints(run / "checkpoints", keep=3), RunLog(run, first_step=3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        if what == "checkpoint":
            checkpoints.save(a_state(4))
            checkpoints.save(a_state(5))
        for step in range(1000):
            with told_if_full(f"the measurements of step {step}", run / "checkpoints"):
                log.write(step, {"loss": 1.0})
    finally:
        log.close()
        checkpoints.close()
"""


@pytest.mark.parametrize(
    "what, limit", [("checkpoint", 0), ("checkpoint", 10_000), ("measurements", 2_000)]
)
def test_a_full_disk_is_one_line_and_leaves_the_older_checkpoints_whole(run, what, limit):
    """A limit on the size of files stands for the end of the space."""
    command = [sys.executable, "-c", FULL, str(run), str(limit), what]
    # else the limit would tear entries of the tests' own cache
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    wanted = "the checkpoint of step 4" if what == "checkpoint" else "the measurements of step"
    for part in (
        wanted,
        "File too large",
        "newest whole checkpoint is 3",
        "goes on after update 3",
    ):
        assert part in done.stderr
    assert newest_whole(run / "checkpoints", abstract()) == 3
    checkpoints = Checkpoints(run / "checkpoints", keep=3)
    checkpoints.save(a_state(4), wait=True)  # once there is space again
    checkpoints.close()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["2", "3", "4"]
