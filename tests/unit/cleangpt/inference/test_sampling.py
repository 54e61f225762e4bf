import pytest

from cleangpt.errors import GenerationSettingsError
from cleangpt.inference.sampling import Sampling


@pytest.mark.parametrize(
    "given",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"typical_p": 0.0},
        {"repetition_penalty": 0.0},
        {"num_beams": 0},
        {"num_beams": 1_000_000},
        {"seed": -1},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": "5"},
        {"top_k": 2.5},
        {"seed": 1.5},
        {"temperature": "hot"},
    ],
)
def test_a_value_without_meaning_is_refused_by_its_name(given: dict[str, float]) -> None:
    [(name, value)] = given.items()
    with pytest.raises(GenerationSettingsError, match=f"{name} has to be .*, found {value!r}"):
        Sampling(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["temperature", "repetition_penalty"])
def test_an_infinite_value_is_told_that_it_has_to_be_finite(name: str) -> None:
    with pytest.raises(GenerationSettingsError, match=f"{name} has to be a finite number .*, found inf"):
        Sampling(**{name: float("inf")})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["temperature", "repetition_penalty"])
def test_a_value_that_logits_cannot_be_divided_by_is_refused(name: str) -> None:
    with pytest.raises(GenerationSettingsError, match=f"{name} has to be .*, and at least 1e-30 if it .*, found 1e-40"):
        Sampling(**{name: 1e-40})  # type: ignore[arg-type]
    Sampling(**{name: 1e-29})  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [None, 0, 0.0])
def test_without_temperature_and_rules_nothing_is_drawn(temperature: float | None) -> None:
    sampling = Sampling(temperature=temperature)
    assert not sampling.is_random
    assert sampling.rules == {"max_new_tokens": 50, "num_beams": 1, "repetition_penalty": 1.0, "do_sample": False}


@pytest.mark.parametrize("rule", [{"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"typical_p": 0.5}])
def test_a_rule_without_a_temperature_is_that_at_temperature_one(rule: dict[str, float]) -> None:
    sampling = Sampling(**rule)  # type: ignore[arg-type]
    assert sampling.is_random
    assert sampling.rules == Sampling(temperature=1.0, **rule).rules  # type: ignore[arg-type]
    assert sampling.rules["temperature"] == 1.0


@pytest.mark.parametrize("rule", [{"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"typical_p": 0.5}])
def test_a_rule_that_temperature_zero_leaves_no_choice_is_refused(rule: dict[str, float]) -> None:
    [name] = rule
    with pytest.raises(GenerationSettingsError, match=f"temperature 0 takes the likeliest id, which {name} cannot"):
        Sampling(temperature=0, **rule)  # type: ignore[arg-type]


def test_rules_that_are_left_out_are_named_so_that_no_model_fills_them_in() -> None:
    rules = Sampling(temperature=0.8).rules
    assert rules["do_sample"] is True
    assert (rules["top_k"], rules["top_p"], rules["min_p"], rules["typical_p"]) == (0, 1.0, 0.0, 1.0)


def test_the_ends_of_every_range_can_be_had() -> None:
    whole = Sampling(temperature=1.0, top_p=1.0, min_p=1.0, typical_p=1.0, seed=0, top_k=1)
    assert (whole.seed, whole.rules["top_p"], whole.rules["min_p"]) == (0, 1.0, 1.0)
    assert Sampling(temperature=1.0, min_p=0.0).rules["min_p"] == 0.0
