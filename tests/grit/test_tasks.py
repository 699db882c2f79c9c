import json

import pytest
from conftest import ROOT

from grit.backbone import WEIGHTS, world
from grit.config.sections import TaskSource
from grit.errors import ConfigError
from grit.tasks import catalog, embedded
from grit.tasks.base import Example
from grit.tasks.loading import load_documents, load_task


@pytest.mark.parametrize("name", embedded.NAMES)
def test_embedded_tasks_are_fixed_disjoint_and_self_consistent(name):
    task = embedded.load(name)
    assert task.content_hash() == embedded.load(name).content_hash()
    assert len(task.train) == 2000
    assert len(task.evaluation) >= 300
    assert not {e.prompt for e in task.train} & {e.prompt for e in task.evaluation}
    assert all(task.score(e.answer, e) == 1.0 for e in task.evaluation)
    assert all(not e.labels or e.answer in e.labels for e in task.evaluation)


def test_scoring_is_exact():
    words = Example(example_id="a", prompt="", answer=" plum cake")
    task = embedded.load("instruction")
    assert [
        task.score(text, words)
        for text in ("plum cake", " plum  cake \n", "plum", "", "Plum cake", "plum cakes")
    ] == [1, 1, 0, 0, 0, 0]
    number = Example(example_id="b", prompt="", answer=" 4 + 7 = 11 #### 11")
    assert [
        embedded.number_match(text, number)
        for text in ("#### 11", "so #### 12 no #### 11", "#### 1", "11", "", "####")
    ] == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "prediction, score",
    [
        ("#### 1234", 1),
        ("#### 1,234", 1),
        ("text #### 1,234 more", 1),
        ("#### $1234", 0),
        ("1234", 0),
        ("", 0),
        ("#### 1234.0", 0),
        ("#### -1234", 0),
    ],
)
def test_gsm8k_reads_the_official_marker(prediction, score):
    assert (
        catalog.gsm8k_exact_match(prediction, Example(example_id="", prompt="", answer="so\n#### 1,234"))
        == score
    )


def test_held_out_text_is_disjoint_from_the_training_text():
    held = world.documents(world.HELD_OUT_SEED, 500, held_out=True)
    assert not set(held) & set(world.documents(world.TRAIN_SEED, 5000))
    assert held == world.documents(world.HELD_OUT_SEED, 500, held_out=True)


def test_weights_are_small_and_safe():
    assert (WEIGHTS / "model.safetensors").stat().st_size < 3_000_000
    assert not [p for p in (ROOT / "grit").rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_committed_weights_have_the_recorded_held_out_loss(bench, short_run):
    from grit.adapters.backbones import load_backbone
    from grit.backbone.pretrain import held_out_loss

    recorded = json.loads((WEIGHTS / "pretraining.json").read_text())["held_out_loss"]
    model = load_backbone(str(WEIGHTS), quantized=False, dtype="float32", device="cpu")
    assert held_out_loss(model, bench.tokenizer(short_run())) == pytest.approx(recorded, rel=0.001)


def _file(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"question": "q", "answer": "#### 1"}\nnot json\n', "line 2 is not JSON"),
        ('{"question": "q"}\n', "line 1 lacks the field 'answer'"),
        ('\n{"question": "q", "answer": "#### 1"}\n[1]\n', "line 3 lacks"),
        ('{"question": "q", "answer": "a"}\n', "line 1: answer has no final number"),
        ("", "is empty"),
    ],
)
def test_malformed_files_are_refused_with_their_line(tmp_path, text, words):
    good = _file(tmp_path, "good.jsonl", '{"question": "q", "answer": "#### 1"}\n')
    bad = _file(tmp_path, "bad.jsonl", text)
    with pytest.raises(ConfigError, match=f"eval-file.*{words}"):
        load_task(TaskSource(name="gsm8k", train_file=good, eval_file=bad))


def test_missing_files_and_unknown_tasks_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="train-file.*cannot be read"):
        load_task(TaskSource(name="gsm8k", train_file=str(tmp_path / "none.jsonl"), eval_file="x"))
    with pytest.raises(ConfigError, match="task = 'poetry'.*arithmetic"):
        load_task(TaskSource(name="poetry"))
    with pytest.raises(ConfigError, match="is generated"):
        load_task(TaskSource(name="arithmetic", train_file="x"))
    with pytest.raises(ConfigError, match="retention-file.*held-out general text"):
        load_documents(TaskSource(name="gsm8k"))


def test_boolq_reads_booleans_and_words(tmp_path):
    rows = [{"question": "is it", "answer": value} for value in (True, False, "true", "False", "yes")]
    bad = _file(tmp_path, "bad.jsonl", json.dumps(rows[0]) + "\n" + '{"question": "q", "answer": "maybe"}\n')
    with pytest.raises(ConfigError, match="line 2: answer 'maybe' is neither true nor false"):
        load_task(TaskSource(name="boolq", train_file=bad, eval_file=bad))
    path = _file(tmp_path, "b.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    task = load_task(TaskSource(name="boolq", train_file=path, eval_file=path))
    assert [e.answer for e in task.train] == [" yes", " no", " yes", " no", " yes"]


def test_plain_text_documents_are_split_at_blank_lines(tmp_path):
    path = _file(tmp_path, "general.txt", "one\nstill one\n\ntwo\n\n\n\nthree\n")
    assert load_documents(TaskSource(name="gsm8k", retention_file=path)) == ["one\nstill one", "two", "three"]
