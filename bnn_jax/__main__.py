"""`python -m bnn_jax`: the same as the command `bnn-jax`."""

from bnn_jax.cli import main

if __name__ == '__main__':
    main()
