"""Parameters of the stage ``export``."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from afina.params.base import OnlyWith, Section


class ExportParams(Section):
    """How the trained model becomes one ONNX file."""

    section_name: ClassVar[str] = "export"
    dependent: ClassVar[tuple[OnlyWith, ...]] = (
        OnlyWith(
            ("int8_max_drop", "int8_min_agreement", "int8_texts"),
            "export.int8: true",
            lambda params: bool(params.int8),
        ),
        OnlyWith(("fp16_tolerance",), "export.fp16: true", lambda params: bool(params.fp16)),
    )

    opset: int = Field(17, ge=17, le=20, description="version of the ONNX operators")
    optimize: bool = Field(
        True,
        description="fuse attention, layer norms and GELU into onnxruntime's own operators; a graph that "
        "fails the parity check fused is exported as it is",
    )
    int8: bool = Field(
        True,
        description="write a second file with 8-bit weights, smaller and faster: the fastest of several "
        "recipes that keeps what the next two ask for on validation; none if none does",
    )
    int8_max_drop: float = Field(
        0.005, ge=0, le=1, description="most macro-F1 that int8 may lose on validation"
    )
    int8_min_agreement: float = Field(
        0.99,
        ge=0,
        le=1,
        description="least share of validation texts that int8 gives the same labels as fp32; this and the "
        "drop are judged in the runtime's own batches and in mixed ones, and the worse counts",
    )
    int8_texts: int = Field(
        1000,
        ge=1,
        description="most validation texts that recipes are tried on; of more, a sample, each class with its "
        "share",
    )
    fp16: bool = Field(
        False,
        description="write a file in half precision for GPUs, checked on a processor only; on processors it "
        "runs, slowly; see docs/deploy.md for how to open it on a GPU",
    )
    fp16_tolerance: float = Field(
        0.01,
        gt=0,
        le=0.1,
        description="largest difference between a probability of torch and of the fp16 file; beyond it there "
        "is no such file",
    )
    tolerance: float = Field(
        1e-4,
        gt=0,
        le=1e-2,
        description="largest difference between a probability of torch and of the exported file; beyond it "
        "the stage fails and the previous model stays",
    )
    token_budget: int = Field(
        2048, ge=16, description="most tokens in a batch, padding included, while the files are compared"
    )
