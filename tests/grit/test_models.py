"""Any causal LM: other architectures and projection names, tied embeddings, no pad token.

Safetensors only, no foreign code.
"""

import shutil

import pytest
import torch
from transformers import AutoTokenizer

from grit.adapters.backbones import load_backbone, load_tokenizer
from grit.adapters.check_model import check_model
from grit.adapters.peft_adapters import adapted_layers
from grit.backbone import WEIGHTS
from grit.errors import ConfigError
from grit.training.trainer import train
from grit.training.workbench import Workbench

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 256,
}
#: Architecture, its changes, and names of its projections.
ARCHITECTURES = {
    "GPTNeoX": ({}, {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    "Qwen2": (
        {"num_key_value_heads": 2, "tie_word_embeddings": True},
        {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    ),
    "Gemma": (
        {"num_key_value_heads": 2, "head_dim": 8},
        {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    ),
    "Phi": ({}, {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}),
}


@pytest.fixture
def saved(tmp_path):
    """A model of that architecture with random weights, in a folder.

    With a tokenizer that has no pad token.
    """

    def make(name):
        import transformers

        changes, _ = ARCHITECTURES[name]
        tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(
            **{
                **SMALL,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": None,
                **changes,
            }
        )
        getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    return make


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_projection_is_found_and_trained(saved, short_run, name):
    folder, bench = saved(name), Workbench()
    config = short_run(model=str(folder), budget=short_run().budget.__class__(regime="step", amount=5))
    result = train(config, bench)
    assert result.status == "completed"
    assert result.measured.reprojections == 1
    assert result.measured.answer_loss < result.measured.base_answer_loss
    assert {module.rsplit(".", 1)[-1] for module in result.measured.modules} == ARCHITECTURES[name][1]
    assert len(result.measured.modules) == 2 * len(ARCHITECTURES[name][1])
    assert not any("lm_head" in m or "embed_out" in m for m in result.measured.modules)


def test_projections_may_be_asked_for_by_name(saved, short_run):
    bench = Workbench()
    config = short_run(model=str(saved("Phi")), targets=("fc1", "dense"))
    model = bench.adapted(config)
    try:
        assert {layer.name.rsplit(".", 1)[-1] for layer in adapted_layers(model)} == {"fc1", "dense"}
    finally:
        bench.release(model)
    with pytest.raises(ConfigError, match="no layer named q_projection"):
        bench.adapted(short_run(model=config.backbone.model, targets=("q_projection",)))


def test_a_tokenizer_without_pad_token_pads_with_what_is_masked(saved):
    folder = saved("Qwen2")
    plain = AutoTokenizer.from_pretrained(folder)
    plain.pad_token = None
    plain.save_pretrained(folder)
    assert load_tokenizer(str(folder)).pad_token_id == plain.eos_token_id


def test_texts_longer_than_the_model_reads_are_refused(saved, short_run):

    config, task = short_run(model=str(saved("Qwen2")), max_length=200), Workbench().task(short_run())
    check_model(config, task)
    with pytest.raises(ConfigError, match="reads 256 tokens"):
        check_model(config.changed(max_length=257), task)
    with pytest.raises(ConfigError, match="max_length . max_new_tokens = 300"):
        check_model(config.changed(max_new_tokens=100), task)
    with pytest.raises(ConfigError, match="is not a model folder"):
        check_model(config.changed(model="./nosuch/dir/x"), task)


def test_only_safetensors_are_read(saved):
    folder = saved("Qwen2")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be read as a causal LM"):
        load_backbone(str(folder), quantized=False, dtype="float32", device="cpu")


def test_foreign_code_runs_only_where_it_is_asked_for(saved, tmp_path):
    """The folder's own code would leave a mark."""
    import json

    folder = saved("Qwen2")
    mark = tmp_path / "mark"
    (folder / "own.py").write_text(f"""
from pathlib import Path
Path({str(mark)!r}).touch()
from transformers import Qwen2Config, Qwen2ForCausalLM
class OwnConfig(Qwen2Config):
    model_type = "own"
class OwnForCausalLM(Qwen2ForCausalLM):
    config_class = OwnConfig
""")
    values = json.loads((folder / "config.json").read_text())
    values |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="cannot be read as a causal LM"):
        load_backbone(str(folder), quantized=False, dtype="float32", device="cpu")
    assert not mark.exists()
    try:
        load_backbone(str(folder), quantized=False, dtype="float32", device="cpu", trust_remote_code=True)
        assert mark.exists()
    finally:
        from transformers.utils import HF_MODULES_CACHE

        shutil.rmtree(f"{HF_MODULES_CACHE}/transformers_modules/{folder.name}", ignore_errors=True)
