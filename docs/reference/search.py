"""Writes the formulas in the site's search index as text, since KaTeX renders those of pages only.

python docs/reference/search.py build/site/search.json
"""

import html
import json
import re
import sys
from functools import partial
from pathlib import Path

FORMULA = re.compile(r"\\\((.*?)\\\)|\\\[(.*?)\\\]", re.DOTALL)

# Commands with arguments, the innermost first: no braces are left within theirs.
GROUP = r"\s*\{([^{}]*)\}"
STRUCTURES = {
    rf"\\(?:text|mathtt|mathcal|mathbb|operatorname){GROUP}": "{}",
    rf"\\sqrt{GROUP}": "√{}",
    rf"\\[dt]?frac{GROUP}{GROUP}": "{} / {}",
    rf"\\binom{GROUP}{GROUP}": "C({}, {})",
    rf"_{GROUP}": "_{}",
    rf"\^{GROUP}": "^{}",
}
SYMBOLS = {
    "alpha": "α",
    "delta": "δ",
    "pi": "π",
    "beta": "β",
    "gamma": "γ",
    "eta": "η",
    "theta": "θ",
    "kappa": "κ",
    "lambda": "λ",
    "mu": "μ",
    "nu": "ν",
    "sigma": "σ",
    "tau": "τ",
    "Phi": "Φ",
    "sum": "Σ",
    "infty": "∞",
    "nabla": "∇",
    "lVert": "‖",
    "rVert": "‖",
    "lfloor": "⌊",
    "rfloor": "⌋",
    "lceil": "⌈",
    "rceil": "⌉",
    "langle": "⟨",
    "rangle": "⟩",
    "ge": "≥",
    "le": "≤",
    "leftarrow": "←",
    "in": "∈",
    "sim": "~",
    "top": "T",
    "cdot": "·",
    "times": "×",
    "dots": "…",
    "min": "min",
    "max": "max",
    "cos": "cos",
    "bmod": "mod",
    "qquad": " ",
    "left": "",
    "right": "",
    ",": " ",
}


def plain(formula: str) -> str:
    r"""TeX as text: `\frac{\sigma}{\sqrt{n-f}}` becomes `σ / √(n-f)`.

    Raises:
        ValueError: There is a command without a translation here.
    """
    text = re.sub(r"\\bar\s*(\w)", "\\1\N{COMBINING MACRON}", formula)
    before = ""
    while before != text:
        before = text
        for structure, form in STRUCTURES.items():
            text = re.sub(structure, partial(expanded, form), text)
    text = re.sub(r"\\([A-Za-z]+|.)", lambda command: SYMBOLS.get(command[1], command[0]), text)
    if unknown := re.findall(r"\\\w+|[\\{}]", text):
        raise ValueError(f"{formula}: expected commands that are translated in {Path(__file__).name}, got {unknown}")
    return " ".join(text.replace("^2", "²").split())


def expanded(form: str, command: re.Match[str]) -> str:
    """A form with the arguments of a command, in parentheses where they would not hold together."""
    whole = r".*" if form == "{}" else r"(√|\\)?\w+"
    return form.format(*(text if re.fullmatch(whole, text) else f"({text})" for text in command.groups()))


def main(path: Path) -> None:
    index = json.loads(path.read_text())
    for item in index["items"]:
        item["text"] = FORMULA.sub(lambda found: html.escape(plain(html.unescape(found[1] or found[2]))), item["text"])
    path.write_text(json.dumps(index, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
