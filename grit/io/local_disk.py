"""Whether a path lies on a disk of this machine: SQLite's locks do not hold on network file systems."""

from __future__ import annotations

from pathlib import Path

from grit.errors import ConfigError

#: File systems that several machines share, by the kernel's name; those of FUSE by what follows the dot.
NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p")
    + ("gcsfuse", "s3fs", "sshfs", "blobfuse", "blobfuse2", "juicefs", "goofys", "rclone", "ceph-fuse")
)
_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The kind of network file system that a path lies on; None for a disk of this machine.

    Where the kernel does not list its mounts, every path is taken for one.
    """
    if not mounts.exists():
        return None
    where, kind = Path("/"), ""
    for line in mounts.read_text(encoding="utf8").splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        if path.absolute().is_relative_to(point) and len(point.parts) >= len(where.parts):
            where, kind = point, after.split()[0]
    kind = kind.removeprefix("fuse.")
    return kind if kind in NETWORK else None


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address; None for another kind of address."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def check_sqlite(option: str, uri: str, instead: str) -> None:
    """Refuses an SQLite file on a network file system.

    Args:
        option: what asked for it.
        uri: of any kind.
        instead: what to give.

    Raises:
        ConfigError: it lies on one.
    """
    path = sqlite_file(uri)
    if path is None:
        return
    kind = network_file_system(path)
    if kind is not None:
        raise ConfigError(
            option, uri, f"lies on a network file system ({kind}), where SQLite breaks: {instead}"
        )
