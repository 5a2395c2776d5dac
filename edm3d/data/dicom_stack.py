"""Whether the slices of a DICOM series make one straight, even, complete stack at one time.

Every refusal says what is wrong and where, in millimetres along the slices' normal. Source: DICOM
PS3.3, C.7.6.2 (image plane). Read next: `edm3d.data.dicom`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edm3d.data.dicom_frames import Frame, frames_of
from edm3d.data.dicom_header import Header
from edm3d.data.geometry import check_affine, check_size
from edm3d.errors import InputError

LEAST_SLICES = 8
_SAME_PLACE_MM = 0.01
_UNEVEN = 0.1  # of the step: positions rounded to 0.1 mm stay below it from 0.5 mm steps on
_MOST_TILT_DEGREES = 0.5
_SHOWN = 6


def counted(number: int, thing: str) -> str:
    """`1 slice`, `2 slices`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of their position along the normal, and where they lie."""

    frames: tuple[Frame, ...]
    affine_lps: np.ndarray

    @property
    def shape_xyz(self) -> tuple[int, int, int]:
        rows, columns = self.frames[0].shape
        return columns, rows, len(self.frames)


def _shown(places_mm: Sequence[float]) -> str:
    more = f" and {len(places_mm) - _SHOWN} more" if len(places_mm) > _SHOWN else ""
    return ", ".join(f"{place:.6g}" for place in places_mm[:_SHOWN]) + more


def _check_alike(frames: Sequence[Frame], name: str) -> None:
    """Raises `InputError` for the first slice of another size, place, voxel or posture."""
    first = frames[0]
    posture = next(filter(None, map(_posture, frames)), "")
    for frame in frames[1:]:
        if frame.shape != first.shape:
            what = f"{frame.shape} pixels, others {first.shape}"
        elif not np.allclose(frame.directions, first.directions, atol=2e-3):
            what = "another orientation than the slices before it"
        elif not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=1e-3):
            what = f"pixel spacing {frame.spacing_mm} mm, others {first.spacing_mm} mm"
        elif _place_of(frame) != _place_of(first):
            what = "another frame of reference than the slices before it"
        elif _posture(frame) not in ("", posture):
            what = "another patient position than the slices before it"
        else:
            continue
        raise InputError(f"{frame.name} in {name} has {what}; separate what is not one series")


def _place_of(frame: Frame) -> str | None:
    return frame.header.values.get("frame_of_reference_digest")


def _posture(frame: Frame) -> str:
    return "".join(frame.header.values.get("patient_position") or [])


def _check_phases(frames: Sequence[Frame], name: str) -> None:
    phases = {frame.phase for frame in frames}
    if len(phases) > 1:
        raise InputError(
            f"{name} mixes {len(phases)} phases or times in one series ({len(frames)} slices, the "
            f"first that differs is {_first_other(frames).name}); separate them"
        )


def _first_other(frames: Sequence[Frame]) -> Frame:
    return next(frame for frame in frames if frame.phase != frames[0].phase)


def _check_repeats(frames: Sequence[Frame], places_mm: np.ndarray, name: str) -> None:
    """Raises `InputError` where slices share a place: several phases if all do, else duplicates."""
    same = np.diff(places_mm) < _SAME_PLACE_MM
    if not same.any():
        return
    counts = np.diff(np.flatnonzero([True, *~same, True]))
    if len(counts) > 1 and np.all(counts == counts[0]):
        raise InputError(
            f"{name} holds {counts[0]} slices at each of {len(counts)} places: mixed phases or "
            "copies in one series; separate them"
        )
    twice = np.flatnonzero(same)
    first, second = frames[twice[0]].name, frames[twice[0] + 1].name
    where = _shown(sorted(set(places_mm[twice].tolist())))
    raise InputError(
        f"{name} has duplicate slices at {where} mm along its normal "
        f"({first} and {second}); remove one of each"
    )


def _check_tilt(frames: Sequence[Frame], name: str) -> None:
    """Raises `InputError` where slices step off their normal: a tilted gantry, a sheared volume."""
    steps = frames[-1].position_mm - frames[0].position_mm
    along = float(steps @ frames[0].normal)
    tilt = float(np.degrees(np.arccos(np.clip(along / np.linalg.norm(steps), -1, 1))))
    if tilt > _MOST_TILT_DEGREES:
        raise InputError(
            f"{name} was scanned with a tilted gantry: slices step {tilt:.1f} degrees off their "
            "normal; resample the series to perpendicular axes"
        )


def _check_steps(frames: Sequence[Frame], places_mm: np.ndarray, name: str) -> None:
    """Raises `InputError` for missing, unevenly spaced or sidling slices."""
    gaps = np.diff(places_mm)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    wide = [i for i, gap in enumerate(gaps) if gap > 1.5 * usual]
    if wide:
        missing = sum(max(1, round(gaps[i] / usual) - 1) for i in wide)
        where = ", ".join(f"{places_mm[i]:.6g} and {places_mm[i + 1]:.6g}" for i in wide[:_SHOWN])
        raise InputError(
            f"{name} misses about {counted(missing, 'slice')}, between {where} mm along its normal "
            f"(others are {usual:.6g} mm apart); complete the series"
        )
    step = float((places_mm[-1] - places_mm[0]) / len(gaps))
    even = places_mm[0] + step * np.arange(len(places_mm))
    off = np.abs(places_mm - even)
    if off.max() > _UNEVEN * step:
        at = float(places_mm[off.argmax()])
        raise InputError(
            f"{name} has uneven slice spacing, {gaps.min():.6g} to {gaps.max():.6g} mm, worst at "
            f"{at:.6g} mm along its normal; resample it to one spacing"
        )
    positions = np.array([frame.position_mm for frame in frames])
    line = np.linspace(positions[0], positions[-1], len(frames))
    aside = np.linalg.norm(positions - line, axis=1)
    if aside.max() > max(_UNEVEN * step, min(frames[0].spacing_mm) / 2):
        raise InputError(
            f"{frames[aside.argmax()].name} lies {aside.max():.3g} mm beside the line of the "
            f"other slices of {name}; repair its position"
        )


def stack(headers: Sequence[Header], name: str) -> Stack:
    """The slices of a series as a stack; raises `InputError` with what is wrong and where."""
    frames = [frame for header in headers for frame in frames_of(header)]
    _check_alike(frames, name)
    _check_phases(frames, name)
    places_mm = np.array([float(f.position_mm @ frames[0].normal) for f in frames])
    order = np.argsort(places_mm, kind="stable")
    frames, places_mm = [frames[i] for i in order], places_mm[order]
    _check_repeats(frames, places_mm, name)
    if len(frames) > 1:
        _check_tilt(frames, name)
        _check_steps(frames, places_mm, name)
    if len(frames) < LEAST_SLICES:
        raise InputError(
            f"{name} holds {counted(len(frames), 'slice')}; a chest CT has {LEAST_SLICES} or more: "
            "name the folder of the whole series"
        )
    first, affine = frames[0], np.eye(4)
    across, down = first.spacing_mm
    affine[:3, 0], affine[:3, 1] = first.directions[0] * across, first.directions[1] * down
    affine[:3, 2] = (frames[-1].position_mm - first.position_mm) / (len(frames) - 1)
    affine[:3, 3] = first.position_mm
    result = Stack(tuple(frames), affine)
    check_size(result.shape_xyz, name)
    check_affine(affine, name)
    return result
