import pytest

from splitlearn_comm.errors import BadToken
from splitlearn_comm.tokens import Keyring, Token, bearer, checked_token, digest_of, new_token, parse_tokens

ALICE, BOB = "alice-has-this-one", "bob-has-this-other-one=="


def test_a_file_has_a_token_in_each_line_with_or_without_a_name() -> None:
    text = f"# ours\n\n  {ALICE}  \nbob {BOB}\nbob {ALICE}2\n# {BOB} was mentioned\n"
    assert parse_tokens(text) == (Token("default", ALICE), Token("bob", BOB), Token("bob", f"{ALICE}2"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing but a comment\n",
        "secret-but-short\n".replace("-", ""),
        f"alice {ALICE} more\n",
        f"alice {ALICE}é\n",
        f"alice {ALICE}\nbob {ALICE}\n",
        f"al/ice {ALICE}\n",
        f"{'a' * 65} {ALICE}\n",
        f"{ALICE * 100}\n",
    ],
)
def test_what_is_no_file_of_tokens_is_refused_and_no_token_is_shown(text: str) -> None:
    with pytest.raises(BadToken) as refused:
        parse_tokens(text)
    assert "has-this" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_line_that_is_wrong_is_named() -> None:
    with pytest.raises(BadToken, match="line 3: the token of bob has fewer than 16"):
        parse_tokens(f"# a\n{ALICE}\nbob short\n")


def test_a_new_token_is_one_and_no_two_are_equal() -> None:
    first, second = new_token(), new_token()
    assert checked_token("default", first).value == first != second


def test_a_token_is_in_no_log_of_the_object() -> None:
    assert ALICE not in repr(Token("alice", ALICE))


def keyring(**secrets: str) -> Keyring[str]:
    return Keyring({digest_of(secret): name for name, secret in secrets.items()})


def test_a_keyring_knows_whose_a_secret_is() -> None:
    names = Keyring({digest_of(ALICE): "alice", digest_of(BOB): "bob", digest_of(f"{ALICE}2"): "bob"})
    assert [names.find(each) for each in (ALICE, BOB, f"{ALICE}2")] == ["alice", "bob", "bob"]
    assert (len(names), names.owners) == (3, {"alice", "bob"})
    for wrong in ("", ALICE[:-1], f"{ALICE} ", ALICE.upper(), f"{ALICE}3", "\ud800", "bob"):
        assert names.find(wrong) is None


def test_every_secret_is_compared_wherever_the_right_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    names = keyring(alice=ALICE, bob=BOB)
    monkeypatch.setattr("hmac.compare_digest", compare)
    for presented in (ALICE, BOB, "wrong"):
        names.find(presented)
    assert len(compared) == 6
    assert {len(each) for each in compared} == {32}


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        (["Bearer abc"], "abc"),
        (["bearer abc"], "abc"),
        (["Bearer  abc "], "abc"),
        (["Basic abc"], None),
        (["abc"], None),
        ([], None),
        (["Bearer abc", "Bearer abc"], None),
    ],
)
def test_a_call_has_one_token_in_its_header(headers: list[str], token: str | None) -> None:
    assert bearer(headers) == token
