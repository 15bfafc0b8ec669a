"""The special tokens: what they are for and which ids they have in tokenizers trained here."""

PAD = "<|pad|>"
BOS = "<|bos|>"
EOS = "<|eos|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
SYSTEM = "<|system|>"
END_OF_TURN = "<|end_of_turn|>"
FIM_PREFIX = "<|fim_prefix|>"
FIM_MIDDLE = "<|fim_middle|>"
FIM_SUFFIX = "<|fim_suffix|>"
FIM_PAD = "<|fim_pad|>"

SPECIAL_TOKENS = (
    PAD,
    BOS,
    EOS,
    USER,
    ASSISTANT,
    SYSTEM,
    END_OF_TURN,
    FIM_PREFIX,
    FIM_MIDDLE,
    FIM_SUFFIX,
    FIM_PAD,
)
"""In the order of their ids: pad is 0, bos 1, eos 2. Plain bytes and merges follow."""

GAP_TOKENS = (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)
"""What opens the text before a gap, the text after it, and its filling, in the order in which they stand.

Source: Bavarian et al. 2022 (arXiv:2207.14255), prefix-suffix-middle.
"""

ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
"""Chat roles and the token that opens a turn of each."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end_of_turn|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Jinja template for transformers, vLLM and the rest; `chat.render` is the same format in ids."""
