"""The check as one HTML file that opens from disk: findings, then every scan in pictures.

Everything that comes from data is escaped; pictures are inlined. No script, no outside file.
"""

import base64
from collections.abc import Sequence
from html import escape

from data_prep.dataset_check import films
from data_prep.dataset_check.films import FilmSeen
from data_prep.dataset_check.judge import FATAL, Finding, scan_name
from data_prep.dataset_check.measure import Measurement, Seen
from edm3d.report.style import CSS

MORE_CSS = """
.scan { border-top: 1px solid var(--line); padding: 0.6rem 0; }
.scan img { max-width: 100%; background: #000000; }
.level { font-weight: 700; }
.fatal { color: light-dark(#b3261e, #ff8a80); }
.warning { color: light-dark(#8a5a00, #ffc46b); }
"""
READING = (
    "Each strip: axial and coronal cut through the middle of the lungs, sagittal cut through the "
    "right lung (window -1000 to 400 HU), then the X-rays computed from the scan, posterior-"
    "anterior and lateral. The subject's right is on the left of the pictures, anterior on top or "
    "on the left. Volumes are of the classical lung mask. Below, where a scan has films: the "
    "projection, and the film as it was matched to it."
)


def facts(m: Measurement) -> str:
    """One line of numbers of a scan."""
    shape = " x ".join(str(n) for n in m.shape_zyx)
    spacing = " x ".join(f"{s:.3g}" for s in m.spacing_zyx_mm)
    air = "no air seen outside" if m.air_hu is None else f"air {m.air_hu:.0f} HU"
    tissue = "no soft tissue" if m.tissue_hu is None else f"soft tissue {m.tissue_hu:.0f} HU"
    return (
        f"{shape} voxels of {spacing} mm (z y x); {air}, {tissue}, padding {m.padding_share:.0%}; "
        f"lungs {m.right_ml:.0f} ml right, {m.left_ml:.0f} ml left, gas {m.gas_ml:.0f} ml, "
        f"tissue {m.tissue_g:.0f} g"
    )


def render(seen: Sequence[Seen], findings: Sequence[Finding], summary: Sequence[str]) -> str:
    """The whole page as HTML text."""
    by_row: dict[int, list[Finding]] = {}
    for finding in findings:
        for row in finding.rows:
            by_row.setdefault(row, []).append(finding)
    body = [
        "<h1>Check of a data set</h1>",
        *(f'<p class="verdict">{escape(line)}</p>' for line in summary[:1]),
        *(f"<p>{escape(line)}</p>" for line in summary[1:]),
        "<h2>Findings</h2>",
        _finding_table(findings) if findings else "<p>None.</p>",
        "<h2>Scans</h2>",
        f'<p class="note">{escape(READING)}</p>',
        *(_scan(one, by_row.get(one.scan.row, [])) for one in seen),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>edm3d data set check</title><style>{CSS}{MORE_CSS}</style></head><body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _level(level: str) -> str:
    kind = "fatal" if level == FATAL else "warning"
    return f'<span class="level {kind}">{escape(level)}</span>'


def _finding_table(findings: Sequence[Finding]) -> str:
    lines = []
    for f in findings:
        rows = ", ".join(f'<a href="#row{row}">{row}</a>' for row in f.rows)
        cells = (_level(f.level), escape(f.kind), rows, escape(f.where), escape(f.message))
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("Level", "Kind", "Rows", "Where", "What")
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'
        "</table></div>"
    )


def _scan(seen: Seen, findings: Sequence[Finding]) -> str:
    scan = seen.scan
    title = (
        f"{scan_name(scan)}: {scan.stage}, {scan.position}, {scan.ventilation.phase}, "
        f"PEEP {scan.ventilation.peep_cmh2o:g} (row {scan.row})"
    )
    picture = _image(seen.picture, scan_name(scan))
    told = f'<p class="note">{escape(facts(seen.measured))}</p>' if seen.measured else ""
    told += "".join(_film(film) for film in seen.films)
    faults = "".join(
        f"<p>{_level(f.level)} {escape(f.kind)}: {escape(f.message)}</p>" for f in findings
    )
    return (
        f'<section class="scan" id="row{scan.row}"><h3>{escape(title)}</h3>{picture}{told}{faults}'
        "</section>"
    )


def _image(jpeg: bytes, name: str) -> str:
    if not jpeg:
        return ""
    data = base64.b64encode(jpeg).decode("ascii")
    return f'<img loading="lazy" src="data:image/jpeg;base64,{data}" alt="{escape(name)}">'


def _film(film: FilmSeen) -> str:
    name = f"Projection of {film.of_ct} and {film.view} film"
    return f'{_image(film.picture, name)}<p class="note">{escape(films.told(film))}</p>'
