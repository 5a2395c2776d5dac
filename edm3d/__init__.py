"""edm3d: the chest CT of a ventilated subject after a change of ventilation, by residual diffusion.

Read next: `edm3d.diffusion.edm` (the equations), `edm3d.diffusion.sampler` (Algorithm 2),
`edm3d.train` (the wiring of a run).
"""

__version__ = "0.1.0"
