"""``afina`` and ``python -m afina``: the command line."""

from __future__ import annotations

from afina.interruption import INTERRUPTED, end, end_when_interrupted


def main() -> None:
    """Run the command line; Ctrl-C ends it in silence also while it is still being imported."""
    end_when_interrupted()
    try:
        from afina.cli import main as run

        run()
    except KeyboardInterrupt:
        end()
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # what typer makes of it
            end()
        raise


if __name__ == "__main__":
    main()
