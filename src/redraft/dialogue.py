"""Chat templates to tokens, append-only: what was sampled is never tokenised again.

A multi-turn episode is one growing sequence of token ids:

    start(messages) + attempt 1 + bridge(attempt 1, feedback) + attempt 2 + bridge(...) + ...

`start` renders the first prompt with the model's own chat template. `bridge` is whatever that
template puts between an assistant message and the next one: the end of the turn, the user message
and the generation prompt. It is found by rendering a probe conversation whose assistant message is
a marker, and cutting at the marker, so no template needs code of its own. Rendering the whole
conversation again for each turn, which is what most code does, changes the tokens of earlier
attempts (decoding and encoding is no identity; templates strip and drop text), and with them the
log-probabilities that training relies on. `docs/dialogue.md` tells the rest.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from redraft.errors import UserError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

PLAIN_TEMPLATE = """\
{{ bos_token if begin_with_bos else '' }}
{%- for message in messages %}
    {%- if not loop.first %}{{ '\\n\\n' }}{% endif %}
    {%- if message['role'] == 'system' %}{{ message['content'] }}
    {%- else %}{{ message['role'] | capitalize + ':\\n' + message['content'] }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '\\n\\nAssistant:\\n' }}{% endif %}"""
"""How a base model without a chat template is prompted: the system text bare, then each message
under its `User:` or `Assistant:` header line, a blank line between them."""

# Stand for contents in the probe conversations. Letters only: nothing that a template trims,
# escapes or looks for, and nothing that a tokenizer has as a special token.
_SYSTEM, _QUESTION, _ATTEMPT, _FEEDBACK, _SECOND, _THOUGHT = (
    f"Probe{word}Probe" for word in ("System", "Ask", "Try", "Reply", "Retry", "Think")
)


class Dialogue:
    """The token side of a conversation with one model; built once per tokenizer.

    Args:
        tokenizer: the model's tokenizer. Without a chat template it is prompted in plain text
            (`PLAIN_TEMPLATE`).
        generation_config: the model's, for the end-of-sequence ids it names beyond the tokenizer's.
        stop: extra strings that end an attempt, such as the `[DONE]` of few-shot MBPP prompts.
        chat_template: Jinja source to use in place of the tokenizer's own template.
        chat_template_kwargs: variables for the template, such as `{"enable_thinking": False}`.

    Attributes:
        stop_token_ids: ids that end an attempt, the template's own end-of-turn token first.
        stop: strings that end an attempt. For a template that ends a turn with text rather than a
            special token, the header of the next user message is among them.
        rewrites_history: a sentence for the log if the template would render earlier turns
            differently from what was shown and sampled, else None. They stay as they were.

    Raises:
        UserError: the template cannot be appended to, or nothing would end an attempt.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        generation_config: "GenerationConfig | None" = None,
        stop: Sequence[str] = (),
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._name = str(tokenizer.name_or_path or type(tokenizer).__name__)
        self._newline = self._encode("\n")
        self._template = chat_template
        self._variables = dict(chat_template_kwargs or {})
        if not (chat_template or tokenizer.chat_template):
            self._template = PLAIN_TEMPLATE
            self._variables["begin_with_bos"] = _adds_bos(tokenizer)
        # Text between an attempt and the content of the next user message.
        self._separator = separator = self._check_appendable()
        control = {
            token: added.content
            for token, added in tokenizer.added_tokens_decoder.items()
            if added.special or (added.content.strip() and added.content in separator)
        }
        # Finds control tokens spelled out; those of one character cannot be spelled otherwise.
        spelled = "|".join(re.escape(text) for text in control.values() if len(text) > 1)
        self._control_start = re.compile(f"(?={spelled or '(?!)'}).", re.DOTALL)
        # Ids after an attempt up to the control token that closes it; empty if there is none ...
        ids = self._encode_inside([separator])
        closing = next((place for place, token in enumerate(ids, 1) if token in control), 0)
        self._end_of_turn = ids[:closing]
        # ... then the header of the next user message, once sampled, shows that it is over.
        self._header = "" if closing else re.sub(r"^\s*\n", "\n", separator).rstrip()
        self._bridge_ids = lru_cache(maxsize=1024)(self._encode_bridge)

        eos = [self._end_of_turn[-1:], tokenizer.eos_token_id]
        eos.append(generation_config.eos_token_id if generation_config else None)
        self.stop_token_ids: tuple[int, ...] = _unique_ids(eos)
        self.stop: tuple[str, ...] = tuple(dict.fromkeys([*stop, *filter(None, [self._header])]))
        if not (self.stop_token_ids or self.stop):
            raise UserError(
                f"{self._name}: nothing ends an attempt: the chat template has no end-of-turn "
                "token and the tokenizer no eos_token; set one or give a stop string"
            )
        self.rewrites_history = self._describe_rewriting()

    def start(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of the first prompt, generation prompt included.

        Equal to `tokenizer.apply_chat_template(messages, add_generation_prompt=True)`, except that
        a special token spelled out in a message is encoded as the plain text it is.

        Raises:
            UserError: the template refuses the messages (a system role it does not know, say).
        """
        first, *rest = self._render(messages)
        return [*self._encode(first), *self._encode_inside(rest)]

    def attempt(self, text: str) -> list[int]:
        """Token ids of an attempt that somebody else wrote, with what ends an attempt after it.

        They are those the tokenizer gives the text behind the generation prompt, after whatever the
        template itself puts there before the content of an assistant message (Mistral's space).
        """
        closing = self._end_of_turn or list(self.stop_token_ids[:1])
        asked = self._render_text(_messages(_QUESTION))
        answered = self._render_text(_messages(_QUESTION, _ATTEMPT, _FEEDBACK))
        leading = answered.partition(_ATTEMPT)[0]
        text = leading.removeprefix(asked) + text if leading.startswith(asked) else text
        first, *rest = self._control_start.sub(r"\g<0>\0", text).split("\0")
        prompt = asked.partition(_QUESTION)[2]
        before, behind = self._encode_inside([prompt]), self._encode_inside([prompt + first])
        begin = behind[len(before) :]
        # Some control tokens swallow white space behind them; that of an attempt belongs to it.
        swallowed = first[:1].isspace() and not self._decode(begin)[:1].isspace()
        if swallowed or behind[: len(before)] != before:
            begin = self._encode_inside([first])
        return [*begin, *self._encode_inside(rest), *closing]

    def bridge(self, attempt: Sequence[int], user_message: str) -> list[int]:
        """Token ids to append after `attempt` so that the next attempt can be sampled.

        They are what the template puts after an assistant message, less whatever of it the attempt
        already ends with: an attempt that was stopped by the end-of-turn token brings it along, a
        truncated one (or one stopped by a string or by another end-of-sequence token) does not.

        Raises:
            UserError: the template refuses the message.
        """
        if not self._end_of_turn:
            return list(self._bridge_ids(user_message, self._separator_sampled(attempt)))
        ids = list(self._bridge_ids(user_message, 0))
        if attempt and attempt[-1] == self._end_of_turn[-1]:
            return ids[len(self._end_of_turn) :]
        return ids[_overlap(attempt, self._end_of_turn) :]

    def decode(self, attempt: Sequence[int]) -> str:
        """Text of an attempt without what ended it: stop tokens at its end, and its stop string.

        All else is kept to the letter: white space, and special tokens in the middle.
        """
        end = len(attempt)
        while end and attempt[end - 1] in self.stop_token_ids:
            end -= 1
        text = self._decode(attempt[:end])
        return text[: min((text.find(stop) for stop in self.stop if stop in text), default=None)]

    def _decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens inside a sequence: SentencePiece tokenizers drop a space that a sequence
        begins with, so these are decoded behind a newline."""
        inside = [*self._newline, *tokens]
        text = self._tokenizer.decode(inside, clean_up_tokenization_spaces=False)
        return str(text).removeprefix("\n")

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode_inside(self, texts: Sequence[str]) -> list[int]:
        """Ids of texts that stand inside a sequence, each encoded on its own.

        SentencePiece tokenizers put a space before a text, which belongs to the start of a sequence
        only; so each is encoded behind a newline, where that leaves the newline a token apart.
        """
        newline, ids = self._newline, []
        for text in texts:
            behind = self._encode("\n" + text)
            apart = behind[: len(newline)] == newline
            ids += behind[len(newline) :] if apart else self._encode(text)
        return ids

    def _render(self, messages: Sequence[Mapping[str, str]]) -> list[str]:
        """The rendered conversation with generation prompt, in pieces to be encoded one by one.

        There is one piece, unless a message spells out a special token (`<|im_end|>` in a user's
        question, say). Encoding would turn that into the token itself, and let the text of a
        problem close its turn and open another. Such text is cut after its first character.
        """
        conversation = [dict(message) for message in messages]
        text = "".join(message["content"] for message in conversation)
        if not self._control_start.search(text):
            return [self._render_text(conversation)]
        cut = next(mark for mark in map(chr, range(0xE000, 0xF900)) if mark not in text)
        for message in conversation:
            message["content"] = self._control_start.sub(rf"\g<0>{cut}", message["content"])
        return self._render_text(conversation).split(cut)

    def _render_text(self, conversation: list[dict[str, str]]) -> str:
        try:
            rendered = self._tokenizer.apply_chat_template(
                conversation,
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=False,
                **self._variables,
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message["role"] for message in conversation)
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self._name}: the chat template refuses messages with roles {roles}: {reason}; "
                "change the messages, or give another chat template"
            ) from error
        return str(rendered)

    def _encode_bridge(self, user_message: str, skip: int) -> tuple[int, ...]:
        """Ids of the template's text after an attempt, less its first `skip` characters."""
        first, *rest = self._render(_messages(_QUESTION, _ATTEMPT, user_message))
        # The marker comes before the user message, so it stands in the first piece.
        return tuple(self._encode_inside([first.partition(_ATTEMPT)[2][skip:], *rest]))

    def _separator_sampled(self, attempt: Sequence[int]) -> int:
        """How many characters of a separator without control tokens the attempt ends with."""
        # A token stands for at least one byte and a character for at most four.
        text = self._decode(attempt[-4 * len(self._separator) - 4 :])
        if self._header and self._header in text:
            from_header = self._separator[self._separator.index(self._header) :]
            sampled = text[text.rindex(self._header) :]
            if from_header.startswith(sampled):
                return len(self._separator) - len(from_header) + len(sampled)
        return _overlap(text, self._separator)

    def _check_appendable(self) -> str:
        """Text between an attempt and the next user message, after proving that it is constant."""
        cannot = f"{self._name}: the chat template cannot be appended to: it "
        remedy = "; give a chat_template that renders every message once, in order"
        try:
            one = self._render_text(_messages(_QUESTION, _ATTEMPT, _FEEDBACK))
            two = self._render_text(_messages(_QUESTION, _ATTEMPT, _FEEDBACK, _SECOND, _FEEDBACK))
        except UserError as error:
            raise UserError(
                f"{cannot}refuses a second question: {error.__cause__}{remedy}"
            ) from error
        places = [one.find(text) for text in (_QUESTION, _ATTEMPT, _FEEDBACK)]
        for text, role in ((_QUESTION, "user"), (_ATTEMPT, "assistant"), (_FEEDBACK, "user")):
            if (count := one.count(text)) != 1:
                times = "drops" if count == 0 else f"repeats {count} times"
                raise UserError(f"{cannot}{times} the content of an earlier {role} message{remedy}")
        if places != sorted(places):
            raise UserError(f"{cannot}changes the order of the messages{remedy}")
        bridge = one.partition(_ATTEMPT)[2]
        if two.partition(_SECOND)[2] != bridge:
            raise UserError(f"{cannot}puts a different text between later turns{remedy}")
        return bridge.partition(_FEEDBACK)[0]

    def _describe_rewriting(self) -> str | None:
        prompt = self._render_text(_messages(_QUESTION))
        one = self._render_text(_messages(_QUESTION, _ATTEMPT, _FEEDBACK))
        before, _, after = one.partition(_ATTEMPT)
        found = []
        if not before.startswith(prompt):
            pairs = zip(before, prompt, strict=False)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            new, old = before[same:], prompt[same:]
            found.append(f"puts {new!r} for {old!r}" if new else f"drops {old!r} from the prompt")
        thought = f"<think>\n{_THOUGHT}\n</think>\n\n{_ATTEMPT}"
        if _THOUGHT not in self._render_text(_messages(_QUESTION, thought, _FEEDBACK)):
            found.append("drops <think> blocks")
        if f"{_ATTEMPT} \n{after}" not in self._render_text(
            _messages(_QUESTION, f"{_ATTEMPT} \n", _FEEDBACK)
        ):
            found.append("trims white space")
        if self._moves_system(after):
            found.append("moves the system message to the last user message")
        if not found:
            return None
        return (
            f"{self._name}: the chat template rewrites earlier turns ({', '.join(found)}); "
            "they are kept as they were shown and sampled"
        )

    def _moves_system(self, after: str) -> bool:
        system = {"role": "system", "content": _SYSTEM}
        try:
            rendered = self._render_text([system, *_messages(_QUESTION, _ATTEMPT, _FEEDBACK)])
        except UserError:
            return False  # no system messages with this template; `start` says so if one comes
        return rendered.partition(_ATTEMPT)[2] != after


def _messages(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def _adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def _overlap(before: Sequence[Any], after: Sequence[Any]) -> int:
    """Length of the longest beginning of `after` that `before` ends with."""
    most = min(len(before), len(after))
    return next((n for n in range(most, 0, -1) if before[-n:] == after[:n]), 0)


def _unique_ids(groups: Sequence[int | list[int] | None]) -> tuple[int, ...]:
    lists = [[group] if isinstance(group, int) else group or [] for group in groups]
    return tuple(dict.fromkeys(token for ids in lists for token in ids))
