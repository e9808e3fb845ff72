"""Checkpoints of a run, by Orbax. Each is complete or absent; older ones are deleted only when it is complete."""

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.training.config import check_description
from bnn_jax.training.devices import as_kind_of, numbers_of
from bnn_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints in a folder: the newest states of a run, each with the run's config.

    Args:
        directory: the folder.
        config: the fields of the run's config that decide its numbers (`Config.decisive`).
        kept: how many checkpoints are kept; by default two, in case the newest is damaged.
        read_only: whether nothing is written, because another process may be writing in the folder.

    Raises:
        ValueError: the folder cannot be opened.
    """

    def __init__(self, directory: Path, config: dict, kept: int = 2, read_only: bool = False):
        import orbax.checkpoint as ocp

        self._ocp, self.directory, self.config = ocp, directory, config
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else kept, enable_async_checkpointing=not read_only, read_only=read_only
        )
        logging.getLogger('absl').addFilter(_told_by_us)
        try:
            self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        except Exception as error:  # Orbax raises errors of many kinds for a folder that something else has changed.
            reason = _short(f'{type(error).__name__}: {error}')
            raise ValueError(
                f'checkpoints {directory} cannot be opened ({reason}); repair or move that folder, or choose another --workdir'
            ) from error
        # Otherwise Orbax too would ask JAX about preemption. `signals.Signals` numbers these questions, so it must ask all.
        self._manager.reached_preemption = lambda step: False

    def save(self, state: TrainState) -> None:
        """Write the state of a step in the background, and delete the checkpoints of later steps.

        If the newest checkpoint is of this step, do nothing.

        Raises:
            OSError: this checkpoint or the previous one cannot be written.
        """
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        arrays, meta = _arrays(state), self._meta(state)
        arguments = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(arrays),
            meta=self._ocp.args.JsonSave(meta | {'sha256': _digest(arrays, meta)}),
        )
        try:
            # Orbax skips a step if later ones exist. A run that resumes before its best checkpoint may write an earlier step.
            for later in [each for each in self._manager.all_steps() if each > step]:
                self._manager.delete(later)
            written = self._manager.save(step, args=arguments)
        except (OSError, ValueError) as error:  # TensorStore reports a failed write as a ValueError.
            raise self._failed(error) from error
        if not written:
            raise self._failed(OSError(errno.EIO, f'Orbax left out step {step}'))

    def restore(self, state: TrainState, extended: Callable[[int, int], None] | None = None) -> TrainState:
        """The state of the newest checkpoint.

        Args:
            state: a state of the same structure. It is returned if there is no checkpoint yet.
            extended: called with the epochs and the step of a checkpoint whose config differs only by fewer epochs. It raises
                ValueError unless the shorter run is the beginning of this one. None: such a checkpoint is refused.

        Raises:
            ValueError: the checkpoint cannot be read, or has another model or config; the message names the first difference.
        """
        step = self._manager.latest_step()
        if step is None:
            return state
        meta = self._read(step, 'meta', self._ocp.args.JsonRestore())
        if not (isinstance(meta, dict) and all(isinstance(meta.get(key), dict) for key in ('config', 'arrays'))):
            raise self._damaged(step, 'it states no config or no arrays')
        digest = meta.pop('sha256', None)
        theirs, ours = meta['config'], self.config
        epochs = theirs.get('epochs')
        if extended and 'epochs' in ours and isinstance(epochs, int) and 0 < epochs < ours['epochs']:
            same = {**theirs, 'epochs': ours['epochs']}
            if first_difference('', same, json.loads(json.dumps(ours))) is None:
                extended(epochs, step)
                theirs = same
        self._check({**meta, 'config': theirs}, state)
        arrays = self._read(step, 'state', self._ocp.args.StandardRestore(_arrays(state)))
        if digest != _digest(arrays, meta):
            raise self._damaged(step, 'its checksum differs')
        leaves, structure = jax.tree.flatten(state)
        # The names are numbers of five digits, so sorting them restores the order of the leaves.
        restored = [jnp.asarray(arrays[name]) for name in sorted(arrays)]
        return jax.tree.unflatten(structure, map(as_kind_of, leaves, restored))

    def _read(self, step: int, item: str, arguments):
        """Read a part of a checkpoint with Orbax."""
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**{item: arguments}))[item]
        except Exception as error:  # Orbax raises errors of many kinds for damaged files.
            raise self._damaged(step, f'{type(error).__name__}: {error}') from error

    def _damaged(self, step: int, reason: str) -> ValueError:
        return ValueError(
            f'checkpoint {self.directory}/{step} cannot be read ({_short(reason)}); '
            'delete that folder to go on from the checkpoint before it, or choose another --workdir'
        )

    def last(self) -> Path | None:
        """The folder of the newest complete checkpoint; None if there is none."""
        self.wait()
        step = self._manager.latest_step()
        return None if step is None else self.directory / str(step)

    def wait(self) -> None:
        """Wait until the newest checkpoint is on disk. If it cannot be written, raises OSError with advice."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()
        logging.getLogger('absl').removeFilter(_told_by_us)

    def _failed(self, error: OSError | ValueError) -> OSError:
        """Turn an error of Orbax or TensorStore into an OSError that says what to do."""
        # TensorStore hides the system's error number in a page of text.
        said = re.search(r"os_error_code='(\d+)'|OS error (\d+)", str(error))
        number = getattr(error, 'errno', None) or (int(said[1] or said[2]) if said else errno.EIO)
        reason = os.strerror(number) if said else getattr(error, 'strerror', None) or _short(str(error))
        return OSError(
            number,
            f'could not write a checkpoint ({reason}); earlier checkpoints are kept. '
            'Free space or repair the folder, then start the same command again',
            str(self.directory),
        )

    def _meta(self, state: TrainState) -> dict:
        return {'config': self.config, 'arrays': _layout(state)}

    def _check(self, meta: dict, state: TrainState) -> None:
        expected = self._meta(state)
        remedy = f'use another --workdir, or delete {self.directory} to start again'
        if 'description' in expected['config']:
            check_description(meta['config'], f'checkpoint {self.directory}', remedy)
        difference = first_difference('', meta['config'], json.loads(json.dumps(expected['config'])))
        if difference:
            key, theirs, ours = difference
            raise ValueError(
                f'checkpoint in {self.directory} was made with {key} = {theirs!r}, this run has {ours!r}; {remedy}'
            )
        for key in sorted({*meta['arrays'], *expected['arrays']}):
            theirs, ours = meta['arrays'].get(key), expected['arrays'].get(key)
            if theirs != ours:
                raise ValueError(
                    f'checkpoint in {self.directory} is of another model: {key} is {theirs}, this model has {ours}; '
                    f'{remedy}'
                )


