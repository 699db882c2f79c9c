"""A training method of your own: one declaration, trained beside LoRA on the same seed.

python examples/custom_method.py [FOLDER]

In a study it is a method like any other, on every worker:
    PYTHONPATH=examples GRIT_EXTENSIONS=custom_method python sweeps/baselines.py --methods lora rslora
"""

from __future__ import annotations

import sys
from pathlib import Path

from grit.config.registry import METHODS, MethodSpec

#: PEFT has the adapter, torch the optimizer; `MethodSpec` says what else can be declared.
METHODS["rslora"] = MethodSpec(title="rsLoRA", source="Kalajdzievski, 2023", options={"use_rslora": True})


def main(folder: Path) -> None:
    """Trains both, each into a folder of its own."""
    from grit.cli.main import main as grit

    for method in ("lora", "rslora"):
        output = str(folder / method)
        grit(
            ["train", "--task", "arithmetic", "--method", method, "--budget-steps", "20", "--output", output]
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/example_custom_method"))
