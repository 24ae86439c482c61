"""Draw the plots of ``dvc plots`` as PNG, offline: python docs/pictures.py [FOLDER] [REV ...]."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Render the plots of the workspace, or of the revisions named, into FOLDER (default docs/)."""
    try:
        import vl_convert
    except ModuleNotFoundError:
        sys.exit("pictures: needs the package vl-convert-python; `make install-dev` installs it")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    folder.mkdir(parents=True, exist_ok=True)
    revisions = sys.argv[2:]
    command = ["dvc", "plots", *(["diff", *revisions] if revisions else ["show"]), "--json"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name, drawings in shown["data"].items():
        for drawing in drawings:
            target = folder / f"{Path(name).stem.replace('::', '_')}.png"
            target.write_bytes(vl_convert.vegalite_to_png(filled(drawing, bool(revisions)), scale=1.5))
            print(target)


def filled(drawing: dict, name_revisions: bool) -> str:
    """The Vega-Lite specification of one drawing."""
    content = drawing["content"]
    specification = json.loads(content) if isinstance(content, str) else content
    facet = specification.get("facet")
    if facet is not None and not name_revisions:
        column = facet.get("column", facet)
        column["header"] = {"labels": False, "title": None}
    return json.dumps(specification)


if __name__ == "__main__":
    main()
