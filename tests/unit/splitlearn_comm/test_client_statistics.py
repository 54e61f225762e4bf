from splitlearn_comm.client_statistics import ClientStatistics


def test_a_client_that_asked_nothing_has_averages_of_zero() -> None:
    assert set(ClientStatistics().summary().values()) == {0}


def test_averages_are_over_answered_requests_and_network_time_is_what_is_left() -> None:
    counted = ClientStatistics(
        total_requests=3, failed_requests=1, round_trip_seconds=1.0, queue_seconds=0.1, compute_seconds=0.5
    )

    summary = counted.summary()

    assert summary["total_requests"] == 3
    assert summary["avg_total_time_ms"] == 500
    assert summary["avg_queue_time_ms"] == 50
    assert summary["avg_compute_time_ms"] == 250
    assert round(summary["avg_network_time_ms"]) == 200
