"""What users do with modules: nest, share, subclass, override, keep arrays of their own. One case each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bnn_jax as bnn
from bnn_jax import nn, training
from bnn_jax.schemes import AdaptiveSign, RSign, Trained, real_input

X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


def linear(scheme=bnn.XNOR, sizes=(8, 8)):
    return nn.Linear(*sizes, scheme=scheme, rngs=nnx.Rngs(0))


class Own(nnx.Module):
    """Attributes and a call as given."""

    def __init__(self, call, **attributes):
        self.call = call
        for name, value in attributes.items():
            setattr(self, name, value)

    def __call__(self, x):
        return self.call(self, x)


NESTED = {
    'a list of lists': Own(lambda s, x: s.a[0][0](x), a=nnx.List([nnx.List([linear()])])),
    'a dictionary of lists': Own(lambda s, x: s.a['b'][0](x), a=nnx.Dict(b=nnx.List([linear()]))),
    'a module in a container': nn.Sequential([linear(), Own(lambda s, x: s.a(x) + x, a=linear())]),
    'a container in a module': Own(
        lambda s, x: s.a(x), a=nn.Sequential([linear(bnn.BNN), nn.PRelu(8), linear(bnn.BNN)])
    ),
    'one layer called twice': Own(lambda s, x: s.a(s.a(x)), a=linear()),
    'c1 beside c10': Own(lambda s, x: s.c10(s.c1(x)), c1=linear(), c10=linear()),
}


@pytest.mark.parametrize('model', NESTED.values(), ids=NESTED)
def test_every_binary_layer_is_found(model):
    model.eval()
    packed = bnn.convert(model)
    np.testing.assert_array_equal(packed(jnp.asarray(X)), model(jnp.asarray(X)))
    binary = [p.path for p in nn.walk(model) if isinstance(p.layer, nn.Product)]
    assert binary == [row.path for row in packed.report.rows if row.became == 'xnor + popcount']
    assert binary == [layer.path for layer in bnn.summarize(model, X.shape).layers if layer.weight_bits == 1]


def test_a_shared_layer_stays_shared():
    layer = linear()
    packed = bnn.convert(Own(lambda s, x: s.b(s.a(x)), a=layer, b=layer))
    assert packed.a is packed.b and len(packed.report.rows) == 1


def test_a_subclass_that_computes_something_else_is_refused_or_kept():
    class Doubled(nn.Linear):
        def __call__(self, x):
            return 2 * super().__call__(x)

    class Residual(nn.Sequential):
        def __call__(self, x):
            return x + super().__call__(x)

    with pytest.raises(ValueError, match='layer a: Doubled has a __call__ of its own but not its own packed'):
        bnn.convert(Own(lambda s, x: s.a(x), a=Doubled(8, 8, scheme=bnn.XNOR, rngs=nnx.Rngs(0))))
    model = Own(lambda s, x: s.a(x), a=Residual([linear(), linear()]))
    packed = bnn.convert(model)
    np.testing.assert_array_equal(packed(X), model(X))
    assert [row.path for row in packed.report.rows] == ['a.0', 'a.1']


def test_real_sums_that_a_sign_reads_keep_their_order():
    first = nn.Linear(200, 64, scheme=real_input(bnn.BNN), use_bias=False, rngs=nnx.Rngs(0))
    model = Own(lambda s, x: s.b(s.norm(s.a(x))), a=first, norm=nn.Norm(64, scheme=bnn.BNN, rngs=nnx.Rngs(0)))
    model.b = nnx.data(linear(bnn.BNN, (64, 5)))
    x = np.random.default_rng(1).normal(size=(64, 200)).astype(np.float32)
    model.norm.mean[...] = first(x)[0]  # The first row's signs hang on the last bit.
    model.eval()
    packed = bnn.convert(model)
    np.testing.assert_array_equal(packed(x), model(x))


def test_arrays_of_the_modules_own_are_saved(tmp_path):
    def call(s, x):
        return s.a(x) * s.raw * s.scalar[...] + s.inside[0][...]

    def build(value):
        raw = nnx.data(jnp.full((4, 8), value, jnp.float32))
        inside = nnx.data([nnx.Param(jnp.full((4, 8), value, jnp.float32))])
        return Own(call, a=linear(), raw=raw, scalar=nnx.Param(jnp.full((4, 8), value, jnp.float32)), inside=inside)

    packed = bnn.convert(build(3))
    loaded = bnn.load(bnn.save(packed, tmp_path / 'own.safetensors'), into=build(1))
    np.testing.assert_array_equal(loaded(X), packed(X))
    one = Own(lambda s, x: s.a(x), a=linear(), b=nnx.Param(jnp.float32(3)))
    loaded = bnn.load(bnn.save(bnn.convert(one), tmp_path / 'scalar.safetensors'), into=one)
    assert loaded.b[...].shape == ()


def test_a_file_may_have_other_thresholds(tmp_path):
    def build(slope):
        layer = nn.PRelu(8)
        layer.slope[...] = jnp.full((8,), slope, jnp.float32)
        return Own(lambda s, x: s.a(x), a=nn.Sequential([linear(bnn.BNN), layer, linear(bnn.BNN)]))

    packed = bnn.convert(build(-0.5))
    loaded = bnn.load(bnn.save(packed, tmp_path / 'own.safetensors'), into=build(0.25))
    np.testing.assert_array_equal(loaded(X), packed(X))


def test_what_cannot_be_converted_says_why():
    model = Own(lambda s, x: s.a(x), a=linear())
    with pytest.raises(ValueError, match='converted already'):
        bnn.convert(bnn.convert(model))
    with pytest.raises(ValueError, match='without binary weights'):
        bnn.convert(linear(bnn.FLOAT))
    with pytest.raises(ValueError, match="an attribute 'report'"):
        bnn.convert(Own(lambda s, x: s.a(x), a=linear(), report=linear(bnn.FLOAT)))
    with pytest.raises(AttributeError, match='this layer is packed'):
        _ = bnn.convert(model).a.kernel


def test_a_shift_alone_may_stand_in_groups_and_beside_other_padding():
    scheme = dataclasses.replace(bnn.XNOR, activation=Trained(RSign), pad_value=-1)
    layer = nn.Conv(6, 6, 3, 2, padding=1, feature_group_count=6, scheme=scheme, rngs=nnx.Rngs(0))
    layer.activation.bias[...] = jnp.linspace(-1, 1, 6)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 5, 6)), jnp.float32)
    np.testing.assert_array_equal(bnn.convert(layer)(x), layer(x))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'chain': ('norm', 'pool')}, 'expected one with a product'),
        ({'chain': ['norm', 'product']}, 'expected a tuple'),
        ({'residual': ('norm', 'product')}, 'expected OneShortcut'),
        ({'activation': RSign}, r'expected Trained\(RSign\)'),
    ],
)
def test_schemes_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(bnn.XNOR, **change)
    with pytest.raises(ValueError, match='expected a tuple'):
        bnn.schemes.OneShortcut(('nrom', 'product'), ('norm', 'product'))


def test_a_converted_module_is_a_pytree():
    packed = bnn.convert(Own(lambda s, x: s.a(x), a=linear()))
    np.testing.assert_array_equal(jax.jit(lambda p, x: p(x))(packed, X), packed(X))


def trained_sign(kind, **changes):
    return dataclasses.replace(bnn.XNOR, activation=Trained(kind), **changes)


def test_a_nan_stays_a_nan():
    """A dense layer gives NaN in its row, a convolution in its image. Infinite inputs have a sign."""
    x = jnp.asarray(X).at[0, 1].set(jnp.nan).at[1, 2].set(-jnp.inf)
    model = Own(lambda s, x: s.a(x), a=linear())
    expected = np.asarray(model(x))
    assert np.isnan(expected).all(1).tolist() == [True, False, False, False]
    np.testing.assert_array_equal(bnn.convert(model)(x), expected)
    model = Own(lambda s, x: s.a(x), a=nn.Conv(1, 2, 1, scheme=bnn.BNN, rngs=nnx.Rngs(0)))
    assert np.isnan(bnn.convert(model)(x.reshape(4, 2, 4, 1))).all((1, 2, 3)).tolist() == [True, False, False, False]


def test_parameters_of_the_modules_own_are_counted():
    def call(s, x):
        return s.a(x) * s.gain[...] + s.b(x) * s.inner.offset[0][...]

    inner = Own(lambda s, x: s.c(x), c=linear(), offset=nnx.List([nnx.Variable(jnp.ones((4, 8)))]))
    model = Own(call, a=linear(), b=linear(bnn.FLOAT), inner=inner, gain=nnx.Param(jnp.ones((4, 8))))
    rows = {row.path: row.bytes for row in bnn.convert(model).report.rows}
    assert rows['gain'] == rows['inner.offset.0'] == 4 * 32
    summary = bnn.summarize(model, X.shape)
    own = {layer.path: (layer.kind, layer.params, layer.bytes, layer.packed_bytes) for layer in summary.layers}
    assert own['gain'] == ('Param', 32, 128, 128)
    assert own['inner.offset.0'] == ('Variable', 0, 128, 128)
    assert summary.params == 2 * (64 + 8) + 32  # inner.c is never called


def test_what_is_called_twice_costs_twice_and_is_stored_once():
    once, twice = (Own(call, a=linear()) for call in (lambda s, x: s.a(x), lambda s, x: s.a(s.a(x))))
    layer = linear()
    shared = Own(lambda s, x: s.b(s.a(x)), a=layer, b=layer)
    costs = [bnn.summarize(model, X.shape) for model in (once, twice, shared)]
    assert [cost.macs_1bit for cost in costs] == [64, 2 * 64, 2 * 64]
    assert len({(cost.params, cost.bytes, cost.packed_bytes) for cost in costs}) == 1


@pytest.mark.parametrize('kind', [RSign, AdaptiveSign])
def test_packed_bytes_of_trained_signs_are_those_of_the_file(kind):
    model = nn.Sequential([linear(trained_sign(kind))])
    assert bnn.summarize(model, X.shape).packed_bytes == bnn.convert(model).report.bytes


def test_a_layer_alone_is_summarized():
    assert bnn.summarize(linear(), X.shape).binary_params == 64
    nothing = bnn.summarize(Own(lambda s, x: x), X.shape)
    assert nothing.compression == 1 and 'total' in str(nothing)


@pytest.mark.parametrize('scheme', [bnn.BNN, trained_sign(RSign)], ids=['norm', 'shift'])
def test_bfloat16_inputs_have_the_answers_of_training(scheme):
    layer = linear(scheme)
    if layer.activation is not None and isinstance(layer.activation, RSign):
        layer.activation.bias[...] = jnp.linspace(-1, 1, 8)  # bfloat16 would round it.
    model = Own(lambda s, x: s.a(x), a=nn.Sequential([nn.Norm(8, scheme=scheme, rngs=nnx.Rngs(0)), layer]))
    model.a.layers[0].mean[...] = jnp.linspace(-1, 1, 8)
    model.eval()
    x = jnp.asarray(X, jnp.bfloat16)
    np.testing.assert_array_equal(bnn.convert(model)(x), model(x))
    np.testing.assert_array_equal(bnn.convert(layer)(x), layer(x))


def test_bfloat16_parameters_are_saved(tmp_path):
    def build(seed):
        real = nnx.Linear(8, 8, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(seed))
        return Own(lambda s, x: s.a(s.b(x)), a=linear(), b=real)

    packed = bnn.convert(build(1))
    loaded = bnn.load(bnn.save(packed, tmp_path / 'narrow.safetensors'), into=build(2))
    assert loaded.b.kernel[...].dtype == jnp.bfloat16
    np.testing.assert_array_equal(loaded.b.kernel[...], packed.b.kernel[...])


def test_a_float_layer_costs_the_bytes_of_its_arrays():
    real = nnx.Linear(8, 8, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    row = bnn.summarize(nn.Sequential([real]), X.shape).layers[0]
    assert (row.params, row.bytes, row.packed_bytes) == (8 * 8 + 8, 2 * 72, 2 * 72)


def test_random_keys_are_no_bytes():
    net = nn.Sequential([linear(), nnx.Dropout(0.5, rngs=nnx.Rngs(0))])
    assert bnn.convert(net).report.rows[1].bytes == bnn.summarize(net, X.shape).layers[1].packed_bytes == 0


def test_errors_name_what_a_packed_module_cannot_do(tmp_path):
    def build(scheme):
        return Own(lambda s, x: s.a(x), a=linear(scheme))

    packed = bnn.convert(build(bnn.XNOR))
    with pytest.raises(TypeError, match='gradient: got a packed layer'):
        jax.grad(lambda x: packed(x).sum())(jnp.asarray(X))
    with pytest.raises(TypeError, match='got a converted Own, expected the trained model'):
        bnn.summarize(packed, X.shape)
    with pytest.raises(TypeError, match='init: got a Own that is converted'):
        training.init(packed, optax.sgd(0.1))
    with pytest.raises(TypeError, match='float_twin: got a Own.*any other module, use the trained model'):
        bnn.inference.float_twin(packed)
    with pytest.raises(TypeError, match='got a PackedSequential, a packed layer alone'):
        bnn.save(bnn.convert(nn.Sequential([linear()])), tmp_path / 'chain')
    path = bnn.save(packed, tmp_path / 'own.safetensors')
    with pytest.raises(ValueError, match='into is a Own without binary weights, expected one with binary layers at a,'):
        bnn.load(path, into=build(bnn.FLOAT))
    with pytest.raises(TypeError, match='load: into: got int, expected .* any nnx.Module'):
        bnn.load(path, into=3)


def test_drawn_weights_count_under_trained_levels():
    """The product of weights drawn at random is that of the draws, not of the signs of evaluation."""
    layer = linear(dataclasses.replace(bnn.BC_STOCHASTIC, activation=Trained(AdaptiveSign)))
    layer.kernel[...] = jnp.zeros((8, 8))  # Every sign is drawn evenly; evaluation has +1 everywhere.
    x = jnp.asarray(X)
    outputs = [np.asarray(layer(x)) for _ in range(4)]
    assert len({y.tobytes() for y in outputs}) == 4
    layer.eval()
    np.testing.assert_array_equal(layer(x), np.where(X >= 0, 1, -1).sum(1, keepdims=True).repeat(8, 1))


def test_training_uses_a_networks_own_call():
    class Doubled(nn.Network):
        def __call__(self, images):
            return 2 * super().__call__(images)

    head = nn.Auxiliary(nn.Sequential([nn.Flatten()]), 0.5)
    x = X.reshape(4, 2, 2, 2)
    net, plain = (kind([nn.Flatten(), linear(bnn.FLOAT)], channels=2, num_classes=8) for kind in (Doubled, nn.Network))
    np.testing.assert_array_equal(net.with_auxiliary(x)[0], 2 * plain(x))
    with pytest.raises(TypeError, match='Doubled has a __call__ of its own and auxiliary heads'):
        Doubled([head, nn.Flatten(), linear(bnn.FLOAT)], channels=2, num_classes=8).with_auxiliary(x)


def test_a_call_under_nnx_jit_moves_no_weight():
    """Weights beyond 1, as a float network's are where a binary run starts from it."""
    model = bnn.nn.Linear(6, 4, scheme=bnn.BIREAL, rngs=nnx.Rngs(0))
    model.kernel.set_value(3 * model.kernel[...] / jnp.abs(model.kernel[...]).max())
    before = np.asarray(nnx.merge(*nnx.split(model)).kernel[...])
    nnx.jit(lambda model, x: model(x))(model, jnp.ones((2, 6)))
    np.testing.assert_array_equal(model.kernel[...], before)


