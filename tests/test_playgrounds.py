"""The two playgrounds: their data are the shipped networks', and what a browser shows is what kdutils computes."""

from __future__ import annotations

import base64
import functools
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kdutils as kd
from kdutils import explain
from tests.test_pages_browser import NARROW, OVERFLOW, WIDE, browser, server  # noqa: F401  (two are fixtures)
from tools import playgrounds

STUDENTS = ("student", "distilled")
NETWORKS = ("teacher", *STUDENTS)
LIMIT = 1_500_000  # bytes of data for each playground

# ---- the data ----


@functools.cache
def stored(name: str) -> Any:
    """What a script of data hands to the page."""
    text = (playgrounds.FOLDER / name).read_text(encoding="utf-8")
    return json.loads(text.partition(" = ")[2].rstrip().removesuffix(";"))


@functools.cache
def logits() -> dict[str, Tensor]:
    """The logits of the three networks for all test images, float64."""
    inputs, _ = kd.data.load("fashion_mnist")[1].tensors()
    return {key: kd.predict(playgrounds.network(key), inputs).double() for key in NETWORKS}


@functools.cache
def maps(method: str) -> dict[str, Tensor]:
    """The maps as the networks give them, not rounded; the edge detector's for every network."""
    found = playgrounds.maps(method)
    return {key: found.get(key, found.get("any")) for key in playgrounds.NETWORKS}


def pixels(entry: dict[str, Any]) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(entry["pixels"]), np.uint8).copy()).view(1, 28, 28)


def test_the_logits_are_the_networks() -> None:
    test = kd.data.load("fashion_mnist")[1]
    data, right = stored("temperature-data.js"), logits()["teacher"].argmax(1) == test.labels
    places = [image["place"] for image in data["images"]]
    for key in NETWORKS:
        found = torch.tensor(data["logits"][key], dtype=torch.float64)
        torch.testing.assert_close(found, logits()[key][places], rtol=0, atol=0.5 * 10**-playgrounds.DIGITS + 5e-5)
    wanted = [(right if wanted else ~right) & (test.labels == k) for k in range(10) for wanted in (True, False)]
    assert places == [int(place) for group in wanted for place in group.nonzero()[:2, 0]]
    for entry in data["images"]:
        assert torch.equal(pixels(entry), test.images[entry["place"]]) and entry["label"] == test.labels[entry["place"]]


@pytest.mark.parametrize("method", [*playgrounds.METHODS, playgrounds.EDGES[0]])
def test_the_maps_are_the_networks(method: str) -> None:
    """To the rounding; a ReLU that another processor rounds to the other side of zero may move a few pixels."""
    found = stored(f"maps-{method}.js")
    assert set(found) == ({"any"} if method == "edges" else set(playgrounds.NETWORKS))
    for key, text in found.items():
        levels = np.frombuffer(base64.b64decode(text), "<i2").astype(np.float64).reshape(-1, 28, 28)
        true = (maps(method)["teacher" if key == "any" else key]).double().numpy()
        true = true / np.abs(true).max((1, 2), keepdims=True).clip(1e-300)
        off = np.abs(levels / playgrounds.LEVELS - true)
        assert len(levels) == 20 and np.mean(off > 1 / playgrounds.LEVELS) < 0.01 and off.max() < 0.02, (key, off.max())


def inputs() -> Tensor:
    test, places = playgrounds.map_images()
    return test[places].tensors()[0]


def test_what_else_the_second_playground_knows() -> None:
    data, (test, places) = stored("maps-data.js"), playgrounds.map_images()
    assert [image["place"] for image in data["images"]] == places and data["size"] == [28, 28]
    assert [data["images"][i]["label"] for i in range(20)] == [k for k in range(10) for _ in range(2)]
    for entry in data["images"]:
        assert torch.equal(pixels(entry), test.images[entry["place"]])
    for key, found in data["answers"].items():
        assert found == kd.predict(playgrounds.network(key), inputs()).argmax(1).tolist()
    assert set(data["methods"]) == {*playgrounds.METHODS, "edges"} and set(data["networks"]) == set(
        playgrounds.NETWORKS
    )


