"""Assignments, votes, undo and the audit trail, on both databases."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from trivium.base.errors import DataError
from trivium.preferences.audit import read_guidelines, read_settings, trail, write_guidelines, write_settings
from trivium.preferences.comparisons import fill, load_comparison, set_gold, set_priorities
from trivium.preferences.desk import Assignment, ConflictError, LabellingDesk
from trivium.preferences.people import add_person
from trivium.preferences.progress import progress
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import LabelSettings, Vote, vote_of

A, B, TIE = Vote(choice="A"), Vote(choice="B"), Vote(choice="tie")
PLAIN = LabelSettings(overlap_share=0, repeat_share=0, gold_share=0)
_requests = itertools.count()


def request() -> str:
    return f"request-{next(_requests)}"


@pytest.fixture
def desk(store: PreferenceStore, with_answers: Callable[..., list[str]]) -> LabellingDesk:
    add_person(store, "ann", "annotator")
    add_person(store, "bob", "annotator")
    write_settings(store, PLAIN, "ann")
    with_answers(store, 12)
    assert fill(store) == 12
    return LabellingDesk(store)


def given(desk: LabellingDesk, person: str) -> Assignment:
    found = desk.next(person)
    assert found is not None
    return found


def expire(desk: LabellingDesk) -> None:
    desk.db.execute("UPDATE assignments SET leased_until = '2000' WHERE state = 'open'")


def test_a_vote_becomes_a_judgement_of_the_answers_as_they_were_shown(desk: LabellingDesk) -> None:
    held = given(desk, "ann")
    vote = Vote(choice="B", margin=2, criteria={"correct": 2}, note="clear", unsafe=(0,), seconds=3.14159)
    receipt = desk.vote("ann", held.id, vote, request())
    found = desk.store.judgement(receipt.judgement)
    assert found.ranking == ((held.arrangement[1],), (held.arrangement[0],))
    assert (found.source, found.annotator, found.margin, found.comment) == ("human", "ann", 2.0, "clear")
    assert found.id == held.comparison.id
    assert found.details == {
        "choice": "B",
        "order": list(held.arrangement),
        "purpose": "first",
        "guidelines": 0,
        "execution_seen": False,
        "assignment": held.id,
        "criteria": {"correct": 2},
        "unsafe": [held.arrangement[0]],
        "seconds": 3.1,
    }
    assert vote_of(found) == vote.model_copy(update={"seconds": 3.1})


def test_both_bad_is_a_tie_that_stays_told_apart(desk: LabellingDesk) -> None:
    for choice in ("tie", "both_bad"):
        receipt = desk.vote("ann", given(desk, "ann").id, Vote(choice=choice), request())
        found = desk.store.judgement(receipt.judgement)
        assert (found.ranking, found.margin, found.details["choice"]) == (((0, 1),), None, choice)


def test_rankings_of_more_answers_allow_ties(store: PreferenceStore, with_answers: Any) -> None:
    add_person(store, "ann", "annotator")
    write_settings(store, PLAIN.model_copy(update={"completions": 4}), "ann")
    with_answers(store, 3, answers=5)
    fill(store)
    desk = LabellingDesk(store)
    held = given(desk, "ann")
    assert len(held.arrangement) == 4
    with pytest.raises(DataError, match="names each of the 4 answers once"):
        desk.vote("ann", held.id, Vote(choice="ranking", ranking=((0, 1), (2,))), request())
    with pytest.raises(DataError, match="a choice between two answers"):
        desk.vote("ann", held.id, A, request())
    ranking = ((2,), (0, 3), (1,))
    found = store.judgement(desk.vote("ann", held.id, Vote(choice="ranking", ranking=ranking), request()).judgement)
    assert found.ranking == tuple(tuple(sorted(held.arrangement[at] for at in tier)) for tier in ranking)
    assert vote_of(found).ranking == ranking


def test_sending_a_request_again_changes_nothing(desk: LabellingDesk) -> None:
    held, name = given(desk, "ann"), request()
    first = desk.vote("ann", held.id, A, name)
    again = desk.vote("ann", held.id, B, name)
    assert (again.judgement, first.repeated, again.repeated) == (first.judgement, False, True)
    with pytest.raises(ConflictError, match="answered already"):
        desk.vote("ann", held.id, B, request())
    with pytest.raises(ConflictError, match="another comparison"):
        desk.vote("ann", given(desk, "ann").id, B, name)
    assert desk.store.counts()["judgements"] == 1


def test_the_open_assignment_comes_back_with_its_draft(desk: LabellingDesk) -> None:
    held = given(desk, "ann")
    desk.keep_draft("ann", held.id, {"note": "half a th"})
    desk.show_execution("ann", held.id)
    with PreferenceStore(desk.store.path) if "://" not in desk.store.path else desk.store as other:
        back = given(LabellingDesk(other), "ann")
    assert (back.id, back.arrangement) == (held.id, held.arrangement)
    assert (back.draft, back.execution_seen) == ({"note": "half a th"}, True)


def test_undo_appends_a_retraction_and_brings_the_pair_back(desk: LabellingDesk) -> None:
    first = given(desk, "ann")
    voted = desk.vote("ann", first.id, Vote(choice="A", note="why"), request()).judgement
    following = given(desk, "ann")
    back = desk.undo("ann", since="")
    assert back is not None and (back.id, back.arrangement, back.draft["note"]) == (first.id, first.arrangement, "why")
    assert given(desk, "ann").id == first.id, "before the one that came next"
    assert desk.store.counts()["judgements"] == 0
    second = desk.vote("ann", first.id, B, request()).judgement
    assert given(desk, "ann").id == following.id
    every = {each.key: each.judgement for each in desk.store.judgements(history=True)}
    (retraction,) = set(every) - {voted, second}
    assert every[retraction].ranking == () and every[retraction].supersedes == voted
    assert every[second].supersedes == retraction
    assert [each.key for each in desk.store.judgements()] == [second]
    assert desk.undo("ann", since="9") is None, "only what this session did"


def test_skipping_needs_a_reason_is_no_judgement_and_can_be_undone(desk: LabellingDesk) -> None:
    held = given(desk, "ann")
    with pytest.raises(DataError, match="no reason to skip"):
        desk.skip("ann", held.id, "bored", request())
    assert desk.skip("ann", held.id, "unsure", request()).outcome == "skipped"
    assert given(desk, "ann").id != held.id
    assert desk.store.counts()["judgements"] == 0
    back = desk.undo("ann", since="")
    assert back is not None and back.id == held.id
    assert [entry["action"] for entry in trail(desk.store)][:3] == ["undo", "assign", "skip"]


def test_edits_append_and_supersede(desk: LabellingDesk) -> None:
    held = given(desk, "ann")
    one = desk.vote("ann", held.id, A, request()).judgement
    two = desk.vote("ann", held.id, B, request(), edit=True).judgement
    three = desk.vote("ann", held.id, A, request(), edit=True).judgement
    assert len({one, two, three}) == 3
    assert [each.key for each in desk.store.judgements()] == [three]
    assert desk.store.counts()["superseded"] == 2
    assert desk.db.value("SELECT judged FROM comparisons WHERE id = ?", (held.comparison.id,)) == 1


def test_nobody_gets_another_ones_comparison_while_it_is_leased(desk: LabellingDesk) -> None:
    seen = [given(desk, "ann").comparison.id]
    for _ in range(11):
        held = given(desk, "bob")
        seen.append(held.comparison.id)
        desk.vote("bob", held.id, A, request())
    assert len(set(seen)) == 12
    assert desk.next("bob") is None, "the last one is on Ann's desk"
    expire(desk)
    assert given(desk, "bob").comparison.id == seen[0]
    assert desk.next("ann") is None, "it was given to Bob meanwhile"


def test_a_vote_after_the_lease_is_still_taken(desk: LabellingDesk) -> None:
    held = given(desk, "ann")
    expire(desk)
    assert given(desk, "bob").comparison.id != "" and desk.vote("ann", held.id, A, request()).outcome == "judged"


def test_only_the_person_can_answer_an_assignment(desk: LabellingDesk) -> None:
    with pytest.raises(ConflictError, match="not given to you"):
        desk.vote("bob", given(desk, "ann").id, A, request())


def test_shared_comparisons_are_judged_by_as_many_as_asked(desk: LabellingDesk) -> None:
    write_settings(desk.store, PLAIN.model_copy(update={"overlap_share": 1.0, "overlap": 2}), "ann")
    for person in ("ann", "bob", "ann", "bob"):
        desk.vote(person, given(desk, person).id, A, request())
    add_person(desk.store, "eve", "annotator")
    assert given(desk, "eve").comparison.id not in {
        row["id"] for row in desk.db.rows("SELECT id FROM comparisons WHERE judged = 2")
    }
    stand = progress(desk.store, "ann")
    assert (stand.judged, stand.left, stand.shared) == (2, 10, 2)


def test_sides_are_balanced_over_a_thousand_assignments() -> None:
    left: Counter[int] = Counter()
    for pair in range(500):
        orders = [PLAIN.arrangement(f"pair {pair}", 2, index) for index in range(2)]
        assert orders[0] != orders[1], "the second person sees the other side first"
        left.update(order[0] for order in orders)
        assert PLAIN.arrangement(f"pair {pair}", 2, 0) == orders[0]
    assert left == {0: 500, 1: 500}
    firsts = sum(PLAIN.arrangement(f"pair {pair}", 2, 0)[0] for pair in range(1000))
    assert 450 < firsts < 550, "and one person alone sees no side more often: 3 standard deviations are 47"
    places = Counter(
        (place, answer) for index in range(4) for place, answer in enumerate(PLAIN.arrangement("four", 4, index))
    )
    assert set(places.values()) == {1}


def test_repeats_come_with_sides_swapped_and_train_nothing(desk: LabellingDesk) -> None:
    write_settings(desk.store, PLAIN.model_copy(update={"repeat_share": 0.5, "repeat_after": 1}), "ann")
    shown: dict[str, list[tuple[int, ...]]] = {}
    repeats = 0
    while (held := desk.next("ann")) is not None:
        shown.setdefault(held.comparison.id, []).append(held.arrangement)
        repeats += held.purpose == "repeat"
        desk.vote("ann", held.id, A, request())
    assert repeats >= 3 and sum(len(orders) for orders in shown.values()) == 12 + repeats
    assert all(orders[0] == orders[1][::-1] for orders in shown.values() if len(orders) == 2)
    sources = Counter(each.judgement.source for each in desk.store.judgements())
    assert sources == {"human": 12, "human-check": repeats}


def test_gold_comparisons_are_mixed_in_and_marked(desk: LabellingDesk) -> None:
    names = [row["id"] for row in desk.db.rows("SELECT id FROM comparisons ORDER BY id")]
    for name in names[:3]:
        set_gold(desk.store, name, ((1,), (0,)), by="ann")
    with pytest.raises(DataError, match="each of the 2 answers once"):
        set_gold(desk.store, names[4], ((1,),), by="ann")
    write_settings(desk.store, PLAIN.model_copy(update={"gold_share": 0.5}), "ann")
    gold = []
    while (held := desk.next("bob")) is not None:
        if held.purpose == "gold":
            gold.append(held.comparison.id)
        desk.vote("bob", held.id, A, request())
    assert set(gold) == set(names[:3])
    assert load_comparison(desk.store, names[0]).gold == ((1,), (0,))
    assert {each.judgement.source for each in desk.store.judgements() if each.judgement.id in gold} == {"human-check"}


def test_least_certain_first_where_it_is_chosen(desk: LabellingDesk) -> None:
    names = [row["id"] for row in desk.db.rows("SELECT id FROM comparisons ORDER BY id")]
    set_priorities(desk.store, {names[7]: 2.0, names[3]: 1.0})
    write_settings(desk.store, PLAIN.model_copy(update={"order": "priority"}), "ann")
    order = []
    for _ in range(2):
        held = given(desk, "ann")
        order.append(held.comparison.id)
        desk.vote("ann", held.id, A, request())
    assert order == [names[7], names[3]]


def test_required_criteria_and_unknown_ones(desk: LabellingDesk) -> None:
    asked = tuple(each.model_copy(update={"required": each.name == "correct"}) for each in PLAIN.criteria)
    write_settings(desk.store, PLAIN.model_copy(update={"criteria": asked}), "ann")
    held = given(desk, "ann")
    for vote, reason in ((A, "“Correct” needs an answer"), (Vote(choice="A", criteria={"wit": 1}), "'wit'")):
        with pytest.raises(DataError, match=reason):
            desk.vote("ann", held.id, vote, request())
    desk.vote("ann", held.id, Vote(choice="A", criteria={"correct": -1}), request())


def test_text_that_names_a_model_is_marked(desk: LabellingDesk) -> None:
    write_settings(desk.store, PLAIN.model_copy(update={"model_names": ("RETURN X",)}), "ann")
    key = desk.vote("ann", given(desk, "ann").id, A, request()).judgement
    assert desk.store.judgement(key).details["unblinded"] is True


def test_settings_guidelines_and_trail_only_grow(desk: LabellingDesk) -> None:
    assert read_guidelines(desk.store).version == 0
    assert write_guidelines(desk.store, "Be kind.", "ann") == (1, "Be kind.")
    assert write_guidelines(desk.store, "Be kind. ", "ann").version == 1
    assert read_settings(desk.store) == PLAIN
    for table in ("audit", "guidelines", "label_settings", "answers", "judgements", "rankings"):
        desk.vote("ann", given(desk, "ann").id, TIE, request())
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET created = 'x'"):
            if table != "rankings" or statement.startswith("DELETE"):
                with pytest.raises(DataError, match="append-only"), desk.store.transaction():
                    desk.db.execute(statement)
    numbers = [entry["number"] for entry in trail(desk.store)]
    assert numbers == list(range(len(numbers), 0, -1))


def test_filling_again_adds_nothing_and_another_size_puts_the_unseen_aside(
    desk: LabellingDesk, with_answers: Any
) -> None:
    assert fill(desk.store) == 0
    held = given(desk, "ann")
    with_answers(desk.store, 14, answers=3)
    assert fill(desk.store) >= 2, "two prompts are new; others have a third answer, and so perhaps another pair"
    write_settings(desk.store, PLAIN.model_copy(update={"completions": 3}), "ann")
    assert fill(desk.store) == 14
    sizes = desk.db.rows(
        """
        SELECT COUNT(*) AS size FROM comparison_members JOIN comparisons ON comparisons.id = comparison
        WHERE active = 1 AND comparison != ? GROUP BY comparison
        """,
        (held.comparison.id,),
    )
    assert {row["size"] for row in sizes} == {3}


def test_two_people_at_once_never_hold_the_same_comparison(location: str, with_answers: Any) -> None:
    with PreferenceStore(location) as store:
        write_settings(store, PLAIN, "")
        with_answers(store, 40)
        fill(store)
        for index in range(4):
            add_person(store, f"p{index}", "annotator")
    taken: list[str] = []

    def work(person: str) -> None:
        with PreferenceStore(location) as own:
            desk = LabellingDesk(own)
            while (held := desk.next(person)) is not None:
                taken.append(held.comparison.id)
                desk.vote(person, held.id, A, f"{person}-{held.id}")

    threads = [threading.Thread(target=work, args=(f"p{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(set(taken)) and len(taken) == 40
