"""Every architecture of the matrix: factors against the definition, exports, resuming bit for bit."""

import copy
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, batches
from oracles import assert_factors, factors_by_definition

from grit.adapters.peft_adapters import quiet_peft
from grit.capture.label_positions import streams_of
from grit.config.method import GritConfig
from grit.geometry.attach import attach
from grit.geometry.export import export_adapter

WATCH = GritConfig(cov_update_freq=1, preconditioner="none", T=None)
ACTIVE = GritConfig(
    cov_update_freq=1, kfac_update_freq=2, kfac_min_samples=1, T=2, min_lora_rank=1, tau=0.9, lambda_=1e-2
)
TABLE = Path(__file__).parents[2] / "docs/reference/architectures.md"
#: Learned in seconds each; the rest are slow tests.
_QUICK = (
    "LlamaForCausalLM",
    "GPT2LMHeadModel",
    "BartForCausalLM",
    "LlavaForConditionalGeneration",
    "BartForConditionalGeneration",
    "NllbMoeForConditionalGeneration",
    "T5GemmaForConditionalGeneration",
    "EncoderDecoderModel",
    "AlbertForSequenceClassification",
    "BertForTokenClassification",
)
_slow = pytest.mark.slow
EACH = pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, id=a.name, marks=() if a.name in _QUICK else _slow) for a in ARCHITECTURES],
)
pytestmark = pytest.mark.filterwarnings("ignore")


def _items(architecture, micro_batches):
    shift = 1 if architecture.layout == "causal" else 0
    return sum(int((batch["labels"][:, shift:] != -100).sum()) for batch in micro_batches)


def _step(architecture, model, optimizer, micro_batches):
    """Accumulation of all micro-batches, as Trainer scales it."""
    extra = {}
    if architecture.layout != "sequence":
        extra = {"num_items_in_batch": _items(architecture, micro_batches)}
    for batch in micro_batches:
        model(**batch, **extra).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@EACH
def test_factors_equal_the_definition(architecture):
    """Padding, accumulation 2 of unequal label counts, `num_items_in_batch` whether heeded or not."""
    model, micro_batches = architecture.make().train(), batches(architecture)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    handle = attach(model, optimizer, WATCH, labels=architecture.labels)
    streams = streams_of(model, architecture.layout, [layer.name for layer in handle.layers])
    _step(architecture, model, optimizer, micro_batches)
    handle.detach()
    expected = factors_by_definition(model, handle.layers, micro_batches, architecture.layout, streams)
    # Norms, softmax and losses of these models are computed in float32.
    assert_factors(handle, expected, rtol=1e-3, atol=1e-4)


@EACH
def test_an_export_computes_what_the_model_does(architecture, tmp_path):
    from peft import PeftModel

    model, micro_batches = architecture.make().train(), batches(architecture)
    backbone = copy.deepcopy(model).unload()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    handle = attach(model, optimizer, ACTIVE, labels=architecture.labels)
    for _ in range(3):
        _step(architecture, model, optimizer, micro_batches)
    report = export_adapter(model, handle, tmp_path)
    assert report.effective_parameters < report.parameters
    with quiet_peft():
        loaded = PeftModel.from_pretrained(backbone, str(tmp_path)).double().eval()
    with torch.no_grad():
        ours, theirs = (m(**micro_batches[0]).logits for m in (model.eval(), loaded))
    torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-7)


@EACH
def test_a_resumed_training_goes_on_bit_for_bit(architecture):
    ends = []
    for interrupted in (False, True):
        model, micro_batches = architecture.make().train(), batches(architecture)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        handle = attach(model, optimizer, ACTIVE, labels=architecture.labels)
        for step in range(4):
            _step(architecture, model, optimizer, micro_batches)
            if interrupted and step == 1:
                states = [copy.deepcopy(held.state_dict()) for held in (model, optimizer, handle)]
                model = architecture.make().train()
                optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
                handle = attach(model, optimizer, ACTIVE, labels=architecture.labels)
                for held, state in zip((model, optimizer, handle), states, strict=True):
                    held.load_state_dict(state)
        ends.append((handle.ranks(), [weight.detach() for weight in model.parameters()]))
    assert ends[0][0] == ends[1][0]
    assert all(map(torch.equal, ends[0][1], ends[1][1]))


def test_the_documents_list_every_architecture():
    rows = [
        line.split("|")[1].strip(" `") for line in TABLE.read_text().splitlines() if line.startswith("| `")
    ]
    assert rows == [architecture.name for architecture in ARCHITECTURES]
