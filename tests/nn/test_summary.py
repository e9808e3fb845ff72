"""summarize: numbers a layer and in total, computed from shapes alone."""

from xml.etree import ElementTree

import pytest
from flax import nnx
from networks import abstract, build

import bnn_jax as bnn
from bnn_jax.nn.tables import as_html, listing


def test_one_network_by_hand():
    """LeNet-5's second convolution at width 0.7 (14 -> 35 filters of 5x5), binary in and out."""
    summary = bnn.summarize(build('lenet5', bnn.XNOR), (3, 17, 19, 1))
    layer = next(inner for inner in summary.layers if inner.kind == 'Convolution 5x5x14x35')
    assert (layer.input_bits, layer.weight_bits, layer.output_shape) == (1, 1, (3, 2, 3, 35))
    assert layer.params == layer.binary_params == layer.weights == 25 * 14 * 35
    assert layer.bytes == 4 * layer.params
    assert layer.packed_bytes == 4 * (25 * 1 * 35 + 35)  # one word holds 14 channels; one alpha a filter
    assert (layer.macs_1bit, layer.macs_32bit) == (2 * 3 * 25 * 14 * 35, 0)
    norm = next(inner for inner in summary.layers if inner.kind == 'Norm')
    assert (norm.params, norm.bytes, norm.packed_bytes) == (28, 112, 112)
    assert summary.params == sum(inner.params for inner in summary.layers)
    assert summary.compression == summary.bytes / summary.packed_bytes


def test_float_network_packs_to_itself():
    summary = bnn.summarize(build('resnet18', bnn.FLOAT), (1, 35, 37, 3))
    assert summary.bytes == summary.packed_bytes and summary.binary_params == summary.macs_1bit == 0


def test_parameters_are_those_of_the_model():
    model = build('resnet18', bnn.XNOR)
    sizes = [variable.size for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    assert bnn.summarize(model, (1, 35, 37, 3)).params == sum(sizes)


def test_table_for_people():
    text = str(bnn.summarize(build('lenet5', bnn.XNOR), (1, 17, 19, 1)))
    assert 'Convolution 5x5x14x35' in text and 'total' in text and 'packed' in text.splitlines()[0]


def test_an_abstract_network_with_trained_scales_costs_what_the_real_one_does():
    def made():
        return build('mlp', bnn.schemes.presets.RECU_PYTORCH)

    assert str(bnn.summarize(nnx.eval_shape(made), (1, 5, 7, 3))) == str(bnn.summarize(made(), (1, 5, 7, 3)))


def test_the_totals_of_a_large_network_stay_whole():
    model = abstract(bnn.models.resnet34, num_classes=1000, scheme=bnn.XNOR)
    summary = bnn.summarize(model, (1, 224, 224, 3))
    lines = str(summary).splitlines()
    assert max(map(len, lines)) <= 80
    total = ''.join(line for line in lines if 'total' in line)
    for number in (summary.params, summary.bytes, summary.packed_bytes, summary.macs_1bit, summary.macs_32bit):
        assert f' {number:,} ' in total


def test_tables_say_names_as_they_are_in_text_and_in_a_notebook():
    name = '[red]a[/] :smile: <b>&'
    assert name in listing('', ['name'], [[name]])
    found = ElementTree.fromstring(as_html(name, ['name', 'n'], [[name, '1'], ['total', '2']]))
    assert [cell.text for cell in found.iter('td')] == [name, '1'] and found.findtext('caption') == name
    summary = bnn.summarize(build('lenet5', bnn.XNOR), (1, 17, 19, 1))
    rows = list(ElementTree.fromstring(summary._repr_html_()).iter('tr'))
    assert len(rows) == len(summary.layers) + 2 and rows[-1][4].text == f'{summary.params:,}'


def test_bad_input_is_refused():
    model = build('lenet5', bnn.XNOR)
    with pytest.raises(ValueError, match=r'expected \(N, H, W, 1\)'):
        bnn.summarize(model, (1, 17, 19, 3))
    with pytest.raises(ValueError, match=r'expected \(N, '):
        bnn.summarize(model, (1, 28, 28, 1))
    with pytest.raises(TypeError, match='expected a Network'):
        bnn.summarize(lambda x: x, (1, 17, 19, 3))
