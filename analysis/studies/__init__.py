"""One page per kind of study; each joins data, statistics and pages."""
