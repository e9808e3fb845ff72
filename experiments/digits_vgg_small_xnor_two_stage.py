"""Handwritten digits (8x8, embedded), VGG-small at a quarter of its width, XNOR trained in two stages.

First binary activations with real weights, in WORKDIR/first; then, from its parameters, binary weights as well. Both
stages have the same options: epochs, learning rate and schedule from the start. Started again after any interruption, in
either stage, it goes on to the same result.

Papers: Bi-Real Net, arXiv:1808.00278; Real-to-Binary, arXiv:2003.11535; ReActNet, arXiv:2003.03488. No published figure to
compare with. Obtained: experiments/README.md.
"""

import dataclasses
from functools import partial

from bnn_jax import XNOR
from bnn_jax.training import Config, fit, model_of
from bnn_jax.training.experiment import main
from bnn_jax.training.two_stage import activations_only, second_stage
from experiments.digits_vgg_small import config


def after_the_first(second: Config) -> Config:
    """The second stage from the first one's network, which is trained, or read if it is already."""
    first = dataclasses.replace(second, model=config(activations_only(XNOR)).model, workdir=f'{second.workdir}/first')
    return dataclasses.replace(second, model=partial(started, model_of(fit(first)), second.model))


def started(first, model, **keywords):
    """A model that starts from the first stage's network."""
    return second_stage(model(**keywords), first)


if __name__ == '__main__':
    main('digits_vgg_small_xnor_two_stage', __doc__, config(XNOR), after_the_first)
