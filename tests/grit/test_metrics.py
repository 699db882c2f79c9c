"""Metrics against the libraries that define them, on cases at which implementations differ."""

import warnings

import pytest
import torch

from grit.errors import ConfigError
from grit.evaluation.text_metrics import measure, metric
from grit.tasks.bertscore import bert_scores, f1

#: (prediction, reference): empty, unicode, numbers with commas and units, punctuation, repetition, identical.
AWKWARD = [
    ("", "the cat sat"),
    ("the cat sat", ""),
    ("", ""),
    ("le café coûte 3 €", "le cafe coute 3 euros"),
    ("日本語 です", "日本語 です"),
    ("about 1,234.5 km", "1234.5 kilometres"),
    ("The Cat SAT!", "the cat sat"),
    ("the the the the", "the cat"),
    ("a b c d e f", "a b c d e f"),
    ("running runs", "run ran"),
    ("a\nb\n\nc", "a b c"),
    ("$5 (five)", "5"),
]
PREDICTIONS, REFERENCES = [p for p, _ in AWKWARD], [r for _, r in AWKWARD]


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_rouge_score(kind):
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    upstream = [scorer.score(r, p)[kind].fmeasure for p, r in AWKWARD]
    found = measure([kind], PREDICTIONS, REFERENCES)[kind]
    assert list(found.per_example) == upstream
    assert found.value == pytest.approx(sum(upstream) / len(upstream), abs=1e-15)
    assert upstream[0] == upstream[2] == 0
    assert upstream[6] == 1
    assert found.problem is None


def test_bleu_is_sacrebleu():
    import sacrebleu

    found = measure(["bleu"], PREDICTIONS, REFERENCES)["bleu"]
    assert found.value == sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES]).score / 100
    assert list(found.per_example) == [sacrebleu.sentence_bleu(p, [r]).score / 100 for p, r in AWKWARD]
    assert found.per_example[8] == pytest.approx(1)


@pytest.mark.parametrize("kind", ["accuracy", "precision", "recall", "f1"])
def test_classification_is_scikit_learn(kind):
    from sklearn import metrics

    true = [" yes", " no", " yes", " yes", " no", " no"]
    said = [" yes", " yes", "", " yes", " no", ""]  # two without an answer
    found = measure([kind], said, true, labels=(" yes", " no"))[kind]
    names, positive = {"accuracy": metrics.accuracy_score}, {"labels": ["yes"], "average": None}
    score = names.get(kind) or getattr(metrics, f"{kind}_score")
    upstream = score(
        [t.strip() for t in true], [s.strip() for s in said], **({} if kind == "accuracy" else positive)
    )
    assert found.value == float(upstream if kind == "accuracy" else upstream[0])
    assert found.value == {"accuracy": 3 / 6, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3}[kind]


@pytest.mark.parametrize("kind", ["precision", "recall", "f1"])
def test_macro_is_the_mean_over_both_labels(kind):
    from sklearn import metrics

    true = [" yes", " no", " yes", " yes", " no", " no"]
    said = [" yes", " no", " no", " yes", " yes", " no"]
    found = measure([f"{kind}_macro", kind], said, true, labels=(" yes", " no"))
    upstream = getattr(metrics, f"{kind}_score")(
        [t.strip() for t in true], [s.strip() for s in said], average="macro"
    )
    assert found[f"{kind}_macro"].value == pytest.approx(float(upstream))


def test_what_is_not_defined_says_so():
    found = measure(
        ["precision", "recall", "accuracy"], [" no", " no"], [" no", " no"], labels=(" yes", " no")
    )
    assert found["precision"].value is None
    assert "not defined" in found["precision"].problem
    assert found["recall"].value is None
    assert found["accuracy"].value == 1.0
    three = measure(["precision", "recall", "f1"], ["a", "a", "a"], ["a", "b", "c"], labels=("a", "b", "c"))
    assert three["precision"].value is None
    assert three["recall"].value == pytest.approx(1 / 3)
    assert three["f1"].value == pytest.approx(1 / 6)
    missing = measure(["bertscore", "rougeL"], ["a"], ["a"])
    assert missing["bertscore"].value is None
    assert "encoder" in missing["bertscore"].problem
    assert missing["rougeL"].value == 1.0
    unreadable = measure(["bertscore"], ["a"], ["a"], encoder="/no/such/folder")["bertscore"]
    assert unreadable.value is None
    assert "/no/such/folder" in unreadable.problem
    with pytest.raises(ConfigError, match="must be one of"):
        metric("meteor")


@pytest.mark.parametrize(
    "prediction, correct",
    [
        ("so 3*4=<<3*4=12>>12\n#### 12", 1),
        ("#### 12.", 0),
        ("#### 12,", 1),
        ("####12", 0),
        ("#### $12", 0),
        ("#### 12 km", 1),
        ("12", 0),
        ("", 0),
        ("#### 12\n#### 13", 1),
        ("#### twelve", 0),
    ],
)
def test_gsm8k_is_the_official_extraction(prediction, correct):
    import re

    def official(text):  # openai/grade-school-math, dataset.py
        match = re.compile(r"#### (\-?[0-9\.\,]+)").search(text)
        return match.group(1).strip().replace(",", "") if match else "[invalid]"

    reference = "he has 12\n#### 12"
    assert float(official(prediction) == official(reference)) == correct
    assert measure(["gsm8k_exact_match"], [prediction], [reference])["gsm8k_exact_match"].value == correct


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A BERT with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef", "cat", "dog", "the", "sat"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=32)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            initializer_range=1.0,
        )
    ).save_pretrained(folder)
    return str(folder)


def test_bertscore_is_bert_score(encoder):
    """On texts at which the upstream package still runs."""
    texts = [
        ("the cat sat", "the dog sat"),
        ("a b c d", "d c b a"),
        ("cat", "the the cat dog"),
        ("zebra", "cat"),
        ("a", "a"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import bert_score

        # The package asks the tokenizer for a method that this transformers has renamed.
        _, _, upstream = bert_score.score(
            [p for p, _ in texts], [r for _, r in texts], model_type=encoder, num_layers=2, device="cpu"
        )
    ours = bert_scores([p for p, _ in texts], [r for _, r in texts], encoder=encoder)
    assert ours == pytest.approx(upstream.tolist(), abs=1e-5)
    assert ours[-1] == pytest.approx(1, abs=1e-6)
    assert len({round(v, 3) for v in ours}) > 2


def test_bertscore_of_nothing_is_zero_and_closed_forms_hold(encoder):
    assert bert_scores(["", "cat", " "], ["cat", "", ""], encoder=encoder) == [0, 0, 0]
    assert (
        len(bert_scores(["cat " * 90], ["cat"], encoder=encoder)) == 1
    )  # longer than the encoder reads: truncated
    eye, words = torch.eye(3), torch.ones(3, dtype=torch.bool)
    assert f1(eye[:1], words[:1], eye, words) == pytest.approx(
        2 * 1 * (1 / 3) / (1 + 1 / 3)
    )  # precision 1, recall 1/3
    assert f1(eye[:1], words[:1], eye[1:2], words[:1]) == 0
    assert f1(eye, words, eye, words) == 1
