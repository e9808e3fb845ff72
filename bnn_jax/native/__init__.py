"""The C++ library: its sources in cpp/, how it is compiled (`build`), loaded, and called from JAX (`library`)."""
