"""``afina`` and ``python -m afina``: the command line."""

from __future__ import annotations


def main() -> None:
    """Run the command line; Ctrl-C ends it in silence also while it is still being imported."""
    try:
        from afina.cli import main as run

        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
