"""Chat templates in the manner of the published families, in our own words, and the tokens that each has.

A template here shows turns, tools, thoughts and system lines where and as its family does; instructions for tools are
cut short. `special` are the family's control tokens, `words` the added ones that are not special.
"""

from dataclasses import dataclass

from tokenizers import AddedToken

from vishwamai.text.bpe import byte_tokenizer
from vishwamai.text.tokenizer import VishwamAITokenizer


@dataclass(frozen=True)
class FamilyChat:
    """A template with the tokens that it uses; the byte tokenizer beside it gives a token to each byte of all else."""

    template: str
    special: str
    words: str = ""
    bos: str | None = None
    eos: str | None = None

    def tokenizer(self) -> VishwamAITokenizer:
        backend = byte_tokenizer(())
        backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in self.special.split()])
        backend.add_tokens([AddedToken(word, normalized=False) for word in self.words.split()])
        made = VishwamAITokenizer(backend)
        return made.with_tokens(bos_token=self.bos, eos_token=self.eos, templates=(("default", self.template),))


LLAMA_3 = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}{% set messages = messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n\\n' }}
{{- system + '<|eot_id|>' }}
{%- if tools %}{{ '<|start_header_id|>user<|end_header_id|>\\n\\n' + (tools | tojson) + '\\n\\n' }}
{{- messages[0].content | trim + '<|eot_id|>' }}{% set messages = messages[1:] %}{% endif %}
{%- for m in messages %}
{%- if 'tool_calls' in m %}
{%- if m.tool_calls | length != 1 %}
{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}
{%- set call = m.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
{{- call.arguments | tojson }}{{ '}<|eot_id|>' }}
{%- elif m.role == 'tool' %}
{{ '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + (m.content | tojson) + '<|eot_id|>' }}
{%- else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

QWEN_TOOLS = """{%- for call in m.tool_calls or [] %}{{ '\\n' if not loop.first or content }}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) }}
{{- '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}{% endif %}{% endfor %}
"""
QWEN_2 = (
    """{%- set first = messages[0].content if messages[0].role == 'system' else 'You are a helpful assistant.' %}
{{- '<|im_start|>system\\n' + first }}{% if tools %}{{ '\\n\\n<tools>' + (tools | tojson) + '</tools>' }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- for m in messages %}{% set content = m.content or '' %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' + content }}"""
    + QWEN_TOOLS
    + "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN_3 = (
    """{%- if tools or messages[0].role == 'system' %}{{ '<|im_start|>system\\n' }}
{{- messages[0].content if messages[0].role == 'system' }}
{{- '\\n\\n<tools>' + (tools | tojson) + '</tools>' if tools }}{{ '<|im_end|>\\n' }}{% endif %}
{%- set ns = namespace(seeks=true, last=messages | length - 1) %}
{%- for m in messages[::-1] %}{% set index = messages | length - 1 - loop.index0 %}
{%- if ns.seeks and m.role == 'user' and not m.content.startswith('<tool_response>') %}
{%- set ns.seeks = false %}{% set ns.last = index %}{% endif %}{% endfor %}
{%- for m in messages %}{% set content = m.content or '' %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{% set thought = m.reasoning_content or '' %}
{%- if not thought and '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}{% else %}
{{ content }}{% endif %}"""
    + QWEN_TOOLS
    + """{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{% endif %}"""
)
GEMMA_3 = """{{ bos_token }}
{%- if messages[0].role == 'system' %}{% set first = messages[0].content + '\\n\\n' %}{% set messages = messages[1:] %}
{%- else %}{% set first = '' %}{% endif %}
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (first if loop.first else '') }}
{{- m.content | trim }}{{ '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

MISTRAL_CALLS = """{%- elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}
{%- if call.id | length != 9 %}
{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}
{{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' + (', ' if not loop.last else ']' + eos_token) }}
{%- endfor %}"""
MISTRAL_03 = (
    """{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}
{% endif %}
{%- set asked = messages | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}{% for m in messages %}
{%- if m.role == 'user' %}
{%- if tools and m == asked[-1] %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
{{- '[INST] ' + (system + '\\n\\n' if loop.last and system is defined else '') + m.content + '[/INST]' }}"""
    + MISTRAL_CALLS
    + """{%- elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}
{%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS] {"content": ' + m.content + ', "call_id": "' + m.tool_call_id }}
{{- '"}[/TOOL_RESULTS]' }}{% endif %}{% endfor %}"""
)
MISTRAL_SMALL_3 = (
    """{{- bos_token }}{% for m in messages %}
{%- if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}
{%- if tools %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"""
    + MISTRAL_CALLS
    + """{%- elif m.role == 'assistant' %}{{ m.content + eos_token }}
{%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.tool_call_id + '[TOOL_CONTENT]' + m.content + '[/TOOL_RESULTS]' }}
{%- endif %}{% endfor %}"""
)
PHI_3 = """{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""
PHI_4 = """{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
SMOLLM_2 = """{% for m in messages %}{% if loop.first and m.role != 'system' %}
{{- '<|im_start|>system\\nYou are SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
SMOLLM_3 = """{%- set mode = '/no_think' if enable_thinking is defined and not enable_thinking else '/think' %}
{{- '<|im_start|>system\\n## Metadata\\n\\nReasoning Mode: ' + mode + '\\n\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n' }}{% endif %}
{{- (xml_tools | tojson) + '\\n' if xml_tools }}{{ '<|im_end|>\\n' }}
{%- for m in messages %}{% set content = m.content if m.content is string else '' %}
{%- if m.role == 'user' %}{{ '<|im_start|>user\\n' + content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{% generation %}
{%- if mode == '/think' %}{{ '<|im_start|>assistant\\n' + content.lstrip('\\n') + '<|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' + content.lstrip('\\n') + '<|im_end|>\\n' }}{% endif %}
{%- endgeneration %}
{%- elif m.role == 'tool' %}{{ '<|im_start|>user\\n' + content + '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' + ('' if mode == '/think' else '<think>\\n\\n</think>\\n') }}
{%- endif %}"""
GPT_OSS = """{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}
{%- if messages[0].role in ['system', 'developer'] %}{% set first = messages[0].content %}
{% set messages = messages[1:] %}
{%- else %}{% set first = '' %}{% endif %}
{%- if first or tools %}{{ '<|start|>developer<|message|># Instructions\\n\\n' + first }}
{{- '\\n\\n# Tools\\n\\n' + (tools | tojson) if tools }}{{ '<|end|>' }}{% endif %}
{%- set last = namespace(name=none) %}
{%- for m in messages %}
{%- if m.role == 'assistant' and 'tool_calls' in m %}
{%- set finals = messages[loop.index:] | selectattr('role', 'equalto', 'assistant')
    | rejectattr('tool_calls', 'defined') | list %}
{%- if m.thinking and not finals %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{%- set call = m.tool_calls[0].function %}{% set last.name = call.name %}
{{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}
{{- (call.arguments | tojson) + '<|call|>' }}
{%- elif m.role == 'assistant' %}
{%- if loop.last and not add_generation_prompt %}
{%- if 'thinking' in m %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}
{%- else %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{% set last.name = none %}
{% endif %}
{%- elif m.role == 'tool' %}
{%- if last.name is none %}{{ raise_exception('Message has tool role, but there was no call before') }}{% endif %}
{{- '<|start|>functions.' + last.name + ' to=assistant<|channel|>commentary<|message|>' }}
{{- m.content | tojson + '<|end|>' }}
{%- else %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""
DEEPSEEK = """{% set ns = namespace(system='', after_tool=false, first=true) %}
{% for m in messages if m.role == 'system' %}
{%- set ns.system = ns.system + m.content %}{% endfor %}{{ bos_token }}{{ ns.system }}
{%- for m in messages %}
{%- if m.role == 'user' %}{% set ns.after_tool = false %}{{ '<｜User｜>' + m.content }}
{%- elif m.role == 'assistant' and 'tool_calls' in m %}{% set ns.after_tool = false %}
{%- for call in m.tool_calls %}
{{- '<｜Assistant｜>' + (m.content or '') + '<｜tool▁calls▁begin｜>' if loop.first else '\\n' }}
{{- '<｜tool▁call▁begin｜>' + call.type + '<｜tool▁sep｜>' + call.function.name + '\\n```json\\n' }}
{{- (call.function.arguments | tojson) + '\\n```<｜tool▁call▁end｜>' }}{% endfor %}
{{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
{%- elif m.role == 'assistant' %}
{%- if ns.after_tool %}{{ '<｜tool▁outputs▁end｜>' + m.content + '<｜end▁of▁sentence｜>' }}
{%- set ns.after_tool = false %}
{%- else %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}
{%- elif m.role == 'tool' %}{{ '<｜tool▁outputs▁begin｜>' if not ns.after_tool }}{% set ns.after_tool = true %}
{{- '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}{% endif %}{% endfor %}
{%- if ns.after_tool %}{{ '<｜tool▁outputs▁end｜>' }}{% endif %}
{%- if add_generation_prompt and not ns.after_tool %}{{ '<｜Assistant｜>' + THINK }}{% endif %}"""
GRANITE_3 = """{%- if messages[0].role == 'system' %}{% set first = messages[0].content %}
{% set messages = messages[1:] %}
{%- else %}{% set first = 'Knowledge Cutoff Date: April 2024. You are Granite, developed by IBM.' %}{% endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + first + '<|end_of_text|>\\n' }}
{%- if tools %}{{ '<|start_of_role|>tools<|end_of_role|>' + (tools | tojson(indent=4)) }}
{{- '<|end_of_text|>\\n' }}{% endif %}
{%- for m in messages %}
{{- '<|start_of_role|>' + ('tool_response' if m.role == 'tool' else m.role) + '<|end_of_role|>' + (m.content or '') }}
{%- if m.tool_calls %}{{ '<|tool_call|>' + (m.tool_calls | map(attribute='function') | list | tojson) }}{% endif %}
{{- '<|end_of_text|>\\n' }}
{%- if loop.last and add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}{% endfor %}"""
OLMO_2 = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'system' %}{{ '<|system|>\\n' + m.content + '\\n' }}
{%- elif m.role == 'user' %}{{ '<|user|>\\n' + m.content + '\\n' }}
{%- elif m.role == 'assistant' %}
{{ '<|assistant|>\\n' + m.content + eos_token + ('' if loop.last else '\\n') }}{% endif %}
{%- if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"""
COMMAND_R = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'tool' %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}
{%- set who = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}[m.role] %}
{{- '<|START_OF_TURN_TOKEN|><|' + who + '_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""
COMMAND_R7B = """{{ bos_token }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># System Preamble
{%- if tools %}{{ '\\n' + (tools | tojson) }}{% endif %}
{%- if messages[0].role == 'system' %}{{ '\\n' + messages[0].content }}{% set messages = messages[1:] %}{% endif %}
{{- '<|END_OF_TURN_TOKEN|>' }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>' }}
{%- elif m.role == 'assistant' and m.tool_calls %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_ACTION|>[\\n' }}
{%- for call in m.tool_calls %}{{ '    {"tool_call_id": "' ~ loop.index0 ~ '", "tool_name": "' + call.function.name }}
{{- '", "parameters": ' + (call.function.arguments | tojson) + '}' + ('\\n' if loop.last else ',\\n') }}{% endfor %}
{{- ']<|END_ACTION|><|END_OF_TURN_TOKEN|>' }}
{%- elif m.role == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>' + m.content }}
{{- '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>' }}
{%- else %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>' + (m.content | tojson) }}
{{- '<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""
HUNYUAN = """{% for m in messages %}{% set content = m.content or '' %}
{%- if loop.first and m.role == 'system' %}{{ '<|startoftext|>' + content }}
{{- '\\n' + (tools | tojson) if tools }}{{ '<|extra_4|>' }}
{%- elif m.role == 'user' %}
{{- '<|startoftext|>' if loop.index0 != 1 or messages[0].role != 'system' }}{{ content + '<|extra_0|>' }}
{%- elif m.role == 'assistant' %}{{ content }}
{%- if m.tool_calls %}
{{ '<tool_calls>' + (m.tool_calls | map(attribute='function') | list | tojson) + '</tool_calls>' }}
{%- endif %}{{ '<|eos|>' }}
{%- elif m.role == 'tool' %}{{ '<tool_response>' + content + '</tool_response><|extra_0|>' }}{% endif %}{% endfor %}"""

CHATML = "<|endoftext|> <|im_start|> <|im_end|>"
THINK, CALLS = "<think> </think>", "<tool_call> </tool_call> <tool_response> </tool_response>"
MISTRAL = (
    "<s> </s> [INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] "
    "[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
)
DEEPSEEK_WORDS = "<｜User｜> <｜Assistant｜> <think> </think> <｜tool▁sep｜>" + "".join(
    f" <｜tool▁{what}▁{end}｜>" for what in ("calls", "call", "outputs", "output") for end in ("begin", "end")
)
DEEPSEEK_ENDS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
COHERE = "<BOS_TOKEN> " + " ".join(
    f"<|{name}|>"
    for name in (
        "START_OF_TURN_TOKEN END_OF_TURN_TOKEN SYSTEM_TOKEN USER_TOKEN CHATBOT_TOKEN START_RESPONSE END_RESPONSE "
        "START_ACTION END_ACTION START_TOOL_RESULT END_TOOL_RESULT"
    ).split()
)
FAMILIES = {
    "Llama 3": FamilyChat(
        LLAMA_3,
        "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|>",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
    ),
    "Qwen 2": FamilyChat(QWEN_2, CHATML, CALLS, eos="<|im_end|>"),
    "Qwen 3": FamilyChat(QWEN_3, CHATML, f"{THINK} {CALLS}", eos="<|im_end|>"),
    "Gemma 3": FamilyChat(GEMMA_3, "<bos> <eos> <start_of_turn> <end_of_turn>", bos="<bos>", eos="<end_of_turn>"),
    "Mistral 0.3": FamilyChat(MISTRAL_03, MISTRAL, bos="<s>", eos="</s>"),
    "Mistral Small 3": FamilyChat(MISTRAL_SMALL_3, MISTRAL, bos="<s>", eos="</s>"),
    "Phi 3": FamilyChat(
        PHI_3, "<s> <|endoftext|> <|system|> <|user|> <|assistant|> <|end|>", bos="<s>", eos="<|endoftext|>"
    ),
    "Phi 4": FamilyChat(PHI_4, f"{CHATML} <|im_sep|>", eos="<|im_end|>"),
    "SmolLM 2": FamilyChat(SMOLLM_2, CHATML, eos="<|im_end|>"),
    "SmolLM 3": FamilyChat(SMOLLM_3, CHATML, THINK, eos="<|im_end|>"),
    "GPT-OSS": FamilyChat(GPT_OSS, "<|start|> <|message|> <|channel|> <|end|> <|return|> <|call|>", eos="<|return|>"),
    "DeepSeek V3": FamilyChat(DEEPSEEK.replace("THINK", "''"), " ".join(DEEPSEEK_ENDS), DEEPSEEK_WORDS, *DEEPSEEK_ENDS),
    "DeepSeek R1": FamilyChat(
        DEEPSEEK.replace("THINK", "'<think>\\n'"), " ".join(DEEPSEEK_ENDS), DEEPSEEK_WORDS, *DEEPSEEK_ENDS
    ),
    "Granite 3": FamilyChat(
        GRANITE_3, "<|end_of_text|> <|start_of_role|> <|end_of_role|> <|tool_call|>", eos="<|end_of_text|>"
    ),
    "OLMo 2": FamilyChat(OLMO_2, "<|endoftext|> <|pad|>", bos="<|endoftext|>", eos="<|endoftext|>"),
    "Command R": FamilyChat(COMMAND_R, COHERE, bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>"),
    "Command R7B": FamilyChat(COMMAND_R7B, COHERE, bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>"),
    "Hunyuan": FamilyChat(
        HUNYUAN, "<|startoftext|> <|eos|> <|extra_0|> <|extra_4|>", "<think> </think>", eos="<|eos|>"
    ),
}
