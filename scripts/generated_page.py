"""Pages that hold a part which a script writes from tables of the code, or from scripts."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


@dataclass(frozen=True)
class GeneratedPage:
    """A page with a part between two marks.

    Attributes:
        path: Where it is.
        mark: The name of the marks, which are comments of Markdown.
        content: Makes the part.
    """

    path: Path
    mark: str
    content: Callable[[], str]

    def page(self, text: str) -> str:
        """Return the text of the page with the part of now.

        Raises:
            ValueError: The page has no place for it.
        """
        start, end = f"<!-- {self.mark} -->\n", f"<!-- end of {self.mark} -->\n"
        before, first, rest = text.partition(start)
        _, second, after = rest.partition(end)
        if not first or not second:
            raise ValueError(f"{self.path.name} lacks the lines {start.strip()} and {end.strip()}")
        return "".join([before, start, self.content(), end, after])

    def is_current(self) -> bool:
        """Tell whether the page holds the part of now."""
        text = self.path.read_text(encoding="utf-8")
        return self.page(text) == text

    def main(self, description: str | None) -> None:
        """Print the part, or write it into the page."""
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--write", action="store_true", help=f"write {self.path.name}")
        if parser.parse_args().write:
            text = self.page(self.path.read_text(encoding="utf-8"))
            self.path.write_text(text, encoding="utf-8")
        else:
            print(self.content(), end="")
