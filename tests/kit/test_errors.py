from __future__ import annotations

from waypost.kit.errors import ErrorCode, Refusal, invalid


def test_every_code_has_a_status_and_words_of_its_own() -> None:
    for code in ErrorCode:
        assert 400 <= code.status <= 504
        assert code.message.endswith(".")
        assert Refusal(code).message == code.message


def test_codes_are_distinct_members_even_with_equal_status() -> None:
    assert len({code.value for code in ErrorCode}) == len(ErrorCode.__members__)


def test_an_invalid_field_is_named() -> None:
    refusal = invalid("n", "Too many.")

    assert (refusal.code, refusal.param, refusal.message) == (ErrorCode.INPUT_VALIDATION_ERROR, "n", "Too many.")
    assert str(refusal) == "INPUT_VALIDATION_ERROR"
