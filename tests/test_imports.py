"""The architecture as a test: imports point down, and what must not be there is not there."""

import ast
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import gtrturbo
from gtrturbo.stages import STAGES
from gtrturbo.store import names

PACKAGE = Path(gtrturbo.__file__).parent
FLOORS = {
    "errors": 0,
    "plugins": 1, "config": 1, "distributed": 1,
    "console": 2, "store": 2, "algorithms": 2, "tasks": 2,
    "models": 3,
    "play": 4,
    "merging": 5, "train": 5, "analysis": 5,
    "stages": 6,
    "runs": 7, "show": 7, "report": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip
HEAVY = {"torch", "transformers", "peft"}


@dataclass(frozen=True)
class Module:
    """One file of the package, parsed."""

    file: Path
    tree: ast.AST

    @property
    def parts(self) -> tuple[str, ...]:
        return self.file.relative_to(PACKAGE).with_suffix("").parts

    @property
    def room(self) -> str:
        """A folder or a file at the package's root."""
        return self.parts[0]

    def imports(self) -> list[tuple[int, str]]:
        """List what is imported anywhere, inside functions too: line number and dotted name."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                found += [(node.lineno, f"{'.' * node.level}{node.module}.{alias.name}") for alias in node.names]
        return found

    def inner_imports(self) -> list[tuple[int, tuple[str, ...]]]:
        """List imports of the package itself: line number and the names below gtrturbo."""
        own = [(line, name.split(".")) for line, name in self.imports()]
        return [(line, tuple(names[1:])) for line, names in own if names[0] == "gtrturbo" and names[1:] != ["__version__"]]

    def line(self, number: int) -> str:
        text = self.file.read_text(encoding="utf-8").splitlines()[number - 1].strip()
        return f"{self.file.relative_to(PACKAGE.parent)}:{number}: {text}"


MODULES = [Module(file, ast.parse(file.read_text(encoding="utf-8"))) for file in sorted(PACKAGE.rglob("*.py"))]


def test_every_room_has_a_floor_and_there_are_at_most_twenty():
    rooms = {module.room for module in MODULES}
    assert rooms <= FLOORS.keys() | {"__init__"}
    assert len(rooms) <= 20


def test_every_room_says_what_it_is_for():
    assert [m.file.name for m in MODULES if m.file.name == "__init__.py" and not ast.get_docstring(m.tree)] == []  # type: ignore[arg-type]


def test_a_module_imports_from_lower_floors_or_its_own_room_only():
    assert [
        module.line(line)
        for module in MODULES
        for line, target in module.inner_imports()
        if target[0] != module.room and FLOORS[target[0]] >= FLOORS.get(module.room, -1)
    ] == []


def test_no_import_is_relative():
    assert [module.line(line) for module in MODULES for line, name in module.imports() if name.startswith(".")] == []


def test_modules_do_not_import_in_a_circle():
    names = {".".join(module.parts): module for module in MODULES}
    graph = {
        name: {".".join(target[:count]) for _, target in module.inner_imports() for count in (1, 2)} & names.keys()
        for name, module in names.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_stages_never_import_one_another():
    stages = {stage.module.rpartition(".")[2] for stage in STAGES.values()}
    assert [
        module.line(line)
        for module in MODULES
        if module.room == "stages"
        for line, target in module.inner_imports()
        if target[0] == "stages" and target[1] in stages and module.parts[1] in stages
    ] == []


def test_configs_are_not_read_below_the_stages():
    names_and_kinds = [
        ("games",),
        ("choices",),
        ("renamed",),
        ("addresses",),
        ("recorded",),
        ("digits",),
    ]  # of settings, no settings
    names_and_kinds += [("chat_messages",), ("regular_files",), ("yaml_files",), ("marks",)]
    below = {"store", "algorithms", "tasks", "models", "play", "merging", "train"}
    assert [
        module.line(line)
        for module in MODULES
        if module.room in below
        for line, target in module.inner_imports()
        if target[0] == "config" and target[1:2] not in names_and_kinds
    ] == []


LIGHT_ROOMS = (
    "errors",
    "plugins",
    "console",
    "config",
    "store",
    "tasks",
    "runs",
    "show",
    "report",
    "cli",
    "__main__",
    "__init__",
)


def allowed_heavy(module: Module) -> set[str]:
    return HEAVY if module.room == "models" else set() if module.room in LIGHT_ROOMS else {"torch"}


def test_only_models_imports_transformers_and_peft_and_what_answers_at_once_imports_no_torch():
    assert [
        module.line(line)
        for module in MODULES
        for line, name in module.imports()
        if name.split(".")[0] in HEAVY - allowed_heavy(module)
    ] == []


def test_click_and_pickle_are_never_imported():
    banned = {"click", "pickle", "dill", "joblib", "shelve", "marshal"}
    assert [module.line(line) for module in MODULES for line, name in module.imports() if name.split(".")[0] in banned] == []


EXAMPLES = PACKAGE.parent / "examples"
# D1 … D42, defect 7, issue 14, #14: a list that a reader of the repository does not have.
CITED = re.compile(r"\bD\d{1,2}\b|\b(?:defect|issue)\s+#?\d+|(?<![\w&'\"])#\d{1,3}\b", re.IGNORECASE)
CARDS = re.compile(r"""\[(?:"[HSDC](?:[2-9TJQKA]|10)",? ?)+\]""")  # options of cards, as Blackjack's docstring shows them


def prose(file: Path) -> Iterator[tuple[int, str]]:
    """Yield comments and docstrings, each with its line; a docstring is a string that stands alone as a statement."""
    begins, starts = True, (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.COMMENT)
    with tokenize.open(file) as opened:
        for token in tokenize.generate_tokens(opened.readline):
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and begins and '"""' in token.string):
                yield token.start[0], token.string.removeprefix("#")
            begins = token.type in starts


def citations(file: Path) -> list[str]:
    return [f"{file.name}:{line}: {found}" for line, text in prose(file) for found in CITED.findall(CARDS.sub("", text))]


def test_prose_and_citations_are_told_from_data(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        '"""See D12. Cards: ["D6", "C9"]."""\n\nHAND = ["D6"]  # issue 14 of somewhere\nTEXT = """D7"""\n\n\n'
        'def deal():\n    """Not D8 either."""\n    return "#14", "#123456"  # see #3\n'
    )
    assert citations(file) == ["mine.py:1: D12", "mine.py:3: issue 14", "mine.py:8: D8", "mine.py:9: #3"]


def test_no_comment_or_docstring_cites_a_list_that_is_not_in_the_repository():
    files = [module.file for module in MODULES] + sorted(EXAMPLES.rglob("*.py")) + sorted(Path(__file__).parent.rglob("*.py"))
    assert EXAMPLES.is_dir()
    assert [cited for file in files if file != Path(__file__) for cited in citations(file)] == []


def test_a_class_has_a_name_of_its_own():
    classes = [node.name.lstrip("_") for module in MODULES for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    assert sorted(name for name in set(classes) if classes.count(name) > 1) == []


def constants(module: Module) -> Iterator[tuple[str, str]]:
    """Yield the names in capitals that a module sets, with what it sets them to."""
    for node in module.tree.body if isinstance(module.tree, ast.Module) else ():
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for name in (target.id for target in targets if isinstance(target, ast.Name) and target.id.isupper()):
            yield name, ast.unparse(node.value) if isinstance(node, ast.Assign | ast.AnnAssign) and node.value else ""


def test_a_constant_stands_once_in_a_room():
    places: dict[tuple[str, str], list[str]] = {}
    for module in MODULES:
        for name, value in constants(module):
            places.setdefault((module.room, name), []).append(f"{module.file.relative_to(PACKAGE)}: {name} = {value}")
    assert [place for found in places.values() if len(found) > 1 for place in found] == []


MOST_LINES = 60


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring and decorators."""
    first = function.body[0]
    said = first.end_lineno - first.lineno + 1 if ast.get_docstring(function) is not None and first.end_lineno else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - said


def test_no_function_is_longer_than_a_page():
    assert [
        f"{module.file.relative_to(PACKAGE)}: {node.name} has {code_lines(node)} lines"
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > MOST_LINES
    ] == []


FILE_NAMES = {value for name, value in vars(names).items() if name.isupper()} - {names.BASE_FOLDER, names.OPTIMIZER}


def test_the_name_of_a_file_stands_in_one_place():
    assert [
        module.line(node.lineno)
        for module in MODULES
        if module.parts not in (("store", "names"), ("config", "marks"))
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and node.value in FILE_NAMES
    ] == []


def calls(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def test_nothing_is_evaluated_unpickled_or_given_to_a_shell():
    banned = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "os.system", "os.popen", "np.load"}
    assert [module.line(line) for module in MODULES for line, name in calls(module) if name in banned] == []


def test_no_foreign_code_is_trusted():
    banned = {"trust_remote_code", "weights_only", "allow_pickle", "shell"}
    assert [
        module.line(node.value.lineno)
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.keyword) and node.arg in banned
    ] == []


# In cli every error becomes an exit code; a tracker that fails must not end a run that trains.
LAST_RESORTS = {("cli", "mistakes"), ("store", "trackers")}


def test_an_except_that_catches_everything_raises_again():
    assert [
        module.line(node.lineno)
        for module in MODULES
        if module.parts not in LAST_RESORTS
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(isinstance(inside, ast.Raise) for inside in ast.walk(node))
    ] == []


LIGHT = (
    "gtrturbo.config",
    "gtrturbo.stages",
    "gtrturbo.store.writing",
    "gtrturbo.merging.lineage",
    "gtrturbo.analysis.summary",
    "gtrturbo.tasks.task",
    "gtrturbo.tasks.texts",
    "gtrturbo.models.sizes",
)


def test_configs_artifacts_environments_and_the_list_of_stages_load_without_torch():
    code = f"import sys, {', '.join(LIGHT)}; print(*{HEAVY} & sys.modules.keys())"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == ""
