"""`/play`: ask one model, or two blind side by side; a vote there becomes a judgement."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from markupsafe import escape
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from trivium.base.errors import DataError
from trivium.base.text import visible
from trivium.preferences.audit import read_settings
from trivium.preferences.desk import ConflictError, LabellingDesk
from trivium.preferences.judgement import Judgement
from trivium.preferences.votes import LETTERS
from trivium.preferences.web.access import Visit
from trivium.preferences.web.app import Form, OfSite, Signed, Site, page_values, text_of
from trivium.preferences.web.labelling import read_vote
from trivium.preferences.web.played import keep_vote
from trivium.preferences.web.playground import MOST_CHARACTERS, MOST_TOKENS, Ask, Playground, Turn
from trivium.preferences.web.rendering import code, prompt_parts

router = APIRouter(prefix="/play")

FIELDS = ("mode", "prompt", "system", "suffix", "first", "second", "temperature", "max_new_tokens", "seed")
"""Of the form that asks."""
MOST_AFTER = 4000
"""Characters that can be run after an answer."""
SHOWN_OUTPUT = 10_000
"""Characters of a program's output and of its errors."""
FINISHES = {"stop": "ended by itself", "length": "cut at the cap", "cut": "stopped"}


def _playground(visit: Signed, site: OfSite) -> Playground:
    """The models, for whoever may use them."""
    if site.playground is None:
        raise HTTPException(404, "There is no model beside these answers to play with.")
    if not read_settings(visit.store).play:
        raise HTTPException(403, "The owner has switched the playground off.")
    return site.playground


Play = Annotated[Playground, Depends(_playground)]


def _turn(visit: Signed, playground: Play, name: str) -> Turn:
    """A request of one's own."""
    found = playground.turn(visit.person.name, name)
    if found is None:
        raise HTTPException(404, "This answer is kept no longer. Ask again.")
    return found


OfTurn = Annotated[Turn, Depends(_turn)]


@router.get("")
def play(visit: Signed, site: OfSite, playground: Play, again: str = "") -> Response:
    """The form, filled in as for an earlier request."""
    earlier = playground.turn(visit.person.name, again)
    return _page(visit, site, playground, _entered(earlier.ask) if earlier else None)


@router.post("")
async def ask(request: Request, visit: Signed, site: OfSite, playground: Play, form: Form) -> Response:
    """Answer: as a stream of events where the page asks for one, else a page when all is written."""
    if not site.runs.allows(visit.token):
        raise HTTPException(429, "Too many requests in a minute. Wait a little.")
    entered = {name: _text(form, name) for name in FIELDS}
    try:
        turn = playground.start(visit.person.name, _read(entered))
    except (ValidationError, DataError) as error:
        status = 409 if isinstance(error, ConflictError) else 422
        return await run_in_threadpool(_page, visit, site, playground, entered, problem=_reason(error), status=status)
    if form.get("stream"):
        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(_events(request, turn), media_type="text/event-stream", headers=headers)
    async for _ in _news(request, turn):
        pass
    return RedirectResponse(f"/play/{turn.id}", 303)


@router.get("/{name}")
def answers(visit: Signed, site: OfSite, playground: Play, turn: OfTurn) -> Response:
    """What was answered; names come with the vote."""
    return _page(visit, site, playground, _entered(turn.ask) if turn.named else None, turn=turn)


@router.post("/{name}/stop")
def stop(turn: OfTurn, _: Form) -> Response:
    """Stop writing; what there is stays."""
    turn.halt.set()
    return Response(status_code=204)


@router.get("/{name}/text/{at}")
def whole_text(turn: OfTurn, at: int) -> Response:
    """One answer as plain text, hidden characters shown by number."""
    if not 0 <= at < len(turn.sides):
        raise HTTPException(404, "There is no such answer.")
    return PlainTextResponse(visible(turn.sides[at].text).encode("utf-8", "replace"))


