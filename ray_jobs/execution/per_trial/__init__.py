"""Ray's own engine: one Ray Train run per trial, placed, restarted and released by Ray."""
