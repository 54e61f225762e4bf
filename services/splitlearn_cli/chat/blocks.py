"""Cuts Markdown into blocks while it arrives, so that what is finished can be shown for good."""

import re

# an info string has no backtick behind backticks: CommonMark 0.31, section 4.5
_FENCE = re.compile(r" {0,3}(`{3,}(?!.*`)|~{3,})")


class Blocks:
    """Text that grows. A block ends at a blank line outside of a code fence, or with the fence.

    Attributes:
        pending: the beginning of a block whose end has not come yet.
    """

    def __init__(self) -> None:
        self.pending = ""

    def add(self, text: str) -> list[str]:
        """The blocks that end with this text."""
        self.pending += text
        finished, block, fence = [], "", ""
        *lines, rest = self.pending.split("\n")
        for line in lines:
            block += f"{line}\n"
            mark = _FENCE.match(line)
            if fence:
                # a fence is closed by one that is at least as long, with nothing behind it
                closes = mark is not None and mark[1].startswith(fence) and not line.strip().strip(fence[0])
                fence = "" if closes else fence
            elif mark is not None:
                fence, closes = mark[1], False
            else:
                closes = not line.strip()
            if closes:
                finished.append(block)
                block = ""
        self.pending = block + rest
        return [each for each in finished if each.strip()]

    def end(self) -> str:
        """What remains."""
        rest, self.pending = self.pending, ""
        return rest