@router.post("/{name}/run")
def run(visit: Signed, site: OfSite, playground: Play, turn: OfTurn, form: Form) -> Response:
    """Run an answer in the sandbox."""
    at = LETTERS.find(text_of(form, "side", 1) or "?")
    if not (0 <= at < len(turn.sides) and turn.ended.is_set()):
        raise HTTPException(404, "There is no such answer.")
    if not site.runs.allows(visit.token):
        raise HTTPException(429, "Too many runs in a minute. Wait a little.")
    playground.run(turn, at, _text(form, "after", MOST_AFTER))
    return RedirectResponse(f"/play/{turn.id}", 303)


@router.post("/{name}/vote")
def vote(visit: Signed, site: OfSite, playground: Play, turn: OfTurn, form: Form) -> Response:
    """Take the vote on two answers; the names come after it is on disk. The history lets it be changed."""
    if not turn.votable:
        raise ConflictError("these are not two whole answers to choose between. Ask again.")
    with turn.voting:
        if not turn.judgement:
            try:
                _judge(visit, playground, turn, form)
            except ValueError as error:
                problem = str(error) if isinstance(error, DataError) else "The vote could not be read. Choose again."
                return _page(visit, site, playground, None, turn=turn, problem=problem, status=422)
    return RedirectResponse(f"/play/{turn.id}", 303)


def _judge(visit: Visit, playground: Playground, turn: Turn, form: FormData) -> None:
    """Put the vote into the store."""
    asked, samples = turn.ask, turn.samples()
    drawn = asked.model_dump(include={"mode", "models", "temperature", "max_new_tokens", "seed"}, mode="json")
    order = [side.place for side in turn.sides]
    judged = Judgement(
        prompt=asked.recorded,
        completions=samples,
        ranking=(),
        id=f"play-{turn.id}",
        details={"order": order, "execution_seen": turn.execution_seen, "play": drawn},
    )
    vote = read_vote(form, len(samples))
    turn.judgement = keep_vote(visit, vote, judged, known=_seen_by_name(visit, playground, turn))


def _seen_by_name(visit: Visit, playground: Playground, turn: Turn) -> bool:
    """Whether the person has had one of these answers, or its beginning, under its model's name before."""
    prompt, texts = turn.ask.recorded, [side.text for side in turn.sides]
    seen = [
        side.text
        for other in playground.turns(visit.person.name)
        if other.named and other.ask.recorded == prompt
        for side in other.sides
    ]
    for stored in LabellingDesk(visit.store).played(visit.person.name):
        if stored.judgement.prompt == prompt:
            seen += [sample.text for sample in stored.judgement.completions]
    return any(one and two and (one.startswith(two) or two.startswith(one)) for one in seen for two in texts)


# Asking


def _text(form: FormData, name: str, most: int = MOST_CHARACTERS) -> str:
    """A field as it was entered: blanks at its ends are part of a prompt."""
    value = form.get(name, "")
    if not isinstance(value, str):
        raise HTTPException(400, f"{name} is no text.")
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > most:
        raise HTTPException(413, f"{name} is longer than {most:,} characters.")
    return text


def _read(entered: dict[str, str]) -> Ask:
    models = [entered["first"], *([entered["second"]] if entered["second"] else [])]
    rest = {name: entered[name] for name in FIELDS if name not in ("first", "second") and entered[name]}
    return Ask.model_validate({**rest, "prompt": entered["prompt"], "models": models})


def _entered(asked: Ask) -> dict[str, str]:
    """A request as the fields of its form."""
    values = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in asked}
    names = dict(zip(("first", "second"), asked.models, strict=False))
    return {name: (values | {"second": ""} | names)[name] for name in FIELDS}


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)[:1].upper() + str(error)[1:]
    first = error.errors()[0]
    where = {"max_new_tokens": "The most tokens"}.get(str(first["loc"][0]), f"The {first['loc'][0]}")
    return f"{where}: {first['msg'].removeprefix('Value error, ')}."


# Writing


