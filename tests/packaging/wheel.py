"""An installed wheel has its C++ kernels, the runtime needs no JAX, and both give a network's logits.

Command: make wheel. It runs this with the Python of an empty environment in which only the wheel was installed.
"""

import sys
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / 'golden'
NETWORK = GOLDEN / 'groups_0.1.0.safetensors'


def main() -> None:
    """Loads a network of 0.1.0 both ways."""
    from bnn_jax import runtime

    assert 'site-packages' in str(runtime.__file__), runtime.__file__
    assert runtime.missing() is None, runtime.missing()
    with np.load(GOLDEN / 'groups_0.1.0.npz') as golden:
        images, expected = golden['images'], golden['logits']
    without_jax = runtime.load(NETWORK)(images)
    assert 'jax' not in sys.modules
    import bnn_jax as bnn
    from bnn_jax.kernels import native

    assert native.missing() is None, native.missing()
    with_jax = np.asarray(bnn.load(NETWORK)(images))
    # The float layers of this network are added up in another order by XLA, and were by the version that recorded the logits.
    for logits in (without_jax, with_jax):
        np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)
    print(f'Python {sys.version.split()[0]}: {", ".join(runtime.instruction_sets())}; {with_jax.size} logits are right')


if __name__ == '__main__':
    main()
