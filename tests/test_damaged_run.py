"""A run that meets a damaged record ends with one clear line, or leaves it out and counts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from edm3d import train as command
from tests.configurations import ROOT, tiny_config
from tests.data.damaged import with_changed_record, with_flipped_byte, with_nan_xray

CONFIG = """
from pathlib import Path
from tests.conftest import Widths
from tests.configurations import tiny_config

def get_config():
    return tiny_config(Widths(), Path({records!r}), Path({run!r}))
"""


def test_a_damaged_record_ends_the_command_with_one_line(tiny_records, tmp_path):
    """Read by worker processes, whose shared memory is complained of where it is left behind."""
    records = with_changed_record(tiny_records, tmp_path / "records", with_nan_xray)
    file = tmp_path / "config.py"
    file.write_text(CONFIG.format(records=str(records), run=str(tmp_path / "run")))
    flags = [f"--config={file}", "--config.train.workers=2"]
    done = subprocess.run(
        [sys.executable, "-m", "edm3d.train", *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"error: {min(records.glob('train-*'))}, record 1: record is damaged (xray_pa has values "
        f"that are not finite); build the records again\n"
    )


def test_a_damaged_record_is_left_out_and_counted(tiny_records, widths, tmp_path, capsys):
    records, _ = with_flipped_byte(tiny_records, tmp_path / "records")
    config = tiny_config(widths, records, tmp_path / "run")
    config.train.skip_bad_records = 1
    command.train(config)
    out = capsys.readouterr().out
    assert out.count("left out, another takes its place") == 1
    rows = [json.loads(r) for r in (Path(config.run) / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["damaged_records"] == 1 and rows[-1]["replaced_examples"] >= 2
    assert "1 damaged records" in out
