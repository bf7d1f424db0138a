"""Each page in a real browser: nothing forbidden, nothing foreign, nothing out of reach, in every look."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.kit.dashboard import HOSTILE, every_page, path

AXE = (Path(__file__).parent / "axe.min.js").read_text()
LOOKS: dict[str, dict[str, Any]] = {
    "en, light, wide": {"locale": "en-GB", "color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "zh, dark, narrow": {"locale": "zh-CN", "color_scheme": "dark", "viewport": {"width": 375, "height": 800}},
    "en, dark, narrow": {"locale": "en-GB", "color_scheme": "dark", "viewport": {"width": 375, "height": 800}},
    "zh, light, wide": {"locale": "zh-CN", "color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
}
PAGES = list(every_page())
SHOTS = os.environ.get("SCREENSHOTS")


@contextmanager
def reading(browser: Browser, served: str, **look: Any) -> Iterator[Page]:
    """Open a page whose every message of the policy, error and foreign request fails the test."""
    context = browser.new_context(timezone_id="Asia/Shanghai", bypass_csp=False, **look)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda problem: wrong.append(str(problem)))
    page.on("request", lambda request: None if request.url.startswith((served, "data:")) else wrong.append(request.url))
    yield page
    context.close()
    assert wrong == []


def settled(page: Page, url: str) -> None:
    """Go there, and wait until every panel is filled."""
    answer = page.goto(url, wait_until="load")  # panels that come later are busy until they are there
    assert answer is not None
    assert answer.ok, url
    page.wait_for_function("() => !document.querySelector('[aria-busy=true]')")


def violations(page: Page) -> list[str]:
    """Return what axe-core finds; it is put there by the driver, past the page's own policy."""
    page.evaluate(AXE)
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("look", LOOKS)
def test_every_page(browser: Browser, served: str, look: str) -> None:
    """No message of the policy, no foreign request, no violation of axe-core, no sideways scrolling of the page."""
    with reading(browser, served, **LOOKS[look]) as page:
        for name, query in PAGES:
            settled(page, served + path(name, **query))
            assert violations(page) == [], name
            wide = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{name} scrolls sideways by {wide} pixels"
            assert page.locator("h1").count() == 1, name
            if SHOTS:
                file = f"{name.replace('/', '-')}-{look.replace(', ', '-')}.png"
                page.screenshot(path=Path(SHOTS) / file, full_page=True)


def test_hostile_ids_and_texts_do_nothing(browser: Browser, served: str) -> None:
    """Their sessions are read as text: no dialog, no script, no broken page."""
    with reading(browser, served, **LOOKS["en, light, wide"]) as page:
        page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
        for text in HOSTILE.values():
            settled(page, served + path("session", id=text[:2000]))
            assert page.locator(".turn").count() == 1
            assert page.locator(".turn img, .turn script").count() == 0


def test_without_script_and_at_twice_the_size(browser: Browser, served: str) -> None:
    """Everything is links and forms; figures stand in tables."""
    look = {"viewport": {"width": 640, "height": 450}, "java_script_enabled": False}
    with reading(browser, served, **look) as page:
        page.goto(served + path("usage"))
        page.get_by_role("link", name="Figures over time").click()
        page.get_by_text("As a table").first.click()
        assert page.locator("table[data-plot]").first.is_visible()
        page.get_by_role("link", name="Sessions", exact=True).click()
        page.locator("input[name=user]").fill("ada")
        page.get_by_role("button", name="Show").click()
        assert "user=ada" in page.url
        assert page.locator("tbody tr").count() == 1


def test_by_keyboard_alone(browser: Browser, served: str) -> None:
    """From the skip link to a session's words."""
    with reading(browser, served, **LOOKS["en, light, wide"]) as page:
        settled(page, served + path("sessions"))
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        for _ in range(40):
            page.keyboard.press("Tab")
            if "/session?" in (page.evaluate("() => document.activeElement.href") or ""):
                break
        page.keyboard.press("Enter")
        page.wait_for_url("**/session?**")
        assert page.locator(".transcript").count() == 1


def test_plots_draw_the_tables(browser: Browser, served: str) -> None:
    """Each has its canvas, and the figures of the table that stands below it."""
    with reading(browser, served, **LOOKS["en, light, wide"]) as page:
        settled(page, served + path("usage"))
        page.wait_for_function("() => document.querySelectorAll('.plot canvas').length === 5")
        same = page.evaluate(
            """() => [...document.querySelectorAll('.panel')].every(panel => {
                const rows = panel.querySelectorAll('tbody tr').length;
                return panel.querySelector('.plot').chart.data.labels.length === rows;
            })"""
        )
        assert same


def test_the_first_page_is_small(browser: Browser, served: str) -> None:
    """At most 100 kB over the wire for the first page of all, 25 kB for each after."""
    context = browser.new_context()
    page = context.new_page()
    sizes: list[int] = []
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    settled(page, served + path("usage"))
    assert sum(sizes) <= 100_000
    sizes.clear()
    settled(page, served + path("calls"))
    assert sum(sizes) <= 25_000
    context.close()
