"""What the endpoints use."""

from dataclasses import dataclass, field

from splitlearn_client.api.response_store import ResponseStore
from splitlearn_client.generation import Generator
from splitlearn_client.generation_config import GenerationDefaults
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.parsing.dialect import Dialect
from splitlearn_client.structured.compiler import GrammarCompiler
from splitlearn_client.tokenizer import ChatTokenizer
from splitlearn_client.trunk_connection import TrunkConnection
from splitlearn_comm.tracing import NoTracer, Tracer


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
    dialect: Dialect = field(default_factory=Dialect)
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    tracer: Tracer = field(default_factory=NoTracer)
    responses: ResponseStore = field(default_factory=lambda: ResponseStore(0))