async def _news(request: Request, turn: Turn) -> AsyncIterator[list[tuple[str, str]]]:
    """What is written, as it is written; empty from time to time. When nobody listens any more, writing stops."""
    try:
        while True:
            news = await run_in_threadpool(turn.next_news, 0.5)
            yield [each for each in news if each is not None]
            if None in news or (not news and await request.is_disconnected()):
                return
    finally:
        turn.halt.set()  # changes nothing where all is written


async def _events(request: Request, turn: Turn) -> AsyncIterator[str]:
    """Server-sent events: the turn's name, pieces of text with their side, and where to go at the end."""
    yield _event(turn=turn.id)
    async for news in _news(request, turn):
        yield "".join(_event(side=letter, text=visible(text)) for letter, text in news) or ": still here\n\n"
    yield _event(end=f"/play/{turn.id}")


def _event(**values: str) -> str:
    return f"data: {json.dumps(values)}\n\n"


# Showing


def _page(
    visit: Visit,
    site: Site,
    playground: Playground,
    entered: dict[str, str] | None,
    *,
    turn: Turn | None = None,
    problem: str = "",
    status: int = 200,
) -> Response:
    settings = read_settings(visit.store)
    names = list(playground.folders)
    blank = dict.fromkeys(FIELDS, "") | {"mode": "complete", "first": names[-1]}
    blank |= {name: str(Ask.model_fields[name].default) for name in ("temperature", "max_new_tokens", "seed")}
    return site.render(
        "play.html",
        status,
        form={name: escape(text) for name, text in (entered or blank).items()},  # one's own text goes back unchanged
        hides_form=turn is not None and not turn.named,
        models=names,
        modes=playground.modes,
        most={"text": MOST_CHARACTERS, "tokens": MOST_TOKENS, "after": MOST_AFTER},
        turn=turn,
        sides=[_side(site, playground, turn, at, settings.language) for at in range(len(turn.sides))] if turn else [],
        prompt=_prompt(turn.ask, settings.language) if turn else [],
        much_better=settings.much_better,
        problem=problem or (turn.problem if turn else ""),
        **page_values(visit, "play"),
    )


def _prompt(asked: Ask, language: str) -> list[tuple[str, Any]]:
    if asked.mode == "gap":
        return [("before the gap", code(asked.prompt, language)), ("after the gap", code(asked.suffix, language))]
    return prompt_parts(asked.recorded, language)


def _side(site: Site, playground: Playground, turn: Turn, at: int, language: str) -> dict[str, Any]:
    """An answer for the page; what would tell its model only where names may be shown."""
    side, asked = turn.sides[at], turn.ask
    shown = {
        "letter": LETTERS[at],
        "code": code(side.text, language if asked.mode != "chat" else "text"),
        "empty": not side.text,
        "finish": FINISHES.get(side.finish, ""),
        "ran": side.ran,
        "stdout": side.ran.stdout[:SHOWN_OUTPUT] if side.ran else "",
        "stderr": side.ran.stderr[-SHOWN_OUTPUT:] if side.ran else "",
        "after": escape(side.after),
        "trial": None,
        "model": "",
    }
    if side.ran and site.trials is not None and asked.mode == "complete":
        (shown["trial"],) = site.trials.run(asked.prompt, [side.text])
    if turn.named:
        name = asked.models[side.place]
        shown |= {
            "model": name,
            "command": asked.command(playground.folders[name], side.place),
            "second": bool(asked.sample_index(side.place)),
            "pieces": [_piece(text, logprob) for text, logprob in side.pieces],
            "logprob": sum(logprob for _, logprob in side.pieces),
            "tokens": len(side.ids),
        }
    return shown


def _piece(text: str, logprob: float) -> dict[str, Any]:
    """A piece of an answer with how likely it was, in five steps."""
    from math import exp

    share = exp(min(logprob, 0.0))
    step = sum(share < bound for bound in (0.9, 0.5, 0.2, 0.05))
    return {"text": text, "logprob": logprob, "share": share, "step": step}
