"""Configurations of single runs by name, and where they are not what their source prints."""
