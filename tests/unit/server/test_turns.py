"""Who was shut out last is evicted first, whatever the number of those who were shut out before."""

from dsops_controller.server.turns import CALM_PER_S, FIRST_S, LONGEST_S, RETRY_S, Turns

OLD = tuple(f"old-{number:04}" for number in range(2000))
MOST = 4


def serve(turns: Turns, began_s: int, seconds: int, tenths: int = 10) -> list[str]:
    """Take every turn that is due, each of them done, and return whose they were."""
    taken: list[str] = []
    for tick in range(seconds * tenths):
        now_s = began_s + tick / tenths
        for device in turns.due(now_s, MOST):
            turns.took(device, now_s, is_done=True)
            taken.append(device)
    return taken


def test_after_a_start_old_ones_are_spread_out_and_a_new_one_is_in_the_first_turn() -> None:
    turns = Turns()
    turns.follow((), OLD, 0.0)
    assert turns.due(0.0, MOST) == OLD[:1]
    turns.follow(("new",), OLD, 30.0)
    assert len(turns.due(30.0, len(OLD))) == 30 * CALM_PER_S + 2, "many are due by now"
    assert turns.due(30.0, MOST)[0] == "new"
    taken = serve(turns, 30, 240)
    assert taken[0] == "new"
    assert set(taken) == {"new", *OLD}
    assert all(taken.count(device) == 1 for device in OLD)
    assert 7 <= taken.count("new") <= 9


def test_of_many_that_are_barred_at_once_the_newest_still_comes_first() -> None:
    turns = Turns()
    turns.follow(OLD, (), 0.0)
    serve(turns, 0, 10)
    turns.follow((*OLD, "new"), (), 10.0)
    assert turns.due(10.0, MOST)[0] == "new"
    taken = serve(turns, 10, 60)
    assert set(OLD) <= {*taken, *OLD[:400]}, "and no other is forgotten for it"


def test_who_is_barred_anew_or_heard_is_urgent_again() -> None:
    turns = Turns()
    turns.follow(("cam-1",), ("cam-2",), 0.0)
    serve(turns, 0, 5)
    turns.follow((), ("cam-2",), 5.0)
    turns.follow(("cam-1", "cam-2"), (), 6.0)
    assert turns.due(6.0, MOST) == ("cam-1", "cam-2")
    serve(turns, 6, 1)
    turns.hear("cam-2", 6.5)
    turns.hear("unknown", 6.5)
    assert turns.due(6.5, MOST) == ("cam-2",)


def test_one_in_vain_comes_back_soon_and_is_in_nobodys_way() -> None:
    turns = Turns()
    turns.follow(("cam-1", "cam-2"), (), 0.0)
    turns.took("cam-1", 0.0, is_done=False)
    assert turns.due(FIRST_S, MOST) == ("cam-2", "cam-1")
    turns.follow((), ("cam-3",), 0.0)
    turns.took("cam-3", 0.0, is_done=False)
    assert turns.due(RETRY_S, MOST) == ("cam-3",)
    turns.took("cam-3", RETRY_S, is_done=True)
    assert turns.due(RETRY_S + LONGEST_S - 1, MOST) == ()
