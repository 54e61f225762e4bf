import pytest

from splitlearn_comm.errors import InvalidAddress
from splitlearn_comm.pinned_address import PinnedAddress, is_pinned, split_pins

FINGERPRINT = "0123456789abcdef" * 4


@pytest.mark.parametrize("address", ["10.0.0.5:50051", "worker.example:1", "[2001:db8::1]:50051"])
def test_what_is_written_is_read_again(address: str) -> None:
    pinned = PinnedAddress(address, "s3cret-_~+/==", FINGERPRINT)

    assert pinned.line() == f"{address}#s3cret-_~+/==.{FINGERPRINT}"
    assert PinnedAddress.parse(pinned.line()) == pinned


def test_the_case_of_the_hex_digits_does_not_matter() -> None:
    assert PinnedAddress.parse(f"a:1#Token.{FINGERPRINT.upper()}") == PinnedAddress("a:1", "Token", FINGERPRINT)


@pytest.mark.parametrize(
    "text",
    [
        f"worker#s3cret.{FINGERPRINT}",
        f"worker:0#s3cret.{FINGERPRINT}",
        f"#s3cret.{FINGERPRINT}",
        "worker:1",
        f"s3cret.{FINGERPRINT}",
        "worker:1#",
        "worker:1#s3cret",
        f"worker:1#{FINGERPRINT}",
        f"worker:1#.{FINGERPRINT}",
        f"worker:1#s3cret.{FINGERPRINT[:-1]}",
        f"worker:1#s3cret.{FINGERPRINT}0",
        f"worker:1#s3cret.{FINGERPRINT[:-1]}g",
        f"worker:1#s3cret.{FINGERPRINT}\n",
        f"worker:1#s3 cret.{FINGERPRINT}",
        f"worker:1#s3cret\r\n.{FINGERPRINT}",
        f"worker:1#s3cret#more.{FINGERPRINT}",
        f"worker:1#{'s3cret' * 100}.{FINGERPRINT}",
        f"worker:1#s3crét.{FINGERPRINT}",
    ],
)
def test_what_cannot_be_one_is_refused_and_the_token_is_not_shown(text: str) -> None:
    with pytest.raises(InvalidAddress) as refused:
        PinnedAddress.parse(text)
    assert "s3c" not in str(refused.value)


def test_the_token_is_in_no_log_of_the_object() -> None:
    assert "s3cret" not in repr(PinnedAddress("worker:1", "s3cret", FINGERPRINT))


def test_an_address_with_something_behind_it_is_a_pinned_one() -> None:
    assert is_pinned(f"worker:1#s3cret.{FINGERPRINT}")
    assert not is_pinned("worker:1")


def test_a_list_gives_the_addresses_alone_and_what_each_has_behind_it() -> None:
    one, two = (PinnedAddress(f"worker:{port}", f"s3cret{port}", FINGERPRINT) for port in (1, 2))

    assert split_pins(f"{one.line()}, 10.0.0.5:3,{two.line()},{one.line()}") == (
        "worker:1,10.0.0.5:3,worker:2,worker:1",
        {"worker:1": one, "worker:2": two},
    )
    assert split_pins("unix:/run/worker") == ("unix:/run/worker", {})


@pytest.mark.parametrize("second", [f"s3cret2.{FINGERPRINT}", f"s3cret.{'f' * 64}", "s3cret"])
def test_two_pins_of_one_address_or_half_a_pin_are_refused_without_showing_the_token(second: str) -> None:
    with pytest.raises(InvalidAddress, match="worker:1") as refused:
        split_pins(f"worker:1#s3cret.{FINGERPRINT},worker:1#{second}")
    assert "s3c" not in str(refused.value)
