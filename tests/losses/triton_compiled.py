"""Run by test_triton.py: compile every kernel for two devices that need not be here."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from abkd.losses.triton._gradient import gradient_kernel
from abkd.losses.triton._statistics import statistics_kernel
from abkd.losses.triton._values import values_kernel


def type_of(name: str) -> str:
    if name.isupper():
        return "constexpr"
    if name in ("logits", "student", "teacher"):
        return "*bf16"
    if name == "labels":
        return "*i32"
    if name in ("rows", "classes") or name.endswith("stride"):
        return "i32"
    return "fp32" if name == "temperature" else "*fp32"


def compiled(kernel: Any, target: GPUTarget, mixture: bool) -> Any:
    numbers = {"BLOCK": 1024, "MIXTURE": mixture, "DISTILLATION": True, "CROSS_ENTROPY": True}
    names = kernel.arg_names
    source = ASTSource(
        kernel,
        {name: type_of(name) for name in names},
        {name: value for name, value in numbers.items() if name in names},
    )
    return triton.compile(source, target=target)


for target, name, binary in (
    (GPUTarget("cuda", 90, 32), "cuda sm_90", "cubin"),
    (GPUTarget("hip", "gfx942", 64), "hip gfx942", "hsaco"),
):
    for kernel in (statistics_kernel, values_kernel, gradient_kernel):
        for mixture in (False, True) if kernel is not statistics_kernel else (False,):
            result = compiled(kernel, target, mixture)
            size, double = len(result.asm[binary]), " double " in str(result.asm["llir"])
            kind = "mixture" if mixture else "alpha-beta"
            print(f"{name} {kernel.fn.__name__} {kind}: {size} bytes{'; double precision' if double else ''}")
