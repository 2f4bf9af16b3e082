"""Vega-Lite charts of a run, as plain dicts.

Colours are written `var(--name)`: the page puts the value of its CSS variable there, so that charts follow
its light or dark colours.
"""

import math
from dataclasses import dataclass

from dlmo.report import wording
from dlmo.study.results import Result, Run, Rung, pareto_front

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
# Vega's shapes and the characters that stand for them in the page's legend.
SHAPES = {
    "circle": "\u25cf",
    "square": "\u25a0",
    "triangle-up": "\u25b2",
    "diamond": "\u25c6",
    "cross": "\u271a",
    "triangle-down": "\u25bc",
    "triangle-right": "\u25b6",
    "triangle-left": "\u25c0",
}
# Tableau's palettes: told apart on light and on dark ground.
COLOURS = (
    *("#4c78a8", "#f58518", "#e45756", "#72b7b2", "#54a24b", "#d8a800", "#b279a2", "#ff9da6", "#9d755d"),
    *("#8a8f94", "#3d9fd3", "#b86b00", "#a53a3a", "#2f8f83", "#86bf6a", "#7f6bb3"),
)
# An axis of costs covers at least this ratio to both sides of a cost that stands alone.
_NARROWEST_AXIS = 1.2
_MOST_TICKS = 10
# By the beginning of a chart's place.
_NAMES = {
    "chart-size": "Test accuracy of each recipe against its file size",
    "chart-latency": "Test accuracy of each recipe against its latency",
    "chart-ram": "Test accuracy of each recipe against its RAM",
    "chart-steps-size": "File size after each step",
    "chart-steps-running": "What running costs after each step",
    "chart-steps-accuracy": "Accuracy after each step",
    "chart-accuracy-curve": "Validation accuracy by epoch",
    "chart-loss-curve": "Training loss by epoch",
    "chart-confusion": "How often images of each class were taken for each",
}


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a mark in a colour (empty: the text's) and what it stands for."""

    mark: str
    colour: str
    name: str


def scatter_legend(run: Run) -> list[Key]:
    """Colours of networks, then shapes of setups where there are enough shapes."""
    networks, setups = _networks(run), _setups(run)
    keys = [Key("\u25cf", colour, name) for name, colour in zip(networks, _colours(networks)["range"])]
    if len(setups) <= len(SHAPES):
        keys += [Key(mark, "", name) for name, mark in zip(setups, SHAPES.values())]
    return keys


def curve_legend(run: Run) -> list[Key]:
    stages = _stages(run)
    return [Key("\u25cf", colour, name) for name, colour in zip(stages, _colours(stages)["range"])]


def charts(run: Run) -> dict[str, dict]:
    """Every chart of the page by the id of its place; none where there is nothing to draw."""
    drawn: dict[str, dict] = {}
    if run.results:
        drawn["chart-size"] = scatter(run, "size_bytes", "file size in KB", wording.KB)
    if any(_plottable(result, "latency_ms") for result in run.results):
        drawn["chart-latency"] = scatter(run, "latency_ms", "latency p50 in ms", 1)
    elif any(_plottable(result, "ram_bytes") for result in run.results):
        drawn["chart-ram"] = scatter(run, "ram_bytes", "RAM in KB", wording.KB)
    if run.choice and run.choice.waterfall:
        drawn |= _waterfall(run.choice.waterfall)
    for number, (name, there) in enumerate(wording.elsewhere(run), 2):
        if any(_plottable(result, "latency_ms") for result in there.results):
            drawn[f"chart-latency-{number}"] = scatter(there, "latency_ms", f"latency p50 in ms on {name}", 1)
    if any(run.curves.values()):
        drawn["chart-accuracy-curve"] = curve(run, "validation_accuracy", "validation accuracy in %", 100)
        drawn["chart-loss-curve"] = curve(run, "loss", "training loss", 1)
    if run.confusion:
        drawn["chart-confusion"] = confusion(run)
    return {place: {"description": _name_of(place)} | chart for place, chart in drawn.items()}


def _name_of(place: str) -> str:
    """What screen readers tell of a chart."""
    return next(name for start, name in _NAMES.items() if place.startswith(start))


def scatter(run: Run, cost: str, title: str, unit: float) -> dict:
    """Test accuracy with its interval against a cost on a log axis, with the front of best trades."""
    results = [result for result in wording.by_network(run) if _plottable(result, cost)]
    setups = _setups(run)
    x = {
        "field": "cost",
        "type": "quantitative",
        "title": title,
        "scale": {"type": "log", "nice": False, "padding": 14},
    }
    costs = [getattr(result, cost) / unit for result in results]
    low, high = min(costs), max(costs)
    if high < _NARROWEST_AXIS * low:  # equal costs, or nearly so, would leave the axis without a round number
        low, high = low / _NARROWEST_AXIS, high * _NARROWEST_AXIS
    x["scale"]["domain"] = [low, high]
    x["axis"] = {
        "values": [tick for tick in _ticks(low, high) if low <= tick <= high],
        "format": ",~r",
        "labelOverlap": "greedy",
        "labelSeparation": 6,
    }
    y = {
        "field": "accuracy",
        "type": "quantitative",
        "title": "test accuracy in %",
        "scale": {"zero": False},
    }
    colour = {"field": "network", "type": "nominal", "scale": _colours(_networks(run)), "legend": None}
    shape = {"value": "circle"}
    if len(setups) <= len(SHAPES):
        scale = {"domain": setups, "range": list(SHAPES)[: len(setups)]}
        shape = {"field": "setup", "type": "nominal", "scale": scale, "legend": None}
    points = [_point(result, cost, unit) for result in results]
    front = [_point(result, cost, unit) for result in pareto_front(tuple(results), cost)]
    chosen = [_point(result, cost, unit) for result in results if run.choice and result == run.choice.result]
    return {
        "$schema": SCHEMA,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "height": 340,
        "data": {"values": points},
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "data": {"values": front},
                "mark": {"type": "line", "color": "var(--front)", "strokeWidth": 1.5, "strokeDash": [5, 4]},
                "encoding": {"order": {"field": "cost", "type": "quantitative"}},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 1, "opacity": 0.55},
                "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour},
            },
            *([_ring(chosen)] if chosen else []),
            {
                "mark": {"type": "point", "filled": True, "size": 75, "opacity": 0.95},
                "encoding": {"color": colour, "shape": shape, "tooltip": _tooltips()},
            },
        ],
    }


