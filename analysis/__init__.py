"""Reads records, computes, draws, reports. Needs neither Ray nor torch."""
