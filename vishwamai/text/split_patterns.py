r"""How byte-level tokenizers cut a text into pieces, by the names that GGUF files have for it (`tokenizer.ggml.pre`).

The patterns are those of the published tokenizers, as far as they are known, for models were trained with them.
llama.cpp knows the same names (but `vishwamai`), and follows some patterns only roughly: a class such as `\p{Lu}` is
any letter there, so that in tekken, gpt-4o and their like accented capitals and combining marks are cut elsewhere.
"""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from vishwamai.text.bpe import SPLIT_PATTERN

OWN_SPLIT = "vishwamai"  # of tokenizers that this library trains


@dataclass(frozen=True)
class Split:
    """Regular expressions (Oniguruma); each cuts what those before it left, before and after its matches.

    `ignore_merges`: a piece that is a token becomes that token, whatever the merges say. `add_bos`: a start token is
    put before a text where a file does not say whether it is.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s+(?!\S)|\s+"
_LINES = rf"\s*[\r\n]+|{_SPACES}"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+"
_GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+|{_SIGNS}|{_SPACES}"
_GPT4 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}[\r\n]*|{_LINES}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SIGNS}[\r\n]*|{_LINES}"
# A word ends where a capital follows a small letter.
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+%s|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*%s"
_GPT4O_WORD = _CASED.replace("%s", f"{_CONTRACTION}?")
_GPT4O = rf"{_GPT4O_WORD}|\p{{N}}{{1,3}}|{_SIGNS}[\r\n/]*|{_LINES}"
_KIMI_WORD = _GPT4O_WORD.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]")
_DEEPSEEK_WORD = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
_DEEPSEEK3 = rf"{_DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_LINES}"
_CHINESE_AND_KANA = "[一-龥\u3040-\u309f\u30a0-\u30ff]+"
_CHINESE_AND_KOREAN = "[一-龥\u0800-一가-\ud7ff]+"
_ASIAN = (  # Chinese, Japanese, Thai, Lao, Khmer, Burmese and Korean
    "[一-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff"
    "\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
# The letters of alphabets with capitals: Latin, Greek, Cyrillic, Armenian, Georgian and others.
_CASED_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ"
    "\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳ\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)

# What the split is called: its patterns, and "merges" where they are followed for pieces that are tokens too.
_SPLITS = {
    "gpt-2 phi-2 mpt olmo exaone4 granite-docling jais trillion gigachat mellum a.x-4.0 modern-bert jina-es jina-de "
    "jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe": Split((_GPT2,)),
    "smollm command-r starcoder refact codeshell exaone minerva-7b mellum2": Split((r"\p{N}", _GPT2)),
    "dbrx smaug-bpe chatglm-bpe": Split((_GPT4,)),
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": Split(
        (_GPT4,), ignore_merges=True, add_bos=True
    ),
    "glm4 glm5": Split((_GPT4,), ignore_merges=True),
    "minicpm5": Split((r"\p{N}{1,3}", _GPT4.replace(r"\p{N}{1,3}", r"\p{N}+")), ignore_merges=True),
    "jais-2": Split(
        (_GPT4.replace(_SPACES, "".join(rf"\s{{{2**i}}}(?!\S)|" for i in range(9, 1, -1)) + r"\s{1,2}(?!\S)|\s"),)
    ),
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 bailingmoe "
    "bailingmoe2 llada-moe": Split((_QWEN2,)),
    "qwen35": Split(
        (_QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"),)
    ),
    "ufakzeka": Split((_QWEN2.removeprefix(f"{_CONTRACTION}|"),)),
    "laguna": Split((r"[^\n]+|\n+", _QWEN2)),
    "seed-coder": Split((rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_LINES}",)),
    "exaone-moe": Split(
        (
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            rf"|{_SIGNS}[\r\n/]?|\s*[\r\n]|{_SPACES}",
        )
    ),
    "gpt-4o llama4 kanana2 talkie minimax-m2": Split((_GPT4O,)),
    "granite-embed-multi-97m": Split((_GPT4O,), ignore_merges=True),
    "tiny_aya cohere2moe": Split((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    "tekken": Split(
        (rf"{_CASED.replace('%s', '')}|\p{{N}}|{_SIGNS}[\r\n/]*|{_LINES}",), ignore_merges=True, add_bos=True
    ),
    "kimi-k2": Split((rf"\p{{Han}}+|{_KIMI_WORD}|\p{{N}}{{1,3}}|{_SIGNS}[\r\n]*|{_LINES}",)),
    "youtu": Split(
        (
            "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + _CHINESE_AND_KANA,
            rf"{_GPT4O_WORD}|\p{{N}}|{_SIGNS}[\r\n/]*|{_LINES}",
        ),
        ignore_merges=True,
    ),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": Split((r"\p{N}{1,3}", _CHINESE_AND_KANA, _DEEPSEEK3)),
    "spark2_5": Split(
        (
            r"\p{N}{1,3}",
            _CHINESE_AND_KANA,
            rf"{_DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|{_SPACES}",
            r"\p{N}",
        )
    ),
    "afmoe": Split((r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", _ASIAN, _DEEPSEEK3)),
    "deepseek-llm": Split(
        (
            r"[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            _CHINESE_AND_KOREAN,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": Split((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE_AND_KOREAN, r"\p{N}")),
    "falcon": Split((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "default": Split((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "bloom poro-chat gpt3-finnish": Split((_BLOOM,)),
    "viking": Split((_BLOOM, r"\p{N}")),
    "superbpe": Split((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "chameleon": Split(
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        add_bos=True,
    ),
    OWN_SPLIT: Split((SPLIT_PATTERN,)),  # whose numbers may carry the space before them; no name of llama.cpp's does so
}
SPLITS = {name: split for names, split in _SPLITS.items() for name in names.split()}


def make_pre_tokenizer(split: Split) -> pre_tokenizers.PreTokenizer:
    """What cuts a text so, and writes the bytes of each piece in the alphabet of byte-level vocabularies."""
    steps = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in split.patterns]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
