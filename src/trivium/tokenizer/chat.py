"""Chats as token ids with a loss mask: only what the assistant says carries loss.

    <|bos|><|system|>...<|end_of_turn|><|user|>...<|end_of_turn|><|assistant|>...<|end_of_turn|>

Contents are encoded as plain text, so nobody can write a turn's end into a message. Tokenizers from elsewhere use
their own chat template, in which special tokens are parsed as their models expect.
"""

from collections.abc import Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from trivium.base.errors import DataError, ModelError
from trivium.records import Message
from trivium.tokenizer.codec import Tokenizer
from trivium.tokenizer.special import CHAT_TEMPLATE, END_OF_TURN, ROLES


def render(
    messages: Sequence[Message], tokenizer: Tokenizer, add_generation_prompt: bool = False
) -> tuple[list[int], list[bool]]:
    """Token ids of a chat and which of them carry loss: the assistant's turns, their end included.

    Args:
        messages: turns in order.
        add_generation_prompt: end with the token that opens the assistant's turn.
    Raises:
        DataError: a role is unknown, or there is no message.
        ModelError: the tokenizer has no chat template.
    """
    if not messages:
        raise DataError("A chat without messages cannot be rendered. Give at least one.")
    for number, message in enumerate(messages, start=1):
        if message.role not in ROLES:
            raise DataError(f"Message {number} has the role {message.role!r}; known are: {', '.join(ROLES)}.")
    if tokenizer.config.get("chat_template") != CHAT_TEMPLATE:
        return _render_template(messages, tokenizer, add_generation_prompt)
    ids = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    loss_mask = [False] * len(ids)
    end = tokenizer.token_id(END_OF_TURN)
    for message in messages:
        content = [*tokenizer.encode(message.content), end]
        ids += [tokenizer.token_id(ROLES[message.role]), *content]
        loss_mask += [False, *[message.role == "assistant"] * len(content)]
    if add_generation_prompt:
        ids.append(tokenizer.token_id(ROLES["assistant"]))
        loss_mask.append(False)
    return ids, loss_mask


def template_text(messages: Sequence[Message], tokenizer: Tokenizer, add_generation_prompt: bool = False) -> str:
    """The chat as the tokenizer's own template writes it.

    Raises:
        ModelError: there is no template, or it does not take these messages.
    """
    source = tokenizer.config.get("chat_template")
    if not isinstance(source, str):
        raise ModelError(f"{tokenizer.name} has no chat template. Add chat_template to its tokenizer_config.json.")
    # A template is code from a stranger's directory: it runs in jinja's sandbox.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = _raise
    try:
        return environment.from_string(source).render(
            messages=[message.model_dump() for message in messages],
            add_generation_prompt=add_generation_prompt,
            bos_token=tokenizer.special_text("bos_token"),
            eos_token=tokenizer.special_text("eos_token"),
        )
    except Exception as error:  # whatever a stranger's template does
        raise ModelError(
            f"The chat template of {tokenizer.name} fails: {error}. Correct chat_template in its tokenizer_config.json."
        ) from None


def _raise(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _render_template(
    messages: Sequence[Message], tokenizer: Tokenizer, add_generation_prompt: bool
) -> tuple[list[int], list[bool]]:
    """Render turn by turn: what an assistant's turn adds to the text before it is what carries loss."""
    ids: list[int] = []
    loss_mask: list[bool] = []
    before = ""

    def add(text: str, has_loss: bool) -> None:
        nonlocal before
        if not text.startswith(before):
            raise ModelError(
                f"The chat template of {tokenizer.name} rewrites earlier turns, so their loss mask is not known. "
                "Use prompts and responses instead."
            )
        piece = tokenizer.encode_template(text[len(before) :])
        ids.extend(piece)
        loss_mask.extend([has_loss] * len(piece))
        before = text

    for count, message in enumerate(messages, start=1):
        if message.role == "assistant":
            add(template_text(messages[: count - 1], tokenizer, True), False)
            add(template_text(messages[:count], tokenizer), True)
    add(template_text(messages, tokenizer, add_generation_prompt), False)
    return ids, loss_mask
