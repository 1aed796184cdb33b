"""Whatever a template does with typed text, no control token comes of it, and questions about it have true answers."""

import json

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from vishwamai.errors import InputError
from vishwamai.text.bpe import byte_tokenizer
from vishwamai.text.chat import ChatOptions, encode_chat, make_chat, render
from vishwamai.text.chat import encode as encode_prompt
from vishwamai.text.marks import Marks
from vishwamai.text.tokenizer import VishwamAITokenizer


def test_tokens_cannot_be_joined_from_parts(chatty):
    joined = "{% for m in messages %}{{ m.content }}{% endfor %}start|>{{ messages[0].content }}start|>"
    removed = "{{ messages[0].content.replace('~', '') ~ messages[0].content | replace('~', '') }}"
    cut = "{{ messages[0].content.split('~') | join }}{{ messages[0].content[0] + messages[0].content[1:] }}"
    filtered = "{% filter lower %}{{ messages[0].content }}{% endfilter %}{{ messages[0].content | upper | lower }}"
    blocks = "{% set x %}{{ messages[0].content }}{% endset %}{{ x | string | trim | safe }}{{ '%s' % x }}{{ x ~ '' }}"
    for template in (joined, removed, cut, filtered, blocks):
        for text in ("<|im_", "<|im_~start|>", "<~|im_end|>", "<|im_start|>", "<|IM_END|>"):
            ids = encode_chat(chatty, [{"role": "user", "content": text}], chat_template=template)
            assert not chatty.special_ids & set(ids)


def special(words: str, **given) -> VishwamAITokenizer:
    """A byte tokenizer with these control tokens and no others."""
    backend = byte_tokenizer(())
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False, **given) for word in words.split()])
    return VishwamAITokenizer(backend)


@pytest.mark.parametrize(
    ("control", "template", "texts"),
    [
        ("<s> </s>", "{{ '<' ~ m.content ~ '>' }}{{ '</' ~ m.content ~ '>' }}", ["s", "|s", "s><s"]),
        ("[INST]", "{{ '[' ~ m.content ~ ']' }}{{ '[' ~ m.content | trim ~ ']' }}", ["INST", " INST ", "INST] [INST"]),
        ("<|end|>", "{{ '<' ~ m.content ~ '>' }}{{ '<|' ~ m.content ~ '|>' }}", ["|end|", "end", "|en"]),
        ("<|end|>", "{{ m.content.replace('<think>', '') }}", ["<|en<think>d|>", "<<think>|end|>", "<|end|<think>>"]),
        ("<|end|>", "{{ m.content.split('/no_think') | join }}", ["</no_think|end|>", "<|/no_thinkend|>"]),
        ("<|end|>", "{{ m.content | lower }}{{ m.content.casefold() }}", ["<|END|>", "<|eNd|>"]),
        ("<|end|>", "{{ m.content | reverse }}{{ m.content[::-1] }}", [">|dne|<"]),
        ("<|end|>", "{{ m.content[2:] }}{{ m.content.lstrip('x') }}", ["xx<|end|>"]),
        ("<|end|>", "{{ m.content | list | join }}{% for c in m.content %}{{ c }}{% endfor %}", ["<|end|>"]),
        ("<|end|>", "{{ m.content ~ messages[1].content }}end|>{{ messages[1].content }}", ["<|end", "<|", "<"]),
        ("END", "{{ m.content ~ 'D' }}{{ m.content | upper }}", ["EN", "END", "end"]),
        ("<|end|>", "{{ {m.content: 1} }}{{ [m.content] }}{{ {'a': [m.content]} | tojson }}", ["<|end|>", "'<|end|>'"]),
    ],
)
@pytest.mark.parametrize("role", ["user", "assistant", "tool"])
def test_what_a_template_does_with_a_text_makes_no_control_token_of_it(control, template, texts, role):
    tokenizer = special(control)
    template = "{% set m = messages[0] %}" + template
    for text in texts:
        messages = [{"role": role, "content": text}, {"role": "user", "content": "|>"}]
        ids = encode(tokenizer, messages, template)
        assert not tokenizer.special_ids & set(ids), (text, tokenizer.decode(ids))
        assert tokenizer.special_ids & set(encode(tokenizer, messages, template + control.split()[0]))


def encode(tokenizer, messages, template) -> list[int]:
    """The ids of a template that need not show the messages as they are."""
    shown = template + "{% if false %}{% endif %}"
    return encode_prompt(tokenizer, make_chat(shown, messages, ChatOptions(), {}))[0]


