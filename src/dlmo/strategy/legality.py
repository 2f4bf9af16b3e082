"""What a target cannot run, refused before anything is trained."""

from dlmo.errors import UserError
from dlmo.study.recipe import Recipe

TARGETS = ("cpu",)


def check(recipe: Recipe, target: str) -> None:
    """Raise UserError if `target` is unknown or has no kernel for what the recipe makes."""
    if target not in TARGETS:
        raise UserError(f'target "{target}" is not available; known: {", ".join(TARGETS)}')
