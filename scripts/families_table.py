"""usage: python scripts/families_table.py [--write]

Prints what works with which family of models, as Markdown, or writes it into docs/families.md.
tests/families/test_families.py builds a tiny random model of each family whose code is installed,
and holds every cell of its row to what happens.
"""

from dataclasses import dataclass

from generated_page import DOCS, GeneratedPage

WORKS = "works"
HUB = "not tried: its code is on the hub only"
COLUMNS = (
    *("Family", "`--template`", "Loads", "Rollout, transformers", "Rollout, vLLM"),
    *("Training", "SFT labels", "ask, eval", "Notes"),
)


@dataclass(frozen=True)
class Row:
    """What is known of a family; a cell holds :data:`WORKS`, or why it does not, or was not."""

    title: str
    template: str
    loads: str = WORKS
    rollout: str = WORKS
    vllm: str = WORKS
    training: str = WORKS
    labels: str = WORKS
    ask: str = WORKS
    notes: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the row as it is printed."""
        outcomes = (self.loads, self.rollout, self.vllm, self.training, self.labels, self.ask)
        return (self.title, f"`{self.template}`", *outcomes, self.notes)


def not_tried(title: str, template: str, why: str = HUB, notes: str = "") -> Row:
    """Return the row of a family of which no model could be made here."""
    return Row(title, template, why, "", "", "", "", "", notes)


_QWEN3_5 = "not tried: vLLM's CPU build lacks prefix caching for it"
_BESIDE = "no: vLLM 0.23 does not fit transformers 5.19 here"
_REFUSED = "refused: ms-swift 4.6 does not fit transformers 5.19 here"

TRIED = {
    "qwen2_vl": Row("Qwen2-VL", "qwen2_vl"),
    "qwen2_5_vl": Row("Qwen2.5-VL", "qwen2_5_vl"),
    "qwen3_vl": Row("Qwen3-VL", "qwen3_vl"),
    "qwen3_vl_moe": Row(
        "Qwen3-VL-MoE",
        "qwen3_vl",
        vllm="not tried: vLLM's CPU build stops in its experts",
        notes="vLLM takes its experts as transformers keeps them",
    ),
    "qwen3_5": Row("Qwen3.5", "qwen3_5", vllm=_QWEN3_5),
    "qwen3_5_moe": Row("Qwen3.5-MoE", "qwen3_5", vllm=_QWEN3_5),
    "qwen3_8": Row("Qwen3.8's template", "qwen3_8", vllm=_QWEN3_5),
    "internvl_hf": Row(
        "InternVL3.5 (`-HF`)",
        "internvl_hf",
        notes="a picture ends with a line break for vLLM too, as in training",
    ),
    "glm4v": Row("GLM-4.1V", "glm4v"),
    "glm4_5v": Row(
        "GLM-4.5V, GLM-4.6V", "glm4_5v", vllm="not tried: vLLM's CPU build stops while it loads"
    ),
    "gemma3": Row("Gemma 3", "gemma3_vision", vllm=_BESIDE, notes="names of SigLIP's weights"),
    "gemma4": Row(
        "Gemma 4",
        "gemma4",
        rollout="runs, see training",
        vllm="runs, see training",
        training="no: log-probabilities of ms-swift's forward pass differ from both engines'",
        notes="without returned images too; `<|channel>thought` counts as `<think>`",
    ),
    "llava_onevision": Row("LLaVA-OneVision (`-hf`)", "llava_onevision_hf", vllm=_BESIDE),
    "minicpm": Row("MiniCPM-V 4.6", "minicpmv4_6", vllm=_BESIDE),
    "muse": Row("Muse Glimmer", "muse_glimmer", vllm=_BESIDE),
    "paddle": Row(
        "PaddleOCR-VL 1.5",
        "paddle_ocr_1_5",
        rollout=_REFUSED,
        vllm=_REFUSED,
        training=_REFUSED,
        notes="the forward pass of training stops with an error of shapes",
    ),
    "hunyuan": Row(
        "HunyuanOCR",
        "hunyuan_ocr",
        rollout=_REFUSED,
        vllm=_REFUSED,
        training=_REFUSED,
        labels=_REFUSED,
        ask=_REFUSED,
        notes="its template asks the processor for a name that it has no more",
    ),
}
"""Families of ``tests/families/tiny_models.py``, by the names there."""

_TEMPLATE = "the template itself carries returned images"
_OMNI = "not tried: needs the package qwen_omni_utils"

OTHERS = (
    not_tried("Qwen3-Omni (images)", "qwen3_omni", _OMNI),
    not_tried("InternVL2 to 3.5 (not `-HF`)", "internvl3_5", notes="the `-HF` releases work"),
    not_tried("MiniCPM-V 4.5", "minicpmv4_5"),
    not_tried("Kimi-VL", "kimi_vl", notes="`THYME_THINK_TAGS` for its thoughts"),
    not_tried("LLaVA-OneVision-1.5", "llava_onevision1_5", notes=_TEMPLATE),
    not_tried("LLaVA-OneVision-2", "llava_onevision2"),
    not_tried("Keye-VL and Keye-VL-1.5", "keye_vl_1_5", notes=_TEMPLATE),
    not_tried("Ovis2, Ovis2.5", "ovis2_5"),
    not_tried("Step3-VL", "step3_vl"),
    not_tried("dots.ocr", "dots_ocr"),
    not_tried("MiMo-V2", "mimo_v2"),
)


def table() -> str:
    """Return the table, a line for each family."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    lines += [row.cells for row in (*TRIED.values(), *OTHERS)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PAGE = GeneratedPage(DOCS / "families.md", "families", table)

if __name__ == "__main__":
    PAGE.main(__doc__)
