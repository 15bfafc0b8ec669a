"""Judgements out of the store: as JSON lines or Parquet in pair or ranking form, or the raw log as CSV.

The same content gives the same bytes: records are sorted by what they say, never by when they came.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from trivium.base.errors import ConfigError
from trivium.base.files import atomic_path
from trivium.base.jsonl import write_json_records
from trivium.preferences.judgement import CHECK_SOURCE, Judgement, Prompt, Sample, judged_pairs, prompt_text
from trivium.preferences.people import pseudonyms, shown_name
from trivium.preferences.rows import StoredJudgement
from trivium.preferences.statistics import agreement_shares
from trivium.preferences.store import PreferenceStore
from trivium.preferences.tables import write_table

ExportForm = Literal["full", "pairs", "rankings", "log"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which judgements are written; by default all."""

    split: str | None = None
    source: str | None = None
    round: int | None = None
    annotator: str | None = None
    """One annotator's, by name or by pseudonym."""
    min_agreement: float | None = None
    """Where at least this share of the annotators agree; see `agreement_shares`. What only one judged has none."""
    guideline: int | None = None
    """Given under this version of the page's guidelines."""
    ties: bool = True
    """Ties too, or only what prefers an answer to another."""


@dataclass
class ExportReport:
    """What an export wrote and left out."""

    records: int = 0
    ties: int = 0
    """Ties, written or dropped as the selection says: pairs, or judgements that only name equals."""
    unknown_agreement: int = 0
    """Judgements left out because nobody else judged the same answers, though an agreement was asked for."""

    def lines(self, selection: Selection) -> list[str]:
        """The report as sentences."""
        kept = f", {self.ties} of them ties" if selection.ties else f"; {self.ties} ties dropped"
        text = [f"{self.records} records{kept if self.ties or not selection.ties else ''}"]
        if self.unknown_agreement:
            text.append(
                f"{self.unknown_agreement} judgements of one annotator alone, whose agreement is unknown, left out"
            )
        return text


ALL = Selection()


def export_preferences(
    store: PreferenceStore,
    path: Path | str,
    form: ExportForm = "full",
    selection: Selection = ALL,
    *,
    names: bool = True,
) -> ExportReport:
    """Write judgements in force: `.parquet` as a table, else JSON lines (`.gz` by suffix), the log as CSV.

    Args:
        store: what to read.
        path: where to; the file appears whole.
        form: `full` keeps everything, so that importing the file rebuilds the judgements: pairs of plain texts in pair
            form, others in ranking form. `rankings` is the same with all in ranking form, as `full` is in a table.
            `pairs` spells rankings out for other tools, and leaves out what `judged_pairs` leaves out and judgements
            that check people; agreement is filled in where several judged. `log` has one row a judgement ever made,
            with what was superseded and retracted.
        selection: which judgements.
        names: annotators by name; otherwise by pseudonym.
    Raises:
        ConfigError: the suffix does not fit the form.
    """
    suffix = Path(path).suffix
    if (form == "log" and suffix == ".parquet") or (form != "log" and suffix == ".csv"):
        raise ConfigError(
            f"{path}: the log is written as CSV, other forms as JSON lines or Parquet. "
            f"Name a {'.csv' if form == 'log' else '.jsonl or .parquet'} file, or another form."
        )
    report, alias = ExportReport(), pseudonyms(store)
    chosen = _select(store, selection, report, alias, history=form == "log")
    shown = {} if names else alias
    if form == "log":
        _write_log(Path(path), chosen, selection, report, shown)
        return report
    if form == "pairs":
        records = _pair_records(store, chosen, selection, report, shown)
    else:
        plain = form == "full" and suffix != ".parquet"
        records = _full_records(chosen, selection, report, shown, plain)
    if suffix == ".parquet":
        write_table(path, "pairs" if form == "pairs" else "rankings", records)
    else:
        write_json_records(path, records)
    return report


def _select(
    store: PreferenceStore, selection: Selection, report: ExportReport, alias: Mapping[str, str], *, history: bool
) -> Iterator[StoredJudgement]:
    """The judgements of a selection, in the order of the store; ties are the business of the form."""
    shares = agreement_shares(store) if selection.min_agreement is not None else {}
    rows = store.judgements(selection.split, selection.source, selection.round, history=history)
    for stored in rows:
        said = stored.judgement
        if selection.annotator not in (None, said.annotator, shown_name(said, alias)):
            continue
        if selection.guideline is not None and said.details.get("guidelines") != selection.guideline:
            continue
        if selection.min_agreement is not None:
            share = shares.get(stored.key) if said.agreement is None else said.agreement
            if share is None:
                report.unknown_agreement += 1
            if share is None or share < selection.min_agreement:
                continue
        yield stored


