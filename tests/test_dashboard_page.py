"""The operator's page in Chromium; its server runs here, and a robot is made up for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import cv2
import numpy as np
import pytest
from browser import PATIENCE_MS, chromium, contrast, luminance, profile
from playwright.sync_api import Browser, BrowserContext, Page

from fog_bringup.dashboard.board import Board
from fog_bringup.dashboard.operator import Answer
from fog_bringup.dashboard.safety_words import Status
from fog_bringup.dashboard.server import make_app
from fog_bringup.web.server import BackgroundServer, listen, page_url
from fog_world_model.data import messages
from fog_world_model.task import TaskConfig

COLOUR = (200, 60, 30)


class MadeUpRobot:
    """A page's server, with a thread that says what a robot and a policy node would."""

    def __init__(self, task: TaskConfig) -> None:
        self.board = Board(task, "policy_node")
        self.asked: list[str] = []
        self.answer: Answer | None = Answer(True, "done")
        """What the policy node answers; None: nothing."""
        self.silent = False
        """Whether the camera is."""
        self.status = (0, "driving")
        self.state = "active"
        self.engaged = "released"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()
        self._server: BackgroundServer | None = None
        self.port = 0
        self.serve()

    def serve(self) -> None:
        """Open the page, on the same port as before."""
        listener = listen("127.0.0.1", self.port)
        self.url = page_url(listener)
        self.port = listener.getsockname()[1]
        app = make_app(self.board, self, policy_node="/policy_node")
        self._server = BackgroundServer(app, listener)

    def shut(self) -> None:
        """End the server."""
        assert self._server is not None
        self._server.close()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self.shut()

    def stop(self) -> Future[Answer]:
        return self._ask("stop")

    def reset(self) -> Future[Answer]:
        return self._ask("reset")

    def change(self, transition: str) -> Future[Answer]:
        return self._ask(transition)

    def _ask(self, what: str) -> Future[Answer]:
        future: Future[Answer] = Future()
        self.asked.append(what)
        if self.answer is not None:
            if self.answer.success and what in ("stop", "reset"):
                self.engaged = "by service" if what == "stop" else "released"
                self.status = (2, "emergency_stop: x") if what == "stop" else (0, "driving")
            future.set_result(self.answer)
        return future

    def _publish(self) -> None:
        image = messages.make(
            "sensor_msgs/msg/Image",
            height=48,
            width=64,
            encoding="rgb8",
            step=192,
            data=np.tile(np.array(COLOUR, np.uint8), 48 * 64),
        )
        vector = "geometry_msgs/msg/Vector3"

        def twist(x: float, z: float) -> bytes:
            parts = {"linear": messages.make(vector, x=x), "angular": messages.make(vector, z=z)}
            return messages.serialise(messages.make("geometry_msgs/msg/Twist", **parts))

        picture, command, wanted = messages.serialise(image), twist(0.4, -1.2), twist(0.8, -1.2)
        while not self._closing.wait(0.1):
            if not self.silent:
                self.board.camera.receive(picture, 0)
            self.board.command.put(command)
            self.board.proposed.put(wanted)
            self.board.lifecycle(self.state)
            values = {
                "emergency_stop": self.engaged,
                "achieved_hz": "3.5",
                "commands": "70",
                "missed_deadlines": "2",
                "latency_ms.p50": "61.2",
                "task": "reach_cube",
            }
            self.board.diagnostics(
                [
                    Status("policy_node: control", *self.status, values),
                    Status("recorder_node: <i>recorder</i>", 1, "the disk is nearly full"),
                ]
            )


