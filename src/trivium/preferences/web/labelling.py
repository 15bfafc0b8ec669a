"""`/label` and `/label/history`: one comparison at a time, and what has been said before."""

import secrets
from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from trivium.base.errors import DataError
from trivium.preferences.audit import read_guidelines, read_settings
from trivium.preferences.desk import SKIP_REASONS, Assignment, ConflictError, LabellingDesk
from trivium.preferences.judgement import Judgement, Prompt, prompt_text
from trivium.preferences.votes import LETTERS, LabelSettings, Vote, vote_of
from trivium.preferences.web.access import Visit
from trivium.preferences.web.app import Form, OfSite, Signed, Site, link, page_values, text_of
from trivium.preferences.web.execution import Trial
from trivium.preferences.web.rendering import code, prompt_parts, side_by_side, unified_diff, verdict

router = APIRouter(prefix="/label")

SHOWN = 100
"""Answers that the history lists."""
CHOICES = {"A": "A is better", "B": "B is better", "tie": "a tie", "both_bad": "both bad", "ranking": "a ranking"}


@router.get("")
def label(visit: Signed, site: OfSite, done: str = "", diff: str = "", other: int = 1) -> Response:
    """The next comparison for me."""
    desk = LabellingDesk(visit.store)
    held = desk.next(visit.person.name)
    status = _status(desk, visit, done) if done else ""
    if held is None:
        settings = read_settings(visit.store)
        return site.render("done.html", status=status, settings=settings, **page_values(visit, "label"))
    return _comparison_page(visit, site, held, held.draft, status=status, diff=diff, other=other)


@router.post("")
def vote(visit: Signed, site: OfSite, form: Form) -> Response:
    """Take the vote; the answer comes after it is on disk."""
    desk, name = LabellingDesk(visit.store), text_of(form, "assignment", 40)
    return _take(desk, visit, site, form, name, edit=False, then=link("/label", done=name))


@router.post("/skip")
def skip(visit: Signed, form: Form) -> Response:
    """Leave it out, with a reason."""
    name = text_of(form, "assignment", 40)
    desk = LabellingDesk(visit.store)
    desk.skip(
        visit.person.name, name, text_of(form, "reason", 20), text_of(form, "request", 100), text_of(form, "note")
    )
    return RedirectResponse(link("/label", done=name), 303)


@router.post("/undo")
def undo(visit: Signed, _: Form) -> Response:
    """Take back the last answer of this session."""
    back = LabellingDesk(visit.store).undo(visit.person.name, since=visit.began)
    return RedirectResponse(link("/label", done="undone" if back else "nothing"), 303)


@router.post("/draft")
def keep_draft(visit: Signed, form: Form) -> Response:
    """Keep what has been entered; `then` says what to show beside it."""
    LabellingDesk(visit.store).keep_draft(visit.person.name, text_of(form, "assignment", 40), _draft(form))
    if form.get("quiet"):
        return Response(status_code=204)
    shown = text_of(form, "then", 20)
    known = shown if shown in ("unified", "side") else ""
    return RedirectResponse(link("/label", diff=known, other=text_of(form, "other", 2)), 303)


@router.post("/execution")
def show_execution(visit: Signed, form: Form) -> Response:
    """Show the outcome of the tests before the vote, and remember that."""
    desk, name = LabellingDesk(visit.store), text_of(form, "assignment", 40)
    if read_settings(visit.store).execution != "on_demand":
        raise HTTPException(403, "The outcome of the tests is not shown before the vote.")
    desk.keep_draft(visit.person.name, name, _draft(form))
    desk.show_execution(visit.person.name, name)
    return RedirectResponse("/label", 303)


@router.get("/text/{name}/{at}")
def whole_text(visit: Signed, name: str, at: int) -> Response:
    """One answer as plain text, hidden characters shown by number; -1 is the prompt."""
    from trivium.base.text import visible

    held = LabellingDesk(visit.store).assignment(visit.person.name, name)
    if not -1 <= at < len(held.shown):
        raise HTTPException(404, "There is no such answer.")
    text = prompt_text(held.comparison.prompt) if at < 0 else held.shown[at].sample.text
    return PlainTextResponse(visible(text).encode("utf-8", "replace"))


@router.get("/guidelines")
def guidelines(visit: Signed, site: OfSite) -> Response:
    """What annotators go by."""
    return site.render("guidelines.html", guidelines=read_guidelines(visit.store), **page_values(visit, "guidelines"))


@router.get("/history")
def history(visit: Signed, site: OfSite) -> Response:
    """My judgements and my votes of the playground, newest first."""
    desk = LabellingDesk(visit.store)
    rows = [_row(visit, held) for held in desk.history(visit.person.name, SHOWN)]
    rows += [
        _said_row(stored.judgement, stored.created, f"play/{stored.judgement.id.removeprefix('play-')}", None)
        for stored in desk.played(visit.person.name)
    ]
    rows = sorted(rows, key=lambda row: row["closed"], reverse=True)[:SHOWN]
    return site.render("history.html", rows=rows, **page_values(visit, "history"))


