"""Kept adapters: written at the end of a run, read by PEFT alone, and refused where they are damaged."""

import pytest
import torch
from peft import PeftModel

from grit.adapters.kept_adapter import ADAPTER_FILE, read_kept_adapter
from grit.adapters.peft_adapters import quiet_peft, remove_lora
from grit.errors import ConfigError
from grit.presets.run_presets import configuration
from grit.training import keep
from grit.training.hooks import Hooks
from grit.training.keep import UnwrittenAdapterError
from grit.training.side_by_side import train
from grit.training.workbench import Workbench

#: Methods whose layers are LoRA's with a part that is made of something else.
WITH_PARTS_THAT_STAY = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("lora_xs", "lora_sb", "svfit", "loldu", "s2ft", "lift", "loca", "matryoshka")
]


@pytest.fixture
def config_of(half_backbone):
    """The embedded preset's, on half its backbone and short."""
    short = {"model": half_backbone, "eval_examples": 8, "retention_documents": 4, "dropout": 0.1}
    return lambda method, **changed: configuration("embedded", method, task=None, steps=12).changed(
        **{**short, **changed}
    )


@pytest.fixture(scope="module")
def bench():
    return Workbench()


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
@pytest.mark.parametrize(
    "method",
    ["grit", "lora", "dora", "eva", "lora_fa", "adalora", "vera", "ia3", "qgrit", *WITH_PARTS_THAT_STAY],
)
def test_what_peft_reloads_computes_what_was_scored(bench, tmp_path, method, config_of):
    """The answers' losses of the reloaded adapter are those that the run has recorded."""
    config = config_of(method, tau=0.9) if method in ("grit", "qgrit") else config_of(method)
    result = train(config, bench, adapter=tmp_path / "adapter")
    kept = read_kept_adapter(tmp_path / "adapter")
    assert kept.reloaded.agrees and kept.reloaded.tokens > 20
    with quiet_peft():
        model = PeftModel.from_pretrained(bench.backbone(config), str(tmp_path / "adapter")).eval()
    scores = bench.score(model, config, config.evaluation.quality)
    remove_lora(model)
    recorded = [row["loss"] for row in result.predictions if row["kind"] == "task"]
    assert [each.answer_loss for each in scores.predictions] == pytest.approx(recorded, abs=1e-4)
    if method == "grit":
        assert kept.parameters == result.measured.effective_parameters


def test_keeping_changes_no_result(bench, tmp_path, config_of):
    config = config_of("grit")
    alone, kept = train(config, bench), train(config, bench, adapter=tmp_path / "adapter")
    assert [row["loss"] for row in alone.telemetry] == [row["loss"] for row in kept.telemetry]
    assert [row["loss"] for row in alone.predictions] == [row["loss"] for row in kept.predictions]
    again = train(config, bench)
    assert [row["loss"] for row in alone.predictions] == [row["loss"] for row in again.predictions]


def test_what_means_nothing_alone_and_what_did_not_complete_is_not_kept(bench, tmp_path, config_of):
    assert "changes the backbone's weights" in config_of("pissa").why_no_adapter
    train(config_of("pissa"), bench, adapter=tmp_path / "moved")
    stopped = train(
        config_of("lora"), bench, hooks=Hooks(should_stop=lambda: True), adapter=tmp_path / "stopped"
    )
    assert stopped.status == "stopped"
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_computes_something_else_says_so(bench, tmp_path, monkeypatch, config_of):
    """The comparison can fail: one number of the file is changed before it is reloaded."""
    reload = keep.reload_adapter

    def damaged(backbone, path):
        model = reload(backbone, path)
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if "lora_B" in name)[0, 0] += 10
        return model

    monkeypatch.setattr(keep, "reload_adapter", damaged)
    train(config_of("lora"), bench, adapter=tmp_path / "adapter")
    assert not read_kept_adapter(tmp_path / "adapter").reloaded.agrees


def test_a_damaged_adapter_is_refused(bench, tmp_path, config_of):
    train(config_of("lora"), bench, adapter=tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="is not what was written"):
        read_kept_adapter(tmp_path / "adapter")
    (tmp_path / "adapter" / ADAPTER_FILE).write_text("{")
    with pytest.raises(ConfigError, match="adapter folder"):
        read_kept_adapter(tmp_path / "adapter")


def test_no_room_for_an_adapter_is_told_as_such(bench, tmp_path, config_of):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwrittenAdapterError):
        train(config_of("lora"), bench, adapter=tmp_path / "file" / "adapter")
