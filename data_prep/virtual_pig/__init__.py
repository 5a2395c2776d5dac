"""A virtual ARDS swine: anatomy, injury, ventilation mechanics, deformation and CT.

What it is for: a benchmark whose lung mask, gas volume and tissue mass are known exactly. It is a
model, never evidence about real pigs. NumPy and SciPy; nibabel writes the scans, Matplotlib the
contact sheet. Read next, in the order in which a scan comes about:
`traits` (what is drawn), `chest` and `shape` (spine, cavity and diaphragm), `anatomy` (the material
atlas: `lobes`, `airways`, `trees`, `mediastinum`, `abdomen`, and `wall` with `skeleton`), `injury`,
`mechanics` (gas in every element), `deformation` (where every element goes), `render` and `body`
(HU on a scan grid), `truth`, `cohort` (which scans are made).

Frames: LPS mm, arrays [z, y, x]; z inferior to superior, y anterior to posterior, x right to left.
"""
