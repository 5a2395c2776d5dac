"""From scans on disk to batches: volumes, manifest, projection, cases, pipeline."""
