"""Handwritten digits (8x8, embedded), VGG-small at a quarter of its width, trained in two stages.

The first stage trains binary activations with real weights, in WORKDIR/first. The second stage starts from its parameters
and makes the weights binary as well. Both stages have the same options: number of epochs, and learning rate and schedule
from the start. You can interrupt either stage; started again, the run resumes and gives the same result.

Papers: Bi-Real Net, arXiv:1808.00278; Real-to-Binary, arXiv:2003.11535; ReActNet, arXiv:2003.03488.

Command: python -m experiments.digits_vgg_small_two_stage --scheme=SCHEME

There is no published figure. Obtained: experiments/README.md.
"""

import dataclasses
from functools import partial

from bnn_jax import XNOR
from bnn_jax.training import Config, Recipe, fit, model_of, named
from bnn_jax.training.experiment import main
from bnn_jax.training.two_stage import activations_only, second_stage
from experiments import digits_vgg_small


def after_the_first(second: Config) -> Config:
    """The second stage from the first one's network, which is trained, or read if it is already."""
    assert isinstance(second.model, partial)  # as `digits_vgg_small.config` makes it
    model = digits_vgg_small.config(activations_only(second.model.keywords['scheme'])).model
    first = fit(dataclasses.replace(second, model=model, deployed=None, workdir=f'{second.workdir}/first'))
    return dataclasses.replace(second, model=partial(started, model_of(first), second.model))


@named('digits.started')
def started(first, model, **keywords):
    """A model that starts from the first stage's network."""
    return second_stage(model(**keywords), first)


RECIPE = Recipe(
    'digits_vgg_small_two_stage',
    __doc__,
    rows={'XNOR': digits_vgg_small.config(XNOR)},
    other=digits_vgg_small.config,
    prepare=after_the_first,
)

if __name__ == '__main__':
    main(RECIPE)
