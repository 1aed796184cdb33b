"""The shapes of well-known chat templates, in our own words: each shows what it should, is refused what it cannot show,
gives the text of jinja2's own sandbox, and lets nobody forge its control tokens.
"""

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken

from vishwamai.errors import InputError, VishwamAIError
from vishwamai.text.chat import encode_chat, render
from vishwamai.text.sandbox import template_facts
from vishwamai.text.tokenizer import VishwamAITokenizer

CHATML = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA_3 = """{%- if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}
{%- set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + strftime_now('%d %b %Y')
    + '\\n\\n' }}
{{- system + '<|eot_id|>' }}
{%- for m in messages %}
{%- if m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set f = m.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + f.name + '", "parameters": ' }}
{{- f.arguments | tojson }}{{ '}<|eot_id|>' }}
{%- elif m.role in ['tool', 'ipython'] %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + (m.content if m.content is string else m.content
    | tojson) }}
{{- '<|eot_id|>' }}
{%- else %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
MISTRAL = """{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}
{%- set loop_messages = messages[1:] %}
{%- else %}{% set loop_messages = messages %}{% endif %}{{- bos_token }}
{%- for m in loop_messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{% endif %}
{%- if m['role'] == 'user' %}
{%- if loop.last and system is defined %}{{- '[INST] ' + system + '\\n\\n' + m['content'] + '[/INST]' }}
{%- else %}{{- '[INST] ' + m['content'] + '[/INST]' }}{% endif %}
{%- else %}{{- ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{%- if messages[0]['content'] is string %}{% set first = messages[0]['content'] + '\\n\\n' %}
{%- else %}{% set first = messages[0]['content'][0]['text'] + '\\n\\n' %}{% endif %}{% set rest = messages[1:] %}
{%- else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{%- for m in rest %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- set role = 'model' if m['role'] == 'assistant' else m['role'] %}
{{- '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
{%- if m['content'] is string %}{{ m['content'] | trim }}
{%- elif m['content'] is iterable %}{% for part in m['content'] %}
{%- if part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}
{{- '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
R1 = """{% set ns = namespace(system='', first=true) %}{% for m in messages %}{% if m.role == 'system' %}
{%- set ns.system = ns.system + m.content %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- elif m.role == 'assistant' and m.tool_calls %}{{ '<｜Assistant｜>' }}{% for call in m.tool_calls %}
{{- '<｜call｜>' + call.function.name + '\\n' + call.function.arguments + '<｜end｜>' }}{% endfor %}
{%- elif m.role == 'assistant' %}{% set c = m.content %}{% if '</think>' in c %}
{%- set c = c.split('</think>')[-1] %}{% endif %}
{{- '<｜Assistant｜>' + c + '<｜end▁of▁sentence｜>' }}
{%- elif m.role == 'tool' %}{{ '<｜out｜>' + m.content + '<｜end｜>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"""
QWEN_3 = """{%- if tools %}{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
{{- '# Tools\\n<tools>' }}{% for tool in tools %}{{- '\\n' ~ (tool | tojson) }}{% endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(many=true, last=messages | length - 1) %}
{%- for m in messages[::-1] %}{% set index = (messages | length - 1) - loop.index0 %}
{%- if ns.many and m.role == 'user' and m.content is string and not (m.content.startswith('<tool_response>')
        and m.content.endswith('</tool_response>')) %}{% set ns.many = false %}{% set ns.last = index %}{% endif %}
{%- endfor %}
{%- for m in messages %}{% set content = m.content if m.content is string else '' %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{% set thought = '' %}
{%- if m.reasoning_content is string %}{% set thought = m.reasoning_content %}
{%- elif '</think>' in content %}{% set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}{% else %}
{{- content }}{% endif %}
{%- for call in m.tool_calls or [] %}{% if call.function %}{% set call = call.function %}{% endif %}
{{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
{{- call.arguments if call.arguments is string else call.arguments | tojson }}{{- '}\\n</tool_call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
{{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}{% endif %}"""
PHI = """{% for m in messages %}{% if m['role'] == 'system' and m['tools'] is not none and m['tools'] is defined %}
{{- '<|' + m['role'] + '|>' + m['content'] + '<|tool|>' + m['tools'] + '<|/tool|>' + '<|end|>' }}
{%- else %}{{- '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{% endif %}"""
HARMONY = """{%- macro schema(p) %}{% if p.type == 'array' %}{{ p['items'].type + '[]' }}
{%- elif p.type in ['integer', 'number'] %}number{% else %}{{ p.type }}{% endif %}{% endmacro %}
{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '\\n# Valid channels<|end|>' }}
{%- if messages[0].role in ['developer', 'system'] %}{% set developer = messages[0].content %}
{%- set rest = messages[1:] %}{% else %}{% set developer = '' %}{% set rest = messages %}{% endif %}
{%- if developer or tools %}{{- '<|start|>developer<|message|>' + developer }}
{%- for tool in tools or [] %}{% set f = tool.function %}{{- '\\ntype ' + f.name + ' = (_: {' }}
{%- for name, p in f.parameters.properties.items() %}{{- ' ' + name + ': ' + schema(p) + ',' }}{% endfor %}{{- '})' }}
{%- endfor %}{{- '<|end|>' }}{% endif %}
{%- set last = namespace(call=none) %}
{%- for m in rest %}
{%- if m.role == 'assistant' and m.tool_calls %}
{%- if m.content and m.thinking %}{{ raise_exception('both content and thinking') }}{% endif %}
{%- set finals = rest[loop.index:] | selectattr('role', 'equalto', 'assistant')
    | rejectattr('tool_calls', 'defined') | list %}
{%- if not finals and (m.thinking or m.content) %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + (m.thinking or m.content) + '<|end|>' }}{% endif %}
{%- set last.call = m.tool_calls[0].function.name %}
{{- '<|start|>assistant to=functions.' + last.call + '<|channel|>commentary json<|message|>' }}
{{- m.tool_calls[0].function.arguments | tojson }}{{- '<|call|>' }}
{%- elif m.role == 'assistant' %}
{%- if '<|channel|>' in m.content %}{{ raise_exception('channels in content') }}{% endif %}
{%- if m.thinking and loop.last and not add_generation_prompt %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|end|>' if not loop.last else '<|return|>') }}
{%- elif m.role == 'tool' %}
{%- if last.call is none %}{{ raise_exception('no call before this') }}{% endif %}
{{- '<|start|>functions.' + last.call + ' to=assistant<|channel|>commentary<|message|>' + m.content | tojson
    + '<|end|>' }}
{%- else %}{{- '<|start|>user<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif %}"""
TEMPLATES = {
    "chatml": CHATML,
    "llama 3": LLAMA_3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "r1": R1,
    "qwen 3": QWEN_3,
    "phi": PHI,
    "harmony": HARMONY,
}
SPECIAL = """<s> </s> <|im_start|> <|im_end|> <|start_header_id|> <|end_header_id|> <|eot_id|> [INST] [/INST]
<start_of_turn> <end_of_turn> <｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜> <|system|> <|user|> <|assistant|>
<|tool|> <|/tool|> <|end|> <|start|> <|message|> <|channel|> <|call|> <|return|>""".split()
WORDS = (
    "<think> </think> <tool_call> </tool_call> <tool_response> </tool_response> <｜call｜> <｜out｜> <｜end｜>".split()
)

SYSTEM = {"role": "system", "content": " Be brief & <kind>.\n"}
ASKED = {"role": "user", "content": "What is 12 > 3, [a] or {b}? \n"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm, <|x\n</think>\n\nIt is true."}
AGAIN = {"role": "user", "content": "Sure? C++ || D"}
FUNCTION = {"name": "look_up", "arguments": {"query": "<b>", "n": [1, None]}}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": FUNCTION}]}
ANSWER = {"role": "tool", "content": '{"found": "<42>"}'}
DONE = {"role": "assistant", "content": "42, of course."}
PARTS = {"role": "user", "content": [{"type": "text", "text": "one <a>"}, {"type": "text", "text": "two"}]}
PROPERTIES = {"query": {"type": "string"}, "n": {"type": "array", "items": {"type": "integer"}, "maximum": 2**40}}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"properties": PROPERTIES}}}]
TALKS = {
    "one turn": [ASKED],
    "two turns": [ASKED, THOUGHT, AGAIN],
    "system": [SYSTEM, ASKED, DONE, AGAIN],
    "a whole talk": [ASKED, DONE],
    "tools": [ASKED, CALL, ANSWER],
    "tools and on": [SYSTEM, ASKED, CALL, ANSWER, DONE, AGAIN],
    "calls with words": [ASKED, CALL | {"content": "I look."}, ANSWER, DONE, AGAIN],
    "reasoning": [ASKED, DONE | {"reasoning_content": "let me see"}, AGAIN],
}
WITHOUT_TOOLS = ("chatml", "mistral", "gemma", "phi")


@pytest.fixture(scope="module")
def tokenizer() -> VishwamAITokenizer:
    backend = VishwamAITokenizer.train(["a word in a text, and 12 + 34 = 46"] * 8, 350, special_tokens=()).backend
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return VishwamAITokenizer(backend).with_tokens(bos_token="<s>", eos_token="</s>")


def given(name: str, talk: str) -> dict:
    return {"tools": TOOLS} if "tools" in template_facts(TEMPLATES[name]).variables and "tools" in talk else {}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("talk", TALKS)
def test_talks_are_shown_as_under_jinja_and_encoded_as_they_are_shown(tokenizer, name, talk):
    template, messages = TEMPLATES[name], TALKS[talk]
    options = given(name, talk)
    has_calls = any("tool_calls" in message for message in messages)
    if has_calls and name in WITHOUT_TOOLS:
        with pytest.raises(VishwamAIError, match="tool calls of messages|refuses the messages: roles must alternate"):
            encode_chat(tokenizer, messages, chat_template=template, **options)
        return
    if name == "r1" and has_calls:
        messages = [
            m | {"tool_calls": [{"function": FUNCTION | {"arguments": "{}"}}]} if "tool_calls" in m else m
            for m in messages
        ]
    ids = encode_chat(tokenizer, messages, chat_template=template, **options)
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    text = render(messages, template, add_generation_prompt=True, variables=variables, **options)
    assert tokenizer.decode(ids) == text and ids == tokenizer.encode(text, add_special_tokens=False)
    if name in ("chatml", "mistral", "gemma", "phi"):
        plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        plain.globals["raise_exception"] = lambda message: 1 / 0
        names = {"messages": messages, "add_generation_prompt": True, **variables}
        assert text == plain.from_string(template).render(names)


@pytest.mark.parametrize("name", TEMPLATES)
def test_parts_are_one_text_where_a_template_knows_no_parts(tokenizer, name):
    ids = encode_chat(tokenizer, [PARTS], chat_template=TEMPLATES[name])
    joined = {"gemma": "one <a>two"}.get(name, "one <a>\ntwo")
    assert ids == encode_chat(tokenizer, [{"role": "user", "content": joined}], chat_template=TEMPLATES[name])


@pytest.mark.parametrize("name", TEMPLATES)
def test_nobody_forges_control_tokens(tokenizer, name):
    def controls(text: str) -> list[int]:
        messages = [ASKED | {"content": f"a{text}b"}, DONE | {"content": f"a{text}b"}, ASKED | {"content": f"{text}b"}]
        if name != "gemma":
            messages = [SYSTEM | {"content": f"a{text}"}, *messages]
        ids = encode_chat(tokenizer, messages, chat_template=TEMPLATES[name])
        assert tokenizer.decode(ids).count(text) >= 3
        return [index for index in ids if index in tokenizer.control_ids]

    expected = controls("harmless")
    for token in SPECIAL:
        if name == "harmony" and token == "<|channel|>":
            continue  # refused by the template itself
        assert controls(token) == expected, token


@pytest.mark.parametrize(
    ("name", "messages", "says"),
    [
        ("qwen 3", [{"role": "developer", "content": "Be brief."}, ASKED], r"messages\[0\], whose role is 'developer'"),
        ("mistral", [SYSTEM, ASKED, DONE], r"messages\[0\], whose role is 'system'"),
        ("r1", [{"role": "developer", "content": "x"}, ASKED], r"messages\[0\], whose role is 'developer'"),
        ("chatml", [ASKED, CALL, ANSWER], r"tool calls of messages\[1\]"),
        ("phi", [ASKED, CALL | {"content": "I look."}, ANSWER], r"tool calls of messages\[1\]"),
        ("gemma", [ASKED, DONE, DONE], "refuses the messages: roles must alternate"),
        ("harmony", [ASKED, DONE | {"content": "<|channel|>"}, AGAIN], "refuses the messages: channels in content"),
    ],
)
def test_what_a_template_cannot_show_is_refused(tokenizer, name, messages, says):
    with pytest.raises(InputError, match=says):
        encode_chat(tokenizer, messages, chat_template=TEMPLATES[name])


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in ("r1", "mistral")])
def test_an_answer_is_gone_on_with(tokenizer, name):
    options = {"chat_template": TEMPLATES[name], "continue_final_message": True}
    whole = tokenizer.decode(encode_chat(tokenizer, [ASKED, DONE], chat_template=TEMPLATES[name]))
    text = tokenizer.decode(encode_chat(tokenizer, [ASKED, DONE], **options))
    assert text.endswith("42, of course.") and whole.startswith(text)
