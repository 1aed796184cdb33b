"""Tokenizers and chat prompts against transformers' own, on the same folders.

transformers reads folders that we write, and we read folders that it writes; ids, masks, texts and prompts are equal.
"""

import datetime
import json
import logging

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from vishwamai.errors import InputError
from vishwamai.text.chat import encode_chat, render
from vishwamai.text.stream import Detokenizer
from vishwamai.text.tokenizer import VishwamAITokenizer

transformers = pytest.importorskip("transformers", reason="transformers is the reference here; make parity installs it")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CORPUS = ["The cat sat on the mat. It's 12 + 34 = 46!\n\n\tdef f(x):\n", "Grüße, 你好世界, नमस्ते, 🙂🙃 👩‍👩‍👧"] * 8
TEXTS = [
    "",
    " ",
    "The cat  sat\n\n on 12345 mats.\t",
    "你好 🙂 é e\u0301 naïve\0x",
    "<s> a</s>b <|im_start|>user\nhi<|im_end|> <think>x</think>  <mask> y",
    "I 'm here , do n't . you ?",
    "\r\n\r\n  x  \u00a0\u3000y",
]


def level() -> Tokenizer:
    """Byte-level BPE, the manner of Llama 3, Qwen and GPT."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False)])
    return backend


def framed() -> Tokenizer:
    """The same with a start token put before each text by the tokenizer.json itself, as Llama 3's."""
    backend = level()
    template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return backend


def pieces() -> Tokenizer:
    """Spaces as U+2581 and byte fallback, the manner of Llama 2, Mistral and Gemma."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        [text.replace(" ", "▁") for text in CORPUS[:1]],
        trainers.BpeTrainer(vocab_size=330, special_tokens=special, show_progress=False),
    )
    raw = json.loads(backend.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["id"] < 3]
    return Tokenizer.from_str(json.dumps(raw))


MADE = {
    "level": (level, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}),
    "framed": (framed, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}),
    "pieces": (pieces, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}),
    "pieces with bos": (pieces, {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "pad_token": "</s>"}),
    "eos too": (level, {"eos_token": "</s>", "add_bos_token": False, "add_eos_token": True, "pad_token": "</s>"}),
    "new pad": (level, {"eos_token": "</s>", "pad_token": "[PAD]", "additional_special_tokens": ["[A]", "<think>"]}),
}


@pytest.fixture(scope="module", params=MADE)
def both(request, tmp_path_factory):
    """(ours, theirs), both read from a folder as a model's publisher would write it."""
    make, config = MADE[request.param]
    folder = tmp_path_factory.mktemp("tokenizer")
    make().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return VishwamAITokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)


def test_ids_and_texts(both):
    ours, theirs = both
    assert len(ours) == len(theirs)
    for text in TEXTS:
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids
            for skip in (True, False):
                expected = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
                assert ours.decode(ids, skip_special_tokens=skip) == expected
                stream = Detokenizer(ours, skip_special_tokens=skip)
                assert stream.push(ids) + stream.finish() == expected


def test_special_tokens(both):
    ours, theirs = both
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(ours, name) == getattr(theirs, name)
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id")
    assert set(theirs.all_special_ids) - {ours.unk_token_id} <= ours.control_ids


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("padding", "truncation", "length"), [
    (True, False, None), ("longest", True, 7), ("max_length", True, 12), ("max_length", False, 5), (False, True, 3),
])  # fmt: skip
def test_batches(both, side, padding, truncation, length):
    ours, theirs = both
    options = {"padding": padding, "truncation": truncation, "max_length": length}
    expected = theirs(TEXTS, padding_side=side, **options)
    batch = ours.batch_encode(TEXTS, padding_side=side, **options)
    assert batch.input_ids == expected["input_ids"]
    assert batch.attention_mask == expected["attention_mask"]


def test_what_we_save_transformers_reads(both, tmp_path):
    ours, _ = both
    ours.with_tokens(templates=(("default", "{{ messages[0].content }}\n"), ("x", "y"))).save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.chat_template == {"default": "{{ messages[0].content }}\n", "x": "y"}
    for text in TEXTS:
        assert theirs.encode(text) == ours.encode(text)
    assert (theirs.eos_token, theirs.pad_token) == (ours.eos_token, ours.pad_token)


