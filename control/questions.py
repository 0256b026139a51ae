"""The message that asks somebody who unsubscribed whether they want mail again, in six languages.

Its words are the platform's own: a tenant could otherwise write anything to people who want none of its mail. It says
which address it was asked from, and has one link, in the text part, too. The words are in ``questions.json``. Pure.
"""

import html
from email.message import EmailMessage
from email.policy import SMTP
from importlib import resources

from msgspec import Struct, json


class _Words(Struct, frozen=True):
    """A language. ``{sender}`` is put in."""

    subject: str
    question: str
    yes: str
    """Before the link."""
    button: str
    no: str


LANGUAGES = json.decode(resources.files(__package__).joinpath("questions.json").read_bytes(), type=dict[str, _Words])
"""By BCP 47 tag."""


def message(language: str, sender: str, recipient: str, link: str) -> EmailMessage:
    """The message; ``language`` is one of ``LANGUAGES``. Addresses and link are ASCII without controls."""
    words = LANGUAGES[language]
    question = words.question.format(sender=sender)
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = recipient
    mail["Subject"] = words.subject
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(f"{question}\n\n{words.yes}\n\n{link}\n\n{words.no}\n", cte="base64")
    shown = html.escape(link, quote=True)
    mail.add_alternative(
        f'<!DOCTYPE html><html lang="{language}"><body><p>{html.escape(question)}</p><p>{html.escape(words.yes)}</p>'
        f'<p><a href="{shown}">{html.escape(words.button)}</a></p><p>{html.escape(words.no)}</p></body></html>\n',
        subtype="html",
        cte="base64",
    )
    return mail