def test_each_playground_loads_little() -> None:
    for name in ("temperature", "maps"):
        size = sum(path.stat().st_size for path in playgrounds.FOLDER.glob(f"{name}*"))
        assert 20_000 < size < LIMIT, f"{name}: {size:,} bytes"


# ---- the answers of "Try this" ----


def soft(place: int, temperature: float) -> dict[str, dict[str, Any]]:
    """What kdutils and torch say about a test image; per network."""
    found: dict[str, dict[str, Any]] = {}
    teacher = logits()["teacher"][place : place + 1]
    for key in NETWORKS:
        z = logits()[key][place : place + 1].clone().requires_grad_()
        found[key] = {
            "p": (z / temperature).softmax(1)[0].tolist(),
            "names": int(z.argmax()),
            "entropy": float(torch.distributions.Categorical(logits=z.detach() / temperature).entropy()),
        }
        if key != "teacher":
            loss = kd.losses.kd_loss(z, teacher, temperature)
            loss.backward()
            norm = float(z.grad.norm())
            found[key] |= {"loss": loss.item(), "kl": loss.item() / temperature**2}
            found[key] |= {"norm": norm, "plain": norm / temperature**2}
    return found


def place_of(name: str, data: str = "temperature-data.js") -> int:
    return next(image["place"] for image in stored(data)["images"] if image["name"] == name)


def over_forty(temperature: float) -> dict[str, Any]:
    found = [soft(image["place"], temperature) for image in stored("temperature-data.js")["images"]]
    kl = {key: [each[key]["kl"] for each in found] for key in STUDENTS}
    nearer = sum(d < s for s, d in zip(kl["student"], kl["distilled"], strict=True))
    return {"mean": {key: float(np.mean(kl[key])) for key in STUDENTS},
            "nearer": {"distilled": nearer, "student": len(found) - nearer}}  # fmt: skip


def test_what_the_page_on_temperature_says_is_true() -> None:
    classes = stored("temperature-data.js")["classes"]
    named = {key: classes[each["names"]] for key, each in soft(place_of("Coat 3"), 1).items()}
    assert named == {"teacher": "Pullover", "student": "Shirt", "distilled": "Pullover"}

    sure, soft4 = (soft(place_of("Ankle boot 1"), T)["teacher"]["p"] for T in (1, 4))
    order = sorted(range(10), key=lambda k: -soft4[k])
    assert max(sure) > 0.99 and [classes[k] for k in order[:3]] in (
        ["Ankle boot", "Sneaker", "Sandal"], ["Ankle boot", "Sandal", "Sneaker"])  # fmt: skip

    hot, warm = (soft(place_of("Shirt 1"), T) for T in (64, 4))
    assert all(2.29 < hot[key]["entropy"] < math.log(10) for key in NETWORKS)
    for key in STUDENTS:
        assert hot[key]["kl"] < 1e-3 and 0.5 < hot[key]["norm"] / warm[key]["norm"] < 2
        assert warm[key]["plain"] / hot[key]["plain"] > 200

    at1, at4 = over_forty(1), over_forty(4)
    assert at4["mean"]["distilled"] < at4["mean"]["student"] / 2
    assert at1["mean"]["distilled"] > at1["mean"]["student"] and at1["nearer"]["distilled"] > 20
    whole = {key: float(kd.losses.kd_loss(logits()[key], logits()["teacher"], 1)) for key in STUDENTS}
    assert whole["distilled"] < whole["student"]
    wrong = float((logits()["teacher"].argmax(1) != kd.data.load("fashion_mnist")[1].labels).double().mean())
    assert round(100 * wrong) == 6


def agreement(method: str, first: str, second: str, measure: str) -> np.ndarray:
    """(20, 20): the agreement of the first network's map of image i with the second's map of image j."""
    a, b = maps(method)[first], maps(method)[second]
    return np.stack([explain.map_agreement(a[i].expand_as(b), b, measure).double().numpy() for i in range(len(a))])


