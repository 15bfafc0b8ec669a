"""The application: pages put together, people let in, failures told in one line."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from trivium.base.errors import InputError, TriviumError
from trivium.preferences import people
from trivium.preferences.desk import ConflictError
from trivium.preferences.people import Person
from trivium.preferences.progress import progress
from trivium.preferences.store import PreferenceStore
from trivium.preferences.web.access import Address, Guard, Limiter, Pool, Visit, csrf_fits, csrf_token, new_token
from trivium.preferences.web.execution import Trials
from trivium.preferences.web.playground import Playground
from trivium.preferences.web.rendering import environment


@dataclass
class Site:
    """What all requests share."""

    address: Address
    pool: Pool
    templates: Environment = field(default_factory=environment)
    log_ins: Limiter = field(default_factory=lambda: Limiter(5, 15 * 60))
    """By name."""
    comers: Limiter = field(default_factory=lambda: Limiter(30, 15 * 60))
    """By address: log-ins, links and invitations."""
    trials: Trials | None = None
    """Runs answers; None where there are no tests to run."""
    playground: Playground | None = None
    """Models to play with; None where there are none."""
    runs: Limiter = field(default_factory=lambda: Limiter(60, 60))
    """Requests that run answers or models, by session."""
    writes: Limiter = field(default_factory=lambda: Limiter(300, 60))
    """By session."""

    def render(self, name: str, http_status: int = 200, /, **values: Any) -> HTMLResponse:
        """A page."""
        text = self.templates.get_template(name).render(**{"person": None, "csrf": "", "current": "", **values})
        return HTMLResponse(text.encode("utf-8", "replace"), http_status)  # a lone surrogate must not lose the page


def create_app(
    location: str, address: Address, trials: Trials | None = None, playground: Playground | None = None
) -> FastAPI:
    """The page of one store at one address."""
    from trivium.preferences.web import labelling, play, played, team

    site = Site(address, Pool(location), trials=trials, playground=playground)
    site.templates.globals["has_models"] = playground is not None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if playground is not None:
            playground.close()
        if trials is not None:
            trials.close()
        site.pool.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.site = site
    app.add_middleware(Guard, address=address)
    app.mount("/static", _Static(directory=Path(__file__).parent / "static"))
    for router in (entrance, labelling.router, played.router, play.router, team.router):
        app.include_router(router)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(RequestValidationError, _told)
    app.add_exception_handler(TriviumError, _told)
    return app


class _Static(StaticFiles):
    """Files that change with the release only."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "max-age=3600"
        return response


async def _told(request: Request, error: Exception) -> Response:
    """A failure as a page of one sentence."""
    if isinstance(error, RequestValidationError):
        status, text = 404, "There is no such page."
    elif isinstance(error, HTTPException):
        if error.status_code == 303 and error.headers:
            return RedirectResponse(error.headers["location"], 303)
        status, text = error.status_code, str(error.detail)
    else:
        status = 409 if isinstance(error, ConflictError) else 400 if isinstance(error, InputError) else 500
        text = str(error)
    return site_of(request).render("message.html", status, title="That did not work", text=text[:1].upper() + text[1:])


# What handlers ask for


def site_of(request: Request) -> Site:
    """The site that a request is for."""
    return request.app.state.site


def open_store(request: Request) -> Iterator[PreferenceStore]:
    """A store for the length of a request."""
    with site_of(request).pool.store() as store:
        yield store


Stored = Annotated[PreferenceStore, Depends(open_store)]
OfSite = Annotated[Site, Depends(site_of)]


def signed_in(request: Request, store: Stored, site: OfSite) -> Visit:
    """Who asks; those who are not logged in are sent to do so."""
    token = request.cookies.get(site.address.cookie, "")
    found = people.session_person(store, token) if token else None
    if found is None:
        raise HTTPException(303, headers={"location": "/login"})
    return Visit(store, found[0], token, found[1])


Signed = Annotated[Visit, Depends(signed_in)]


async def _read_form(request: Request, most: int) -> FormData:
    """A form as the pages send it. Other encodings name a charset of their own, which need not give text."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Only the page's own forms are read here.")
    return await request.form(max_fields=most)


async def sent_form(request: Request, visit: Signed, site: OfSite) -> FormData:
    """A form of the page's own, not too many of them."""
    if not site.writes.allows(visit.token):
        raise HTTPException(429, "Too many requests in a minute. Wait a little.")
    form = await _read_form(request, 200)
    if not csrf_fits(visit.token, form.get("csrf")):
        raise HTTPException(403, "The page is out of date. Load it again.")
    return form


Form = Annotated[FormData, Depends(sent_form)]


def reviewer(visit: Signed) -> Visit:
    """A reviewer or an owner."""
    if visit.person.role == "annotator":
        raise HTTPException(403, "This page is for reviewers and owners.")
    return visit


def owner(visit: Signed) -> Visit:
    """An owner."""
    if visit.person.role != "owner":
        raise HTTPException(403, "This page is for owners.")
    return visit


Reviewer = Annotated[Visit, Depends(reviewer)]
Owner = Annotated[Visit, Depends(owner)]


