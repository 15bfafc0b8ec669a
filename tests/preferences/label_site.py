"""A labelling page for tests: its store, its application, and browsers of people without a browser."""

import re
from typing import Any

from starlette.testclient import TestClient

from trivium.preferences import people
from trivium.preferences.audit import write_settings
from trivium.preferences.comparisons import fill
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import LabelSettings
from trivium.preferences.web.access import Address
from trivium.preferences.web.app import create_app
from trivium.preferences.web.playground import Playground

BASE = "http://127.0.0.1:8417"
PASSWORD = "a long password"
PLAIN = LabelSettings(overlap_share=0, repeat_share=0, gold_share=0)


class Site:
    """A page with its store, and browsers of people."""

    def __init__(self, location: str, owner: str = "ada", playground: Playground | None = None) -> None:
        self.location = location
        self.address = Address(frozenset({BASE}), 8417, one_time="one-time" if owner else "", owner=owner)
        self.app = create_app(location, self.address, playground=playground)
        self.store = PreferenceStore(location)

    def browser(self) -> TestClient:
        return TestClient(self.app, base_url=BASE, follow_redirects=True)

    def person(self, name: str, role: Any = "annotator") -> TestClient:
        """A browser of somebody who is logged in; they have no password."""
        if not any(each.name == name for each in people.people(self.store)):
            people.add_person(self.store, name, role)
        client = self.browser()
        client.cookies.set(self.address.cookie, people.open_session(self.store, name))
        return client

    def configure(self, **changes: Any) -> None:
        write_settings(self.store, PLAIN.model_copy(update=changes), "")
        fill(self.store)


def fields(page: str) -> dict[str, str]:
    """The hidden fields of a page's vote form."""
    form = page[page.index('<form id="vote"') :]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))


def csrf(page: str) -> str:
    return re.findall(r'name="csrf" value="([^"]*)"', page)[0]
