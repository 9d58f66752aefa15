"""The dashboard and the dream player in a real headless Chromium. Skipped where there is none.

REVERIE_SHOTS=DIR keeps screenshots there. No browser is ever downloaded: CHROMIUM names one, or it is looked for.
"""

import itertools
import json
import os
import shutil
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from web_runs import TRUST, serving, train_square, train_vectors

pytest.importorskip("starlette", reason="the extra `web` is not installed: pip install 'reverie-rl[web]'")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")
playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
SHOTS = os.environ.get("REVERIE_SHOTS")
NASTY = '<img src=x onerror="window.hacked=1">&amp;'
FINDINGS = [{"verdict": "prior not learning", "level": "WARN", "evidence": "KL <b>9.1</b>", "why": "Bad.",
             "key": "model.kl_balance", "change": "0.8"}]  # fmt: skip
DRIFT = {"useful_horizon": 7, "imagination_horizon": 15, "warning": "lower it", "starts": [9, 9, 9],
         "latent_kl": [0.1, 0.2, 0.4], "error": {"dream": [0.1, 0.2, None], "copy": [0.3, 0.4, 0.5]},
         "returns": {"correlation": 0.5}}  # fmt: skip

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt install chromium, or set CHROMIUM=/path")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    train_square(root / "square", settings={"ensemble.members": 3})
    (root / "square" / "trust.json").write_text(json.dumps(TRUST))
    train_vectors(root / "swing", env="Pendulum-v1")
    shutil.copytree(root / "square", root / NASTY.replace("/", ""), ignore=shutil.ignore_patterns("replay"))
    usage = [[0.7, 0.1, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0]]
    (root / "square" / "latents.json").write_text(json.dumps({"env_steps": 400, "updates": 9, "usage": usage}))
    return root


@pytest.fixture(scope="module")
def served(runs):
    jobs = {"doctor": lambda path: FINDINGS, "drift": lambda path: DRIFT, "dream": lambda path: b"GIF89a"}
    with serving(runs, jobs=jobs) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """open_page(width, height) -> a page; no page may have complained, nor asked another host for anything."""
    contexts, complaints = [], []

    def new(width=1280, height=900, theme="dark"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda r: None if r.url.startswith(("http://127.0.0.1", "data:")) else complaints.append(r.url)
        )
        contexts.append(context)
        return page

    yield new
    for context in contexts:
        context.close()
    assert complaints == []


def shot(page, name):
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def run_number(page, served, name):
    found = page.request.get(f"{served.url}api/runs").json()["runs"]
    return next(run["id"] for run in found if run["name"] == name)


def start(page, served, name="square", seed=3):
    page.goto(served.url)  # for the numbers of runs
    page.goto(f"{served.url}play?run={run_number(page, served, name)}&seed={seed}")
    page.wait_for_selector("body[data-step='0']")


def wait(page, expression, seconds=20.0):
    """Until it is true. Not `wait_for_function`: that evaluates text in the page, which its policy forbids."""
    ends = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < ends, f"never true: {expression}"
        page.wait_for_timeout(20)


def answered(page, act):
    """Do something and wait for the moment that comes of it."""
    before = int(page.locator("body").get_attribute("data-answers"))
    act()
    wait(page, f"+document.body.dataset.answers > {before}")


def image_src(page, row=0):
    return page.locator("#stage figure img").nth(row).get_attribute("src")


