"""The page of `afina serve` in a real browser and with a real server."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

for module in ("fastapi", "uvicorn", "multipart", "openpyxl"):
    pytest.importorskip(module, reason="the page needs the server: pip install 'afina[serve]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")

from openpyxl import Workbook  # noqa: E402
from page_server import PATIENCE, PageServer, page_server  # noqa: E402
from test_report_browser import CONTRAST, DESK, NAMES, PHONE  # noqa: E402

from toy_artifact import write_toy  # noqa: E402

REAL = Path(__file__).parents[2] / "models" / "onnx" / "model.onnx"
SPANISH, ENGLISH = "es-CL", "en-US"
EVIL = "<img src=x onerror=\"document.title='run'\">"
# What the browser itself logs where an answer has an error's status.
STATUS = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on the path: {', '.join(NAMES)}")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def multiclass(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """One `agua` gives it 57.6 %, below the limit; three give 90.9 %."""
    path = tmp_path_factory.mktemp("multiclass") / "model.onnx"
    (path.parent / "README.md").write_text(
        f"---\nlicense: none\n---\n\n# Ficha\n\n{EVIL}\n", encoding="utf-8"
    )
    metrics = {
        "test": {"macro_f1": 0.75, "accuracy": 0.8},
        "interval": {"macro_f1_low": 0.7, "macro_f1_high": 0.8},
        "rows": {"test": 1234},
    }
    write_toy(path, abstain_below=0.6, target_accuracy=0.95, metrics=metrics)
    with page_server(path) as server:
        yield server


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """Two `agua` and one `luz` give 50, 26.9 and 11.9 %; the thresholds are 50, 20 and 90 %."""
    path = tmp_path_factory.mktemp("multilabel") / "model.onnx"
    write_toy(path, "multilabel")
    with page_server(path) as server:
        yield server


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A model whose first label is markup."""
    path = tmp_path_factory.mktemp("evil") / "model.onnx"
    labels = (EVIL, "<b>luz</b>|x", "=1+1")
    write_toy(path, "multilabel", labels=labels, thresholds=dict.fromkeys(labels, 0.2))
    with page_server(path) as server:
        yield server


