"""python -m experiments: what can be run."""

from experiments import commands, recipes


def main() -> None:
    """Print a line for each recipe, with its rows, and one for each other command."""
    lines = {name: f'{_first_line(recipe.description)} [{" ".join(recipe.rows)}]' for name, recipe in recipes().items()}
    lines |= {name: _first_line(text) for name, text in commands().items()}
    width = max(map(len, lines))
    print('python -m experiments.NAME [--scheme=ROW]; --help says the other options')
    for name, text in lines.items():
        print(f'{name:{width}}  {text}')


def _first_line(text: str | None) -> str:
    return (text or '').partition('\n')[0]


if __name__ == '__main__':
    main()
