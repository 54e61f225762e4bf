"""What the fields of a chat are called in a request that it was made of.

Pure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from splitlearn_client.errors import RequestError


@dataclass(frozen=True)
class Places:
    """The names of a chat's fields for the caller.

    Attributes:
        conversation: of all messages together.
        messages: of each message.
        names: of other fields by their paths, in which N stands for any number. Of two that fit, the first counts.
    """

    conversation: str
    messages: Sequence[str]
    names: Mapping[str, str]

    def named(self, param: str) -> str:
        """The caller's name for a field of the chat; its own if there is no other."""
        first, _, rest = param.partition(".")
        if first == "messages":
            number = rest.partition(".")[0]
            return self.messages[int(number)] if number else self.conversation
        for ours, theirs in self.names.items():
            # of a field and of all below it
            found = re.match(re.escape(ours).replace("N", r"(\d+)") + r"(?=\.|$)", param)
            if found is not None:
                named = theirs.replace("N", found[1]) if found.groups() else theirs
                return named + param[found.end() :]
        return param

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Renames the field of an error of the block."""
        try:
            yield
        except RequestError as error:
            if error.param is not None:
                error.param = self.named(error.param)
            raise
