"""The plots of docs/maths.md: forward and gradient of each quantizer.

    python -m experiments.picture_quantizers docs/quantizers

A plot shows the output and its gradient over the input x. If a quantizer needs a whole filter or image, one of its numbers is
x, and eight others stay constant.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from bnn_jax import quantizers as q
from bnn_jax.schemes import AdaptiveSign, RSign
from experiments import run_command

Quantizer = Callable[[jax.Array], jax.Array]
OTHERS = np.array([-1, -0.7, -0.4, -0.1, 0.1, 0.4, 0.7, 1], np.float32)
"""The constant numbers of a filter or an image; x is appended to them."""


def rsign(x: jax.Array) -> jax.Array:
    """RSign with a trained bias of 0.5."""
    quantizer = RSign(1)
    quantizer.bias = nnx.Param(jnp.full((1,), 0.5))
    return quantizer(x)


def adaptive_sign(x: jax.Array) -> jax.Array:
    """AdaptiveSign with a trained distance of 0.8 and center of 0.3."""
    quantizer = AdaptiveSign(1)
    quantizer.distance, quantizer.center = nnx.Param(jnp.float32(0.8)), nnx.Param(jnp.float32(0.3))
    return quantizer(x)


# File name -> quantizers by label, and the shape of x together with OTHERS; (1,): x alone.
PLOTS: dict[str, tuple[dict[str, Quantizer], tuple[int, ...]]] = {
    'sign_ste': ({'': q.sign_ste}, (1,)),
    'sign_approx': ({'': q.sign_approx}, (1,)),
    'sign_swish': ({'': q.sign_swish}, (1,)),
    'stochastic_sign_ste': ({'': lambda x: q.stochastic_sign_ste(x, jax.random.key(0))}, (1,)),
    'sign_ede': ({f't = {t:g}': partial(q.sign_ede, t=t) for t in (0.1, 1.0, 3.0)}, (1,)),
    'sign_approx_by_image': ({'': q.sign_approx_by_image}, (1, 9)),
    'rsign': ({'': rsign}, (1,)),
    'adaptive_sign': ({'': adaptive_sign}, (1,)),
    'dorefa_activations': (
        {'1 bit': partial(q.dorefa_activations, bits=1), '2 bits': partial(q.dorefa_activations, bits=2)},
        (1,),
    ),
    'scaled_sign_ste': ({'': q.scaled_sign_ste}, (9, 1)),
    'scaled_sign_paper': ({'': q.scaled_sign_paper}, (9, 1)),
    'scaled_sign_ste_const_alpha': ({'': q.scaled_sign_ste_const_alpha}, (9, 1)),
    'scaled_sign_plain_ste': ({'': q.scaled_sign_plain_ste}, (9, 1)),
    'layer_scaled_sign': ({'': q.layer_scaled_sign}, (9, 1)),
    'dorefa_weights': ({'2 bits': partial(q.dorefa_weights, bits=2)}, (9, 1)),
    'balanced_sign_ede': ({f't = {t:g}': partial(q.balanced_sign_ede, t=t) for t in (0.1, 1.0, 3.0)}, (9, 1)),
    'recu_scaled_sign': (
        {f'tau = {tau:g}': partial(q.recu_scaled_sign, tau=tau) for tau in (0.85, 0.99)},
        (9, 1),
    ),
}


def curves(quantizer: Quantizer, shape: tuple[int, ...], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The output at each x, and its derivative there.

    Args:
        quantizer: the function.
        shape: the shape of its input, whose last number is x; (1,): x alone.
        x: the numbers.
    """
    if shape == (1,):
        y, backward = jax.vjp(quantizer, jnp.asarray(x)[:, None])
        return np.asarray(y)[:, 0], np.asarray(backward(jnp.ones_like(y))[0])[:, 0]

    def one(number):
        # The derivative of the last output with respect to the last input.
        y, backward = jax.vjp(quantizer, jnp.append(OTHERS, number).reshape(shape))
        last = jnp.zeros(y.size, y.dtype).at[-1].set(1).reshape(y.shape)
        return y.reshape(-1)[-1], backward(last)[0].reshape(-1)[-1]

    y, gradient = jax.jit(jax.vmap(one))(jnp.asarray(x))
    return np.asarray(y), np.asarray(gradient)


def draw(name: str, path: Path) -> None:
    """Write the plot of one quantizer as SVG, in colors for light and dark pages.

    Args:
        name: a key of `PLOTS`.
        path: the file.
    """
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    chosen, shape = PLOTS[name]
    x = np.linspace(-2, 2, 161, dtype=np.float32)
    gray = '#808080'
    style: Any = {
        'svg.fonttype': 'none',
        'svg.hashsalt': name,
        'font.family': 'sans-serif',
        'font.size': 9,
        'text.color': gray,
        'axes.edgecolor': gray,
        'axes.labelcolor': gray,
        'xtick.color': gray,
        'ytick.color': gray,
    }
    with plt.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(6, 2), layout='constrained')
        largest = 1.0
        for label, quantizer in chosen.items():
            y, gradient = curves(quantizer, shape, x)
            largest = max(largest, np.abs(y).max())
            # No line is drawn across a jump.
            jumps = np.abs(np.diff(y)) > 0.2
            dots = {'linestyle': '', 'marker': '.', 'markersize': 3} if name.startswith('stochastic') else {}
            if not dots:
                y = np.where(np.append(jumps, False), np.nan, y)
            left.plot(x, y, label=label or None, linewidth=1.5, **dots)
            right.plot(x, gradient, label=label or None, linewidth=1.5)
        for axis, title in ((left, 'forward'), (right, 'gradient')):
            axis.set_title(title, fontsize=9)
            axis.axhline(0, color=gray, linewidth=0.5)
            axis.axvline(0, color=gray, linewidth=0.5)
            axis.set_xlabel('x')
            axis.spines[['top', 'right']].set_visible(False)
        left.set_ylim(-1.1 * largest, 1.1 * largest)
        right.set_ylim(bottom=min(-0.1, right.get_ylim()[0]))
        if len(chosen) > 1:
            right.legend(frameon=False, fontsize=8, loc='upper right')
        figure.savefig(path, transparent=True, metadata={'Date': None})
        plt.close(figure)


def main(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write all plots.

    Args:
        folder: folder of the plots, made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in PLOTS:
        draw(name, folder / f'{name}.svg')
    print(f'{folder}: {len(PLOTS)} plots')


def command(arguments: Sequence[str] | None = None) -> None:
    """Run `main` with the options of the command line; arguments: by default those of this process."""
    run_command(main, 'picture_quantizers', __doc__, arguments)


if __name__ == '__main__':
    command()
