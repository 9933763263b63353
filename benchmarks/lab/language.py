"""Count how the docstrings and comments of a source tree are worded; the patterns stand here.

Counted are docstrings (of modules, classes, functions and attributes) and comments. Code (indented blocks, lines of a
table or doctest, anything in back quotes), quotations, headings and directives for tools are left out.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# A clause begins with the text, after a mark, or after one of the words.
_START = r"(?:^|(?<=[.:;!?,] ))"
_BEFORE_A_CLAUSE = "and|but|by|for|from|if|of|only|since|so|than|that|to|with"
PATTERNS = {
    "somebody, nobody, everybody, anybody": re.compile(r"\b(?:some|no|every|any)body\b", re.IGNORECASE),
    '"Who …" as the subject of a sentence': re.compile(
        rf"(?:{_START}|\b(?:{_BEFORE_A_CLAUSE}) )who(?:ever)?\b(?! (?:we|it|they|you)\b)", re.IGNORECASE
    ),
    '"What is/was/they …" clauses': re.compile(r"\bwhat (?:is|are|was|were|they)\b", re.IGNORECASE),
    '"there is/are"': re.compile(r"\bthere (?:is|are)\b", re.IGNORECASE),
}
QUESTION = re.compile(r"\W*(?:what|who|how|where|when|whether)\b", re.IGNORECASE)

_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_QUOTED = re.compile(r'``.*?``|`[^`]*`|"[^"\n]{1,200}"|“[^”]*”', re.DOTALL)
_DIRECTIVE = re.compile(r"#\s*(?:noqa|type:|pragma|mypy:|ruff:|pyright:|fmt:|!|nosec|TODO\b)")


@dataclass(frozen=True, slots=True)
class Passage:
    """One docstring, or one block of comments."""

    path: Path
    line: int
    text: str
    is_docstring: bool

    @property
    def prose(self) -> str:
        """The text without code, headings and quotations."""
        return _QUOTED.sub("X", "\n".join(_sentences(self.text.splitlines())))


def passages(files: Sequence[Path]) -> Iterator[Passage]:
    """Yield every docstring and every comment of `files`."""
    for path in files:
        source = path.read_text()
        yield from _docstrings(path, source)
        yield from _comments(path, source)


def count_words(found: Sequence[Passage]) -> int:
    """Return how many words the prose of `found` has."""
    return sum(len(_WORD.findall(passage.prose)) for passage in found)


def hits(found: Sequence[Passage], pattern: re.Pattern[str]) -> Iterator[tuple[Passage, str]]:
    """Yield each match of `pattern`, with the words around it."""
    for passage in found:
        prose = " ".join(passage.prose.split())
        for match in pattern.finditer(prose):
            yield passage, prose[max(0, match.start() - 30) : match.end() + 40]


def questions(found: Sequence[Passage]) -> Iterator[Passage]:
    """Yield the docstrings that begin with a question word."""
    return (passage for passage in found if passage.is_docstring and QUESTION.match(passage.text))


def _sentences(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines of `lines` that are prose: no heading, no table, no indented code."""
    indents = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    margin = min(indents, default=0)
    for number, line in enumerate(lines):
        stripped = line.strip()
        is_indented = number > 0 and len(line) - len(line.lstrip()) >= margin + 4
        is_heading = bool(re.fullmatch(r"[-=~^#*+]{3,}", stripped)) or stripped.startswith("# ")
        if not is_indented and not is_heading and not stripped.startswith((">>>", "|", "$ ")):
            yield stripped


def _docstrings(path: Path, source: str) -> Iterator[Passage]:
    for node in ast.walk(ast.parse(source)):
        for before, statement in zip([None, *_body(node)], _body(node), strict=False):
            text = _literal(statement)
            if text is not None and (_owns_docstring(node, before) or isinstance(before, ast.Assign | ast.AnnAssign)):
                yield Passage(path, statement.lineno, text, is_docstring=True)


def _body(node: ast.AST) -> list[ast.stmt]:
    body = getattr(node, "body", [])
    return body if isinstance(body, list) else []


def _owns_docstring(node: ast.AST, before: ast.stmt | None) -> bool:
    return before is None and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)


def _literal(statement: ast.stmt) -> str | None:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def _comments(path: Path, source: str) -> Iterator[Passage]:
    """Yield each block of comments: those on consecutive lines belong together."""
    block: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _DIRECTIVE.match(token.string):
            continue

        number = token.start[0]
        if block and number != block[-1][0] + 1:
            yield _block(path, block)
            block = []

        block.append((number, token.string.lstrip("#").strip()))

    if block:
        yield _block(path, block)


def _block(path: Path, block: Sequence[tuple[int, str]]) -> Passage:
    return Passage(path, block[0][0], "\n".join(text for _, text in block), is_docstring=False)
