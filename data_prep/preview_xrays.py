"""Shows radiographs beside a prior CT's own projections, as they would be given to the model.

    python data_prep/preview_xrays.py --prior=ct.nii.gz --xray_pa=pa.dcm --xray_lat=lat.dcm \
        --out=preview.png

Prints what was fitted (`edm3d.data.film_match` states the procedure) and draws, a row a view, the
projection, the film on its scale, and their difference: edges in it are misalignment. With
--config the spacing and geometry are those of that config's section `data`.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import config_flags

from edm3d import command
from edm3d.data.film_match import FilmFit, match_film
from edm3d.data.projection import xray
from edm3d.data.radiograph import read_radiograph
from edm3d.data.target_xray import check_pixel_mm
from edm3d.data.volumes import read_ct, resample, working_grid
from edm3d.data.xray_geometry import Geometry, check_geometry, geometry_of
from edm3d.errors import InputError

PRIOR = flags.DEFINE_string("prior", None, "The prior's CT.", required=True)
XRAY_PA = flags.DEFINE_string("xray_pa", None, "Frontal radiograph.")
XRAY_LAT = flags.DEFINE_string("xray_lat", None, "Lateral radiograph.")
OUT = flags.DEFINE_string("out", None, "The picture to write, .png.", required=True)
PIXEL_MM = flags.DEFINE_float("pixel_mm", None, "Pixel size of films that do not state theirs.")
CONFIG = config_flags.DEFINE_config_file("config", None, "A configuration; its section `data`.")

Row = tuple[str, np.ndarray, np.ndarray, FilmFit]


def prepared() -> tuple[float, Geometry, bool]:
    """Spacing, geometry and anti-aliasing: the config's, else 2 mm in parallel beam."""
    if CONFIG.value is None:
        return 2.0, Geometry(), False
    with command.data_section_errors():
        data, seed = CONFIG.value.data, int(CONFIG.value.seed)
        return float(data.spacing_mm), geometry_of(data, seed), bool(data.antialias)


def rows_of(films: dict[str, str]) -> list[Row]:
    """For each view: its name, the projection, the film matched to it, and the fit."""
    spacing_mm, geometry, antialias = prepared()
    check_geometry(geometry)
    read = {v: read_radiograph(path, v, pixel_mm=PIXEL_MM.value) for v, path in films.items()}
    if not any(film.spacing_mm == (PIXEL_MM.value,) * 2 for film in read.values()):
        for film in read.values():  # a film that states another size may hang beside one without
            check_pixel_mm(film, PIXEL_MM.value, "--pixel_mm")
    ct = read_ct(PRIOR.value)
    hu = resample(ct, working_grid(ct.grid, spacing_mm), antialias=antialias)
    rows = []
    for view, film in read.items():
        drr = xray(hu, view, geometry, spacing_mm=spacing_mm)
        rows.append((view, drr, *match_film(film, drr, geometry, spacing_mm=spacing_mm)))
    return rows


def draw(rows: list[Row], out: Path) -> None:
    """Writes the picture whole or not at all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    height = sum(1 + 4 * min(drr.shape[0] / drr.shape[1], 2) for _, drr, _, _ in rows)
    figure, axes = pyplot.subplots(
        len(rows), 3, figsize=(14, height), squeeze=False, layout="constrained"
    )
    for line, (view, drr, film, fit) in zip(axes, rows, strict=True):
        top = float(np.percentile(drr, 99.5))
        grey: dict[str, Any] = dict(cmap="gray", origin="lower", vmin=0, vmax=top)
        signed: dict[str, Any] = dict(cmap="RdBu_r", origin="lower", vmin=-top / 2, vmax=top / 2)
        up, right = fit.shift_mm
        titles = (
            f"{view}: projection of the prior",
            f"radiograph, moved {up:+.0f} mm up, {right:+.0f} mm right",
            f"radiograph - projection (correlation {fit.correlation:.2f})",
        )
        for axis, image, title, style in zip(
            line, (drr, film, film - drr), titles, (grey, grey, signed), strict=True
        ):
            figure.colorbar(axis.imshow(image, **style), ax=axis, label="line integral")
            axis.set_title(title, fontsize=10)
            axis.set_axis_off()
    draft = out.with_name(f".part-{os.getpid()}-{out.name}")
    try:
        figure.savefig(draft, dpi=100, format="png")
        os.replace(draft, out)
    finally:
        draft.unlink(missing_ok=True)
        pyplot.close(figure)


def main(argv: list[str]) -> None:
    del argv
    films = {v: f.value for v, f in (("pa", XRAY_PA), ("lat", XRAY_LAT)) if f.value}
    if not films:
        raise InputError("--xray_pa and --xray_lat are missing; give one of them or both")
    out = Path(OUT.value)
    if out.suffix.lower() != ".png" or out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out is {out}; give a .png in a folder that exists")
    rows = rows_of(films)
    draw(rows, out)
    for view, _, _, fit in rows:
        source = "its header" if fit.magnification_is_from_header else "the geometry"
        print(
            f"{view}: line integral = {fit.gain:.4g} x value {fit.offset:+.3f}, moved "
            f"{fit.shift_mm[0]:+.0f} mm up and {fit.shift_mm[1]:+.0f} mm right, magnification "
            f"{fit.magnification:.2f} from {source}, covers {fit.covered:.0%}, correlation "
            f"{fit.correlation:.2f}, median difference in the body {fit.median_difference:.2f}"
        )


if __name__ == "__main__":
    command.run(main)
