"""Methods and metrics of the user's own, in modules that GRIT_EXTENSIONS names."""

import sys

import pytest
from conftest import ROOT

from grit.config.extensions import VARIABLE, load_extensions
from grit.config.registry import METHODS
from grit.config.sections import TaskSource
from grit.errors import ConfigError
from grit.tasks.loading import content_hashes, load_documents, load_task
from sweeps import baselines


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """A module that declares a method, and the variable that names it."""

    def write(scale):
        (tmp_path / "my_methods.py").write_text(
            "from grit.config.registry import METHODS, MethodSpec\n"
            f"METHODS['mine'] = MethodSpec(title='Mine', source='here', rate_multiple={scale})\n"
        )
        return load_extensions()

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(VARIABLE, "my_methods")
    yield write
    METHODS.pop("mine", None)
    sys.modules.pop("my_methods", None)


def test_a_method_of_ones_own_is_planned_like_any_other(extended, capsys):
    extended(1.0)
    assert baselines.SCRIPT.main(["--methods", "lora", "mine", "--dry-run", "--no-measure"]) == 0
    assert sum(line.split()[1:2] == ["mine"] for line in capsys.readouterr().out.splitlines()) > 3


def test_its_source_is_part_of_every_trials_identity(extended, short_run, monkeypatch):
    config = short_run(method="lora")
    source = TaskSource(name="arithmetic")
    task, documents = load_task(source), load_documents(source)

    def identity():
        return config.identity(content_hashes(task, documents, config, str(ROOT / "tests"), ask_hub=False))

    extended(1.0)
    first = identity()
    extended(2.0)
    assert identity() != first
    monkeypatch.delenv(VARIABLE)
    assert "extensions" not in content_hashes(task, documents, config, str(ROOT / "tests"), ask_hub=False)


def test_what_cannot_be_imported_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "nowhere_to_be_found")
    with pytest.raises(ConfigError, match="GRIT_EXTENSIONS = 'nowhere_to_be_found': cannot be imported"):
        load_extensions()
    with pytest.raises(SystemExit) as ended:
        baselines.SCRIPT.main(["--dry-run"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
