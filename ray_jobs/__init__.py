"""Plans studies, runs their trials on Ray, and writes their records."""
