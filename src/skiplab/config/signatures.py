"""What code of a user's own must look like, read from its source. Nothing is run, no torch."""

import ast
from collections.abc import Sequence

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
# What a function of each group takes, in words.
WANTED = {
    "block": "a class WideBlock(Block), from skiplab.networks.blocks import Block",
    "model": "a function of one argument, the plan, that returns named stages",
    "augment": "a function (images, generator), or a class with __call__(self, images, generator)",
    "optimizer": "a function or class (params, lr, ...) that makes a torch.optim.Optimizer, "
    "or a function that returns a rule",
}


def names_of(tree: ast.Module) -> dict[str, ast.stmt]:
    """Return what a file defines at its top level by name; names with an underscore are left out.

    A name that is defined in an `if` or `try` counts too.
    """
    found: dict[str, ast.stmt] = {}
    queue: list[ast.stmt] = list(tree.body)
    while queue:
        node = queue.pop(0)
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            queue[:0] = node.body
            for handler in getattr(node, "handlers", ()):
                queue += handler.body
            queue += getattr(node, "orelse", ())
        for name in _names(node):
            if not name.startswith("_"):
                found[name] = node
    return found


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, (ast.ImportFrom, ast.Import)):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    return []


def is_import(node: ast.stmt) -> bool:
    """Return whether a name is only imported where it is defined."""
    return isinstance(node, (ast.ImportFrom, ast.Import))


def problem_of(group: str, tree: ast.Module, name: str) -> str | None:
    """Return LINE: and what is wrong with a name of a file as code of `group`; None if nothing is.

    What cannot be read from the source, such as a name that is imported, is not wrong here.
    """
    node = names_of(tree)[name]
    if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return None
    check = {
        "block": _block_problem,
        "model": _model_problem,
        "augment": _augment_problem,
        "optimizer": _optimizer_problem,
    }[group]
    if isinstance(node, ast.AsyncFunctionDef):
        return f"{node.lineno}: {name} is asynchronous; {group}= takes {WANTED[group]}"
    if (found := check(node)) is None:
        return None
    line, what = found
    return f"{line}: {name}{what}; {group}= takes {WANTED[group]}"


Problem = tuple[int, str] | None


def _block_problem(node: ast.ClassDef | ast.FunctionDef) -> Problem:
    if isinstance(node, ast.FunctionDef):
        return node.lineno, " is a function"
    if not node.bases:
        return node.lineno, " is no subclass of Block"
    # A subclass of another block inherits what it does not define.
    inherits = [ast.unparse(base).split(".")[-1] for base in node.bases] != ["Block"]
    methods = _methods(node)
    if not inherits:
        for method in ("build", "forward"):
            if method not in methods:
                return node.lineno, f" has no method {method}"
        if "preactivation" not in _class_names(node):
            return (
                node.lineno,
                " does not say where its activation stands: preactivation = True if the block "
                "begins with it, else False",
            )
    if (build := methods.get("build")) and not takes(build, 5):
        return build.lineno, ".build does not take (self, in_channels, out_channels, stride, style)"
    if (forward := methods.get("forward")) and not takes(forward, 2):
        return forward.lineno, ".forward does not take (self, x)"
    if init := methods.get("__init__"):
        return init.lineno, " has an __init__ of its own: layers are made in build"
    return None


def _model_problem(node: ast.ClassDef | ast.FunctionDef) -> Problem:
    if isinstance(node, ast.ClassDef):
        return node.lineno, " is a class"
    return None if takes(node, 1) else (node.lineno, f"{_arguments(node)} does not take one plan")


def _augment_problem(node: ast.ClassDef | ast.FunctionDef) -> Problem:
    if isinstance(node, ast.FunctionDef):
        if takes(node, 2):
            return None
        return node.lineno, f"{_arguments(node)} does not take (images, generator)"
    methods, inherits = _methods(node), bool(node.bases)
    call, init = methods.get("__call__"), methods.get("__init__")
    if call is None and not inherits:
        return node.lineno, " has no method __call__"
    if call is not None and not takes(call, 3):
        return call.lineno, ".__call__ does not take (self, images, generator)"
    if init is not None and not takes(init, 1):
        return init.lineno, ".__init__ needs arguments: give each a default"
    return None


def _optimizer_problem(node: ast.ClassDef | ast.FunctionDef) -> Problem:
    if isinstance(node, ast.FunctionDef):
        if is_rule_maker(node.args):
            required = _required(node)
            if set(required) <= {"fused"}:
                return None
            return node.lineno, f"{_arguments(node)} needs {', '.join(required)}: give defaults"
        problem = _rate_problem(node)
    else:
        init = _methods(node).get("__init__")
        if init is None:
            return None if node.bases else (node.lineno, " is no torch.optim.Optimizer")
        if not node.bases:
            return node.lineno, " is no torch.optim.Optimizer"
        node, problem = init, _rate_problem(init)
        if [each.arg for each in node.args.args[1:2]] != ["params"]:
            return node.lineno, ".__init__ does not take params first"
    if problem is not None:
        return problem
    given = {"self", "params", "lr", "weight_decay"}
    if missing := [name for name in _required(node) if name not in given]:
        return node.lineno, f"{_arguments(node)} needs {', '.join(missing)}: give defaults"
    return None


def _rate_problem(node: ast.FunctionDef) -> Problem:
    if takes_keyword(node.args, "lr"):
        return None
    return node.lineno, f"{_arguments(node)} takes no lr, which the schedule sets"


def is_rule_maker(arguments: ast.arguments) -> bool:
    """Return whether a function makes a rule: then `params` is not its first argument."""
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args)][:1] != ["params"]


def takes_keyword(arguments: ast.arguments, name: str) -> bool:
    """Return whether a function takes an argument by its name."""
    known = [each.arg for each in (*arguments.args, *arguments.kwonlyargs)]
    return name in known or arguments.kwarg is not None


def takes(node: FunctionNode, count: int) -> bool:
    """Return whether a function can be called with `count` positional arguments and no other."""
    arguments = node.args
    if any(
        isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list
    ):
        return True
    positional = len(arguments.posonlyargs) + len(arguments.args)
    least = positional - len(arguments.defaults)
    most = float("inf") if arguments.vararg is not None else positional
    keywords_have_defaults = all(each is not None for each in arguments.kw_defaults)
    return least <= count <= most and keywords_have_defaults


def _required(node: ast.FunctionDef) -> list[str]:
    """Return the names of the arguments without a default."""
    arguments = node.args
    positional = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    named = [
        each.arg
        for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is None
    ]
    return positional[: len(positional) - len(arguments.defaults)] + named


def _arguments(node: ast.FunctionDef) -> str:
    """Return a function's arguments as they are written, (a, b=1)."""
    return f"({ast.unparse(node.args)})"


def _methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}


def _class_names(node: ast.ClassDef) -> Sequence[str]:
    return [name for each in node.body for name in _names(each)]
