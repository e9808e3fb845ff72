"""The command `bnn-jax`, with a file for each subcommand. A subcommand imports what it needs when it runs."""

import difflib
import inspect
import sys
from collections.abc import Callable, Sequence

try:
    import tyro
except ModuleNotFoundError:
    raise SystemExit(
        "error: the command line needs the extra `deploy` or `train`: pip install '.[deploy]' in a clone of bnn_jax"
    ) from None

from bnn_jax.cli.bench import bench
from bnn_jax.cli.convert import convert
from bnn_jax.cli.export import export
from bnn_jax.cli.predict import predict
from bnn_jax.cli.summary import summary
from bnn_jax.command import begin, one_line
from bnn_jax.training.compilation_cache import compilation_cache


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. An error prints its message and gives exit status 1, or 2 if tyro rejects the arguments.

    Args:
        arguments: by default those of this process.

    Example:
        bnn-jax --help
    """
    if arguments is None:
        begin()
    arguments = sys.argv[1:] if arguments is None else arguments
    app = tyro.extras.SubcommandApp()
    subcommands = {each.__name__: each for each in (summary, convert, predict, bench, export)}
    for each in subcommands.values():
        app.command(each)
    with one_line(), compilation_cache():
        if arguments and arguments[0] in subcommands:
            _expect_known(arguments[0], subcommands[arguments[0]], arguments[1:])
        app.cli(prog='bnn-jax', description='Binary networks from the command line.', args=arguments)


def _expect_known(name: str, subcommand: Callable, arguments: Sequence[str]) -> None:
    """Raises ValueError for an option that the subcommand lacks; the message names a similar one if there is any.

    Tyro would take the arguments after an unknown option as values of that option, and then report that a positional
    argument, such as the file, is missing.
    """
    options = [parameter.replace('_', '-') for parameter in inspect.signature(subcommand).parameters]
    known = ['--help', *(f'--{option}' for option in options), *(f'--no-{option}' for option in options)]
    for argument in arguments:
        option = argument.partition('=')[0]
        if option.startswith('--') and option != '--' and option.replace('_', '-') not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f' (is it {near[0]}?)' if near else ''
            raise ValueError(f'{option}: unknown option{hint}; bnn-jax {name} --help lists the options')
