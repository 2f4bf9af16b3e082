"""Studies: recipe text -> stages -> store, so that each stage is paid once."""

import sys
from types import ModuleType


class _Callable(ModuleType):
    """`dlmo.study(...)` is the job of the Python API; importing this package must not take that name away from it."""

    def __call__(self, *arguments, **options):
        from dlmo.strategy.study import study

        return study(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