def summary(found: np.ndarray) -> dict[str, np.ndarray]:
    own, n = np.diag(found), len(found)
    others = (found.sum(1) - own) / (n - 1)
    apart = np.where(np.eye(n, dtype=bool), -np.inf, found)
    return {"own": own, "others": others, "place": 1 + (apart > own[:, None]).sum(1)}


def test_what_the_page_on_maps_says_is_true() -> None:
    def means(method: str, second: str, first: str = "teacher") -> tuple[float, float, int]:
        found = summary(agreement(method, first, second, "cosine"))
        return float(found["own"].mean()), float(found["others"].mean()), int((found["place"] == 1).sum())

    own, others, _ = means("grad_cam", "distilled")
    assert round(own, 1) == round(others, 1) == 0.7 and round(means("grad_cam", "untrained")[0], 1) == 0.6
    own, others, _ = means("occlusion", "distilled")
    alone, alone_others, _ = means("occlusion", "student")
    assert round(own, 1) == 0.6 and others < own / 2
    assert abs(own - alone) < 0.1 and abs((own - others) - (alone - alone_others)) < 0.1
    own, others, _ = means("saliency", "distilled")
    assert round(own, 1) == 0.1 and abs(others) < 0.05
    twin, near = means("smoothgrad", "twin")[0], means("smoothgrad", "distilled")[0]
    assert 2 * near < twin < 0.5
    assert means("guided_backprop", "untrained")[2] >= 17
    assert means("edges", "distilled")[0] > 0.9999 and means("edges", "untrained", "student")[0] > 0.9999


# ---- the pages in a browser ----


class Sheet:
    """A playground that is open in a browser."""

    def __init__(self, context: Any, address: str, name: str, change: Callable[[str], str] | None = None) -> None:
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page = context.new_page()
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))

        def answer(route: Any) -> None:
            url = route.request.url
            self.requests.append(url)
            if not url.startswith((address, "data:", "blob:")):
                route.abort()
            elif change and re.search(r"/playground/(common|temperature|maps)\.js", url):
                text = (playgrounds.FOLDER / url.rpartition("/")[2].partition("?")[0]).read_text(encoding="utf-8")
                route.fulfill(body=change(text), content_type="text/javascript")
            else:
                route.continue_()

        self.page.route("**/*", answer)
        self.page.goto(f"{address}/book/playground_{name}.html", wait_until="load")
        self.root = self.page.locator(f"#play-{name}")
        self.root.wait_for(state="visible")

    def part(self, name: str) -> Any:
        return self.root.locator(f'[data-part="{name}"]')

    def image(self, title: str) -> None:
        self.root.get_by_role("radio", name=title, exact=True).check(force=True)

    def table(self, name: str) -> list[list[str]]:
        """The rows of a table's body as text."""
        self.page.wait_for_function("!document.querySelector('.play[aria-busy]')")
        read = "table => [...table.tBodies[0].rows].map(r => [...r.cells].map(c => c.textContent.trim()))"
        return self.part(name).evaluate(read)

    def settled(self, text: str) -> str:
        """The sentence for a screen reader, once it holds `text`."""
        wait = "text => document.querySelector('.play output').textContent.includes(text)"
        self.page.wait_for_function(wait, arg=text)
        return self.part("said").text_content()


@pytest.fixture
def opened(browser: Any, server: str) -> Iterator[Callable[..., Sheet]]:  # noqa: F811
    contexts = []

    def make(name: str, size: dict[str, int] = WIDE, change: Callable[[str], str] | None = None) -> Sheet:
        contexts.append(browser.new_context(viewport=size))
        contexts[-1].set_default_timeout(60_000)
        return Sheet(contexts[-1], server, name, change)

    yield make
    for context in contexts:
        context.close()


