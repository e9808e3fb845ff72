"""Benchmarks; `python -m benchmarks.NAME --help` explains each. docs/performance.md has their results."""
