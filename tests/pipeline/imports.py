"""Which afina modules a stage script imports, directly or through others, read from the source.

``python tests/pipeline/imports.py`` prints the deps each stage needs in dvc.yaml.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path


def imported_modules(script: Path, source: Path) -> set[Path]:
    """Files under ``source`` that ``script`` imports, transitively; imports inside functions count.

    A package's ``__init__.py`` counts only where it holds code: a docstring and a version are no dependency.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        file = waiting.pop()
        for name in _imports(file, source):
            for path in _files(name, source):
                if path not in found:
                    found.add(path)
                    waiting.append(path)
    return {path for path in found if path.name != "__init__.py" or _holds_code(path)}


def _imports(file: Path, source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = file.relative_to(source).parent.parts
                base = package[: len(package) - node.level + 1]
                module = ".".join([*base, *([module] if module else [])])
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def _files(name: str, source: Path) -> list[Path]:
    parts = name.split(".")
    files = []
    for length in range(1, len(parts) + 1):
        base = source.joinpath(*parts[:length])
        files += [path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()]
    return files


def _holds_code(path: Path) -> bool:
    return any(
        not isinstance(node, ast.Expr | ast.Assign)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    for stage in sys.argv[1:] or sorted(path.stem for path in (root / "pipeline").glob("*.py")):
        print(f"{stage}:")
        for path in [
            root / "pipeline" / f"{stage}.py",
            *sorted(imported_modules(root / "pipeline" / f"{stage}.py", root / "src")),
        ]:
            print(f"      - {path.relative_to(root)}")
