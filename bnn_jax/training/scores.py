"""The test results of a run over its epochs: which one is the best, and whether the run should end."""


class Scores:
    """The best test accuracy of a run so far, or the best test loss if there are no accuracies.

    Args:
        records: the records of the run so far, from `metrics.read`.
        patience: the run ends after this many evaluations without improvement; 0: never.

    Example:
        >>> scores = Scores([{'step': 5, 'epoch': 1, 'test_accuracy': 0.5}], patience=2)
        >>> scores.improved_by({'test_accuracy': 0.6}), scores.improved_by({'test_accuracy': 0.6}), scores.should_end
        (True, False, False)
        >>> scores.improved_by({'test_accuracy': 0.1}), scores.should_end
        (False, True)
    """

    def __init__(self, records: list[dict], patience: int):
        self._best, self._since, self._patience = float('-inf'), 0, patience
        for record in records:
            if 'epoch' in record:
                self.improved_by(record)

    def improved_by(self, record: dict) -> bool:
        """Record an evaluation. Returns whether it is the best so far."""
        score = record.get('test_accuracy', -record.get('test_loss', float('inf')))
        better = score > self._best
        self._best, self._since = max(score, self._best), 0 if better else self._since + 1
        return better

    @property
    def should_end(self) -> bool:
        """Whether the run should end."""
        return 0 < self._patience <= self._since