def test_tokens_that_take_in_spaces_and_tokens_that_a_normalizer_makes():
    for flags in ({"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}):
        tokenizer = special("<mask>", **flags)
        template = "<mask> {{ messages[0].content }} <mask>"
        ids = encode_chat(tokenizer, [{"role": "user", "content": "a <mask> b "}], chat_template=template)
        assert ids.count(tokenizer.token_to_id("<mask>")) == 2 and ids[0] == ids[-1] == tokenizer.token_to_id("<mask>")
    backend = byte_tokenizer(())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.add_special_tokens([AddedToken("<go>", special=True, normalized=True)])
    tokenizer = VishwamAITokenizer(backend)
    for text in ("<go>", "\uff1cgo\uff1e", "<GO>", "<\uff27\uff2f>", "\uff1cGO>"):
        ids = encode_chat(
            tokenizer, [{"role": "user", "content": text}], chat_template="<go>{{ messages[0].content }}<GO>"
        )
        assert ids.count(tokenizer.token_to_id("<go>")) == 2 and tokenizer.decode(ids) == "<go><go><go>"


def test_text_after_a_cut_gains_no_space():
    words = ["<unk>", "</s>", "\u2581", *"</s>abhi"]
    backend = Tokenizer(models.Unigram([(word, -1.0) for word in dict.fromkeys(words)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    backend.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    tokenizer = VishwamAITokenizer(backend)
    ids = encode_chat(
        tokenizer, [{"role": "user", "content": "a</s>b"}], chat_template="{{ messages[0].content }}</s>hi"
    )
    assert tokenizer.decode(ids) == "a</s>b</s>hi" and ids.count(tokenizer.token_to_id("</s>")) == 1


@pytest.mark.parametrize(
    "template",
    [
        "{{ m.content | title }}<|im_end|>{{ m.content }}",
        "{{ m.content | e }}<|im_end|>{{ m.content | urlencode }}{{ m.content }}",
        "{% if '<' in m.content %}{% if '|' in m.content %}{{ m.content.split('|') | last }}{% endif %}{% endif %}"
        "{{ m.content }}<|im_end|>",
        "{{ m.content | tojson }}<|im_end|>{{ m.content.index('<') }}{{ m.content.rfind('>') }}{{ m.content }}",
        "{{ m.content | list | sort | join }}{{ m.content > 'a < b' }}<|im_end|>{{ m.content }}",
        "{% if m.content in 'a | b <c> d, a < b' %}<think>{% endif %}{{ m.content }}",
        "{% if m.content | length > 3 and m.content[0] != '<' %}<|im_start|>{% endif %}{{ m.content }}",
        "{% if m.extra[1] == 'a<' %}<think>{% endif %}{{ m.type in 'int integer' }}{{ m.content }}",
    ],
)
def test_a_templates_questions_about_typed_text_have_true_answers(chatty, template):
    """Typed text with signs in it, but no control token: the prompt is that of jinja2, in its usual ids."""
    messages = [{"role": "user", "content": "a | b <c> d", "extra": {1: "a<"}, "type": "integer"}]
    template = "{% set m = messages[0] %}" + template
    ids = encode_chat(chatty, messages, chat_template=template)
    plain = ImmutableSandboxedEnvironment().from_string(template).render(messages=messages)
    if "tojson" not in template:
        assert chatty.decode(ids) == plain
    assert ids == chatty.encode(render(messages, template))


def test_questions_about_typed_control_tokens_have_true_answers_too(chatty):
    template = "{% set m = messages[0] %}{% if '<|im_end|>' in m.content %}<|im_end|>{% endif %}{{ m.content }}"
    end, messages = chatty.token_to_id("<|im_end|>"), [{"role": "user", "content": "a<|im_end|>"}]
    ids = encode_chat(chatty, messages, chat_template=template)
    assert (ids[0], ids.count(end), chatty.decode(ids)) == (end, 1, "<|im_end|>a<|im_end|>")
    ids = encode_chat(chatty, messages, chat_template=template.replace("in m", "not in m"))
    assert end not in ids and chatty.decode(ids) == "a<|im_end|>"
    counted = "{% set m = messages[0] %}{{ '<|im_end|>' * m.content.count('<|im_end|>') }}{{ m.content }}"
    assert encode_chat(chatty, messages, chat_template=counted)[0] == end


def test_typed_control_tokens_that_a_template_cuts_at_are_text(chatty):
    template = "{{ messages[0].content.split('<|im_end|>')[0] }}<|im_end|>"
    ids = encode_chat(chatty, [{"role": "user", "content": "a<|im_end|>b"}], chat_template=template)
    assert chatty.decode(ids) == "a<|im_end|>" and ids.count(chatty.token_to_id("<|im_end|>")) == 1
    ids = encode_chat(chatty, [{"role": "user", "content": "a<|b"}], chat_template=template)
    assert chatty.decode(ids) == "a<|b<|im_end|>"
    swapped = (
        "{{ messages[0].content.split('#')[-1] }}{% for part in messages[0].content.split('#') %}<|im_end|>{% endfor %}"
    )
    ids = encode_chat(chatty, [{"role": "user", "content": "x#y#<|im_end|>"}], chat_template=swapped)
    end = chatty.token_to_id("<|im_end|>")
    assert chatty.decode(ids) == "<|im_end|>" * 4 and ids.count(end) == 3 and ids[0] != end and ids[-3:] == [end] * 3


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ m.content % 'x' }}", "<%s|im_end|>"),
        ("{{ m.content.format('x') }}", "<{}|im_end|>"),
        ("{{ m.content | e }}{{ m.content | urlencode }}", "<|im_end|>"),
        (
            "{{ {'b|': 1, m.content: 2} }}{{ [m.content] }}{{ (m.content, 1) | tojson(ensure_ascii=true) }}",
            "<|im_end|>",
        ),
        ("{{ m.content.split('|') | join('|') }}{{ m.content.replace('<', '<<') }}", "<|im_end|>"),
        ("{{ m.content.partition('im')[1:] | join }}{{ m.content.index('>') }}{{ m.content[1:-1] }}", "<|im_end|>"),
        ("{{ [m.content, '<|a', '|'] | sort | join('=') }}{{ [m.content, 'z'] | max }}", "<|im_end|>"),
        ("{% for c in m.content | unique %}{{ c }}{% endfor %}", "Aa|a<A"),
        ("{{ m.content | list | unique | join }}{{ m.content.strip('<>') }}{{ m.content | title }}", "<|im_end|>"),
        (
            "{% for c in m.content.split('|') %}{{ loop.index }}{{ c }}{% endfor %}{{ m.content | length }}",
            "|i|",
        ),
        ("{{ m.extra['a-b'] }}{{ m.extra.get('a-b') }}{{ m.extra['a-b'].c }}{{ m.extra.keys() | sort }}", "<|im_end|>"),
        ("{{ messages | sort(attribute='content') | map(attribute='content') | join('.') }}", "|<"),
        ("{{ messages | groupby('content') }}{% for k, l in messages | groupby('content') %}{{ k }}{% endfor %}", "|<"),
        ("{% if m.content.find('im') == 2 %}{{ '|' * m.content.count('|') }}{% endif %}{{ m.content }}", "<|im_end|>"),
        ("{{ {'<|im_end|>': 'yes'}[m.content] }}{{ '<|im_end|>' == m.content }}{{ m.content | length }}", "<|im_end|>"),
        (
            "{% macro f(c) %}{{ c.split('|')[1] }}{{ caller() }}{% endmacro %}{% call f(m.content) %}{{ m.content }}"
            "{% endcall %}",
            "<|im_end|>",
        ),
        ("{% autoescape true %}{{ m.content }}{% endautoescape %}", "<|im_end|>"),
    ],
)
def test_the_prompt_is_jinjas_whatever_is_typed(chatty, template, text):
    """No character of it is another one's, and none of these is a control token."""
    extra = {"a-b": {"c": text}, text: "<|"}
    messages = [{"role": "user", "content": text, "extra": extra}, {"role": "tool", "content": "a<"}]
    template = "{% set m = messages[0] %}" + template
    plain = ImmutableSandboxedEnvironment()
    plain.filters["tojson"] = json.dumps if "ensure" in template else plain.filters["tojson"]
    ids = encode(chatty, messages, template)
    assert chatty.decode(ids) == plain.from_string(template).render(messages=messages)
    assert not chatty.special_ids & set(ids)


@pytest.mark.parametrize(
    ("role", "ours"), [("assistant", True), ("system", True), ("user", False), ("tool", False), ("function", False)]
)
def test_words_of_an_author_are_his_wherever_they_stand(chatty, role, ours):
    """In parts, calls and arguments, by name and by key, cut and joined."""
    template = (
        "<think>{% set m = messages[0] %}{% for part in m.content %}{{ part.text }}{{ part['text'].split('x') | join }}"
        "{% endfor %}{% set f = m.tool_calls[0].function %}{{ f.name }}{{ f['arguments'] | tojson }}"
        "{% for key, value in f.arguments.items() %}{{ key }}{{ value | trim }}{% endfor %}"
    )
    call = {"function": {"name": "<think>", "arguments": {"<think>": ' <think>"\n'}}}
    messages = [{"role": role, "content": [{"type": "text", "text": "a<think>b"}], "tool_calls": [call]}]
    ids = encode(chatty, messages, template)
    assert chatty.decode(ids).count("<think>") == 8
    assert ids.count(chatty.token_to_id("<think>")) == (8 if ours else 1)


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_the_keys_of_a_message_are_text(chatty, role):
    messages = [{"role": role, "content": "hi", "<|im_end|>": "x", "note": "y"}]
    template = (
        "{% set m = messages[0] %}{{ m | tojson }}{% for key, value in m.items() %}{{ key }}{{ value }}{% endfor %}"
        "{{ m | join }}{{ m.note }}{{ m['content'] }}"
    )
    ids = encode_chat(chatty, messages, chat_template=template)
    assert chatty.decode(ids).count("<|im_end|>") == 3 and chatty.decode(ids).endswith("noteyhi")
    assert not chatty.special_ids & set(ids)


def test_a_second_render_that_is_another_is_refused(chatty, monkeypatch):
    messages = [{"role": "user", "content": "<|im_end|>"}]
    template = "{% if '<' in messages[0].content %}{{ messages[0].content }}{% endif %}!"
    assert chatty.decode(encode(chatty, messages, template)) == "<|im_end|>!"
    monkeypatch.setattr(Marks, "run_again", lambda marks, operation: operation())
    with pytest.raises(InputError, match="cannot be followed"):
        encode(chatty, messages, template)
