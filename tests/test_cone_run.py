"""From cone-beam bedside records to a sample: the same commands, and the same on any devices."""

import json
from pathlib import Path

import numpy as np
import pytest

from edm3d.data.manifest import read_manifest
from edm3d.data.records import write_records
from edm3d.data.xray_geometry import Bedside, Cone
from edm3d.errors import InputError
from edm3d.sample import Request, sample
from edm3d.train import train
from tests.configurations import tiny_config
from tests.data.phantoms import settings, write_cohort

CONE = Cone(1400.0, 1200.0, (150.0, 150.0), 10.0)  # 15 rows: not even over `space`
SPLITS = {"pig1": "train", "pig2": "train", "pig3": "val", "pig4": "test"}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cone")
    chosen = settings(spacing_mm=8.0, cone=CONE, bedside=Bedside(seed=0))
    write_records(read_manifest(write_cohort(folder, SPLITS)), folder / "records", chosen, seed=0)
    return folder / "records"


def trained(widths, records, run, space) -> Path:
    config = tiny_config(widths, records, run)
    config.data.geometry, config.data.xray = "cone", "bedside"
    config.data.cone.update(detector_size_mm=CONE.detector_size_mm, detector_pitch_mm=10.0)
    config.mesh.space, config.train.steps = space, 2
    train(config)
    return run


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows for name in ("loss", "validation_loss") if name in row]


def test_a_cone_beam_run_has_the_same_losses_on_any_mesh_and_samples_its_own_geometry_only(
    widths, records, tiny_records, tmp_path
):
    run = trained(widths, records, tmp_path / "run", space=1)
    split = trained(widths, records, tmp_path / "split", space=2)
    # float32 sums in another order
    np.testing.assert_allclose(losses(split), losses(run), rtol=5e-4)
    sample(Request(run=run, out=tmp_path / "samples", limit=1, nfe=3))
    (folder,) = (tmp_path / "samples").iterdir()
    assert (folder / "generated.nii.gz").is_file() and (folder / "case.json").is_file()
    with pytest.raises(InputError, match=r"geometry .*'parallel'.* was trained with .*'cone'"):
        sample(Request(run=run, records=tiny_records, out=tmp_path / "other"))
