"""Peak memory of a run's training steps, measured in a fresh process.

What a process that has done other things held before does not count.

`python -m grit.training.memory_probe` reads a run's configuration from standard input and prints the bytes.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from grit.config.run_config import RunConfig
from grit.config.sections import AuditConfig, Budget
from grit.config.sequence import ALONE

ROOT = Path(__file__).resolve().parents[2]
#: Steps that are run; statistics, inverses and a reprojection fall into them.
STEPS = 4
#: Linux's accounts of this process.
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peaks(configs: Sequence[RunConfig]) -> dict[str, int]:
    """The peak of each by method.

    One that could not be measured (no room on the GPU beside this process) is missing, and told on stderr.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    peak_bytes = {}
    for config in configs:
        try:
            peak_bytes[str(config.method)] = peak_memory(config)
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
    return peak_bytes


def peak_memory(config: RunConfig) -> int:
    """Bytes at the peak of a few training steps of `config`, in a process of its own.

    On the GPU, or resident on a CPU.

    Raises:
        RuntimeError: it does not train.
    """
    done = subprocess.run(
        [sys.executable, "-m", "grit.training.memory_probe"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        input=json.dumps(probe(config).to_dict()),
    )
    if done.returncode:
        raise RuntimeError(f"memory of {config.method}: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.split()[-1])


def probe(config: RunConfig) -> RunConfig:
    """A few steps of `config` in which everything acts that takes memory."""
    grit = replace(
        config.grit,
        cov_update_freq=1,
        kfac_update_freq=1,
        kfac_min_samples=1,
        ng_warmup_steps=0,
        reprojection_warmup_steps=0,
        reprojection_freq=None if config.grit.reprojection_freq is None else 2,
    )
    return config.changed(
        audits=AuditConfig(),
        probes=(),
        **ALONE,
        general_replay=0.0,
        budget=Budget(regime="step", amount=STEPS),
        eval_examples=1,
        retention_documents=1,
        quality="answer_logprob",
        evaluations=1,
        checkpoint_steps=None,
        grit=grit,
    )


def peak_of_steps(config: RunConfig) -> int:
    """The peak in this process.

    Its first step is left out, in which libraries and optimizer take what they keep.
    """
    import pytorch_optimizer  # noqa: F401 - for all, since one method needs it

    from grit.training.run import Run
    from grit.training.trainer import adapted
    from grit.training.workbench import Workbench

    bench = Workbench()
    with adapted(config, bench) as model:
        bench.forget_moved()
        run = Run(config, bench, model, checkpoints=None)
        run.take_step()
        run.state.memory.bytes = 0
        if CLEAR.exists():
            CLEAR.write_text("5")  # Linux: the high-water mark of resident memory begins anew
        while not run.spent():
            run.take_step()
        return int(run.state.memory.bytes) if bench.device == "cuda" else high_water()


def high_water() -> int:
    """The most resident memory of this process in bytes, since `CLEAR` was written where there is one."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Prints the peak of the steps in bytes."""
    print(peak_of_steps(RunConfig.from_dict(json.loads(sys.stdin.read()))))


if __name__ == "__main__":
    main()
