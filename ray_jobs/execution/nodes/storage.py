"""Files of a study under Ray's own engine, in any file system that pyarrow knows: file, s3, gs.

Checkpoints on the way are Ray Train's own, below the same root. What lies here is what trials share (scores
of the untuned model, trunks), and what a finished attempt leaves for the driver. Every file appears whole.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pyarrow import ArrowException, fs

from grit.errors import ConfigError
from grit.io.files import write_atomically

#: Schemes that pyarrow and Ray Train both take.
SCHEMES = ("file", "s3", "gs", "hdfs", "abfs", "abfss")


class StudyStorage:
    """One folder of a file system.

    Args:
        root: an absolute path, or a URI.

    Raises:
        ConfigError: a scheme that is not known, or a place that cannot be opened.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        scheme, host = urlsplit(root).scheme, urlsplit(root).netloc
        if scheme and scheme not in SCHEMES:
            raise ConfigError("storage", root, f"must begin with {'://, '.join(SCHEMES)}://")
        if ":" in host.rpartition("@")[0]:
            raise ConfigError("storage", root, "must not hold keys: give them by environment")
        uri = root if scheme else Path(root).absolute().as_uri()
        try:
            self._system, self._path = fs.FileSystem.from_uri(uri)
        except (ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError("storage", root, f"cannot be opened: {reason}") from error

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, whole or not at all.

        Raises:
            OSError: there is no room, or the storage does not answer.
        """
        partial = self._at(f"{name}.{uuid.uuid4().hex[:8]}.partial")
        self._system.create_dir(partial.rpartition("/")[0], recursive=True)
        with self._system.open_output_stream(partial) as stream:
            stream.write(content)
        self._system.move(partial, self._at(name))

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none.

        Raises:
            OSError: the storage does not answer.
        """
        if not self.exists(name):
            return None
        with self._system.open_input_stream(self._at(name)) as stream:
            return bytes(stream.read())

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._system.get_file_info(self._at(name)).type == fs.FileType.File)

    def names(self, folder: str) -> list[str]:
        """Names, below the root, of all files in a folder and its folders; none where it is not there."""
        selector = fs.FileSelector(self._at(folder), recursive=True, allow_not_found=True)
        paths = [info.path for info in self._system.get_file_info(selector) if info.type == fs.FileType.File]
        return sorted(
            path.removeprefix(self._path).lstrip("/") for path in paths if not path.endswith(".partial")
        )

    def forget(self, folder: str) -> None:
        """Removes a folder with all that is in it, if it is there."""
        info = self._system.get_file_info(self._at(folder))
        if info.type == fs.FileType.Directory:
            self._system.delete_dir(self._at(folder))

    def upload(self, local: Path, name: str) -> None:
        """A file of this machine."""
        self.write(name, local.read_bytes())

    def download(self, name: str, local: Path) -> bool:
        """A file onto this machine, whole or not at all; False where there is none."""
        content = self.read(name)
        if content is None:
            return False
        local.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(local, content)
        return True


def below(root: str, name: str) -> str:
    """A folder of a storage: part of the path, before any query; a path of this machine made absolute."""
    parts = urlsplit(root)
    if not parts.scheme:
        return str(Path(root).expanduser().absolute() / name)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
