"""Chromium for tests of pages, and whether what they show can be read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

PATIENCE_MS = 30_000
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> Iterator[Browser]:
    """The body of a fixture: a browser, or a test that is skipped and says so."""
    if CHROMIUM is None:
        pytest.skip("the page was NOT tested: no chromium here; apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


def profile(browser: Browser, *, width: int, expected: Sequence[str]) -> Iterator[BrowserContext]:
    """The body of a fixture: a new profile; what a page of it complains about fails the test.

    Args:
        browser: Whose.
        width: Of the page, px.
        expected: Parts of complaints that do not count.
    """
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    yield context
    context.close()
    assert not [text for text in complaints if not any(part in text for part in expected)]


def luminance(color: str) -> float:
    """Relative luminance of a CSS colour ``rgb(...)`` as WCAG 2 defines it."""
    values = np.array([int(n) for n in re.findall(r"\d+", color)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21, as WCAG 2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
