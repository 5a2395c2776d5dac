"""EDM in 3-D: preconditioning and loss, Algorithm 2, the U-Net, its conditioning."""