def _told_by_us(record: logging.LogRecord) -> bool:
    """A log filter that drops Orbax's records. They show errors of its threads, which `save` and `wait` raise anyway."""
    return 'orbax' not in record.pathname


def _short(reason: str) -> str:
    return reason if len(reason) <= 300 else f'{reason[:300]} ...'


def _arrays(state: TrainState) -> dict[str, np.ndarray]:
    """All arrays of a state under sortable names, so that a checkpoint depends on no class of any library.

    They are copies, because the next steps reuse the state's buffers while the checkpoint is written.
    """
    return {f'{i:05d}': np.array(numbers_of(leaf)) for i, leaf in enumerate(jax.tree.leaves(state))}


def first_difference(path: str, theirs, ours) -> tuple[str, Any, Any] | None:
    """The first difference between two JSON values.

    A missing key counts as None, so that a field added later with the default None makes no difference.

    Args:
        path: the path of both values, for the result.
        theirs, ours: the values.

    Returns:
        The path of the difference and both values there; None if there is no difference.

    Example:
        >>> first_difference('', {'seed': 0, 'model': {'width': 1}}, {'seed': 0, 'model': {'width': 2}})
        ('model.width', 1, 2)
    """
    if theirs == ours:
        return None
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            inner = first_difference(f'{path}.{key}' if path else key, theirs.get(key), ours.get(key))
            if inner:
                return inner
        return None
    return path, theirs, ours


def _digest(arrays: dict[str, np.ndarray], meta: dict) -> str:
    """SHA-256 of everything in a checkpoint, because Orbax does not notice every changed byte."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _layout(state: TrainState) -> dict[str, str]:
    """Path -> dtype and shape of each array, for comparison and for messages."""
    return {
        jax.tree_util.keystr(path): f'{leaf.dtype}{list(np.shape(leaf))}'
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