def test_curves_of_several_runs_and_live_lines(served, runs, open_page):
    page = open_page()
    page.goto(served.url)
    page.wait_for_selector(".returns .u-over")
    assert page.locator("#runs .run").count() == 3
    assert page.locator("#runs .name", has_text=NASTY.replace("/", "")).count() == 1  # as text
    assert page.evaluate("window.hacked") is None
    shot(page, "curves")
    page.wait_for_selector("#link.on")
    last = "[...document.querySelectorAll('#runs .run')].map((x) => x.textContent).join(' ')"
    assert "123k" not in page.evaluate(last)
    with open(runs / "square" / "metrics.jsonl", "a") as file:
        file.write(
            json.dumps({"env_steps": 123_000, "updates": 99, "seconds": 9.0, "world_model/loss": 3.0, "new/key": 1.0})
            + "\n"
        )
    wait(page, f"{last}.includes('123k')")  # the list of runs
    wait(page, "[...document.querySelectorAll('details.group summary')].some((x) => x.textContent.startsWith('new'))")
    loss = page.locator("[data-chart='World model loss: custom:SquareEnv']")  # each task has a scale of its own
    box = loss.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 30)
    loss.locator(".tip:not([hidden])").wait_for()
    assert "123,000" in loss.locator(".tip").inner_text()  # the curve
    page.get_by_text("updates", exact=True).click()
    page.locator("#log").check()
    wait(page, "document.querySelector('.returns .u-over')")
    for box in page.locator("#runs input[type=checkbox]").all():
        box.uncheck()
    wait(page, "[...document.querySelectorAll('.returns')].every((x) => x.hidden)")


def test_every_view_opens(served, open_page):
    page = open_page()
    page.goto(served.url)
    page.wait_for_selector("#runs .run")
    for box in page.locator("#runs .run", has_not=page.locator("label", has_text="square")).locator("input").all():
        box.uncheck()
    page.goto(f"{served.url}#latents")
    square = page.locator("main .segments button", has_text="square")
    if square.count() and square.first.is_visible():
        square.first.click()
    page.get_by_text("2 categoricals (rows) of 4 classes (columns)").wait_for()
    assert page.get_by_text("1 categorical dead").count() == 1
    shot(page, "latents")
    page.goto(f"{served.url}#insight")
    page.get_by_text("run the doctor", exact=True).click()
    page.get_by_text("prior not learning").wait_for()
    assert page.get_by_text("KL <b>9.1</b>").count() == 1  # as text
    page.get_by_text("measure drift", exact=True).click()
    page.locator("[data-chart^='Error of observations'] .u-over").wait_for()
    page.get_by_text("Its dreams can be trusted in part.").wait_for()
    assert page.get_by_text("made in its dreams").count() == 1
    page.locator("[data-chart^='Earned within'] .u-over").wait_for()
    shot(page, "insight")
    page.goto(f"{served.url}#config")
    page.get_by_text("env.num_envs").wait_for()
    page.get_by_text("all", exact=True).click()
    page.get_by_text("behavior.gamma").first.wait_for()
    page.goto(f"{served.url}#episodes")
    page.locator("main td.num").first.wait_for()
    page.goto(f"{served.url}#videos")
    page.get_by_text("Videos of the run").wait_for()


def test_steering_changes_the_dream_and_rewinding_restores_it(served, open_page):
    page = open_page()
    start(page, served)
    seen = [image_src(page)]
    for key in ("ArrowRight", "d", "3"):
        answered(page, lambda key=key: page.keyboard.press(key))
        seen.append(image_src(page))
    assert len(set(seen)) > 2, "keys change the image"
    assert page.locator("#step").inner_text() == "dream step 3"
    latent = page.evaluate("document.querySelector('#latent').toDataURL()")
    answered(page, lambda: page.locator("#strip button[data-to='1']").click())
    assert image_src(page) == seen[1]
    answered(page, lambda: page.locator("#strip button[data-to='3']").click())
    assert image_src(page) == seen[3]
    assert page.evaluate("document.querySelector('#latent').toDataURL()") == latent
    answered(page, lambda: page.keyboard.press("Backspace"))
    assert page.locator("#step").inner_text() == "dream step 2"
    answered(page, lambda: page.keyboard.press("3"))  # the same action: the same dream
    assert image_src(page) == seen[3]
    answered(page, lambda: page.locator("#controls button").first.click())
    assert page.locator("#step").inner_text() == "dream step 4"
    for name in ("reward", "continue", "value"):
        assert page.locator(f"#{name}").inner_text() not in ("", "–")
    assert page.locator("#policy .prob").count() == 3


