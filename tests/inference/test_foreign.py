"""Files of another program: the document's answer, or a refusal; thousands more by `python tests/inference/foreign.py`."""

import itertools

import foreign
import pytest


@pytest.mark.parametrize('make', foreign.NETWORKS)
def test_a_foreign_network_gives_what_the_document_says(make, tmp_path):
    assert foreign.judged(foreign.written(make(0)), tmp_path / 'network.safetensors') in (
        'right',
        'right, up to rounding',
    )


def test_mutants_are_refused_or_right(tmp_path):
    """Of the smallest network, whose operations are compiled soon."""
    mutants = itertools.islice(foreign.mutants(0, (foreign.dense_network,)), 60)
    verdicts = [foreign.judged(content, tmp_path / 'network.safetensors') for _, content in mutants]
    assert {'refused', 'right'} <= set(verdicts)
