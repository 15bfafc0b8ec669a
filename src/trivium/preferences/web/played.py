"""Votes of the playground in the store: given, listed in the voter's history, and changed by a new record."""

import re
from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from trivium.base.errors import DataError
from trivium.base.text import visible
from trivium.preferences.audit import read_guidelines, read_settings, record
from trivium.preferences.desk import LabellingDesk
from trivium.preferences.judgement import PLAY_SOURCE, Judgement
from trivium.preferences.rows import StoredJudgement
from trivium.preferences.votes import LETTERS, Vote, judgement_of, vote_of
from trivium.preferences.web.access import Visit
from trivium.preferences.web.app import Form, OfSite, Signed, Site, page_values
from trivium.preferences.web.labelling import read_vote
from trivium.preferences.web.rendering import code, prompt_parts

router = APIRouter(prefix="/label/history/play")


def keep_vote(visit: Visit, vote: Vote, judged: Judgement, *, known: bool, supersedes: str = "") -> str:
    """Put a vote on a pair of the playground into the store; its key, once it is on disk.

    Args:
        vote: what was chosen; the playground asks for neither criteria nor flags.
        judged: what was voted on: prompt, completions, name and, in `details`, `order`, `execution_seen` and `play`.
        known: the voter could tell which model wrote what.
        supersedes: key of the vote that this one replaces.
    """
    asked = judged.details["play"]
    judgement = judgement_of(
        vote.model_copy(update={"criteria": {}, "unsafe": ()}),
        prompt=judged.prompt,
        completions=judged.completions,
        arrangement=tuple(judged.details["order"]),
        comparison=judged.id,
        assignment="",
        annotator=visit.person.name,
        purpose="first",
        guidelines=read_guidelines(visit.store).version,
        execution_seen=judged.details["execution_seen"],
        names=read_settings(visit.store).model_names,
        supersedes=supersedes,
    )
    details = judgement.details | {"play": asked}
    if known or _names_itself(judged, asked["models"]):
        details["unblinded"] = True
    with visit.store.transaction():
        key = visit.store.add_judgement(judgement.model_copy(update={"source": PLAY_SOURCE, "details": details}))
        record(visit.store, visit.person.name, "edit" if supersedes else "play", _turn(judged), judgement=key)
    return key


def _turn(judged: Judgement) -> str:
    return judged.id.removeprefix("play-")


def _names_itself(judged: Judgement, models: list[str]) -> bool:
    """Whether an answer spells one of the models' names: as a word, since these names are as short as `M1`."""
    words = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in models), re.IGNORECASE)
    return any(words.search(sample.text) for sample in judged.completions)


@router.get("/{name}")
def look_again(visit: Signed, site: OfSite, name: str) -> Response:
    """One of my votes, to change; the models' names are known by now."""
    said = _mine(visit, name).judgement
    return _page(visit, site, name, said, vote_of(said))


@router.post("/{name}")
def change(visit: Signed, site: OfSite, form: Form, name: str) -> Response:
    """Say something else: a new record that supersedes the old one. The same vote again makes none."""
    said = _mine(visit, name).judgement
    try:
        vote = read_vote(form, len(said.completions))
    except ValueError as error:
        problem = str(error) if isinstance(error, DataError) else "The vote could not be read. Choose again."
        return _page(visit, site, name, said, vote_of(said), problem, 422)
    turn = site.playground.turn(visit.person.name, name) if site.playground is not None else None
    with visit.store.transaction():
        stored = _mine(visit, name)
        said, old = stored.judgement, vote_of(stored.judgement)
        if (vote.choice, vote.margin, vote.note) != (old.choice, old.margin, old.note):
            seen = said.details["execution_seen"] or (turn is not None and turn.execution_seen)
            judged = said.model_copy(update={"details": said.details | {"execution_seen": seen}})
            keep_vote(visit, vote, judged, known=True, supersedes=stored.key)
    return RedirectResponse("/label/history", 303)


@router.get("/{name}/text/{at}")
def whole_text(visit: Signed, name: str, at: int) -> Response:
    """One answer as plain text, hidden characters shown by number."""
    said = _mine(visit, name).judgement
    if not 0 <= at < len(said.completions):
        raise HTTPException(404, "There is no such answer.")
    text = said.completions[said.details["order"][at]].text
    return PlainTextResponse(visible(text).encode("utf-8", "replace"))


def _mine(visit: Visit, name: str) -> StoredJudgement:
    for stored in LabellingDesk(visit.store).played(visit.person.name):
        if _turn(stored.judgement) == name:
            return stored
    raise HTTPException(404, "You have no such vote.")


def _page(
    visit: Visit, site: Site, name: str, said: Judgement, vote: Vote, problem: str = "", status: int = 200
) -> Response:
    settings = read_settings(visit.store)
    language = "text" if said.details["play"]["mode"] == "chat" else settings.language
    sides: list[dict[str, Any]] = [
        {
            "letter": LETTERS[at],
            "model": said.details["play"]["models"][index],
            "code": code(said.completions[index].text, language),
        }
        for at, index in enumerate(said.details["order"])
    ]
    return site.render(
        "played.html",
        status,
        path=f"/label/history/play/{name}",
        prompt=prompt_parts(said.prompt, language),
        sides=sides,
        chosen=f"{vote.choice}2" if vote.margin == 2 else vote.choice,
        note=vote.note,
        much_better=settings.much_better or vote.margin == 2,
        problem=problem,
        **page_values(visit, "history"),
    )
