"""SQLite is refused where its locks do not hold; what a study leaves is its user's alone."""

import stat
from pathlib import Path

import pytest
from builders import study, study_file

from grit.errors import ConfigError
from grit.io import local_disk
from grit.io.local_disk import network_file_system
from ray_jobs.records.store import StudyStore
from ray_jobs.schedule.search import open_storage
from ray_jobs.tracking.mlflow_tracker import MlflowTracker

MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:44 / /mnt/shared rw - nfs4 filer:/x rw,vers=4.2
31 30 0:45 / /mnt/shared/fast\040disk rw - xfs /dev/nvme0 rw
32 22 0:46 / /mnt/bucket rw - fuse.gcsfuse bucket rw
"""


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/home/me/study", None),
        ("/mnt/shared/study", "nfs4"),
        ("/mnt/sharedness/study", None),
        ("/mnt/shared/fast disk/study", None),
        ("/mnt/bucket", "gcsfuse"),
    ],
)
def test_the_innermost_mount_decides(tmp_path, path, kind):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert network_file_system(Path(path), tmp_path / "mountinfo") == kind
    assert network_file_system(Path(path), tmp_path / "none") is None


def test_sqlite_on_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(local_disk, "network_file_system", lambda path: "nfs4")
    uri = f"sqlite:///{tmp_path / 'x.db'}"
    with pytest.raises(ConfigError, match="optuna-storage.*nfs4.*journal:PATH"):
        open_storage(uri)
    with pytest.raises(ConfigError, match="tracking-uri.*nfs4.*server's URL"):
        MlflowTracker(uri, study_file(study()))
    assert list(tmp_path.iterdir()) == []
    open_storage(f"journal:{tmp_path / 'journal'}")


def test_a_new_folder_is_its_users_alone(tmp_path):
    made = study()
    store = StudyStore(tmp_path / "new", made.fingerprint(), resume=False)
    store.open(study_file(made))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