def _row(visit: Visit, held: Assignment) -> dict[str, Any]:
    """What became of an assignment, for the history."""
    if held.judgement and held.state == "judged":
        return _said_row(visit.store.judgement(held.judgement), held.closed, held.id, held.number)
    skipped = {"outcome": "skipped", "note": "", "edited": False}
    return skipped | _listed(held.comparison.prompt, held.closed, held.id, held.number)


def _said_row(said: Judgement, closed: str, path: str, number: int | None) -> dict[str, Any]:
    found = {"outcome": _said(vote_of(said)), "note": said.comment, "edited": bool(said.supersedes)}
    return found | _listed(said.prompt, closed, path, number)


def _listed(prompt: Prompt, closed: str, path: str, number: int | None) -> dict[str, Any]:
    """The columns that every row has; `number` is None for the playground."""
    line = prompt_text(prompt).strip().split("\n")[0][:80]
    return {"path": path, "number": number, "prompt": line, "closed": closed}


@router.get("/history/{name}")
def look_again(visit: Signed, site: OfSite, name: str, diff: str = "", other: int = 1) -> Response:
    """One of my judgements, to change."""
    held = _closed(visit, name)
    return _comparison_page(visit, site, held, _earlier(visit, held), diff=diff, other=other, edit=True)


@router.post("/history/{name}")
def change(visit: Signed, site: OfSite, form: Form, name: str) -> Response:
    """Say something else: a new record that supersedes the old one."""
    _closed(visit, name)
    return _take(LabellingDesk(visit.store), visit, site, form, name, edit=True, then="/label/history")


def _closed(visit: Visit, name: str) -> Assignment:
    held = LabellingDesk(visit.store).assignment(visit.person.name, name)
    if held.state not in ("judged", "skipped"):
        raise ConflictError("this comparison has not been answered yet. It is on your labelling page.")
    return held


def _take(
    desk: LabellingDesk, visit: Visit, site: Site, form: FormData, name: str, *, edit: bool, then: str
) -> Response:
    held = desk.assignment(visit.person.name, name)
    try:
        desk.vote(
            visit.person.name, name, read_vote(form, len(held.arrangement)), text_of(form, "request", 100), edit=edit
        )
    except ConflictError:
        raise
    except (ValidationError, ValueError) as error:
        problem = str(error) if isinstance(error, DataError) else "The vote could not be read. Choose again."
        return _comparison_page(visit, site, held, _draft(form), problem=problem, edit=edit, status_code=422)
    return RedirectResponse(then, 303)


def read_vote(form: FormData, size: int) -> Vote:
    """The vote in a form; `A2` and `B2` are `much better`."""
    choice = text_of(form, "choice", 10)
    if not choice:
        raise DataError("Choose an answer first.")
    draft = _draft(form)
    ranking: tuple[tuple[int, ...], ...] = ()
    if size > 2:
        choice = "ranking"
        tiers: dict[int, list[int]] = {}
        for index in range(size):
            rank = draft["ranks"].get(str(index))
            if rank is None:
                raise DataError(f"Give {LETTERS[index]} a rank first.")
            tiers.setdefault(rank, []).append(index)
        ranking = tuple(tuple(tiers[rank]) for rank in sorted(tiers))
    return Vote.model_validate(
        {
            "choice": choice[0] if choice in ("A2", "B2") else choice,
            "margin": 2 if choice in ("A2", "B2") else 1,
            "ranking": ranking,
            "criteria": draft["criteria"],
            "note": draft["note"],
            "unsafe": tuple(draft["unsafe"]),
            "seconds": draft["seconds"],
        }
    )


def _draft(form: FormData) -> dict[str, Any]:
    """What has been entered so far."""
    criteria, ranks, unsafe = {}, {}, []
    for key, value in form.multi_items():
        kind, _, name = key.partition("-")
        if kind == "criterion" and name and value in ("-2", "-1", "0", "1", "2"):
            criteria[name[:40]] = int(str(value))
        elif kind == "rank" and name.isdecimal() and str(value).isdecimal() and len(name + str(value)) <= 2:
            ranks[name] = int(str(value))
        elif kind == "unsafe" and name.isdecimal() and len(name) == 1:
            unsafe.append(int(name))
    try:
        seconds = min(max(float(str(form.get("seconds", ""))), 0.0), 86400.0)
    except ValueError:  # no JavaScript, so nobody has measured
        seconds = None
    if seconds is not None and seconds != seconds:
        seconds = None
    choice = text_of(form, "choice", 10)
    return {
        "choice": choice,
        "criteria": criteria,
        "ranks": ranks,
        "unsafe": unsafe,
        "note": text_of(form, "note"),
        "seconds": seconds,
    }