class Visit:
    """A visit to the page, with what the browser logged and asked for."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"thrown: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def shown(self, selector: str) -> str:
        """The text of an element once it can be seen."""
        found = self.page.locator(selector)
        found.wait_for(state="visible")
        text: str = found.inner_text()
        return text.replace("\u202f", " ")

    def ask(self, text: str) -> str:
        """Type a text; its verdict."""
        self.page.fill("#text", text)
        self.page.press("#text", "Control+Enter")
        self.page.locator("#answer[aria-busy=false] .verdict").wait_for()
        return self.shown(".verdict")

    def give(self, name: str, content: bytes) -> None:
        """Choose a file."""
        self.page.set_input_files("#upload", {"name": name, "mimeType": "", "buffer": content})

    def download(self) -> tuple[str, list[list[str]], bytes]:
        """Name, rows and bytes of the result."""
        with self.page.expect_download() as waiting:
            self.page.locator("#summary a[download]").click()
        content = Path(waiting.value.path()).read_bytes()
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
        return waiting.value.suggested_filename, rows, content


@contextmanager
def visiting(
    browser: Any,
    server: PageServer,
    locale: str = ENGLISH,
    width: int = DESK,
    scheme: str = "light",
    expected: tuple[int, ...] = (),
    script: str = "",
    ready: str = "#model",
) -> Iterator[Visit]:
    """Open the page; at the end only expected statuses may have been logged, and nothing asked elsewhere."""
    context = browser.new_context(
        locale=locale, viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width < 600
    )
    context.set_default_timeout(PATIENCE * 1000)
    try:
        page = context.new_page()
        if script:
            page.add_init_script(script)
        visit = Visit(page, server.url)
        page.goto(server.url)
        page.locator(ready).wait_for(state="visible")
        yield visit
        found = [line for line in visit.complaints if not _is_status(line, expected)]
        assert found == []
        foreign = [url for url in visit.requests if not url.startswith((server.url, "data:", "blob:"))]
        assert foreign == []
    finally:
        context.close()


def _is_status(line: str, expected: tuple[int, ...]) -> bool:
    found = STATUS.search(line)
    # 0: the server is not there at all.
    return int(found[1]) in expected if found else 0 in expected and "net::ERR_" in line


def table(rows: int = 3, head: str = "id,mensaje") -> bytes:
    """A CSV of `agua` three times and once in turns, with words around that the model does not know."""
    texts = ("agua agua agua por favor", "hay poca agua aquí", "luz luz luz otra vez")
    return "\n".join([head, *(f"{row},{texts[row % 3]}" for row in range(rows))]).encode()


# ----------------------------------------------------------------------------------- a message


def test_a_text_gets_the_label_with_its_probability(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass) as visit:
        assert visit.ask("agua agua agua") == "agua 90.9%"
        names = visit.page.locator(".bars .name").all_inner_texts()
        numbers = visit.page.locator(".bars .num").all_inner_texts()
        assert list(zip(names, numbers, strict=True)) == [
            ("agua", "90.9%"),
            ("luz", "4.5%"),
            ("pagos", "4.5%"),
        ]
        assert "confidence is 90.9%" in visit.shown("#answer .good")
        assert visit.page.locator("#answer-status").inner_text() == "agua, 90.9%."


def test_what_the_model_is_not_sure_of_needs_a_person(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass, SPANISH) as visit:
        assert visit.ask("agua") == "agua 57,6 %"
        said = visit.shown("#answer .person")
        assert said.startswith("Necesita una persona")
        assert "57,6 %" in said
        assert "límite del 60 %" in said
        assert "acierte en el 95 %" in said
        assert visit.page.locator("#answer-status").inner_text().endswith("Necesita una persona.")
        # The limit is drawn at 60 % of the bar.
        place = "node => (node.offsetLeft + 1) / node.parentElement.clientWidth"
        assert visit.page.locator(".bars .mark").first.evaluate(place) == pytest.approx(0.6, abs=0.01)


def test_several_labels_each_with_its_threshold(browser: Any, multilabel: PageServer) -> None:
    with visiting(browser, multilabel) as visit:
        assert visit.ask("agua agua luz").split("\n") == ["agua 50.0%", "luz 26.9%"]
        rows = visit.page.locator(".bars li").all_text_contents()
        assert rows == [
            "agua50.0%threshold 50%assigned",
            "luz26.9%threshold 20%assigned",
            "pagos11.9%threshold 90%",
        ]
        place = "nodes => nodes.map(node => (node.offsetLeft + 1) / node.parentElement.clientWidth)"
        assert visit.page.locator(".bars .mark").evaluate_all(place) == pytest.approx(
            [0.5, 0.2, 0.9], abs=0.01
        )
        assert visit.ask("nada") == "No class reaches its threshold"


def test_a_long_text_says_that_its_end_was_left_out(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass) as visit:
        visit.ask("agua " * 10)
        assert not visit.page.locator("#answer .note").is_visible()
        visit.ask("agua " * 11)  # with the two special tokens one more than the model reads
        assert "(12 tokens" in visit.shown("#answer .note")


def test_it_answers_while_one_types_and_only_if_wanted(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass) as visit:
        visit.page.locator("#text").press_sequentially("luz luz luz")
        assert visit.shown(".verdict") == "luz 90.9%"
        visit.page.fill("#text", "")
        assert visit.shown("#answer-empty")
        assert not visit.page.locator(".verdict").is_visible()
        visit.page.uncheck("#live")
        asked = len(visit.requests)
        visit.page.fill("#text", "pagos pagos pagos")
        visit.page.wait_for_timeout(900)
        assert len(visit.requests) == asked
        visit.page.click("#text-form button")
        assert visit.shown(".verdict") == "pagos 90.9%"
        visit.page.fill("#text", "pagos")
        assert visit.shown(".older") == "This answer is for the text before."


SLOW = """
const real = window.fetch;
window.fetch = (address, options = {}) => {
  if (!String(options.body).includes("slow")) return real(address, options);
  // Deaf to being called off, so that the answer does come late.
  const late = real(address, {...options, signal: undefined});
  return late.then((answer) => new Promise((done) => setTimeout(() => done(answer), 1200)));
};
"""


def test_a_late_answer_does_not_replace_a_newer_one(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass, script=SLOW) as visit:
        visit.page.fill("#text", "luz luz luz slow")
        with visit.page.expect_request("**/v1/predict"):
            visit.page.press("#text", "Control+Enter")
        assert visit.ask("agua agua agua") == "agua 90.9%"
        visit.page.wait_for_timeout(1800)
        assert visit.shown(".verdict") == "agua 90.9%"


def test_an_empty_text_is_said_to_be_missing(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass) as visit:
        visit.page.click("#text-form button")
        assert visit.shown("#text-error") == "There is no text: type or paste a message."
        assert visit.page.evaluate("document.activeElement.id") == "text"


def test_more_than_five_labels_are_shown_on_request(browser: Any, multiclass: PageServer) -> None:
    top = [{"label": f"clase {rank}", "probability": 0.3 - rank / 100} for rank in range(9)]
    answer = {
        "model": {"name": "model.onnx", "precision": "fp32", "sha256": "other"},
        "predictions": [
            {"labels": top[:1], "top": top, "confidence": 0.3, "needs_person": True, "truncated": False}
        ],
    }
    with visiting(browser, multiclass) as visit:
        visit.page.route("**/v1/predict", lambda route: route.fulfill(json=answer))
        visit.ask("agua")
        rows = visit.page.locator(".bars li")
        button = visit.page.locator("#answer-body button")
        assert [row.is_visible() for row in rows.all()].count(True) == 5
        assert button.inner_text() == "Show all 9 classes"
        button.click()
        assert [row.is_visible() for row in rows.all()].count(True) == 9
        assert button.get_attribute("aria-expanded") == "true"


# -------------------------------------------------------------------------------------- a file


def test_a_csv_comes_back_with_its_labels(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass) as visit:
        visit.give("quejas de mayo.csv", table(3))
        assert visit.shown("#summary-title") == "“quejas de mayo.csv”: 3 messages classified"
        assert visit.page.evaluate("document.activeElement.id") == "summary"
        assert visit.shown("#summary .person") == "1 needs a person (33.3%)"
        chart = [
            re.sub(r"\s+", " ", row) for row in visit.page.locator("#summary .bars li").all_inner_texts()
        ]
        assert chart == ["agua 2 66.7% needs a person: 1", "luz 1 33.3% needs a person: 0"]
        name, rows, content = visit.download()
        assert name == "quejas de mayo_classified.csv"
        assert content.startswith(b"\xef\xbb\xbf")
        assert rows[0] == ["id", "mensaje", "label", "probability", "confidence", "needs_person"]
        assert [row[2] for row in rows[1:]] == ["agua", "agua", "luz"]
        assert [row[5] for row in rows[1:]] == ["no", "yes", "no"]
        assert float(rows[2][3]) == pytest.approx(0.576, abs=0.001)


def test_a_workbook_comes_back_as_csv(browser: Any, multiclass: PageServer) -> None:
    book = Workbook()
    for row in (["texto"], ["pagos pagos pagos, por favor"], ["luz luz luz otra vez"]):
        book.active.append(row)
    stream = io.BytesIO()
    book.save(stream)
    with visiting(browser, multiclass, SPANISH) as visit:
        visit.give("mayo.xlsx", stream.getvalue())
        assert visit.shown("#summary-title") == "«mayo.xlsx»: 2 mensajes clasificados"
        assert visit.shown("#summary .good") == "Ninguno necesita una persona."
        name, _, content = visit.download()
    assert name == "mayo_clasificado.csv"
    # Chile writes a decimal comma, so its Excel expects semicolons.
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=";"))
    assert [row[:2] for row in rows[1:]] == [
        ["pagos pagos pagos, por favor", "pagos"],
        ["luz luz luz otra vez", "luz"],
    ]


def test_several_labels_in_a_cell_are_counted_each(browser: Any, multilabel: PageServer) -> None:
    texts = b"mensaje\nagua agua con luz\nnada de nada hoy\nluz luz otra vez\n"
    with visiting(browser, multilabel) as visit:
        visit.give("a.csv", texts)
        visit.page.locator("#summary-title").wait_for()
        chart = visit.page.locator("#summary .bars .name").all_inner_texts()
        counts = visit.page.locator("#summary .bars .num").all_inner_texts()
        assert [(name, int(n.split()[0])) for name, n in zip(chart, counts, strict=True)] == [
            ("luz", 2),
            ("agua", 1),
            ("(no class)", 1),
        ]


def test_a_message_that_was_taken_for_the_header_is_seen(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass) as visit:
        visit.give("mayo.csv", f"{EVIL} no hay   agua desde ayer, ¿ñ?\nluz luz\n".replace(",", " ").encode())
        shown = visit.shown("#summary .column")
        assert shown.startswith("Column: <img src=x onerror=")
        assert len(shown) == len("Column: ") + 61
        visit.give("junio.csv", table(3, "id,año"))
        visit.page.get_by_text("junio.csv").first.wait_for()
        assert visit.shown("#summary .column") == "Column: año"
        assert visit.page.locator("#summary img").count() == 0


def test_the_column_is_asked_for_where_it_cannot_be_told(browser: Any, multiclass: PageServer) -> None:
    content = b"agua mala,otra cosa\nagua agua agua aqui,luz luz luz otra vez\n"
    with visiting(browser, multiclass, expected=(400,)) as visit:
        visit.give("dos.csv", content)
        assert visit.shown("#column-label") == "Which column of “dos.csv” has the text of the messages?"
        assert visit.page.locator("#column option").all_inner_texts() == ["agua mala", "otra cosa"]
        assert visit.page.evaluate("document.activeElement.id") == "column"
        visit.page.select_option("#column", "otra cosa")
        visit.page.click("#columns button")
        assert visit.shown("#summary-title").endswith("1 message classified")
        assert visit.download()[1][1][2] == "luz"


def test_any_column_can_be_chosen(browser: Any, multiclass: PageServer) -> None:
    long = "nombre largo " * 20
    names = [long + "a", long + "b", "dos\nlíneas", "igual", "igual", ""]
    for chosen in range(len(names)):
        stream = io.StringIO(newline="")
        words = ["luz luz luz" if at == chosen else "agua agua agua" for at in range(len(names))]
        csv.writer(stream).writerows([names, words])
        with visiting(browser, multiclass, expected=(400,)) as visit:
            visit.give("dos.csv", stream.getvalue().encode())
            visit.shown("#column-label")
            short = f"{long[:60]}…"
            assert visit.page.locator("#column option").all_inner_texts() == [
                f"{short} (column 1)", f"{short} (column 2)", "dos líneas", "igual (column 4)",
                "igual (column 5)", "column 6",
            ]  # fmt: skip
            visit.page.select_option("#column", str(chosen))
            visit.page.click("#columns button")
            visit.shown("#summary-title")
            assert visit.download()[1][1][len(names)] == "luz"


def test_a_choice_that_the_server_refuses_is_explained(browser: Any, multiclass: PageServer) -> None:
    error = {"code": "column_needed", "message": "no column has this position", "columns": ["a", "b"]}
    with visiting(browser, multiclass, expected=(400,)) as visit:
        answer = json.dumps({"error": error})
        visit.page.route("**/v1/predict/file", lambda route: route.fulfill(status=400, body=answer))
        visit.give("dos.csv", b"a,b\n1,2\n")
        visit.shown("#column-label")
        assert not visit.page.locator("#file-error").is_visible()
        visit.page.click("#columns button")
        assert "no column has this position" in visit.shown("#file-error")
        assert visit.page.locator("#column").is_visible()


WATCH = """
window.seen = [];
document.addEventListener("DOMContentLoaded", () => {
  const line = document.getElementById("progress-text");
  new MutationObserver(() => seen.push(line.textContent)).observe(line, {childList: true});
});
"""


def test_progress_is_shown_row_by_row(browser: Any, multiclass: PageServer) -> None:
    rows = 30_000
    with visiting(browser, multiclass, script=WATCH) as visit:
        visit.give("grande.csv", table(rows))
        visit.page.locator("#summary-title").wait_for(timeout=120_000)
        seen = visit.page.evaluate("seen")
        assert seen[0].startswith("Sending “grande.csv” (")
        done = [int(line.split()[0].replace(",", "")) for line in seen if line.endswith("of 30,000 rows")]
        assert done == sorted(done)
        assert len({number for number in done if 0 < number < rows}) > 3
        assert visit.shown("#summary .person").startswith("10,000 need a person (33.3%)")
        assert len(visit.download()[1]) == rows + 1


# The answer breaks off after its first row.
BROKEN = """
const real = window.fetch;
window.fetch = async (address, options) => {
  const answer = await real(address, options);
  if (!address.endsWith("/file")) return answer;
  const rows = "m,label,probability,confidence,needs_person\\r\\na,agua,1,1,no\\r\\n";
  const part = new TextEncoder().encode(rows);
  let turn = 0;
  const body = new ReadableStream({
    pull(control) { if (turn++) control.error(new TypeError("network error")); else control.enqueue(part); },
  });
  return new Response(body, {headers: {"X-Rows": "3"}});
};
"""


def test_an_answer_that_breaks_off_is_no_result(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass, script=BROKEN) as visit:
        visit.give("a.csv", table(3))
        assert visit.shown("#file-error").startswith("The answer broke off after 1 rows.")
        assert not visit.page.locator("#summary").is_visible()


def test_an_answer_with_too_few_rows_is_no_result(browser: Any, multiclass: PageServer) -> None:
    script = BROKEN.replace('control.error(new TypeError("network error"))', "control.close()")
    with visiting(browser, multiclass, script=script) as visit:
        visit.give("a.csv", table(3))
        assert "broke off after 1 rows" in visit.shown("#file-error")


STALLED = BROKEN.replace('control.error(new TypeError("network error"))', "return new Promise(() => {})")


def test_a_file_can_be_called_off(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass, script=STALLED) as visit:
        visit.give("a.csv", table(3))
        visit.page.get_by_text("1 of 3 rows").wait_for()
        assert visit.page.locator("progress").evaluate("node => [node.value, node.max]") == [1, 3]
        visit.page.click("#cancel")
        assert visit.shown("#file-error") == "Canceled. There is no result."
        assert not visit.page.locator("#progress").is_visible()


DROP = """
(files) => {
  const data = new DataTransfer();
  for (const [name, text] of files) data.items.add(new File([text], name));
  const zone = document.getElementById("drop");
  for (const kind of ["dragover", "drop"]) {
    zone.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
  }
}
"""


def test_a_file_can_be_dropped_but_not_two(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass) as visit:
        visit.page.evaluate(DROP, [["a.csv", table(3).decode()]])
        assert visit.shown("#summary-title") == "“a.csv”: 3 messages classified"
        visit.page.evaluate(DROP, [["a.csv", "x"], ["b.csv", "y"]])
        assert visit.shown("#file-error") == "Only one file at a time."
        assert not visit.page.locator("#summary").is_visible()


@pytest.mark.parametrize(
    ("name", "content", "status", "said"),
    [
        ("foto.png", b"\x89PNG", 415, "CSV, TSV and Excel (.xlsx) will do."),
        ("roto.xlsx", b"PK\x03\x04 no workbook", 400, "cannot use what was sent"),
        ("a.csv", b"a,b\n1,2\n3\n", 400, "line 3"),
        ("vacio.csv", b"", None, "The file “vacio.csv” is empty."),
    ],
)
def test_a_bad_file_is_an_error_on_the_page(
    browser: Any, multiclass: PageServer, name: str, content: bytes, status: int | None, said: str
) -> None:
    with visiting(browser, multiclass, expected=(status,) if status else ()) as visit:
        visit.give(name, content)
        assert said in visit.shown("#file-error")
        assert visit.page.locator("#file-error").get_attribute("role") == "alert"
        # The page goes on working.
        visit.give("a.csv", table(3))
        assert visit.shown("#summary-title") == "“a.csv”: 3 messages classified"
        assert not visit.page.locator("#file-error").is_visible()


def test_too_much_is_said_to_be_too_much(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass, SPANISH, expected=(413,)) as visit:
        visit.page.fill("#text", "a" * 60_000)
        visit.page.press("#text", "Control+Enter")
        assert visit.shown("#text-error").startswith("Es demasiado grande para este servidor: ")
        assert visit.page.locator("#text-error .said").get_attribute("lang") == "en"


# ----------------------------------------------------------------------------- the server's mood


def test_a_busy_server_is_asked_again(browser: Any, multiclass: PageServer) -> None:
    turns: list[str] = []

    def busy_once(route: Any) -> None:
        turns.append(route.request.post_data)
        if len(turns) > 1:
            route.continue_()
        else:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": {"code": "queue_full"}})

    with visiting(browser, multiclass, expected=(429,)) as visit:
        visit.page.uncheck("#live")
        visit.page.route("**/v1/predict", busy_once)
        visit.page.fill("#text", "agua agua agua")
        visit.page.press("#text", "Control+Enter")
        assert visit.shown("#text-error") == "The server is busy. Trying again in 1 second."
        assert visit.shown(".verdict") == "agua 90.9%"
        assert not visit.page.locator("#text-error").is_visible()
        assert len(turns) == 2


def test_a_busy_server_says_when_to_send_the_file_again(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass, expected=(429,)) as visit:
        answer = {"status": 429, "headers": {"Retry-After": "7"}, "body": "busy"}
        visit.page.route("**/v1/predict/file", lambda route: route.fulfill(**answer))
        visit.give("a.csv", table(3))
        assert visit.shown("#file-error") == "The server is busy. Please try again in 7 seconds."


@pytest.mark.parametrize("status", [408, 500, 502, 503])
def test_an_error_of_the_server_is_a_sentence(browser: Any, multiclass: PageServer, status: int) -> None:
    with visiting(browser, multiclass, SPANISH, expected=(status,)) as visit:
        visit.page.route("**/v1/predict", lambda route: route.fulfill(status=status, body="<h1>proxy</h1>"))
        visit.page.fill("#text", "agua")
        visit.page.press("#text", "Control+Enter")
        said = visit.shown("#text-error")
        assert re.fullmatch(r"[^<>{}]{20,120}\.", said)


def test_a_server_that_is_gone_is_an_error(browser: Any, tmp_path: Path) -> None:
    with (
        page_server(write_toy(tmp_path / "model.onnx")) as server,
        visiting(browser, server, expected=(0,)) as visit,
    ):
        server.stop()
        visit.page.fill("#text", "agua")
        visit.page.press("#text", "Control+Enter")
        assert visit.shown("#text-error").startswith("The server does not answer.")
        visit.give("a.csv", table(3))
        assert visit.shown("#file-error").startswith("The server does not answer.")


def test_the_key_is_asked_for_and_kept_for_the_session_alone(browser: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("tres-tigres\n", encoding="ascii")
    model = write_toy(tmp_path / "model.onnx")
    with (
        page_server(model, "--api-key-file", str(keys)) as server,
        visiting(browser, server, expected=(401,), ready="#key-form") as visit,
    ):
        page = visit.page
        assert page.evaluate("document.activeElement.id") == "key"
        assert not page.locator("#key-error").is_visible()
        for wrong in ("dos-tigres", "ñandú"):
            page.fill("#key", wrong)
            page.press("#key", "Enter")
            assert visit.shown("#key-error") == "The server does not accept this key."
        # Without a key an answer says so, and who writes goes on writing.
        page.fill("#text", "agua agua agua")
        page.press("#text", "Control+Enter")
        assert visit.shown("#text-error") == "The API key is needed: it goes into the field above."
        assert page.evaluate("document.activeElement.id") == "text"
        page.fill("#key", "tres-tigres")
        page.press("#key", "Enter")
        assert visit.shown("#model")
        # What waited for the key is answered.
        assert visit.shown(".verdict") == "agua 90.9%"
        assert not page.locator("#key-form").is_visible()
        assert visit.ask("agua agua agua") == "agua 90.9%"
        visit.give("a.csv", table(3))
        assert visit.shown("#summary-title") == "“a.csv”: 3 messages classified"
        page.reload()
        assert visit.shown("#model")
        stores = "[Object.values(localStorage), document.cookie, Object.values(sessionStorage)]"
        assert page.evaluate(stores) == [[], "", ["tres-tigres"]]
        assert not any("tigres" in url for url in visit.requests)


def test_a_new_model_brings_its_facts_along(browser: Any, tmp_path: Path) -> None:
    model = write_toy(tmp_path / "model.onnx")
    with page_server(model, "--reload-every", "0.1") as server, visiting(browser, server) as visit:
        assert "luz" in visit.page.locator(".names").text_content()
        other = write_toy(tmp_path / "other.onnx", labels=("agua", "sombra", "pagos"))
        other.replace(model)
        visit.page.wait_for_timeout(1500)
        visit.ask("agua agua agua")
        visit.page.locator(".names", has_text="sombra").wait_for(state="attached")
        assert visit.ask("luz luz luz") == "sombra 90.9%"


# ------------------------------------------------------------------------------------ the page


def test_texts_labels_and_names_are_never_markup(browser: Any, evil: PageServer) -> None:
    with visiting(browser, evil, script="window.alert = () => { document.title = 'run'; }") as visit:
        assert EVIL in visit.ask(f"agua agua agua luz luz luz {EVIL}")
        visit.give(
            f"{EVIL.replace('/', '')}.csv", f"mensaje\nagua agua agua {EVIL}\npagos pagos hoy\n".encode()
        )
        assert EVIL in visit.shown("#summary-title")
        assert EVIL in visit.page.locator("#summary .bars .name").all_inner_texts()
        # An apostrophe keeps a label from being a formula; on the page it is the label again.
        assert "=1+1" in visit.page.locator("#summary .bars .name").all_inner_texts()
        visit.page.locator("#model summary").click()
        assert EVIL in visit.shown(".names")
        visit.page.wait_for_timeout(200)
        assert visit.page.locator("main img, main b").count() == 0
        assert not visit.page.title().startswith("run")


def test_the_card_is_shown_as_text(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass, SPANISH) as visit:
        visit.page.get_by_role("link", name="Ficha del modelo").click()
        assert visit.shown("#card-text") == f"# Ficha\n\n{EVIL}\n"
        visit.page.keyboard.press("Escape")
        assert not visit.page.locator("#card").is_visible()


def test_a_card_that_is_not_there_is_said_to_be_missing(browser: Any, multilabel: PageServer) -> None:
    with visiting(browser, multilabel, expected=(404,)) as visit:
        visit.page.get_by_role("link", name="Model card").click()
        visit.page.get_by_text("There is no card beside this model.").wait_for()


def test_the_model_s_facts_are_on_the_page(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass, SPANISH) as visit:
        assert "una de 3 clases" in visit.shown("#headline")
        assert "acertó en 80 de cada 100" in visit.shown("#headline")
        tiles = [
            text.replace("\u202f", " ").split("\n")
            for text in visit.page.locator(".tiles div").all_inner_texts()
        ]
        assert ["F1 promedio de las clases", "0,750", "entre 0,700 y 0,800"] in tiles
        assert ["Aciertos", "80 %"] in tiles
        assert ["Mensajes de prueba", "1.234"] in tiles
        facts = visit.shown("#facts")
        assert "desde una confianza del 60 %, para acertar en el 95 %" in facts
        assert "no los guarda" in visit.shown(".privacy")


@pytest.mark.parametrize(
    ("locale", "language"), [("es-CL", "es"), ("es", "es"), ("en-GB", "en"), ("de-DE", "en")]
)
def test_the_language_is_the_browser_s(
    browser: Any, multiclass: PageServer, locale: str, language: str
) -> None:
    with visiting(browser, multiclass, locale) as visit:
        assert visit.page.evaluate("document.documentElement.lang") == language
        pressed = visit.page.locator(".languages [aria-pressed=true]").get_attribute("data-language")
        assert pressed == language


def test_the_switch_changes_all_words_and_is_remembered(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass, SPANISH) as visit:
        visit.ask("agua")
        visit.give("a.csv", table(3))
        assert visit.shown("#summary .person") == "1 necesita una persona (33,3 %)"
        visit.page.get_by_role("button", name="English").click()
        assert visit.page.evaluate("document.documentElement.lang") == "en"
        assert visit.shown("#summary .person") == "1 needs a person (33.3%)"
        assert visit.shown("#answer .person").startswith("Needs a person")
        assert visit.page.title() == "What is this message about? – afina"
        words = visit.page.evaluate("import('/static/words.js').then(({WORDS}) => WORDS)")
        page = visit.page.locator("body").inner_text()
        long = [text for text in words["es"].values() if len(text) > 12 and "{" not in text]
        assert [text for text in long if text in page and text not in words["en"].values()] == []
        visit.page.reload()
        assert visit.shown("#model-title") == "About this model"


def test_both_languages_have_the_same_words(browser: Any, multiclass: PageServer) -> None:
    with visiting(browser, multiclass) as visit:
        words = visit.page.evaluate("import('/static/words.js').then(({WORDS}) => WORDS)")
    spanish, english = words["es"], words["en"]
    assert list(spanish) == list(english)
    places: Callable[[str], set[str]] = lambda text: set(re.findall(r"\{(\w+)\}", text))  # noqa: E731
    assert [key for key in spanish if places(spanish[key]) != places(english[key])] == []
    sources = [
        path for path in STATIC.iterdir() if path.suffix in (".js", ".html") and path.name != "words.js"
    ]
    code = "".join(path.read_text(encoding="utf-8") for path in sources)
    stems = {key.removesuffix(".one").removesuffix(".many") for key in spanish}
    made = {key for key in stems if key.startswith(("task_", "precision_"))}
    assert [key for key in sorted(stems - made) if f'"{key}"' not in code] == []


STATIC = Path(__file__).parents[2] / "src" / "afina" / "serving" / "static"


def fill(visit: Visit) -> None:
    """Let everything be seen that the page can show at once."""
    visit.ask("agua " * 11)
    visit.ask("agua")
    visit.give("un nombre de archivo sin fin " + "x" * 90 + ".csv", table(3))
    visit.page.locator("#summary-title").wait_for()
    visit.page.locator("#model summary").click()


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("locale", [SPANISH, ENGLISH])
def test_nothing_scrolls_sideways(browser: Any, multiclass: PageServer, width: int, locale: str) -> None:
    with visiting(browser, multiclass, locale, width) as visit:
        fill(visit)
        assert visit.page.evaluate("innerWidth") == width
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        beyond = "nodes => nodes.filter(node => node.getBoundingClientRect().right > innerWidth + 1).length"
        assert visit.page.locator("body *:not(.hidden)").evaluate_all(beyond) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser: Any, multiclass: PageServer, scheme: str) -> None:
    with visiting(browser, multiclass, scheme=scheme, expected=(400,)) as visit:
        fill(visit)
        assert visit.page.evaluate(CONTRAST) == []
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 22, 28)"}[scheme]
        visit.ask("agua agua agua")
        visit.give("dos.csv", b"a,b\na b c d,e f g h\n")
        visit.page.locator("#columns").wait_for()
        assert visit.page.evaluate(CONTRAST) == []
        visit.page.fill("#text", "")
        visit.page.press("#text", "Control+Enter")
        visit.page.locator("#text-error").wait_for()
        assert visit.page.evaluate(CONTRAST) == []


def test_all_of_it_works_with_the_keyboard_alone(
    browser: Any, multiclass: PageServer, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(table(3))
    with visiting(browser, multiclass) as visit:
        page = visit.page
        # From the start: a listener added just before the key may come too late on a busy machine.
        page.on("filechooser", lambda chooser: chooser.set_files(path))
        focused = "document.activeElement.id || document.activeElement.textContent.trim()"

        def tab_to(name: str) -> None:
            for _ in range(30):
                page.keyboard.press("Tab")
                if page.evaluate(focused) == name:
                    outline = page.evaluate(
                        "(node => [node, node.closest('.drop')].some(one => one && "
                        "getComputedStyle(one).outlineStyle !== 'none'))(document.activeElement)"
                    )
                    assert outline, f"{name}: the focus cannot be seen"
                    return
            raise AssertionError(f"{name}: not reached by Tab, last {page.evaluate(focused)!r}")

        tab_to("Skip to the content")
        tab_to("Español")
        page.keyboard.press("Enter")
        tab_to("English")
        page.keyboard.press("Space")
        tab_to("text")
        page.keyboard.type("agua agua agua")
        page.keyboard.press("Control+Enter")
        assert visit.shown(".verdict") == "agua 90.9%"
        tab_to("Classify")
        tab_to("live")
        page.keyboard.press("Space")
        assert not page.is_checked("#live")
        tab_to("upload")
        page.keyboard.press("Enter")
        visit.shown("#summary-title")
        tab_to("Download the result (CSV)")
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        assert download.value.suggested_filename == "a_classified.csv"
        tab_to("Show the classes")
        page.keyboard.press("Enter")
        assert visit.shown(".names").split("\n") == ["agua", "luz", "pagos"]


def test_every_control_has_a_name(browser: Any, multiclass: PageServer) -> None:
    nameless = """
    nodes => nodes.filter(node => node.offsetParent && ![node.ariaLabel, node.textContent, node.title,
      ...[...(node.labels ?? [])].map(label => label.textContent)].some(text => text?.trim()))
      .map(node => node.outerHTML)
    """
    with visiting(browser, multiclass) as visit:
        fill(visit)
        controls = visit.page.locator("a, button, input, select, textarea, summary")
        assert controls.evaluate_all(nameless) == []
        names = "nodes => nodes.flatMap(node => (node.getAttribute('aria-labelledby') ?? '').split(' '))"
        identities = visit.page.locator("[aria-labelledby]").evaluate_all(names)
        present = "names => names.filter(name => name && !document.getElementById(name))"
        assert visit.page.evaluate(present, identities) == []


@pytest.mark.parametrize(
    "script",
    [
        "setTimeout(() => { throw new Error('seen'); })",
        # The page's policy forbids it, which is logged.
        "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.2/x.png'}))",
    ],
)
def test_an_error_and_a_foreign_request_would_be_noticed(
    browser: Any, multiclass: PageServer, script: str
) -> None:
    def visit_and_run() -> None:
        with visiting(browser, multiclass) as visit:
            visit.page.evaluate(script)
            visit.page.wait_for_timeout(300)

    with pytest.raises(AssertionError, match=r"assert \["):
        visit_and_run()


@pytest.mark.demo
@pytest.mark.skipif(not REAL.is_file(), reason="models/onnx/model.onnx is not made; run dvc repro")
def test_the_demo_s_model_answers_on_the_page(browser: Any, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.symlink_to(REAL)
    with page_server(model) as server, visiting(browser, server, SPANISH) as visit:
        answer = visit.ask("No puedo entrar a mi cuenta, olvidé la clave")
        # Above 99.9 % the page says no more than that.
        assert re.match(r"plataforma: clave y acceso (99,\d|> 99,9)\s%", answer), answer
        assert visit.page.locator(".bars li").count() == 15
        assert "una de 15 clases" in visit.shown("#headline")


# ----------------------------------------------------------------------------------- its parts

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.sampled_from(
    ['"', '""', ",", ";", "\n", "\r\n", 'a"b', " ", "á,ñ", "🙂"]
)


@pytest.fixture(scope="module")
def reader(browser: Any, multiclass: PageServer) -> Iterator[Any]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(multiclass.url)
    page.evaluate("import('/static/csv.js').then((module) => { window.csv = module; })")
    yield page
    context.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(CELLS, min_size=2, max_size=3), max_size=5),
    delimiter=st.sampled_from(",;\t"),
    cut=st.integers(1, 7),
)
def test_csv_is_read_as_python_writes_it(
    reader: Any, rows: list[list[str]], delimiter: str, cut: int
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    whole = text.getvalue()
    parts = [whole[at : at + cut] for at in range(0, len(whole), cut)]
    read = """
    ([parts, delimiter]) => {
      const reader = new csv.CsvReader(delimiter);
      return [...parts.flatMap(part => reader.push(part)), ...reader.finish()];
    }
    """
    assert reader.evaluate(read, [parts, delimiter]) == rows


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_result_is_counted_wherever_it_is_cut(reader: Any, delimiter: str, size: int) -> None:
    text = io.StringIO(newline="")
    added = [f"predicted_{name}" for name in ("label", "probability", "confidence", "needs_person")]
    csv.writer(text, delimiter=delimiter).writerows(
        [
            ["label,probability;label\tprobability", "año, ñandú", *added],
            ["x", "una\nlínea; otra", "agua", "0.9", "0.9", "no"],
            ["", 'dicen "ñ"', "agua|a|b", "0.9|0.8", "0.5", "yes"],
            ["", "", "", "", "0.5", "yes"],
            ["", "🙂", "'=1+1", "0.7", "0.7", "no"],
        ]
    )
    content = b"\xef\xbb\xbf" + text.getvalue().encode()
    parts = [list(content[at : at + size]) for at in range(0, len(content), size)]
    count = """
    ([labels, parts, delimiter]) => {
      const found = new csv.Summary(labels, delimiter);
      for (const part of parts) found.push(new Uint8Array(part));
      found.finish();
      return JSON.stringify([found.rows, found.person, Object.fromEntries(found.classes)]);
    }
    """
    found = json.loads(reader.evaluate(count, [["agua", "a|b", "=1+1"], parts, delimiter]))
    assert found == [
        4,
        2,
        {
            "agua": {"rows": 2, "person": 1},
            "a|b": {"rows": 1, "person": 1},
            "": {"rows": 1, "person": 1},
            "=1+1": {"rows": 1, "person": 0},
        },
    ]
