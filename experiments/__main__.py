"""python -m experiments: what can be run."""

from experiments import commands, recipes


def main() -> None:
    """Print a line for each recipe, with its rows, and one for each other command."""
    lines = {
        recipe.name: f'{_first_line(recipe.description or "")} [{" ".join(recipe.rows)}]'
        for recipe in recipes().values()
    }
    lines |= {name: _first_line(text) for name, text in commands().items()}
    width = max(map(len, lines))
    print('python -m experiments.NAME [--scheme=ROW]; --help says the other options')
    for name, text in lines.items():
        print(f'{name:{width}}  {text}')


def _first_line(text: str) -> str:
    return text.partition('\n')[0]


if __name__ == '__main__':
    main()
