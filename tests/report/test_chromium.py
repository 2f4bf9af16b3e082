"""The page in a real browser: charts drawn, nothing on the console, nothing asked from a network."""

import re
import shutil
import subprocess
from dataclasses import replace
from html import escape

import pytest
from PIL import Image

from dlmo.report.html import render

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *(
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
    ),
)

pytestmark = pytest.mark.chromium


@pytest.fixture
def open_page(tmp_path):
    """Opens HTML at a width; returns the DOM after scripts ran, the screenshot and the console's lines."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for path in map(shutil.which, names) if path), None)
    if browser is None:
        pytest.skip(f"no browser installed (looked for {', '.join(names)})")

    def run_browser(text, width=1280):
        page, picture = tmp_path / "page.html", tmp_path / "page.png"
        page.write_text(text, "utf-8")
        base = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000"]
        dom = subprocess.run([*base, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
        subprocess.run([*base, f"--screenshot={picture}", page.as_uri()], capture_output=True, timeout=120)
        console = [line for line in dom.stderr.splitlines() if "CONSOLE" in line]
        return dom.stdout, Image.open(picture).convert("RGB"), console

    return run_browser


def marks(dom, chart, kind):
    """How many marks of a kind a chart's SVG holds."""
    part = dom[dom.index(f'id="{chart}"') :]
    part = part[: part.index("</svg>")]
    groups = re.findall(rf'<g class="mark-{kind} role-mark[^"]*"[^>]*>(.*?)</g>', part, re.S)
    return sum(group.count("<path") + group.count("<line") + group.count("<text") for group in groups)


def test_charts_are_drawn(open_page, run):
    dom, picture, console = open_page(render(run))
    assert console == []
    assert 'data-charts="drawn"' in dom
    for chart in ("chart-size", "chart-latency"):
        assert marks(dom, chart, "symbol") == len(run.results) + 1  # and the ring
        assert marks(dom, chart, "rule") == len(run.results)
    assert marks(dom, "chart-confusion", "rect") == sum(bool(n) for row in run.confusion for n in row)
    assert marks(dom, "chart-confusion", "text") == marks(dom, "chart-confusion", "rect")
    for chart in ("chart-steps-size", "chart-steps-running"):
        assert marks(dom, chart, "rect") == len(run.choice.waterfall)
    assert marks(dom, "chart-steps-accuracy", "symbol") == 2 * len(run.choice.waterfall)
    assert 'id="chart-accuracy-curve"' in dom and 'id="chart-loss-curve"' in dom
    assert len(picture.getcolors(1 << 24)) > 100


@pytest.mark.parametrize("number", [2, 34])
def test_odd_class_names_and_many_classes(open_page, with_classes, number):
    dom, _, console = open_page(render(with_classes(number)), width=500)
    assert console == []
    assert marks(dom, "chart-confusion", "rect") >= number
    assert dom.count("<script") == 4


def test_no_choice(open_page, no_choice):
    dom, _, console = open_page(render(no_choice))
    assert console == []
    assert marks(dom, "chart-size", "symbol") == len(no_choice.results)


def test_sorting_by_a_click(open_page, run):
    click = '<script>document.querySelectorAll("table.results th button")[3].click()</script></body>'
    dom, _, console = open_page(click.join(render(run).rsplit("</body>", 1)))
    assert console == []
    sizes = [
        float(key) for key in re.findall(r"<tr[^>]*>\s*(?:<td data-key.*?</td>\s*){3}<td data-key=\"(\d+)\"", dom, re.S)
    ]
    assert len(sizes) == len(run.results)
    assert sizes == sorted(sizes)


def test_on_a_phone_tables_scroll_and_the_page_does_not(open_page, run):
    long_named = replace(run, classes=tuple(f"{name} of a long kind" for name in run.classes))
    measured = 'const page = document.getElementById("phone").contentDocument.documentElement;'
    frame = (
        f'<iframe id="phone" width="400" height="3000" srcdoc="{escape(render(long_named))}"></iframe><script>'
        f"setTimeout(() => {{ {measured} document.title = `${{page.scrollWidth}} in ${{page.clientWidth}}` }}, 5000)"
        "</script>"
    )
    dom, _, _ = open_page(frame)
    wide, room = map(int, re.search(r"<title>(\d+) in (\d+)</title>", dom).groups())
    assert 0 < wide <= room < 400