def _keeps(tie: bool, selection: Selection, report: ExportReport) -> bool:
    report.ties += tie
    kept = selection.ties or not tie
    report.records += kept
    return kept


def _is_tie(judgement: Judgement) -> bool:
    return len(judgement.ranking) == 1 and len(judgement.ranking[0]) > 1


def _full_records(
    chosen: Iterable[StoredJudgement],
    selection: Selection,
    report: ExportReport,
    shown: Mapping[str, str],
    plain: bool,
) -> Iterator[dict[str, Any]]:
    def place(stored: StoredJudgement) -> tuple[str, str, str]:
        said = stored.judgement
        return prompt_text(said.prompt), said.source, said.id

    for _, group in groupby(chosen, place):  # the store's order, but for what it orders by its own names
        kept = [each.judgement for each in group if _keeps(_is_tie(each.judgement), selection, report)]
        yield from sorted((_record(said, shown_name(said, shown), plain) for said in kept), key=_line)


def _pair_records(
    store: PreferenceStore,
    chosen: Iterable[StoredJudgement],
    selection: Selection,
    report: ExportReport,
    shown: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    shares = agreement_shares(store)

    def place(stored: StoredJudgement) -> tuple[str, str]:
        return prompt_text(stored.judgement.prompt), stored.judgement.source

    for (_, source), group in groupby(chosen, place):
        if source == CHECK_SOURCE and selection.source is None:
            continue
        records = []
        for stored in group:
            share = {} if stored.judgement.agreement is not None else {"agreement": shares.get(stored.key)}
            name = {"annotator": shown_name(stored.judgement, shown)}
            pairs = (pair for pair in judged_pairs(stored.judgement) if _keeps(pair.tie, selection, report))
            records += [pair.model_copy(update=share | name).model_dump(exclude_defaults=True) for pair in pairs]
        yield from sorted(records, key=lambda record: (record.get("id", ""), _line(record)))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)


def _record(judgement: Judgement, annotator: str, plain: bool) -> dict[str, Any]:
    """The judgement as a record, defaults left out; what it superseded is history and stays in the store.

    Args:
        plain: in pair form where that says it all.
    """
    names = ("source", "annotator", "split", "margin", "agreement", "comment", "details")
    values = {name: getattr(judgement, name) for name in names} | {"annotator": annotator}
    common = {name: value for name, value in values.items() if value not in (None, "", {})}
    head = {"id": judgement.id} if judgement.id else {}
    prompt = _prompt_value(judgement.prompt)
    if not (plain and _is_plain_pair(judgement)):
        return {
            **head,
            "prompt": prompt,
            "completions": [_answer(sample) for sample in judgement.completions],
            "ranking": judgement.ranking,
            **common,
        }
    chosen, rejected = judgement.completions
    outcomes = {"chosen_passed": chosen.passed, "rejected_passed": rejected.passed}
    return {
        **head,
        "prompt": prompt,
        "chosen": chosen.text,
        "rejected": rejected.text,
        **({"tie": True} if len(judgement.ranking) == 1 else {}),
        **{name: value for name, value in outcomes.items() if value is not None},
        **common,
    }


def _is_plain_pair(judgement: Judgement) -> bool:
    """Whether the pair form says it all: two texts, the first at least as good, nothing known but whether they pass."""
    return judgement.tiers in ((0, 1), (0, 0)) and all(
        sample == Sample(text=sample.text, passed=sample.passed) for sample in judgement.completions
    )


def _answer(sample: Sample) -> dict[str, Any]:
    return {"text": sample.text, **sample.model_dump(mode="json", exclude_defaults=True)}


def _prompt_value(prompt: Prompt) -> Any:
    return prompt if isinstance(prompt, str) else [message.model_dump() for message in prompt]


# The log

LOG_COLUMNS = (
    *("key", "created", "annotator", "source", "record", "split", "ranking", "margin", "comment", "supersedes"),
    "details",
)


def _write_log(
    path: Path,
    chosen: Iterable[StoredJudgement],
    selection: Selection,
    report: ExportReport,
    shown: Mapping[str, str],
) -> None:
    """One judgement a row, in the order in which they were made."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(LOG_COLUMNS)
        for stored in sorted(chosen, key=lambda each: (each.created, each.key)):
            said = stored.judgement
            if not _keeps(_is_tie(said), selection, report):
                continue
            values = (stored.key, stored.created, shown_name(said, shown), said.source, said.id, said.split)
            rest = (json.dumps(said.ranking), said.margin, said.comment, said.supersedes, json.dumps(said.details))
            table.writerow([_harmless(value) for value in (*values, *rest)])


def _harmless(value: Any) -> Any:
    """Spreadsheets run cells that begin like formulas: what people wrote does not begin so."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
