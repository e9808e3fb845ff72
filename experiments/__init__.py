"""Experiments: one file a run, decisions only. `python -m experiments.NAME --help` lists what can be set."""
