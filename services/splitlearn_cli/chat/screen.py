"""Shows an answer while it arrives."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from splitlearn_cli.chat.blocks import Blocks
from splitlearn_cli.terminal import printable, shown


@contextmanager
def plain() -> Iterator[Callable[[str], None]]:
    """Yields a function that prints each piece of an answer as it is; ends the line."""
    try:
        yield lambda text: print(shown(text), end="", flush=True)
    finally:
        print(flush=True)


@contextmanager
def markdown() -> Iterator[Callable[[str], None]]:
    """As `plain`, with Markdown rendered. Only the block that still grows is drawn again; the others are printed."""
    from rich.console import Console
    from rich.live import Live
    from rich.markdown import Markdown

    # no hyperlinks: the address behind one would not be seen
    def rendered(block: str) -> Markdown:
        return Markdown(block, hyperlinks=False)

    console, blocks = Console(highlight=False), Blocks()
    try:
        with Live(console=console, transient=True, vertical_overflow="ellipsis") as live:

            def add(text: str) -> None:
                for block in blocks.add(printable(text)):
                    console.print(rendered(block))
                    console.print()
                live.update(rendered(blocks.pending))

            yield add
    finally:
        console.print(rendered(blocks.end()))
