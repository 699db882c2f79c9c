"""What a worker must be before it gets a trial: the device, versions, data and storage that the driver means.

A node with a broken driver would otherwise train on its CPU without a word, and "complete" a trial whose
budget is seconds.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grit.backbone import resolve as model_folder
from grit.config.run_config import RunConfig
from grit.io.provenance import PACKAGES
from ray_jobs.design.forecast import memory_bytes, shape_of
from ray_jobs.execution.nodes.storage import StudyStorage

if TYPE_CHECKING:
    from grit.training.workbench import Workbench

#: Where the driver leaves a word that every worker must be able to read.
TOKEN_FILE = "shared/token"
#: How far the known step's answer may lie from the driver's, relative to it.
TOLERANCE = 1e-3
#: Side of the matrices that a device's speed is measured with, and how many products.
_SIDE, _PRODUCTS = 512, 8


class NodeRefusedError(RuntimeError):
    """This worker is not what the plan needs."""


class OtherDeviceError(RuntimeError):
    """This worker is fit, but its device is not the one that the study's time budgets are for."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the driver means.

    Attributes:
        gpus: that each worker holds; below 1 where several share one.
        versions: of `PACKAGES`. content: hashes of task, documents and model, by name.
        token: what `TOKEN_FILE` holds; None where nothing is shared by file.
        answer: of `known_step` on the driver, in float64.
    """

    gpus: float
    versions: Mapping[str, str]
    content: Mapping[str, str]
    token: str | None
    answer: float


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What a worker was found to be.

    Attributes:
        device: cpu or cuda. name: the model of the processor or GPU.
        memory_bytes: of the device. driver: of the GPU.
        step_error: of the known step against the driver's answer, relative.
        gflops: of products of float32 matrices of side 512.
    """

    device: str
    name: str
    memory_bytes: int
    driver: str | None
    versions: dict[str, str]
    step_error: float
    gflops: float

    def row(self) -> dict[str, Any]:
        """For the record of the attempt."""
        return asdict(self)


def installed_versions() -> dict[str, str]:
    """Of `PACKAGES`, in this process.

    Without the build (+cu130): a head without a GPU has another.
    """
    return {name: metadata.version(name).partition("+")[0] for name in PACKAGES}


def expected_of(gpus: float, content: Mapping[str, str], token: str | None = None) -> Expected:
    """What the driver itself is, and the answer it finds."""
    return Expected(
        gpus=gpus,
        versions=installed_versions(),
        content=dict(content),
        token=token,
        answer=known_step("cpu", double=True),
    )


def expected_at(
    storage: StudyStorage, resources: Mapping[str, float], content: Mapping[str, str]
) -> Expected:
    """What workers with these resources must be; leaves in the storage what they must be able to read."""
    token = uuid.uuid4().hex
    storage.write(TOKEN_FILE, token.encode())
    return expected_of(resources.get("GPU", 0.0), content, token)


def admitted(
    expected: Expected, storage: StudyStorage | None, config: RunConfig, bench: Workbench
) -> Admission:
    """Examines this process, and whether a run of `config` fits it and reads the driver's data and model.

    Raises:
        NodeRefusedError: the first thing that is not as the driver means it.
    """
    admission = examine(expected, storage)
    check_room(admission, config, expected.gpus)
    check_content(expected, bench.content(config))
    return admission


