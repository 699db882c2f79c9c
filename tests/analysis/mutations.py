"""Seeded damage to a study's folder: what a disk, an editor, another program or a stranger may do."""

from __future__ import annotations

import json
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq

#: Values of other types than a field has, and words that mean something to JSON, HTML, Markdown or LaTeX.
ODD_VALUES = (
    None,
    True,
    -1,
    0,
    10**40,
    1e308,
    "",
    "word",
    "a\u2028b",
    "<script>alert(1)</script>",
    "](javascript:x) | `x` \\input{/etc/passwd}",
    "../../outside",
    [],
    [None],
    {},
    {"a": {"b": [1, 2]}},
)
KINDS = ("predictions", "telemetry", "geometry", "events")


class Mutation:
    """One mutation, decided by its seed.

    Attributes:
        said: names what was done; `names` are words of which a report that is written must hold one.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.said, self.names = "", ()

    def apply(self, folder):
        """Damages the folder."""
        act = self.random.choice(
            (
                self._value_in_study,
                self._value_in_trial,
                self._value_in_trial,
                self._value_in_trial,
                self._text,
                self._table,
                self._table,
                self._column,
                self._column,
                self._place,
                self._link,
            )
        )
        act(folder)
        return self

    def _spot(self, values):
        """A random place in nested values: its parent and key."""
        places = []

        def walk(parent):
            items = parent.items() if isinstance(parent, dict) else enumerate(parent)
            for key, value in items:
                places.append((parent, key))
                if isinstance(value, dict | list) and value:
                    walk(value)

        walk(values)
        return self.random.choice(places)

    def _change(self, values):
        parent, key = self._spot(values)
        how = self.random.choice(("set", "set", "delete"))
        if how == "delete":
            del parent[key]
        else:
            parent[key] = self.random.choice(ODD_VALUES)
        return f"{how} {key}"

    def _value_in_study(self, folder):
        path = folder / "study.json"
        values = json.loads(path.read_text())
        self.said = f"study.json: {self._change(values)}"
        path.write_text(json.dumps(values))

    def _value_in_trial(self, folder):
        path = folder / "trials.jsonl"
        lines = path.read_text().split("\n")
        number = self.random.randrange(len(lines) - 1)
        values = json.loads(lines[number])
        self.said = f"trials.jsonl line {number + 1}: {self._change(values)}"
        lines[number] = json.dumps(values, ensure_ascii=False)
        path.write_text("\n".join(lines))

    def _text(self, folder):
        path = folder / self.random.choice(("study.json", "trials.jsonl"))
        data = path.read_bytes()
        at = self.random.randrange(len(data))
        how = self.random.choice(("cut", "bytes", "nan", "empty", "twice", "deep", "bom"))
        self.said = f"{path.name}: {how} at {at}"
        changed = {
            "cut": data[:at],
            "bytes": data[:at] + b"\xff\xfe\x00" + data[at:],
            "nan": data.replace(b"null", b"NaN", 1),
            "empty": b"",
            "twice": data + data,
            "deep": b"[" * 100_000,
            "bom": b"\xef\xbb\xbf" + data,
        }
        path.write_bytes(changed[how])

    def _a_table(self, folder):
        return self.random.choice(
            sorted(path for kind in KINDS for path in (folder / kind).glob("*.parquet"))
        )

    def _table(self, folder):
        path = self._a_table(folder)
        how = self.random.choice(("cut", "empty", "text", "missing", "folder", "foreign", "bytes"))
        self.said = f"{path.parent.name}/{path.name}: {how}"
        data = path.read_bytes()
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "foreign":
            pq.write_table(pa.table({"colour": ["red"]}), path)
        elif how != "missing":
            at = self.random.randrange(len(data))
            changed = {
                "cut": data[:at],
                "empty": b"",
                "text": b"not a table",
                "bytes": data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :],
            }
            path.write_bytes(changed[how])
        if path.parent.name == "predictions" and how != "bytes":
            self.names = (path.stem,)

    def _column(self, folder):
        path = self._a_table(folder)
        columns = pq.read_table(path).to_pydict()
        name = self.random.choice(sorted(columns))
        how = self.random.choice(("drop", "null", "text", "nan", "short", "lists"))
        self.said = f"{path.parent.name}/{path.name}: {name} {how}"
        rows = len(columns[name])
        if how == "drop":
            del columns[name]
        elif how == "short":
            columns = {key: values[: rows // 2] for key, values in columns.items()}
        else:
            value = {"null": None, "text": "x", "nan": float("nan"), "lists": [1.0]}[how]
            columns[name] = [value] * rows
        pq.write_table(pa.table(columns), path)

    def _place(self, folder):
        """Something of another kind where a file or a folder should be."""
        name = self.random.choice((*KINDS, "study.json", "trials.jsonl", "report.html", "tables", "figures"))
        self.said = f"{name}: of another kind"
        path = folder / name
        is_file = "." in name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if is_file:
            path.mkdir()
            (path / "inside").write_text("x")
        else:
            path.write_text("a file")

    def _link(self, folder):
        """Names that a report writes to, as links to what is not its own."""
        outside = folder.parent / "outside"
        name = self.random.choice(("tables", "figures", "report.html", "report.md", "pareto.csv"))
        self.said = f"{name}: a link"
        target = outside if "." not in name else outside / "precious.txt"
        (folder / name).symlink_to(target)
