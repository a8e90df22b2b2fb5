"""Prefect's UI as a person sees it: headless Chromium, driven by what can be read on the page."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.lab_up import LabUp

PROGRAMS = ("chromium", "chromedriver")
MISSING = "needs Chromium: apt-get install chromium chromium-driver"
SECONDS = 30.0  # for anything to appear, on a busy computer
CLICK_SECONDS = 5.0  # for what a click brings about
RELOAD_SECONDS = 5.0  # a list of runs brings itself up to date more seldom
WIDTH = 1400


def missing() -> bool:
    """Tell whether this computer lacks the browser."""
    return not all(shutil.which(program) for program in PROGRAMS)


class Ui:
    """A browser that has logged in to a lab's Prefect."""

    def __init__(self, up: LabUp) -> None:
        self._address = up.api.removesuffix("/api")
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
            options.add_argument(f"--{word}")
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        self.driver.set_window_size(WIDTH, 1600)
        self.driver.get(self._address)
        self._find("//input").send_keys(up.login)
        self._find("//button[@type='submit']").click()
        self.text("Dashboard")

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    def open(self, path: str) -> None:
        """Go to a page."""
        self.driver.get(f"{self._address}/v2/{path}")

    def text(self, *words: str, seconds: float = SECONDS, reload: bool = False) -> str:
        """Wait until the page says all of this, looking at it anew where told to; return all that it says."""
        begun = looked = time.monotonic()
        while not all(word in (text := self._shown()) for word in words):
            now = time.monotonic()
            assert now - begun < seconds, f"{words} not on {self.driver.current_url}:\n{text}"
            if reload and now - looked > RELOAD_SECONDS:
                self.driver.refresh()
                looked = now
            time.sleep(0.3)
        return text

    def fill(self, label: str, text: str) -> None:
        """Write into the field of that label."""
        self._of(label).send_keys(text)

    def choose(self, label: str, option: str) -> None:
        """Pick an option of the dropdown below a label."""
        button = f"{_label(label)}/following::button[starts-with(@aria-label, 'Select')][1]"
        self._until(lambda: self._click(button), lambda: self._seen(f"//*[@role='option'][contains(., '{option}')]"))
        self._until(
            lambda: self._click(f"//*[@role='option'][contains(., '{option}')]"),
            lambda: not self._seen("//*[@role='option']"),
        )

    def press(self, words: str, then: str = "") -> None:
        """Press a button, a tab or a link by what stands on it, until the page says something."""
        where = f"//*[self::button or self::a][contains(., '{words}')]"
        self._find(where)
        self._until(lambda: self._click(where), lambda: then in self._shown())

    def picture(self, file: Path, height: int) -> None:
        """Keep what is shown."""
        self.driver.set_window_size(WIDTH, height)
        time.sleep(2)  # until nothing moves
        self.driver.save_screenshot(str(file))

    def _of(self, label: str) -> WebElement:
        return self.driver.find_element(By.ID, self._find(_label(label)).get_attribute("for") or "")

    def _find(self, path: str) -> WebElement:
        redrawn = (StaleElementReferenceException,)
        wait = WebDriverWait(self.driver, SECONDS, ignored_exceptions=redrawn)
        element = wait.until(lambda _: self._seen(path), f"{path} is not there")
        assert element is not None
        return element

    def _seen(self, path: str) -> WebElement | None:
        return next((each for each in self.driver.find_elements(By.XPATH, path) if each.is_displayed()), None)

    def _click(self, path: str) -> None:
        if (element := self._seen(path)) is not None:
            element.click()

    def _until(self, act: Callable[[], None], done: Callable[[], object]) -> None:
        """Do something, again where a page that was still being drawn had not heard it."""
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(WebDriverException):
                act()
                WebDriverWait(self.driver, CLICK_SECONDS).until(lambda _: done())
                return
            assert time.monotonic() < deadline, self._shown()

    def _shown(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))


def _label(text: str) -> str:
    return f"//label[starts-with(normalize-space(.), '{text}')]"
