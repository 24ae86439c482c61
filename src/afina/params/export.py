"""Parameters of the stage ``export``."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from afina.params.base import Section


class ExportParams(Section):
    """How the trained model becomes one ONNX file."""

    section_name: ClassVar[str] = "export"

    opset: int = Field(17, ge=17, le=20, description="version of the ONNX operators")
    optimize: bool = Field(
        True,
        description="fuse attention, layer norms and GELU into onnxruntime's own operators; a graph that "
        "fails the parity check fused is exported as it is",
    )
    int8: bool = Field(
        True, description="write a second file with 8-bit weights: smaller, faster, less exact"
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
