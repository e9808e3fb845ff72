"""Handwritten digits (8x8, embedded), VGG-small at a quarter of its width, XNOR taught by its float twin.

The teacher is the row digits_vgg_small_float of the same options (but its own learning rate), trained first, in
WORKDIR/teacher. The student's loss: half the cross-entropy to the labels, half that to the teacher's softmax at
temperature 4 (chosen, not tuned). Started again after any interruption, of teacher or student, it goes on to the same result.

Papers: Hinton, Vinyals and Dean, arXiv:1503.02531; for binary students Real-to-Binary, arXiv:2003.11535, and ReActNet,
arXiv:2003.03488 (the teacher's answers only, at temperature 1). No published figure to compare with. Obtained:
experiments/README.md.
"""

import dataclasses
from functools import partial

from bnn_jax import FLOAT, XNOR
from bnn_jax.training import Config, distillation, fit, model_of
from bnn_jax.training.experiment import main
from experiments.digits_vgg_small import config


def taught(student: Config) -> Config:
    """The student's run with its teacher, which is trained, or read if it is already."""
    twin = config(FLOAT, 1e-3)
    teacher = dataclasses.replace(
        student, model=twin.model, learning_rate=twin.learning_rate, workdir=f'{student.workdir}/teacher'
    )
    return dataclasses.replace(student, loss=partial(distillation, model_of(fit(teacher)), temperature=4.0, share=0.5))


if __name__ == '__main__':
    main('digits_vgg_small_xnor_distilled', __doc__, config(XNOR), taught)
