"""Chat templates to tokens, append-only: what was sampled is never tokenised again.

A multi-turn episode is one growing sequence of token ids:

    start(messages) + response 1 + bridge(response 1, feedback) + response 2 + bridge(...) + ...

`start` renders the first prompt with the model's own chat template. `bridge` is whatever that
template puts between an assistant message and the next one: the end of the turn, the user message
and the generation prompt. It is found by rendering a probe conversation whose assistant message is
a marker, and cutting at the marker, so no template needs code of its own. Rendering the whole
conversation again for each turn, which is what most code does, changes the tokens of earlier
responses (decoding and encoding is no identity; templates strip and drop text), and with them the
log-probabilities that training relies on. See `docs/template.md`.

A template is a program of whoever made the model, so it runs in a process of its own, within limits
of time and memory (`rendering`).
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from redraft.errors import UserError
from redraft.grading.pool import shared_pool

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

_MARK = "\ue000"  # for private use; as many in a row as no text has
_LIMIT_S = 2.0
"""Seconds that a template may take to render a conversation; most take a thousandth of one."""
_LONGEST_TOKEN, _MOST_ENDS = 1000, 1000
"""Characters of a control token, and tokens that may end a response."""
_LONGEST_KEPT = 20_000
"""Characters of a conversation whose rendering is remembered."""

# Contents of the probe conversations. Letters only: nothing that a template trims, escapes or looks
# for, and nothing that a tokenizer has as a special token.
_SYSTEM, _QUESTION, _RESPONSE, _FEEDBACK, _SECOND, _THOUGHT = (
    f"Probe{word}Probe" for word in ("System", "Ask", "Try", "Reply", "Retry", "Think")
)


class _RefusedError(Exception):
    """Why a template gives no text."""


class ChatTemplate:
    """The token side of a conversation with one model; built once per tokenizer.

    Args:
        tokenizer: the model's tokenizer. Without a chat template it is prompted in plain text
            (`PLAIN_TEMPLATE`).
        generation_config: the model's, for the end-of-sequence ids it names beyond the tokenizer's.
        stop: extra strings that end a response, such as the `[DONE]` of few-shot MBPP prompts.
        chat_template: Jinja source to use in place of the tokenizer's own template.
        chat_template_kwargs: variables for the template, such as `{"enable_thinking": False}`.

    Attributes:
        tokenizer: as given.
        name: of the tokenizer, for messages.
        variables: what the template is rendered with, beside the messages.
        stop_token_ids: ids that end a response, the template's own end-of-turn token first.
        stop: strings that end a response. For a template that ends a turn with text rather than a
            special token, the header of the next user message is among them.
        rewrites_history: a sentence for the log if the template would render earlier turns
            differently from what was shown and sampled, else None. They stay as they were.

    Raises:
        UserError: the template cannot be appended to, ignores `add_generation_prompt`, or nothing
            would end a response.
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
        self.tokenizer = tokenizer
        self.name = str(tokenizer.name_or_path or type(tokenizer).__name__)
        self._newline = self._encode("\n")
        self._template = chat_template
        self.variables = dict(chat_template_kwargs or {})
        if not (chat_template or tokenizer.chat_template):
            self._template = PLAIN_TEMPLATE
            self.variables["begin_with_bos"] = _adds_bos(tokenizer)
        try:
            self._source = tokenizer.get_chat_template(self._template)
        except ValueError as error:
            raise UserError(f"{self.name}: {error}; give a chat_template") from None
        self._rendered = lru_cache(maxsize=256)(self._render_apart)
        # Text between a response and the content of the next user message.
        self._separator = separator = self._check_appendable()
        self._check_generation_prompt()
        control = {
            token: added.content
            for token, added in tokenizer.added_tokens_decoder.items()
            if added.special or (added.content.strip() and added.content in separator)
        }
        if (longest := max(map(len, control.values()), default=0)) > _LONGEST_TOKEN:
            raise UserError(
                f"{self.name}: a special token of {longest:,} characters; mend its tokenizer"
            )
        # Finds control tokens spelled out as text; those of one character have no other spelling.
        spelled = "|".join(re.escape(text) for text in control.values() if len(text) > 1)
        self._control_start = re.compile(f"(?={spelled or '(?!)'}).", re.DOTALL)
        # Ids after a response up to the control token that closes it; empty if there is none, ...
        ids = self._encode_inside([separator])
        closing = next((place for place, token in enumerate(ids, 1) if token in control), 0)
        self._end_of_turn = ids[:closing]
        # ... in which case the header of the next user message is a stop string.
        self._header = "" if closing else re.sub(r"^\s*\n", "\n", separator).rstrip()
        self._bridge_ids = lru_cache(maxsize=1024)(self._encode_bridge)
        self._prefill_ids = lru_cache(maxsize=16)(self._response_ids)

        eos = [self._end_of_turn[-1:], tokenizer.eos_token_id]
        eos.append(generation_config.eos_token_id if generation_config else None)
        self.stop_token_ids: tuple[int, ...] = _unique_ids(eos, self.name)
        self.stop: tuple[str, ...] = tuple(dict.fromkeys([*stop, *filter(None, [self._header])]))
        if not (self.stop_token_ids or self.stop):
            raise UserError(
                f"{self.name}: nothing ends a response: the chat template has no end-of-turn "
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

    def check(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Raise what `start` would raise, without tokenising."""
        self._render(messages)

    def response(self, text: str) -> list[int]:
        """Token ids of a response that was written elsewhere, with its end-of-turn token.

        They are those that the tokenizer gives the text after the generation prompt, after whatever
        the template itself puts before the content of an assistant message (Mistral's space).
        """
        return [*self._response_ids(text), *(self._end_of_turn or self.stop_token_ids[:1])]

    def prefill(self, text: str) -> list[int]:
        """Token ids of what a response is given to begin with: `response` without an end."""
        return list(self._prefill_ids(text))

    def reopened(self, tokens: Sequence[int], before: str, text: str) -> list[int]:
        """Token ids of `text`, a response `before` that was sampled as `tokens` and what follows
        it: those tokens without the end of the turn, where they are the text and no more."""
        opened = self._opened(tokens)
        if not opened or self.text(opened) != before:
            return self.prefill(text)
        return [*opened, *self._encode_inside([text.removeprefix(before)])]

    def _opened(self, tokens: Sequence[int]) -> Sequence[int]:
        """A response without the stop tokens at its end."""
        end = len(tokens)
        while end and tokens[end - 1] in self.stop_token_ids:
            end -= 1
        return tokens[:end]

    def _response_ids(self, text: str) -> list[int]:
        asked = self._render_text(_messages(_QUESTION))
        answered = self._render_text(_messages(_QUESTION, _RESPONSE, _FEEDBACK))
        leading = answered.partition(_RESPONSE)[0]
        text = leading.removeprefix(asked) + text if leading.startswith(asked) else text
        first, *rest = self._control_start.sub(r"\g<0>\0", text).split("\0")
        prompt = asked.partition(_QUESTION)[2]
        before, behind = self._encode_inside([prompt]), self._encode_inside([prompt + first])
        begin = behind[len(before) :]
        # Some control tokens swallow white space behind them; a response's own has to be kept.
        swallowed = first[:1].isspace() and not self.text(begin)[:1].isspace()
        if swallowed or behind[: len(before)] != before:
            begin = self._encode_inside([first])
        return [*begin, *self._encode_inside(rest)]

    def bridge(self, tokens: Sequence[int], user_text: str) -> list[int]:
        """Token ids to append after a response's `tokens` so that the next one can be sampled.

        They are what the template puts after an assistant message, less whatever of it the response
        already ends with: one that was stopped by the end-of-turn token contains it, a truncated
        one (or one stopped by a string or by another end-of-sequence token) does not.

        Raises:
            UserError: the template refuses the message.
        """
        if not self._end_of_turn:
            return list(self._bridge_ids(user_text, self._separator_sampled(tokens)))
        ids = list(self._bridge_ids(user_text, 0))
        if tokens and tokens[-1] == self._end_of_turn[-1]:
            return ids[len(self._end_of_turn) :]
        return ids[_overlap(tokens, self._end_of_turn) :]

    def decode(self, tokens: Sequence[int], stop: Sequence[str] = ()) -> str:
        """Text of a response up to what ended it: stop tokens at its end, the first stop string.

        All else is kept exactly: white space, and special tokens in the middle. `stop` are strings
        that end a response beside the template's own.
        """
        return cut_at_stop(self.text(self._opened(tokens)), (*self.stop, *stop))[0]

    def decode_begun(self, tokens: Sequence[int], stop: Sequence[str] = ()) -> str:
        """Text of a response under way, a beginning of what `decode` will give: without bytes that
        are no character yet, and without an end that may become a stop string."""
        text = self.decode(tokens, stop).rstrip("\N{REPLACEMENT CHARACTER}")
        begun = max((_overlap(text, string) for string in (*self.stop, *stop)), default=0)
        return text[: len(text) - begun]

    def text(self, tokens: Sequence[int]) -> str:
        """Text of tokens inside a sequence, with special tokens and stop strings.

        SentencePiece tokenizers drop a space that a sequence begins with, so the tokens are decoded
        behind a newline.
        """
        inside = [*self._newline, *tokens]
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # the same text at a tenth of the cost of the wrapper around it
            text = backend.decode(inside, skip_special_tokens=False)
        else:
            text = self.tokenizer.decode(inside, clean_up_tokenization_spaces=False)
        return str(text).removeprefix("\n")

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode_inside(self, texts: Sequence[str]) -> list[int]:
        """Ids of texts that stand inside a sequence, each encoded on its own.

        SentencePiece tokenizers put a space before a text, which belongs to the start of a sequence
        only; so each is encoded behind a newline, where that leaves the newline a token apart.
        """
        newline, ids = self._newline, list[int]()
        different = list(dict.fromkeys(texts))  # of many thousands most may be alike
        lines = [f"\n{text}" for text in different]
        every = self.tokenizer(
            lines or [""],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        apart = {
            text: behind[len(newline) :]
            if behind[: len(newline)] == newline
            else self._encode(text)
            for text, behind in zip(different, every, strict=False)
        }
        for text in texts:
            ids += apart[text]
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
        longest = max(map(len, re.findall(f"{_MARK}+", text)), default=0)
        cut = _MARK * (longest + 1)
        for message in conversation:
            message["content"] = self._control_start.sub(rf"\g<0>{cut}", message["content"])
        return self._render_text(conversation).split(cut)

    def _render_text(self, conversation: list[dict[str, str]], *, prompt: bool = True) -> str:
        long = sum(len(one["content"]) for one in conversation) > _LONGEST_KEPT
        render = self._render_apart if long else self._rendered
        try:
            return render(tuple(tuple(one.items()) for one in conversation), prompt)
        except _RefusedError as error:
            roles = ", ".join(message["role"] for message in conversation)
            raise UserError(
                f"{self.name}: the chat template refuses messages with roles {roles}: {error}; "
                "change the messages, or give another chat template"
            ) from error

    def _render_apart(
        self, conversation: tuple[tuple[tuple[str, str], ...], ...], prompt: bool
    ) -> str:
        """The template's text; raises `_RefusedError`."""
        messages = [dict(fields) for fields in conversation]
        variables = {**self.tokenizer.special_tokens_map, **self.variables}
        pool = shared_pool("redraft.engines.rendering:render", _LIMIT_S)
        reply = pool.call(self._source, [dict(fields) for fields in messages], prompt, variables)
        if reply.status == "timeout":
            raise _RefusedError(f"it takes more than {_LIMIT_S:g} s")
        if reply.status != "ok":
            raise _RefusedError(f"it fails ({reply.error})")
        if "refused" in reply.value:
            raise _RefusedError(" ".join(reply.value["refused"].split()))
        return str(reply.value["text"])

    def _encode_bridge(self, user_text: str, skip: int) -> tuple[int, ...]:
        """Ids of the template's text after a response, less its first `skip` characters."""
        first, *rest = self._render(_messages(_QUESTION, _RESPONSE, user_text))
        # The marker comes before the user message, so it stands in the first piece.
        return tuple(self._encode_inside([first.partition(_RESPONSE)[2][skip:], *rest]))

    def _separator_sampled(self, tokens: Sequence[int]) -> int:
        """How many characters of a separator without control tokens the response ends with."""
        # A token stands for at least one byte and a character for at most four.
        text = self.text(tokens[-4 * len(self._separator) - 4 :])
        if self._header and self._header in text:
            from_header = self._separator[self._separator.index(self._header) :]
            sampled = text[text.rindex(self._header) :]
            if from_header.startswith(sampled):
                return len(self._separator) - len(from_header) + len(sampled)
        return _overlap(text, self._separator)

    def _check_appendable(self) -> str:
        """Text between a response and the next user message, after checking that it is constant."""
        cannot = f"{self.name}: the chat template cannot be appended to: it "
        remedy = "; give a chat_template that renders every message once, in order"
        try:
            one = self._render_text(_messages(_QUESTION, _RESPONSE, _FEEDBACK))
            two = self._render_text(_messages(_QUESTION, _RESPONSE, _FEEDBACK, _SECOND, _FEEDBACK))
        except UserError as error:
            if error.__cause__ is None:
                raise  # the template was not asked
            raise UserError(
                f"{cannot}refuses a second question: {error.__cause__}{remedy}"
            ) from error
        places = [one.find(text) for text in (_QUESTION, _RESPONSE, _FEEDBACK)]
        for text, role in ((_QUESTION, "user"), (_RESPONSE, "assistant"), (_FEEDBACK, "user")):
            if (count := one.count(text)) != 1:
                times = "drops" if count == 0 else f"repeats {count} times"
                raise UserError(f"{cannot}{times} the content of an earlier {role} message{remedy}")
        if places != sorted(places):
            raise UserError(f"{cannot}changes the order of the messages{remedy}")
        bridge = one.partition(_RESPONSE)[2]
        if two.partition(_SECOND)[2] != bridge:
            raise UserError(f"{cannot}puts a different text between later turns{remedy}")
        return bridge.partition(_FEEDBACK)[0]

    def _check_generation_prompt(self) -> None:
        """Refuse a template that leaves the header of its assistant messages to the model.

        It gives the same prompt with and without `add_generation_prompt`, yet puts more than white
        space between that prompt and a response. Templates without such a header (Mistral), or
        that always put it, need no generation prompt.
        """
        asked = _messages(_QUESTION)
        prompt = self._render_text(asked)
        answered = self._render_text(_messages(_QUESTION, _RESPONSE, _FEEDBACK))
        before = answered.partition(_RESPONSE)[0]
        header = before.removeprefix(prompt).strip() if before.startswith(prompt) else ""
        if header and prompt == self._render_text(asked, prompt=False):
            raise UserError(
                f"{self.name}: the chat template ignores add_generation_prompt: a prompt does not "
                f"end with the {header!r} that it puts before a response; give a chat_template "
                "that adds it"
            )

    def _describe_rewriting(self) -> str | None:
        prompt = self._render_text(_messages(_QUESTION))
        one = self._render_text(_messages(_QUESTION, _RESPONSE, _FEEDBACK))
        before, _, after = one.partition(_RESPONSE)
        found = []
        if not before.startswith(prompt):
            pairs = zip(before, prompt, strict=False)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            new, old = before[same:], prompt[same:]
            found.append(f"puts {new!r} for {old!r}" if new else f"drops {old!r} from the prompt")
        thought = f"<think>\n{_THOUGHT}\n</think>\n\n{_RESPONSE}"
        if _THOUGHT not in self._render_text(_messages(_QUESTION, thought, _FEEDBACK)):
            found.append("drops <think> blocks")
        if f"{_RESPONSE} \n{after}" not in self._render_text(
            _messages(_QUESTION, f"{_RESPONSE} \n", _FEEDBACK)
        ):
            found.append("trims white space")
        if self._moves_system(after):
            found.append("moves the system message to the last user message")
        if not found:
            return None
        return (
            f"{self.name}: the chat template rewrites earlier turns ({', '.join(found)}); "
            "they are kept as they were shown and sampled"
        )

    def _moves_system(self, after: str) -> bool:
        system = {"role": "system", "content": _SYSTEM}
        try:
            rendered = self._render_text([system, *_messages(_QUESTION, _RESPONSE, _FEEDBACK)])
        except UserError:
            return False  # no system messages with this template; `start` says so if one comes
        return rendered.partition(_RESPONSE)[2] != after


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stop strings to occur in it, and whether any did."""
    places = [text.index(string) for string in stop if string in text]
    return (text[: min(places)], True) if places else (text, False)


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


def _unique_ids(groups: Sequence[Any], name: str) -> tuple[int, ...]:
    """The ids among numbers, lists and None, each once."""
    lists = [group if isinstance(group, list) else [group] for group in groups if group is not None]
    ids = [token for one in lists for token in one]
    mend = "mend eos_token_id in generation_config.json"
    if wrong := [token for token in ids if type(token) is not int or not 0 <= token < 2**31]:
        told = str(wrong[0])[:100]
        raise UserError(f"{name}: {told!r} is no id of a token that ends a response; {mend}")
    if len(ids) > _MOST_ENDS:
        raise UserError(f"{name}: {len(ids):,} tokens end a response; {mend}")
    return tuple(dict.fromkeys(ids))
