"""The continual page: measures by hand, the rate that the even half chooses, and a page of real trials."""

from dataclasses import replace

import numpy as np
import pytest
from trained import trained_study

from analysis.evidence.load import load_study
from analysis.report import rebuild
from analysis.studies.continual.figure import stage_panels
from analysis.studies.continual.learned import Learned, best_of, learned_of
from grit.config.sections import Budget
from sweeps import continual


@pytest.fixture(scope="module")
def study(tmp_path_factory, bench, half_backbone):
    """Four methods at two rates, as short as they can be."""
    from grit.presets.run_presets import configuration

    smoke = configuration("smoke", "grit", steps=9)
    grit = replace(smoke.grit, cov_update_freq=1, kfac_update_freq=2, reprojection_freq=3, kfac_min_samples=8)
    base = smoke.changed(
        model=half_backbone,
        micro_batch=4,
        eval_examples=8,
        retention_documents=4,
        evaluations=1,
        grit=grit,
        budget=Budget(regime="step", amount=9),
    )
    line, _ = continual.SCRIPT.read(
        ["--preset", "smoke", "--methods", "lora", "grit", "--learning-rates", "2e-3", "8e-3"]
    )
    request = continual.SCRIPT.request(line)
    points = continual.points(request)
    base = base.changed(before=request.base.sequence.before)
    folder = tmp_path_factory.mktemp("continual")
    trained_study(folder, "continual", base, points, bench)
    return folder


def _ends(rows, task):
    return [row["value"] for row in rows if row["after"] == 3 and row["learned"] == task]


def _by_hand(seeds=2, examples=3, tasks=2):
    generator = np.random.default_rng(0)
    quality = {
        (after, task): generator.normal(size=(seeds, examples + task))
        for after in range(1, tasks + 1)
        for task in range(1, after + 1)
    }
    return Learned(
        point=None,
        tasks=tuple("ab"[:tasks]),
        quality=quality,
        chosen_by=0.0,
        untuned=(),
        forgetting=(),
        tokens=np.ones(1),
    )


def test_tasks_count_alike_whatever_their_examples():
    one = _by_hand()
    final = one.final().mean(axis=0) @ one.weights(2)
    assert final == pytest.approx((one.quality[2, 1].mean() + one.quality[2, 2].mean()) / 2)
    backward = one.backward().mean(axis=0) @ one.weights(1)
    assert backward == pytest.approx((one.quality[2, 1] - one.quality[1, 1]).mean())


def test_the_even_half_chooses_the_rate(study):
    data = load_study(study)
    every = learned_of(data)
    assert len(every) == 2 * 4
    best = best_of(every)
    assert [one.title for one in best] == ["LoRA", "GRIT", "LoRA, replay 25%", "LoRA, EWC of tasks"]
    for one in best:
        rates = [other for other in every if other.title == one.title]
        even = []
        for other in rates:
            tables = [data.table("stages", record) for record in other.point.records]
            even.append(np.mean([np.mean(_ends(rows, task)[::2]) for rows in tables for task in (1, 2, 3)]))
        assert one.rate == rates[int(np.argmax(even))].rate
        assert one.quality[3, 1].shape == (2, 4)


def test_the_page_lays_everyone_beside_lora(study):
    written = rebuild(study)
    text = (study / "report.html").read_text()
    assert "GRIT against LoRA: final quality over 3 tasks" in text
    assert "the reference" in text
    assert "over_stages" in written.figures
    picture = stage_panels(best_of(learned_of(load_study(study))))
    assert [panel.title for panel in picture.panels] == ["reading", "context", "arithmetic", "general text"]
    assert [len(panel.curves[0].after) for panel in picture.panels] == [3, 2, 1, 3]


def test_a_sequence_must_be_named_where_there_is_no_default(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rows = tmp_path / "r.jsonl"
    rows.write_text('{"question": "q", "answer": "#### 1", "text": "general"}\n')
    files = [part for name in ("train", "eval", "retention") for part in (f"--{name}-file", str(rows))]
    asked = ["--preset", "smoke", "--task", "gsm8k", *files, "--dry-run", "--no-measure", "--methods", "lora"]
    assert continual.SCRIPT.main(asked) == 2
    assert "before = None: must name the tasks" in capsys.readouterr().err
    before = ["--before", f"gsm8k={rows},{rows}"]
    assert continual.SCRIPT.main([*asked, *before]) == 0
    study = continual.SCRIPT.study([*asked, *before])
    assert "before" in study.content
    rows.write_text('{"question": "q", "answer": "#### 2", "text": "general"}\n')
    changed = continual.SCRIPT.study([*asked, *before])
    assert study.content["before"] != changed.content["before"]
    assert not {trial.trial_id for trial in study.trials} & {trial.trial_id for trial in changed.trials}
