import pytest

from splitlearn.engine.limits import Limits
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.scheduler import ScheduledRequest, Scheduler


@pytest.mark.parametrize(
    ("pages", "max_num_seqs", "expected"),
    [
        # each of ten pages in the end, and two have come
        (45, 256, 2),
        (50, 256, 3),
        (20, 256, 0),
        (50, 3, 1),
    ],
)
def test_so_many_more_sessions_fit_as_all_can_grow_and_run(pages: int, max_num_seqs: int, expected: int) -> None:
    limits = Limits(page_size=4, headroom=0, max_num_seqs=max_num_seqs)
    given = Scheduler(limits, PageAccounting(pages, 4))
    for session in range(2):
        assert given.submit(ScheduledRequest(session, 0, 4, max_length=40)) is None
    assert given.admission.n_fitting(40) == expected
