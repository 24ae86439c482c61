"""The page in a real browser: no error, no request, no sideways scroll, readable in light and dark."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afina.reporting.page import render_page
from report_inputs import multiclass, multilabel, setting

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PHONE, DESK = 390, 1280
PATIENCE = 60.0  # seconds


class Browser:
    """A headless Chromium spoken to in the DevTools protocol over two pipes."""

    def __init__(self, program: str, profile: Path) -> None:
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        # It reads from descriptor 3 and writes to 4.
        command = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += [
            "--disable-background-networking",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        self.process = subprocess.Popen(
            ["bash", "-c", command, program, *options, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        os.set_blocking(ours_in, False)
        self.reader, self.writer, self.left = ours_in, ours_out, b""
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """The result of a command; events that come in between are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") != number:
                self.events.append(found)
                continue
            if "error" in found:
                raise RuntimeError(f"{method}: {found['error']}")
            return found["result"]

    def wait(self, method: str) -> None:
        """Until an event has come."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.left:
            try:
                part = os.read(self.reader, 1 << 20)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError("the browser does not answer") from None
                time.sleep(0.01)
                continue
            if not part:
                raise RuntimeError(f"the browser is gone, status {self.process.poll()}")
            self.left += part
        line, self.left = self.left.split(b"\0", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    def open(self, page: Path, width: int, scheme: str = "light") -> None:
        """Show a file in a window of this width; events of earlier pages are forgotten."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        self.wait("Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser and wait for it."""
        try:
            self.session = None
            self.call("Browser.close")
        except (OSError, RuntimeError, TimeoutError):
            self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on the path: {', '.join(NAMES)}")
    found = Browser(program, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module", params=["es", "en"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(multiclass(), setting(request.param)), encoding="utf-8")
    return path


def complaints(browser: Browser) -> list[Any]:
    """What the browser logged, and what was thrown, since the page was opened."""
    wrong = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    return [event["params"] for event in browser.events if event.get("method") in wrong]


def requests(browser: Browser) -> list[str]:
    """What was asked for since the page was opened; data in an address is no request."""
    sent = [event for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
    addresses = [event["params"]["request"]["url"] for event in sent]
    return [address for address in addresses if not address.startswith("data:")]


def test_the_page_asks_for_nothing_but_itself_and_has_no_error(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    assert browser.evaluate("document.readyState") == "complete"
    assert requests(browser) == [page.as_uri()]
    assert complaints(browser) == []


def test_an_error_and_a_request_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<img src='absent.png'><script>throw new Error('seen')</script>", encoding="utf-8")
    browser.open(path, DESK)
    assert len(requests(browser)) == 2
    assert complaints(browser)


@pytest.mark.parametrize("make", [multiclass, multilabel])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_only_boxes_scroll_sideways(browser: Browser, tmp_path: Path, width: int, make: Any) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_page(make(), setting()), encoding="utf-8")
    browser.open(path, width)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_a_table_is_sorted_by_a_click(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    scores = "[...document.querySelectorAll('.sortable tbody tr')].map(row => +row.cells[2].dataset.sort)"
    head = "document.querySelectorAll('.sortable thead th')[2]"
    falling = browser.evaluate(scores)
    assert falling == sorted(falling, reverse=True)
    browser.evaluate(f"{head}.querySelector('button').click()")
    assert browser.evaluate(f"{head}.getAttribute('aria-sort')") == "descending"
    browser.evaluate(f"{head}.querySelector('button').click()")
    assert browser.evaluate(scores) == sorted(falling)
    assert browser.evaluate(f"{head}.getAttribute('aria-sort')") == "ascending"


def test_sides_of_words_are_told_apart_without_colour(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    style = "getComputedStyle(document.querySelector('blockquote .{}')).textDecoration{}"
    sides = ("for3", "against3")
    assert [browser.evaluate(style.format(side, "Style")) for side in sides] == ["solid", "dotted"]
    assert {browser.evaluate(style.format(side, "Line")) for side in sides} == {"underline"}


CONTRAST = """
(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const line = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [x, y, z] = [r, g, b].map(v => line(v / 255));
    return .2126 * x + .7152 * y + .0722 * z;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const bad = new Set();
  for (const node of document.querySelectorAll('body *:not(svg *):not(script)')) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!own) continue;
    const [a, b] = [light(parts(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.add(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`);
  }
  return [...bad];
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, DESK, scheme)
    assert browser.evaluate(CONTRAST) == []
