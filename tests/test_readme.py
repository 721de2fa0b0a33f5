"""Every query in the documentation that shows a result gives that result, in psql, as it is
printed: tests/examples.py writes them anew."""

from __future__ import annotations

import json
import re

import pages
import pytest
from conftest import ROOT, cases
from examples import examples, printed
from test_extension import READERS, WRITERS

EXAMPLES = list(examples())
#: asks for 50,257 rows 24 times: half a minute
SLOW = [example for example in EXAMPLES if "patch => ARRAY[r]" in example[0]]


def test_there_are_examples():
    assert len(EXAMPLES) >= 6 and len(SLOW) == 1


@pytest.mark.parametrize(
    ("query", "result"), cases(EXAMPLES, [each for each in EXAMPLES if each not in SLOW])
)
def test_example(bundled_dsn, query, result):
    assert printed(bundled_dsn, query) == result.rstrip("\n")


def test_results_are_rounded():
    """The last digits of a float are the processor's: see extension/setup/portable."""
    assert [result for _, result in EXAMPLES if re.search(r"\d\.\d{5}", result)] == []


def test_devcontainer_types_the_readme():
    """A container that an editor makes of the checkout is set up by the page's own lines."""
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    first = pages.blocks("README.md")[0]
    typed = [container[command] for command in ("onCreateCommand", "postCreateCommand")]
    for line in " && ".join(typed).replace("sudo apt-get", "apt-get").split(" && "):
        assert line in first


SIGNATURES = re.findall(
    r"^    (gpt2_\w+)(\((?:[^()]|\n)*\)\s+RETURNS (?:TABLE\s+\((?:[^()]|\n)*?\)|[\w.\[\]]+))",
    (ROOT / "docs/reference.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        (name, signature)
        for name, signature in SIGNATURES
        # these have no types in the page, or are of the other extension
        if name not in {"gpt2_models", "gpt2_load_model"}
    ],
)
def test_signature(demo, name, signature):
    """The reference has a function's arguments, defaults and result as the server has them: a
    function that is made of what it says is the same."""
    definition = """SELECT pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)
                    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
                    WHERE p.proname = %s AND n.nspname = %s"""
    with demo.transaction(force_rollback=True):
        demo.execute("CREATE SCHEMA documented")
        demo.execute(
            f"CREATE FUNCTION documented.{name}{signature} LANGUAGE plpgsql AS 'BEGIN END'"
        )
        documented = demo.execute(definition, [name, "documented"]).fetchall()
    assert documented == demo.execute(definition, [name, "public"]).fetchall() != []


def test_every_function_has_a_signature():
    pages = "".join(
        (ROOT / "docs" / page).read_text(encoding="utf-8")
        for page in ("reference.md", "insight.md", "pictures.md")
    )
    assert set(re.findall(r"^    (gpt2_\w+)\(", pages, re.MULTILINE)) >= READERS | WRITERS