def _waterfall(rungs: tuple[Rung, ...]) -> dict[str, dict]:
    """What the file costs and how right it is after each step, one bar or pair of points a step."""
    by_latency = all(wording.is_known(rung.latency_ms) for rung in rungs)
    costs = [("chart-steps-size", "size_bytes", wording.KB, "file size in KB")]
    if by_latency:
        costs.append(("chart-steps-running", "latency_ms", 1, "latency p50 in ms"))
    elif all(wording.is_known(rung.ram_bytes) for rung in rungs):
        costs.append(("chart-steps-running", "ram_bytes", wording.KB, "RAM in KB"))
    drawn = {place: _step_bars(rungs, field, unit, title) for place, field, unit, title in costs}
    return drawn | {"chart-steps-accuracy": _step_points(rungs)}


def _steps_chart(rungs: tuple[Rung, ...], values: list[dict], layer: list[dict]) -> dict:
    """Rungs from top to bottom, a layer of marks beside their names."""
    axis = {"labelLimit": 150, "ticks": False}
    names = [value["step"] for value in values]
    y = {"field": "step", "type": "nominal", "title": None, "scale": {"domain": names[: len(rungs)]}, "axis": axis}
    return {
        "$schema": SCHEMA,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "height": 30 * len(rungs),
        "data": {"values": values},
        "encoding": {"y": y},
        "layer": layer,
    }


def _step_bars(rungs: tuple[Rung, ...], field: str, unit: float, title: str) -> dict:
    told = wording.milliseconds if field == "latency_ms" else wording.kilobytes
    values = [
        {"step": name, "cost": float(f"{cost / unit:.4g}"), "told": told(cost), "paid": rung.paid}
        for name, rung in zip(_step_names(rungs), rungs)
        for cost in (getattr(rung, field),)
    ]
    room = 1.4 * max(value["cost"] for value in values)  # for the figure beside the longest bar
    x = {
        "field": "cost",
        "type": "quantitative",
        "title": title,
        "scale": {"domain": [0, room]},
        "axis": {"tickCount": 4, "labelFlush": True},
    }
    colour = {"condition": {"test": "datum.paid", "value": COLOURS[0]}, "value": "var(--front)"}
    text = {"type": "text", "align": "left", "dx": 4, "color": "var(--ink)"}
    layer = [
        {"mark": {"type": "bar", "size": 18}, "encoding": {"x": x, "color": colour}},
        {"mark": text, "encoding": {"x": x, "text": {"field": "told"}}},
    ]
    return _steps_chart(rungs, values, layer)


