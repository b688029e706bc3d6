"""Who is sent the next chunk: in turns, within an allowance, in bounded memory."""

from collections import Counter

from dsops.clock import ManualClock
from dsops.messages import MAX_ANSWERED, MAX_NEED, Need
from dsops_controller.server.answers import CHUNK_BURST, CHUNKS_PER_S, WAITING, Answer, Answers

INDEX = "ab" * 32


def digests(count: int, start: int = 0) -> tuple[str, ...]:
    return tuple(f"{number:064x}" for number in range(start, start + count))


def drain(answers: Answers) -> list[Answer]:
    taken = []
    while (answer := answers.take()) is not None:
        taken.append(answer)
    return taken


def test_of_a_file_a_window_is_answered_in_order() -> None:
    answers = Answers(ManualClock())
    answers.ask("cam-1", Need.of(INDEX, range(5, 500)))
    assert drain(answers) == [Answer("cam-1", INDEX, number) for number in range(5, 5 + MAX_ANSWERED)]
    assert len(answers) == 0


def test_what_waits_already_is_not_sent_twice() -> None:
    answers = Answers(ManualClock())
    for _ in range(3):
        answers.ask("cam-1", Need.of(INDEX, (1, 2)))
    assert [answer.number for answer in drain(answers)] == [1, 2]


def test_a_greedy_device_does_not_hold_up_the_others() -> None:
    answers = Answers(ManualClock())
    for start in range(0, 10_000, MAX_NEED):
        answers.ask("greedy", Need(digests=digests(MAX_NEED, start)))
    for device in ("cam-1", "cam-2"):
        answers.ask(device, Need(digests=digests(2)))
    taken = [answers.take() for _ in range(6)]
    assert [answer.device for answer in taken if answer] == ["greedy", "cam-1", "cam-2"] * 2


def test_each_device_has_its_own_allowance() -> None:
    clock = ManualClock()
    answers = Answers(clock)
    sent: Counter[str] = Counter()
    for _ in range(2 * CHUNK_BURST // MAX_NEED):
        answers.ask("greedy", Need(digests=digests(MAX_NEED)))
        sent.update(answer.device for answer in drain(answers))
    assert sent["greedy"] == CHUNK_BURST
    answers.ask("cam-1", Need(digests=digests(1)))
    assert drain(answers) == [Answer("cam-1", digests(1)[0])]
    clock.advance(MAX_NEED / CHUNKS_PER_S / 2)
    assert len(drain(answers)) == MAX_NEED / 2


def test_many_devices_fill_no_memory_and_who_asks_for_little_is_kept() -> None:
    answers = Answers(ManualClock())
    for number in range(WAITING // MAX_NEED + 10):
        answers.ask(f"greedy-{number}", Need(digests=digests(MAX_NEED)))
    assert len(answers) == WAITING
    answers.ask("cam-1", Need(digests=digests(1)))
    assert len(answers) == WAITING
    assert Answer("cam-1", digests(1)[0]) in drain(answers)
