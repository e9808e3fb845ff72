"""Your own network, as a plain Flax module: trained, packed, saved and loaded: python -m examples.own_network"""

import jax
from flax import nnx

import bnn_jax as bnn
from bnn_jax.data import Standardize, digits
from bnn_jax.training import Config, run


class Net(nnx.Module):
    """Two binary convolutions between a real stem and a real head."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norms = nnx.List([bnn.nn.Norm(16, scheme=bnn.XNOR, rngs=rngs) for _ in range(2)])
        self.convolutions = nnx.List(
            [bnn.nn.Conv(16, 16, (3, 3), padding=1, scheme=bnn.XNOR, rngs=rngs) for _ in range(2)]
        )
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = x + convolution(norm(x))
        return self.head(nnx.relu(x).mean((1, 2)))


def images(split: str, data_dir: str):
    """1,797 handwritten digits, bundled with scikit-learn."""
    return digits(split)


def main(workdir: str = 'runs/own_network', epochs: int = 10) -> dict:
    """Train, load the packed file, and print its report."""
    config = Config(
        model=Net,
        data=images,
        standardize=Standardize((0.305,), (0.376,)),
        epochs=epochs,
        learning_rate=1e-2,
        workdir=workdir,
    )
    results = run('own_network', config)
    packed = bnn.load(f'{workdir}/packed.safetensors', into=Net(nnx.Rngs(0)))
    print(packed.report)
    return results


if __name__ == '__main__':
    print(main()['packed_test_accuracy'])
