"""Where trials run: Ray, its workers, calibration, and what a person sees meanwhile."""