def differs(shown: str, wanted: float, digits: int | None = None) -> bool:
    """Whether a shown number is another one: `digits` after the point, or three that count."""
    found = float(shown.replace("−", "-"))
    if digits is not None:
        return not math.isclose(found, wanted, rel_tol=0, abs_tol=0.6 * 10**-digits)
    return not math.isclose(found, wanted, rel_tol=0.01, abs_tol=1e-6)


def faults_of_temperature(sheet: Sheet, rounds: int) -> list[str]:
    """Random settings, by the slider and by typing; each number on the page against Python's."""
    data, draw, faults = stored("temperature-data.js"), random.Random(0), []
    for turn in range(rounds):
        image, step = draw.choice(data["images"]), draw.randrange(81)
        T = round(0.25 * 2 ** (step / 10), 2)
        title = sheet.root.locator(f'input[name="play-image"][value="{data["images"].index(image)}"]')
        title.check(force=True)
        if turn % 2:
            T = round(T * 1.013, 2) if T < 60 else T
            sheet.part("typed").fill(str(T))
        else:
            sheet.part("slider").fill(str(step))
        wanted, forty = soft(image["place"], T), over_forty(T)
        where = f"{image['name']} at T = {T}"
        for k, (head, *cells) in enumerate(sheet.table("soft")):
            expected = data["classes"][k] + (" (label)" if k == image["label"] else "")
            faults += [f"{where}: {head!r}"] if head != expected else []
            for key, cell in zip(NETWORKS, cells, strict=True):
                if differs(cell, wanted[key]["p"][k], 3):
                    faults.append(f"{where}: p of {head}, {key}, is {cell}, not {wanted[key]['p'][k]}")
        rows = dict(zip(("names", "entropy", "kl", "loss", "norm", "plain", "mean", "nearer"),
                        sheet.table("numbers"), strict=True))  # fmt: skip
        for name, (_, *cells) in rows.items():
            for key, cell in zip(NETWORKS, cells, strict=True):
                if name in ("mean", "nearer"):
                    value = forty[name].get(key)
                else:
                    value = wanted[key].get(name)
                if value is None:
                    wrong = cell != "–"
                elif name == "names":
                    wrong = cell != data["classes"][value]
                else:
                    wrong = cell != str(value) if name == "nearer" else differs(cell, value)
                if wrong:
                    faults.append(f"{where}: {name} of {key} is {cell}, not {value}")
    return faults


def faults_of_maps(sheet: Sheet, rounds: int) -> list[str]:
    """Random settings; each number on the page against kd.explain.map_agreement of the networks' own maps."""
    data, draw, faults = stored("maps-data.js"), random.Random(1), []
    names = [image["name"] for image in data["images"]]
    for _ in range(rounds):
        i = draw.randrange(20)
        j = draw.choice([k for k in range(20) if k != i])
        chosen = {"method": draw.choice([*data["methods"]]), "first": draw.choice([*data["networks"]]),
                  "second": draw.choice([*data["networks"]])}  # fmt: skip
        sheet.image(names[i])
        for part, value in chosen.items():
            sheet.part(part).select_option(value)
        sheet.part("control").select_option(str(j))
        one, whole = sheet.table("agreement"), sheet.table("over-all")
        for column, measure in enumerate(("cosine", "spearman"), start=1):
            found = agreement(*chosen.values(), measure)
            each = summary(found)
            specific = each["own"] - each["others"]
            wanted = [each["own"][i], found[i, j], each["others"][i], specific[i]]
            wanted += [each["own"].mean(), each["others"].mean(), specific.mean()]
            shown = [row[column] for row in one[:4] + whole[:3]]
            where = f"{chosen}, {names[i]}, {names[j]}, {measure}"
            faults += [f"{where}: {s}, not {w}" for s, w in zip(shown, wanted, strict=True) if differs(s, w, 3)]
            counts = [(one[4][column], each["place"][i]), (whole[3][column], (each["place"] == 1).sum())]
            # Two agreements may be equal to the third digit: rounding may swap neighbours.
            faults += [f"{where}: place {s}, not {w}" for s, w in counts if abs(int(s) - w) > 1]
    return faults


