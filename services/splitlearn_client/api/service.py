"""What the endpoints use."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from splitlearn_client.api.response_store import ResponseStore
from splitlearn_client.embedding import Embedder
from splitlearn_client.errors import BadRequest, NoEmbeddings, UnknownModel
from splitlearn_client.generation import Generator
from splitlearn_client.generation_config import GenerationDefaults
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.parsing.dialect import Dialect
from splitlearn_client.quotas import Account
from splitlearn_client.structured.compiler import GrammarCompiler
from splitlearn_client.tokenizer import ChatTokenizer
from splitlearn_client.trunk_connection import TrunkConnection
from splitlearn_comm.tracing import NoTracer, Tracer

# how much of an unknown name an error repeats
_SHOWN_CHARACTERS: Final = 100


@dataclass(frozen=True)
class Service:
    """What the endpoints use; the composition root builds it."""

    model: str
    created: int
    vocabulary: int
    tokenizer: ChatTokenizer
    generator: Generator
    connection: TrunkConnection
    metrics: ClientMetrics
    grammars: GrammarCompiler
    embedder: Embedder | NoEmbeddings
    """Or why there is none."""
    dialect: Dialect = field(default_factory=Dialect)
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    tracer: Tracer = field(default_factory=NoTracer)
    responses: ResponseStore = field(default_factory=lambda: ResponseStore(0))

    def check_model(self, name: str | None) -> None:
        """Raises UnknownModel for the name of another model; None is the model served."""
        if name is not None and name != self.model:
            shown = name[:_SHOWN_CHARACTERS]
            raise UnknownModel(f"the model {shown!r} is not served here; this service has {self.model!r}", "model")

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """Raises BadRequest for an id that is no token."""
        if not ids:
            return
        if min(ids) < 0 or max(ids) >= self.vocabulary:
            wrong = next(token for token in ids if not 0 <= token < self.vocabulary)
            raise BadRequest(f"token id {wrong} does not exist; ids go from 0 to {self.vocabulary - 1}", param)

    def spend(self, account: Account, *, prompt: int = 0, generation: int = 0) -> None:
        """Counts tokens in the account of whose request it is."""
        account.spend(prompt + generation, time.monotonic())
        self.metrics.tenant_tokens(account.name, prompt=prompt, generation=generation)
