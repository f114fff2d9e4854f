"""A target for atheris: whatever bytes a setup file holds, `load_setup` returns a setup or raises SetupError.

Coverage guides atheris to new paths through the loader. By hand:

    pip install -e '.[fuzz]'
    python tests/fuzz/fuzz_setup.py -runs=100000 [-seed=1] [-timeout=5] [CORPUS]

Without a folder CORPUS it starts from the setups of examples/ and the odd YAML of fuzz_generator.py.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["byzray", "ruamel"]):
    import fuzz_generator

    from byzray.mistakes import SetupError
    from byzray.setups import load_setup

EXAMPLES = Path(__file__).parents[2] / "examples"
PLACE = Path(tempfile.mkdtemp(prefix="byzray-fuzz-"))


def test_one_input(content: bytes) -> None:
    """One case: only SetupError may come out, with at least one mistake, each of them in words."""
    path = PLACE / "setup.yaml"
    path.write_bytes(content)
    try:
        setup = load_setup(path)
    except SetupError as error:
        if not error.mistakes or not all(error.mistakes):
            raise AssertionError("refused without a reason") from error
        return
    path.write_text(setup.yaml(), encoding="utf-8")
    if load_setup(path) != setup:
        raise AssertionError(f"reads differently once written: {setup.yaml()}")


def write_corpus(folder: Path) -> None:
    """Setups to begin with."""
    folder.mkdir()
    texts = [path.read_bytes() for path in EXAMPLES.glob("*.yaml")]
    for number, text in enumerate([*texts, *fuzz_generator.SNIPPETS]):
        if len(text) < 4096:
            (folder / str(number)).write_bytes(text)


def main() -> None:
    """Run atheris with the arguments of the command line, which are those of libFuzzer."""
    arguments = list(sys.argv)
    if not any(Path(one).is_dir() for one in arguments[1:]):
        write_corpus(PLACE / "corpus")
        arguments.append(str(PLACE / "corpus"))
    atheris.Setup(arguments, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