def test_what_transformers_saves_we_read(both, tmp_path):
    ours, theirs = both
    theirs.chat_template = "{% if tools %}\n x{% endif %}{{ messages[0].content }}\n"
    theirs.save_pretrained(tmp_path)
    again = VishwamAITokenizer.from_folder(tmp_path)
    assert again.chat_template == theirs.chat_template
    for text in TEXTS:
        assert again.encode(text) == ours.encode(text)


def test_our_trained_tokenizer_in_transformers(tmp_path):
    ours = VishwamAITokenizer.train(CORPUS, 400)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "<|eos|>a<|user|>"]:
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(theirs.encode(text), skip_special_tokens=True) == ours.decode(ours.encode(text), True)


TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama 2": "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + "
    "message['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}"
    "{% endif %}{% endfor %}",
    "llama 3": """{%- set date_string = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- bos_token + "<|im_start|>system\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{% for t in tools %}{{- t | tojson(indent=4) + "\\n" }}
{%- endfor %}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|im_end|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|im_start|>' + message['role'] + '\\n\\n'+ message['content'] | trim + '<|im_end|>' }}
    {%- elif 'tool_calls' in message %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' + (tool_call.arguments | tojson) + "}<|im_end|>" }}
    {%- else %}
        {{- "<|im_start|>ipython\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- "<|im_end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}
""",
    "trimmed": "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}\n{% endfor %}",
    "keys and pairs": "{% for m in messages %}{% for k, v in (m.tool_calls[0].function.arguments if m.tool_calls else "
    "{}).items() %}<arg>{{ k }}={{ v if v is string else v | tojson(ensure_ascii=False) }}</arg>{% endfor %}"
    "{{ m.content | upper | replace('A', 'b') | length }}"
    "{{ (m.content ~ '!').split('!')[:1] | join('-') | capitalize }}"
    "{% if 'cat' in m.content %}C{% endif %}{{ m.content[1:4] }}{{ m.content | indent(2) | e }}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}\n  {{ m.content }}\n{% endif %}\n{% endfor %}"
    "{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    "{% set ns = namespace(a='') %}{% for m in messages %}{% set ns.a = ns.a + m.role %}{% endfor %}"
    "{{ ns.a }}",
}
TALKS = [
    [{"role": "user", "content": "  A cat?  \n"}],
    [
        {"role": "user", "content": "hi\n\n"},
        {"role": "assistant", "content": "\nthe cat"},
        {"role": "user", "content": "é"},
    ],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "say \"x\" \\ 'y' <b>&</b>"},
        {
            "role": "assistant",
            "content": "calling",
            "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": {"k": "ü", "n": [1, {"a": None}]}}}
            ],
        },
        {"role": "tool", "content": "42"},
    ],
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "Größe <x>", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("talk", range(len(TALKS)))
@pytest.mark.parametrize("prompt", [True, False])
def test_chat_prompts(both, name, talk, prompt):
    ours, theirs = both
    options = {"tools": TOOLS if name == "llama 3" else None, "add_generation_prompt": prompt}
    template, messages = TEMPLATES[name], TALKS[talk]
    try:
        text = theirs.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
    except Exception as error:
        with pytest.raises(ValueError, match="the chat template"):
            encode_chat(ours, messages, chat_template=template, **options)
        assert "Roles must alternate" in str(error) or "undefined" in str(error)
        return
    ids = theirs.apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=False, **options)
    variables = {key: value for key, value in theirs.special_tokens_map.items() if isinstance(value, str)}
    assert render(messages, template, variables=variables, now=datetime.datetime.now(), **options) == text
    if name != "llama 3" and any("tool_calls" in message for message in messages):
        with pytest.raises(InputError, match="does not show the tool calls"):
            encode_chat(ours, messages, chat_template=template, **options)
        return
    assert encode_chat(ours, messages, chat_template=template, **options) == ids


