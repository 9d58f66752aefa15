"""How quick are the dashboard and the dream player?

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/watch.py --run runs/demo --out benchmarks/results/watch.json

start      from the command to the first answer; to the first curve in a headless Chromium, if there is one
long run   200,000 lines of metrics and 1,000,000 episodes, made up: first reading, then a look for news
dream      one step of the run's agent: the model, its images as PNG, the answer as JSON; then end to end over the
           websocket from a Python client, one and four branches, and in the browser
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from websockets.sync.client import connect

from reverie.commands.bench import cpu_model
from reverie.web.play_socket import PlayClient, PlayServer
from reverie.web.runs import RunIndex

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@contextmanager
def watching(root: Path):
    """The real command. -> its URL, seconds until it was printed."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "reverie.cli", "watch", str(root), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            yield url, time.perf_counter() - began
        finally:
            process.terminate()


def long_run(place: Path, config: Path) -> Path:
    """A made-up run of a month."""
    run = place / "long"
    run.mkdir()
    shutil.copy(config, run / "config.yaml")
    keys = [f"group{i % 5}/key{i}" for i in range(36)]
    with open(run / "metrics.jsonl", "w", encoding="utf-8") as file:
        for i in range(200_000):
            line = {"env_steps": 50 * i, "updates": 10 * i, "seconds": 12.0 * i}
            file.write(json.dumps(line | {key: round(1 / (1 + i % 977 + j), 6) for j, key in enumerate(keys)}) + "\n")
    with open(run / "episodes.jsonl", "w", encoding="utf-8") as file:
        for i in range(1_000_000):
            file.write(
                json.dumps({"phase": "train", "env_steps": 10 * i, "seconds": 1.0 * i, "return": i % 91, "length": 9})
                + "\n"
            )
    return run


def read_long(run: Path) -> dict[str, Any]:
    """Reading it, and looking for news."""
    began = time.perf_counter()
    found = RunIndex([run]).all()[0]
    found.refresh()
    first = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(100):
        found.refresh()
    idle = (time.perf_counter() - began) / 100
    began = time.perf_counter()
    found.series(found.keys(), "env_steps", 500)
    megabytes = sum(path.stat().st_size for path in run.glob("*.jsonl")) / 1e6
    return {
        "megabytes": megabytes,
        "first_seconds": first,
        "idle_seconds": idle,
        "series_seconds": time.perf_counter() - began,
    }


def in_process(run: Path, steps: int) -> dict[str, float]:
    """Step, decode, encode: what the server computes for one answer. Milliseconds, median and 95 %."""
    room, player = PlayServer(RunIndex([run])), PlayClient()
    room._answer(player, json.dumps({"do": "start", "run": 0, "seed": 1, "context": 5}))
    took = []
    for _ in range(steps):
        began = time.perf_counter()
        room._answer(player, '{"do": "policy"}')
        took.append(1000 * (time.perf_counter() - began))
    return {"median_ms": statistics.median(took), "p95_ms": sorted(took)[int(0.95 * steps)]}


def over_websocket(url: str, steps: int, lanes: int) -> float:
    """Frames per second of a client that asks for the next moment as soon as it has one."""
    where = url.removeprefix("http://").rstrip("/")
    with connect(f"ws://{where}/api/play", origin=f"http://{where}", proxy=None) as socket:
        for message in ({"do": "start", "run": 0, "seed": 1, "context": 5}, {"do": "branch", "lanes": lanes}):
            socket.send(json.dumps(message))
            socket.recv()
        began = time.perf_counter()
        for _ in range(steps):
            socket.send('{"do": "policy"}')
            socket.recv()
        return steps / (time.perf_counter() - began)


def in_browser(url: str, seconds: float) -> dict[str, float]:
    """First curve, and steps per second of the page with its speed at the highest (30)."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        return {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=QUIET)
        page = browser.new_page()
        began = time.perf_counter()
        page.goto(url)
        page.wait_for_selector(".returns .u-over")
        first = time.perf_counter() - began
        page.goto(f"{url}play?run=0&seed=1")
        page.wait_for_selector("body[data-step='0']")
        page.locator("#fps").fill("30")
        page.keyboard.press("p")
        page.wait_for_timeout(500)
        at, began = int(page.locator("body").get_attribute("data-step")), time.perf_counter()
        page.wait_for_timeout(1000 * seconds)
        steps = int(page.locator("body").get_attribute("data-step")) - at
        rate = steps / (time.perf_counter() - began)
        browser.close()
        return {"first_curve_seconds": first, "frames_per_second_at_30": rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    facts: dict[str, Any] = {"cpu": cpu_model(), "threads": torch.get_num_threads(), "run": args.run.name}
    with tempfile.TemporaryDirectory() as place:
        facts["long"] = read_long(long_run(Path(place), args.run / "config.yaml"))
    facts["step"] = in_process(args.run, args.steps)
    with watching(args.run) as (url, ready):
        facts["ready_seconds"] = ready
        facts["websocket_fps"] = {lanes: over_websocket(url, args.steps, lanes) for lanes in (1, 4)}
        facts["browser"] = in_browser(url, 5)
    print(json.dumps(facts, indent=1))
    if args.out:
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
