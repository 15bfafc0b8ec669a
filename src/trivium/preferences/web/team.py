"""`/stats` for everybody, `/export` for reviewers, `/admin` for owners."""

import tempfile
from pathlib import Path
from typing import Any, cast

from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse, RedirectResponse, Response
from pydantic import ValidationError
from starlette.background import BackgroundTask
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from trivium.base.errors import DataError
from trivium.preferences import audit, people
from trivium.preferences.agreement import MIN_N, Coefficient
from trivium.preferences.comparisons import fill, set_gold
from trivium.preferences.desk import LabellingDesk
from trivium.preferences.disagreement import ask_another, disagreements
from trivium.preferences.export import ExportForm, Selection, export_preferences
from trivium.preferences.judgement import PLAY_SOURCE, Judgement
from trivium.preferences.statistics import (
    agreement_coefficients,
    criteria_coefficients,
    model_strengths,
    preference_stats,
    shared_labels,
)
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import HUMAN, Criterion, LabelSettings
from trivium.preferences.web.access import Visit
from trivium.preferences.web.app import Form, OfSite, Owner, Reviewer, Signed, Site, owner, page_values, text_of
from trivium.preferences.web.figures import person_figures
from trivium.preferences.web.rendering import code, prompt_parts

router = APIRouter()

FORMS = {
    "full": ("Everything, one judgement a line (JSONL)", "jsonl", "application/jsonl"),
    "full-table": ("Everything (Parquet)", "parquet", "application/vnd.apache.parquet"),
    "pairs": ("Plain pairs (JSONL)", "jsonl", "application/jsonl"),
    "pairs-table": ("Plain pairs (Parquet)", "parquet", "application/vnd.apache.parquet"),
    "log": ("The raw log (CSV)", "csv", "text/csv; charset=utf-8"),
}
"""What can be downloaded: title, suffix and media type."""
WARN_BELOW = MIN_N
"""Shares over fewer are marked as uncertain."""
COEFFICIENTS = {
    "raw": "Equal rankings",
    "cohen_kappa": "Cohen’s κ",
    "fleiss_kappa": "Fleiss’ κ",
    "krippendorff_alpha": "Krippendorff’s α (nominal)",
}


@router.get("/stats")
def stats(visit: Signed, site: OfSite) -> Response:
    """Counts: everybody's for reviewers, one's own for annotators."""
    everybody = visit.person.role != "annotator"
    names = [each.name for each in people.people(visit.store)] if everybody else [visit.person.name]
    rows = [figures for name in names if (figures := person_figures(visit.store, name)).judged or not everybody]
    states = visit.store.db.rows(
        """
        SELECT COUNT(*) AS every, SUM(CASE WHEN judged > 0 THEN 1 ELSE 0 END) AS begun,
            SUM(CASE WHEN judged >= wanted THEN 1 ELSE 0 END) AS finished FROM comparisons WHERE active = 1
        """
    )[0]
    return site.render(
        "stats.html",
        rows=rows,
        everybody=everybody,
        comparisons={name: value or 0 for name, value in states.items()},
        store=preference_stats(visit.store, agreement=False) if everybody else None,
        coefficients=_coefficients(visit.store) if everybody else [],
        strengths=model_strengths(visit.store, (HUMAN, PLAY_SOURCE)) if everybody else {},
        warn_below=WARN_BELOW,
        **page_values(visit, "stats"),
    )


def _coefficients(store: PreferenceStore) -> list[tuple[str, Coefficient]]:
    """How far people agree, under the names that the page shows."""
    found = agreement_coefficients(shared_labels(store, HUMAN))
    asked = {each.name: each.label for each in audit.read_settings(store).criteria}
    rows = [(title, found[name]) for name, title in COEFFICIENTS.items() if name in found]
    return rows + [
        (f"α of “{asked.get(name, name)}” (ordinal)", each)
        for name, each in criteria_coefficients(store, HUMAN).items()
    ]


@router.get("/disagreements")
def disagreement_page(visit: Reviewer, site: OfSite, said: str = "") -> Response:
    """Comparisons that people judged differently; answers are numbered as they lie in the store."""
    language = audit.read_settings(visit.store).language
    rows = [
        {
            "id": each.comparison.id,
            "asked": each.asked,
            "prompt": prompt_parts(each.comparison.prompt, language),
            "answers": [code(sample.text, language) for sample in each.comparison.samples],
            "said": [(said.annotator, _in_words(said), said.comment) for said in each.judgements],
        }
        for each in disagreements(visit.store)
    ]
    told = "One person more will be asked." if said else ""
    return site.render("disagreements.html", rows=rows, said=told, **page_values(visit, "stats"))


