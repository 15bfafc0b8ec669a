"""From one store to another: a run's answers to a team's database, a team's judgements back to the run."""

from trivium.preferences.store import Added, PreferenceStore


def copy_answers(source: PreferenceStore, target: PreferenceStore) -> None:
    """Bring prompts and completions over; those there already stay."""
    with target.transaction():
        target.add_prompts((each.prompt, each.task, each.split) for each in source.prompts())
        target.add_samples((each.prompt_id, each.sample) for each in source.completions())


def copy_judgements(source: PreferenceStore, target: PreferenceStore) -> Added:
    """Bring all judgements over, with what they supersede; copying again adds what is new since.

    Names are hashes of content, so a judgement has the same name in both.
    """
    every = {stored.key: stored.judgement for stored in source.judgements(history=True)}
    depth: dict[str, int] = {}
    for key in every:
        chain = [key]
        while (older := every[chain[-1]].supersedes) in every and older not in depth:
            chain.append(older)
        below = depth.get(every[chain[-1]].supersedes, -1)
        depth.update({name: below + step for step, name in enumerate(reversed(chain), start=1)})
    order = sorted(every, key=lambda key: depth[key])
    return target.add_judgements(every[key] for key in order)
