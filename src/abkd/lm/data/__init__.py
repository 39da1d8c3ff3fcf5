"""Instruction data: by name or path, in the published template or a chat template, and as tokens.

`load_instructions` reads the layouts that are in use; `alpaca_prompt` is the template of the published runs;
`fit_prompts` shortens long prompts without cutting their template; `tokenise` makes the rows that a trainer makes.
"""

from abkd.lm.data._alpaca import Instruction, alpaca_prompt, read_alpaca
from abkd.lm.data._fit import fit_prompts, prompt_ids
from abkd.lm.data._load import instruction_names, load_instructions
from abkd.lm.data._sets import TEST_SETS, InstructionSet
from abkd.lm.data._tokenise import tokenise

__all__ = [
    "TEST_SETS",
    "Instruction",
    "InstructionSet",
    "alpaca_prompt",
    "fit_prompts",
    "instruction_names",
    "load_instructions",
    "prompt_ids",
    "read_alpaca",
    "tokenise",
]
