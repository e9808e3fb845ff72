"""The command `bnn-jax`, with a file for each subcommand. A subcommand imports what it needs when it runs."""

from collections.abc import Sequence

try:
    import tyro
except ModuleNotFoundError:
    raise SystemExit(
        "error: the command line needs the extra `deploy` or `train`: pip install 'bnn_jax[deploy]'"
    ) from None

from bnn_jax.cli.bench import bench
from bnn_jax.cli.convert import convert
from bnn_jax.cli.export import export
from bnn_jax.cli.predict import predict
from bnn_jax.cli.summary import summary
from bnn_jax.command import begin, one_line
from bnn_jax.training.compilation_cache import compilation_cache


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. An error prints its message and gives exit status 1.

    Args:
        arguments: by default those of this process.

    Example:
        bnn-jax --help
    """
    if arguments is None:
        begin()
    app = tyro.extras.SubcommandApp()
    for each in (summary, convert, predict, bench, export):
        app.command(each)
    with one_line(), compilation_cache():
        app.cli(prog='bnn-jax', description='Binary networks from the command line.', args=arguments)
