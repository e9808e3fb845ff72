"""The build of a wheel: the C++ kernels are compiled where that works; else the wheel is pure, and says so."""

import importlib.util
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeKernels(BuildHookInterface):
    PLUGIN_NAME = 'custom'

    def initialize(self, version, build_data):
        spec = importlib.util.spec_from_file_location('build', Path(self.root) / 'bnn_jax' / 'kernels' / 'build.py')
        kernels = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernels)
        try:
            library = kernels.build(Path(importlib.util.find_spec('jaxlib').origin).parent / 'include')
        except RuntimeError as error:
            self.app.display_warning(f'bnn_jax: installed without its C++ kernels, `xla` runs instead. {error}')
            return
        if version == 'editable':
            return
        build_data['pure_python'] = False
        build_data['tag'] = f'py3-none-{sysconfig.get_platform().replace("-", "_").replace(".", "_")}'
        build_data['force_include'][str(library)] = f'bnn_jax/kernels/{library.name}'
