"""Zero-shot probes through lm-evaluation-harness, against a slow twin.

The base model's answers are computed once and kept.
"""

import json

import pytest
import torch

from grit.errors import ConfigError
from grit.evaluation.probes import check_probes, parse, run_probe
from grit.training.trainer import train
from grit.training.workbench import Workbench

ITEMS = [
    {
        "question": "What colour is the door?",
        "choices": ["red", "a very long blue answer", "green", "no"],
        "gold": i % 4,
    }
    for i in range(5)
]
PAIRS = [
    {
        "sentence": "Ann was older than Eve so _ went first.",
        "option1": "Ann",
        "option2": "Eve",
        "answer": 1 + i % 2,
    }
    for i in range(4)
]


@pytest.fixture
def files(tmp_path):
    found = {}
    for name, rows in (("arc_challenge", ITEMS), ("winogrande", PAIRS)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[name] = f"{name}={path}"
    return found


def _log_likelihood(model, tokenizer, context, continuation):
    """Sum of the log-probabilities of the continuation's tokens, one text at a time."""
    whole, head = tokenizer(context + continuation)["input_ids"], tokenizer(context)["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(logits[i - 1, whole[i]]) for i in range(len(head), len(whole)))


def test_local_probes_are_what_their_likelihoods_say(bench, short_run, files):
    config = short_run()
    model, tokenizer = bench.adapted(config).eval(), bench.tokenizer(config)
    try:
        arc = run_probe(model, tokenizer, files["arc_challenge"], items=5, batch_size=4)
        gaps = run_probe(model, tokenizer, files["winogrande"], items=3, batch_size=4)
        normal = [
            _log_likelihood(model, tokenizer, "Question: What colour is the door?\nAnswer:", f" {c}") / len(c)
            for c in ITEMS[0]["choices"]
        ]
        best = normal.index(max(normal))
        assert [a.correct for a in arc] == [float(item["gold"] == best) for item in ITEMS]
        assert [a.item for a in gaps] == [
            "winogrande-0",
            "winogrande-1",
            "winogrande-2",
        ]  # the first three, as asked for
        twin = [
            _log_likelihood(model, tokenizer, f"Ann was older than Eve so {name}", " went first.")
            for name in ("Ann", "Eve")
        ]
        assert [a.correct for a in gaps] == [
            float(1 + twin.index(max(twin)) == pair["answer"]) for pair in PAIRS[:3]
        ]
    finally:
        bench.release(model)


def test_a_run_reports_probes_and_keeps_the_base_models_answers(short_run, files, tmp_path, monkeypatch):
    config = short_run().changed(probes=(files["arc_challenge"],), probe_examples=3)
    first = train(config, Workbench(base_cache=tmp_path / "base"))
    assert first.measured.probes["arc_challenge"]["items"] == 3
    rows = [row for row in first.predictions if row["kind"] == "probe"]
    assert [row["example_id"] for row in rows] == [f"arc_challenge-{i}" for i in range(3)]
    kept = list((tmp_path / "base").glob("*.json"))
    assert len(kept) == 1
    again = Workbench(base_cache=tmp_path / "base")
    scored = []
    original = again.score_fully
    monkeypatch.setattr(again, "score_fully", lambda *a, **k: scored.append(1) or original(*a, **k))
    second = train(config, again)
    assert (
        len(scored) == 1 and second.predictions == first.predictions
    )  # the trained model only: the untuned one came from the cache
    (tmp_path / "arc_challenge.jsonl").write_text(
        "".join(json.dumps({**row, "gold": 0}) + "\n" for row in ITEMS)
    )
    train(config, Workbench(base_cache=tmp_path / "base"))
    assert len(list((tmp_path / "base").glob("*.json"))) == 2  # other content, other answers


def test_probes_that_cannot_be_used_are_refused(bench, short_run, tmp_path):
    with pytest.raises(ConfigError, match="reads no file"):
        parse("hellaswag=x.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "a"}\n')
    with pytest.raises(ConfigError, match="lacks the field 'choices'"):
        parse(f"arc_challenge={bad}")
    for name, row in (
        ("arc_challenge", {**ITEMS[0], "gold": 9}),
        ("arc_challenge", {**ITEMS[0], "choices": "abc"}),
        ("winogrande", {**PAIRS[0], "sentence": "no gap"}),
        ("winogrande", {**PAIRS[0], "answer": "B"}),
    ):
        bad.write_text(json.dumps(row) + "\n")
        with pytest.raises(ConfigError, match="line 1: "):
            parse(f"{name}={bad}")
    with pytest.raises(ConfigError, match="no task of lm-evaluation-harness"):
        check_probes(["no_such_probe"])
    with pytest.raises(ConfigError, match="given twice"):
        check_probes(["winogrande", "winogrande"])
    config = short_run()
    model = bench.adapted(config)
    try:
        with pytest.raises(ConfigError, match="neither cached here nor within reach"):
            run_probe(model, bench.tokenizer(config), "winogrande", items=1, batch_size=1)
    finally:
        bench.release(model)
