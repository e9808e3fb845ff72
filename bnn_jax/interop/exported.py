"""A packed network as a StableHLO program, for `jax.export.deserialize` and for compilers that read StableHLO."""

from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from bnn_jax.native import library


def stablehlo(
    network: Any, input_shape: tuple[int, int, int], *, batch: int | None = None, native: bool = False
) -> jax.export.Exported:
    """Export a packed network as a program that holds its binary weights as bits.

    By default the program is plain StableHLO without a custom call, for any platform (run on CPU only so far), and
    needs no bnn_jax. XLA sums products of real numbers in its own order, so the sums may be rounded differently. If
    this flips the sign of a number close to 0, logits differ by more than rounding. The checks by which JAX's export
    would refuse the program are disabled.

    Args:
        network: what `convert` and `load` give.
        input_shape: height, width and channels of an image.
        batch: how many images a call takes; None: any number.
        native: True gives a program for CPU that calls this package's C++ kernels. Its logits are those of `network` on CPU,
            bit for bit. It runs only where this package is installed, after `bnn_jax.kernels.native.missing()` has registered
            the kernels.

    Returns:
        images (batch, H, W, channels) float32 -> logits. `.serialize()` returns the bytes that `jax.export.deserialize`
        reads; both need the package flatbuffers (extra `stablehlo`). `.mlir_module_serialized` is StableHLO's own bytecode, for
        other compilers.

    Raises:
        ValueError: the images do not fit the network.
        RuntimeError: `native` is True, and the C++ kernels cannot run here.

    Example:
        >>> import jax, bnn_jax as bnn, numpy as np
        >>> from flax import nnx
        >>> packed = bnn.convert(bnn.models.mlp(2, scheme=bnn.BNN, rngs=nnx.Rngs(0), width=1 / 256, input_shape=(2, 2, 1)))
        >>> written = bnn.interop.stablehlo(packed, (2, 2, 1)).serialize()
        >>> jax.export.deserialize(written).call(np.ones((3, 2, 2, 1), np.float32)).shape
        (3, 2)
    """
    if native:
        library.expect_there()
        platform, checks = 'cpu', library.DISABLED_CHECKS
    else:
        # On CPU, JAX would choose the C++ kernels. For CUDA it chooses operations that every platform has.
        platform, checks = 'cuda', (jax.export.DisabledSafetyCheck.platform(),)
    size = jax.export.symbolic_shape('batch')[0] if batch is None else batch
    images = jax.ShapeDtypeStruct((size, *input_shape), jnp.float32)
    return jax.export.export(jax.jit(lambda images: network(images)), platforms=(platform,), disabled_checks=checks)(
        images
    )
