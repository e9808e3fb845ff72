"""The build of a wheel: the C++ kernels are compiled where that works; else the wheel is pure, and says so."""

import importlib.util
import platform
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeKernels(BuildHookInterface):
    PLUGIN_NAME = 'custom'

    def initialize(self, version, build_data):
        spec = importlib.util.spec_from_file_location('build', Path(self.root) / 'bnn_jax' / 'native' / 'build.py')
        kernels = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernels)
        jaxlib = importlib.util.find_spec('jaxlib')
        try:
            # Where there is no jaxlib 0.10 for this platform, what XLA calls is left out; `bnn_jax.runtime` needs none.
            library = kernels.build(None if jaxlib is None else Path(jaxlib.origin).parent / 'include')
        except RuntimeError as error:
            self.app.display_warning(
                'bnn_jax: installed without its C++ kernels. Answers are the same; on CPU the backend `xla` gives them, whose '
                'binary convolutions take about twice the time (docs/performance.md, AVX2), and `bnn_jax.runtime` has none. '
                f'{error}'
            )
            return
        if version == 'editable':
            return
        build_data['pure_python'] = False
        # One processor's code, even where this Python is for several.
        where = sysconfig.get_platform().replace('universal2', platform.machine())
        build_data['tag'] = f'py3-none-{where.replace("-", "_").replace(".", "_")}'
        for path in (library, kernels.record(library)):
            build_data['force_include'][path] = f'bnn_jax/native/{Path(path).name}'
