"""``python -m afina``: the command line."""

from __future__ import annotations

from afina.cli import main

if __name__ == "__main__":
    main()
