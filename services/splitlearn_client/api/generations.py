"""Runs the generations of a request, one per prompt, and measures them."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass

from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.service import Service
from splitlearn_client.choices import merged
from splitlearn_client.generation import GenerationRequest, Generator
from splitlearn_client.quotas import Account
from splitlearn_client.report import Report
from splitlearn_client.request_info import RequestInfo
from splitlearn_client.request_record import RequestRecord, generation_attributes, recorded


@dataclass(frozen=True)
class Generation:
    """The answers to one prompt of a request. They begin to run when the deltas are iterated.

    `deltas` has the number of an answer beside each. `reports` are the prompt's and those of its answers; that of an
    only answer is the prompt's.
    """

    n_answers: int
    reports: Sequence[Report]
    deltas: AsyncGenerator[tuple[int, TokenDelta]]

    @property
    def answers(self) -> Sequence[Report]:
        """The report of each answer."""
        return self.reports[-self.n_answers :]


def generation(
    service: Service, operation: str, wanted: GenerationRequest, n: int, account: Account, info: RequestInfo
) -> Generation:
    """`n` answers to one prompt. `operation` is what OpenTelemetry calls such a request."""
    reports = [Report() for _ in range(1 if n == 1 else 1 + n)]
    attributes = generation_attributes(operation, service.model, wanted)
    record = recorded(service.metrics, service.tracer, info, reports, attributes)
    return Generation(n, reports, _measured(service, wanted, account, reports, n, record))


async def _measured(
    service: Service,
    wanted: GenerationRequest,
    account: Account,
    reports: Sequence[Report],
    n_answers: int,
    record: AbstractContextManager[RequestRecord],
) -> AsyncGenerator[tuple[int, TokenDelta]]:
    """The generator's deltas, with what is told of the request at its end. Its tokens count in its tenant's account."""
    service.spend(account, prompt=len(wanted.prompt))
    n_running = n_answers
    with record as current:
        async with aclosing(_numbered(service.generator, wanted, reports)) as deltas:
            async for number, delta in deltas:
                n_running -= delta.finish_reason is not None
                current.finish_reason = None if n_running else delta.finish_reason
                service.spend(account, generation=delta.n_tokens)
                yield number, delta


async def _numbered(
    generator: Generator, wanted: GenerationRequest, reports: Sequence[Report]
) -> AsyncGenerator[tuple[int, TokenDelta]]:
    report, *answers = reports
    if answers:
        async with aclosing(generator.generate_each(wanted, report, answers)) as several:
            async for each in several:
                yield each
        return
    # in a task of its own, which begins the next token before this one is told
    async with aclosing(merged([generator.generate(wanted, report)], 1)) as deltas:
        async for each in deltas:
            yield each
