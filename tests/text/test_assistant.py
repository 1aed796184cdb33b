"""The assistant's tokens of a conversation, by `{% generation %}` or by where an answer's text begins and ends."""

import pytest

from vishwamai.errors import InputError
from vishwamai.text.assistant import encode_training_chat
from vishwamai.text.templates import PLAIN_TEMPLATE
from vishwamai.text.tokenizer import VishwamAITokenizer

MARKED = """{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}
{% generation %}{{ m.content }}<|eos|>{% endgeneration %}{% else %}{{ m.content }}<|eos|>{% endif %}{% endfor %}"""
LLAMA = (
    "{% for m in messages %}{{ '[INST] ' ~ m.content ~ ' [/INST]' if m.role == 'user' else ' ' ~ m.content ~ ' ' ~ "
    "eos_token }}{% endfor %}"
)
THINKING = """{% for m in messages %}<|{{ m.role }}|>
{%- set c = m.content.split('</think>')[-1] if not loop.last else m.content %}{{ c | trim }}
{%- for call in m.tool_calls or [] %}<call>{{ call.name }}</call>{% endfor %}<|eos|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "yes?"},
    {"role": "assistant", "content": "<think>so</think>yes, yes"},
    {"role": "user", "content": "yes, yes"},
    {"role": "assistant", "content": " <think>so</think> ünd so "},
]


@pytest.fixture(scope="module")
def own() -> VishwamAITokenizer:
    return VishwamAITokenizer.bytes()


def said(tokenizer, messages, **given) -> list[str]:
    """The text of each run of the assistant's tokens."""
    ids, mask = encode_training_chat(tokenizer, messages, **given)
    assert len(ids) == len(mask)
    runs: list[list[int]] = []
    for before, on, index in zip([0, *mask], mask, ids, strict=False):
        if on:
            runs = [*runs, [index]] if not before else [*runs[:-1], [*runs[-1], index]]
    return [tokenizer.decode(run) for run in runs]


def test_by_our_own_template(own):
    assert said(own, TALK) == ["<think>so</think>yes, yes<|eos|>", " <think>so</think> ünd so <|eos|>"]


def test_by_the_templates_own_marks(own):
    talk = [TALK[1], TALK[2], TALK[1], {"role": "assistant", "content": "é"}]
    assert said(own, talk, chat_template=MARKED) == ["<think>so</think>yes, yes<|eos|>", "é<|eos|>"]
    spaced = MARKED.replace("{% generation %}", "{%- generation -%}")
    assert said(own, talk, chat_template=spaced)[1] == "é<|eos|>"
    without_end = MARKED.replace("<|eos|>{% endgeneration %}", "{% endgeneration %}<|eos|>")
    assert said(own, talk, chat_template=without_end)[1] == "é"


def test_marks_within_a_macro_a_filter_and_a_block(own):
    template = (
        "{% macro show(m) %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}"
        "{{ m.content }}{% endif %}{% endmacro %}{% for m in messages %}{% set x %}[{{ show(m) }}]{% endset %}"
        "{{ x | upper }}{% endfor %}"
    )
    assert said(own, TALK, chat_template=template) == ["<THINK>SO</THINK>YES, YES", " <THINK>SO</THINK> ÜND SO "]


def test_spaces_between_the_question_and_the_end_are_the_assistants_to_write(own):
    talk = [TALK[1], {"role": "assistant", "content": "no"}, TALK[1], {"role": "assistant", "content": "é"}]
    assert said(own, talk, chat_template=LLAMA) == [" no <|eos|>", " é <|eos|>"]


def test_what_a_template_puts_before_the_end_is_the_assistants_and_what_it_puts_after_is_not(own):
    template = LLAMA.replace("' ' ~ eos_token", "' (end)' ~ eos_token ~ ' (over) '")
    assert said(own, [TALK[1], {"role": "assistant", "content": "no"}], chat_template=template) == [" no (end)<|eos|>"]


def test_typed_control_tokens_move_nothing(own):
    template = "{% for m in messages %}{{ m.content.split('<|eos|>')[0] }}<|eos|>{% endfor %}"
    talk = [{"role": "user", "content": "a<|eos|>b"}, {"role": "assistant", "content": "no"}]
    assert said(own, talk, chat_template=template) == said(own, talk) == ["no<|eos|>"]
    ids, mask = encode_training_chat(own, talk, chat_template=template)
    assert own.decode(ids) == "a<|eos|>no<|eos|>" and mask == [0, 0, 1, 1, 1]


def test_thoughts_that_a_template_drops_and_calls_of_tools(own):
    call = {"role": "assistant", "content": "<think>hm</think>I look.", "tool_calls": [{"name": "f"}]}
    talk = [TALK[1], call, {"role": "tool", "content": "42"}, TALK[4]]
    assert said(own, talk, chat_template=THINKING) == [
        "I look.<call>f</call><|eos|>",
        "<think>so</think> ünd so<|eos|>",
    ]


