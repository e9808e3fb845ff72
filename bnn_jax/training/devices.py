"""Data parallelism on one or more hosts: each device holds all parameters, and a batch is spread over all devices.

A jitted computation on such arrays gives the results of a single device: the mean of a loss, its gradient and the statistics of
a normalization are those of the whole batch. XLA inserts the communication.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float64

from bnn_jax import command
from bnn_jax.training.options import option

AUTO = 'auto'
"""The value of `coordinator` that lets JAX find it: on TPU pods and under SLURM, Open MPI or Kubernetes."""

WAIT_FOR_COORDINATOR = 300
"""How many seconds the other processes try to reach process 0."""

WAIT_FOR_RESULTS = 24 * 3600
"""How many seconds the other hosts wait at the end, while the first one converts and evaluates the network."""


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The processes of one run, as options of the command line. Raises ValueError for options that contradict each other."""

    # Options of the command line; the text says what each is.
    coordinator: str = option(
        '',
        "HOST:PORT of process 0, the same for all processes; 'auto' on TPU pods and under SLURM, Open MPI or Kubernetes",
    )
    hosts: int = option(1, 'number of processes of this run; start each of them yourself, on one machine or several')
    host: int = option(0, 'number of this process, from 0')

    def __post_init__(self):
        if self.hosts < 1:
            raise ValueError(f'hosts: got {self.hosts}, expected at least 1')
        if self.coordinator in ('', AUTO):
            if (self.hosts, self.host) != (1, 0):
                raise ValueError(
                    f'hosts, host: got {self.hosts} and {self.host}, expected --coordinator=HOST:PORT with them; '
                    "with 'auto' JAX finds both"
                )
            return
        if not 0 <= self.host < self.hosts:
            raise ValueError(f'host: got {self.host} of {self.hosts} hosts, expected 0 to {self.hosts - 1}')
        name, _, port = self.coordinator.rpartition(':')
        if not (name and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
            raise ValueError(f'coordinator: got {self.coordinator!r}, expected HOST:PORT with a port from 1 to 65535')

    def join(self) -> None:
        """Connect to the other processes. Call it before JAX is asked for a device."""
        if self.coordinator == AUTO:
            jax.distributed.initialize(shutdown_timeout_seconds=WAIT_FOR_RESULTS)
        elif self.coordinator:
            self._reach()
            jax.distributed.initialize(
                self.coordinator, self.hosts, self.host, shutdown_timeout_seconds=WAIT_FOR_RESULTS
            )

    def _reach(self) -> None:
        """Raises ValueError if process 0 cannot open the address or the others cannot reach it. JAX would just exit."""
        name, _, port = self.coordinator.rpartition(':')
        address, said = (name.strip('[]'), int(port)), None
        try:
            socket.getaddrinfo(*address)
            if self.host == 0:
                with socket.socket() as tried:
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    tried.bind(('', address[1]))
                return
        except (OSError, UnicodeError) as error:
            raise ValueError(
                f'coordinator: {self.coordinator} cannot be used ({error}); give the address of process 0, and a free port'
            ) from error
        last = time.monotonic() + WAIT_FOR_COORDINATOR
        while time.monotonic() < last:
            try:
                socket.create_connection(address, timeout=5).close()
                return
            except OSError as error:
                said = error
                time.sleep(0.5)
        raise ValueError(
            f'coordinator: {self.coordinator} did not answer in {WAIT_FOR_COORDINATOR} seconds ({said}); start host 0 there'
        )


def all_devices() -> Mesh:
    """All devices of all hosts, along one axis named data."""
    return _mesh(jax.devices())


def own_devices() -> Mesh:
    """The devices of this host, along one axis named data."""
    return _mesh(jax.local_devices())


def _mesh(devices: list) -> Mesh:
    return jax.make_mesh((len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices)


def whole(mesh: Mesh) -> NamedSharding:
    """The sharding with which each device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def replicated(tree, mesh: Mesh):
    """A copy of a tree in which each device holds all of each array.

    Args:
        tree: the same numbers on each host.
        mesh: the devices.
    """
    # Copied: a step may reuse the buffers of its state, but not those of the caller.
    placed = _placed(jax.tree.map(lambda leaf: np.array(numbers_of(leaf)), tree), whole(mesh))
    return jax.tree.map(as_kind_of, tree, placed)


def numbers_of(leaf):
    """The leaf itself, or the array of its numbers if it holds random keys."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def as_kind_of(leaf, numbers):
    """The inverse of `numbers_of`: numbers, as random keys where leaf holds random keys."""
    return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else numbers


def _is_key(leaf) -> bool:
    return hasattr(leaf, 'dtype') and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def spread(batch, mesh: Mesh):
    """A batch spread along its first axis over the devices.

    Args:
        batch: this host's part of the batch. The parts of all hosts, in the order of the hosts, make up the batch.
        mesh: the devices.

    Raises:
        ValueError: the devices cannot share the batch evenly.
    """
    hosts = len({device.process_index for device in mesh.devices.flat})
    for array in jax.tree.leaves(batch):
        check_shares(len(array) * hosts, mesh)
    return _placed(batch, NamedSharding(mesh, PartitionSpec('data')))


def check_shares(batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raises ValueError if the batch cannot be split into `parts` equal parts that the devices of the mesh share evenly."""
    if batch_size % (mesh.size * parts):
        computed = f' in {parts} parts (accumulate)' if parts > 1 else ''
        raise ValueError(
            f'batch_size: got {batch_size} for {mesh.size} devices{computed}, expected a multiple of {mesh.size * parts}'
        )


def _placed(tree, sharding: NamedSharding):
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def own_copy(tree):
    """A replicated tree as arrays on this host's first device."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def is_first_host() -> bool:
    """Whether this process is the first one, which writes and reports."""
    return jax.process_index() == 0


def check_same_on_hosts(step: int, config: dict) -> None:
    """Raises ValueError unless all hosts are at the same step of the same run. Nothing else would notice a difference.

    Args:
        step: the step of this host.
        config: the config of this host, in JSON.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental.multihost_utils import process_allgather

    # Four bytes: without 64-bit mode JAX gathers no wider integers.
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).digest()[:4]
    seen = np.asarray(process_allgather(np.array([step, int.from_bytes(digest, 'big')], np.uint32)))
    if (seen[:, 0] != step).any():
        raise ValueError(
            f'hosts: got the steps {seen[:, 0].tolist()} of the run, expected the same step on every host; give all of them '
            'one --workdir that they share'
        )
    if (seen != seen[0]).any():
        raise ValueError('hosts: got different options or code, expected the same options and code on every host')


@contextlib.contextmanager
def no_host_waits() -> Iterator[None]:
    """On several hosts, end the process at once on an error inside this context, with the error's message and status 1.

    The other hosts then end as well. Otherwise they would wait for this one forever.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        if command.debugging():
            traceback.print_exc()
        print(f'error: host {jax.process_index()}: {command.sentence(error)}', file=sys.stderr, flush=True)
        # Not sys.exit, during which JAX would wait for the other hosts.
        os._exit(1)


def sum_over_hosts(totals: Float64[np.ndarray, '*shape']) -> Float64[np.ndarray, '*shape']:
    """The sum of float64 numbers over the hosts, computed by NumPy. Each host gets it.

    Args:
        totals: the totals of this host, the same shape on each.
    """
    if jax.process_count() == 1:
        return totals
    from jax.experimental.multihost_utils import process_allgather

    # Gathered as 32-bit words, since JAX would round float64 to float32.
    return np.asarray(process_allgather(totals.view(np.uint32))).view(np.float64).sum(axis=0)
