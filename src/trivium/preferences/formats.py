"""Preference files into the store: each record checked, and named when it is bad. `export` writes them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trivium.base.errors import DataError
from trivium.base.jsonl import read_json_records
from trivium.preferences.dialects import parse_record
from trivium.preferences.fields import FieldError
from trivium.preferences.judgement import Judgement, judged_pairs
from trivium.preferences.statistics import contradictions
from trivium.preferences.store import PreferenceStore
from trivium.preferences.tables import read_table


@dataclass(frozen=True)
class ImportReport:
    """What an import brought, and what it left out."""

    path: str
    records: int
    """Records read, bad ones not counted."""
    judgements: int
    """Judgements that are new in the store."""
    duplicates: int
    """Judgements that the store held already, or that the file repeats."""
    kept_split: int
    """Records that ask for another split than the one their prompt is in already."""
    pairs: dict[str, int]
    """Pairs read (`pairs`, `ties`) and pairs that no training will use (`equal`, `empty`, `ids_only`)."""
    contradictions: int
    """Pairs of answers that the store now holds judged both ways."""
    skipped: tuple[str, ...] = ()
    """Where and why bad records were left out."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Fields that the record form does not know, and how often they came."""

    def lines(self) -> list[str]:
        """The report as sentences, most important first."""
        pairs = Counter(self.pairs)
        text = [
            f"{self.path}: {self.records} records, {self.judgements} new judgements, "
            f"{self.duplicates} there already or repeated"
        ]
        if self.skipped:
            text.append(f"{len(self.skipped)} bad records skipped, the first: {self.skipped[0]}")
        text.append(
            f"{pairs['pairs']} pairs and {pairs['ties']} ties to learn from; left out of training: {pairs['equal']} "
            f"of equal answers, {pairs['empty']} with an empty one, {pairs['ids_only']} without text"
        )
        if self.contradictions:
            text.append(f"{self.contradictions} pairs of answers are judged both ways")
        if self.kept_split:
            text.append(f"{self.kept_split} records name another split than their prompt's; the prompt's was kept")
        if self.ignored:
            names = ", ".join(f"{name} ({count})" for name, count in sorted(self.ignored.items()))
            text.append(f"fields that were not used: {names}")
        return text


def import_preferences(
    path: Path | str, store: PreferenceStore, on_error: Literal["stop", "skip"] = "stop"
) -> ImportReport:
    """Read a preference file into the store, whole or not at all.

    Files are JSONL (`.gz`, `.zst`), a `.json` array or a `.parquet` table, in any form of `DIALECTS`, mixed if need be.
    Importing a file again adds nothing.

    Args:
        path: the file.
        store: where judgements go.
        on_error: `stop` raises at the first bad record and leaves the store as it was; `skip` lists them.
    Raises:
        DataError: names file, line, field and reason.
    """
    records = 0
    skipped: list[str] = []
    ignored: Counter[str] = Counter()
    pairs: Counter[str] = Counter()

    def judgements() -> Iterator[Judgement]:
        nonlocal records
        for record in read_table(path) if Path(path).suffix == ".parquet" else read_json_records(path):
            try:
                if record.problem:
                    raise FieldError("", record.problem)
                parsed = parse_record(record.value)
            except FieldError as error:
                if on_error == "stop":
                    raise DataError(
                        f'{record.where}: {error}. Correct the record, or leave bad ones out with on_error = "skip".'
                    ) from None
                skipped.append(f"{record.where}: {error}")
                continue
            records += 1
            ignored.update(parsed.ignored)
            for judgement in parsed.judgements:
                pairs.update(_pair_counts(judgement))
                yield judgement

    with store.transaction():
        added = store.add_judgements(judgements())
        if not added.keys:
            first = f" The first of {len(skipped)} bad records: {skipped[0]}." if skipped else ""
            raise DataError(f"{path} holds no preference.{first} Name a file of comparisons.")
    return ImportReport(
        path=str(path),
        records=records,
        judgements=added.new,
        duplicates=added.duplicates,
        kept_split=added.kept_split,
        pairs=dict(pairs),
        contradictions=contradictions(store),
        skipped=tuple(skipped),
        ignored=dict(ignored),
    )


def _pair_counts(judgement: Judgement) -> Counter[str]:
    counts: Counter[str] = Counter()
    for _ in judged_pairs(judgement, counts):
        pass
    return counts