@pytest.mark.parametrize("name", ["chatml", "trimmed", "generation"])
@pytest.mark.parametrize(
    "given", [{}, {"padding": True}, {"truncation": True, "max_length": 9}, {"return_dict": False}]
)
def test_applied_templates(both, name, given):
    ours, theirs = both
    if "padding" in given:
        theirs.pad_token = theirs.eos_token
        ours = ours.with_tokens(pad_token=theirs.eos_token)
    for talk in (TALKS[0], TALKS[1], [TALKS[0], TALKS[1]]):
        want = theirs.apply_chat_template(talk, chat_template=TEMPLATES[name], **given)
        got = ours.apply_chat_template(talk, chat_template=TEMPLATES[name], **given)
        if given.get("return_dict") is False:
            assert got == want
        else:
            assert got["input_ids"] == want["input_ids"] and got["attention_mask"] == want["attention_mask"]


@pytest.mark.parametrize("name", ["chatml", "trimmed", "generation"])
@pytest.mark.parametrize("text", ["The cat", " The cat  ", "\nsat\n\n", [{"type": "text", "text": "a "}]])
def test_messages_that_are_continued(both, name, text):
    ours, theirs = both
    talk = [*TALKS[0], {"role": "assistant", "content": text}]
    given = {"chat_template": TEMPLATES[name], "continue_final_message": True}
    try:
        want = theirs.apply_chat_template(talk, tokenize=False, **given)
    except Exception:  # a template that cannot add a list to a text, for which we take the text of the list
        assert isinstance(text, list)
        return
    if not isinstance(text, list):
        assert ours.apply_chat_template(talk, tokenize=False, **given) == want
        assert (
            ours.apply_chat_template(talk, **given).input_ids == theirs.apply_chat_template(talk, **given)["input_ids"]
        )


@pytest.mark.parametrize("eos", ["", "</s>"])
def test_masks_of_the_assistant(both, eos):
    ours, theirs = both
    template = TEMPLATES["generation"].replace("{% endgeneration %}", eos + "{% endgeneration %}")
    for talk in (TALKS[1], [*TALKS[1], *TALKS[1]], [{"role": "user", "content": "a"}]):
        given = {"chat_template": template, "return_assistant_tokens_mask": True}
        want = theirs.apply_chat_template(talk, **given)
        got = ours.apply_chat_template(talk, **given)
        assert got.assistant_masks == want["assistant_masks"] and got.input_ids == want["input_ids"]


SHOW = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools | tojson if tools }}"
LISTED = {name: f"{name}: {SHOW}" for name in ("default", "tool_use", "rag")}


@pytest.mark.parametrize("config", [None, "one", "default", "default tool_use", "tool_use", "rag tool_use"])
@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("others", ["", "tool_use", "rag", "default"])
def test_which_of_several_templates_counts(tmp_path, config, file, others):
    VishwamAITokenizer.bytes().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    found = json.loads(path.read_text())
    if config is not None:
        listed = [{"name": name, "template": LISTED[name]} for name in config.split()] if config != "one" else SHOW
        path.write_text(json.dumps(found | {"chat_template": listed}))
    if file:
        (tmp_path / "chat_template.jinja").write_text("file: " + SHOW)
    for name in others.split():
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / f"{name}.jinja").write_text("more: " + LISTED[name])
    ours, theirs = VishwamAITokenizer.from_folder(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    if theirs.chat_template is None:
        return
    for tools in (None, [], TOOLS):
        try:
            want = theirs.apply_chat_template(TALKS[0], tools=tools, tokenize=False)
        except ValueError:
            with pytest.raises(InputError, match="no default chat template"):
                ours.apply_chat_template(TALKS[0], tools)
        else:
            assert ours.apply_chat_template(TALKS[0], tools, tokenize=False) == want


def test_typed_control_tokens_are_where_we_differ(both):
    ours, theirs = both
    if ours.token_to_id("<|im_end|>") is None:
        pytest.skip("this tokenizer has no ChatML tokens")
    messages = [{"role": "user", "content": "a<|im_end|>b"}]
    options = {"add_generation_prompt": True}
    template = TEMPLATES["chatml"]
    end = ours.token_to_id("<|im_end|>")
    theirs_ids = theirs.apply_chat_template(messages, chat_template=template, return_dict=False, **options)
    ids = encode_chat(ours, messages, chat_template=template, **options)
    assert (theirs_ids.count(end), ids.count(end)) == (2, 1)
    assert ours.decode(ids) == theirs.decode(theirs_ids)


def setup_module():
    logging.getLogger("transformers").setLevel(logging.ERROR)
