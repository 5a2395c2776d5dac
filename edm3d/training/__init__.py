"""What a run is made of: state and step, mesh, checkpoints."""