@pytest.fixture
def robot(task: TaskConfig) -> Iterator[MadeUpRobot]:
    made_up = MadeUpRobot(task)
    yield made_up
    made_up.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from chromium()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A new profile; what a page of it complains about fails the test."""
    # While the server is away, or the policy node refuses, the browser says so.
    yield from profile(
        browser, width=1280, expected=("ERR_CONNECTION_REFUSED", "502 (Bad Gateway)")
    )


def _open(context: BrowserContext, robot: MadeUpRobot) -> Page:
    page = context.new_page()
    page.goto(robot.url)
    page.wait_for_selector("body[data-link=live]")
    page.wait_for_selector("#picture[data-number]")
    return page


@pytest.fixture
def page(context: BrowserContext, robot: MadeUpRobot) -> Page:
    return _open(context, robot)


def _wait_for(page: Page, condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < deadline, what
        page.wait_for_timeout(30)


def _text(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text()


def _confirmed(page: Page) -> None:
    page.get_by_text("✓ Stop confirmed by the policy node").wait_for()


def test_it_shows_the_robot_from_this_machine_alone(
    context: BrowserContext, robot: MadeUpRobot
) -> None:
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = _open(context, robot)
    own = (robot.url, robot.url.replace("http", "ws"), "blob:")
    assert len(asked) >= 6 and all(url.startswith(own) for url in asked), asked
    assert _text(page, "#headline") == "Driving"
    assert page.title() == "Driving · reach_cube"
    pixel = page.evaluate(
        "[...document.getElementById('picture').getContext('2d').getImageData(9, 9, 1, 1).data]"
    )
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), COLOUR[::-1], np.uint8))[1]
    expected = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[9, 9, ::-1]
    np.testing.assert_allclose(pixel[:3], expected, atol=6)
    assert page.locator("#fields output").all_inner_texts() == [
        "+0.40 m/s",
        "+0.00 m/s",
        "−1.20 rad/s",
    ]
    # Within [-0.8, 0.8]: the bar goes from the middle to three quarters, the mark is at the end.
    styles = page.evaluate(
        """() => { const row = document.querySelector("#fields .field");
             const bar = row.querySelector("i").style, mark = row.querySelector("u").style;
             return [bar.left, bar.width, mark.left].map(parseFloat); }"""
    )
    np.testing.assert_allclose(styles, [50.0, 25.0, 100.0], atol=1e-3)
    assert _text(page, "#rate") == "✗ 3.50 of 5 Hz" and _text(page, "#latency") == "61 ms"
    assert _text(page, "#missed") == "2 of 70"
    # What nodes say is text.
    assert "recorder_node: <i>recorder</i> the disk is nearly full" in _text(page, "#others")


def test_the_space_bar_stops_wherever_the_focus_is(page: Page, robot: MadeUpRobot) -> None:
    page.keyboard.press(" ")
    _confirmed(page)
    _wait_for(page, lambda: robot.asked == ["stop"], "not stopped")
    page.get_by_text("Stopped: emergency stop").wait_for()
    # On a button that would start something, and on the answer to its question.
    for focus in ("#reset", "#confirm-yes"):
        page.locator("#reset").focus()
        page.keyboard.press("Enter")
        page.locator("#confirm").wait_for()
        page.locator(focus).focus()
        page.wait_for_timeout(350)
        page.keyboard.press(" ")
        page.locator("#confirm").wait_for(state="hidden")
    _wait_for(page, lambda: len(robot.asked) == 3, "not stopped")
    page.wait_for_timeout(300)
    assert robot.asked == ["stop"] * 3


def test_mouse_and_keyboard_press_the_button_itself(page: Page, robot: MadeUpRobot) -> None:
    page.locator("#stop").click()
    _confirmed(page)
    assert robot.asked == ["stop"]  # a press and its click are one
    page.wait_for_timeout(400)
    page.locator("#stop").focus()
    page.keyboard.press("Enter")
    _wait_for(page, lambda: robot.asked == ["stop"] * 2, "not stopped")
    # A question is not above it.
    page.locator("#reset").click()
    page.locator("#confirm").wait_for()
    page.wait_for_timeout(400)
    page.locator("#stop").click()
    _wait_for(page, lambda: robot.asked == ["stop"] * 3, "not stopped")
    assert page.locator("#confirm").is_hidden()


def test_a_stop_that_nobody_confirms_is_said_loudly(page: Page, robot: MadeUpRobot) -> None:
    robot.answer = None
    second = _open(page.context, robot)
    page.keyboard.press(" ")
    for shown in (page, second):  # whoever watches sees it
        shown.get_by_text("STOP NOT CONFIRMED").wait_for()
        said = _text(shown, "#stop-result")
        assert "Use the remote control now" in said and "did not answer within 1 s" in said
        assert shown.locator("#stop").is_enabled()
    # It stays until somebody decides to go on.
    robot.answer = Answer(True, "released")
    second.locator("#reset").click()
    second.locator("#confirm-yes").click()
    for shown in (page, second):
        shown.get_by_text("STOP NOT CONFIRMED").wait_for(state="detached")


def test_what_starts_movement_is_asked_twice(page: Page, robot: MadeUpRobot) -> None:
    assert page.locator("#activate").is_disabled() and page.locator("#reset").is_disabled()
    # What latches without an emergency stop can be reset too.
    robot.status = (2, "out_of_distribution: 9 nats at one step; reset it to go on")
    page.locator("#reset:enabled").wait_for()
    robot.status = (0, "driving")
    page.locator("#reset:disabled").wait_for()
    page.locator("#deactivate").click()
    _wait_for(page, lambda: robot.asked == ["deactivate"], "not deactivated")
    robot.state, robot.status = "inactive", (1, "not active")
    page.locator("#activate:enabled").click()
    page.get_by_role("alertdialog", name="Activate the policy?").wait_for()
    page.keyboard.press("Escape")
    page.locator("#confirm").wait_for(state="hidden")
    page.locator("#activate").click()
    page.keyboard.press("Enter")  # on Cancel
    page.locator("#confirm").wait_for(state="hidden")
    assert robot.asked == ["deactivate"]
    page.locator("#activate").click()
    page.locator("#confirm-yes").click()
    _wait_for(page, lambda: robot.asked[1:] == ["activate"], "not activated")
    robot.state, robot.status = "unconfigured", (1, "not configured")
    page.get_by_role("button", name="Configure …").click()
    robot.answer = Answer(False, "the bundle is not there")
    page.locator("#confirm-yes").click()
    page.get_by_text("configure: the bundle is not there").wait_for()


def test_a_silent_camera_is_visible(page: Page, robot: MadeUpRobot) -> None:
    robot.silent = True
    page.get_by_text("No new picture for").wait_for()
    assert page.locator("#view.stale").is_visible()
    assert float(page.locator("#picture").evaluate("e => getComputedStyle(e).opacity")) < 0.5
    robot.silent = False
    page.wait_for_selector("#view:not(.stale)")
    assert page.locator("#no-picture").is_hidden()


def test_a_lost_connection_is_said_in_large_letters(page: Page, robot: MadeUpRobot) -> None:
    robot.shut()
    page.get_by_text("CONNECTION LOST").wait_for()
    size = page.locator("#lost strong").evaluate("e => parseFloat(getComputedStyle(e).fontSize)")
    assert size > 25 and " old" in _text(page, "#lost-age")
    assert page.locator("#activate").is_disabled() and page.locator("#deactivate").is_disabled()
    page.keyboard.press(" ")
    page.get_by_text("STOP NOT CONFIRMED").wait_for()
    assert "does not reach the server" in _text(page, "#stop-result")
    assert robot.asked == []
    robot.serve()
    page.wait_for_selector("body[data-link=live]")
    assert page.locator("#lost").is_hidden()
    # The stop is tried again until it gets there.
    _confirmed(page)
    assert robot.asked == ["stop"]


def test_a_phone_is_wide_enough_and_has_the_stop_under_the_thumb(
    browser: Browser, robot: MadeUpRobot
) -> None:
    phone = browser.new_context(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    try:
        page = _open(phone, robot)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for scroll in (0, 2000):
            page.evaluate(f"window.scrollTo(0, {scroll})")
            box = page.locator("#stop").bounding_box()
            assert box is not None and box["y"] + box["height"] <= 740
            assert box["height"] >= 72 and box["width"] >= 300
        page.locator("#stop").tap()
        _confirmed(page)
        assert robot.asked == ["stop"]
    finally:
        phone.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(
    browser: Browser, robot: MadeUpRobot, scheme: Any
) -> None:
    context = browser.new_context(color_scheme=scheme)
    try:
        page = _open(context, robot)
        for status in ((0, "driving"), (1, "not active"), (2, "image: late"), (7, "odd")):
            robot.status = status
            level = {0: "ok", 1: "warn", 2: "error", 7: "unknown"}[status[0]]
            page.wait_for_selector(f"body[data-level={level}]")
            colors = page.evaluate(
                """() => ["body", "#description", "#headline", "#since", "#since small", "#stop",
                          "#link", "#lifecycle", "#deactivate", "#camera figcaption", "dt", "dd",
                          "#fields .bounds", "#command-note", "#rate .no", "#others li"
                         ].map((s) => {
                  const element = document.querySelector(s);
                  let back = element;
                  while (getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)")
                    back = back.parentElement;
                  return [s, getComputedStyle(element).color,
                          getComputedStyle(back).backgroundColor];
                })"""
            )
            for selector, ink, paper in colors:
                assert contrast(ink, paper) >= 4.5, (level, selector, ink, paper)  # WCAG 2, AA
        assert (luminance(colors[0][2]) < 0.2) == (scheme == "dark")
    finally:
        context.close()