def _step_points(rungs: tuple[Rung, ...]) -> dict:
    kinds = {"validation": "validation_accuracy", "test": "accuracy"}
    values = [
        {"step": name, "images": kind, "accuracy": round(100 * getattr(rung, field), 2)}
        for kind, field in kinds.items()
        for name, rung in zip(_step_names(rungs), rungs)
        if getattr(rung, field) is not None
    ]
    x = {"field": "accuracy", "type": "quantitative", "title": "% right"}
    x["axis"] = {"tickCount": 4, "labelFlush": True}
    shape = {"field": "images", "type": "nominal", "legend": None}
    shape["scale"] = {"domain": list(kinds), "range": ["circle", "diamond"]}
    colour = {"field": "images", "type": "nominal", "legend": None, "scale": _colours(list(kinds))}
    tooltip = [{"field": "step"}, {"field": "images"}, {"field": "accuracy", "title": "% right"}]
    encoding = {"x": x | {"scale": {"zero": False, "padding": 12}}, "shape": shape, "color": colour}
    mark = {"type": "point", "filled": True, "size": 90, "opacity": 0.9}
    return _steps_chart(rungs, values, [{"mark": mark, "encoding": encoding | {"tooltip": tooltip}}])


def _step_names(rungs: tuple[Rung, ...]) -> list[str]:
    """The steps without their options, which the table beside the charts tells, but for a step that stands twice."""
    plain = [rung.step.partition("(")[0] for rung in rungs]
    names = [rung.step if plain.count(name) > 1 else name for name, rung in zip(plain, rungs)]
    return [names[0], *(f"+ {name}" for name in names[1:])]


def curve(run: Run, field: str, title: str, factor: float) -> dict:
    """One line per trained stage over its epochs."""
    stages = _stages(run)
    values = [
        {"stage": name, "epoch": epoch.epoch, "value": round(getattr(epoch, field) * factor, 5)}
        for name in stages
        for epoch in run.curves[name]
        if math.isfinite(getattr(epoch, field))
    ]
    return {
        "$schema": SCHEMA,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "height": 260,
        "data": {"values": values},
        "mark": {"type": "line", "strokeWidth": 1.6, "point": {"size": 12}},
        "encoding": {
            "x": {
                "field": "epoch",
                "type": "quantitative",
                "title": "epoch",
                "axis": {"tickMinStep": 1, "format": "d", "values": _whole_ticks(values)},
            },
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": title,
                "scale": {"zero": field == "loss"},
            },
            "color": {"field": "stage", "type": "nominal", "scale": _colours(stages), "legend": None},
            "tooltip": [
                {"field": "stage"},
                {"field": "epoch"},
                {"field": "value", "title": title, "format": ".4~g"},
            ],
        },
    }


def _whole_ticks(values: list[dict]) -> list[int]:
    """Some ten epochs from the first to the last."""
    last = max((value["epoch"] for value in values), default=1)
    return list(range(0, last + 1, math.ceil((last + 1) / _MOST_TICKS)))


