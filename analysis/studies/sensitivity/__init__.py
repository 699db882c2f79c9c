"""The sensitivity study's report: bands, recommendation, failure modes, figures, the paper's Table 13."""
