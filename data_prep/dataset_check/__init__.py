"""What `check_dataset.py` looks at.

`coarse` (a scan on voxels that thresholds can work on), `measure` (what one scan shows), `pictures`
(how it looks), `judge` (faults of one scan), `sessions` (faults between scans, pairs and splits),
`films` (how films fit), `film_faults`, `page` (all of it to look at).
"""