class Holding(nnx.Module):
    """A binary layer, and variables of every kind beside it."""

    def __init__(self):
        self.linear = bnn.nn.Linear(6, 4, scheme=bnn.XNOR, rngs=nnx.Rngs(0))
        self.number, self.nothing = nnx.Variable(0), nnx.Variable(None)
        self.two = nnx.Variable({'a': jnp.ones(3), 'b': jnp.ones(2)})
        self.key = nnx.Variable(jax.random.key(0))

    def __call__(self, x):
        return self.linear(x.reshape(-1, 6))


def test_what_a_module_holds_beside_its_layers_is_counted_or_let_be():
    model, x = Holding(), np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)
    assert bnn.summarize(model, x.shape).bytes == bnn.summarize(model.linear, (6, 6)).bytes + 4 * (3 + 2)
    packed = bnn.convert(model)
    np.testing.assert_array_equal(packed(x), model(x))


def test_a_nan_where_rows_are_folded_and_where_inputs_are_real():
    x = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)
    x[0, 1, 2] = np.nan

    def rows(layer):
        return bnn.convert(Wrapped(bnn.nn.Sequential([lambda x: x.reshape(-1, 6), layer])))(x)

    class Wrapped(nnx.Module):
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, x):
            return self.inner(x)

    assert np.isnan(rows(bnn.nn.Linear(6, 4, scheme=bnn.XNOR, rngs=nnx.Rngs(0)))).any()
    real = rows(bnn.nn.Linear(6, 4, scheme=bnn.BWN, rngs=nnx.Rngs(0)))
    np.testing.assert_array_equal(np.isnan(real).any(1), [False, True] + 4 * [False])


def test_an_array_that_a_file_cannot_hold_is_refused_when_it_is_saved(tmp_path):
    model = Wrapping(jnp.ones(2, jnp.float8_e4m3fn))
    with pytest.raises(ValueError, match='save: other.value: got an array of float8_e4m3fn, expected one of bool'):
        bnn.save(bnn.convert(model), tmp_path / 'network.safetensors')
    model = Wrapping(jnp.ones(2, jnp.complex64))
    path = bnn.save(bnn.convert(model), tmp_path / 'network.safetensors')
    assert bnn.load(path, into=model).other.dtype == jnp.complex64


class Wrapping(nnx.Module):
    def __init__(self, other):
        self.linear, self.other = bnn.nn.Linear(6, 4, scheme=bnn.XNOR, rngs=nnx.Rngs(0)), nnx.Variable(other)

    def __call__(self, x):
        return self.linear(x)
