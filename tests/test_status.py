import jax
import jax.numpy as jnp
import pytest

from pruneft.status import Status, is_ok, message


def test_stored_codes_keep_their_meaning():
    # Ledgers hold these numbers: a change here makes old results say something else.
    assert {status.name: status.value for status in Status} == {
        "RUNNING": 0,
        "CONVERGED": 1,
        "RANK_UNCERTAIN": 2,
        "BUDGET_SPENT": 3,
        "NOT_FINITE": 4,
        "PRUNED_TO_NOTHING": 5,
        "REJECTED": 6,
        "NOT_IDENTIFIABLE": 7,
        "UNFINISHED": 8,
        "WORKER_LOST": 9,
        "NOT_UNIQUE": 10,
        "ALL_ZERO": 11,
        "INFEASIBLE": 12,
        "OUT_OF_DOMAIN": 13,
    }


def test_only_an_answer_that_explains_the_data_is_ok():
    assert [status.name for status in Status if is_ok(status)] == ["CONVERGED", "RANK_UNCERTAIN"]


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_a_sentence_that_starts_with_its_name_or_outcome(status):
    text = message(status)
    assert text.endswith(".")
    assert len(text) > 30
    assert message(int(status)) == text


def test_no_two_statuses_say_the_same():
    assert len({message(status) for status in Status}) == len(Status)


@pytest.mark.parametrize("code", [-1, 50, 99])
def test_an_unknown_code_is_refused_with_those_that_there_are(code):
    with pytest.raises(ValueError, match=rf"unknown status code {code}; known are 0 RUNNING, 1 CONVERGED"):
        message(code)


def test_codes_pass_through_jit_and_vmap():
    codes = jax.jit(jax.vmap(lambda bad: jnp.where(bad, Status.NOT_FINITE, Status.CONVERGED)))(
        jnp.asarray([True, False])
    )
    assert [is_ok(code) for code in codes] == [False, True]
    assert "not finite" in message(codes[0])


def test_a_convex_program_gets_advice_of_its_own():
    assert "rank" in message(Status.CONVERGED)
    assert "gap" in message(Status.CONVERGED, "relu")
    assert message(Status.ALL_ZERO, "relu") == message(Status.ALL_ZERO)
