"""A training method of your own: one declaration, trained beside LoRA on the same seed.

python examples/custom_method.py [FOLDER]

In a study it is a method like any other, on every worker:
    PYTHONPATH=examples GRIT_EXTENSIONS=custom_method python sweeps/baselines.py --methods lora hra
"""

from __future__ import annotations

import sys
from pathlib import Path

from peft import HRAConfig

from grit.config.registry import METHODS, MethodSpec
from grit.methods.peft_tuners import Tuner

#: Householder reflections of the layers' inputs, which PEFT makes of a configuration.
REFLECTIONS = Tuner(lambda wanted, _: HRAConfig(r=wanted.config.adapter.rank, target_modules=wanted.targets))
#: A LoRA of other options, or with another optimizer, needs no `adapter`: see `MethodSpec`.
METHODS["hra"] = MethodSpec(
    title="HRA",
    source="Yuan et al., 2024",
    adapter="custom_method:REFLECTIONS",
    one_rank=True,
    factors=False,
    inexact=True,
)


def main(folder: Path) -> None:
    """Trains both, each into a folder of its own."""
    from grit.cli.main import main as grit

    for method in ("lora", "hra"):
        output = str(folder / method)
        grit(
            ["train", "--task", "arithmetic", "--method", method, "--budget-steps", "20", "--output", output]
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/example_custom_method"))