def _earlier(visit: Visit, held: Assignment) -> dict[str, Any]:
    """What was said, as a draft."""
    if held.state != "judged":
        return {}
    vote = vote_of(visit.store.judgement(held.judgement))
    ranks = {str(index): rank for rank, tier in enumerate(vote.ranking, start=1) for index in tier}
    choice = f"{vote.choice}2" if vote.margin == 2 else vote.choice
    return {
        "choice": choice,
        "criteria": vote.criteria,
        "ranks": ranks,
        "unsafe": list(vote.unsafe),
        "note": vote.note,
        "seconds": vote.seconds,
    }


def _said(vote: Vote) -> str:
    if vote.choice == "ranking":
        return " > ".join(" = ".join(LETTERS[index] for index in tier) for tier in vote.ranking)
    return CHOICES[vote.choice].replace("is better", "is much better" if vote.margin == 2 else "is better")


def _status(desk: LabellingDesk, visit: Visit, done: str) -> str:
    """What has just been done, in a sentence for the status region."""
    if done in ("undone", "nothing"):
        return {"undone": "Taken back. Here it is again.", "nothing": "There is nothing to take back."}[done]
    try:
        held = desk.assignment(visit.person.name, done)
    except ConflictError:
        return ""
    if held.state == "skipped":
        return "Skipped."
    if held.state != "judged":
        return ""
    text = f"Saved: {_said(vote_of(visit.store.judgement(held.judgement)))}."
    if read_settings(visit.store).execution == "after":
        text += "".join(f" {LETTERS[at]} {verdict(each.sample)}." for at, each in enumerate(held.shown))
    return text


def _comparison_page(
    visit: Visit,
    site: Site,
    held: Assignment,
    draft: dict[str, Any],
    *,
    status: str = "",
    problem: str = "",
    diff: str = "",
    other: int = 1,
    edit: bool = False,
    status_code: int = 200,
) -> Response:
    settings = read_settings(visit.store)
    texts = [stored.sample.text for stored in held.shown]
    other = other if 1 <= other < len(texts) else 1
    known = _execution_known(settings, held, edit)
    if known and edit:
        LabellingDesk(visit.store).show_execution(visit.person.name, held.id, again=True)
    trials = _trials(visit, site, held) if known else [None] * len(texts)
    sides = [
        {
            "trial": trials[at],
            "letter": LETTERS[at],
            "code": code(stored.sample.text, settings.language),
            "verdict": verdict(stored.sample) if known else "",
            "passed": stored.sample.passed if known else None,
        }
        for at, stored in enumerate(held.shown)
    ]
    return site.render(
        "label.html",
        status_code,
        held=held,
        number=held.number,
        sides=sides,
        prompt=prompt_parts(held.comparison.prompt, settings.language),
        settings=settings,
        criteria=settings.criteria if len(sides) == 2 else (),
        must_submit=len(sides) > 2 or any(criterion.required for criterion in settings.criteria),
        draft=_whole(draft, settings),
        request=secrets.token_urlsafe(12),
        reasons=SKIP_REASONS,
        status=status,
        problem=problem,
        diff=diff if diff in ("unified", "side") else "",
        other=other,
        unified=unified_diff(texts[0], texts[other]) if diff == "unified" else [],
        rows=side_by_side(texts[0], texts[other]) if diff == "side" else [],
        edit=edit,
        execution_known=known,
        action=f"/label/history/{held.id}" if edit else "/label",
        **page_values(visit, "history" if edit else "label"),
    )


def _execution_known(settings: LabelSettings, held: Assignment, edit: bool) -> bool:
    """Whether the outcome of the tests is shown: after a vote wherever it is not kept from people altogether."""
    shown = {"never": False, "before": True, "on_demand": edit or held.execution_seen, "after": edit}
    return shown[settings.execution]


def _trials(visit: Visit, site: Site, held: Assignment) -> list[Trial | None]:
    """What comes of running the answers, where there are tests."""
    if site.trials is None:
        return [None] * len(held.shown)
    if not site.runs.allows(visit.token):
        raise HTTPException(429, "Too many runs in a minute. Wait a little.")
    return site.trials.run(prompt_text(held.comparison.prompt), [stored.sample.text for stored in held.shown])


def _whole(draft: dict[str, Any], settings: LabelSettings) -> dict[str, Any]:
    """A draft with every field there is; earlier settings may have asked other things."""
    asked = {criterion.name for criterion in settings.criteria}
    criteria = {name: step for name, step in draft.get("criteria", {}).items() if name in asked}
    empty = {"choice": "", "ranks": {}, "unsafe": [], "note": "", "seconds": None}
    return empty | draft | {"criteria": criteria}
