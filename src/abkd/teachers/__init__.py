"""What gives targets: a frozen model that runs beside the student, with or without a memory of its answers.

`LiveTeacher` runs a module without gradients and refuses one that could change. `MemoryTeacher` keeps a
teacher's logits by the content of each sample, so that a changed (augmented) sample is never given
another's answer. `LmCache` keeps a language model's answers on disk, so that training does not load it.
"""

from abkd.teachers._live import LiveTeacher, Teacher, as_teacher, fingerprint_of, known_num_classes, logits_of
from abkd.teachers._lm_cache import LmCache
from abkd.teachers._memory import MemoryTeacher

__all__ = [
    "LiveTeacher",
    "LmCache",
    "MemoryTeacher",
    "Teacher",
    "as_teacher",
    "fingerprint_of",
    "known_num_classes",
    "logits_of",
]