@router.post("/disagreements")
def ask_one_more(visit: Reviewer, form: Form) -> Response:
    """Have somebody else judge a comparison."""
    ask_another(visit.store, text_of(form, "comparison", 64), by=visit.person.name)
    return RedirectResponse("/disagreements?said=asked", 303)


def _in_words(judgement: Judgement) -> str:
    """A ranking by the answers' numbers; both bad is no ordinary tie."""
    text = " > ".join(" = ".join(str(index + 1) for index in tier) for tier in judgement.ranking)
    return f"{text} (both bad)" if judgement.details.get("choice") == "both_bad" else text


@router.get("/export")
def export_page(visit: Reviewer, site: OfSite) -> Response:
    """What can be downloaded."""
    return site.render("export.html", forms=FORMS, human=HUMAN, offered=_offered(visit), **page_values(visit, "export"))


def _offered(visit: Visit) -> dict[str, dict[str, str]]:
    """What exports can be narrowed to: per field its values with their titles, people under their pseudonyms."""
    rows = visit.store.db.rows("SELECT DISTINCT annotator, source FROM judgements ORDER BY source, annotator")
    alias = people.pseudonyms(visit.store)
    versions = {str(each.judgement.details.get("guidelines", "")) for each in visit.store.judgements(history=True)}
    return {
        "source": {row["source"]: row["source"] for row in rows if row["source"]},
        "annotator": {
            shown: f"{shown} ({name})" if visit.person.role == "owner" and shown != name else shown
            for name, shown in sorted(alias.items(), key=lambda item: (len(item[1]), item[1]))
            if any(row["annotator"] == name for row in rows)
        },
        "guideline": {each: f"version {each}" for each in sorted(versions - {""}, key=lambda each: (len(each), each))},
        "split": {each: each for each in ("train", "heldout")},
        "ties": {"keep": "kept", "drop": "dropped"},
    }


@router.get("/export/file")
def export_file(
    visit: Reviewer,
    form: str = "full",
    source: str = "",
    annotator: str = "",
    guideline: str = "",
    min_agreement: str = "",
    split: str = "",
    ties: str = "keep",
    names: str = "",
) -> Response:
    """A file of judgements; annotators are pseudonyms unless their names are asked for."""
    asked = {"source": source, "annotator": annotator, "guideline": guideline, "split": split, "ties": ties}
    offered = _offered(visit)
    for field, value in asked.items():
        if value and value not in offered[field]:
            raise HTTPException(400, f"There are no judgements with {field} {value[:40]!r}.")
    if form not in FORMS:
        raise HTTPException(400, "There is no such form of export.")
    if names and visit.person.role != "owner":
        raise HTTPException(403, "Names are for owners.")
    kind, (_, suffix, media) = form.removesuffix("-table"), FORMS[form]
    selection = Selection(
        source=source or None,
        annotator=annotator or None,
        guideline=int(guideline) if guideline else None,
        min_agreement=_share(min_agreement) if min_agreement else None,
        split=split or None,
        ties=ties != "drop",
    )
    audit.record(visit.store, visit.person.name, "export", form, **asked, agreement=min_agreement, names=bool(names))
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / f"preferences.{suffix}"
    export_preferences(visit.store, path, cast(ExportForm, kind), selection, names=bool(names))
    headers = {"content-disposition": f'attachment; filename="{path.name}"'}
    return FileResponse(path, media_type=media, headers=headers, background=BackgroundTask(folder.cleanup))


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise HTTPException(400, "The least agreement is a share from 0 to 1.")
    return value


# The owner's page

admin = APIRouter(prefix="/admin", dependencies=[Depends(owner)])


def _admin_page(visit: Visit, site: Site, status: int = 200, **values: Any) -> Response:
    shown = {"said": "", "problem": "", "invited": ""} | values
    return site.render(
        "admin.html",
        status,
        people=people.people(visit.store),
        roles=people.ROLES,
        invitations=people.open_invitations(visit.store),
        settings=audit.read_settings(visit.store),
        guidelines=audit.read_guidelines(visit.store),
        trail=audit.trail(visit.store, 50),
        mine=_gold_candidates(visit),
        **shown,
        **page_values(visit, "admin"),
    )


