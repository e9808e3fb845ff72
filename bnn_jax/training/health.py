"""Healthy ranges of a run's diagnostics, and a sentence for each value outside its range.

The ranges come from runs that trained well and runs that did not: docs/what_trains.md.
"""

from collections.abc import Iterable

EQUAL_LOGITS = 0.01
"""The largest healthy share of images whose logits are all equal."""

FLIPS, SETTLED = 0.01, 100
"""FLIPS is the largest healthy share of signs that flip in one step. It applies after step SETTLED, because the first steps
choose most signs."""

ALPHA = 0.1
"""The smallest healthy ratio of a layer's alpha to its value at the start."""

STATISTICS_GAP = 0.1
"""The largest healthy difference: accuracy with batch statistics minus accuracy with running statistics, on the same images."""


def unhealthy(record: dict) -> dict[str, str]:
    """The values of a record that are outside their healthy ranges.

    Args:
        record: a record of metrics.jsonl. Only those of watched steps and of epochs can be unhealthy.

    Returns:
        Quantity -> a sentence with its value, the healthy range, the likely cause and what to do.

    Example:
        >>> list(unhealthy({'step': 500, 'flips': 0.2, 'equal_logits': 0.0}))
        ['flips']
    """
    found = {}
    equal = max(record.get('equal_logits', 0.0), record.get('running_statistics/equal_logits', 0.0))
    if equal > EQUAL_LOGITS:
        found['equal_logits'] = (
            f'{equal:.1%} of the images have logits that are all equal (healthy: at most {EQUAL_LOGITS:.0%}), so the '
            'network learns nothing from them; the likely cause is a ReLU in the last block that gives 0 everywhere: '
            'use only one ReLU there, before or after the last product, or use a smaller --learning_rate'
        )
    flips = record.get('flips', 0.0)
    if flips > FLIPS and record['step'] > SETTLED:
        found['flips'] = (
            f'{flips:.1%} of all signs flip in one step (healthy after {SETTLED} steps: at most {FLIPS:.0%}), so the '
            'network does not keep what it learns; the likely cause is weight decay of latent weights or a large '
            'learning rate: exclude latent weights from weight decay, or use a smaller --learning_rate'
        )
    ratios = {name: value for name, value in record.items() if name.startswith('alpha_over_start/')}
    least = min(ratios, key=ratios.__getitem__, default=None)
    if least is not None and ratios[least] < ALPHA:
        found['alpha'] = (
            f'alpha of layer {least.partition("/")[2]} is {ratios[least]:.2g} of what it was at the start (healthy: at '
            f'least {ALPHA:g}), so its latent weights are small and flip easily; the likely cause is weight decay: '
            'exclude latent weights from it'
        )
    running, batch = (record.get(f'{kind}_statistics/accuracy', 0.0) for kind in ('running', 'batch'))
    if batch - running > STATISTICS_GAP:
        found['statistics'] = (
            f'the accuracy on the same test images is {batch:.0%} with batch statistics and {running:.0%} with running '
            f'statistics (healthy: within {100 * STATISTICS_GAP:.0f} points); the running statistics lag behind weights that '
            'change fast: use a smaller --learning_rate, or judge the run after its learning rate has fallen'
        )
    return found


class Health:
    """Warns of each unhealthy quantity once in a run. Flips must be unhealthy at two watched steps in a row.

    Args:
        records: the records of the run so far, so that a resumed run repeats no warning.

    Example:
        >>> health, record = Health(), {'step': 500, 'equal_logits': 1.0}
        >>> len(health.warnings(record)), len(health.warnings(record))
        (1, 0)
    """

    def __init__(self, records: Iterable[dict] = ()):
        self._said: set[str] = set()
        self._many_flips = False
        # The warnings for these records were printed before the interruption.
        for record in records:
            self.warnings(record)

    def warnings(self, record: dict) -> list[str]:
        """The warnings for a record that have not been given before."""
        found = unhealthy(record)
        if 'flips' in record:
            self._many_flips, before = 'flips' in found, self._many_flips
            if not before:
                found.pop('flips', None)
        new = [sentence for name, sentence in found.items() if name not in self._said]
        self._said |= found.keys()
        return new
