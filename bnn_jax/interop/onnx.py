"""A packed network as an ONNX model: in standard operators, or with the binary quantizers of QONNX."""

import json
from typing import TYPE_CHECKING, Any

from bnn_jax.command import of_extra
from bnn_jax.nn.packed import PackedNetwork

if TYPE_CHECKING:
    import onnx


def onnx_model(
    network: Any, input_shape: tuple[int, int, int], *, preprocessing: dict[str, Any] | None = None
) -> 'onnx.ModelProto':
    """The float twin of a packed network in standard operators (opset 19), for any engine that reads ONNX.

    Binary weights are stored as bits, eight in a byte. In very small layers they are floats, which take less space than
    the nodes that would unpack the bits. The graph unpacks the bits; an engine that folds constants does this once,
    when it loads the model. Each sum of products of signs is an exact integer, in whatever order an engine adds.
    Products of real numbers, means and K agree with the packed network up to rounding. If this rounding flips the sign
    of a number close to 0, logits differ by more.

    Args:
        network: a `PackedNetwork`, as `convert` and `load` return it.
        input_shape: height, width and channels of an image.
        preprocessing: how images are prepared, as a JSON value, which is stored in the metadata of the model.

    Returns:
        A model from images (N, H, W, channels) float32 to logits (N, num_classes) float32, for any N. `onnx.save` writes it.

    Raises:
        ModuleNotFoundError: the extra `onnx` is not installed.
        TypeError: network is not a `PackedNetwork`.
        ValueError: the images do not fit, or the network has a layer of the user's own or of a float twin.

    Example:
        >>> import bnn_jax as bnn
        >>> def export(packed, path):
        ...     import onnx
        ...     onnx.save(bnn.interop.onnx_model(packed, (28, 28, 1)), path)
    """
    return _model('OnnxWriter', network, input_shape, preprocessing)


def qonnx_model(
    network: Any, input_shape: tuple[int, int, int], *, preprocessing: dict[str, Any] | None = None
) -> 'onnx.ModelProto':
    """A packed network for QONNX's tools (FINN, hls4ml), with `BipolarQuant` nodes for signs and binary weights.

    The nodes belong to the domain `qonnx.custom_op.general`. The node of the weights multiplies them by the scale of
    their filter before the product, so sums are rounded. (In `onnx_model` sums are integers, and the scale follows.)
    Weights are stored as float32 constants, as these tools expect. They take 32 times the space of bits. Unlike the
    model of `onnx_model`, this one does not check whether images are finite: logits of an image that is not may be
    numbers instead of NaN.

    Args:
        network: as for `onnx_model`.
        input_shape: as for `onnx_model`.
        preprocessing: as for `onnx_model`.

    Returns:
        As `onnx_model`.

    Raises:
        ModuleNotFoundError, TypeError, ValueError: as `onnx_model`.

    Example:
        >>> import bnn_jax as bnn
        >>> def export(packed, path):
        ...     import onnx
        ...     onnx.save(bnn.interop.qonnx_model(packed, (28, 28, 1)), path)
    """
    return _model('QonnxWriter', network, input_shape, preprocessing)


def _model(writer: str, network: Any, input_shape: tuple[int, int, int], preprocessing: dict[str, Any] | None) -> Any:
    with of_extra('onnx'):
        from bnn_jax.interop import onnx_writer
    if not isinstance(network, PackedNetwork):
        raise TypeError(f'network: got {type(network).__name__}, expected a PackedNetwork as convert or load gives it')
    network.expect_fits(input_shape)
    model = getattr(onnx_writer, writer)().network(network, input_shape)
    if preprocessing is not None:
        model.metadata_props.add(key='preprocessing', value=json.dumps(preprocessing))
    return model
