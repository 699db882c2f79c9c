"""Submits a study to a Ray cluster from Python, follows its log, and ends as it ended.

python examples/ray_job.py http://127.0.0.1:8265 OUTPUT [OPTIONS OF THE STUDY]

The head's token, if it has one, is found as `ray job submit` finds it (RAY_AUTH_MODE, ~/.ray/auth_token).
"""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

ROOT = Path(__file__).resolve().parents[1]


def main(address: str, output: str, options: list[str]) -> int:
    """Submits it; 0 where every trial has ended."""
    client = JobSubmissionClient(address)
    study = ["python", "sweeps/tau_T_lambda.py", "--output", output, *options]
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    job = client.submit_job(
        entrypoint=shlex.join(study),
        runtime_env={
            "working_dir": str(ROOT),
            "excludes": [".git", ".venv", "results"],
            "env_vars": {"GRIT_COMMIT": commit},  # a job's folder has no .git
        },
    )
    print(f"submitted {job}: ray job stop --address {address} {job} ends it in order", flush=True)
    asyncio.run(_follow(client, job))
    return 0 if client.get_job_status(job) == JobStatus.SUCCEEDED else 1


async def _follow(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