def test_the_policy_plays_branches_and_is_saved_as_video(served, open_page):
    page = open_page()
    start(page, served)
    page.locator("#fps").fill("30")
    page.keyboard.press("p")
    wait(page, "+document.body.dataset.step >= 30")
    page.keyboard.press("p")
    rate = float(page.locator("#speed-text").inner_text().split()[0])
    page.wait_for_timeout(200)
    at = page.locator("#step").inner_text()
    page.wait_for_timeout(200)
    assert page.locator("#step").inner_text() == at  # paused
    assert rate >= 15, "frames per second"
    page.locator("#lanes").select_option("4")
    answered(page, lambda: page.keyboard.press("b"))
    assert page.locator("#stage figure").count() == 4
    for _ in range(3):
        answered(page, lambda: page.locator("#once").click())
    assert len({image_src(page, row) for row in range(4)}) > 1
    shot(page, "branches")
    third = image_src(page, 2)
    answered(page, lambda: page.locator("#stage figure").nth(2).click())
    assert page.locator("#stage figure").count() == 1
    assert image_src(page) == third
    with page.expect_download() as download:
        page.get_by_text("save GIF").click()
    assert Path(download.value.path()).read_bytes()[:4] == b"GIF8"


def test_the_band_shows_how_unknown_each_step_and_each_branch_is(served, open_page):
    page = open_page()
    start(page, served)
    answered(page, lambda: page.locator("#once").click())
    strip = page.locator("#strip button")
    assert [button.locator("u").count() for button in strip.all()] == [1] * strip.count()
    answered(page, lambda: page.locator("#branch").click())
    answered(page, lambda: page.locator("#once").click())
    assert strip.last.locator("u").count() == 4
    colours = page.evaluate(
        "[...document.querySelectorAll('#stage figure')].map((f) => f.style.getPropertyValue('--known'))"
    )
    parts = page.evaluate(
        "[...document.querySelector('#strip button:last-child i').children].map((u) => u.style.background)"
    )
    assert colours == parts or [c.replace(" ", ", ") for c in colours] == parts  # rgb(1 2 3), as a browser may write it
    assert page.locator("#unknown").text_content().endswith("%")
    shot(page, "band")
    answered(page, lambda: page.locator("#stage figure").nth(2).click())
    assert [button.locator("u").count() for button in strip.all()] == [1] * strip.count()
    page.goto(f"{served.url}play?run={run_number(page, served, 'swing')}&seed=3")  # without an ensemble
    page.wait_for_selector("body[data-step='0']")
    assert page.locator("#unknown-card").is_hidden()
    assert page.get_by_text("how surprising each real step was").count() == 1


def test_vectors_are_drawn_and_sliders_act(served, open_page):
    page = open_page()
    start(page, served, "swing")
    before = page.evaluate("document.querySelector('#stage canvas').toDataURL()")
    page.locator("#controls input[type=range]").fill("0.5")
    answered(page, lambda: page.locator("#go").click())
    assert "torque 0.50" in page.locator("#action-text").inner_text()
    assert page.evaluate("document.querySelector('#stage canvas').toDataURL()") != before


def test_a_run_without_experience_is_reported(served, open_page):
    page = open_page()
    page.goto(served.url)
    page.goto(f"{served.url}play?run={run_number(page, served, NASTY.replace('/', ''))}")
    page.locator("#message", has_text="no replay").wait_for()
    assert page.evaluate("window.hacked") is None


def test_on_a_phone_nothing_is_wider_than_the_screen(served, open_page):
    page = open_page(390, 844, "light")
    for hash in ("curves", "latents", "insight", "videos", "config", "episodes"):
        page.goto(f"{served.url}#{hash}")
        page.wait_for_selector("main > *")
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, hash
    shot(page, "phone")
    start(page, served)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    answered(page, lambda: page.locator("#controls button").last.click())
    assert page.locator("#controls button").last.bounding_box()["y"] < 844  # within reach of a thumb


