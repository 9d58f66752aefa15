"""The screenshots of docs/watch.md, from any runs: python docs/media/watch.py RUN_OR_DIRECTORY [RUN ...]

Makes watch-desktop.png, watch-phone.png and play-desktop.png beside this file. The dream is that of the first run.
Needs Chromium and the package playwright (which downloads nothing here).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def visit(browser, url, size, theme, name, act):
    context = browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True)), color_scheme=theme)
    page = context.new_page()
    page.goto(url)
    act(page)
    page.wait_for_timeout(400)
    page.screenshot(path=str(HERE / f"{name}.png"))
    context.close()


def curves(page):
    page.wait_for_selector(".returns .u-over")
    page.wait_for_selector("#link.on")


def dream(page):
    """Three steps of the actor, then four branches, in which it continues."""
    page.wait_for_selector("body[data-step='0']")
    for count in range(1, 4):
        page.keyboard.press(".")
        page.wait_for_selector(f"body[data-step='{count}']")
    page.locator("#lanes").select_option("4")
    page.keyboard.press("b")
    page.wait_for_selector(".stage.many")
    for count in range(4, 12):
        page.keyboard.press(".")
        page.wait_for_selector(f"body[data-step='{count}']")


def main():
    seed = os.environ.get("SEED", "0")
    command = [sys.executable, "-m", "reverie.cli", "watch", *sys.argv[1:], "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as play:
        url = json.loads(server.stdout.readline())["url"]
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = play.chromium.launch(executable_path=chromium, args=QUIET)
        visit(browser, url, (1280, 860), "dark", "watch-desktop", curves)
        visit(browser, url, (390, 844), "light", "watch-phone", curves)
        visit(browser, f"{url}play?run=0&seed={seed}", (1280, 900), "dark", "play-desktop", dream)
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
