"""Your own loop with Flax's optimizer: projections, gradient norm and metrics: python -m examples.own_optimizer"""

import jax.numpy as jnp
import optax
from flax import nnx

import bnn_jax as bnn
from bnn_jax import training
from examples.own_loop import batches


def main(steps: int = 30) -> dict[str, float]:
    """Bop trains the latent weights, Adam all other parameters. Returns the metrics of the last step."""
    model = bnn.models.lenet5(10, scheme=bnn.BNN, rngs=nnx.Rngs(0), width=0.4, input_shape=(16, 16, 3))
    tx = training.by_kind({training.latent_weights: bnn.bop(1e-3), training.norms: optax.adam(1e-2)})
    # `projected` applies the scheme's projection to latent weights after each update.
    optimizer = nnx.Optimizer(model, training.projected(tx, model), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, images, labels):
        def loss(model):
            logits = model(images)
            return training.cross_entropy(logits, labels).mean(), logits

        (value, logits), gradient = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, gradient)
        norm = training.gradient_norm(gradient)
        return {'loss': value, 'gradient_norm': norm, **training.accuracies(logits, labels)}

    metrics = {}
    for batch in batches(steps):
        metrics = step(model, optimizer, batch['image'], jnp.asarray(batch['label'], jnp.int32))
    model.eval()
    bnn.convert(model)
    return {name: float(value) for name, value in metrics.items()}


if __name__ == '__main__':
    print(main())
