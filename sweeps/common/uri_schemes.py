"""Which stores an address can name: looked at before anything heavy is imported, or anything measured."""

from __future__ import annotations

from grit.errors import ConfigError

_DATABASES = ("sqlite", "postgresql", "mysql")
#: By option, the schemes of an address; what has none is a path, or a name of its own.
SCHEMES: dict[str, tuple[str, ...]] = {
    "tracking-uri": ("http", "https", "file", *_DATABASES, "mssql", "databricks", "databricks-uc", "uc"),
    "optuna-storage": (*_DATABASES, "mariadb", "oracle", "mssql", "journal"),
}


def check_scheme(option: str, uri: str | None) -> None:
    """Refuses an address that no store answers to; a database's driver (mysql+pymysql) is its own affair.

    Raises:
        ConfigError: naming the schemes that there are.
    """
    if uri is None or "://" not in uri:
        return
    scheme = uri.partition("://")[0].partition("+")[0].lower()
    if scheme not in SCHEMES[option]:
        raise ConfigError(option, uri, f"must begin with one of {', '.join(SCHEMES[option])}")
