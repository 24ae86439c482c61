"""Take pictures of the page of a running ``afina serve``: python docs/page_pictures.py FOLDER [URL].

One text, as far as the window shows it, and one file, on a desk's and a telephone's width, light and dark.
docs/page.png is page-1280-light.png.
"""

from __future__ import annotations

import csv
import io
import shutil
import sys
from itertools import product
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS, HEIGHT, SCHEMES = (1280, 390), 1080, ("light", "dark")
TEXT = "Llevo tres meses sin cobrar la pensión y nadie responde"
ROWS = [
    TEXT,
    "No puedo entrar a la plataforma con mi clave",
    "Quiero postular al subsidio de vivienda",
    "¿Cuándo me devuelven el impuesto?",
    "Pido hora para el médico de cabecera",
]


def main() -> None:
    """Take the pictures, and say where they are."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000"
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sys.exit(f"page_pictures: no browser on the path: {', '.join(BROWSERS)}")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        sys.exit("page_pictures: needs the package playwright; `make install-dev` installs it")
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for width, scheme in product(WIDTHS, SCHEMES):
            context = browser.new_context(
                locale="es-CL", viewport={"width": width, "height": HEIGHT}, color_scheme=scheme
            )
            page = context.new_page()
            page.goto(url)
            take(page, folder, f"{width}-{scheme}")
            context.close()
        browser.close()


def take(page: Any, folder: Path, name: str) -> None:
    """Ask for a text, then give a file; a picture after each."""
    page.fill("#text", TEXT)
    page.press("#text", "Control+Enter")
    page.locator("#answer[aria-busy=false] .verdict").wait_for()
    shoot(page, folder / f"page-{name}.png", whole=False)
    table = io.StringIO()
    csv.writer(table).writerows([["id", "mensaje"], *enumerate(ROWS)])
    page.set_input_files(
        "#upload", {"name": "mensajes.csv", "mimeType": "", "buffer": table.getvalue().encode()}
    )
    page.locator("#summary a[download]").wait_for()
    shoot(page, folder / f"file-{name}.png", whole=True)


def shoot(page: Any, target: Path, whole: bool) -> None:
    page.screenshot(path=target, full_page=whole)
    print(target)


if __name__ == "__main__":
    main()
