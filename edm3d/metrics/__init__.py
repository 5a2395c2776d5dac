"""Agreement, aeration and image metrics in NumPy; usable without the rest of edm3d."""