def test_an_answer_that_is_like_its_neighbours(own):
    for text in ("<|eos|>", "yes", "eos|>", "assistant", " content\n"):
        talk = [{"role": "user", "content": text}, {"role": "assistant", "content": text}] * 2
        assert said(own, talk) == [f"{text}<|eos|>"] * 2


def test_a_template_without_control_tokens(own):
    talk = [TALK[1], {"role": "assistant", "content": "a \n\nb\n"}, TALK[1], {"role": "assistant", "content": "'c'"}]
    assert said(own, talk, chat_template=PLAIN_TEMPLATE) == [" a \n\nb", " 'c'"]


def test_a_name_that_the_next_turn_says_again(own):
    """A tool's turn is headed by the name of the call before it."""
    template = (
        "{% set ns = namespace(name='') %}{% for m in messages %}{% if m.tool_calls %}"
        "{% set ns.name = m.tool_calls[0].name %}<|assistant|>{{ ns.name }}()<|eos|>"
        "{% elif m.role == 'tool' %}<|tool|>{{ ns.name }}: {{ m.content }}<|eos|>"
        "{% else %}<|{{ m.role }}|>{{ m.content }}<|eos|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "look"}]}
    talk = [TALK[1], call, {"role": "tool", "content": "42"}, {"role": "assistant", "content": "so 42"}]
    assert said(own, talk, chat_template=template) == ["look()<|eos|>", "so 42<|eos|>"]
    without_ends = template.replace("()<|eos|>", "()\\n").replace("<|tool|>", "")
    with pytest.raises(InputError, match=r"puts ': ' after messages\[1\] and '\(\)"):
        said(own, talk, chat_template=without_ends)


def test_another_token_ends_the_chat_than_a_turn(own):
    template = answers("{{ m.content }}").replace(
        "<|eos|>{% else %}", "{{ '<|pad|>' if loop.last else '<|eos|>' }}{% else %}"
    )
    talk = [TALK[1], {"role": "assistant", "content": "no"}] * 2
    assert said(own, talk, chat_template=template) == ["no<|eos|>", "no<|pad|>"]


def test_only_the_turns_that_are_to_be_learnt(own):
    ids, mask = encode_training_chat(own, TALK, [4])
    assert own.decode([i for i, on in zip(ids, mask, strict=True) if on]) == " <think>so</think> ünd so <|eos|>"
    ids, mask = encode_training_chat(own, TALK[1:3] * 2, [3], chat_template=MARKED)
    assert own.decode([i for i, on in zip(ids, mask, strict=True) if on]) == "<think>so</think>yes, yes<|eos|>"
    assert mask[-1] and sum(mask) == len("<think>so</think>yes, yes") + 1


def test_marks_round_more_than_the_assistant_writes_are_cut(own):
    """As SmolLM3's template marks its turns: with the prompt for them, and with the line's end."""
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ '<|assistant|>\n' ~ m.content ~ "
        "'<|eos|>\n' }}{% endgeneration %}{% else %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|eos|>\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    assert said(own, TALK, chat_template=template) == [
        "<think>so</think>yes, yes<|eos|>",
        f"{TALK[4]['content']}<|eos|>",
    ]
    batch = own.apply_chat_template(TALK, chat_template=template, return_assistant_tokens_mask=True)
    marked = own.decode([i for i, on in zip(batch.input_ids, batch.assistant_masks, strict=True) if on])
    assert marked.startswith("<|assistant|>\n") and marked.endswith("<|eos|>\n")  # as in transformers


def answers(content: str, before: str = "<|assistant|>", asked: str = "<|assistant|>") -> str:
    """A template with this in the place of an answer's content, this before it, and this where it asks for it."""
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}" + before + content + "<|eos|>{% else %}<|user|>"
        "{{ m.content }}<|eos|>{% endif %}{% endfor %}{% if add_generation_prompt %}" + asked + "{% endif %}"
    )


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (answers("{{ m.content }}{{ messages[0].content }}{{ m.content }}"), "words of others between .*messages.1"),
        (
            answers("{{ m.content }}", asked="<|tool|>"),
            "'<.eos.><.assistant.>' before messages.1., and '<.eos.><.tool.>'",
        ),
        (answers("{{ m.content }}", before="", asked="<|assistant|>"), "'<.eos.>' before messages.1., and"),
        (answers("{{ m.content }}", asked="{{ messages[5].content }}"), "asks for messages.1. cannot be made"),
        (answers("{{ m.content }}{{ messages[2].content and '' }}"), "ends with messages.1. cannot be made"),
        (
            answers("{{ m.content }}{{ '.' if loop.last else '!' }}"),
            "puts '!<.eos.><.user.>' after .* and '.<.eos.>' in a",
        ),
    ],
)
def test_a_template_that_cannot_be_aligned_with_its_parts_is_refused(own, template, says):
    talk = [TALK[1], {"role": "assistant", "content": "no"}, TALK[1]]
    with pytest.raises(InputError, match=says):
        encode_training_chat(own, talk, chat_template=template)
    with pytest.raises(InputError, match=r"nothing of messages\[1\] is a word"):
        encode_training_chat(own, [TALK[1], {"role": "assistant", "content": " \n"}])
