"""How busy a machine is: read now and then."""

from grit.runtime import machine_load
from grit.runtime.machine_load import MachineLoad


def test_a_reading_is_in_percent_and_none_is_due_soon_after(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(machine_load.time, "monotonic", lambda: now[0])
    load = MachineLoad("cpu")
    first = load.reading()
    assert set(first) == {"cpu_utilization_percentage", "system_memory_usage_percentage"}
    assert all(0 <= value <= 100 for value in first.values())
    now[0] += machine_load.READING_SECONDS - 0.1
    assert load.reading() is None
    now[0] += 0.2
    assert load.reading() is not None
