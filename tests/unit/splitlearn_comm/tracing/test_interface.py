from splitlearn_comm import RequestContext
from splitlearn_comm.errors import CommError
from splitlearn_comm.tracing.interface import NoTracer, TracingUnavailable

CONTEXT = RequestContext("req-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1")


def test_without_a_tracer_a_caller_s_trace_goes_on_as_it_came() -> None:
    tracer = NoTracer()
    span = tracer.start("work", CONTEXT, 1.0)
    span.set({"a": 1})
    span.child("part", 0.0, 1.0, {"a": 1})
    span.end("broken")
    assert span.context == CONTEXT
    tracer.close()


def test_missing_packages_are_the_operator_s_to_install() -> None:
    assert issubclass(TracingUnavailable, CommError)
    assert (TracingUnavailable.code, TracingUnavailable.fault) == ("FAILED_PRECONDITION", "operator")
