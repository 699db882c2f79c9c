"""How checkpoints are called on disk. Imports no torch."""

#: A checkpoint's file in its folder.
CHECKPOINT_FILE = "run.pt"
