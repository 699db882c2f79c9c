"""The method's live state and the hooks that feed it; `attach` is its door."""