@admin.get("")
def admin_page(visit: Owner, site: OfSite, said: str = "") -> Response:
    """People, settings, guidelines, gold and the trail."""
    known = {"settings": "Settings saved.", "guidelines": "Guidelines saved.", "person": "Changed.", "gold": "Changed."}
    return _admin_page(visit, site, said=known.get(said, ""))


@admin.post("/invite")
def invite(visit: Owner, site: OfSite, form: Form) -> Response:
    """Make an invitation; its link is shown this once."""
    role = text_of(form, "role", 20)
    if role not in people.ROLES:
        raise HTTPException(400, "There is no such role.")
    token = people.invite(visit.store, role, by=visit.person.name)
    return _admin_page(visit, site, invited=f"{sorted(site.address.origins)[0]}/join/{token}")


@admin.post("/person")
def change_person(visit: Owner, form: Form) -> Response:
    """Another role, or shut out."""
    role = text_of(form, "role", 20)
    if role not in people.ROLES:
        raise HTTPException(400, "There is no such role.")
    name = text_of(form, "name", 60)
    people.change_person(visit.store, name, role=role, active=bool(form.get("active")), by=visit.person.name)
    return RedirectResponse("/admin?said=person", 303)


@admin.post("/password")
def change_password(visit: Owner, site: OfSite, form: Form) -> Response:
    """Set one's own password; every session of one's own ends but a new one for this browser."""
    people.set_password(visit.store, visit.person.name, str(form.get("password", "")), by=visit.person.name)
    response = RedirectResponse("/admin?said=person", 303)
    token = people.open_session(visit.store, visit.person.name)
    seconds = people.SESSION_DAYS * 86400
    response.set_cookie(site.address.cookie, token, seconds, httponly=True, samesite="lax", secure=site.address.secure)
    return response


@admin.post("/settings")
def change_settings(visit: Owner, site: OfSite, form: Form) -> Response:
    """New settings; the queue follows them."""
    try:
        settings = _settings(form, audit.read_settings(visit.store))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _admin_page(visit, site, 422, problem=f"{where}: {first['msg']}")
    audit.write_settings(visit.store, settings, visit.person.name)
    fill(visit.store)
    return RedirectResponse("/admin?said=settings", 303)


@admin.post("/guidelines")
def change_guidelines(visit: Owner, form: Form) -> Response:
    """A new version of the guidelines."""
    text = text_of(form, "text", 20_000)
    if not text:
        raise DataError("the guidelines are empty. Write a sentence at least.")
    audit.write_guidelines(visit.store, text, visit.person.name)
    return RedirectResponse("/admin?said=guidelines", 303)


@admin.post("/gold")
def change_gold(visit: Owner, form: Form) -> Response:
    """Make what I said about a comparison its known answer, or take that back."""
    held = LabellingDesk(visit.store).assignment(visit.person.name, text_of(form, "assignment", 40))
    if form.get("remove"):
        set_gold(visit.store, held.comparison.id, None, by=visit.person.name)
    elif held.state == "judged":
        said = visit.store.judgement(held.judgement)
        set_gold(visit.store, held.comparison.id, said.ranking, by=visit.person.name)
    return RedirectResponse("/admin?said=gold", 303)


def _gold_candidates(visit: Visit) -> list[dict[str, Any]]:
    mine = [held for held in LabellingDesk(visit.store).history(visit.person.name, 20) if held.state == "judged"]
    return [{"id": held.id, "number": held.number, "gold": held.comparison.gold is not None} for held in mine]


def _settings(form: FormData, old: LabelSettings) -> LabelSettings:
    """The settings in a form; criteria come one a line: `name: label`, with `*` at the end where required."""
    criteria = []
    for line in text_of(form, "criteria", 4000).split("\n"):
        if line.strip():
            name, _, label = line.partition(":")
            required = label.rstrip().endswith("*")
            criteria.append(
                Criterion(name=name.strip(), label=label.strip().rstrip("*").strip() or name.strip(), required=required)
            )
    fields = ("completions", "execution", "overlap_share", "overlap", "repeat_share", "gold_share", "lease_minutes")
    values: dict[str, Any] = {
        name: text_of(form, name, 20) for name in (*fields, "order", "language") if form.get(name)
    }
    names = tuple(name.strip() for name in text_of(form, "model_names", 2000).split(",") if name.strip())
    ticked = {name: bool(form.get(name)) for name in ("much_better", "play")}
    values |= {"criteria": criteria, "model_names": names, **ticked}
    return LabelSettings.model_validate(old.model_dump() | values)


router.include_router(admin)
