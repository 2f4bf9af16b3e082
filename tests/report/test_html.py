import json
import math
import re
from dataclasses import replace
from html import unescape

import pytest

from dlmo.report import html


def without_bundle(page):
    """The page less the Vega script, which holds text of its own."""
    return page.replace(html._vega(), "")


def test_holds_every_recipe_and_the_answer_first(run):
    page = unescape(html.render(run))
    for result in run.results:
        assert result.recipe in page
    answer = page[page.index("<main>") : page.index("Everything tried")]
    for fact in (run.choice.result.recipe, "91.2-92.3", "309", "0.370", *run.choice.reasons):
        assert fact in answer


def test_fetches_nothing(run):
    page = html.render(run)
    own = without_bundle(page)
    fetched = re.findall(r"""(?:src|href|action|poster|srcset)\s*=\s*["']?([^"'\s>]*)""", own)
    assert fetched and all(address.startswith("data:") for address in fetched)
    assert not re.search(r"url\(|@import|\bimport\s*\(|fetch\(|XMLHttpRequest", own)
    # Names of formats, which nothing opens.
    assert set(re.findall(r"https?://[^\"'\s<]+", own)) <= {html.charts.__globals__["SCHEMA"]}
    assert "default-src 'none'" in page


def test_escapes_names_of_users(with_classes):
    run = with_classes(2)
    evil = replace(
        run.mistakes[0],
        name='"><img src=x onerror=alert(1)>',
        answer="<script>alert(1)</script>",
        truth="a&b",
    )
    page = html.render(replace(run, mistakes=(evil,), title="</title><script>alert(2)</script>"))
    assert "<script>alert(" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\\u003cscript\\u003ealert(1)" in page  # in the charts' data
    assert len(re.findall(r"</script", page)) == 4


def test_no_choice_says_what_each_lacks(no_choice):
    page = unescape(html.render(no_choice))
    assert "Nothing tried met the limits" in page
    assert all(line in page for line in no_choice.nearest)
    assert 'class="chosen"' not in page


def test_a_study_without_limits(no_choice):
    page = html.render(replace(no_choice, nearest=(), budget={}))
    assert "no limits asked" in page
    assert "met the limits" not in page


def test_unknown_numbers_do_not_break_the_page(run):
    odd = replace(run.results[0], latency_ms=math.nan, latency_p90_ms=math.nan, ram_bytes=None, delegated=0.0)
    page = html.render(replace(run, results=(odd, *run.results[1:])))
    data = re.search(r'id="charts">(.*?)</script>', page)[1]
    assert "NaN" not in data
    assert len(json.loads(data)["chart-latency"]["data"]["values"]) == len(run.results) - 1
    assert "nan" not in unescape(without_bundle(page)).lower().replace("isnan", "")


def test_a_run_with_almost_nothing(run):
    bare = replace(run, results=(), choice=None, dataset={}, machine={}, confusion=(), mistakes=(), curves={})
    page = html.render(replace(bare, classes=(), notes=(), budget={}))
    assert "not recorded" in page
    assert len(page) < 50_000


def test_one_result(run):
    page = html.render(replace(run, results=(run.choice.result,)))
    assert "chosen" in page
    axis = json.loads(re.search(r'id="charts">(.*?)</script>', page)[1])["chart-size"]["encoding"]["x"]
    low, high = axis["scale"]["domain"]
    cost = run.choice.result.size_bytes / 1000
    assert low < cost < high
    assert axis["axis"]["values"] and all(low <= tick <= high for tick in axis["axis"]["values"])


@pytest.mark.parametrize("number", [2, 34, 100])
def test_page_stays_small(with_classes, number):
    assert len(html.render(with_classes(number))) < 1_500_000


def test_a_target_without_latency_is_drawn_by_ram(on_mcu):
    page = without_bundle(unescape(html.render(on_mcu)))
    assert 'id="chart-ram"' in page and 'id="chart-latency"' not in page
    answer = page[page.index("<main>") : page.index("Everything tried")]
    assert "arena: 30.9 KB head + 7.00 KB persistent" in answer and "latency per image" not in answer
    assert "<th>RAM</th>" in answer and "x 0.31" in answer


def test_the_waterfall_shows_every_rung(run, on_mcu):
    page = unescape(without_bundle(html.render(run)))
    part = page[page.index("Step by step") : page.index("What each step was worth")]
    for rung in run.choice.waterfall:
        assert rung.step in part and rung.verdict in part
    data = json.loads(re.search(r'id="charts">(.*?)</script>', html.render(run))[1])
    bars = data["chart-steps-size"]["data"]["values"]
    assert [bar["cost"] for bar in bars] == [1104, 309.1, 309.1]
    assert len(data["chart-steps-accuracy"]["data"]["values"]) == 2 * len(bars)
    assert "RAM in KB" in json.dumps(html.charts(on_mcu)["chart-steps-running"])


def test_the_search_shows_every_recipe(searched):
    page = unescape(without_bundle(html.render(searched)))
    part = page[page.index("The search") : page.index("Which classes get mixed up")]
    for trial in searched.search.trials:
        assert trial.recipe in part and trial.refused in part


def test_failed_recipes_stand_below_the_sorted_rows(failing):
    failure = failing.failures[0]
    table = re.search(r'<table class="results">.*?</table>', without_bundle(html.render(failing)), re.S)[0]
    rows = table[table.index('<tbody class="failed">') :]
    assert failure.recipe in unescape(rows) and failure.error in unescape(rows) and "<b>" not in rows
