"""How each method's adapter is made and trained; `grit/config/registry.py` declares which there are.

An adapter is made by an `AdapterMaker`, one file per family; `makers.py` and `optimizers.py` know them by the
names that declarations use.
"""
