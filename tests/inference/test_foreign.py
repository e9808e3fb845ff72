"""Files of another program: the document's answer, or a refusal; thousands more by `python tests/inference/foreign.py`."""

import itertools

import foreign
import pytest

import bnn_jax as bnn


@pytest.mark.parametrize('load', [bnn.load, bnn.runtime.load], ids=['JAX', 'runtime'])
@pytest.mark.parametrize('make', foreign.NETWORKS)
def test_a_foreign_network_gives_what_the_document_says(make, load, tmp_path):
    verdict = foreign.judged(foreign.written(make(0)), tmp_path / 'network.safetensors', load)
    assert verdict in ('right', 'right, up to rounding')


def test_mutants_are_refused_or_right(tmp_path):
    """The mutants are of the smallest network, whose operations compile quickly."""
    mutants = itertools.islice(foreign.mutants(0, (foreign.dense_network,)), 60)
    verdicts = [foreign.judged(content, tmp_path / 'network.safetensors', bnn.load) for _, content in mutants]
    assert {'refused', 'right'} <= set(verdicts)


def test_the_runtime_refuses_mutants_or_is_right(tmp_path):
    path = tmp_path / 'network.safetensors'
    for seed in range(20):
        foreign.judged(foreign.written(foreign.any_windows(seed)), path, bnn.runtime.load)
    mutants = itertools.islice(foreign.mutants(0), 150)
    verdicts = [foreign.judged(content, path, bnn.runtime.load) for _, content in mutants]
    assert {'refused', 'right'} <= set(verdicts)