def confusion(run: Run) -> dict:
    """Heat map of test counts; colour is the share of the true class's images."""
    names = _unique(run.classes)
    few = len(names) <= 12
    # Empty cells are left to the background: a hundred classes have ten thousand of them.
    cells = [
        {
            "truth": names[row],
            "answer": names[column],
            "images": images,
            "share": round(images / run.images_of(row), 4),
        }
        for row, counts in enumerate(run.confusion)
        for column, images in enumerate(counts)
        if images
    ]
    # A root scale, so that a few mistakes show beside the many right answers.
    scale = {"type": "sqrt", "domain": [0, 1], "range": ["var(--heat-low)", "var(--heat-high)"]}
    axis = {
        "labelFontSize": 11 if len(names) <= 40 else 8,
        "labelLimit": 140,
        "labelOverlap": False,
        "ticks": False,
    }
    axes = {
        "x": {
            "field": "answer",
            "type": "nominal",
            "title": "answer",
            "scale": {"domain": names},
            "axis": {**axis, "orient": "top", "labelAngle": 0 if len(names) <= 3 else -60},
        },
        "y": {
            "field": "truth",
            "type": "nominal",
            "title": "truth",
            "scale": {"domain": names},
            "axis": axis,
        },
    }
    tooltip = [
        {"field": "truth"},
        {"field": "answer"},
        {"field": "images"},
        {"field": "share", "title": "share of the class", "format": ".1%"},
    ]
    gap = 1 if len(names) <= 40 else 0
    squares = {
        "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": gap},
        "encoding": {
            "color": {"field": "share", "type": "quantitative", "scale": scale, "legend": None},
            "tooltip": tooltip,
        },
    }
    numbers = {
        "mark": {"type": "text", "fontSize": 13, "tooltip": False},
        "encoding": {
            "text": {"field": "images"},
            "color": {
                "condition": {"test": "datum.share > 0.3", "value": "var(--heat-on-high)"},
                "value": "var(--ink)",
            },
        },
    }
    step = _cell_size(len(names))
    return {
        "$schema": SCHEMA,
        "width": {"step": step},
        "height": {"step": step},
        "data": {"values": cells},
        "encoding": axes,
        "layer": [squares, numbers] if few else [squares],
        "config": {"view": {"fill": "var(--heat-low)", "stroke": None}, "scale": {"bandPaddingInner": 0}},
    }


def _cell_size(classes: int) -> int:
    if classes <= 3:
        return 130
    return 46 if classes <= 12 else 19 if classes <= 40 else 9


def _plottable(result: Result, cost: str) -> bool:
    value = getattr(result, cost)
    return wording.is_known(value) and value > 0


def _point(result: Result, cost: str, unit: float) -> dict:
    return {
        "recipe": result.recipe,
        "network": result.network,
        "setup": result.setup,
        "cost": float(f"{getattr(result, cost) / unit:.5g}"),
        "accuracy": round(result.accuracy * 100, 2),
        "low": round(result.accuracy_low * 100, 2),
        "high": round(result.accuracy_high * 100, 2),
        "interval": wording.interval(result),
        "size": f"{wording.kilobytes(result.size_bytes)} KB",
        "latency": f"{wording.milliseconds(result.latency_ms)} ms",
        "ram": f"{wording.kilobytes(result.ram_bytes)} KB",
    }


def _ring(chosen: list[dict]) -> dict:
    mark = {"type": "point", "size": 420, "stroke": "var(--accent)", "strokeWidth": 2.5, "filled": False}
    return {"data": {"values": chosen}, "mark": mark}


def _tooltips() -> list[dict]:
    fields = [
        {"field": "recipe", "type": "nominal"},
        {"field": "setup", "type": "nominal"},
        {"field": "accuracy", "type": "quantitative", "title": "accuracy in %", "format": ".1f"},
        {"field": "interval", "type": "nominal", "title": "95 % interval"},
        {"field": "size", "type": "nominal"},
        {"field": "latency", "type": "nominal"},
        {"field": "ram", "type": "nominal", "title": "RAM"},
    ]
    return fields


def _networks(run: Run) -> list[str]:
    return list(dict.fromkeys(result.network for result in run.results))


def _setups(run: Run) -> list[str]:
    return list(dict.fromkeys(result.setup for result in run.results))


def _stages(run: Run) -> list[str]:
    return [name for name, epochs in run.curves.items() if epochs]


def _colours(names: list[str]) -> dict:
    """A scale from names to colours; they repeat after the last."""
    return {"domain": names, "range": [COLOURS[index % len(COLOURS)] for index in range(len(names))]}


def _ticks(low: float, high: float) -> list[float]:
    """Round values of a log axis that covers low to high: 1, 2, 5, 10, ..., finer where that gives too few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), [step / 20 for step in range(20, 200)]):
        ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        shown = [tick for tick in ticks if low <= tick <= high]
        if len(shown) >= 3:
            return shown[:: math.ceil(len(shown) / _MOST_TICKS)]
    return ticks


def _unique(names: tuple[str, ...]) -> list[str]:
    """Two classes of one name must stay two rows."""
    return [name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names)]
