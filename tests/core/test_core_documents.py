"""Links in the documents lead somewhere, and their examples run."""

import functools
import re
from pathlib import Path

import pytest

import avb
from avb.evaluation import EvaluationConfig
from avb.inference import _rounds

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    ROOT / "experiments" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(document: Path) -> set[str]:
    """The fragments by which GitHub reaches a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path) -> list[str]:
    """Links of a document that lead nowhere."""
    found = []
    for path, anchor in LINK.findall(document.read_text()):
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(f"{path}#{anchor}" if anchor else path)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    assert broken(document) == []


def test_a_broken_link_is_found(tmp_path):
    document = tmp_path / "page.md"
    document.write_text(
        "# A title, d = 8\n[a](#a-title-d--8) [b](#gone) [c](gone.md) [d](page.md)\n"
    )
    assert broken(document) == ["#gone", "gone.md"]


EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def cheap(monkeypatch, tmp_path):
    """Examples train for a moment only, and write into a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_rounds, "MAX_ROUNDS", 1)
    short = {"max_steps": 500, "starts": 2, "method": "self"}
    monkeypatch.setattr(avb, "Inference", functools.partial(avb.Inference, **short))
    rough = EvaluationConfig(
        critics=0, importance_samples=10, annealed_data=2, temperatures=10, quality_data=20
    )
    monkeypatch.setattr(avb, "evaluate", functools.partial(avb.evaluate, config=rough))
    monkeypatch.setattr(avb, "diagnose", functools.partial(avb.diagnose, steps=50))


# Where examples become too long for a test; what they show has tests of its own.
LONG = "\n## Large data\n"


@pytest.mark.parametrize("document", ["README.md", "docs/extending.md", "docs/inference.md"])
def test_examples_run(document, cheap):
    short, *_ = (ROOT / document).read_text().split(LONG)
    examples = EXAMPLE.findall(short)
    assert examples
    names: dict = {}
    for example in examples:
        shortened = re.sub(r"epochs=\d+", "epochs=1", example)
        exec(compile(shortened, document, "exec"), names)
