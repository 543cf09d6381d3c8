"""The page of `fog play` in Chromium, with the server as a process."""

from __future__ import annotations

import base64
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from browser import PATIENCE_MS, chromium, contrast, luminance, profile
from playwright.sync_api import Browser, BrowserContext, Page
from processes import NodeProcess
from toy_world import start_play, url_of

from fog_bringup.play.client import ImaginedEnvClient, WorldTakenError
from fog_bringup.store_export_mp4 import read_video
from fog_world_model.data.episodes import EpisodeStore


@pytest.fixture(scope="module")
def local(toy_world: tuple[Path, Path]) -> Iterator[NodeProcess]:
    """`fog play` as it comes."""
    with start_play(toy_world) as process:
        yield process


@pytest.fixture(scope="module")
def server(local: NodeProcess) -> str:
    """Where it answers."""
    return url_of(local)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from chromium()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A new profile; what a page of it complains about fails the test."""
    # A page whose server has ended tries again until it is closed, and the browser says so.
    yield from profile(browser, width=1200, expected=("ERR_CONNECTION_REFUSED",))


@pytest.fixture
def page(context: BrowserContext, server: str) -> Page:
    """A page that has the world."""
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector("body[data-state=ready]")
    page.wait_for_selector("body[data-mode=stopped]")
    return page


def _picture(page: Page, canvas: str = "imagined") -> npt.NDArray[np.uint8]:
    """What a canvas shows, ``[height, width, 3]``."""
    answer = page.evaluate(
        """(id) => {
          const c = document.getElementById(id);
          const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
          return [c.height, c.width, btoa(String.fromCharCode(...d))];
        }""",
        canvas,
    )
    data = np.frombuffer(base64.b64decode(answer[2]), np.uint8)
    return data.reshape(answer[0], answer[1], 4)[..., :3]


def _step(page: Page) -> int:
    return int(page.locator("#imagined").get_attribute("data-step") or -1)


def _wait_for(page: Page, condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < deadline, what
        page.wait_for_timeout(30)


def _drive(page: Page, key: str, until: int) -> None:
    """Hold a key until a step is reached; where the world ends, go on."""
    page.keyboard.down(key)

    def there() -> bool:
        if page.locator("body").get_attribute("data-mode") == "stopped":
            page.keyboard.up(key)
            page.keyboard.down(key)
        return _step(page) >= until

    _wait_for(page, there, f"{key}: step {until} was not reached")
    page.keyboard.up(key)


def _stop(page: Page) -> None:
    """Press the space bar until nothing runs: where the world ended just before, it starts it."""

    def stopped() -> bool:
        if page.locator("body").get_attribute("data-mode") == "stopped":
            return True
        page.keyboard.press(" ")
        return False

    _wait_for(page, stopped, "it does not stop")


def _outputs(page: Page) -> list[str]:
    return page.locator("#action output").all_inner_texts()


def test_the_page_loads_from_this_machine_alone(
    context: BrowserContext, server: str, toy_world: tuple[Path, Path]
) -> None:
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector("body[data-state=ready]")
    assert len(asked) >= 5 and all(url.startswith(server) for url in asked)
    store = EpisodeStore(toy_world[0])
    # It starts from an episode that the model was not trained on.
    episode = int(page.locator("#episode").input_value())
    assert store.episodes[episode].held_out
    length = page.locator("#context canvas").count()
    np.testing.assert_array_equal(_picture(page), store.episode(episode).image[length - 1])
    names = page.locator("button:visible").all_inner_texts()
    assert len(names) == 7 and all(name.strip() for name in names)
    assert "reach_cube" in page.title()


def test_keys_drive_and_the_space_bar_stops(page: Page) -> None:
    before = _picture(page)
    page.keyboard.down("w")
    _wait_for(page, lambda: _step(page) >= 2, "no step was made")
    assert _outputs(page) == ["+0.80 m/s", "+0.00 m/s", "+0.00 rad/s"]
    assert (_picture(page) != before).any()
    page.keyboard.down("Shift")
    page.keyboard.down("d")
    _wait_for(page, lambda: _outputs(page)[2] == "−0.60 rad/s", "half a turn to the right")
    page.keyboard.up("d")
    page.keyboard.up("Shift")
    page.keyboard.up("w")
    _stop(page)
    held = _step(page)
    page.wait_for_timeout(700)
    assert _step(page) == held
    page.keyboard.press(".")
    _wait_for(page, lambda: _step(page) == held + 1, "one step")
    assert "of 200 ms" in page.locator("#time").inner_text()


def test_the_same_key_gives_the_same_picture_and_another_key_another(page: Page) -> None:
    pictures = []
    for key in ("w", "s", "w"):
        page.keyboard.down(key)
        _wait_for(page, lambda: _step(page) >= 1, "no step was made")
        _stop(page)
        page.keyboard.press("b")  # the same start and the same noise; the key is still held
        _wait_for(page, lambda: _step(page) == 0, "not begun again")
        page.keyboard.press(".")
        _wait_for(page, lambda: _step(page) == 1, "no single step")
        pictures.append(_picture(page))
        page.keyboard.up(key)
    np.testing.assert_array_equal(pictures[0], pictures[2])
    assert (pictures[0] != pictures[1]).any()


def test_the_place_of_a_key_counts_and_not_what_is_printed_on_it(page: Page) -> None:
    # On a French keyboard the key at the place of W says Z.
    page.evaluate(
        """() => window.dispatchEvent(new KeyboardEvent(
             "keydown", { code: "KeyW", key: "z", bubbles: true }))"""
    )
    _wait_for(page, lambda: _step(page) >= 1, "no step was made")
    assert _outputs(page)[0] == "+0.80 m/s"
    page.evaluate("window.dispatchEvent(new Event('blur'))")  # another window: all keys are up
    _wait_for(page, lambda: _outputs(page)[0] == "+0.00 m/s", "the key is still held")


def test_another_episode_and_a_chosen_one(page: Page, toy_world: tuple[Path, Path]) -> None:
    store = EpisodeStore(toy_world[0])
    _drive(page, "w", 2)
    page.get_by_role("button", name="Another episode").click()
    _wait_for(page, lambda: _step(page) == 0, "no new world")
    page.wait_for_selector("body[data-mode=stopped]")
    page.get_by_label("Episode").select_option("3")
    page.get_by_text("episode 3 from step 0").wait_for()
    page.get_by_label("From step").fill("5")
    page.get_by_label("From step").press("Enter")
    page.get_by_text("episode 3 from step 5").wait_for()
    length = page.locator("#context canvas").count()
    np.testing.assert_array_equal(_picture(page), store.episode(3).image[5 + length - 1])
    # Beyond its end: as far as it goes.
    page.get_by_label("From step").fill("999")
    page.get_by_label("From step").press("Enter")
    last = int(store.lengths[3]) - length
    page.get_by_text(f"episode 3 from step {last},").wait_for()
    assert page.get_by_role("button", name="Replay recording").is_disabled()


def test_a_replay_shows_the_recording_beside_the_imagination(
    page: Page, toy_world: tuple[Path, Path]
) -> None:
    episode = EpisodeStore(toy_world[0]).episode(2)
    page.get_by_label("Episode").select_option("2")
    page.get_by_text("episode 2 from step 0").wait_for()
    length = page.locator("#context canvas").count()
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("p")
    page.wait_for_selector("body[data-mode=replaying]")
    # Two pictures that belong to one step.
    both: dict[int, tuple[Any, Any]] = {}

    def ended() -> bool:
        before = _step(page)
        pair = (_picture(page, "recorded"), _picture(page)) if before > 0 else None
        if pair is not None and _step(page) == before:
            both[before] = pair
        return page.locator("#mode").inner_text() == "Stopped: the recording ends here"

    _wait_for(page, ended, "the replay has not ended")
    steps = len(episode) - length
    assert _step(page) == steps and len(both) > steps // 2
    for step, (recorded, imagined) in both.items():
        np.testing.assert_array_equal(recorded, episode.image[length - 1 + step])
        assert (imagined != recorded).any()
    assert page.locator("#psnr").inner_text().endswith("dB")
    assert page.locator("#recorded-view").is_visible()


def test_the_video_is_saved_and_can_be_decoded(
    page: Page, toy_world: tuple[Path, Path], tmp_path: Path
) -> None:
    _drive(page, "w", 4)
    _stop(page)
    steps, last = _step(page), _picture(page)
    length = page.locator("#context canvas").count()
    with page.expect_download() as download:
        page.keyboard.press("v")
    assert re.fullmatch(r"reach_cube-episode-\d+-from-0\.mp4", download.value.suggested_filename)
    path = tmp_path / "play.mp4"
    download.value.save_as(path)
    frames = read_video(path)
    assert len(frames) == length + steps
    small = frames[-1][:320].reshape(32, 10, 32, 10, 3).mean((1, 3))
    assert np.abs(small - last).mean() < 12


def test_a_second_visitor_waits_and_gets_the_world_when_the_first_is_gone(
    context: BrowserContext, page: Page, server: str
) -> None:
    second = context.new_page()
    second.goto(server)
    second.wait_for_selector("body[data-state=taken]")
    assert "A person has had this world" in second.locator("#away-text").inner_text()
    assert not second.locator("#world").is_visible()
    with pytest.raises(WorldTakenError, match="A person"):
        ImaginedEnvClient(server)
    second.get_by_role("button", name="Try again").click()
    second.wait_for_selector("body[data-state=taken]")
    page.close()  # the connection drops
    second.wait_for_selector("body[data-state=ready]")
    _drive(second, "w", 1)
    # Loaded again it may find its own old connection, and gets the world all the same.
    second.reload()
    second.wait_for_selector("body[data-state=ready]")


def test_the_help_says_the_keys_and_takes_them(page: Page) -> None:
    page.keyboard.press("?")
    help_page = page.get_by_role("dialog", name="How to drive")
    help_page.wait_for()
    assert "turn left (angular.z)" in help_page.inner_text()
    page.keyboard.press("w")
    page.wait_for_timeout(500)
    assert _step(page) == 0
    page.keyboard.press("Escape")
    help_page.wait_for(state="hidden")
    # The button is reached and pressed with the keyboard alone.
    page.get_by_role("button", name="Help").focus()
    page.keyboard.press(" ")
    help_page.wait_for()


def test_a_gamepad_drives(page: Page) -> None:
    page.evaluate(
        """() => {
          window.pad = { connected: true, axes: [0, -1, 0.05, 0],
                         buttons: Array.from({ length: 16 }, () => ({ pressed: false })) };
          navigator.getGamepads = () => [window.pad];
          window.dispatchEvent(new Event("gamepadconnected"));
        }"""
    )
    _wait_for(page, lambda: _step(page) >= 1, "no step was made")
    # The stick is pushed forwards; the other rests within its dead zone.
    assert _outputs(page) == ["+0.80 m/s", "+0.00 m/s", "+0.00 rad/s"]
    page.evaluate("() => { window.pad.axes = [1, 0, -1, 0]; }")
    _wait_for(page, lambda: _outputs(page) == ["+0.00 m/s", "−0.40 m/s", "+1.20 rad/s"], "right")
    page.evaluate("() => { window.pad.buttons[0].pressed = true; }")
    page.wait_for_selector("body[data-mode=stopped]")


def test_a_phone_is_wide_enough_and_its_pads_drive(browser: Browser, server: str) -> None:
    phone = browser.new_context(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    try:
        page = phone.new_page()
        page.goto(server)
        page.wait_for_selector("body[data-state=ready]")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360
        well = page.locator(".well").first.bounding_box()
        assert well is not None and well["y"] + well["height"] <= 740
        middle = well["x"] + well["width"] / 2, well["y"] + well["height"] / 2
        page.mouse.move(*middle)
        page.mouse.down()

        def pushed() -> bool:
            page.mouse.move(middle[0], well["y"] + 1)  # a thumb is never quite still
            page.mouse.move(middle[0], well["y"])
            return _step(page) >= 1

        _wait_for(page, pushed, "no step was made")
        _wait_for(page, lambda: _outputs(page)[0] == "+0.80 m/s", "not forwards")
        page.mouse.up()
        _wait_for(page, lambda: _outputs(page)[0] == "+0.00 m/s", "the pad is still held")
    finally:
        phone.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser: Browser, server: str, scheme: Any) -> None:
    context = browser.new_context(color_scheme=scheme)
    try:
        page = context.new_page()
        page.goto(server)
        page.wait_for_selector("body[data-state=ready]")
        colors = page.evaluate(
            """() => ["body", "#description", "dt", "dd", "button.first", "#once", "#once kbd",
                      "#context-caption", "#message", "#task", ".keys"].map((selector) => {
              const element = document.querySelector(selector);
              let back = element;
              while (getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)")
                back = back.parentElement;
              return [selector, getComputedStyle(element).color,
                      getComputedStyle(back).backgroundColor];
            })"""
        )
    finally:
        context.close()
    for selector, ink, paper in colors:
        assert contrast(ink, paper) >= 4.5, (selector, ink, paper)  # WCAG 2, level AA
    dark = luminance(colors[0][2]) < 0.2
    assert dark == (scheme == "dark")


def test_ctrl_c_ends_it_while_somebody_plays(
    toy_world: tuple[Path, Path], context: BrowserContext
) -> None:
    with start_play(toy_world) as process:
        page = context.new_page()
        page.goto(url_of(process))
        page.wait_for_selector("body[data-state=ready]")
        page.keyboard.down("w")
        _wait_for(page, lambda: _step(page) >= 1, "no step was made")
        process.send(signal.SIGINT)
        assert process.wait(20.0) == -signal.SIGINT  # status 130
        assert "Traceback" not in process.output()
        page.wait_for_selector("body[data-state=lost]")
        page.close()
