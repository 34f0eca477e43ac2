"""The text of an answer without the marks that models put around it.

Models that think first write their thoughts before the text, each family with its own marks. A
server without a parser for them passes thoughts and marks on; where the prompt holds the opening
mark, the answer has the closing one only.
"""

import re

_NAMES = (
    "think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|"
    "seed:think|seed:cot_budget_reflect|longcat_think"
)
_OPENINGS = (
    rf"<(?:{_NAMES})>",  # DeepSeek, Qwen, GLM, MiniMax, EXAONE, Seed, LongCat, ...
    r"\[THINK\]",  # Magistral
    "◁think▷",  # Kimi
    r"<\|START_THINKING\|>",  # Command A
    r"<\|begin_of_thought\|>",  # OpenThinker
    r"<\|inner_prefix\|>",  # Apertus
    "<unused94>",  # MedGemma
    r"<\|channel>thought\b",  # Gemma
    r"<\|channel\|>\s*(?:analysis|commentary)\b",  # gpt-oss
    r"\A\s*(?-i:analysis(?=[A-Z]))",  # gpt-oss without its special tokens
    r"\A\s*Here(?:'s| is) my thought process:",  # Granite
)
_CLOSINGS = (
    rf"</(?:{_NAMES})>",
    r"\[/THINK\]",
    "◁/think▷",
    r"<\|END_THINKING\|>",
    r"<\|end_of_thought\|>",
    r"<\|inner_suffix\|>",
    "<unused95>",
    r"<channel\|>",
    r"<\|channel\|>\s*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>",
    r"(?-i:assistantfinal)",
    r"Here(?:'s| is) my response:",
)
_MARK = re.compile(f"(?P<opening>{'|'.join(_OPENINGS)})|{'|'.join(_CLOSINGS)}", re.IGNORECASE)
_FRAME = re.compile(  # around the text itself
    r"<\|(?:START|END)_(?:RESPONSE|TEXT)\|>|<\|(?:begin|end)_of_solution\|>|<\|start\|>assistant|"
    r"</?(?:answer|final_answer|response|solution)>",
    re.IGNORECASE,
)
_SPECIAL = r"<[|｜][^<>|｜\s]+[|｜]>|</?s>|<(?:bos|eos|end_of_turn|seed:eos)>|\[/?INST\]"
_FIRST_SPECIAL = re.compile(rf"\A(?:\s|{_SPECIAL})+")
_NEXT_SPECIAL = re.compile(_SPECIAL)


def without_thoughts(answer: str) -> tuple[str, bool]:
    """Returns the text of an answer, without thoughts and special tokens, and whether the thoughts
    end.

    Text after a special token, such as the end of a turn, belongs to no answer.
    """
    text, start, thinking = "", 0, False
    for mark in _MARK.finditer(answer):
        if mark["opening"] and not thinking:
            text += answer[start : mark.start()]
        elif not mark["opening"]:
            text, start = text if thinking else "", mark.end()
        thinking = bool(mark["opening"])
    text = _FRAME.sub("", text if thinking else text + answer[start:])
    return _NEXT_SPECIAL.split(_FIRST_SPECIAL.sub("", text), maxsplit=1)[0].strip(), not thinking
