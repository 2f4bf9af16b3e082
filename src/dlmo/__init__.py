"""dlmo: labelled images and the limits of a small device in, the model for it out, with the evidence.

    import dlmo
    run = dlmo.optimize("photos/", service="low", options=dlmo.Options(time="10m", out="runs/photos"))
    print(run.choice.result.recipe, run.choice.reasons)
    print(dlmo.load("runs/photos").predict("cat.jpg"))

Names are loaded when they are first used, so that `import dlmo` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "optimize": "dlmo.strategy.optimize",
    "study": "dlmo.strategy.study",
    "compress": "dlmo.strategy.compress",
    "Options": "dlmo.strategy.options",
    "evaluate": "dlmo.measure.evaluate",
    "make_package": "dlmo.package.make",
    "verify": "dlmo.package.verify",
    "FeedOptions": "dlmo.measure.feeding",
    "inspect": "dlmo.measure.layers",
    "predict": "dlmo.package.predict",
    "load": "dlmo.package.classifier",
    "UserError": "dlmo.errors",
    "BudgetError": "dlmo.errors",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dlmo' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