def test_the_playground_of_temperature_shows_pythons_numbers(opened: Callable[..., Sheet]) -> None:
    sheet = opened("temperature")
    assert faults_of_temperature(sheet, 10) == [] and sheet.faults == []


def test_the_playground_of_maps_shows_pythons_numbers(opened: Callable[..., Sheet]) -> None:
    sheet = opened("maps")
    assert faults_of_maps(sheet, 10) == [] and sheet.faults == []


# Faults of the kind that a page like this one would hide: each must be seen in the numbers.
TEMPERATURE_FAULTS = {
    "T applied twice": ("logits.map((z) => z / temperature)", "logits.map((z) => z / temperature / temperature)"),
    "KL turned round": ("kl(logP.teacher, logP[key])", "kl(logP[key], logP.teacher)"),
    "the gradient of the loss without T²": (
        "    temperature * Math.hypot",
        "    1 / temperature * Math.hypot",
    ),
    "entropy in bits": ("Math.exp(l) * l, 0)", "Math.exp(l) * Math.log2(Math.E) * l, 0)"),
    "another image's logits": ("data.logits[key][i], T)", "data.logits[key][key === 'student' ? 0 : i], T)"),
}
MAPS_FAULTS = {
    "the control holds the image itself": ("mean(others)", "mean(all)"),
    "the control is the image itself": ("three(f.all[j])", "three(f.own)"),
    "tied ranks in the order of the pixels": ("values[order[end]] === values[order[start]]", "end === start"),
    "ranks around zero instead of their mean": (" - (values.length - 1) / 2;", ";"),
    "the bytes of a number turned round": ("view.getInt16(2 * i, true)", "view.getInt16(2 * i, false)"),
    "the first network twice": ("[of(first), of(second)]", "[of(first), of(first)]"),
}


@pytest.mark.parametrize("fault", TEMPERATURE_FAULTS)
def test_a_fault_of_the_playground_of_temperature_is_seen(opened: Callable[..., Sheet], fault: str) -> None:
    before, after = TEMPERATURE_FAULTS[fault]
    assert any(before in (playgrounds.FOLDER / name).read_text() for name in ("common.js", "temperature.js"))
    assert faults_of_temperature(opened("temperature", change=lambda text: text.replace(before, after)), 2)


@pytest.mark.parametrize("fault", MAPS_FAULTS)
def test_a_fault_of_the_playground_of_maps_is_seen(opened: Callable[..., Sheet], fault: str) -> None:
    before, after = MAPS_FAULTS[fault]
    assert any(before in (playgrounds.FOLDER / name).read_text() for name in ("common.js", "maps.js"))
    assert faults_of_maps(opened("maps", change=lambda text: text.replace(before, after)), 4)


