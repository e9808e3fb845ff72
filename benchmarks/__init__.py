"""Benchmarks, each a command of its own: python -m benchmarks.NAME --help. What they measured: docs/performance.md."""
