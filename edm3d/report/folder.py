"""The report folder: `report.html`, `metrics.json`, `cases.csv` and `figures/`, all or nothing."""

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edm3d.comparison import CaseResult
from edm3d.errors import InputError
from edm3d.report import page
from edm3d.report.page import Report
from edm3d.report.summary import LUNG_VOLUME

SCHEMA_VERSION = 1


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raises `InputError` where `out` holds something that may not be replaced."""
    if not out.exists():
        return
    is_report = (out / "metrics.json").is_file()
    if not out.is_dir() or (any(out.iterdir()) and not is_report):
        raise InputError(f"--out {out} holds other things than a report; choose another folder")
    if is_report and not overwrite:
        raise InputError(f"--out {out} holds a report; add --overwrite or choose another folder")


def write_report(out: Path, report: Report, provenance: dict[str, Any]) -> Path:
    """Writes the folder beside `out`, puts it in its place; returns the path of report.html."""
    out = out.absolute()  # a name such as '.' has no place beside it
    temporary = out.with_name(f".{out.name}.part-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "figures").mkdir(parents=True)
        for picture in report.pictures:
            (temporary / "figures" / f"{picture.name}.png").write_bytes(picture.png)
        for name, text in _texts(report, provenance).items():
            (temporary / name).write_text(text, encoding="utf-8")
        _replace(temporary, out)
    except OSError as error:
        raise InputError(
            f"--out {out} cannot be written ({error.strerror}); free space or change --out"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out / "report.html"


def _replace(new: Path, out: Path) -> None:
    if out.exists():
        old = out.with_name(f".{out.name}.old-{os.getpid()}")
        os.replace(out, old)
        os.replace(new, out)
        shutil.rmtree(old)
    else:
        os.replace(new, out)


def _texts(report: Report, provenance: dict[str, Any]) -> dict[str, str]:
    metrics = {
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance,
        "remarks": report.remarks,
        "groups": [asdict(group) for group in report.groups],
    }
    return {
        "metrics.json": json.dumps(_finite(metrics), indent=2, allow_nan=False) + "\n",
        "cases.csv": cases_csv(report.results, lung_volume=LUNG_VOLUME in report.quantities),
        "report.html": page.render(report),
    }


def _finite(value: Any) -> Any:
    """The value with NaN and infinity as None: JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cases_csv(results: Sequence[CaseResult], *, lung_volume: bool) -> str:
    """One row a case: ids, settings, every measure of the three CTs and the voxel errors."""
    rows = [_flat(asdict(r)) for r in results]
    if not lung_volume:
        rows = [{k: v for k, v in row.items() if not k.endswith(LUNG_VOLUME.key)} for row in rows]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = " ".join(value) if isinstance(value, tuple) else value
    return flat
