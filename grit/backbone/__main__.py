"""`python -m grit.backbone build` pretrains the embedded backbone again; `... smollm2` fetches a real one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grit.backbone.model import WEIGHTS
from grit.backbone.smollm2 import smollm2_folder
from grit.errors import ConfigError

#: Where `build` leaves its summary, beside the weights.
SUMMARY = "pretraining.json"


def build(out: Path, steps: int | None) -> int:
    """Pretrains into `out`, and compares the held-out loss with that of the committed weights.

    `steps` are optimizer steps; None: as many as the committed weights had.
    """
    from grit.backbone.pretrain import PretrainConfig, pretrain

    config = PretrainConfig()
    measured = pretrain(config if steps is None else replace(config, steps=steps), out)
    (out / SUMMARY).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf8")
    print(
        f"held-out loss {measured['held_out_loss']:.4f} nats/token, {measured['parameters']:.0f} "
        f"parameters, {measured['seconds']:.0f} s -> {out}"
    )
    if (WEIGHTS / SUMMARY).exists() and out.resolve() != WEIGHTS.resolve():
        committed = json.loads((WEIGHTS / SUMMARY).read_text(encoding="utf8"))["held_out_loss"]
        print(f"the committed weights have {committed:.4f}: {measured['held_out_loss'] / committed - 1:+.2%}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m grit.backbone", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="pretrain from nothing (under ten minutes on two cores)")
    building.add_argument(
        "--out",
        type=Path,
        default=Path("results/backbone"),
        help="where to write (default: results/backbone)",
    )
    building.add_argument("--steps", type=int, help="optimizer steps (default: as the committed weights)")
    commands.add_parser("smollm2", help="fetch SmolLM2-135M into the cache, once, and print where it is")
    arguments = parser.parse_args(argv)
    if arguments.command == "build":
        return build(arguments.out, arguments.steps)
    try:
        print(smollm2_folder())
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
