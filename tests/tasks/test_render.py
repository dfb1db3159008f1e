"""Prompts and answers become the tokens that the model would see in running text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from zofo.errors import BadInput
from zofo.scoring.batch import Encoded
from zofo.scoring.tokens import bare_ids
from zofo.tasks.definition import Task, find
from zofo.tasks.render import Style, check_choices, demonstration, encode, encode_rows

CORPUS = ["a fine quiet film . It was great", "a dull film . It was terrible", "It was great It was terrible"] * 20
SPECIAL = ["<s>", "</s>", "<unk>"]
LETTERS = sorted({chr(k) for k in range(32, 127)} | {"\n"})
CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
TALK = [{"role": "user", "content": "how was it?"}, {"role": "assistant", "content": "great fun"}]
ROW = {"sentence": "a fine quiet film .", "label": 1}


def made(tokenizer: Tokenizer, post: str | None = None, **names: str) -> PreTrainedTokenizerFast:
    if post is not None:
        tokenizer.post_processor = processors.TemplateProcessing(single=post, special_tokens=[("<s>", 0), ("</s>", 1)])
    names = names or {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", model_max_length=16, **names)


def trained(pre: Any, post: str | None = None, corpus: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre
    bytes_ = pre_tokenizers.ByteLevel.alphabet() if isinstance(pre, pre_tokenizers.ByteLevel) else []
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=bytes_, show_progress=False)
    tokenizer.train_from_iterator(corpus or CORPUS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return made(tokenizer, post)


def spelled(*merges: tuple[str, str], post: str | None = None, **names: str) -> PreTrainedTokenizerFast:
    """A token a letter, but for these merges, which know no border of words."""
    tokens = [*SPECIAL, *LETTERS, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: k for k, token in enumerate(tokens)}, merges=list(merges)))
    tokenizer.decoder = decoders.Fuse()
    return made(tokenizer, post, **names)


@pytest.fixture(scope="module")
def gpt() -> PreTrainedTokenizerFast:
    """Words with the space before them, no special tokens, as GPT-2 and SmolLM2."""
    return trained(pre_tokenizers.ByteLevel(add_prefix_space=False))


@pytest.fixture(scope="module")
def wrapped() -> PreTrainedTokenizerFast:
    """BOS in front and EOS behind of plain text."""
    return trained(pre_tokenizers.ByteLevel(add_prefix_space=False), "<s> $A </s>")


@pytest.fixture(params=["gpt", "wrapped"])
def either(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def chatty() -> PreTrainedTokenizerFast:
    """Letters, and a chat template."""
    tokenizer = spelled()
    tokenizer.chat_template = CHAT
    return tokenizer


def task(template: str = "{{ sentence }} It was", **more: Any) -> Task:
    return Task(name="t", template=template, **({"choices": ("terrible", "great")} | more))


def talk(messages: Any, tokenizer: Any, **more: Any) -> Encoded:
    return encode(task(chat="messages", **more), {"messages": messages}, tokenizer, asked="mine.jsonl, row 7")


def whole(found: Encoded, k: int) -> list[int]:
    return list(found.context + found.answers[k])


def size(found: Encoded) -> int:
    return len(found.context) + max(map(len, found.answers))


# One text


def test_prompt_and_answer_together_are_the_tokens_of_the_whole_text(gpt: Any) -> None:
    found = encode(find("sst2"), ROW, gpt)
    for k, choice in enumerate(("terrible", "great")):
        assert whole(found, k) == gpt(f"a fine quiet film . It was {choice}")["input_ids"]
        assert gpt.decode(found.answers[k]) == f" {choice}"
    assert (found.label, found.cut, found.skip, found.texts) == (1, False, (), ("terrible", "great"))
    free = encode(find("sst2"), ROW, gpt, Style(hard_prompt=False))
    assert gpt.decode(free.context) == "a fine quiet film ." and free.answers == found.answers


def test_demonstrations_prompt_and_answer_are_one_text() -> None:
    tokenizer = spelled(("\n", "a"), (".", "\n"))
    shots = [demonstration(task(separator="\n"), row, tokenizer, Style(), "x") for row in (ROW, ROW | {"label": 0})]
    assert shots == ["a fine quiet film . It was great\n", "a fine quiet film . It was terrible\n"]
    found = encode(task(), ROW, tokenizer, shots=shots)
    for k, choice in enumerate(("terrible", "great")):
        assert whole(found, k) == tokenizer("".join(shots) + f"a fine quiet film . It was {choice}")["input_ids"]
    assert tokenizer.convert_tokens_to_ids("\na") in found.context, "merged over the border of two demonstrations"


def test_a_demonstration_holds_the_first_right_answer_as_it_is_scored(gpt: Any) -> None:
    options = task(choices=(), options="o", answer="{{ choice }}!", template="{{ q }}", separator="|")
    assert demonstration(options, {"q": "Q", "o": ["a", "b"], "label": ["b", "a"]}, gpt, Style(), "x") == "Q b!|"
    text = task(choices=(), metrics=("f1",), template="{{ q }}\n")
    assert demonstration(text, {"q": "Q", "label": ["one", "two"]}, gpt, Style(), "x") == "Q\none\n\n"


@pytest.mark.parametrize("end", ["\n", " "])
def test_no_space_is_added_after_white_space(gpt: Any, end: str) -> None:
    found = encode(task("{{ sentence }}:" + end), ROW, gpt)
    assert gpt.decode(whole(found, 1)) == f"a fine quiet film .:{end}great"


def test_a_token_merged_over_the_border_is_scored() -> None:
    tokenizer = spelled((" ", "g"), ("s", " g"), (" ", "b"), ("s", " b"))
    found = encode(task("It was", choices=("bad", "good")), {"label": 1}, tokenizer)
    assert tokenizer.convert_ids_to_tokens(found.answers[1]) == ["s g", "o", "o", "d"]
    assert tokenizer.decode(found.context) == "It wa" and found.skip == ()
    assert [whole(found, k) for k in (0, 1)] == [tokenizer(f"It was {c}")["input_ids"] for c in ("bad", "good")]


def test_a_whole_prompt_that_melts_into_its_answers_leaves_bos_as_the_context() -> None:
    tokenizer = spelled(("s", " "), ("s ", "g"), ("s ", "b"))
    found = encode(task("s", choices=("bad", "good")), {"label": 1}, tokenizer)
    assert found.context == (tokenizer.bos_token_id,)
    assert tokenizer.convert_ids_to_tokens(found.answers[0]) == ["s b", "a", "d"]


def test_choices_with_different_borders_share_the_shorter_context_and_skip_what_is_not_scored() -> None:
    tokenizer = spelled((" ", "g"), ("s", " g"))
    found = encode(task("It was", choices=("bad", "good")), {"label": 0}, tokenizer)
    assert tokenizer.decode(found.context) == "It wa"
    assert [tokenizer.convert_ids_to_tokens(ids) for ids in found.answers] == [
        ["s", " ", "b", "a", "d"],
        ["s g", "o", "o", "d"],
    ]
    assert found.skip == (1, 0), "the s of `was` belongs to the prompt of `bad`"


def test_a_prompt_that_is_parted_another_way_before_each_choice_is_shared_as_far_as_it_agrees() -> None:
    tokenizer = spelled(("\n", "b"), ("\n", "\n"))
    found = encode(task("x\n\n", choices=("b", "c")), {"label": 0}, tokenizer)
    assert tokenizer.decode(found.context) == "x"
    assert [tokenizer.convert_ids_to_tokens(ids) for ids in found.answers] == [["\n", "\nb"], ["\n\n", "c"]]
    assert found.skip == (1, 1)


def test_choices_that_begin_alike_are_scored_from_their_beginning() -> None:
    tokenizer = spelled()
    found = encode(task(choices=("good", "good fun")), {"sentence": "x", "label": 0}, tokenizer)
    assert [tokenizer.decode(ids) for ids in found.answers] == [" good", " good fun"] and found.skip == ()


def test_a_tokenizer_that_cannot_say_where_a_token_stands_gives_the_same() -> None:
    fast = spelled((" ", "g"), ("s", " g"))

    class Slow:
        """As a tokenizer written in Python answers."""

        bos_token, bos_token_id, eos_token, eos_token_id = "<s>", 0, "</s>", 1

        def __call__(self, text: Any, **more: Any) -> dict[str, Any]:
            return {"input_ids": fast(text, **more)["input_ids"]}

    made_task = task("It was", choices=("bad", "good"))
    assert encode(made_task, {"label": 0}, Slow()) == encode(made_task, {"label": 0}, fast)


# Special tokens


def test_bos_stands_in_front_and_nothing_behind_the_prompt(wrapped: Any) -> None:
    found = encode(task(), ROW, wrapped)
    assert whole(found, 1) == wrapped("a fine quiet film . It was great")["input_ids"][:-1]
    assert found.context.count(wrapped.bos_token_id) == 1 and found.context[0] == wrapped.bos_token_id


def test_an_answer_without_a_prompt_stands_after_bos_or_else_eos(wrapped: Any) -> None:
    empty = {"sentence": "", "label": 1}
    made_task = task("{{ sentence }}")
    assert encode(made_task, empty, wrapped).context == (0,), "what the tokenizer puts in front"
    assert encode(made_task, empty, spelled(post="</s> $A")).context == (1,), "the same, though it is not called BOS"
    assert encode(made_task, empty, spelled()).context == (0,), "BOS"
    assert encode(made_task, empty, spelled(eos_token="</s>")).context == (1,), "no BOS: end of text"
    assert spelled().decode(encode(made_task, empty, spelled()).answers[1]) == "great", "no space in front"
    with pytest.raises(BadInput, match="mine, row 3: the prompt has no token"):
        encode(made_task, empty, spelled(pad_token="</s>"), asked="mine, row 3")


@pytest.mark.parametrize("end", [True, False])
def test_end_closes_an_answer_with_the_end_of_text_token(either: Any, end: bool) -> None:
    found = encode(task(end=end), ROW, either)
    assert [ids[-1] == either.eos_token_id for ids in found.answers] == [end, end]
    assert either.decode(found.answers[1], skip_special_tokens=True) == " great"
    assert either.eos_token_id not in found.context


# Length


def test_a_long_prompt_is_cut_on_the_left_and_keeps_bos_and_answer(wrapped: Any) -> None:
    row = {"sentence": "a dull film . " * 30, "label": 0}
    long, found = encode(task(), row, wrapped), encode(task(), row, wrapped, Style(max_length=12))
    longest = max(map(len, long.answers))
    assert found.cut and not long.cut
    assert size(found) == 12 and found.answers == long.answers
    assert found.context == long.context[:1] + long.context[-(11 - longest) :]


@pytest.mark.parametrize("shorten", [None, "sentence"])
def test_a_prompt_that_just_fits_is_not_cut(either: Any, shorten: str | None) -> None:
    made_task = task(shorten=shorten)
    long = encode(made_task, ROW, either)
    assert encode(made_task, ROW, either, Style(max_length=size(long))) == long
    less = encode(made_task, ROW, either, Style(max_length=size(long) - 1))
    assert less.cut and size(less) < size(long)


PASSAGE = "the first words stay . " + "then come many others " * 20
ABOUT = {"passage": PASSAGE, "question": "a fine quiet film ?", "label": "great"}


@pytest.mark.parametrize("limit", [40, 60, 90])
def test_only_the_named_field_loses_text_and_only_at_its_end(either: Any, limit: int) -> None:
    made_task = Task(name="t", template="P: {{ passage }}\nQ: {{ question }}", shorten="passage", metrics=("f1",))
    found = encode(made_task, ABOUT, either, Style(max_length=limit))
    text = either.decode(whole(found, 0), skip_special_tokens=True)
    assert text.startswith("P: ") and text.endswith("\nQ: a fine quiet film ? great\n")
    kept = text.removeprefix("P: ").removesuffix("\nQ: a fine quiet film ? great\n")
    assert PASSAGE.startswith(kept) and 0 < len(kept) < len(PASSAGE)
    assert found.cut and limit - 8 <= size(found) <= limit, "no more is lost than has to be"


def test_all_answers_stay_whole_where_a_field_is_shortened(wrapped: Any) -> None:
    made_task = task("{{ passage }}\n{{ question }}", shorten="passage", choices=("great", "terrible dull film"))
    found = encode(made_task, ABOUT | {"label": 0}, wrapped, Style(max_length=30))
    assert [wrapped.decode(ids) for ids in found.answers] == [" great", " terrible dull film"]
    assert found.cut and size(found) <= 30 and found.context[0] == wrapped.bos_token_id


def test_a_field_of_letters_beyond_ascii_is_shortened_too(gpt: Any) -> None:
    found = encode(task(shorten="sentence"), {"sentence": "日本" * 90, "label": 1}, gpt, Style(max_length=50))
    text = gpt.decode(whole(found, 1))
    assert found.cut and size(found) <= 50 and ("日本" * 90).startswith(text.removesuffix(" It was great"))


def test_no_room_for_the_rest_of_the_row_is_bad_input(either: Any) -> None:
    made_task = task("{{ passage }}\n{{ question }}", shorten="passage")
    rest = encode(made_task, ABOUT | {"label": 1, "passage": ""}, either)
    assert encode(made_task, ABOUT | {"label": 1}, either, Style(max_length=size(rest))).context == rest.context
    limit = size(rest) - 1
    with pytest.raises(BadInput, match=rf"--data.max_length {limit}, mine, row 7: no room .* beside 'passage'"):
        encode(made_task, ABOUT | {"label": 1}, either, Style(max_length=limit), "mine, row 7")


def test_no_room_for_a_prompt_is_bad_input(either: Any) -> None:
    longest = max(map(len, encode(task(), ROW, either).answers))
    assert size(encode(task(), ROW, either, Style(max_length=longest + 1))) == longest + 1
    with pytest.raises(BadInput, match=rf"--data.max_length {longest}, mine, row 7: no room for a prompt"):
        encode(task(), ROW, either, Style(max_length=longest), "mine, row 7")


# Demonstrations


SHOTS = [f"{word} film . It was great\n\n" for word in ("fine", "quiet", "dull", "a")]


@pytest.mark.parametrize("shorten", [None, "sentence"])
def test_max_length_does_not_count_demonstrations(either: Any, shorten: str | None) -> None:
    alone = encode(task(shorten=shorten), ROW, either)
    found = encode(task(shorten=shorten), ROW, either, Style(max_length=size(alone)), shots=SHOTS)
    assert not found.cut and found.left_out == 0
    assert (
        either.decode(whole(found, 1), skip_special_tokens=True) == "".join(SHOTS) + "a fine quiet film . It was great"
    )


@pytest.mark.parametrize("shorten", [None, "sentence"])
def test_a_row_too_long_loses_its_own_text_and_leaves_demonstrations_whole(wrapped: Any, shorten: str | None) -> None:
    row = {"sentence": "a dull film . " * 30, "label": 1}
    found = encode(task(shorten=shorten), row, wrapped, Style(max_length=20), shots=SHOTS)
    shots = bare_ids(wrapped, "".join(SHOTS))
    assert found.context[: len(shots) + 1] == (0, *shots)
    assert found.cut and size(found) <= len(shots) + 20


@pytest.mark.parametrize("post", [None, "<s> $A </s>"])
def test_a_tokenizer_that_joins_the_end_of_a_demonstration_otherwise_leaves_it_whole_too(post: str | None) -> None:
    """Two newlines are one token at the end of a text, and two before a word: a row that is cut begins behind both."""
    joining = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), post, [*CORPUS, *["film\n\n"] * 99])
    end = len(bare_ids(joining, "film\n\n")) - len(bare_ids(joining, "film"))
    assert end == 1 and bare_ids(joining, "film\n\nfine")[1:3] == bare_ids(joining, "\n") * 2
    row = {"sentence": "a dull film . " * 30, "label": 1}
    found = encode(task(), row, joining, Style(max_length=20), shots=SHOTS)
    text = joining.decode(found.context, skip_special_tokens=True)
    assert text.startswith("".join(SHOTS)) and text.endswith("film .  It was") and found.cut
    assert found.context[:1] == (0,) or post is None


def test_an_answer_that_leaves_its_prompt_no_room_is_refused_behind_demonstrations_too(either: Any) -> None:
    longest = max(map(len, encode(task(), ROW, either).answers))
    for shots in ((), SHOTS):
        with pytest.raises(BadInput, match=r"no room for a prompt beside the answer"):
            encode(task(), ROW, either, Style(max_length=longest), "mine, row 7", shots)


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4])
def test_demonstrations_beyond_what_the_model_reads_are_left_out_from_the_front(either: Any, kept: int) -> None:
    shots = SHOTS[len(SHOTS) - kept :]
    positions = size(encode(task(), ROW, either)) + sum(len(bare_ids(either, shot)) + 1 for shot in shots)
    found = encode(task(), ROW, either, Style(max_length=20, positions=positions), shots=SHOTS)
    expected = encode(task(), ROW, either, Style(max_length=20), shots=shots)
    assert found == replace(expected, left_out=len(SHOTS) - kept)
    assert size(found) <= positions


def test_a_demonstration_that_misses_by_one_token_is_left_out(either: Any) -> None:
    positions = size(encode(task(), ROW, either)) + sum(len(bare_ids(either, shot)) + 1 for shot in SHOTS) - 1
    found = encode(task(), ROW, either, Style(max_length=20, positions=positions), shots=SHOTS)
    assert found.left_out == 1
    assert either.decode(found.context, skip_special_tokens=True).startswith(SHOTS[1])


# The prompt without a row


def test_the_task_alone_is_its_own_template_and_the_answers(either: Any) -> None:
    found = encode(task(template_task="It was", shorten="sentence"), ROW, either, Style(task_only=True))
    assert either.decode(found.context, skip_special_tokens=True) == "It was"
    assert found.answers == encode(task(), ROW, either).answers


def test_the_task_alone_without_a_template_is_the_answers_alone() -> None:
    tokenizer = spelled()
    found = encode(task(), ROW, tokenizer, Style(task_only=True))
    assert found.context == (tokenizer.bos_token_id,) and tokenizer.decode(found.answers[1]) == "great"


def test_the_task_alone_is_cut_on_the_left_where_it_is_too_long(either: Any) -> None:
    made_task = task(template_task="a dull film . " * 3 + "It was", shorten="sentence")
    found = encode(made_task, ROW, either, Style(task_only=True, max_length=7))
    assert found.cut and size(found) == 7 and either.decode(found.context).endswith("It was")


# Conversations


def test_a_conversation_is_rendered_by_the_chat_template(chatty: Any) -> None:
    found = talk(TALK, chatty)
    assert chatty.decode(found.context) == "[user]how was it?</s>[assistant]"
    assert chatty.decode(found.answers[0]) == "great fun</s>"
    assert whole(found, 0) == chatty("[user]how was it?</s>[assistant]great fun</s>")["input_ids"]
    assert (found.label, found.texts) == (0, ("great fun",))


def test_all_messages_but_the_last_are_the_prompt(chatty: Any) -> None:
    found = talk([*TALK, *TALK], chatty)
    assert (
        chatty.decode(found.context) == "[user]how was it?</s>[assistant]great fun</s>[user]how was it?</s>[assistant]"
    )


def test_a_chat_template_that_writes_bos_gets_no_second() -> None:
    tokenizer = spelled(post="<s> $A")
    tokenizer.chat_template = CHAT
    assert tokenizer.decode(talk(TALK, tokenizer).context) == "<s>[user]how was it?</s>[assistant]"
    tokenizer.chat_template = "<s>" + CHAT
    assert tokenizer.decode(talk(TALK, tokenizer).context) == "<s>[user]how was it?</s>[assistant]"


@pytest.mark.parametrize(
    "messages",
    [
        TALK[:1], TALK[1:], TALK[::-1], [], None, "great fun", [TALK[0], "great fun"],
        [TALK[0], {"role": "assistant", "content": " "}], [TALK[0], {"role": "assistant"}],
    ],
)  # fmt: skip
def test_a_conversation_that_does_not_end_with_the_assistant_is_refused(chatty: Any, messages: Any) -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: field 'messages' is no list of messages that ends with"):
        talk(messages, chatty)


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({"content": "x"}, "message 1 has no role; write"),
        ({"role": " ", "content": "x"}, "message 1 has no role"),
        ({"role": None, "content": "x"}, "message 1 has no role"),
        ({"role": "user"}, "message 1 has no content; write a text there"),
        ({"role": "user", "content": None}, "message 1 has no content"),
    ],
)
def test_a_message_that_nobody_says_or_that_says_nothing_is_named(chatty: Any, message: Any, found: str) -> None:
    with pytest.raises(BadInput, match=f"^mine.jsonl, row 7: {found}"):
        talk([message, *TALK], chatty)


def test_a_tools_call_needs_no_content(chatty: Any) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    assert talk([call, *TALK], chatty).context != talk(TALK, chatty).context


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def test_a_content_in_text_parts_is_their_texts_joined(chatty: Any) -> None:
    listed = [
        {"role": "user", "content": parts("how was ", "it?")},
        {"role": "assistant", "content": parts("great fun")},
    ]
    assert talk(listed, chatty) == talk(TALK, chatty)
    assert listed[0]["content"] == parts("how was ", "it?"), "the row stays as it is"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([{"type": "image", "url": "x"}], "has a part that is no text; write a text, or a list of"),
        (["great"], "has a part that is no text"),
        ([{"type": "text", "text": 3}], "has a part that is no text"),
        ({"type": "text", "text": "x"}, "is an object; write a text there"),
        (float("nan"), "is NaN; write a text there"),
        (True, "is a truth value; write a text there"),
    ],
)
def test_a_content_that_is_no_text_is_refused(chatty: Any, content: Any, found: str) -> None:
    for k, role in enumerate(("user", "assistant")):
        messages = [*TALK[:k], {"role": role, "content": content}, *TALK[k + 1 :]]
        with pytest.raises(BadInput, match=f"^mine.jsonl, row 7: a message's content {found}"):
            talk(messages, chatty)


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    with pytest.raises(BadInput, match=r"mine.jsonl, row 7: this model's tokenizer has no chat template"):
        talk(TALK, spelled())


def test_a_chat_template_that_refuses_a_row_or_changes_earlier_messages_is_told() -> None:
    tokenizer = spelled()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadInput, match=r"row 7: the chat template refuses this row \(roles must alternate\)"):
        talk(TALK, tokenizer)
    tokenizer.chat_template = "{{ messages | length }}" + CHAT
    with pytest.raises(BadInput, match="row 7: the chat template changes earlier messages"):
        talk(TALK, tokenizer)


def test_a_conversation_is_no_demonstration(chatty: Any) -> None:
    with pytest.raises(BadInput, match="conversations cannot be demonstrations"):
        demonstration(task(chat="messages"), {"messages": TALK}, chatty, Style(), "x")


# What is refused


def test_an_error_names_the_row_as_it_was_called_or_numbered_from_one(gpt: Any) -> None:
    with pytest.raises(BadInput, match=r"task t, row 2: "):
        encode_rows(task(), [ROW, {"label": 0}], gpt)
    with pytest.raises(BadInput, match=r"b.jsonl, row 9: "):
        encode_rows(task(), [ROW, {"label": 0}], gpt, named=["a.jsonl, row 1", "b.jsonl, row 9"])


def test_rows_are_encoded_in_order_each_with_its_own_demonstrations(gpt: Any) -> None:
    rows, shots = [ROW, ROW | {"label": 0}], [SHOTS[:1], SHOTS[1:]]
    found = encode_rows(task(), rows, gpt, Style(max_length=30), shots=shots)
    alone = [encode(task(), row, gpt, Style(max_length=30), shots=own) for row, own in zip(rows, shots, strict=True)]
    assert list(found) == alone and found[0].context != found[1].context


def test_choices_are_told_apart_before_any_model(gpt: Any) -> None:
    check_choices(find("sst2"), gpt)
    with pytest.raises(BadInput, match=r"'日' and '本' become the same tokens"):
        check_choices(task(choices=("日", "本")), trained(pre_tokenizers.Whitespace()))


def test_two_options_of_the_same_tokens_are_bad_input_that_names_the_row(gpt: Any) -> None:
    options = task("{{ q }}", choices=(), options="o")
    with pytest.raises(BadInput, match=r"mine, row 7: choices 'great' and 'great' become the same tokens"):
        encode(options, {"q": "x", "o": ["great", "dull", "great"], "label": 1}, gpt, asked="mine, row 7")


def test_a_choice_of_no_token_is_refused() -> None:
    class Deaf:
        """Drops what it does not know."""

        bos_token = bos_token_id = eos_token_id = None

        def __call__(self, text: Any, **_: Any) -> dict[str, Any]:
            made = [
                [ord(letter) for letter in one if letter in "xab"]
                for one in ([text] if isinstance(text, str) else text)
            ]
            return {"input_ids": made[0] if isinstance(text, str) else made}

    with pytest.raises(BadInput, match="'q' becomes no token"):
        check_choices(task(choices=("a", "q")), Deaf())


def test_a_free_answer_is_closed_by_the_newline_that_generation_stops_at(gpt: Any) -> None:
    free = Task(name="t", template="{{ sentence }} =", metrics=("f1",))
    row = {"sentence": "a film", "label": ["great", "bad"]}
    assert gpt.decode(encode(free, row, gpt).answers[0]) == " great\n"
    assert demonstration(free, row, gpt, Style(), "row") == "a film = great\n\n"
    assert gpt.decode(encode(free.model_copy(update={"stop": "end"}), row, gpt).answers[0]) == " great"


def test_an_answer_that_brings_its_space_gets_no_other(gpt: Any) -> None:
    row = {"sentence": "a film", "label": " great"}
    assert (
        gpt.decode(encode(Task(name="t", template="{{ sentence }}", metrics=(), stop="end"), row, gpt).answers[0])
        == " great"
    )
