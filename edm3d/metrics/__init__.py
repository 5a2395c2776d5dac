"""Agreement, aeration, image, mask and ensemble metrics in NumPy and SciPy; usable alone.

Arrays in, frozen dataclasses or numbers out. One rule for degenerate input, in every module:

- Input that cannot be used raises `ValueError`, which names the thing: too few measurements, one
  subject where subjects are resampled, unequal shapes, NaN or infinity, a lung mask without a
  voxel.
- Usable input that leaves a quantity undefined gives NaN for that quantity alone, without a
  warning, and the docstring says when: the correlation of constant values, an interval with no
  degree of freedom left, the distance to an empty mask.

Read `agreement` first: it holds Bland-Altman and names what its neighbours hold.
"""
