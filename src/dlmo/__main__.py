"""Where the command begins."""

import sys


def main() -> None:
    """Run the command line, whose imports take a moment in which Ctrl-C shall be as quiet as later."""
    try:
        from dlmo.cli import main as run
    except KeyboardInterrupt:
        print("dlmo: stopped before it began", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
