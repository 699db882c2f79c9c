"""The paper's Tables J1 and J2 (appendix H), as printed."""

from __future__ import annotations

from typing import NamedTuple


class PublishedRegime(NamedTuple):
    """Var_F over the reference's, eigenvalue CV, principal-angle drift, jitter, quality, retention."""

    variance: float
    eigenvalue_cv: float
    drift: float
    jitter: float
    quality: float
    retention: float

    def shown(self) -> str:
        """All in a cell."""
        return ", ".join(f"{value:g}" for value in self)


#: Table J1: by (micro-batch, accumulation).
TABLE_J1: dict[tuple[int, int], PublishedRegime] = {
    (8, 4): PublishedRegime(1.0, 0.05, 0.10, 0.8, 1.0, 1.0),
    (1, 1): PublishedRegime(38.4, 0.354, 0.707, 11.77, 0.920, 0.908),
    (1, 2): PublishedRegime(19.2, 0.25, 0.5, 7.24, 0.945, 0.938),
    (1, 4): PublishedRegime(9.6, 0.177, 0.354, 4.46, 0.965, 0.960),
    (1, 8): PublishedRegime(4.8, 0.125, 0.25, 2.74, 0.978, 0.975),
    (1, 16): PublishedRegime(2.4, 0.088, 0.177, 1.69, 0.986, 0.983),
    (2, 1): PublishedRegime(17.6, 0.23, 0.46, 6.41, 0.950, 0.944),
    (2, 2): PublishedRegime(8.8, 0.163, 0.325, 3.94, 0.970, 0.966),
    (2, 4): PublishedRegime(4.4, 0.115, 0.23, 2.43, 0.983, 0.981),
    (2, 8): PublishedRegime(2.2, 0.081, 0.163, 1.49, 0.991, 0.989),
    (4, 1): PublishedRegime(8.4, 0.151, 0.303, 3.70, 0.973, 0.970),
    (4, 2): PublishedRegime(4.2, 0.107, 0.214, 2.28, 0.986, 0.985),
    (4, 4): PublishedRegime(2.1, 0.076, 0.151, 1.40, 0.994, 0.993),
    (8, 1): PublishedRegime(4.0, 0.1, 0.2, 2.11, 0.988, 0.987),
    (8, 2): PublishedRegime(2.0, 0.071, 0.141, 1.30, 0.996, 0.995),
    (16, 1): PublishedRegime(2.0, 0.071, 0.141, 1.30, 0.996, 0.995),
}
#: Table J2 (b = a = 1), in the order of its columns: Var_F, CV, drift, jitter, diverged %, quality,
#: retention, runtime; its combined row is all three.
TABLE_J2 = {
    "GRIT alone": "38.40, 0.354, 0.707, 11.77, 8, 0.920, 0.908, 1.00",
    "M1 exponential mean": "22.90, 0.255, 0.520, 7.10, 4, 0.938, 0.930, 1.01",
    "M2 burn-in": "27.60, 0.285, 0.575, 8.35, 5, 0.934, 0.925, 1.00",
    "M3 batch-aware damping": "24.80, 0.268, 0.545, 7.65, 4, 0.940, 0.933, 1.00",
    "M1 exponential mean + M2 burn-in + M3 batch-aware damping": "15.20, 0.188, 0.385, 4.55, 1, 0.962, "
    "0.956, 1.02",
}