@pytest.mark.parametrize("name", ["temperature", "maps"])
def test_a_playground_asks_no_other_host_and_loads_little(opened: Callable[..., Sheet], name: str) -> None:
    sheet = opened(name)
    if name == "maps":
        for method in stored("maps-data.js")["methods"]:
            sheet.part("method").select_option(method)
            sheet.table("agreement")
    outside = [url for url in sheet.requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    data = [url for url in sheet.requests if "/playground/" in url]
    assert outside == [] and len(data) == len(set(data)) >= 4
    assert all((playgrounds.FOLDER / url.rpartition("/")[2].partition("?")[0]).is_file() for url in data)
    assert not any("mathjax" in url for url in sheet.requests), "a megabyte for a page without formulas"


def test_methods_are_loaded_when_they_are_chosen(opened: Callable[..., Sheet]) -> None:
    sheet = opened("maps")
    sheet.table("agreement")
    wanted = lambda: {re.search(r"maps-(\w+)\.js", url)[1] for url in sheet.requests if "/maps-" in url} - {"data"}  # noqa: E731
    assert wanted() == {"grad_cam"}
    sheet.part("method").select_option("saliency")
    sheet.settled("Saliency")
    assert wanted() == {"grad_cam", "saliency"}


def tab_to(sheet: Sheet, wanted: str, key: str = "Tab") -> None:
    """Press Tab until the element that a selector names has the focus."""
    for _ in range(250):
        sheet.page.keyboard.press(key)
        if sheet.page.evaluate("wanted => document.activeElement?.matches(wanted) ?? false", wanted):
            return
    raise AssertionError(f"the keyboard does not reach {wanted}")


def ring(sheet: Sheet) -> bool:
    """Whether the element in focus, or the picture beside it, shows that it is."""
    drawn = """() => [document.activeElement, document.activeElement.nextElementSibling].some((e) => {
        const style = e && getComputedStyle(e);
        return style && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2; })"""
    return sheet.page.evaluate(drawn)


def test_temperature_by_keyboard_alone(opened: Callable[..., Sheet]) -> None:
    sheet = opened("temperature")
    keys = sheet.page.keyboard
    tab_to(sheet, 'input[name="play-image"]')
    before = sheet.part("caption").text_content()
    keys.press("ArrowRight")
    assert sheet.part("caption").text_content() != before and ring(sheet)
    tab_to(sheet, "#play-slider")
    keys.press("Home")
    assert sheet.part("caption").text_content().endswith("T = 0.25")
    for _ in range(20):
        keys.press("ArrowRight")
    assert sheet.part("caption").text_content().endswith("T = 1")
    assert sheet.part("slider").get_attribute("aria-valuetext") == "T is 1" and sheet.part("typed").input_value() == "1"
    tab_to(sheet, "#play-typed")
    keys.press("Control+a")
    keys.type("2.5")
    assert sheet.part("caption").text_content().endswith("T = 2.5") and ring(sheet)
    sheet.settled("T is 2.5")
    tab_to(sheet, "button.play-set")
    assert ring(sheet)
    keys.press("Enter")
    assert sheet.part("caption").text_content() == "Soft labels of Coat 3, the teacher says Pullover, at T = 1"


def test_maps_by_keyboard_alone(opened: Callable[..., Sheet]) -> None:
    sheet = opened("maps")
    keys = sheet.page.keyboard
    tab_to(sheet, 'input[name="play-image"]')
    keys.press("ArrowRight")
    assert sheet.table("agreement")[0][0] == "the same image, Shirt 2" and ring(sheet)
    tab_to(sheet, "#play-method")
    keys.press("ArrowDown")
    sheet.settled("Occlusion, Teacher and Distilled student, Shirt 2")
    tab_to(sheet, "#play-second")
    keys.press("ArrowDown")
    sheet.settled("Occlusion, Teacher and Untrained student")
    tab_to(sheet, "#play-control")
    keys.press("Home")
    assert sheet.table("agreement")[1][0] == "control: second map of T-shirt/top 1"
    tab_to(sheet, "summary")
    keys.press("Enter")
    assert sheet.part("words").is_visible()
    tab_to(sheet, "button.play-set")
    keys.press("Enter")
    sheet.settled("Grad-CAM, Teacher and Distilled student")


@pytest.mark.parametrize("typed", ["", "0", "-1", "0.2", "65", "1e9"])
def test_a_temperature_out_of_range_is_told(opened: Callable[..., Sheet], typed: str) -> None:
    sheet = opened("temperature")
    before = sheet.table("soft")
    sheet.part("typed").fill(typed)
    assert sheet.part("fault").text_content().startswith("T must be a number from 0.25 to 64")
    assert sheet.part("typed").get_attribute("aria-invalid") == "true" and sheet.table("soft") == before
    sheet.part("typed").fill("2")
    assert sheet.part("fault").text_content() == "" and sheet.part("typed").get_attribute("aria-invalid") is None


def test_what_a_screen_reader_finds(opened: Callable[..., Sheet]) -> None:
    sheet = opened("temperature")
    sheet.page.get_by_role("region", name="Playground: temperature").wait_for()
    assert sheet.root.get_by_role("radio").count() == 40
    assert sheet.root.get_by_role("group", name="Test image").count() == 1
    assert sheet.root.get_by_role("slider", name="Temperature T, from 0.25 to 64").count() == 1
    assert sheet.root.get_by_role("spinbutton", name="T, typed").count() == 1
    assert sheet.root.get_by_role("table", name="Soft labels of Shirt 1, the teacher is right, at T = 4").count() == 1
    assert sheet.root.get_by_role("rowheader", name="Shirt (label)").count() == 1
    assert sheet.root.get_by_role("img", name="Gradient norms over T. At T = 4: Student alone").count() == 1
    assert sheet.root.get_by_role("status").get_attribute("aria-live") == "polite"

    sheet = opened("maps")
    sheet.table("agreement")
    for name in ("Method", "First network", "Second network", "Control image"):
        assert sheet.root.get_by_role("combobox", name=name, exact=True).count() == 1
    pictures = sheet.root.get_by_role("img").all()
    names = [picture.get_attribute("aria-label") for picture in pictures]
    assert names[0] == "Test image Shirt 1" and len(names) == 4
    assert all(re.match(r"Map of .+ for Shirt [12]: most for the class: ", name) for name in names[1:])
    assert sheet.root.get_by_role("table", name="Grad-CAM: Teacher and Distilled student, Shirt 1").count() == 1
    sheet.root.locator("summary").click()
    words = sheet.table("words")
    assert len(words) == 16
    shares = explain.attribute(playgrounds.network("teacher"), inputs()[12:13], torch.tensor([6]), "grad_cam")[0]
    for k, (_, first, *_) in enumerate(words):
        block = shares[7 * (k // 4) :, 7 * (k % 4) :][:7, :7]
        assert not differs(first, float(block.sum() / shares.abs().sum()), 3)


@pytest.mark.parametrize("name", ["temperature", "maps"])
def test_nothing_scrolls_sideways_on_a_phone(opened: Callable[..., Sheet], name: str) -> None:
    sheet = opened(name, NARROW)
    seen = [sheet.page.evaluate(OVERFLOW)]
    if name == "maps":
        sheet.root.locator("summary").click()
    for button in sheet.page.locator("button.play-set").all():
        button.click()
        sheet.table("agreement" if name == "maps" else "numbers")
        seen.append(sheet.page.evaluate(OVERFLOW))
    assert all(each["excess"] <= 1 and not each["out"] for each in seen), seen
    assert len(seen) == sheet.page.locator("button.play-set").count() + 1 >= 5 and sheet.faults == []


def test_the_buttons_set_what_they_say(opened: Callable[..., Sheet]) -> None:
    """The answers themselves are tested above, by Python; here that the button leads to the setting of its question."""
    sheet = opened("temperature")
    for button in sheet.page.locator("button.play-set").all():
        wanted = json.loads(button.get_attribute("data-set"))
        button.click()
        caption = sheet.part("caption").text_content()
        assert caption.startswith(f"Soft labels of {wanted['image']},") and caption.endswith(f"at T = {wanted['T']}")
    sheet, data = opened("maps"), stored("maps-data.js")
    for button in sheet.page.locator("button.play-set").all():
        wanted = json.loads(button.get_attribute("data-set"))
        button.click()
        first, second = (data["networks"][wanted[key]] for key in ("first", "second"))
        sheet.settled(f"{data['methods'][wanted['method']]}, {first} and {second}, ")


def test_without_its_data_a_playground_says_so(opened: Callable[..., Sheet]) -> None:
    sheet = opened("maps")
    sheet.page.route("**/maps-saliency.js*", lambda route: route.abort())
    sheet.part("method").select_option("saliency")
    sheet.settled("The maps of Saliency could not be loaded.")
    sheet.page.unroute("**/maps-saliency.js*")
    sheet.part("method").select_option("grad_cam")
    sheet.settled("Grad-CAM, ")
