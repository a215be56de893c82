"""The first thing that runs: Ctrl-C ends the program cleanly from here on, while the rest is still being imported."""

from linearsr.cli.interrupts import stand_by


def main() -> None:
    """The console entry point."""
    stand_by()
    from linearsr.cli.app import main as run

    run()
