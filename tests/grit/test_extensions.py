"""Methods and metrics of the user's own, in modules that GRIT_EXTENSIONS names."""

import importlib
import sys

import pytest
from builders import study, study_file
from conftest import ROOT

from grit.config.extensions import VARIABLE, check_extensions, extensions_digest, load_extensions
from grit.config.registry import METHODS
from grit.config.sections import TaskSource
from grit.errors import ConfigError
from grit.tasks.loading import content_hashes, load_documents, load_task
from ray_jobs.records.study_file import read_study
from sweeps import baselines


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """A module that declares a method, and the variable that names it."""

    def write(scale):
        (tmp_path / "my_methods.py").write_text(
            "from grit.config.registry import METHODS, MethodSpec\n"
            f"METHODS['mine'] = MethodSpec(title='Mine', source='here', rate_multiple={scale})\n"
        )
        sys.modules.pop("my_methods", None)  # as in another process
        importlib.invalidate_caches()
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


def test_what_is_hashed_is_what_was_imported(extended, tmp_path):
    before = extended(1.0)
    (tmp_path / "my_methods.py").write_text("changed since")
    assert load_extensions() == before


def test_a_package_is_all_its_modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(VARIABLE, "my_package")
    hashes = []
    for text in ("one = 1", "one = 2"):
        (tmp_path / "my_package").mkdir(exist_ok=True)
        (tmp_path / "my_package" / "__init__.py").write_text("")
        (tmp_path / "my_package" / "part.py").write_text(text)
        hashes.append(load_extensions()["my_package"])
        sys.modules.pop("my_package")
    assert hashes[0] != hashes[1]


def test_other_extensions_than_those_of_the_plan_are_refused(extended, monkeypatch):
    extended(1.0)
    planned = extensions_digest()
    check_extensions(planned)
    extended(2.0)
    with pytest.raises(ConfigError, match="is not what the study was planned with"):
        check_extensions(planned)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ConfigError, match="is not what the study was planned with"):
        check_extensions(planned)


def test_a_folder_made_with_them_is_read_with_them_alone(extended, tmp_path, monkeypatch):
    made = study_file(study(), extensions=extended(1.0))
    (tmp_path / "s").mkdir()
    made.write(tmp_path / "s")
    assert read_study(tmp_path / "s").last_call.extensions == made.last_call.extensions
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(
        ConfigError, match="GRIT_EXTENSIONS = None: must name my_methods, which this was made"
    ):
        read_study(tmp_path / "s")


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


@pytest.mark.parametrize(
    "text, words",
    [(None, "ModuleNotFoundError"), ("1 +", "SyntaxError"), ("nothing.at_all", "NameError")],
    ids=["missing", "malformed", "raises"],
)
def test_what_cannot_be_imported_is_one_line(tmp_path, monkeypatch, capsys, text, words):
    monkeypatch.syspath_prepend(str(tmp_path))
    if text is not None:
        (tmp_path / "broken.py").write_text(text)
    monkeypatch.setenv(VARIABLE, "broken")
    with pytest.raises(ConfigError, match=f"GRIT_EXTENSIONS = 'broken': cannot be imported: {words}"):
        load_extensions()
    with pytest.raises(SystemExit) as ended:
        baselines.SCRIPT.main(["--dry-run"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