def examine(expected: Expected, storage: StudyStorage | None = None) -> Admission:
    """Examines this process; without a storage not whether it is shared.

    Raises:
        NodeRefusedError: the first thing that is not as the driver means it.
    """
    import torch

    versions = installed_versions()
    for name, wanted in expected.versions.items():
        if versions.get(name) != wanted:
            raise NodeRefusedError(f"it has {name} {versions.get(name)}, and the driver has {wanted}")
    if storage is not None:
        _check_shared(expected, storage)
    if expected.gpus and not torch.cuda.is_available():
        raise NodeRefusedError("it holds a GPU that torch cannot use (no driver, or a torch without CUDA)")
    if expected.gpus > torch.cuda.device_count():
        raise NodeRefusedError(f"it has {torch.cuda.device_count()} of {expected.gpus:g} GPUs")
    device = "cuda" if expected.gpus else "cpu"
    try:
        answer = known_step(device)
    except RuntimeError as error:  # what a broken GPU or driver raises
        raise NodeRefusedError(f"its {device} fails at a known step: {str(error).splitlines()[0]}") from error
    step_error = abs(answer - expected.answer) / abs(expected.answer)
    if not step_error <= TOLERANCE:
        raise NodeRefusedError(
            f"its {device} takes a known step wrongly: {answer:g}, not {expected.answer:g}"
        )
    return Admission(
        device=device,
        name=torch.cuda.get_device_name() if expected.gpus else processor_name(),
        memory_bytes=_memory(device),
        driver=_driver() if expected.gpus else None,
        versions=versions,
        step_error=step_error,
        gflops=_gflops(device),
    )


def check_room(admission: Admission, config: RunConfig, gpus: float) -> None:
    """Refuses a device with less memory than the plan predicts for a trial.

    Args:
        admission: what the device is.
        config: of the trial.
        gpus: that the trial holds; of a shared one it has that share.

    Raises:
        NodeRefusedError: with what is needed and what there is.
    """
    model = config.backbone.model
    shape = shape_of(model, model_folder(model))
    if shape is None:
        return
    needed = memory_bytes(config, shape, gpu=admission.device == "cuda")
    room = admission.memory_bytes * (gpus if 0 < gpus < 1 else 1)
    if needed > room:
        raise NodeRefusedError(
            f"its {admission.name} has {room / 1e9:.0f} GB for a trial, and one of this plan needs about "
            f"{needed / 1e9:.0f} GB"
        )


def check_content(expected: Expected, content: Mapping[str, str]) -> None:
    """Refuses data or a model other than the driver's.

    Raises:
        NodeRefusedError: with the name of what differs.
    """
    for name, wanted in expected.content.items():
        if content.get(name) != wanted:
            raise NodeRefusedError(f"its {name} is not the driver's: the same name holds something else here")


def _check_shared(expected: Expected, storage: StudyStorage) -> None:
    try:
        read = storage.read(TOKEN_FILE)
    except OSError as error:
        raise NodeRefusedError(f"the storage does not answer: {str(error).splitlines()[0]}") from error
    if read is None or expected.token is None or read.decode() != expected.token:
        raise NodeRefusedError(
            "the storage is not shared: it does not find what the driver wrote there; give --storage a "
            "folder or URI that every node can reach"
        )


def known_step(device: str, *, double: bool = False) -> float:
    """Loss after three steps of gradient descent on a fixed low-rank regression."""
    import torch

    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in _SHAPES]
    dtype = torch.float64 if double else torch.float32
    x, target, weight, a, b = (draw.to(device, dtype) for draw in draws)
    a, b = a.requires_grad_(), (b * 0).requires_grad_()
    loss = torch.zeros((), device=device, dtype=dtype)
    for _ in range(3):
        loss = ((x @ (weight + b @ a).T / 16 - target) ** 2).mean()
        loss.backward()
        with torch.no_grad():
            for parameter in (a, b):
                assert parameter.grad is not None
                parameter -= 0.5 * parameter.grad
                parameter.grad = None
    return float(loss.detach())


#: Of inputs (64, 256), targets, the frozen weight, A (8, 256) and B (256, 8).
_SHAPES = ((64, 256), (64, 256), (256, 256), (8, 256), (256, 8))


def _gflops(device: str) -> float:
    import torch

    left = torch.ones(_SIDE, _SIDE, device=device)
    left @ left
    _wait(device)
    began = time.perf_counter()
    for _ in range(_PRODUCTS):
        left @ left
    _wait(device)
    return 2 * _SIDE**3 * _PRODUCTS / (time.perf_counter() - began) / 1e9


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _memory(device: str) -> int:
    import torch

    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def processor_name() -> str:
    """The model of this machine's processors; their architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _driver() -> str | None:
    """Of the GPU, as nvidia-smi says it; None where it says nothing."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip().partition("\n")[0] or None