def test_a_selection_is_an_address_and_seeds_are_one_band(served, open_page):
    page = open_page()
    page.goto(f"{served.url}#curves?runs=square&runs=swing&runs=gone&x=updates&seeds=each")
    page.wait_for_selector(".returns .u-over")
    wait(page, "document.querySelectorAll('.returns:not([hidden])').length === 2")  # two tasks: two scales
    assert page.locator("#runs input:checked").count() == 2
    assert page.locator("#notice").inner_text() == "1 of the 3 runs in this address are not here."
    assert page.locator("#runs .run[data-state=done]").count() == 3
    page.locator("#runs .run", has_text="swing").locator("input").uncheck()
    wait(page, "location.hash.includes('runs=square&') && !location.hash.includes('swing')")
    assert "x=updates" in page.evaluate("location.hash")
    page.locator("#runs .run", has_text=NASTY.replace("/", "")).locator("input").check()
    page.get_by_text("as one band", exact=True).click()  # the copy differs in nothing: a group of two
    page.locator(".returns:not([hidden]) .legend", has_text="mean and both").wait_for()
    assert "environment steps" not in page.locator(".returns:not([hidden]) .legend").inner_text()
    other = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(other)
    page.locator(".returns:not([hidden]) .legend", has_text="mean and both").wait_for()


def test_a_note_is_kept_and_deleting_asks(runs, tmp_path, open_page):
    for name in ("alpha", "beta"):
        shutil.copytree(runs / "square", tmp_path / name)
    with serving(tmp_path) as served:
        page = open_page()
        page.goto(served.url)
        alpha = page.locator("#runs .run", has_text="alpha")
        alpha.locator("button[title^=Note]").click()
        page.locator("dialog textarea").fill(NASTY)
        page.locator("dialog input").fill("first, <b>")
        page.locator("dialog button", has_text="save").click()
        alpha.locator(".note-line", has_text="onerror").wait_for()
        assert alpha.locator(".pill.tag").all_inner_texts() == ["first", "<b>"]
        assert page.evaluate("window.hacked") is None
        alpha.locator("button[title^=Note]").click()
        page.locator("dialog button", has_text="delete …").click()
        page.locator("dialog button", has_text="keep it").click()
        assert (tmp_path / "alpha").exists()  # it was only asked
        page.locator("dialog button", has_text="hide").click()
        wait(page, "document.querySelectorAll('#runs .run').length === 1")
        page.locator("#unhide").check()
        alpha.locator("button[title^=Note]").click()
        page.locator("dialog button", has_text="delete …").click()
        page.locator("dialog button", has_text="delete for good").click()
        wait(page, "document.querySelectorAll('#runs .run').length === 1")
        assert sorted(path.name for path in tmp_path.iterdir() if path.name in ("alpha", "beta")) == ["beta"]
        page.goto("about:blank")  # before the server ends


def test_a_video_is_paused_and_charts_are_saved(served, runs, open_page):
    page = open_page()
    page.goto(f"{served.url}#videos?runs=square")
    card = page.locator(".videos .card", has_text="Evaluation at step").first
    card.get_by_text("pause").click()
    card.get_by_text("frame").wait_for()
    shown = card.locator("output").inner_text()
    page.wait_for_timeout(300)
    assert card.locator("output").inner_text() == shown
    card.locator("input").fill("0")
    assert card.locator("output").inner_text().startswith("frame 1 of")
    assert "return" in card.inner_text()
    page.goto(f"{served.url}#curves?runs=square")
    page.wait_for_selector(".returns .u-over")
    for button, begins in (("PNG", b"\x89PNG"), ("SVG", b"<?xml"), ("CSV", b"run,task,seed,phase")):
        assert saved(page, page.locator(".returns"), button).startswith(begins)


def saved(page, card, button):
    """What a button of a chart saves."""
    with page.expect_download() as download:
        card.locator("button", has_text=button).click()
    return Path(download.value.path()).read_bytes()


def grow(run, rows=30):
    """More lines of metrics: a curve that rises by 1e-4 in all, one that is constant, and one with a gap."""
    with open(run / "metrics.jsonl", "a") as file:
        for i in range(rows):
            row = {"env_steps": 1000 + 100 * i, "updates": 100 + i, "seconds": 9.0 + i, "kl/below_free": 0.243}
            row |= {"kl/grad_prior": 0.5421 + 1e-4 * i / rows} | ({"kl/raw": float(i)} if i != 7 else {})
            file.write(json.dumps(row) + "\n")


