"""The command `bnn-jax`, one command a file. Each imports what it needs when it runs."""

import io
import sys
from collections.abc import Sequence

try:
    import tyro
except ModuleNotFoundError:
    raise SystemExit("error: the command line needs the extra `train`: pip install 'bnn_jax[train]'") from None

from bnn_jax.cli.bench import bench
from bnn_jax.cli.convert import convert
from bnn_jax.cli.predict import predict
from bnn_jax.cli.summary import summary
from bnn_jax.training.compilation_cache import compilation_cache


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an expected error ends with its message and exit status 1.

    arguments: those of this process by default.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # A name may hold what the terminal's encoding lacks.
    app = tyro.extras.SubcommandApp()
    for command in (summary, convert, predict, bench):
        app.command(command)
    try:
        with compilation_cache():
            app.cli(prog='bnn-jax', description='Binary networks from the command line.', args=arguments)
    except (OSError, ValueError, ArithmeticError) as error:
        raise SystemExit(f'error: {error}') from None
