"""What is said about the time of a step."""

from swift_thyme.view.step_shares import describe_time


def test_shares_come_with_the_largest_first_and_with_what_helps() -> None:
    shares, advice = describe_time(
        {
            "thyme/time/step": 20.0,
            "thyme/time/rest": 1.0,
            "thyme/time/generation": 4.0,
            "thyme/time/sandbox": 15.0,
            "reward": 1.0,
        }
    )
    assert shares == "a step takes 20.0 s: sandbox 75%, generation 20%, rest 5%"
    assert advice.startswith("sandbox: raise THYME_SANDBOX_WORKERS")


def test_a_run_without_times_has_nothing_to_say() -> None:
    assert describe_time({"reward": 1.0}) == []
    assert describe_time({"thyme/time/step": 0.0, "thyme/time/rest": 0.0}) == []
