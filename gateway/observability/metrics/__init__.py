"""Counters of this process and of all workers, and the page for Prometheus."""
