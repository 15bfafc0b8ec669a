"""Preferences that cannot be learned from, and stores that hold something else."""

import sqlite3

from bench import PAIR, Arrange, Case, add, case, cut, fifo, folder, lines, put, remove, trivium

RUN = "run mine.toml --name fresh"
RANKING = {"prompt": "p", "completions": ["a", "b"], "ranking": [[0], [1]]}


def sql(path: str, *statements: str) -> Arrange:
    """Change a SQLite file."""

    def arrange() -> None:
        database = sqlite3.connect(path)
        for statement in statements:
            database.execute(statement)
        database.commit()
        database.close()

    return arrange


def bad(title: str, told: str, *records: object) -> Case:
    """Bad records behind good ones."""
    return case(title, told, RUN, add("preferences.jsonl", *records))


STORE = "runs/mine/preferences.db"
STUDIO = {
    "data": {"prompt": "p", "x": "a", "y": "b", "z": "c"},
    "annotations": [{"result": [{"type": "pairwise", "value": {"selected": "left"}}]}],
}
"""A task of Label Studio with one answer too many."""

CASES = [
    case(
        "a file that is not there",
        "preferences.jsonl does not exist. Check the path.",
        RUN,
        remove("preferences.jsonl"),
    ),
    case(
        "a folder",
        "preferences.jsonl is a folder, expected a file. Name a file in it.",
        RUN,
        folder("preferences.jsonl"),
    ),
    case(
        "a pipe",
        "preferences.jsonl is a pipe or a device, which cannot be read twice. Write its content to a file first.",
        RUN,
        fifo("preferences.jsonl"),
    ),
    case(
        "an empty file",
        "preferences.jsonl holds no preference. Name a file of comparisons.",
        RUN,
        put("preferences.jsonl", ""),
    ),
    bad(
        "a line that is no JSON",
        'preferences.jsonl:25: is not JSON: …. Correct the record, or leave bad ones out with on_error = "skip".',
        "chosen over rejected",
    ),
    bad(
        "a list",
        "preferences.jsonl:25: should be an object with prompt, chosen and rejected, is [1, 2]. Correct "
        'the record, or leave bad ones out with on_error = "skip".',
        [1, 2],
    ),
    bad(
        "a number",
        "preferences.jsonl:25: should be an object with prompt, chosen and rejected, is 7. Correct the "
        'record, or leave bad ones out with on_error = "skip".',
        7,
    ),
    bad(
        "null",
        "preferences.jsonl:25: should be an object with prompt, chosen and rejected, is null. Correct "
        'the record, or leave bad ones out with on_error = "skip".',
        None,
    ),
    bad(
        "an empty record",
        "preferences.jsonl:25: prompt: is missing from the pair form (prompt, chosen, rejected); the "
        'record has no fields. Correct the record, or leave bad ones out with on_error = "skip".',
        {},
    ),
    bad(
        "no rejected answer",
        "preferences.jsonl:25: rejected: is missing from the pair form (prompt, chosen, rejected); the "
        'record has prompt, chosen. Correct the record, or leave bad ones out with on_error = "skip".',
        {"prompt": "a", "chosen": "b"},
    ),
    bad(
        "a near miss of a field",
        "preferences.jsonl:25: rejected: is missing from the pair form (prompt, chosen, rejected); is it "
        "the one named 'reject'?. Correct the record, or leave bad ones out with on_error = \"skip\".",
        {"prompt": "a", "chosen": "b", "reject": "c"},
    ),
    bad(
        "an answer that is a number",
        "preferences.jsonl:25: chosen: should be a valid string, is 3. Correct the record, or leave bad "
        'ones out with on_error = "skip".',
        {**PAIR, "chosen": 3},
    ),
    bad(
        "a prompt that is null",
        "preferences.jsonl:25: prompt: should be a valid string, is null. Correct the record, or leave "
        'bad ones out with on_error = "skip".',
        {**PAIR, "prompt": None},
    ),
    bad(
        "a prompt of no messages",
        "preferences.jsonl:25: prompt: list should have at least 1 item after validation, not 0, is []. "
        'Correct the record, or leave bad ones out with on_error = "skip".',
        {**PAIR, "prompt": []},
    ),
    bad(
        "a message without a role",
        "preferences.jsonl:25: prompt[0].role: field required, is {'content': 'a'}. Correct the record, "
        'or leave bad ones out with on_error = "skip".',
        {**PAIR, "prompt": [{"content": "a"}]},
    ),
    bad(
        "a negative margin",
        "preferences.jsonl:25: margin: should be greater than or equal to 0, is -1. Correct the record, "
        'or leave bad ones out with on_error = "skip".',
        {**PAIR, "margin": -1},
    ),
    bad(
        "a margin that is text",
        "preferences.jsonl:25: margin: should be a valid number, is 'big'. Correct the record, or leave "
        'bad ones out with on_error = "skip".',
        {**PAIR, "margin": "big"},
    ),
    bad(
        "an agreement above 1",
        "preferences.jsonl:25: agreement: should be less than or equal to 1, is 2. Correct the record, "
        'or leave bad ones out with on_error = "skip".',
        {**PAIR, "agreement": 2},
    ),
    bad(
        "an unknown split",
        "preferences.jsonl:25: split: should be '', 'train' or 'heldout', is 'test'. Correct the record, "
        'or leave bad ones out with on_error = "skip".',
        {**PAIR, "split": "test"},
    ),
    bad(
        "a tie that is a text",
        "preferences.jsonl:25: tie: should be a valid boolean, is 'yes'. Correct the record, or leave "
        'bad ones out with on_error = "skip".',
        {**PAIR, "tie": "yes"},
    ),
    bad(
        "a ranking out of range",
        "preferences.jsonl:25: ranking names completion 2, but there are 2 (0 first). Correct the "
        'record, or leave bad ones out with on_error = "skip".',
        {**RANKING, "ranking": [[0], [2]]},
    ),
    bad(
        "a ranking below 0",
        "preferences.jsonl:25: ranking names completion -1, but there are 2 (0 first). Correct the "
        'record, or leave bad ones out with on_error = "skip".',
        {**RANKING, "ranking": [[0], [-1]]},
    ),
    bad(
        "a ranking that repeats",
        "preferences.jsonl:25: ranking names completion 0 twice. Correct the record, or leave bad ones "
        'out with on_error = "skip".',
        {**RANKING, "ranking": [[0], [0]]},
    ),
    bad(
        "a ranking with an empty tier",
        "preferences.jsonl:25: ranking has an empty tier. Correct the record, or leave bad ones out with "
        'on_error = "skip".',
        {**RANKING, "ranking": [[0], [], [1]]},
    ),
    bad(
        "a ranking of numbers",
        "preferences.jsonl:25: ranking[0]: should be a valid list, is 0. Correct the record, or leave "
        'bad ones out with on_error = "skip".',
        {**RANKING, "ranking": [0, 1]},
    ),
    bad(
        "no ranking",
        "preferences.jsonl:25: ranking: list should have at least 1 item after validation, not 0, is []. "
        'Correct the record, or leave bad ones out with on_error = "skip".',
        {**RANKING, "ranking": []},
    ),
    bad(
        "one answer",
        "preferences.jsonl:25: completions: list should have at least 2 items after validation, not 1, "
        "is ['a']. Correct the record, or leave bad ones out with on_error = \"skip\".",
        {**RANKING, "completions": ["a"]},
    ),
    bad(
        "answers that are numbers",
        "preferences.jsonl:25: completions[0]: should be a text, or an object with text or ids, is 1. "
        'Correct the record, or leave bad ones out with on_error = "skip".',
        {**RANKING, "completions": [1, 2]},
    ),
    bad(
        "ids out of range",
        "preferences.jsonl:25: completions[0].ids[0]: should be greater than or equal to 0, is -1. "
        'Correct the record, or leave bad ones out with on_error = "skip".',
        {**RANKING, "completions": [{"text": "a", "ids": [-1]}, {"text": "b"}]},
    ),
    bad(
        "ids beyond counting",
        "preferences.jsonl:25: completions[0].ids[0]: should be less than 2147483648, is "
        "1000000000000000000000000000000. Correct the record, or leave bad ones out with on_error = "
        '"skip".',
        {**RANKING, "completions": [{"text": "a", "ids": [10**30]}, {"text": "b"}]},
    ),
    bad(
        "a round beyond counting",
        "preferences.jsonl:25: completions[0].round: should be less than 2147483648, is "
        "1000000000000000000000000000000. Correct the record, or leave bad ones out with on_error = "
        '"skip".',
        {**RANKING, "completions": [{"text": "a", "round": 10**30}, {"text": "b"}]},
    ),
    bad(
        "half a surrogate pair",
        "preferences.jsonl:25: chosen: holds half a surrogate pair (\\ud800 to \\udfff), which is no text. "
        'Correct the record, or leave bad ones out with on_error = "skip".',
        '{"prompt": "a", "chosen": "\\ud800", "rejected": "c"}',
    ),
    bad(
        "a vote out of range",
        "preferences.jsonl:25: annotator1: should be 0, 1 or 2, is 3. Correct the record, or leave bad "
        'ones out with on_error = "skip".',
        {"instruction": "a", "input": "", "response1": "b", "response2": "c", "annotator1": 3},
    ),
    bad(
        "a vote that is a list",
        "preferences.jsonl:25: annotator1: should be 0, 1 or 2, is [1]. Correct the record, or leave bad "
        'ones out with on_error = "skip".',
        {"instruction": "a", "input": "", "response1": "b", "response2": "c", "annotator1": [1]},
    ),
    bad(
        "a tree of nothing",
        "preferences.jsonl:25: prompt: should hold messages, is 3. Correct the record, or leave bad ones "
        'out with on_error = "skip".',
        {"message_tree_id": "a", "prompt": 3},
    ),
    bad(
        "a tree with an unknown role",
        "preferences.jsonl:25: role: should be 'prompter' or 'assistant', is 'bot'. Correct the record, "
        'or leave bad ones out with on_error = "skip".',
        {"message_tree_id": "a", "prompt": {"role": "bot", "text": "a"}},
    ),
    bad(
        "a tree whose role is a list",
        "preferences.jsonl:25: role: should be 'prompter' or 'assistant', is []. Correct the record, "
        'or leave bad ones out with on_error = "skip".',
        {"message_tree_id": "a", "prompt": {"role": [], "text": "a"}},
    ),
    bad(
        "a tree with replies that are text",
        "preferences.jsonl:25: prompt: should hold messages, is {'role': 'prompter', 'text': 'a', "
        '\'re.... Correct the record, or leave bad ones out with on_error = "skip".',
        {"message_tree_id": "a", "prompt": {"role": "prompter", "text": "a", "replies": "b"}},
    ),
    case(
        "equal answers only",
        "preferences.jsonl holds no comparison to train R on: 0 pairs and 0 ties to learn from; left out "
        "of training: 1 of equal answers, 0 with an empty one, 0 without text; 0 prompts are held out. "
        "Add pairs of a better and a worse answer.",
        RUN,
        put("preferences.jsonl", lines({**PAIR, "rejected": PAIR["chosen"]})),
    ),
    case(
        "ties only",
        "preferences.jsonl holds no comparison to train R on: 0 pairs and 1 ties to learn from; left out "
        "of training: 0 of equal answers, 0 with an empty one, 0 without text; 0 prompts are held out. "
        "Add pairs of a better and a worse answer.",
        RUN,
        put("preferences.jsonl", lines({**PAIR, "tie": True})),
    ),
    case(
        "empty answers only",
        "preferences.jsonl holds no comparison to train R on: 0 pairs and 0 ties to learn from; left out "
        "of training: 0 of equal answers, 1 with an empty one, 0 without text; 0 prompts are held out. "
        "Add pairs of a better and a worse answer.",
        RUN,
        put("preferences.jsonl", lines({**PAIR, "rejected": ""})),
    ),
    case(
        "every record left out",
        "preferences.jsonl holds no preference. The first of 1 bad records: preferences.jsonl:1: should "
        "be an object with prompt, chosen and rejected, is 1. Name a file of comparisons.",
        f"{RUN} --collect.on_error skip",
        put("preferences.jsonl", "1\n"),
    ),
    case(
        "all held out",
        "preferences.jsonl holds no comparison to train R on: 24 pairs and 0 ties to learn from; left "
        "out of training: 0 of equal answers, 0 with an empty one, 0 without text; 24 prompts are held "
        "out. Add pairs of a better and a worse answer.",
        f"{RUN} --collect.heldout_fraction 0.9999",
    ),
    case(
        "an import of a bad record",
        "preferences.jsonl:25: chosen: should be a valid string, is 3. Correct the record, or leave bad "
        'ones out with on_error = "skip".',
        f"prefs import preferences.jsonl --store {STORE}",
        add("preferences.jsonl", {**PAIR, "chosen": 3}),
    ),
    case(
        "an import of a bad record into a new store",
        "preferences.jsonl:25: chosen: should be a valid string, is 3. Correct the record, or leave bad "
        'ones out with on_error = "skip".',
        "prefs import preferences.jsonl --store new/p.db",
        add("preferences.jsonl", {**PAIR, "chosen": 3}),
    ),
    case(
        "an import of nothing", "none.jsonl does not exist. Check the path.", f"prefs import none.jsonl --store {STORE}"
    ),
    case(
        "an import of text as Parquet",
        "text.parquet cannot be read as Parquet: …. Fetch or write it again.",
        f"prefs import text.parquet --store {STORE}",
        put("text.parquet", "text"),
    ),
    case(
        "an import of an Argilla record without a prompt",
        "argilla.jsonl:1: fields: has no prompt: it is one of prompt, instruction, question, query, messages, "
        "conversation, chat, context, input; there are x. Correct the record, or leave bad ones out with on_error = "
        '"skip".',
        f"prefs import argilla.jsonl --store {STORE}",
        put("argilla.jsonl", lines({"fields": {"x": "a"}, "responses": {}})),
    ),
    case(
        "an import of a Label Studio choice among three",
        "studio.jsonl:1: annotations: 'left' chooses between 3 texts (x, y, z) beside prompt; give the two compared the "
        'names in to_name. Correct the record, or leave bad ones out with on_error = "skip".',
        f"prefs import studio.jsonl --store {STORE}",
        put("studio.jsonl", lines(STUDIO)),
    ),
    case(
        "an import of a folder",
        "corpus is a folder, expected a file. Name a file in it.",
        f"prefs import corpus --store {STORE}",
    ),
    case(
        "an import into text",
        "mine.toml is no sound preference database: …. Restore it from a copy, or name another file.",
        "prefs import preferences.jsonl --store mine.toml",
    ),
    case(
        "an import into a folder",
        "corpus cannot be used: …. Check path and permissions.",
        "prefs import preferences.jsonl --store corpus",
    ),
    case(
        "an import below a file",
        "mine.toml/p.db cannot be written: mine.toml is not a folder. Name another place.",
        "prefs import preferences.jsonl --store mine.toml/p.db",
    ),
    case(
        "a store that is not there",
        "none.db does not exist. Collect or import preferences first.",
        "prefs stats --store none.db",
    ),
    case(
        "a store that is a folder",
        "corpus does not exist. Collect or import preferences first.",
        "prefs stats --store corpus",
    ),
    case(
        "a store that is text",
        "mine.toml is no sound preference database: …. Restore it from a copy, or name another file.",
        "prefs stats --store mine.toml",
    ),
    case(
        "a store of something else",
        "other.db is a database of something else. Name a new file for the preferences.",
        "prefs stats --store other.db",
        sql("other.db", "CREATE TABLE cakes (name)"),
    ),
    case(
        "a store of a later release",
        "runs/mine/preferences.db has version 99, this release knows 2. Use the release that wrote it.",
        f"prefs stats --store {STORE}",
        sql(STORE, "INSERT INTO migrations VALUES (99, 'tomorrow')"),
    ),
    case(
        "a store without its tables",
        "runs/mine/preferences.db cannot be used: …. Check path and permissions.",
        f"prefs stats --store {STORE}",
        sql(STORE, "DROP TABLE rankings"),
    ),
    case(
        "a store cut off",
        "runs/mine/preferences.db is no sound preference database: …. Restore it from a copy, or name another file.",
        f"prefs stats --store {STORE}",
        cut(STORE),
    ),
    case(
        "a store with other columns",
        "runs/mine/preferences.db cannot be used: …. Check path and permissions.",
        f"prefs export out.jsonl --store {STORE}",
        sql(STORE, "ALTER TABLE prompts RENAME COLUMN text TO words"),
    ),
    case(
        "a store with a damaged record",
        "runs/mine/preferences.db holds a damaged record. Restore it from a copy, or name another file.",
        f"prefs export out.jsonl --store {STORE}",
        sql(STORE, "UPDATE completions SET ids = 'x'"),
    ),
    case(
        "an empty store",
        "empty.db holds no preferences. Collect or import some first.",
        "prefs stats --store empty.db",
        put("empty.db", ""),
    ),
    case(
        "a store of something else in the run",
        "runs/mine/preferences.db is no sound preference database: …. Restore it from a copy, or name another file.",
        "collect mine.toml",
        put(STORE, "text"),
        remove("runs/mine/collect"),
    ),
    case(
        "answers without room for a prompt",
        "each of the 23 prompts to train on has an answer that fills reward.seq_len = 8. Raise it.",
        "reward mine.toml --force --reward.seq_len 8",
    ),
    case(
        "ids that the model does not know",
        "an answer to 'p' has the token id 5000, but M1 knows 280. Leave the ids out: the text is enough.",
        "reward mine.toml --force",
        put("ids.jsonl", lines({**RANKING, "completions": [{"text": "a", "ids": [5000]}, "b"], "split": "train"})),
        trivium(f"prefs import ids.jsonl --store {STORE}"),
    ),
    case(
        "a store of something else before R",
        "runs/mine/preferences.db is no sound preference database: …. Restore it from a copy, or name another file.",
        "reward mine.toml --force",
        put(STORE, "text"),
    ),
    case(
        "no store before R",
        "runs/mine/preferences.db does not exist. Collect or import preferences first.",
        "reward mine.toml --force",
        remove(STORE),
    ),
]