@pytest.fixture
def grown(runs, tmp_path):
    shutil.copytree(runs / "square", tmp_path / "<&> grown", ignore=shutil.ignore_patterns("replay"))
    (tmp_path / "<&> grown" / "metrics.jsonl").write_text("")
    grow(tmp_path / "<&> grown")
    with serving(tmp_path) as server:
        yield server


@pytest.mark.parametrize("log", [0, 1])
def test_a_chart_is_saved_as_a_drawing_with_the_curves_of_the_screen(grown, open_page, log):
    page = open_page()
    page.goto(f"{grown.url}#curves?smooth=0&log={log}")
    card = page.locator("[data-chart^='KL']").first
    card.locator(".u-over").wait_for()
    drawing = ElementTree.fromstring(saved(page, card, "SVG"))  # XML, whatever the names hold
    parts = [(part.tag.split("}")[1], part) for part in drawing.iter()]
    texts = [part.text for tag, part in parts if tag == "text"]
    assert texts[0] == card.get_attribute("data-chart")
    assert {"environment steps", "<&> grown"} <= set(texts)
    lines = [part.get("points").split() for tag, part in parts if tag == "polyline"]
    drawn = [tuple(map(float, point.split(","))) for point in max(lines, key=len)]
    assert len(drawn) == (28 if log else 29)  # without the gap; 0 has no place on a logarithmic axis
    assert [x for x, _ in drawn] == sorted({x for x, _ in drawn})
    assert [y for _, y in drawn] == sorted({y for _, y in drawn}, reverse=True)  # y counts from the top
    steps = {round(a[1] - b[1], 0) for a, b in itertools.pairwise(drawn)}
    assert (len(steps) > 4) == bool(log)
    width, height = float(drawing.get("width")), float(drawing.get("height"))
    assert all(0 < x < width and 0 < y < height for x, y in drawn)
    assert all(0 < float(part.get("y")) < height for tag, part in parts if tag == "text")


def test_ticks_of_a_chart_differ_and_a_constant_curve_has_some(grown, open_page):
    page = open_page()
    page.goto(f"{grown.url}#latents")
    for title in ("Gradients of the KL's halves", "States under the free nats"):
        card = page.locator(f'[data-chart="{title}"]')
        card.locator(".u-over").wait_for()
        drawing = ElementTree.fromstring(saved(page, card, "SVG"))
        ticks = [part.text for part in drawing.iter() if part.get("text-anchor") == "end"]
        assert len(set(ticks)) == len(ticks) > 1, title
        assert all(float(tick) >= 0 for tick in ticks)  # of a share


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_episodes_and_latents_fit_the_page(served, runs, open_page, width):
    page = open_page(width, 844)
    page.goto(f"{served.url}#latents?runs=square")
    box = page.locator(".heat-axes")
    box.wait_for()
    assert box.inner_text().split() == ["categorical", "1", "2", "1", "class", "4"]
    heat, text = box.locator("canvas").bounding_box(), page.locator(".heat-axes .across").bounding_box()
    assert heat["width"] > 0.8 * box.bounding_box()["width"]
    assert text["y"] >= heat["y"] + heat["height"]
    shot(page, f"latents-{width}")
    page.goto(f"{served.url}#episodes?runs=square")
    page.locator("table.episodes").wait_for()
    shot(page, f"episodes-{width}")
    table, card = (page.locator(at).bounding_box() for at in ("table.episodes", ".card.scroll"))
    assert table["x"] + table["width"] <= card["x"] + card["width"]
    heights = page.locator("table.episodes tr").evaluate_all("rows => rows.slice(1).map((row) => row.clientHeight)")
    assert max(heights) < 1.5 * min(heights)  # no word is broken
    assert page.locator("table.episodes th").first.bounding_box()["height"] < 60
    assert page.evaluate("document.documentElement.scrollWidth") <= width
