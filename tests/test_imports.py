"""The architecture as a test: imports point down, and what must not be there is not there."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import gtrturbo

PACKAGE = Path(gtrturbo.__file__).parent
FLOORS = {
    "errors": 0, "settings": 0, "config": 0, "records": 0, "console": 0, "summary": 0,
    "statistics": 0, "diversity": 0, "processes": 0, "keep": 0, "hashes": 0,
    "envs": 1, "algorithms": 1, "artifacts": 1, "journal": 1, "tensors": 1, "recipe": 1, "devices": 1,
    "models": 2, "merging": 2, "lineage": 2,
    "stages": 3,
    "loop": 4, "retention": 4, "estimate": 4, "show": 4, "report": 4, "progress": 4, "history": 4,
    "compare": 4, "comparison": 4, "groups": 4,
    "cli": 5, "__main__": 5,
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
    def part(self) -> str:
        """A folder or a file at the top; show_turns.py and its like belong to show."""
        return "show" if self.parts[0].startswith("show_") else self.parts[0]

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


def part_of(target: tuple[str, ...]) -> str:
    return "show" if target[0].startswith("show_") else target[0]


def test_every_module_has_a_floor():
    assert {module.part for module in MODULES} <= FLOORS.keys() | {"__init__"}


def test_a_module_imports_from_its_own_floor_or_below():
    assert [
        module.line(line)
        for module in MODULES
        for line, target in module.inner_imports()
        if FLOORS[part_of(target)] > FLOORS.get(module.part, -1)
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
    stages = {module.parts[1] for module in MODULES if module.part == "stages"} - {"__init__"}
    assert [
        module.line(line)
        for module in MODULES
        if module.part == "stages"
        for line, target in module.inner_imports()
        if target[0] == "stages" and target[1] in stages
    ] == []


def test_algorithms_envs_and_artifacts_never_import_one_another():
    apart = {"algorithms", "envs", "artifacts"}
    assert [
        module.line(line)
        for module in MODULES
        if module.part in apart
        for line, target in module.inner_imports()
        if target[0] in apart - {module.part}
    ] == []


def test_configs_are_not_read_below_the_stages():
    # lineage answers which checkpoint a merge starts from, which is part of its config.
    below = {part for part, floor in FLOORS.items() if floor in (1, 2)} - {"lineage"}
    assert [
        module.line(line)
        for module in MODULES
        if module.part in below
        for line, target in module.inner_imports()
        if target[0] == "config"
    ] == []


def allowed_heavy(module: Module) -> set[str]:
    return {"models": HEAVY, "algorithms": {"torch"}, "merging": {"torch"}, "devices": {"torch"}, "stages": {"torch"}}.get(
        module.part, set()
    )


def test_only_models_import_transformers_and_peft_and_environments_import_no_torch():
    assert [
        module.line(line)
        for module in MODULES
        for line, name in module.imports()
        if name.split(".")[0] in HEAVY - allowed_heavy(module)
    ] == []


def test_click_and_pickle_are_never_imported():
    banned = {"click", "pickle", "dill", "joblib", "shelve", "marshal"}
    assert [module.line(line) for module in MODULES for line, name in module.imports() if name.split(".")[0] in banned] == []


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


def test_an_except_that_catches_everything_raises_again():
    assert [
        module.line(node.lineno)
        for module in MODULES
        if module.part != "cli"  # Where every error becomes an exit code.
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(isinstance(inside, ast.Raise) for inside in ast.walk(node))
    ] == []


LIGHT = ("gtrturbo.config", "gtrturbo.stages", "gtrturbo.artifacts", "gtrturbo.lineage", "gtrturbo.summary", "gtrturbo.envs.task")


def test_configs_artifacts_environments_and_the_list_of_stages_load_without_torch():
    code = f"import sys, {', '.join(LIGHT)}; print(*{HEAVY} & sys.modules.keys())"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == ""