def page_values(visit: Visit, current: str) -> dict[str, Any]:
    """What every page of somebody logged in shows."""
    stand = progress(visit.store, visit.person.name)
    return {"person": visit.person, "csrf": visit.csrf, "current": current, "progress": stand}


def text_of(form: FormData, name: str, most: int = 2000) -> str:
    """A text field, newlines as the server has them."""
    value = form.get(name, "")
    if not isinstance(value, str) or len(value) > 2 * most:
        raise HTTPException(400, f"{name} is too long.")
    text = value.replace("\r\n", "\n").strip()
    if len(text) > most:
        raise HTTPException(400, f"{name} is longer than {most:,} characters.")
    return text


# Coming and going

entrance = APIRouter()


@entrance.get("/")
def front() -> Response:
    """The labelling page is the front page."""
    return RedirectResponse("/label", 303)


@entrance.get("/start")
def start(request: Request, store: Stored, site: OfSite, token: str = "") -> Response:
    """The printed link: its token becomes a cookie, once."""
    cookie = request.cookies.get(site.address.cookie, "")
    if cookie and people.session_person(store, cookie):
        return RedirectResponse("/label", 303)
    _slow_down(request, site)
    if not site.address.use_link(token):
        raise HTTPException(403, "This link has been used or is not right. Start the command again for a new one.")
    return _let_in(store, site, people.local_owner(store, site.address.owner))


@entrance.get("/login")
def login_page(request: Request, site: OfSite) -> Response:
    """Name and password, where people log in."""
    if site.address.owner:
        text = "Open the link that the terminal shows; it works once. Starting the command again makes a new one."
        return site.render("message.html", 401, title="Not logged in", text=text)
    return _with_visit(request, site, "login.html", name="", problem="")


@entrance.post("/login")
async def login(request: Request, store: Stored, site: OfSite) -> Response:
    """Let in whoever knows the password."""
    form = await _visitors_form(request, site)
    _slow_down(request, site)
    name = text_of(form, "name", 60)
    if not site.log_ins.allows(name.casefold()):
        raise HTTPException(429, "Too many attempts for this name. Wait a quarter of an hour.")
    person = await run_in_threadpool(people.check_password, store, name, str(form.get("password", ""))[:200])
    if person is None:
        text = "Name or password is not right."
        return _with_visit(request, site, "login.html", 401, name=name, problem=text)
    return _let_in(store, site, person)


@entrance.post("/logout")
def logout(visit: Signed, site: OfSite, _: Form) -> Response:
    """End the session."""
    people.close_session(visit.store, visit.token)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(site.address.cookie)
    return response


@entrance.get("/join/{token}")
def join_page(request: Request, store: Stored, site: OfSite, token: str) -> Response:
    """What an invitation's link shows."""
    _slow_down(request, site)
    found = people.invitation(store, token)
    if found is None:
        raise HTTPException(404, "This invitation has been used or has run out. Ask for a new one.")
    return _with_visit(request, site, "join.html", role=found["role"], token=token, name="", problem="")


@entrance.post("/join/{token}")
async def join(request: Request, store: Stored, site: OfSite, token: str) -> Response:
    """Become a person by an invitation."""
    form = await _visitors_form(request, site)
    _slow_down(request, site)
    name = text_of(form, "name", 60)
    try:
        person = await run_in_threadpool(people.accept, store, token, name, str(form.get("password", "")))
    except InputError as error:
        problem = str(error)[:1].upper() + str(error)[1:]
        return _with_visit(request, site, "join.html", 400, role="", token=token, name=name, problem=problem)
    return _let_in(store, site, person)


def _slow_down(request: Request, site: Site) -> None:
    if not site.comers.allows(request.client.host if request.client else ""):
        raise HTTPException(429, "Too many attempts from this address. Wait a quarter of an hour.")


def _let_in(store: PreferenceStore, site: Site, person: Person) -> Response:
    response = RedirectResponse("/label", 303)
    token = people.open_session(store, person.name)
    _set_cookie(response, site, site.address.cookie, token, people.SESSION_DAYS * 86400)
    return response


def _set_cookie(response: Response, site: Site, name: str, value: str, seconds: int) -> None:
    response.set_cookie(name, value, seconds, httponly=True, samesite="lax", secure=site.address.secure)


def _with_visit(request: Request, site: Site, page: str, status: int = 200, **values: Any) -> Response:
    """A page with a form for somebody who has no session yet: its CSRF token belongs to a cookie of its own."""
    name = f"{site.address.cookie}_visit"
    secret = request.cookies.get(name) or new_token()
    response = site.render(page, status, csrf=csrf_token(secret), **values)
    _set_cookie(response, site, name, secret, 3600)
    return response


async def _visitors_form(request: Request, site: Site) -> FormData:
    form = await _read_form(request, 20)
    if not csrf_fits(request.cookies.get(f"{site.address.cookie}_visit", ""), form.get("csrf")):
        raise HTTPException(403, "The page is out of date. Load it again.")
    return form


def link(path: str, **query: str) -> str:
    """A path with a query."""
    return path + ("?" + "&".join(f"{name}={quote(value)}" for name, value in query.items() if value) if query else "")
