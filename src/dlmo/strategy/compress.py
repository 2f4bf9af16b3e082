"""Compress: put a model that is trained already through a recipe."""

from pathlib import Path

from dlmo.progress import Progress
from dlmo.strategy import legality
from dlmo.strategy.job import Job, run_job
from dlmo.strategy.options import Options, command_line, given_options
from dlmo.strategy.own import open_own, own_arguments
from dlmo.study.recipe import Recipe, parse_steps
from dlmo.study.results import Run


def compress(
    model: str | Path,
    source: str | Path,
    *,
    recipe: str,
    network: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    channel_order: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Run:
    """Put the user's model through the steps of `recipe`, such as "prune_channels(0.5) > qat > int8".

    The run holds the model as it was given (NQ), where the targets can run that, and the compressed one, which is its
    choice.
    """
    options = options or Options()
    own = open_own(model, [network] if network else [], mean, std, channel_order)
    wanted = Recipe(own.name, parse_steps(recipe))
    plain = Recipe(own.name, parse_steps(""))
    compared = plain != wanted and not any(legality.refusal(plain, target) for target in options.targets)
    recipes = [plain, wanted] if compared else [wanted]
    arguments = {"recipe": recipe, **own_arguments(own, []), **given_options(options)}
    del arguments["model"]
    job = Job(
        command_line("compress", [model, source], arguments),
        lambda images: recipes,
        given=wanted,
        own=own,
        strict=True,
        default_time="10m",
    )
    return run_job(source, job, options, progress).run
